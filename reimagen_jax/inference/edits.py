"""Edits of pictures, as requests in rows: what is drawn on what, with which neighbours, from which noise.

  image        from an image, taken `strength` of the way to noise                       image to image (SDEdit)
  inpaint      what is white in a mask, the rest is kept                                 inpainting (RePaint)
  outpaint     all around a neighbour's image, which is kept in its place in the scene   outpainting
  vary         the layout of one drawn image, with other details
  interpolate  from one neighbour to another, by their weights in the attention, from the same noise
  swap         the same noise, another entity: another prompt, other neighbours

Beside what any of them draws, `with_baselines` puts what it would be without neighbours, from the same noise.

Variations are image to image on what was drawn: it is taken `strength` of the way to noise of another number, and drawn
again. Beside sharing the steps down to that time and going on with other noise, this serves every solver (most draw no
noise to differ by), any image at hand, and x_t given the image is a draw of the forward process.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image

from reimagen_jax.checked import Count, NonNegative, Share, Strength, checked
from reimagen_jax.data import images
from reimagen_jax.errors import UserError, require
from reimagen_jax.inference.prompts import Prompt
from reimagen_jax.systems.request import Edit, Neighbour, Request
from reimagen_jax.terminal import say

Place = tuple[Share, Share]
"""Across and down: 0 is left and top, 1 right and bottom."""
BASELINE = "without neighbours"
"""How an image is called that is drawn without what it would be drawn with."""


@dataclass(frozen=True)
class Row:
    """Images of one prompt beside each other."""

    prompt: Prompt
    requests: tuple[Request, ...]
    shown: Mapping[str, np.ndarray | int] = field(repr=False)
    """Heading -> an image that is there, or the number of one that is drawn."""
    without: Mapping[int, int] = field(default_factory=dict)
    """Number of an image -> that of the same without neighbours, where it is drawn."""


@dataclass(frozen=True)
class Plan:
    """What is drawn for an edit: rows of equal length."""

    kind: str
    rows: tuple[Row, ...]
    told: Mapping[str, Any]
    """Its numbers, as JSON types."""
    edit: Edit | None = None
    """The image that all of them draw on."""
    again: float | None = None
    """Where a row's other images are drawn on its first: the strength."""
    fresh: int = 1
    """How many of a row are not drawn on its first, then: that one, and what stands beside it."""

    @property
    def requests(self) -> list[Request]:
        """Row by row."""
        return [request for row in self.rows for request in row.requests]

    def drawn(self, draw: Callable[[Sequence[Request]], list[np.ndarray]]) -> tuple[list[Request], list[np.ndarray]]:
        """The requests with the images that they draw on, and what the stages draw for them, each [N, R, R, 3]."""
        if self.again is None:
            return self.requests, draw(self.requests)
        P, fresh = len(self.rows), self.fresh
        first = draw([request for row in self.rows for request in row.requests[:fresh]])
        others = [
            replace(request, edit=Edit(image, strength=self.again))
            for row, image in zip(self.rows, first[0][::fresh], strict=True)
            for request in row.requests[fresh:]
        ]
        merged = [
            np.concatenate([each.reshape(P, -1, *each.shape[1:]) for each in both], axis=1).reshape(
                -1, *both[0].shape[1:]
            )
            for both in zip(first, draw(others), strict=True)
        ]
        each = len(others) // P
        told = [[*row.requests[:fresh], *others[p * each : (p + 1) * each]] for p, row in enumerate(self.rows)]
        return [request for row in told for request in row], merged


def image_to_image(prompts: Sequence[Prompt], image: np.ndarray, *, strength: float, num_images: int = 1) -> Plan:
    """Every prompt drawn on an image, uint8 [S, S, 3]."""
    edit = Edit(image, None, checked(strength, Strength, "strength"))
    return _on_one(prompts, "image", edit, num_images, {"before": image}, {"strength": strength})


def inpainting(
    prompts: Sequence[Prompt], image: np.ndarray, mask: np.ndarray, *, strength: float = 1.0, num_images: int = 1
) -> Plan:
    """Every prompt drawn into an image where the mask, uint8 [M, M], is white; greys take less of `strength`."""
    require(bool(mask.any()), "the mask is black: nothing would be drawn (white is drawn anew, black is kept)")
    require(bool((mask < 255).any()), "the mask is white: nothing would be kept (black is kept)")
    edit = Edit(image, mask, checked(strength, Strength, "strength"))
    shown = {"before": image, "mask": as_picture(mask)}
    return _on_one(prompts, "inpaint", edit, num_images, shown, {"strength": strength})


