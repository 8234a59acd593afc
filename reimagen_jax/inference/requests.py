"""The neighbours of requests: retrieved from a knowledge base, or chosen by hand.

By hand are image files (references), and records of the base that are named by their keys (pinned).
"""

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

import numpy as np

from reimagen_jax.data import images
from reimagen_jax.errors import UserError
from reimagen_jax.retrieval.knowledge_base import KnowledgeBase, Method
from reimagen_jax.systems.request import Neighbour


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
        neighbours_of(base, ids[ids >= 0], scores[ids >= 0], resolution)
        for ids, scores in zip(ids_QK, scores_QK, strict=True)
    ]


def pinned(base: KnowledgeBase, keys: Sequence[str], resolution: int) -> tuple[Neighbour, ...]:
    """The records of a base with these keys, in their order. Raises `UserError` for a key that no record has."""
    ids = base.ids_of(dict.fromkeys(keys))
    return neighbours_of(base, ids, np.full(len(ids), np.nan), resolution)


def neighbours_of(base: KnowledgeBase, ids: np.ndarray, scores: np.ndarray, resolution: int) -> tuple[Neighbour, ...]:
    """Records of a base by their ids, decoded, with what they scored."""
    sources = _sources(base)
    found = zip(base.records.fetch(ids), scores.tolist(), ids.tolist(), strict=True)
    place, fingerprint = str(base.path), base.fingerprint
    return tuple(Neighbour.of(record, score, resolution, sources[i], place, fingerprint) for record, score, i in found)


@lru_cache(maxsize=4)
def _sources(base: KnowledgeBase) -> list[str]:
    return base.sources()


def from_file(path: str | Path, text: str, resolution: int) -> Neighbour:
    """A neighbour given by hand. Raises `UserError` naming the file when it is missing or no image, or has no text."""
    if not text.strip():
        raise UserError(f"reference image {path} has an empty caption: say what it shows")
    try:
        data = images.read(path)
        image = images.decode(data, resolution)
    except OSError as error:
        raise UserError(f"reference image {path} cannot be read: {error.strerror}") from error
    except images.ImageError as error:
        raise UserError(f"reference image {path}: {error}") from error
    return Neighbour(image, text, float("nan"), Path(path).name, data, place=str(path))
