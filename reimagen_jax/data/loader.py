"""From triples to batches: step number -> this process's share of the step's batch, a function of settings and data.

The records' order is a new permutation each epoch; with batches of B, step s takes the places s B .. s B + B - 1 of the
endless sequence of epochs. So the step number is the whole position in the data, and training resumes exactly.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import grain
import jax
import numpy as np

from reimagen_jax.config import Experiment, require
from reimagen_jax.data import images
from reimagen_jax.data.batch import Batch, Texts
from reimagen_jax.data.records import Records
from reimagen_jax.data.text_embeddings import TextEmbeddings, reader
from reimagen_jax.data.triples import Triples
from reimagen_jax.encoders.tokenizers import ByteTokenizer

CACHE_BYTES = 2**31
"""Decoded images and tokens are kept in memory while all of them together take less."""
_BUFFERED_STEPS = 8


def make_dataset(
    triples: Triples,
    config: Experiment,
    *,
    process_index: int | None = None,
    process_count: int | None = None,
    cache_bytes: int = CACHE_BYTES,
) -> grain.IterDataset:
    """Makes the endless data set of `Batch` (numpy) whose element s is this process's share of step s.

    Processes take equal, consecutive parts of a step's batch (by default, as JAX numbers them), so that the batch as a
    whole does not depend on their number. Each example keeps n of its neighbours, drawn at random, with n uniform in
    data.min_neighbours .. data.num_neighbours. Where the experiment trains on crops, each image is cut at a place drawn
    at random, on the grid of the low-resolution image. The iterator's state is the next step's number.

    Captions come as bytes, or, where the text encoder is frozen, as embeddings out of data.text_embeddings.
    Raises `UserError` when the triples have fewer neighbours than the experiment wants, when the batch cannot be
    shared evenly by the processes, when the images are smaller than what a super-resolution stage has to learn, or
    when captions have not been embedded.
    """
    settings = config.data
    index = jax.process_index() if process_index is None else process_index
    count = jax.process_count() if process_count is None else process_count
    require(
        settings.num_neighbours <= triples.num_neighbours,
        f"data.num_neighbours is {settings.num_neighbours}, but {triples.path} holds {triples.num_neighbours} per "
        f"record: run `reimagen triples` with --num-neighbours {settings.num_neighbours}",
    )
    require(
        settings.batch_size % count == 0,
        f"data.batch_size {settings.batch_size} is not a multiple of the {count} processes",
    )
    if config.super_resolution is not None:
        _require_detail(triples.records, config.resolution)
    share = settings.batch_size // count
    part = slice(index * share, (index + 1) * share)
    read = _BatchReader(triples, config, cache_bytes)

    def draw(ids_B: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        found_BK = triples.neighbours[ids_B, : settings.num_neighbours] >= 0
        keep_BK = draw_kept_neighbours(rng, found_BK, settings.min_neighbours)
        return ids_B[part], keep_BK[part], draw_corners(rng, len(ids_B), config)[part]

    steps = (
        grain.MapDataset.range(len(triples))
        .seed(settings.seed)
        .shuffle()
        .repeat()
        .batch(settings.batch_size)
        .random_map(draw)
        .map(lambda drawn: read(*drawn))
    )
    buffered = max(_BUFFERED_STEPS, settings.threads)
    return steps.to_iter_dataset(grain.ReadOptions(num_threads=settings.threads, prefetch_buffer_size=buffered))


def draw_kept_neighbours(rng: np.random.Generator, found_BK: np.ndarray, fewest: int) -> np.ndarray:
    """Draws for each example how many neighbours it keeps, uniform in `fewest`..K, and which: bool[B, K].

    Examples with fewer found than drawn keep all of them.
    """
    b, k = found_BK.shape
    number_B1 = rng.integers(fewest, k, size=(b, 1), endpoint=True)
    order_BK = np.where(found_BK, rng.random((b, k)), np.inf)
    rank_BK = order_BK.argsort(axis=1).argsort(axis=1)
    return found_BK & (rank_BK < number_B1)


def draw_corners(rng: np.random.Generator, batch: int, config: Experiment) -> np.ndarray:
    """Top left corners of the crops to train on, uniform over the low-resolution image's grid: int64[B, 2] pixels.

    On that grid, the low-resolution image of a crop is the crop of the low-resolution image. Whole images begin at 0.
    """
    places = (config.resolution - config.train_resolution) // config.factor + 1
    return config.factor * rng.integers(places, size=(batch, 2))


def crop(image_BHWC: np.ndarray, corner_B2: np.ndarray, side: int) -> np.ndarray:
    """Cuts the square of `side` pixels at each image's own corner (y, x)."""
    return np.stack([image[y : y + side, x : x + side] for image, (y, x) in zip(image_BHWC, corner_B2, strict=True)])


