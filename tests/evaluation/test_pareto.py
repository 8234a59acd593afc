"""What a grid has shown: the front by brute force, the best by its mean, and what cannot be told from it."""

import numpy as np
import pytest

from reimagen_jax.evaluation.pareto import MEASURES, Result, chosen, front
from reimagen_jax.evaluation.statistics import Interval, mean_ci, paired_difference_ci


def result(number: int, faithful, aligned, evaluations: int = 10) -> Result:
    """Of one image for each prompt."""
    faithful_Q, aligned_Q = np.asarray(faithful, bool), np.asarray(aligned, bool)
    verdict_VQS = np.stack([faithful_Q, aligned_Q, faithful_Q & aligned_Q])[:, :, None]
    shares = {name: mean_ci(said) for name, said in zip(MEASURES, verdict_VQS, strict=True)}
    return Result(number, {"n": number}, evaluations, 0.1, evaluations, verdict_VQS, shares)


def with_means(number: int, faithful: float, aligned: float, cost: float) -> Result:
    shares = {name: Interval(mean, 0.0, 1.0) for name, mean in (("faithful", faithful), ("aligned", aligned))}
    return Result(number, {}, 1, None, cost, shares=shares)


def table(results, measure="both"):
    return chosen(results, measure, "evaluations", np.ones(1, bool))


@pytest.mark.parametrize("seed", range(5))
def test_the_front_is_what_nothing_beats(seed):
    draw = np.random.default_rng(seed)
    triples = draw.integers(0, 5, (40, 3))  # few values: many are equal
    points = [with_means(i, *map(float, triple)) for i, triple in enumerate(triples)]

    def beats(a, b):
        as_good = a[0] >= b[0] and a[1] >= b[1] and a[2] <= b[2]
        return as_good and tuple(a) != tuple(b)

    expected = [not any(beats(a, b) for a in triples) for b in triples]
    assert front(points) == expected and 0 < sum(expected) < 40


def test_the_best_is_the_highest_mean_and_of_equals_the_cheapest():
    right, half = [1] * 20, [1] * 10 + [0] * 10
    points = [result(1, half, right), result(2, right, right, 40), result(3, right, right, 20), result(4, right, half)]
    assert table(points).best.number == 3
    assert table(points, "faithful").best.number == 4
    assert table(points, "aligned").best.number == 1
    assert [each.number for each in table(points).ranked][:1] == [3]
    assert {each.number for each in table(points).results if each.front} == {1, 3, 4}


def test_what_cannot_be_told_from_the_best_is_named_and_the_cheapest_of_it():
    draw = np.random.default_rng(0)
    best = draw.random(200) < 0.9
    near, far = best.copy(), best.copy()
    near[np.flatnonzero(best)[:4]], near[np.flatnonzero(~best)[:3]] = False, True
    far[np.flatnonzero(best)[:60]] = False
    right = np.ones(200)
    shown = table([result(1, best, right, 50), result(2, near, right, 8), result(3, far, right, 2)])
    assert shown.best.number == 1 and [each.number for each in shown.tied] == [2]
    assert shown.cheapest.number == 2
    assert shown.best.behind == (0.0, 0.0, 0.0), "of itself it is known"
    for each, values in zip(shown.results[1:], (near, far), strict=True):
        assert each.behind == paired_difference_ci(values[:, None], best[:, None])
    assert [each.tied for each in shown.results] == [True, True, False]


def test_few_prompts_that_differ_tell_nothing():
    """By the bootstrap alone two prompts of two would be certainty."""
    for count, tied in ((2, True), (5, True), (6, False)):
        shown = table([result(1, [1] * count, [1] * count), result(2, [0] * count, [1] * count, 1)])
        assert [each.tied for each in shown.results] == [True, tied]
    rows = [result(1, [1] * 12, [1] * 12), result(2, [0] * 12, [1] * 12, 1)]
    for entities, tied in ((6, False), (4, True)):
        shown = chosen(rows, "faithful", "evaluations", np.ones(12, bool), [i % entities for i in range(12)])
        assert [each.tied for each in shown.results] == [True, tied], "nor do few entities"
        assert shown.cheapest.number == (2 if tied else 1)


def test_what_is_not_rated_is_in_the_table_and_never_chosen():
    unrated = Result(1, {}, 1, None, 1.0)
    shown = table([unrated, result(2, [0, 1] * 5, [1] * 10)])
    assert shown.best.number == 2 and not shown.results[0].front and not shown.results[0].tied
    assert [each.number for each in shown.ranked] == [2, 1]
    nothing = table([unrated])
    assert nothing.best is None and nothing.cheapest is None and nothing.tied == []
