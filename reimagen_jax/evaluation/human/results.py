"""What people have said, in numbers: shares with 95 % intervals, differences, agreement.

For a system and a group of prompts, of ratings that are 0 or 1:
    photorealism, faithfulness   the share of 1                                                            (1)
    both                         1 in both, of the same picture                                            (2)
    best                         where every picture was rated by itself: (2) in any of a prompt's         (3)
Where raters took the best of a prompt's pictures, (1) and (2) are of that, as in the paper.
A prompt's value is the mean over its raters; intervals are over prompts (`statistics.mean_ci`), which are what a system
is to be judged by beyond those that were asked. Raters are taken as they are: how far they agree is told beside it.

    alpha   Krippendorff's, nominal, over all raters and tasks, whoever rated what                         (4)
    kappa   Cohen's, of two raters on the tasks that both have rated                                       (5)
Both are 1 where all agree and 0 where they agree as chance would have it; without any difference in what was said they
are not defined. Sources: Krippendorff 2011; Cohen 1960 (scikit-learn's).
"""

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import krippendorff
import numpy as np
from sklearn.metrics import cohen_kappa_score

from reimagen_jax.evaluation.human.store import Rating
from reimagen_jax.evaluation.human.study import FREQUENT, INFREQUENT, QUESTIONS, Study
from reimagen_jax.evaluation.statistics import Interval, difference_ci, mean_ci, paired_difference_ci

BOTH, BEST = "both", "best"
ALL, CATEGORY, FREQUENCY = "all", "category", "frequency"


@dataclass(frozen=True)
class Row:
    """A system on a group of prompts."""

    by: str
    """What the prompts are grouped by: all, category, frequency."""
    group: str
    system: str
    prompts: int
    """That were rated."""
    ratings: int
    shares: dict[str, Interval]


@dataclass(frozen=True)
class Difference:
    """Of a measure: the first less the second."""

    what: str
    measure: str
    prompts: int
    difference: Interval


@dataclass(frozen=True)
class Agreement:
    """Of raters, on a question."""

    question: str
    raters: tuple[str, ...]
    """Two; or all."""
    tasks: int
    """That at least two of them have rated."""
    agree: float | None
    """Share of pairs of ratings of one task that are equal; None without any."""
    alpha: float | None = None
    """(4); None where it is not defined, and for two raters."""
    kappa: float | None = None
    """(5); None where it is not defined, and for all."""


@dataclass(frozen=True)
class Results:
    """All figures of a study."""

    rows: tuple[Row, ...]
    differences: tuple[Difference, ...]
    agreement: tuple[Agreement, ...]


def measures_of(study: Study) -> tuple[str, ...]:
    """The names of (1) to (3), as far as there are such."""
    each = study.best_of == 1 and study.images_per_prompt > 1
    return (*QUESTIONS, BOTH, *([BEST] if each else []))


def results(study: Study, ratings: Sequence[Rating]) -> Results:
    """Raises `ValueError` without ratings."""
    if not ratings:
        raise ValueError("there are no ratings to compute anything of")
    values = {system: _values(study, ratings, s) for s, system in enumerate(study.systems)}
    rows = [
        _row(study, ratings, values[system], by, group, system, members)
        for by, group, members in groups(study)
        for system in study.systems
        if values[system].keys() & set(members)
    ]
    return Results(tuple(rows), tuple(_differences(study, values)), tuple(agreement(study, ratings)))


def groups(study: Study) -> Iterator[tuple[str, str, list[int]]]:
    """All prompts, those of each category, and the frequent and the infrequent: by, name, numbers of the prompts."""
    every = list(range(len(study.prompts)))
    yield ALL, ALL, every
    for by in (CATEGORY, FREQUENCY):
        told = [getattr(prompt, by) for prompt in study.prompts]
        names = dict.fromkeys(told) if by == CATEGORY else dict.fromkeys((FREQUENT, INFREQUENT, ""))
        if by == CATEGORY:
            names = dict.fromkeys(sorted(names, key=lambda name: (not name, name)))
        if set(told) <= {""}:
            continue
        for name in names:
            if members := [p for p in every if told[p] == name]:
                yield by, name or "not told", members


Values = dict[int, dict[str, float]]
"""Of a system: the value of each measure for every prompt that was rated."""


