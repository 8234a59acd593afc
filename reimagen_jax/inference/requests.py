"""What is asked of the sampler: a prompt, its neighbours, and the settings of one image.

Neighbours are retrieved from a knowledge base, or chosen by hand: image files (references) and records of the base
that are named by their keys (pinned).
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path

import numpy as np

from reimagen_jax.data import images
from reimagen_jax.data.records import ImageText
from reimagen_jax.errors import UserError
from reimagen_jax.retrieval.knowledge_base import KnowledgeBase, Method


@dataclass(frozen=True)
class Neighbour:
    """One retrieved (or given) image with its caption."""

    image: np.ndarray = field(repr=False)
    """uint8 [R, R, 3]"""
    text: str
    score: float
    """Of the retriever; NaN where a person chose the neighbour."""
    key: str
    """Of the record, or the file name."""
    encoded: bytes = field(default=b"", repr=False)
    """The image file, from which stages of other resolutions decode their own; empty where there is none."""
    source: str = field(default="", repr=False)
    """Of the record: equal sources and keys mean the same record. Empty where there is none."""

    @classmethod
    def of(cls, record: ImageText, score: float, resolution: int, source: str = "") -> "Neighbour":
        """A record, decoded at `resolution`."""
        return cls(images.decode(record.image, resolution), record.text, score, record.key, record.image, source)

    def at(self, resolution: int) -> np.ndarray:
        """The image as uint8 [resolution, resolution, 3]. Raises `UserError` where only another size is at hand."""
        if self.image.shape[0] == resolution:
            return self.image
        if not self.encoded:
            raise UserError(f"neighbour {self.key} is at hand at {self.image.shape[0]} pixels only, not {resolution}")
        return _decoded(self.encoded, resolution)

    @property
    def side(self) -> int:
        """The smaller side of the image in its own size, in pixels."""
        return min(images.load(self.encoded).size) if self.encoded else self.image.shape[0]


@lru_cache(maxsize=64)
def _decoded(encoded: bytes, resolution: int) -> np.ndarray:
    """Many images are drawn with the same neighbours."""
    return images.decode(encoded, resolution)


@dataclass(frozen=True)
class Request:
    """One image to draw."""

    prompt: str
    neighbours: tuple[Neighbour, ...]
    eta: float
    text_weight: float
    neighbour_weight: float
    index: int
    """Of the image: with the seed it determines all its randomness."""
    low_res: np.ndarray | None = field(default=None, repr=False)
    """uint8 [r, r, 3]: the image that a super-resolution stage enlarges; None for a base stage."""


def retrieve(
    base: KnowledgeBase,
    queries: Sequence[str],
    k: int,
    resolution: int,
    *,
    method: Method = "lexical",
    ban: Sequence[str] = (),
) -> list[tuple[Neighbour, ...]]:
    """The top-k neighbours of every query, fewer where the base has fewer hits; none with a key of `ban`.

    Raises `UserError` for a banned key that no record has, and where the base cannot search by `method`.
    """
    if k == 0:
        return [()] * len(queries)
    ids_QK, scores_QK = base.search(queries, k, method=method, exclude=ban)
    return [
        _neighbours(base, ids[ids >= 0], scores[ids >= 0], resolution)
        for ids, scores in zip(ids_QK, scores_QK, strict=True)
    ]


def pinned(base: KnowledgeBase, keys: Sequence[str], resolution: int) -> tuple[Neighbour, ...]:
    """The records of a base with these keys, in their order. Raises `UserError` for a key that no record has."""
    ids = base.ids_of(dict.fromkeys(keys))
    return _neighbours(base, ids, np.full(len(ids), np.nan), resolution)


def _neighbours(base: KnowledgeBase, ids: np.ndarray, scores: np.ndarray, resolution: int) -> tuple[Neighbour, ...]:
    sources = _sources(base)
    found = zip(base.records.fetch(ids), scores.tolist(), ids.tolist(), strict=True)
    return tuple(Neighbour.of(record, score, resolution, sources[i]) for record, score, i in found)


@lru_cache(maxsize=4)
def _sources(base: KnowledgeBase) -> list[str]:
    return base.sources()


def from_file(path: str | Path, text: str, resolution: int) -> Neighbour:
    """A neighbour given by hand. Raises `UserError` naming the file when it is missing or no image, or has no text."""
    if not text.strip():
        raise UserError(f"reference image {path} has an empty caption: say what it shows")
    try:
        data = Path(path).read_bytes()
        image = images.decode(data, resolution)
    except OSError as error:
        raise UserError(f"reference image {path} cannot be read: {error.strerror}") from error
    except images.ImageError as error:
        raise UserError(f"reference image {path}: {error}") from error
    return Neighbour(image, text, float("nan"), Path(path).name, data)


def limit_neighbours(request: Request, k: int) -> Request:
    """The same request with its k best neighbours only."""
    return replace(request, neighbours=request.neighbours[:k])
