"""Fusion: its formulas on lists written out by hand, and its limits."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from reimagen_jax.errors import UserError
from reimagen_jax.retrieval import hybrid
from reimagen_jax.retrieval.hybrid import Fusion

LISTS = st.lists(st.permutations(range(6)).map(lambda p: [*p[:4], -1]), min_size=2, max_size=2)


def test_by_rank():
    words, vectors = np.array([[3, 1, -1]]), np.array([[1, 2, 3]])
    ids = hybrid.union(words, vectors)
    assert sorted(set(ids[0].tolist())) == [-1, 1, 2, 3]
    found, scores = hybrid.best(ids, hybrid.reciprocal(words, vectors, ids, Fusion(constant=1)), 4)
    assert found.tolist() == [[1, 3, 2, -1]]
    np.testing.assert_allclose(scores, [[0.5 / 3 + 0.5 / 2, 0.5 / 2 + 0.5 / 4, 0.5 / 3, 0]])


def test_by_score():
    scores = hybrid.weighted(np.array([[2.0, 0.0, 4.0]]), np.array([[0.5, 1.0, -0.5]]), Fusion("weighted", 0.25))
    np.testing.assert_allclose(scores, [[0.375 + 0.125, 0.25, 0.75 - 0.125]])
    assert hybrid.weighted(np.zeros((1, 2)), np.ones((1, 2)), Fusion("weighted")).tolist() == [[0.5, 0.5]]


@given(LISTS)
def test_a_candidate_of_both_lists_is_there_once(lists):
    ids = hybrid.union(*(np.array([each]) for each in lists))
    valid = [n for n in ids[0].tolist() if n >= 0]
    assert sorted(valid) == sorted((set(lists[0]) | set(lists[1])) - {-1})


@given(LISTS)
def test_two_equal_lists_keep_their_order(lists):
    one = np.array([lists[0]])
    ids = hybrid.union(one, one)
    assert hybrid.best(ids, hybrid.reciprocal(one, one, ids, Fusion()), 5)[0].tolist() == one.tolist()


def test_ties_go_to_the_lower_id():
    words, vectors = np.array([[5, 2]]), np.array([[2, 5]])
    ids = hybrid.union(words, vectors)
    assert hybrid.best(ids, hybrid.reciprocal(words, vectors, ids, Fusion()), 3)[0].tolist() == [[2, 5, -1]]


@pytest.mark.parametrize("bad", [{"dense_weight": 1.1}, {"depth": 0}, {"constant": 0}, {"kind": "median"}])
def test_settings_out_of_range(bad):
    with pytest.raises(UserError, match=r"fusion|weight"):
        Fusion(**bad)
