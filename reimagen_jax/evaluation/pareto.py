"""What a grid has shown: every point's shares and cost, which of them nothing beats, and which is best.

  faithful, aligned, both    shares of images with 95 % intervals (statistics.py), as in EntityDrawBench            (1)
  front                      points that no other beats: at least as faithful, as aligned and as cheap, and better
                             in one of them                                                                        (2)
  best                       the highest share of one measure; of equals, the cheapest                             (3)
  indistinguishable          points whose difference to the best, over the same prompts, may be none: its 95 %
                             interval (paired bootstrap) has 0 in it, or fewer than six prompts, or of what they
                             are about, differ (`statistics.enough_differ`)                                        (4)

The best of many points is the luckiest as well: its interval knows nothing of the choice. Other prompts, or another
seed, tell whether it stays the best.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, get_args

import numpy as np
from jaxtyping import Bool

from reimagen_jax.evaluation.grids import Grid
from reimagen_jax.evaluation.rater import Rater
from reimagen_jax.evaluation.ratings import judge, truth
from reimagen_jax.evaluation.statistics import Interval, enough_differ, mean_ci, paired_difference_ci
from reimagen_jax.evaluation.store import Images

Measure = Literal["faithful", "aligned", "both"]
MEASURES: tuple[Measure, ...] = get_args(Measure)


@dataclass(frozen=True, eq=False)
class Result:
    """One point in numbers."""

    number: int
    """From 1, in the grid's order."""
    values: Mapping[str, Any]
    evaluations: int
    """Of the network, for an image."""
    seconds: float | None
    """For an image, on this machine."""
    cost: float
    """By which it is cheap: evaluations; seconds, where networks differ."""
    verdict_VQS: Bool[np.ndarray, "v q s"] | None = None
    """In the order of `MEASURES`, of the rated prompts; None where their images cannot be rated."""
    shares: Mapping[str, Interval] | None = None
    """(1)"""
    behind: Interval | None = None
    """Its measure minus that of the best, prompt by prompt."""
    front: bool = False
    """(2)"""
    tied: bool = False
    """(4); the best itself, too."""


@dataclass(frozen=True)
class Table:
    """All points of a grid, and the choice among them."""

    results: tuple[Result, ...]
    measure: Measure
    by: str
    """What cost is: evaluations or seconds."""
    rated_P: Bool[np.ndarray, " p"]
    best: Result | None = None
    """(3); None where nothing is rated."""

    @property
    def tied(self) -> list[Result]:
        """(4), without the best."""
        return [each for each in self.results if each.tied and each is not self.best]

    @property
    def cheapest(self) -> Result | None:
        """Of the best and those that are not told from it; of equals, the higher."""
        if self.best is None:
            return None
        return min([self.best, *self.tied], key=lambda each: (each.cost, -each.shares[self.measure].mean))

    @property
    def ranked(self) -> list[Result]:
        """For reading: the front first, the better first; last what is not rated."""
        return sorted(self.results, key=lambda each: (not each.front, -self._mean(each), each.cost))

    def _mean(self, each: Result) -> float:
        return -1.0 if each.shares is None else each.shares[self.measure].mean


def tabulate(grid: Grid, images: Images, rater: Rater | None, measure: Measure = "both") -> Table:
    """Rates what was drawn, where a rater applies, and compares. Raises `UserError` for images of another size."""
    truths = [truth(prompt.attributes) for prompt in grid.prompts]
    rated_P = np.array([known is not None for known in truths])
    about = [known.about for known in truths if known is not None]
    networks = {(each.parameters, *(str(stage.config.system) for stage in each.stages)) for each in grid.programs}
    several = len(networks) > 1 or len(grid.programs[0].stages) > 1
    results = []
    for number, point in enumerate(grid.points, 1):
        seconds = grid.seconds(point.program, images)
        cost = seconds if several and seconds is not None else point.program.evaluations
        result = Result(number, point.values, point.program.evaluations, seconds, cost)
        same = all(a.attributes == b.attributes for a, b in zip(point.prompts, grid.prompts, strict=True))
        if rater is not None and same:
            image_QSHWC = grid.images_of(point, images)[rated_P]
            known = [each for each in truths if each is not None for _ in range(grid.num_images)]
            said = judge(image_QSHWC.reshape(-1, *image_QSHWC.shape[2:]), known, rater)
            said = said.reshape(2, *image_QSHWC.shape[:2])
            result = _with_shares(result, np.concatenate([said, said.all(axis=0)[None]]), about)
        results.append(result)
    return chosen(results, measure, "seconds" if several else "evaluations", rated_P, about)


def chosen(
    results: Sequence[Result], measure: Measure, by: str, rated_P: np.ndarray, about: Sequence[str] | None = None
) -> Table:
    """Finds the front, the best, and what cannot be told from it; `about` is what each rated prompt is about."""
    rated = [each for each in results if each.shares is not None]
    if not rated:
        return Table(tuple(results), measure, by, rated_P)
    on_front = dict(zip([each.number for each in rated], front(rated), strict=True))
    best = min(rated, key=lambda each: (-each.shares[measure].mean, each.cost)).number
    best_QS = next(each.verdict_VQS for each in rated if each.number == best)[MEASURES.index(measure)]
    compared = []
    for each in results:
        if each.shares is not None:
            own_QS = each.verdict_VQS[MEASURES.index(measure)]
            itself = each.number == best
            behind = Interval(0.0, 0.0, 0.0) if itself else paired_difference_ci(own_QS, best_QS, about)
            tied = behind.high >= 0.0 or not enough_differ(own_QS, best_QS, about)
            each = replace(each, behind=behind, front=on_front[each.number], tied=tied)
        compared.append(each)
    return Table(tuple(compared), measure, by, rated_P, next(each for each in compared if each.number == best))


def front(rated: Sequence[Result]) -> list[bool]:
    """(2), by the means."""
    gain_ND = np.array([[each.shares["faithful"].mean, each.shares["aligned"].mean, -each.cost] for each in rated])
    return [not bool(((gain_ND >= own).all(axis=1) & (gain_ND > own).any(axis=1)).any()) for own in gain_ND]


def _with_shares(result: Result, verdict_VQS: np.ndarray, about: Sequence[str] | None = None) -> Result:
    shares = {name: mean_ci(said_QS, about) for name, said_QS in zip(MEASURES, verdict_VQS, strict=True)}
    return replace(result, verdict_VQS=verdict_VQS, shares=shares)
