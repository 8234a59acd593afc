"""Records as examples: which of them are learned from and which are held out; decoded, and kept where memory has room.

Whatever is drawn depends on seeds alone, so that training resumes exactly.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np

from reimagen_jax.config import DataConfig, SystemConfig
from reimagen_jax.data import images
from reimagen_jax.data.records import Records
from reimagen_jax.encoders.texts import Texts
from reimagen_jax.errors import require

_HELD_OUT = 0x8E1D
"""Of random numbers: a stream of their own."""


def split(number: int, data: Any, what: str = "records") -> tuple[np.ndarray, np.ndarray]:
    """Of so many triples those to learn from, and those of `data.validation_share`, held out: their ids, rising.

    Raises `UserError` where one of them is empty.
    """
    ids = np.arange(number)
    if not data.validation_share:
        return ids, ids[:0]
    count = round(data.validation_share * number)
    require(
        0 < count < number,
        f"data.validation_share {data.validation_share:g} of {number} {what} holds {count} of them out: take another",
    )
    out = np.zeros(number, bool)
    out[np.random.default_rng((data.seed, _HELD_OUT)).permutation(number)[:count]] = True
    return ids[~out], ids[out]


def held_out_parts(
    ids: np.ndarray, number: int, data: DataConfig, process_index: int | None = None, process_count: int | None = None
) -> tuple[np.random.Generator, np.ndarray, list[slice]]:
    """About `number` of these ids, whole batches of them, always the same in a drawn order; this process's parts of
    each batch; and the generator, for what else is drawn."""
    index = jax.process_index() if process_index is None else process_index
    share = data.batch_size // (jax.process_count() if process_count is None else process_count)
    rng, B = np.random.default_rng(_HELD_OUT), data.batch_size
    batches = max(1, min(number, len(ids)) // B)
    chosen = np.resize(rng.permutation(ids), batches * B)
    return rng, chosen, [slice(b * B + index * share, b * B + (index + 1) * share) for b in range(batches)]


def draw_corners(rng: np.random.Generator, batch: int, model: SystemConfig) -> np.ndarray:
    """Top left corners of the crops to train on, uniform over the low-resolution image's grid: int64[B, 2] pixels.

    On that grid, the low-resolution image of a crop is the crop of the low-resolution image. Whole images begin at 0.
    """
    places = (model.resolution - model.train_resolution) // model.factor + 1
    return model.factor * rng.integers(places, size=(batch, 2))


def crop(image_BHWC: np.ndarray, corner_B2: np.ndarray, side: int) -> np.ndarray:
    """Cuts the square of `side` pixels at each image's own corner (y, x)."""
    return np.stack([image[y : y + side, x : x + side] for image, (y, x) in zip(image_BHWC, corner_B2, strict=True)])


@dataclass
class Examples:
    """Record ids -> images uint8 [N, R, R, 3] and their captions, leaves [N, ...]."""

    records: Records
    resolution: int
    encode: Callable[[Sequence[str]], Texts]

    def kept(self, cache_bytes: int, number: int | None = None) -> "Examples | Cached":
        """The same from memory, where it has room for `number` of them (default: all)."""
        each = 3 * self.resolution**2 + sum(leaf.nbytes for leaf in jax.tree.leaves(self.encode([""])))
        return Cached(self) if each * (len(self.records) if number is None else number) <= cache_bytes else self

    def __call__(self, ids_N: np.ndarray) -> tuple[np.ndarray, Texts]:
        examples = self.records.fetch(ids_N)
        image_NHWC = np.stack([images.decode(example.image, self.resolution) for example in examples])
        return image_NHWC, self.encode([example.text for example in examples])


def unread(texts: Sequence[str]) -> np.ndarray:
    """For `Examples` of a system that reads no captions: nothing of each."""
    return np.zeros((len(texts), 0), np.int32)


class Cached:
    """The same from memory: each record is decoded once. Threads may decode one twice, to the same result."""

    def __init__(self, examples: Examples):
        number, side = len(examples.records), examples.resolution
        self._examples = examples
        self._image_NHWC = np.empty((number, side, side, 3), np.uint8)
        self._tokens_NL = jax.tree.map(
            lambda leaf: np.empty((number, *leaf.shape[1:]), leaf.dtype), examples.encode([""])
        )
        self._ready_N = np.zeros(number, bool)

    def __call__(self, ids_N: np.ndarray) -> tuple[np.ndarray, Texts]:
        missing = np.unique(ids_N[~self._ready_N[ids_N]])
        if missing.size:
            self._image_NHWC[missing], tokens_NL = self._examples(missing)
            jax.tree.map(lambda leaf, found: put(leaf, missing, found), self._tokens_NL, tokens_NL)
            self._ready_N[missing] = True
        return self._image_NHWC[ids_N], jax.tree.map(lambda leaf: leaf[ids_N], self._tokens_NL)


def put(array: np.ndarray, where: np.ndarray, values: np.ndarray) -> None:
    """Into an array, in place."""
    array[where] = values
