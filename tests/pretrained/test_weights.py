"""Weights in files: what is read is what was written, and mismatches are all named at once."""

import jax
import numpy as np
import pytest

from reimagen_jax.errors import UserError
from reimagen_jax.pretrained.weights import load_params, save_params


def test_arrays_are_written_in_order_however_they_lie(tmp_path):
    lying = {"a": np.arange(6.0, dtype=np.float32).reshape(2, 3).T, "b": np.arange(8.0)[::2], "c": np.float32(3.0)}
    save_params(tmp_path / "w", lying)
    jax.tree.map(np.testing.assert_array_equal, load_params(tmp_path / "w", lying), lying)


def test_all_mismatches_are_named(tmp_path):
    save_params(tmp_path / "w", {"a": {"b": np.zeros(3)}, "c": np.zeros(2)})
    expected = {"a": {"b": np.zeros(4)}, "d": np.zeros(1)}
    with pytest.raises(UserError) as caught:
        load_params(tmp_path / "w", expected)
    for part in ("d is missing", "c is unknown", "a/b has shape (3,), not (4,)"):
        assert part in str(caught.value)
