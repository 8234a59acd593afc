"""Where images come from: models, settings, neighbours, libraries; for reports and for drawing again.

Whoever draws pictures for people writes each by `origins` and `origin.save_image`.
"""

import dataclasses
import json
import math
import platform
import re
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import jax
import numpy as np

from reimagen_jax import randomness, runtime
from reimagen_jax.config import to_dict
from reimagen_jax.data.parallel import available_cores
from reimagen_jax.diffusion.sampler import image_keys
from reimagen_jax.diffusion.settings import DrawingConfig, SamplerConfig
from reimagen_jax.inference.model import SHIPPED, SHIPPED_MODEL, Model
from reimagen_jax.inference.origin import (
    FORMAT,
    ModelOrigin,
    NeighbourOrigin,
    Origin,
    StageOrigin,
    StartOrigin,
    pixels_sha256,
)
from reimagen_jax.inference.pipeline import Pipeline, Stage
from reimagen_jax.systems.request import Neighbour, Request

LIBRARIES = ("jax", "jaxlib", "flax", "numpy", "pillow")


RIGHTS = re.compile(
    r"(^|[^a-z])(licen[cs]es?|rights|copyright|authors?|creator|artist|photographer|credits?|attribution|ur[il])([^a-z]|$)"
)
"""Of the names of attributes that tell whose a picture is."""
LONGEST = 2000
"""Characters that are kept of such an attribute."""


@cache
def _libraries() -> dict[str, str]:
    return runtime.versions(LIBRARIES)


def versions() -> dict[str, str]:
    """What the program ran on, and which commit of it where it runs out of a checkout."""
    commit = {} if (found := runtime.commit()) is None else {"commit": found}
    device = f"{jax.device_count()} x {jax.devices()[0].device_kind}"
    return {**_libraries(), **commit, "system": platform.platform(), "device": device, "hardware": hardware()}


@cache
def device_kind() -> str:
    """What drew: images of one seed are the same, bit for bit, on devices of one kind."""
    kind = jax.devices()[0].device_kind
    return f"cpu ({_processor()})" if kind == "cpu" else kind


def hardware() -> str:
    """What computed, as whoever reads figures wants to know it."""
    if jax.default_backend() == "cpu":
        return f"{available_cores()} CPU cores, {_processor()}"
    return f"{jax.device_count()} x {device_kind()}"


