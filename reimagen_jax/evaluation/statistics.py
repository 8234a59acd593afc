"""Means and differences with 95 % confidence intervals, from 0/1 ratings of images.

    (1) Wilson       of a proportion (scipy's)
    (2) Newcombe     of p1 - p2, from the Wilson bounds (l, u) of each (scipy has none):
                     p1 - p2 - sqrt((p1 - l1)^2 + (u2 - p2)^2)  ..  p1 - p2 + sqrt((u1 - p1)^2 + (p2 - l2)^2)
    (3) bootstrap    the 2.5 % and 97.5 % quantiles of the mean over prompts drawn with replacement (scipy's)
    (4) of clusters  (3), drawing what prompts are about, each with all its prompts: sum of values / sum of counts
    (5) all alike    as far from the mean as (1) has 0 of so many prompts, or of what they are about, within the bounds
Images of one prompt are not independent, so (3) draws prompts, with all their images. Nor are prompts about one entity,
so where it is told what each is about (`of`), and some are about the same, (4) takes the place of (1) and (3). Of a few
clusters its intervals are rather too narrow; where all are about one, figures are of that one, and it is (1) or (3).
Where no value differs, drawing tells of no spread: (5) takes each cluster for one value, as if those in it had to be
the same, so that the interval of no success may be wider than that of a single one.
Sources: Wilson 1927; Newcombe 1998 (method 10); Efron 1979; Davison and Hinkley 1997, section 3.8 (4).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from scipy import stats

RESAMPLES = 4000
TELLING = 6
"""Prompts that have to differ, or what they are about: a sign test at 5 % never tells fewer from chance, since
2 (1/2)^5 = 0.06 and 2 (1/2)^6 = 0.03."""


class Interval(NamedTuple):
    """A mean with the bounds of its 95 % confidence interval."""

    mean: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.mean:.3f} [{self.low:.3f}, {self.high:.3f}]"


@dataclass(frozen=True)
class Curve:
    """One measure over a setting (eta, the number of neighbours): shares in [0, 1] with their intervals."""

    name: str
    x: tuple[float, ...]
    points: tuple[Interval, ...]
    """One for each x."""
    baseline: Interval | None = None
    """Without neighbours."""
    ceiling: float | None = None
    """What true images reach."""


def wilson(successes: int, trials: int) -> Interval:
    """A proportion and its Wilson score interval (1). Raises `ValueError` without trials."""
    if not 0 <= successes <= trials or trials == 0:
        raise ValueError(f"{successes} successes in {trials} trials are no proportion")
    low, high = stats.binomtest(successes, trials).proportion_ci(method="wilson")
    return Interval(successes / trials, float(low), float(high))


def mean_ci(values: Sequence | np.ndarray, of: Sequence | np.ndarray | None = None) -> Interval:
    """The mean of one value a prompt [N], or of several [N, S], with its 95 % confidence interval.

    Wilson's interval (1) for one 0/1 value a prompt, else the bootstrap over prompts (3), or over what they are about
    (4), which `of` [N] names; (5) for shares that are all alike. Raises `ValueError` when empty.
    """
    values = np.asarray(values)
    if values.ndim > 1 and values.shape[1] == 1:
        values = values[:, 0]
    cluster_N = _clusters(len(values), of)
    if values.ndim == 1 and len(values) == _count(cluster_N) and np.isin(values, (0, 1)).all():
        return wilson(int(values.sum()), len(values))  # (1)
    return _alike(values, cluster_N, 0.0) or _bootstrap(values, cluster_N)


def difference_ci(
    a: Sequence | np.ndarray,
    b: Sequence | np.ndarray,
    of_a: Sequence | np.ndarray | None = None,
    of_b: Sequence | np.ndarray | None = None,
) -> Interval:
    """The difference mean(a) - mean(b) of 0/1 values of different prompts, with Newcombe's interval (2) from those that
    `mean_ci` has for each."""
    first, second = mean_ci(a, of_a), mean_ci(b, of_b)
    difference = first.mean - second.mean
    below = math.hypot(first.mean - first.low, second.high - second.mean)
    above = math.hypot(first.high - first.mean, second.mean - second.low)
    return Interval(difference, difference - below, difference + above)  # (2)


def paired_difference_ci(
    a: Sequence | np.ndarray, b: Sequence | np.ndarray, of: Sequence | np.ndarray | None = None
) -> Interval:
    """The difference mean(a) - mean(b) where row i of both is of the same prompt, by the bootstrap over prompts (3), or
    over what they are about (4); (5) for shares that all differ alike.

    Raises `ValueError` when the shapes differ.
    """
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    if a.shape != b.shape:
        raise ValueError(f"values of shapes {a.shape} and {b.shape} are not paired")
    difference, cluster_N = a - b, _clusters(len(a), of)
    return _alike(difference, cluster_N, -1.0) or _bootstrap(difference, cluster_N)


def told_apart(a: Sequence | np.ndarray, b: Sequence | np.ndarray, of: Sequence | np.ndarray | None = None) -> bool:
    """Whether two means over the same prompts are told from each other: the interval of their difference has no 0 in
    it, and enough prompts differ. Raises as `paired_difference_ci`."""
    difference = paired_difference_ci(a, b, of)
    return not difference.low <= 0.0 <= difference.high and enough_differ(a, b, of)


def enough_differ(a: Sequence | np.ndarray, b: Sequence | np.ndarray, of: Sequence | np.ndarray | None = None) -> bool:
    """Whether at least `TELLING` prompts differ, or of what they are about as many."""
    differ_N = (np.asarray(a) != np.asarray(b)).reshape(len(a), -1).any(axis=1)
    return _count(_clusters(len(a), of)[differ_N]) >= TELLING


def _clusters(N: int, of: Sequence | np.ndarray | None) -> np.ndarray:
    """The number of each prompt's cluster: each its own where nothing is told, or all are about the same; what is known
    then is known of that alone."""
    if of is None:
        return np.arange(N)
    if len(of) != N:
        raise ValueError(f"{N} prompts and what {len(of)} are about")
    numbers: dict[Any, int] = {}
    cluster_N = np.array([numbers.setdefault(each, len(numbers)) for each in of], int)
    return cluster_N if len(numbers) > 1 else np.arange(N)


def _count(cluster_N: np.ndarray) -> int:
    return len(set(cluster_N.tolist()))


def _alike(values: np.ndarray, cluster_N: np.ndarray, least: float) -> Interval | None:
    """(5) of values within `least` and 1; None where they are not alike, not within, or none."""
    if not values.size or (values != values.flat[0]).any() or not least <= values.flat[0] <= 1.0:
        return None
    mean, unseen = float(values.flat[0]), wilson(0, _count(cluster_N)).high
    return Interval(mean, max(mean - unseen, least), min(mean + unseen, 1.0))


def _bootstrap(values: np.ndarray, cluster_N: np.ndarray) -> Interval:
    prompt_N = np.asarray(values, np.float64).reshape(len(values), -1).mean(axis=1)
    if len(prompt_N) == 0:
        raise ValueError("no values to take the mean of")
    mean = float(prompt_N.mean())
    if len(prompt_N) == 1:  # drawn again and again it is always itself; scipy wants two
        return Interval(mean, mean, mean)
    sums_and_counts = np.bincount(cluster_N, prompt_N), np.bincount(cluster_N)
    found = stats.bootstrap(
        sums_and_counts,
        lambda sum_C, count_C, axis: sum_C.sum(axis) / count_C.sum(axis),
        paired=True,
        n_resamples=RESAMPLES,
        method="percentile",
        rng=np.random.default_rng(0),  # the same interval whenever it is computed
    )  # (3), (4)
    return Interval(mean, *map(float, found.confidence_interval))
