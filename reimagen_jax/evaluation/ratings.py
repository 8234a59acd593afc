"""Ratings of a sweep: faithful to the entity's look, aligned with the caption; shares over eta with 95 % intervals.

A rater reads images of EntityWorld, so it applies to prompts that carry an EntityWorld record's attributes: the look
that only images tell, the scene, and which of its attributes the caption tells.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool

from reimagen_jax.data.entityworld import CATEGORIES, LOOK_PARAMETERS, SCENE_PARAMETERS
from reimagen_jax.evaluation.rater import Rater, Verdicts
from reimagen_jax.evaluation.rater_check import lowest
from reimagen_jax.evaluation.statistics import Curve, Interval, mean_ci
from reimagen_jax.evaluation.sweeps import Sweep
from reimagen_jax.inference.prompts import Prompt

VERDICTS = ("faithful", "aligned")


@dataclass(frozen=True)
class Truth:
    """What an image has to show."""

    look: np.ndarray
    """int32 [1 + P]"""
    scene: Mapping[str, int]
    tells: np.ndarray
    """bool [4]: the attributes of the scene that the caption tells."""

    @property
    def about(self) -> str:
        """The look in a word: prompts about one entity have the same."""
        return " ".join(map(str, self.look))


@dataclass(frozen=True)
class Ratings:
    """Verdicts on every image of a sweep, and the curves that they make."""

    curves: tuple[Curve, ...]
    """In the order of `VERDICTS`."""
    verdict_VPSC: Bool[np.ndarray, "v p s c"]
    applies_P: Bool[np.ndarray, " p"]
    note: str
    """How to read the curves."""
    about_rater: str
    """How well the rater reads."""


@dataclass(frozen=True)
class Row:
    """One line of a table of results."""

    name: str
    shares: tuple[Interval, ...]
    """In the order of `VERDICTS`."""
    images: int
    """How many the shares are of."""


def truth(attributes: Mapping[str, Any]) -> Truth | None:
    """What a record's attributes say that its image shows; None unless they are those of EntityWorld."""
    try:
        look = [int(value) for value in attributes["look"]]
        scene = {p.name: p.values.index(attributes["scene"][p.name]) for p in SCENE_PARAMETERS}
        tells = [p.name in attributes["tells"] for p in SCENE_PARAMETERS]
        parameters = LOOK_PARAMETERS[CATEGORIES[look[0]]]
    except (KeyError, TypeError, ValueError, IndexError, OverflowError):
        return None
    inside = all(0 <= value < len(p.values) for value, p in zip(look[1:], parameters, strict=False))
    if len(look) != 1 + len(parameters) or not inside:
        return None
    return Truth(np.asarray(look, np.int32), scene, np.asarray(tells))


def why_unrated(prompts: Sequence[Prompt]) -> str:
    """A sentence that says why a rater cannot judge any of the prompts; empty where it can."""
    if any(truth(prompt.attributes) for prompt in prompts):
        return ""
    return (
        "There are no curves: faithfulness and alignment are read off images of EntityWorld, by a rater that has to be "
        "told what an image should show, and these prompts carry no EntityWorld look and scene."
    )


def rater_for(prompts: Sequence[Prompt], resolution: int, path: str | Path | None = None) -> tuple[Rater | None, str]:
    """The rater in `path` (default: the one in the package), or a sentence that says why none applies.

    Raises `UserError` when the folder holds no rater.
    """
    if why := why_unrated(prompts):
        return None, why
    rater = Rater.open(path)
    if (side := rater.config.resolution) == resolution:
        return rater, ""
    return None, (
        f"There are no curves: the rater reads images of {side} x {side} pixels, these have {resolution} x "
        f"{resolution} (--rater)."
    )


def ceilings(rater: Rater) -> tuple[Interval, ...]:
    """The shares of true images that the rater calls faithful and aligned: what a perfect model reaches in its eyes."""
    return tuple(Interval(*rater.metrics[name]) for name in VERDICTS)


def rate(sweep: Sweep, rater: Rater) -> Ratings:
    """Rates every image of those prompts that a rater can judge: at least one of them.

    Raises `UserError` when the rater reads images of another resolution.
    """
    truths = [truth(prompt.attributes) for prompt in sweep.prompts]
    applies_P = np.array([known is not None for known in truths])
    image_QSCHWC = sweep.image_PSCHWC[applies_P]
    shape_QSC, shape_HWC = image_QSCHWC.shape[:3], image_QSCHWC.shape[3:]
    each = [known for known in truths if known is not None for _ in range(shape_QSC[1] * shape_QSC[2])]
    verdict_VPSC = np.zeros((len(VERDICTS), *sweep.image_PSCHWC.shape[:3]), bool)
    verdict_VPSC[:, applies_P] = judge(image_QSCHWC.reshape(-1, *shape_HWC), each, rater).reshape(-1, *shape_QSC)
    about = [known.about for known in truths if known is not None]
    curves = tuple(
        _curve(name, sweep.etas, verdict_PSC[applies_P], about, ceiling.mean)
        for name, verdict_PSC, ceiling in zip(VERDICTS, verdict_VPSC, ceilings(rater), strict=True)
    )
    return Ratings(curves, verdict_VPSC, applies_P, _note(sweep, int(applies_P.sum())), describe_rater(rater))


def judge(images: np.ndarray, truths: Sequence[Truth], rater: Rater) -> Bool[np.ndarray, "v n"]:
    """Whether images are as `verdicts` has it, in the order of `VERDICTS`."""
    rated = verdicts(images, truths, rater)
    return np.stack([getattr(rated, name) for name in VERDICTS])


def verdicts(images: np.ndarray, truths: Sequence[Truth], rater: Rater) -> Verdicts:
    """On images uint8 [N, R, R, 3], given one truth for each."""
    looks = np.stack([known.look for known in truths])
    scenes = {p.name: np.array([known.scene[p.name] for known in truths]) for p in SCENE_PARAMETERS}
    return rater.rate(images, looks, scenes, np.stack([known.tells for known in truths]))


def _curve(name: str, etas: tuple[float, ...], verdict_PSC: np.ndarray, about: Sequence[str], ceiling: float) -> Curve:
    # Prompts are drawn at random, the images of one belong together, and the prompts about one entity: `mean_ci`.
    baseline, *points = (mean_ci(verdict_PSC[:, :, c], about) for c in range(verdict_PSC.shape[2]))
    return Curve(name, etas, tuple(points), baseline, ceiling)


def _note(sweep: Sweep, rated: int) -> str:
    each = "one image" if sweep.num_seeds == 1 else f"{sweep.num_seeds} images"
    left_out = len(sweep.prompts) - rated
    return (
        "Faithful: every parameter of the entity's look, which only its images tell, is right. Aligned: everything of "
        f"the scene that the caption tells is right. Each point: {rated} prompts, {each} of each; bands and bars are "
        "95 % intervals; dotted lines are the shares of true images."
        + (f" {left_out} prompts without EntityWorld attributes are not rated." if left_out else "")
    )


def describe_rater(rater: Rater) -> str:
    """How well the rater reads, in a sentence."""
    parameter, accuracy = lowest(rater.metrics)
    faithful, aligned = ceilings(rater)
    return (
        f"The rater, on {rater.metrics['num_images']:,} true images: every parameter is read right in at least "
        f"{100 * accuracy:.2f} % (worst: {parameter}); {100 * faithful.mean:.2f} % are called faithful and "
        f"{100 * aligned.mean:.2f} % aligned."
    )
