"""How well a rater reads: its accuracy on true renders that it has never seen, and how easily it is deceived.

    accuracy   share of renders in which a parameter is read right, for every parameter (of the true category)
    ceiling    shares of renders that it calls faithful, and aligned (all attributes told): what a perfect model reaches
    deceived   share of renders that it calls faithful to a look that differs from the true one in one parameter
Renders are rounded to 8 bits, as images are. `softened` repeats the first two on renders blurred and noised as in
training, to which generated images are closer.
"""

from typing import Any

import jax
import numpy as np

from reimagen_jax import randomness
from reimagen_jax.data.entityworld import (
    CATEGORIES,
    LOOK_PARAMETERS,
    SCENE_PARAMETERS,
    render_batch,
    sample_looks,
    sample_scenes,
)
from reimagen_jax.evaluation.rater import Rater
from reimagen_jax.evaluation.statistics import Interval, mean_ci
from reimagen_jax.systems.rater.net import LOOK_COUNTS, SCENE_NAMES
from reimagen_jax.systems.rater.rendering import soften
from reimagen_jax.systems.rater.settings import Softening

REQUIRED_ACCURACY, REQUIRED_CEILING = 0.99, 0.90


def measure(rater: Rater, num_images: int = 8192, seed: int = 1) -> dict[str, Any]:
    """Measures a rater on fresh renders of independent, uniform looks and scenes.

    Returns JSON types; every share is [mean, low, high] with a 95 % interval. The training draws from other seeds.
    """
    key_look, key_scene, key_soften, key_change = jax.random.split(randomness.key(seed), 4)
    looks = np.asarray(sample_looks(key_look, num_images))
    scenes = jax.tree.map(np.asarray, sample_scenes(key_scene, num_images))
    renders = render_batch(looks, scenes, rater.config.resolution)
    told = np.ones((num_images, len(SCENE_NAMES)), bool)

    def shares(images: np.ndarray) -> dict[str, Any]:
        rated = rater.rate(images, looks, vars(scenes), told)
        ceiling = {"faithful": mean_ci(rated.faithful), "aligned": mean_ci(rated.aligned)}
        return {**ceiling, "parameters": accuracies(looks[:, 0], rated.look_right, rated.scene_right, told)}

    clean = np.round(renders * 255.0).astype(np.uint8)
    softened = np.asarray(jax.jit(soften, static_argnums=2)(key_soften, renders, Softening(share=1.0)))
    deceived = rater.read(clean).look_right(one_changed(looks, key_change)).all(axis=1)
    return {
        "num_images": num_images,
        "seed": seed,
        **shares(clean),
        "deceived": mean_ci(deceived),
        "softened": shares(np.round(softened * 255.0).astype(np.uint8)),
    }


def accuracies(
    category_N: np.ndarray,
    look_right: np.ndarray,
    scene_right: np.ndarray,
    told_NA: np.ndarray,
    of_N: np.ndarray | None = None,
) -> dict[str, Interval]:
    """Share right for every parameter: "category", then "dog.coat" and so on, then the scene's attributes.

    `look_right` is [N, 1 + P] or, for S images of each prompt, [N, S, 1 + P]; `scene_right` likewise. A look's
    parameters are judged on images of its category, attributes where they are told; what occurs nowhere is left out.
    `of_N` is what each prompt is about (`mean_ci`).
    """
    every_N = np.ones(len(category_N), bool)
    groups = {"category": (look_right[..., 0], every_N)}
    for c, category in enumerate(CATEGORIES):
        for p, parameter in enumerate(LOOK_PARAMETERS[category]):
            groups[f"{category}.{parameter.name}"] = look_right[..., 1 + p], category_N == c
    for a, parameter in enumerate(SCENE_PARAMETERS):
        groups[parameter.name] = scene_right[..., a], told_NA[:, a]
    return {
        name: mean_ci(right[asked_N], None if of_N is None else of_N[asked_N])
        for name, (right, asked_N) in groups.items()
        if asked_N.any()
    }


def one_changed(looks: np.ndarray, key: jax.Array) -> np.ndarray:
    """The looks with one parameter, drawn at random, set to another of its values."""
    key_parameter, key_shift = jax.random.split(key)
    rows = np.arange(len(looks))
    parameter = np.asarray(jax.random.randint(key_parameter, (len(looks),), 0, looks.shape[1] - 1))
    count = LOOK_COUNTS[looks[:, 0], parameter]
    shift = np.asarray(jax.random.randint(key_shift, (len(looks),), 1, count))
    changed = looks.copy()
    changed[rows, 1 + parameter] = (changed[rows, 1 + parameter] + shift) % count
    return changed


def lowest(metrics: dict[str, Any]) -> tuple[str, float]:
    """The parameter that is read worst, and its accuracy."""
    name = min(metrics["parameters"], key=lambda name: metrics["parameters"][name][0])
    return name, metrics["parameters"][name][0]


def shortfalls(metrics: dict[str, Any]) -> list[str]:
    """What keeps a rater from being fit for use, in words; empty where nothing does."""
    found = []
    below = [name for name, share in metrics["parameters"].items() if share[0] < REQUIRED_ACCURACY]
    if below:
        name, share = lowest(metrics)
        found.append(
            f"{len(below)} parameters are read right in less than {REQUIRED_ACCURACY} of renders, "
            f"the worst ({name}) in {share:.4f}"
        )
    if metrics["faithful"][0] < REQUIRED_CEILING:
        found.append(f"{metrics['faithful'][0]:.4f} of true renders are called faithful, less than {REQUIRED_CEILING}")
    return found
