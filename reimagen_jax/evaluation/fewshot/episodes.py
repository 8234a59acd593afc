"""What is learned and what is asked: episodes of few shots, and the long tail.

    episode    N classes; K records of each are its support; others of these classes are its queries                 (1)
    tail       every class with a rank r, drawn anew: max(1, round(n r^-s)) of its records are there (Zipf), n of the
               first; some more of each are asked about                                                              (2)

The records of an episode are put into an order once: with fewer shots the support is the beginning of that with more,
and queries are the same ones. All depends on the seed and the episode's number alone, so that every way to fill a
support up is measured on the same.
Sources: Vinyals et al. 2016 (1); Liu et al. 2019, for many, medium and few (2).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Int

from reimagen_jax.errors import require

GROUPS = ("many", "medium", "few")
"""The thirds of the ranks."""


@dataclass(frozen=True, eq=False)
class Task:
    """Records to learn from and to be asked about, class by class."""

    support: tuple[Int[np.ndarray, " k"], ...]
    queries: tuple[Int[np.ndarray, " q"], ...]

    @property
    def ways(self) -> int:
        """N."""
        return len(self.support)

    @property
    def asked(self) -> Int[np.ndarray, " q"]:
        """All queries."""
        return np.concatenate(self.queries)

    @property
    def asked_class(self) -> Int[np.ndarray, " q"]:
        """The class of each, as a place among the N."""
        return np.repeat(np.arange(self.ways), [len(each) for each in self.queries])

    def first(self, shots: int) -> "Task":
        """The same with fewer records to learn from."""
        return Task(tuple(each[:shots] for each in self.support), self.queries)


def eligible(class_N: Int[np.ndarray, " n"], fewest: int) -> Int[np.ndarray, " c"]:
    """The classes with so many records at least."""
    classes, counts = np.unique(class_N, return_counts=True)
    return classes[counts >= fewest]


def episodes(
    class_N: Int[np.ndarray, " n"], ways: int | None, shots: int, queries: int, number: int, seed: int
) -> list[Task]:
    """(1), with at most so many queries of each class; `ways` None: all classes that have a query besides their shots.

    Raises `UserError` where there are fewer.
    """
    known = eligible(class_N, shots + 1)
    N = len(known) if ways is None else ways
    require(
        2 <= N <= len(known),
        f"{N} classes with {shots} records each and one more to ask about: there are {len(known)}; choose fewer shots "
        "or ways",
    )
    found = []
    for e in range(number):
        rng = np.random.default_rng([seed, N, e])
        chosen = known if ways is None else rng.choice(known, N, replace=False)
        orders = [rng.permutation(np.flatnonzero(class_N == c)) for c in chosen]
        found.append(
            Task(tuple(each[:shots] for each in orders), tuple(each[shots : shots + queries] for each in orders))
        )
    return found


def zipf(classes: int, most: int, exponent: float) -> list[int]:
    """The counts of (2) by rank."""
    return [max(1, round(most * rank**-exponent)) for rank in range(1, classes + 1)]


def tails(
    class_N: Int[np.ndarray, " n"], most: int, exponent: float, queries: int, number: int, seed: int
) -> list[Task]:
    """(2): classes by rank. Raises `UserError` where fewer than three have enough records."""
    known = eligible(class_N, most + 1)
    require(
        len(known) >= len(GROUPS),
        f"{len(known)} classes have {most} records and one more to ask about: three at least are needed; choose fewer "
        "of the most frequent class",
    )
    found = []
    for e in range(number):
        rng = np.random.default_rng([seed, most, e])
        orders = [rng.permutation(np.flatnonzero(class_N == c)) for c in rng.permutation(known)]
        counts = zipf(len(known), most, exponent)
        support = tuple(each[:count] for each, count in zip(orders, counts, strict=True))
        found.append(Task(support, tuple(each[most : most + queries] for each in orders)))
    return found


def group_of(ranks: int) -> Sequence[str]:
    """Many, medium or few, for each rank."""
    return [GROUPS[rank * len(GROUPS) // ranks] for rank in range(ranks)]
