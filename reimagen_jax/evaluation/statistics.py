"""Means and differences with 95 % confidence intervals, from 0/1 ratings of images.

    (1) Wilson       of a proportion (scipy's)
    (2) Newcombe     of p1 - p2, from the Wilson bounds (l, u) of each (scipy has none):
                     p1 - p2 - sqrt((p1 - l1)^2 + (u2 - p2)^2)  ..  p1 - p2 + sqrt((u1 - p1)^2 + (p2 - l2)^2)
    (3) bootstrap    the 2.5 % and 97.5 % quantiles of the mean over prompts drawn with replacement (scipy's)
Images of one prompt are not independent, so (3) draws prompts, with all their images.
Sources: Wilson 1927; Newcombe 1998 (method 10); Efron 1979.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from scipy import stats

RESAMPLES = 4000


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


def mean_ci(values: Sequence | np.ndarray) -> Interval:
    """The mean of one value a prompt [N], or of several [N, S], with its 95 % confidence interval.

    Wilson's interval (1) for one 0/1 value a prompt, else the bootstrap over prompts (3). Raises `ValueError` when
    empty.
    """
    values = np.asarray(values)
    if values.ndim > 1 and values.shape[1] == 1:
        values = values[:, 0]
    if values.ndim == 1 and np.isin(values, (0, 1)).all():
        return wilson(int(values.sum()), len(values))
    if values.size and np.isin(values, (0, 1)).all() and (values == values.flat[0]).all():
        # Resampling prompts that all agree would claim certainty; as many prompts with one value each would not.
        return wilson(len(values) * int(values.flat[0]), len(values))
    return _bootstrap(values)


def difference_ci(a: Sequence | np.ndarray, b: Sequence | np.ndarray) -> Interval:
    """The difference mean(a) - mean(b) of 0/1 values of different prompts, with Newcombe's interval (2)."""
    first, second = mean_ci(a), mean_ci(b)
    difference = first.mean - second.mean
    below = math.hypot(first.mean - first.low, second.high - second.mean)
    above = math.hypot(first.high - first.mean, second.mean - second.low)
    return Interval(difference, difference - below, difference + above)  # (2)


def paired_difference_ci(a: Sequence | np.ndarray, b: Sequence | np.ndarray) -> Interval:
    """The difference mean(a) - mean(b) where row i of both is of the same prompt, by the bootstrap over prompts (3).

    Raises `ValueError` when the shapes differ.
    """
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    if a.shape != b.shape:
        raise ValueError(f"values of shapes {a.shape} and {b.shape} are not paired")
    return _bootstrap(a - b)


def _bootstrap(values: np.ndarray) -> Interval:
    prompt_N = np.asarray(values, np.float64).reshape(len(values), -1).mean(axis=1)
    if len(prompt_N) == 0:
        raise ValueError("no values to take the mean of")
    mean = float(prompt_N.mean())
    if len(prompt_N) == 1:  # drawn again and again it is always itself; scipy wants two
        return Interval(mean, mean, mean)
    rng = np.random.default_rng(0)  # the same interval whenever it is computed
    found = stats.bootstrap((prompt_N,), np.mean, n_resamples=RESAMPLES, method="percentile", rng=rng)  # (3)
    return Interval(mean, *map(float, found.confidence_interval))
