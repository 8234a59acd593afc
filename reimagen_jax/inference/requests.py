"""What is asked of the sampler: a prompt, its neighbours, and the settings of one image."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from reimagen_jax.data.images import decode
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
            Neighbour(decode(record.image, resolution), record.text, score, record.key)
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
    return Neighbour(decode(data, resolution), text, float("nan"), Path(path).name)


def limit_neighbours(request: Request, k: int) -> Request:
    """The same request with its k best neighbours only."""
    return replace(request, neighbours=request.neighbours[:k])
