"""Triples as batches: step number -> this process's share of the step's images, captions, and neighbours.

Each example keeps n of its neighbours, drawn at random: of triples with more candidates, of these. Where an experiment
trains on crops, each image is cut at a place drawn at random. All depend on the step's number alone (data/loader.py),
so training resumes exactly.
"""

from collections.abc import Callable, Sequence

import grain
import jax
import numpy as np

from reimagen_jax.config import Experiment
from reimagen_jax.data import images
from reimagen_jax.data.loader import CACHE_BYTES, make_steps
from reimagen_jax.data.records import Records
from reimagen_jax.data.sizes import smaller
from reimagen_jax.encoders.text_embeddings import TextEmbeddings, reader
from reimagen_jax.encoders.texts import Texts
from reimagen_jax.encoders.tokenizers import ByteTokenizer
from reimagen_jax.errors import require
from reimagen_jax.retrieval.triples import Triples
from reimagen_jax.systems.examples import Cached, Examples, crop, draw_corners, held_out_parts, put, split
from reimagen_jax.systems.reimagen.condition import Batch
from reimagen_jax.terminal import say


def make_dataset(
    triples: Triples,
    config: Experiment,
    *,
    process_index: int | None = None,
    process_count: int | None = None,
    cache_bytes: int = CACHE_BYTES,
) -> grain.IterDataset:
    """Makes the endless data set of `Batch` (numpy) whose element s is this process's share of step s.

    Each example keeps n of its neighbours, drawn at random, with n uniform in data.min_neighbours ..
    data.num_neighbours. Where the experiment trains on crops, each image is cut at a place drawn at random, on the grid
    of the low-resolution image. Captions come as bytes, or, where the text encoder is frozen, as embeddings out of
    data.text_embeddings. Raises `UserError` when the triples have fewer neighbours than the experiment wants, when the
    batch cannot be shared evenly by the processes, when images are smaller than what is to be drawn (unless
    data.enlarge), or when captions have not been embedded.
    """
    data, model = config.data, config.system
    check(triples, config)
    learned, _ = split(len(triples), data, "triples")
    drawn = triples.num_candidates > triples.num_neighbours
    kept = triples.num_candidates if drawn else data.num_neighbours

    def draw(ids_B: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        ids_B = learned[ids_B]
        nbr_BC = triples.neighbours[ids_B, :kept]
        keep_BC = draw_kept_neighbours(rng, nbr_BC >= 0, data.min_neighbours, data.num_neighbours)
        nbr_BK = first_kept(nbr_BC, keep_BC, data.num_neighbours)
        return ids_B, nbr_BK, draw_corners(rng, len(ids_B), model)

    read = _BatchReader(triples, config, cache_bytes)
    return make_steps(len(learned), data, draw, read, process_index=process_index, process_count=process_count)


def held_out_batches(
    triples: Triples,
    ids: np.ndarray,
    config: Experiment,
    number: int,
    *,
    process_index: int | None = None,
    process_count: int | None = None,
) -> list[Batch]:
    """This process's share of whole batches of about `number` of these triples, always the same, in a drawn order,
    with all their neighbours; again and again the same ones where there are too few for a batch. In the places of
    neighbours that are missing, masked, is what the floor left out.
    """
    data, model = config.data, config.system
    rng, chosen, parts = held_out_parts(ids, number, data, process_index, process_count)
    nbr_NK = triples.neighbours[chosen, : data.num_neighbours]
    seen_NK = nbr_NK.copy()
    for seen_K, record in zip(seen_NK, chosen.tolist(), strict=True):
        free, left_out = np.flatnonzero(seen_K < 0), triples.too_little_alike.get(record, [])
        seen_K[free[: len(left_out)]] = left_out[: len(free)]
    corner_N2, read = draw_corners(rng, len(chosen), model), _BatchReader(triples, config, 0)
    return [
        read(chosen[part], seen_NK[part], corner_N2[part]).replace(
            nbr_mask_BK=nbr_NK[part] >= 0, left_out_BK=seen_NK[part] > nbr_NK[part]
        )
        for part in parts
    ]


def check(triples: Triples, config: Experiment) -> None:
    """Raises `UserError` where triples have fewer neighbours, or smaller images, than an experiment wants."""
    data, model = config.data, config.system
    require(
        data.num_neighbours <= triples.num_candidates,
        f"data.num_neighbours is {data.num_neighbours}, but {triples.path} holds {triples.num_candidates} per "
        f"record: run `reimagen triples` with --num-neighbours {data.num_neighbours}",
    )
    if model.super_resolution is not None:
        _require_detail(triples.records, model.resolution)
    else:
        _require_side(triples, model.resolution, data.enlarge)


def draw_kept_neighbours(
    rng: np.random.Generator, found_BC: np.ndarray, fewest: int, most: int | None = None
) -> np.ndarray:
    """Draws for each example how many neighbours it keeps, uniform in `fewest`..`most` (C), and which: bool[B, C].

    Examples with fewer found than drawn keep all of them.
    """
    b, c = found_BC.shape
    number_B1 = rng.integers(fewest, c if most is None else most, size=(b, 1), endpoint=True)
    order_BC = np.where(found_BC, rng.random((b, c)), np.inf)
    rank_BC = order_BC.argsort(axis=1).argsort(axis=1)
    return found_BC & (rank_BC < number_B1)


def first_kept(nbr_BC: np.ndarray, keep_BC: np.ndarray, k: int) -> np.ndarray:
    """The ids that are kept, each in its place among k, or, of more candidates than k, the kept ones first, in their
    order: int32[B, k], -1 where there is none."""
    kept_BC = np.where(keep_BC, nbr_BC, -1)
    if kept_BC.shape[1] > k:
        kept_BC = np.take_along_axis(kept_BC, np.argsort(~keep_BC, axis=1, kind="stable")[:, :k], axis=1)
    return kept_BC


def _require_detail(records: Records, resolution: int) -> None:
    """Raises `UserError` if the first record's image is too small: enlarged images have no detail to be learned."""
    side = min(images.load(records[0].image).size)
    require(
        side >= resolution,
        f"{records.path} holds images of {side} pixels, but this stage learns to draw {resolution}: "
        f"run `reimagen prepare` with --resolution {resolution} (or more), then index and triples",
    )


def _require_side(triples: Triples, resolution: int, enlarge: bool) -> None:
    """Raises `UserError` where records are smaller than what is drawn, unless they may be enlarged; says where
    neighbours are."""
    found = smaller(triples.records, resolution)
    require(
        enlarge or not found,
        f"{found}: run `reimagen prepare` with --resolution {resolution} on larger ones, then index and triples; or "
        "train at a smaller --resolution; or on enlarged ones, and what is learned is as blurred (--data.enlarge)",
    )
    others = triples.knowledge_base.records
    same = others.fingerprint == triples.records.fingerprint
    for told in filter(None, [found, "" if same else smaller(others, resolution)]):
        if jax.process_index() == 0:
            say(f"{told}: they are enlarged, and as blurred", error=True)


def text_reader(triples: Triples, config: Experiment) -> Callable[[Sequence[str]], Texts]:
    """Captions to what a batch holds of them. Raises `UserError` when embeddings are missing or those of others."""
    text, frozen = config.system.text, config.system.text.frozen
    if frozen is None:
        return ByteTokenizer(text.max_bytes).encode
    require(
        bool(config.data.text_embeddings),
        "data.text_embeddings is not set: pass --data.text-embeddings DIR, a folder written by `reimagen embed`",
    )
    store = TextEmbeddings.open(config.data.text_embeddings)
    store.check(frozen)
    for records in (triples.records, triples.knowledge_base.records):
        store.require_records(records)
    return reader(store, frozen, text.max_bytes)


class _BatchReader:
    """Record ids, the neighbours kept (-1: none) and the corners of crops -> `Batch`."""

    def __init__(self, triples: Triples, config: Experiment, cache_bytes: int):
        self._shape = (config.system.resolution, config.system.resolution, 3)
        self._side = config.system.train_resolution
        encode = text_reader(triples, config)
        records, others = triples.records, triples.knowledge_base.records
        same = records.fingerprint == others.fingerprint
        number = len(records) + (0 if same else len(others))

        def examples_of(these: Records) -> Examples | Cached:
            return Examples(these, config.system.resolution, encode).kept(cache_bytes, number)

        self._examples = examples_of(records)
        self._others = self._examples if same else examples_of(others)

    def __call__(self, ids_B: np.ndarray, nbr_BK: np.ndarray, corner_B2: np.ndarray) -> Batch:
        keep_BK = nbr_BK >= 0
        image_BHWC, tokens_BL = self._examples(ids_B)
        image_BHWC = crop(image_BHWC, corner_B2, self._side)
        nbr_image_BKHWC = np.zeros((*keep_BK.shape, *self._shape), np.uint8)
        nbr_tokens_BKL = jax.tree.map(lambda leaf: np.zeros((*keep_BK.shape, *leaf.shape[1:]), leaf.dtype), tokens_BL)
        if keep_BK.any():
            nbr_image_BKHWC[keep_BK], tokens_NL = self._others(nbr_BK[keep_BK])
            jax.tree.map(lambda leaf, found: put(leaf, keep_BK, found), nbr_tokens_BKL, tokens_NL)
        return Batch(image_BHWC, tokens_BL, nbr_image_BKHWC, nbr_tokens_BKL, keep_BK)