def _processor() -> str:
    """The one name that Linux gives a processor; two of them may round differently."""
    try:
        names = re.findall(r"^model name\s*:\s*(.+)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    except OSError:
        names = []
    return names[0] if names else platform.machine()


def origins(
    models: Sequence[Model],
    pipeline: Pipeline,
    requests: Sequence[Request],
    images: Sequence[np.ndarray],
    *,
    made_by: str,
    command: str,
    records: Sequence[str] = (),
    start: str = "",
    paths: bool = True,
    more: Mapping[str, Any] | None = None,
) -> list[Origin]:
    """Where the images of requests come from, those of the last of these stages: `models` and the pipeline's first.

    `records` are the keys of the records that the prompts are captions of, `start` is the file of the picture that the
    first stage began with, `more` what else this command knows. Without `paths`, no folder or file is told.
    """
    stages, side = list(zip(models, pipeline.stages, strict=False)), models[0].config.system.resolution
    told = [
        _stage_origins(model, stage, pipeline.seed, requests, n == 0, paths) for n, (model, stage) in enumerate(stages)
    ]
    return [
        Origin(
            format=FORMAT,
            made_by=made_by,
            prompt=request.prompt,
            negative=request.negative,
            record=records[i] if records else "",
            seed=pipeline.seed,
            index=request.index,
            neighbours=tuple(_neighbour_origin(hit, side, paths) for hit in request.neighbours),
            start=None if request.start is None else StartOrigin(pixels_sha256(request.start), start if paths else ""),
            stages=tuple(stage[i] for stage in told),
            pixels_sha256=pixels_sha256(images[i]),
            device=device_kind(),
            versions=_libraries() | {"system": f"{platform.system()} {platform.machine()}"},
            command=command,
            more={
                **(more or {}),
                **({} if request.edit is None else {"strength": request.edit.strength}),
                **request.told,
            },
        )
        for i, request in enumerate(requests)
    ]


def _stage_origins(
    model: Model, stage: Stage, seed: int, requests: Sequence[Request], first: bool, paths: bool
) -> list[StageOrigin]:
    """How a stage has drawn each of the requests, whose own numbers are for the first one."""
    asked = [
        stage.feed.limited(each if first else dataclasses.replace(each, guidance={}), stage.settings)
        for each in requests
    ]
    numbers, plan_BT = [stage.feed.numbers(request, stage.settings) for request in asked], None
    with randomness.same_numbers():
        if hasattr(stage.system, "plan"):
            keys_B = image_keys(seed, [request.index for request in asked])
            eta_B = np.asarray([each["eta"] for each in numbers], np.float32)
            plan_BT = stage.system.plan(keys_B, eta_B, stage.settings)
            plan_BT = None if plan_BT is None else np.asarray(plan_BT)
        times = tuple(float(str(t)) for t in np.asarray(stage.system.visited(stage.settings)))
    folder = SHIPPED if model.path == SHIPPED_MODEL else str(model.path) if paths else ""
    distilled = getattr(model.config.system, "distilled", None)
    teacher = "" if distilled is None else f"{distilled.teacher} {distilled.sha256}"
    about = ModelOrigin(model.config.name, folder, model.step, model.digest, teacher)
    steps = [None if plan_BT is None else tuple(np.flatnonzero(plan_BT[i]).tolist()) for i in range(len(asked))]
    settings = json.loads(json.dumps(dataclasses.asdict(stage.settings)))
    return [StageOrigin(about, settings, own, times, steps[i], stage.batch_size) for i, own in enumerate(numbers)]


def _neighbour_origin(hit: Neighbour, side: int, paths: bool) -> NeighbourOrigin:
    score = None if math.isnan(hit.score) else float(hit.score)
    place = hit.place if paths else ""
    pixels = pixels_sha256(hit.at(side))
    return NeighbourOrigin(hit.key, hit.text, score, pixels, hit.source, hit.base, place, rights(hit), hit.weight)


def rights(hit: Neighbour) -> dict[str, str]:
    """What the source of a neighbour tells of its licence and author, as it tells it."""
    named = {name: value for name, value in hit.attributes.items() if RIGHTS.search(name.lower())}
    return {name: value[:LONGEST] for name, value in named.items() if isinstance(value, str) and value.strip()}


def stage_facts(model: Model, stage: Stage) -> dict[str, Any]:
    """A model, the settings that it drew with, and its experiment, as JSON types."""
    return {
        "model": model.facts(),
        "sampler": dataclasses.asdict(stage.settings),
        "experiment": to_dict(model.config),
    }


def neighbours_as_json(neighbours: Sequence[Neighbour]) -> list[dict[str, Any]]:
    """What identifies the neighbours; the score is None where a person chose them."""
    return [
        {
            "key": hit.key,
            "text": hit.text,
            "score": None if math.isnan(hit.score) else round(hit.score, 4),
            "pixels_sha256": pixels_sha256(hit.image),
            **({} if hit.weight == 1 else {"weight": hit.weight}),
        }
        | ({"rights": told} if (told := rights(hit)) else {})
        for hit in neighbours
    ]


def sampler_facts(settings: DrawingConfig, seed: int, num_images: int) -> dict[str, str]:
    """How it was drawn, in words."""
    weights = [name for name in ("text_weight", "neighbour_weight") if hasattr(settings, name)]
    diffusion = isinstance(settings, SamplerConfig)
    return {
        **({"solver": settings.solver, "steps": str(settings.num_steps)} if diffusion else {}),
        **{name.replace("_", " "): f"{getattr(settings, name):g}" for name in weights},
        **settings.told(),
        **({"thresholding": settings.thresholding} if diffusion else {}),
        "seed": str(seed),
        "images per prompt and column": str(num_images),
    }
