"""Ratings of a sweep: faithful to the entity's look, aligned with the caption; shares over eta with 95 % intervals.

A rater reads images of EntityWorld, so it applies to prompts that carry an EntityWorld record's attributes: the look
that only images tell, the scene, and which of its attributes the caption tells.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import jax
import numpy as np
from jaxtyping import Bool

from reimagen_jax.data.entityworld import (
    CATEGORIES,
    LOOK_PARAMETERS,
    SCENE_PARAMETERS,
    render_batch,
    sample_looks,
    sample_scenes,
)
from reimagen_jax.evaluation.statistics import Interval, mean_ci
from reimagen_jax.evaluation.svg import Curve
from reimagen_jax.evaluation.sweeps import Sweep
from reimagen_jax.inference.prompts import Prompt

VERDICTS = ("faithful", "aligned")


class Rater(Protocol):
    """What `judge` needs of `evaluation.rater.Rater`."""

    def rate(self, images: np.ndarray, looks: np.ndarray, scenes: Mapping[str, np.ndarray], tells: np.ndarray) -> Any:
        """Bool arrays for images uint8 [N, R, R, 3]: faithful [N], aligned [N], look_right [N, 1 + P], scene_right."""
        ...


@dataclass(frozen=True)
class Truth:
    """What an image has to show."""

    look: np.ndarray
    """int32 [1 + P]"""
    scene: Mapping[str, int]
    tells: np.ndarray
    """bool [4]: the attributes of the scene that the caption tells."""


@dataclass(frozen=True)
class Ratings:
    """Verdicts on every image of a sweep, and the curves that they make."""

    curves: tuple[Curve, ...]
    """In the order of `VERDICTS`."""
    verdict_VPSC: Bool[np.ndarray, "v p s c"]
    applies_P: Bool[np.ndarray, " p"]
    note: str
    """How to read the curves."""


def truth(attributes: Mapping[str, Any]) -> Truth | None:
    """What a record's attributes say that its image shows; None unless they are those of EntityWorld."""
    try:
        look = [int(value) for value in attributes["look"]]
        scene = {p.name: p.values.index(attributes["scene"][p.name]) for p in SCENE_PARAMETERS}
        tells = [p.name in attributes["tells"] for p in SCENE_PARAMETERS]
        parameters = LOOK_PARAMETERS[CATEGORIES[look[0]]]
    except (KeyError, TypeError, ValueError, IndexError):
        return None
    inside = all(0 <= value < len(p.values) for value, p in zip(look[1:], parameters, strict=False))
    if len(look) != 1 + len(parameters) or not inside:
        return None
    return Truth(np.asarray(look, np.int32), scene, np.asarray(tells))


def why_unrated(prompts: Sequence[Prompt]) -> str:
    """A sentence that says why no curves can be drawn; empty where they can."""
    if any(truth(prompt.attributes) for prompt in prompts):
        return ""
    return (
        "There are no curves: faithfulness and alignment are read off images of EntityWorld, by a rater that has to be "
        "told what the image should show, and these prompts carry no EntityWorld look and scene."
    )


def judge(images: np.ndarray, truths: Sequence[Truth], rater: Rater) -> Any:
    """The rater's `Ratings` of images uint8 [N, R, R, 3], given one truth for each."""
    looks = np.stack([known.look for known in truths])
    scenes = {p.name: np.array([known.scene[p.name] for known in truths], np.int32) for p in SCENE_PARAMETERS}
    return rater.rate(images, looks, scenes, np.stack([known.tells for known in truths]))


def verdicts(rated: Any) -> Bool[np.ndarray, "v n"]:
    """The verdicts of a rater, in the order of `VERDICTS`."""
    return np.stack([np.asarray(getattr(rated, name), bool) for name in VERDICTS])


@dataclass(frozen=True)
class Ceiling:
    """What a rater says of true images: the most that a model can reach in its eyes."""

    shares: tuple[Interval, ...]
    """In the order of `VERDICTS`."""
    accuracy: float
    """Share of single parameters, of looks and scenes, that it reads right."""
    images: int


def ceiling(rater: Rater, resolution: int, num_images: int = 512, seed: int = 1) -> Ceiling:
    """Rates fresh renders, of looks and scenes drawn independently."""
    key_looks, key_scenes = jax.random.split(jax.random.key(seed))
    looks, scenes = sample_looks(key_looks, num_images), sample_scenes(key_scenes, num_images)
    images = np.round(render_batch(looks, scenes, resolution) * 255.0).astype(np.uint8)
    named = {p.name: np.asarray(getattr(scenes, p.name)) for p in SCENE_PARAMETERS}
    rated = rater.rate(images, np.asarray(looks), named, np.ones((num_images, len(SCENE_PARAMETERS)), bool))
    right = np.concatenate([np.ravel(rated.look_right), np.ravel(rated.scene_right)])
    return Ceiling(tuple(map(mean_ci, verdicts(rated))), float(right.mean()), num_images)


def rate(sweep: Sweep, rater: Rater, most: Ceiling) -> Ratings:
    """Rates every image of those prompts that a rater can judge: at least one of them."""
    truths = [truth(prompt.attributes) for prompt in sweep.prompts]
    applies_P = np.array([known is not None for known in truths])
    image_QSCHWC = sweep.image_PSCHWC[applies_P]
    shape_QSC, shape_HWC = image_QSCHWC.shape[:3], image_QSCHWC.shape[3:]
    repeated = [known for known in truths if known is not None for _ in range(shape_QSC[1] * shape_QSC[2])]
    verdict_VN = verdicts(judge(image_QSCHWC.reshape(-1, *shape_HWC), repeated, rater))
    verdict_VPSC = np.zeros((len(VERDICTS), *sweep.image_PSCHWC.shape[:3]), bool)
    verdict_VPSC[:, applies_P] = verdict_VN.reshape(-1, *shape_QSC)
    curves = tuple(
        _curve(name, verdict_PSC[applies_P], share.mean)
        for name, verdict_PSC, share in zip(VERDICTS, verdict_VPSC, most.shares, strict=True)
    )
    return Ratings(curves, verdict_VPSC, applies_P, _note(sweep, int(applies_P.sum()), most))


def _curve(name: str, verdict_PSC: np.ndarray, ceiling: float | None) -> Curve:
    # Prompts are drawn at random, the images of one belong together: `mean_ci` knows of rows.
    baseline, *points = (mean_ci(verdict_PSC[:, :, c]) for c in range(verdict_PSC.shape[2]))
    return Curve(name, tuple(points), baseline, ceiling)


def _note(sweep: Sweep, rated: int, most: Ceiling) -> str:
    each = "one image" if sweep.num_seeds == 1 else f"{sweep.num_seeds} images"
    left_out = len(sweep.prompts) - rated
    return (
        "Faithful: every parameter of the entity's look, which only its images tell, is right. Aligned: everything of "
        f"the scene that the caption tells is right. Each point: {rated} prompts, {each} of each; bands and bars are "
        f"95 % intervals. The rater reads {most.accuracy:.1%} of the single parameters of {most.images} true images "
        "right; the dotted lines are how many of those it calls faithful and aligned."
        + (f" {left_out} prompts without EntityWorld attributes are not rated." if left_out else "")
    )