def _require_detail(records: Records, resolution: int) -> None:
    """Raises `UserError` if the first record's image is too small: enlarged images have no detail to be learned."""
    side = min(images.load(records[0].image).size)
    require(
        side >= resolution,
        f"{records.path} holds images of {side} pixels, but this stage learns to draw {resolution}: "
        f"run `reimagen prepare` with --resolution {resolution} (or more), then index and triples",
    )


def text_reader(triples: Triples, config: Experiment) -> Callable[[Sequence[str]], Texts]:
    """Captions to what a batch holds of them. Raises `UserError` when embeddings are missing or those of others."""
    frozen = config.text.frozen
    if frozen is None:
        return ByteTokenizer(config.text.max_bytes).encode
    require(
        bool(config.data.text_embeddings),
        "data.text_embeddings is not set: pass --data.text-embeddings DIR, a folder written by `reimagen embed`",
    )
    store = TextEmbeddings.open(config.data.text_embeddings)
    store.check(frozen)
    for records in (triples.records, triples.knowledge_base.records):
        store.require_records(records)
    return reader(store, frozen, config.text.max_bytes)


class _BatchReader:
    """Record ids, the neighbours kept and the corners of crops -> `Batch`."""

    def __init__(self, triples: Triples, config: Experiment, cache_bytes: int):
        self._neighbours = triples.neighbours
        self._k = config.data.num_neighbours
        self._shape = (config.resolution, config.resolution, 3)
        self._side = config.train_resolution
        encode = text_reader(triples, config)
        records, others = triples.records, triples.knowledge_base.records
        same = records.fingerprint == others.fingerprint
        number = len(records) + (0 if same else len(others))
        size = number * (int(np.prod(self._shape)) + sum(leaf.nbytes for leaf in jax.tree.leaves(encode([""]))))

        def examples_of(these: Records) -> _Examples | _Cached:
            examples = _Examples(these, config.resolution, encode)
            return _Cached(examples) if size <= cache_bytes else examples

        self._examples = examples_of(records)
        self._others = self._examples if same else examples_of(others)

    def __call__(self, ids_B: np.ndarray, keep_BK: np.ndarray, corner_B2: np.ndarray) -> Batch:
        image_BHWC, tokens_BL = self._examples(ids_B)
        image_BHWC = crop(image_BHWC, corner_B2, self._side)
        nbr_image_BKHWC = np.zeros((*keep_BK.shape, *self._shape), np.uint8)
        nbr_tokens_BKL = jax.tree.map(lambda leaf: np.zeros((*keep_BK.shape, *leaf.shape[1:]), leaf.dtype), tokens_BL)
        if keep_BK.any():
            nbr_BK = self._neighbours[ids_B, : self._k]
            nbr_image_BKHWC[keep_BK], tokens_NL = self._others(nbr_BK[keep_BK])
            jax.tree.map(lambda leaf, found: _set(leaf, keep_BK, found), nbr_tokens_BKL, tokens_NL)
        return Batch(image_BHWC, tokens_BL, nbr_image_BKHWC, nbr_tokens_BKL, keep_BK)


def _set(array: np.ndarray, where: np.ndarray, values: np.ndarray) -> None:
    array[where] = values


@dataclass
class _Examples:
    """Record ids -> images uint8 [N, R, R, 3] and their captions, leaves [N, ...]."""

    records: Records
    resolution: int
    encode: Callable[[Sequence[str]], Texts]

    def __call__(self, ids_N: np.ndarray) -> tuple[np.ndarray, Texts]:
        examples = self.records.fetch(ids_N)
        image_NHWC = np.stack([images.decode(example.image, self.resolution) for example in examples])
        return image_NHWC, self.encode([example.text for example in examples])


class _Cached:
    """The same from memory: each record is decoded once. Threads may decode one twice, to the same result."""

    def __init__(self, examples: _Examples):
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
            jax.tree.map(lambda leaf, found: _set(leaf, missing, found), self._tokens_NL, tokens_NL)
            self._ready_N[missing] = True
        return self._image_NHWC[ids_N], jax.tree.map(lambda leaf: leaf[ids_N], self._tokens_NL)
