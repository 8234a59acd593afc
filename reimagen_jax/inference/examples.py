"""A few examples of the data, drawn as training goes on: always the same ones, from the same noise."""

import math
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jaxtyping import Array, Bool, Key

from reimagen_jax.diffusion.sampler import image_keys
from reimagen_jax.systems import finite
from reimagen_jax.systems.base import Batch, Feed, HoldsOut, Inputs, Params, System
from reimagen_jax.training import distributed

Draw = Callable[[Params, Inputs, Key[Array, " b"]], Any]


def drawing(system: System) -> Draw:
    """The program that draws a batch; those who draw batches of one size share it."""
    return jax.jit(finite.watched(lambda params, inputs, keys: system.sample(params, inputs, keys, system.settings)))


def held_out(feed: Feed, number: int) -> Batch | None:
    """At most so many examples that are not trained on, the same in every process; None where there are none."""
    size = feed.config.data.batch_size
    batches = feed.held_out(math.ceil(number / size) * size, 0, 1) if number and isinstance(feed, HoldsOut) else []
    if not batches:
        return None
    return jax.tree.map(lambda *parts: np.concatenate(parts)[:number], *batches)


def draw_all(
    draw: Draw, params: Params, inputs: Inputs, seed: int, at_once: int
) -> tuple[np.ndarray, Bool[np.ndarray, " n"]]:
    """What is drawn of N inputs, image i by the noise of `seed` and i, and which are not finite; all processes draw."""
    number = _size(inputs)
    images, broken = [], []
    for first in range(0, number, at_once):
        ids = np.arange(first, first + at_once)
        chunk = jax.tree.map(lambda leaf, ids=ids: np.asarray(leaf)[np.minimum(ids, number - 1)], inputs)
        note, drawn = jax.tree.map(distributed.whole, draw(params, chunk, image_keys(seed, ids.tolist())))
        images.append(drawn)
        broken.append(finite.broken(note))
    return np.concatenate(images)[:number], np.concatenate(broken)[:number]


def _size(batch: Any) -> int:
    return len(jax.tree.leaves(batch)[0])
