"""Some of many: as many as asked for, rising, from the first to the last, as far apart as can be."""

import numpy as np
import pytest

from reimagen_jax.data.spread import spread


@pytest.mark.parametrize(
    ("count", "most", "expected"),
    [(0, 3, []), (1, 3, [0]), (3, 3, [0, 1, 2]), (3, 9, [0, 1, 2]), (9, 1, [0]), (9, 2, [0, 8]), (9, 3, [0, 4, 8])],
)
def test_numbers_are_those_that_are_expected(count, most, expected):
    assert spread(count, most).tolist() == expected


def test_none_is_twice_there_and_steps_differ_by_one_at_most():
    for count in range(2, 60):
        for most in range(2, count + 1):
            found = spread(count, most)
            steps = np.diff(found)
            assert len(found) == most and (found[0], found[-1]) == (0, count - 1)
            assert steps.min() > 0 and steps.max() - steps.min() <= 1
