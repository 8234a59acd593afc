"""Intervals: published examples, coverage, symmetry, and prompts as the unit of resampling."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from reimagen_jax.evaluation.statistics import (
    Interval,
    difference_ci,
    mean_ci,
    paired_difference_ci,
    told_apart,
    wilson,
)

counts = st.integers(1, 400).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n)))


def outcomes(successes: int, trials: int) -> np.ndarray:
    return np.arange(trials) < successes


def test_published_examples():
    np.testing.assert_allclose(wilson(81, 263)[1:], (0.2553, 0.3662), atol=5e-5)  # Newcombe 1998a, table I
    found = difference_ci(outcomes(56, 70), outcomes(48, 80))  # Newcombe 1998b, table II, method 10
    np.testing.assert_allclose(found, (0.2, 0.0524, 0.3339), atol=5e-5)


@given(counts)
def test_wilson_contains_the_mean_stays_in_range_and_is_symmetric(pair):
    successes, trials = pair
    mean, low, high = wilson(successes, trials)
    assert 0 <= low <= mean <= high <= 1 and low < high
    mirrored = wilson(trials - successes, trials)
    np.testing.assert_allclose((1 - mean, 1 - high, 1 - low), mirrored, atol=1e-12)


@pytest.mark.parametrize("n", [20, 100, 256])
def test_wilson_covers_the_truth_19_times_of_20(n):
    intervals = np.array([wilson(s, n)[1:] for s in range(n + 1)])
    coverage = []
    for p in np.linspace(0.02, 0.98, 97):
        chance = [math.comb(n, s) * p**s * (1 - p) ** (n - s) for s in range(n + 1)]
        coverage.append(np.dot(chance, (intervals[:, 0] <= p) & (p <= intervals[:, 1])))
    assert abs(np.mean(coverage) - 0.95) < 0.01


def test_mean_of_one_value_a_prompt_is_a_proportion_whatever_its_shape():
    values = outcomes(30, 100)
    assert mean_ci(values) == mean_ci(values[:, None]) == mean_ci(values.astype(float)) == wilson(30, 100)


def test_images_of_one_prompt_count_as_one():
    rng = np.random.default_rng(0)
    independent = rng.random((300, 8)) < 0.5
    repeated = np.repeat(rng.random((300, 1)) < 0.5, 8, axis=1)

    def width(values: np.ndarray) -> float:
        return mean_ci(values).high - mean_ci(values).low

    assert width(repeated) == pytest.approx(width(repeated[:, 0]), rel=0.1)
    assert width(independent) == pytest.approx(width(repeated) / math.sqrt(8), rel=0.15)


class TestPromptsAboutTheSame:
    rng = np.random.default_rng(4)
    right_C = rng.random(60) < 0.5
    size_C = rng.integers(1, 9, 60)
    of = np.repeat(np.arange(60), size_C)

    def test_they_count_as_one_where_they_agree(self):
        (mean, low, high), alone = mean_ci(np.repeat(self.right_C, 5), np.repeat(range(60), 5)), mean_ci(self.right_C)
        assert mean == alone.mean and high - low == pytest.approx(alone.high - alone.low, rel=0.1)
        certain = mean_ci(np.ones(20), np.repeat(range(4), 5))
        assert certain == mean_ci(np.ones(4)), "and do not make certainty"

    def test_their_interval_covers_the_truth_as_often_as_it_says(self):
        covered = {"of": 0, "without": 0}
        rng = np.random.default_rng(5)
        for _ in range(150):
            values = rng.random(len(self.of)) < np.repeat(rng.beta(0.5, 0.5, 60), self.size_C)
            for name, found in {"of": mean_ci(values, self.of), "without": mean_ci(values)}.items():
                covered[name] += found.low <= 0.5 <= found.high
        assert covered["of"] / 150 > 0.89 and covered["without"] / 150 < 0.8

    def test_names_of_any_kind_tell_them_and_one_of_each_or_one_of_all_changes_nothing(self):
        values = np.random.default_rng(6).random(len(self.of))
        named = [f"entity {c}" for c in self.of]
        assert mean_ci(values, named) == mean_ci(values, self.of) != mean_ci(values)
        assert mean_ci(values, range(len(values))) == mean_ci(values, ["the same"] * len(values)) == mean_ci(values)
        with pytest.raises(ValueError, match="3 prompts and what 2 are about"):
            mean_ci([1, 0, 1], ["a", "b"])

    def test_differences_know_of_them(self):
        values = np.repeat(self.right_C, self.size_C)
        other = np.zeros(len(values), bool)
        assert paired_difference_ci(values, other, self.of) == mean_ci(values * 1.0, self.of)
        apart, known = difference_ci(values, other), difference_ci(values, other, self.of, self.of)
        assert known.mean == apart.mean and known.low < apart.low and known.high > apart.high


@given(counts, counts)
def test_difference_changes_sign_with_its_order(first, second):
    a, b = outcomes(*first), outcomes(*second)
    mean, low, high = difference_ci(a, b)
    np.testing.assert_allclose(difference_ci(b, a), (-mean, -high, -low), atol=1e-12)
    assert low <= mean <= high


def test_pairing_sees_what_a_comparison_of_means_does_not():
    rng = np.random.default_rng(1)
    hard = rng.random(200) < 0.5  # prompts that both fail
    better, worse = ~hard, ~hard & (rng.random(200) < 0.9)
    paired, unpaired = paired_difference_ci(better, worse), difference_ci(better, worse)
    assert paired.mean == pytest.approx(unpaired.mean)
    assert paired.low > 0 > unpaired.low


def test_intervals_print_and_are_reproducible():
    values = np.random.default_rng(2).random(50)
    assert mean_ci(values) == mean_ci(values)
    assert str(Interval(0.5, 0.25, 0.75)) == "0.500 [0.250, 0.750]"


def test_nothing_has_no_mean():
    for empty in (np.zeros(0), np.zeros((0, 3))):
        with pytest.raises(ValueError, match="no"):
            mean_ci(empty)
    with pytest.raises(ValueError, match="not paired"):
        paired_difference_ci([1, 0], [1])


def test_prompts_that_all_agree_do_not_make_certainty():
    assert mean_ci(np.ones((8, 4))) == mean_ci(np.ones(8))
    assert mean_ci(np.zeros((8, 4))) == mean_ci(np.zeros(8))
    assert paired_difference_ci(np.zeros(8), np.zeros(8)) == (0.0, -wilson(0, 8).high, wilson(0, 8).high)
    assert paired_difference_ci(np.ones((8, 2)), np.zeros((8, 2))) == mean_ci(np.ones(8))
    assert mean_ci(np.full(8, 0.75)) == (0.75, 0.75 - wilson(0, 8).high, 1.0)
    assert mean_ci(np.full((1, 3), 0.5))[1:] == (0.0, 1.0), "nor does one prompt"


def test_means_are_told_apart_by_what_differs_six_times():
    zeros = np.zeros(40)
    few, enough = np.arange(40) < 5, np.arange(40) < 6
    assert paired_difference_ci(few, zeros).low > 0 and not told_apart(few, zeros)
    assert told_apart(enough, zeros) and told_apart(zeros, enough)
    assert not told_apart(enough, zeros, np.arange(40) // 2), "which are of three entities"
    assert not told_apart(np.arange(40) < 20, np.arange(40) >= 20), "as often the one as the other"
