"""What is asked, as requests in rows, and how each image is called."""

from dataclasses import replace
from typing import Any

import numpy as np

from reimagen_jax.errors import require
from reimagen_jax.inference import edits
from reimagen_jax.inference.prompts import Prompt
from reimagen_jax.systems.reimagen.settings import ETAS
from reimagen_jax.systems.request import Request
from reimagen_jax.web.studio.asked import MASK, Chosen, Drawn
from reimagen_jax.web.studio.offered import Offered


def strip(offered: Offered, asked: Drawn, prompt: Prompt) -> tuple[list[Request], list[dict[str, Any]]]:
    """Rows of images from noise of their own: without neighbours, then with them, at every eta if there is one."""
    numbers, requests, columns = numbers_of(offered, asked), [], []
    beside = offered.takes_neighbours and offered.without is not None

    def add(request: Request, label: str, name: str, eta: float | None = None) -> None:
        requests.append(request)
        columns.append({"row": s, "label": label, "name": name, "eta": eta, "without": False, "beside": first})

    for s in range(asked.num_images):
        first = None
        if beside:
            add(replace(prompt.baseline(s), guidance=numbers), edits.BASELINE, "without")
            first, columns[-1]["without"] = len(columns) - 1, True
        if offered.has_eta and (prompt.neighbours or not beside):
            for eta in ETAS:
                add(prompt.request(s, eta=eta, **numbers), f"η {eta:g}", f"eta{eta:g}", eta)
        elif prompt.neighbours or not beside:
            add(prompt.request(s, **numbers), f"image {s + 1}", "image")
    return requests, columns


def plan_of(
    offered: Offered, asked: Drawn, prompt: Prompt, other: Prompt | None, image: np.ndarray | None
) -> edits.Plan:
    """An edit, drawn on `image` where it is one of an image, and without neighbours, too, where that can be."""
    many = {"num_images": asked.num_images}
    if asked.kind == "vary":
        plan = edits.variations([prompt], strength=asked.strength, **many)
    elif asked.kind == "swap":
        plan = edits.swapping([prompt], [other], **many)
    elif asked.kind == "image":
        plan = edits.image_to_image([prompt], image, strength=asked.strength, **many)
    else:
        plan = edits.inpainting([prompt], image, mask_of(asked.mask), strength=asked.strength, **many)
    plan = plan if offered.without is None else edits.with_baselines(plan)
    numbers = numbers_of(offered, asked)
    numbers |= {"eta": asked.eta} if asked.eta is not None and offered.has_eta else {}
    rows = tuple(
        replace(row, requests=tuple(replace(request, guidance=numbers) for request in row.requests))
        for row in plan.rows
    )
    return replace(plan, rows=rows)


def rows_of(plan: edits.Plan, asked: Drawn) -> tuple[list[Request], list[dict[str, Any]]]:
    """A plan's requests, and how each is called."""
    columns: list[dict[str, Any]] = []
    for number, row in enumerate(plan.rows):
        first = len(columns)
        drawn = {n: heading for heading, n in row.shown.items() if isinstance(n, int)}
        for n in range(len(row.requests)):
            own = row.without.get(n)
            told = {"row": number, "label": drawn[n], "name": f"{plan.kind}-{n}", "eta": asked.eta}
            beside = None if own is None else first + own
            columns.append(told | {"without": n in row.without.values(), "beside": beside})
    return plan.requests, columns


def numbers_of(offered: Offered, asked: Drawn) -> dict[str, float]:
    """Of guidance, that are given."""
    given = {"text_weight": asked.text_weight, "neighbour_weight": asked.neighbour_weight}
    return {n: value for n, value in given.items() if value is not None and n not in offered.lacks}


def completed(asked: Drawn) -> Chosen:
    """What is swapped to, with what it shares with the first, as `reimagen edit swap` has it."""
    chosen, to = asked.chosen, asked.to
    given = asked.to_prompt.strip() or to.query.strip() or to.own or to.pin
    require(
        bool(given),
        "there is nothing to swap to: give another prompt, what its neighbours are found by, or a picture and what it "
        "shows",
    )
    query = to.query or ("" if asked.to_prompt.strip() else chosen.query)
    return replace(to, k=chosen.k, ban=chosen.ban, query=query)


def mask_of(signs: str) -> np.ndarray:
    """uint8 [MASK, MASK]: 255 is drawn anew."""
    return np.array([255 * int(sign) for sign in signs], np.uint8).reshape(MASK, MASK)
