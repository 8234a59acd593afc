"""Judges: which value of a field (an entity, a style) does a picture show? Learned from pictures of the records.

    mean      the value whose pictures' mean is nearest in a space
    nearest   the value of the nearest picture
    svm       a support vector machine with a Gaussian kernel, for few values with many pictures

Which of them, in which space, is chosen by how often it is right on pictures of the records set aside (1): the first
of this list that is within a standard error of the best. Its accuracy on the true pictures of the prompts, which it
has never seen, is for those who use it to measure.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Literal, get_args

import numpy as np
from jaxtyping import Int
from sklearn.metrics import pairwise_distances_argmin
from sklearn.svm import SVC

from reimagen_jax.errors import require
from reimagen_jax.evaluation.pictures.features import Pictures, Spaces, Vectors, labels

How = Literal["mean", "nearest", "svm"]
WAYS = get_args(How)
ASIDE = 512
"""Pictures set aside to choose by, at most."""
SVM_CLASSES, SVM_PICTURES, SVM_MOST = 32, 20, 4000
"""Where a machine is tried: at most so many values, with so many pictures of each at least; of so many at most."""


@dataclass(frozen=True)
class Judge:
    """One that was chosen."""

    about: str
    """The field."""
    names: tuple[str, ...]
    space: str
    how: How
    tried: dict[str, float]
    """Space and way -> share right on the pictures set aside (1)."""
    _spaces: Spaces = field(repr=False)
    _decide: Callable[[Vectors], np.ndarray] = field(repr=False)

    def __call__(self, pictures: Pictures) -> Int[np.ndarray, " n"]:
        """The number of the value that each picture shows."""
        return self._decide(self._spaces(self.space, pictures))

    def knows(self, values: Sequence[str | None]) -> Int[np.ndarray, " n"]:
        """The numbers of values; -1 for one that it has seen no picture of."""
        number = {name: i for i, name in enumerate(self.names)}
        return np.array([number.get(value, -1) for value in values], np.int64)

    def __str__(self) -> str:
        ways = {"mean": "nearest mean", "nearest": "nearest picture", "svm": "support vector machine"}
        return f"{self.about}: {ways[self.how]} of {len(self.names)} in the space {self.space!r}"


def choose(
    about: str,
    values: Sequence[str | None],
    spaces: Spaces,
    only_spaces: Sequence[str] = (),
    only_ways: Sequence[How] = (),
    seed: int = 0,
) -> Judge:
    """The judge of a field that is right most often (1). `values` are those of the pictures of `spaces`.

    Raises `UserError` where there are not two values with a picture to set aside.
    """
    label_N, names = labels(values)
    counts = np.bincount(label_N[label_N >= 0], minlength=len(names))
    require(
        (counts > 1).sum() > 1,
        f"the field {about} has no two values with two pictures each: a judge cannot be chosen by it",
    )
    order = np.random.default_rng(seed).permutation(np.flatnonzero(label_N >= 0))
    aside, taken = [], counts.copy()
    for i in order:
        if len(aside) < min(ASIDE, len(order) // 4) and taken[label_N[i]] > 1:
            aside.append(int(i))
            taken[label_N[i]] -= 1
    rest = np.setdiff1d(order, aside)
    tried: dict[tuple[str, How], float] = {}
    for space in only_spaces or spaces.names:
        vector_ND = spaces.own(space)
        for how in _ways(counts, only_ways):
            decide = fit(how, vector_ND[rest], label_N[rest], seed)
            tried[space, how] = float((decide(vector_ND[aside]) == label_N[aside]).mean())  # (1)
    best = max(tried.values())
    least = best - math.sqrt(best * (1 - best) / len(aside))
    space, how = min(
        (each for each in tried if tried[each] >= least), key=lambda each: (WAYS.index(each[1]), -tried[each])
    )
    named = {f"{space}, {how}": share for (space, how), share in tried.items()}
    decide = fit(how, spaces.own(space)[order], label_N[order], seed)
    return Judge(about, tuple(names), space, how, named, spaces, decide)


def fit(how: How, vector_ND: Vectors, label_N: np.ndarray, seed: int = 0) -> Callable[[Vectors], np.ndarray]:
    """Vectors -> labels."""
    if how == "nearest":
        return lambda x_MD: label_N[pairwise_distances_argmin(x_MD, vector_ND)]
    if how == "mean":
        there = np.unique(label_N)
        means = np.stack([vector_ND[label_N == label].mean(axis=0) for label in there])
        return lambda x_MD: there[pairwise_distances_argmin(x_MD, means)]
    some = np.random.default_rng(seed).permutation(len(label_N))[:SVM_MOST]
    return SVC(C=4.0, class_weight="balanced").fit(vector_ND[some], label_N[some]).predict


def _ways(counts: np.ndarray, only: Sequence[How]) -> Iterator[How]:
    few = len(counts) <= SVM_CLASSES and counts.min() >= SVM_PICTURES
    yield from only or ("mean", "nearest", *(("svm",) if few else ()))
