"""Weights in files: what is read is what was written, and mismatches are all named at once."""

import jax
import numpy as np
import pytest

from reimagen_jax.errors import UserError
from reimagen_jax.pretrained.weights import EXPERIMENT, WEIGHTS, load_params, load_weights, save_params, save_weights
from reimagen_jax.systems.reimagen import ReImagen
from tests.tiny import TINY


def test_a_folder_of_weights_round_trips(tmp_path):
    params = jax.jit(ReImagen(TINY).init)(jax.random.key(0))
    save_weights(tmp_path, TINY, params)
    config, loaded = load_weights(tmp_path)
    assert config == TINY
    jax.tree.map(np.testing.assert_array_equal, loaded, params)
    save_weights(tmp_path / "half", TINY, params, np.float16)
    half = load_weights(tmp_path / "half")[1]
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-7), half, params)
    assert all(leaf.dtype == np.float32 for leaf in jax.tree.leaves(half))


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


def test_broken_files_are_refused_by_name(tmp_path):
    with pytest.raises(UserError, match=EXPERIMENT):
        load_weights(tmp_path)
    params = jax.jit(ReImagen(TINY).init)(jax.random.key(0))
    save_weights(tmp_path, TINY, params)
    whole = (tmp_path / WEIGHTS).read_bytes()
    (tmp_path / WEIGHTS).write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UserError, match=WEIGHTS):
        load_weights(tmp_path)
