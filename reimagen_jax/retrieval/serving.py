"""How often each record of a knowledge base serves as a neighbour: whether a few serve for all, and which kinds do."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from reimagen_jax.errors import require
from reimagen_jax.retrieval import attributes
from reimagen_jax.retrieval.knowledge_base import KnowledgeBase


@dataclass(frozen=True)
class Share:
    """Of the records with a value of a field."""

    value: str
    of_base: float
    """Of all records of the base, 0 to 1."""
    of_neighbours: float
    """Of all places of neighbours, 0 to 1."""


def served(ids_NC: np.ndarray, size: int) -> np.ndarray:
    """How often each of the `size` records of a base is a neighbour: int64[M]."""
    return np.bincount(ids_NC[ids_NC >= 0], minlength=size)


def shares(times_M: np.ndarray, base: KnowledgeBase, name: str) -> list[Share]:
    """Of the values of a field, the most frequent first. Raises `UserError` where no record has the field."""
    values = attributes.fields(base.attributes).get(name, {})
    require(bool(values), f"--count-by {name}: no record of {base.path} has it")
    places, found = max(1, times_M.sum()), []
    for value, count in values.items():
        times = times_M[attributes.having(base.attributes, name, [value])].sum()
        found.append(Share(value, count / len(base), float(times / places)))
    return found


def lines(times_M: np.ndarray, keys: Sequence[str]) -> Iterator[str]:
    """A table of tab-separated values: times, key; the busiest record first, those that never serve last."""
    yield "times\tkey\n"
    for n in np.argsort(-times_M, kind="stable"):
        yield f"{times_M[n]}\t{' '.join(keys[n].split())}\n"