def _values(study: Study, ratings: Sequence[Rating], system: int) -> Values:
    said: dict[int, dict[str, list[tuple[int, int]]]] = {}
    for rating in ratings:
        task = study.tasks[rating.task]
        if task.system == system:
            by_rater = said.setdefault(task.prompt, {})
            by_rater.setdefault(rating.rater, []).append((rating.photorealism, rating.faithfulness))
    values: Values = {}
    per_prompt = -(-study.images_per_prompt // study.best_of)
    for prompt, by_rater in sorted(said.items()):
        means = [np.mean([(a, b, a & b) for a, b in pairs], axis=0) for pairs in by_rater.values()]
        values[prompt] = dict(zip((*QUESTIONS, BOTH), map(float, np.mean(means, axis=0)), strict=True))  # (1), (2)
        whole = [any(a & b for a, b in pairs) for pairs in by_rater.values() if len(pairs) == per_prompt]
        if BEST in measures_of(study) and whole:
            values[prompt][BEST] = float(np.mean(whole))  # (3)
    return values


def _row(
    study: Study, ratings: Sequence[Rating], values: Values, by: str, group: str, system: str, members: Sequence[int]
) -> Row:
    inside = [values[prompt] for prompt in members if prompt in values]
    shares = {}
    for measure in measures_of(study):
        if found := [value[measure] for value in inside if measure in value]:
            shares[measure] = mean_ci(found)
    number = study.systems.index(system)
    tasks = {t for t, task in enumerate(study.tasks) if task.system == number and task.prompt in set(members)}
    return Row(by, group, system, len(inside), sum(rating.task in tasks for rating in ratings), shares)


def _differences(study: Study, values: dict[str, Values]) -> Iterator[Difference]:
    """Of every two systems on the same prompts; of the frequent and the infrequent prompts of each system."""
    measures = measures_of(study)
    for first, second in itertools.combinations(study.systems, 2):
        for measure in measures:
            both = [
                p
                for p in sorted(values[first].keys() & values[second].keys())
                if measure in values[first][p] and measure in values[second][p]
            ]
            if both:
                a, b = ([values[system][p][measure] for p in both] for system in (first, second))
                yield Difference(f"{first} - {second}", measure, len(both), paired_difference_ci(a, b))
    for system in study.systems:
        for measure in measures:
            halves = [
                [v[measure] for p, v in values[system].items() if study.prompts[p].frequency == name and measure in v]
                for name in (FREQUENT, INFREQUENT)
            ]
            if all(halves):
                what = f"{system}: {FREQUENT} - {INFREQUENT}"
                yield Difference(what, measure, sum(map(len, halves)), difference_ci(*halves))


def agreement(study: Study, ratings: Sequence[Rating]) -> Iterator[Agreement]:
    """On each question: of all raters, then of every two that have tasks in common."""
    raters = tuple(dict.fromkeys(rating.rater for rating in ratings))
    row = {name: i for i, name in enumerate(raters)}
    for question in QUESTIONS:
        said_RT = np.full((len(raters), len(study)), np.nan)
        for rating in ratings:
            said_RT[row[rating.rater], rating.task] = getattr(rating, question)
        shared_T = (~np.isnan(said_RT)).sum(axis=0) >= 2
        yield Agreement(question, raters, int(shared_T.sum()), _equal(said_RT), alpha=alpha(said_RT))
        for a, b in itertools.combinations(raters, 2):
            pair_2T = said_RT[[row[a], row[b]]]
            pair_2T = pair_2T[:, ~np.isnan(pair_2T).any(axis=0)]
            if pair_2T.shape[1]:
                share = float((pair_2T[0] == pair_2T[1]).mean())
                yield Agreement(question, (a, b), pair_2T.shape[1], share, kappa=kappa(*pair_2T))


def alpha(said_RT: np.ndarray) -> float | None:
    """(4) of 0, 1 and NaN (not rated), raters by tasks; None where no task has two ratings, or all say the same."""
    said_RT = said_RT[:, (~np.isnan(said_RT)).sum(axis=0) >= 2]
    if len(np.unique(said_RT[~np.isnan(said_RT)])) < 2:
        return None
    return float(krippendorff.alpha(said_RT, level_of_measurement="nominal"))  # (4)


def kappa(a_T: np.ndarray, b_T: np.ndarray) -> float | None:
    """(5) of two raters' 0 and 1; None where both say the same of everything."""
    if len(np.unique([a_T, b_T])) < 2:
        return None
    return float(cohen_kappa_score(a_T.astype(int), b_T.astype(int)))  # (5)


def _equal(said_RT: np.ndarray) -> float | None:
    """The share of pairs of ratings of one task that are equal."""
    pairs = equal = 0.0
    for said in said_RT.T:
        told = said[~np.isnan(said)]
        n, ones = len(told), float(told.sum())
        pairs += n * (n - 1) / 2
        equal += ones * (ones - 1) / 2 + (n - ones) * (n - ones - 1) / 2
    return equal / pairs if pairs else None


def as_json(found: Results) -> dict[str, Any]:
    """JSON types."""
    return {
        "rows": [
            {**{name: getattr(row, name) for name in ("by", "group", "system", "prompts", "ratings")}, **row.shares}
            for row in found.rows
        ],
        "differences": [vars(each) for each in found.differences],
        "agreement": [vars(each) for each in found.agreement],
    }
