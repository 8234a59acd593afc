"""What is asked of the sampler: a prompt, its neighbours, and the settings of one image."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path

import numpy as np

from reimagen_jax.data import images
from reimagen_jax.data.records import ImageText
from reimagen_jax.errors import UserError
from reimagen_jax.retrieval.knowledge_base import KnowledgeBase


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

    @classmethod
    def of(cls, record: ImageText, score: float, resolution: int) -> "Neighbour":
        """A record, decoded at `resolution`."""
        return cls(images.decode(record.image, resolution), record.text, score, record.key, record.image)

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
    base: KnowledgeBase, prompts: Sequence[str], k: int, resolution: int, exclude: Sequence[str] | None = None
) -> list[tuple[Neighbour, ...]]:
    """The top-k neighbours of every prompt, fewer where the base has fewer hits.

    `exclude[i]` is the key of a record that prompt i must not find: its own, when prompts are captions of records.
    """
    if k == 0:
        return [()] * len(prompts)
    ids_QK, scores_QK = base.search(prompts, k + (exclude is not None))
    found = []
    for i, (ids, scores) in enumerate(zip(ids_QK, scores_QK, strict=True)):
        hits = [(int(n), float(score)) for n, score in zip(ids, scores, strict=True) if n >= 0]
        records = base.records.fetch([n for n, _ in hits])
        neighbours = [
            Neighbour.of(record, score, resolution)
            for record, (_, score) in zip(records, hits, strict=True)
            if exclude is None or record.key != exclude[i]
        ]
        found.append(tuple(neighbours[:k]))
    return found


def from_file(path: str, text: str, resolution: int) -> Neighbour:
    """A neighbour given by hand. Raises `UserError` when the file is missing or no image."""
    try:
        data = Path(path).read_bytes()
    except OSError as error:
        raise UserError(f"reference image {path} cannot be read: {error.strerror}") from error
    if not text.strip():
        raise UserError(f"reference image {path} has an empty caption: say what it shows")
    return Neighbour(images.decode(data, resolution), text, float("nan"), Path(path).name, data)


def limit_neighbours(request: Request, k: int) -> Request:
    """The same request with its k best neighbours only."""
    return replace(request, neighbours=request.neighbours[:k])