def outpainting(
    prompts: Sequence[Prompt],
    image: np.ndarray,
    resolutions: Sequence[int],
    *,
    scale: float = 0.5,
    at: Place = (0.5, 0.5),
    mask: np.ndarray | None = None,
    num_images: int = 1,
) -> Plan:
    """Every prompt drawn around an image, which takes `scale` of the side and is kept but where its own mask is white.

    `resolutions` are those of the stages. It lies on the grid of the first one's pixels, so that none is half its own.
    """
    scale, at = checked(scale, Strength, "scale"), checked(tuple(at), Place, "at")
    R, (S, _) = resolutions[0], image.shape[:2]
    side = round(scale * R)
    require(side > 0, f"scale {scale:g} of {R} pixels is {side}: nothing of the image would be kept")
    require(side < R or mask is not None, f"scale {scale:g} of {R} pixels is {side}: nothing would be drawn")
    fine = max(1, min(S // side, max(resolutions) // R))
    left, top = (round(share * (R - side)) * fine for share in at)
    box = (slice(top, top + side * fine), slice(left, left + side * fine))
    scene, free = np.full((R * fine, R * fine, 3), 128, np.uint8), np.full((R * fine, R * fine), 255, np.uint8)
    own = Edit(image, np.zeros((1, 1), np.uint8) if mask is None else mask)
    scene[box], free[box] = own.image_at(side * fine), own.mask_at(side * fine)
    require(bool((free < 255).any()), "the mask is white: nothing of the image would be kept (black is kept)")
    shown = {"before": scene, "mask": as_picture(free)}
    told = {"scale": scale, "at": list(at), "strength": 1.0}
    return _on_one(prompts, "outpaint", Edit(scene, free), num_images, shown, told)


def variations(prompts: Sequence[Prompt], *, strength: float, num_images: int = 3) -> Plan:
    """One image of every prompt, and `num_images` variations of it."""
    checked(num_images, Count, "num_images")
    rows = []
    for p, prompt in enumerate(prompts):
        requests = tuple(prompt.request(p * (num_images + 1) + s) for s in range(num_images + 1))
        drawn = {"image": 0} | {f"variation {s}": s for s in range(1, num_images + 1)}
        rows.append(Row(prompt, requests, _pictures(prompt.neighbours) | drawn))
    return Plan("vary", tuple(rows), {"strength": strength}, again=checked(strength, Strength, "strength"))


def interpolation(
    prompts: Sequence[Prompt], weights: Sequence[tuple[float, ...]] = (), *, frames: int = 5, num_images: int = 1
) -> Plan:
    """Every prompt by each row of weights of its neighbours; default: from the first to the second in `frames` steps.

    Neighbours that have no weight are left out.
    """
    checked(frames, Count, "frames")
    require(bool(weights) or frames > 1, "frames 1: from one neighbour to another are 2 at least")
    weights = weights or [(1.0 - i / (frames - 1), i / (frames - 1)) for i in range(frames)]
    weights = [checked(tuple(map(float, row)), tuple[NonNegative, ...], "weights") for row in weights]
    most = max(map(len, weights))
    rows = []
    for p, prompt in enumerate(prompts):
        found = len(prompt.neighbours)
        require(found >= most, f"{prompt.text!r} has {found} neighbours, of which {most} are to be weighed: give more")
        for s in range(checked(num_images, Count, "num_images")):
            requests = tuple(
                replace(prompt, neighbours=weighed(prompt.neighbours, row)).request(p * num_images + s)
                for row in weights
            )
            shown = _pictures(prompt.neighbours[:most]) | {_numbers(row): i for i, row in enumerate(weights)}
            rows.append(Row(prompt, requests, shown))
    return Plan("interpolate", tuple(rows), {"weights": [list(row) for row in weights]})


def swapping(
    prompts: Sequence[Prompt], others: Sequence[Prompt], *, strength: float = 1.0, num_images: int = 1
) -> Plan:
    """Every prompt, and another in its place with other neighbours, from the same noise.

    With a strength below 1, the other is drawn on the first's image: more of the scene stays.
    """
    checked(num_images, Count, "num_images"), checked(strength, Strength, "strength")
    rows = []
    for p, (prompt, other) in enumerate(zip(prompts, others, strict=True)):
        require(bool(other.neighbours), f"{other.text!r} has no neighbours: there is nothing to swap to")
        for s in range(num_images):
            index = p * num_images + s
            shown = _pictures(prompt.neighbours) | {"image": 0} | _pictures(other.neighbours, "other") | {"swapped": 1}
            rows.append(Row(prompt, (prompt.request(index), other.request(index)), shown))
    told = {"strength": strength, "swapped_to": [other.text for other in others]}
    return Plan("swap", tuple(rows), told, again=None if strength == 1 else strength)


def with_baselines(plan: Plan) -> Plan:
    """The plan that draws each image without neighbours, too, behind it: on the same picture, from the same noise.

    Images that would be the same without theirs have one together; what has no neighbours needs none.
    """
    columns = list(zip(*(row.requests for row in plan.rows), strict=True))
    first: dict[Any, int] = {}  # what an image is without neighbours -> the first column that is so
    of: dict[int, int] = {}  # column -> the one that it has an image without neighbours together with
    for n, column in enumerate(columns):
        if any(request.neighbours for request in column):
            on_first = plan.again is not None and n > 0
            what = on_first, tuple((request.prompt, request.negative, request.index) for request in column)
            of[n] = first.setdefault(what, n)
    place = {n: n + sum(own < n for own in first.values()) for n in range(len(columns))}

    def with_own(row: Row) -> Row:
        requests, shown = [], {}
        for n, request in enumerate(row.requests):
            requests += [request, replace(request, neighbours=())] if of.get(n) == n else [request]
        for heading, each in row.shown.items():
            shown[heading] = place[each] if isinstance(each, int) else each
            if isinstance(each, int) and of.get(each) == each:
                shown[BASELINE if len(first) == 1 else f"{heading}, {BASELINE}"] = place[each] + 1
        return replace(
            row, requests=tuple(requests), shown=shown, without={place[n]: place[m] + 1 for n, m in of.items()}
        )

    return replace(plan, rows=tuple(map(with_own, plan.rows)), fresh=plan.fresh + (0 in of))


def weighed(neighbours: Sequence[Neighbour], weights: Sequence[float]) -> tuple[Neighbour, ...]:
    """The first neighbours with these weights, the others left out."""
    return tuple(replace(hit, weight=weight) for hit, weight in zip(neighbours, weights, strict=False))


def _on_one(
    prompts: Sequence[Prompt],
    kind: str,
    edit: Edit,
    num_images: int,
    before: Mapping[str, np.ndarray],
    told: Mapping[str, Any],
) -> Plan:
    """Every prompt drawn on the one image, `num_images` times."""
    S, rows = checked(num_images, Count, "num_images"), []
    for p, prompt in enumerate(prompts):
        requests = tuple(replace(prompt.request(p * S + s), edit=edit) for s in range(S))
        after = {f"after {s + 1}" if S > 1 else "after": s for s in range(S)}
        rows.append(Row(prompt, requests, {**before, **_pictures(prompt.neighbours), **after}))
    return Plan(kind, tuple(rows), told, edit)


def _pictures(neighbours: Sequence[Neighbour], name: str = "neighbour") -> dict[str, np.ndarray | int]:
    return {f"{name} {j + 1}": hit.image for j, hit in enumerate(neighbours)}


def _numbers(weights: Sequence[float]) -> str:
    return " : ".join(f"{weight:.3g}" for weight in weights)


def as_picture(mask: np.ndarray) -> np.ndarray:
    """uint8 [M, M, 3]"""
    return np.repeat(mask[..., None], 3, axis=-1)


def read_image(path: Path, option: str = "--image") -> PIL.Image.Image:
    """An image file, whole. Raises `UserError` naming option and file."""
    try:
        return images.load(images.read(path))
    except OSError as error:
        raise UserError(f"{option} {path} cannot be read: {error.strerror}") from error
    except images.ImageError as error:
        raise UserError(f"{option} {path}: {error}") from error


def read_square(path: Path, option: str = "--image") -> np.ndarray:
    """The central square of an image file in its own size, uint8 [S, S, 3]; says so where there is more."""
    image = read_image(path, option)
    if image.width != image.height:
        size = f"{image.width} x {image.height}"
        say(f"{option} {path} has {size} pixels: its central square is what is drawn on", error=True)
    return np.asarray(images.square(image, None))


def read_mask(path: Path, image: Path, option: str = "--mask") -> np.ndarray:
    """The mask for an image file: uint8 [M, M], of whatever size, of a square or of the image's own proportions.

    White is drawn anew, black kept. What is transparent is white, as in every image here.
    Raises `UserError` naming the file when it cannot be read, is of other proportions, or all black.
    """
    mask, of = read_image(path, option), read_image(image)
    crooked = abs(mask.width * of.height - mask.height * of.width) > max(*mask.size, *of.size)
    require(
        mask.width == mask.height or not crooked,
        f"{option} {path} has {mask.width} x {mask.height} pixels, {image} {of.width} x {of.height}: the mask is to be "
        "of the image's proportions, or a square",
    )
    grey = np.asarray(images.square(mask, None).convert("L"))
    require(bool(grey.any()), f"{option} {path} is black: nothing would be drawn (white is drawn anew, black is kept)")
    return grey
