"""Weights in files: what is read is what was written, and mismatches are all named at once."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P
from safetensors.numpy import save_file

from reimagen_jax.errors import UserError
from reimagen_jax.pretrained.finite import CHUNK, all_finite, require_finite_tree
from reimagen_jax.pretrained.weights import load_params, save_params
from reimagen_jax.sharding import make_mesh


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


def tree(**leaves):
    return {"a": {name: np.asarray(leaf, np.float32) for name, leaf in leaves.items()}}


def test_float16_refuses_what_it_cannot_hold_by_name(tmp_path):
    sound = tree(large=[65504.0, -65472.0], small=[1e-8, -6e-8, 1e-45])
    save_params(tmp_path / "half", sound, np.float16)
    np.testing.assert_array_equal(load_params(tmp_path / "half", sound)["a"]["large"], sound["a"]["large"])
    for value in (65520.0, -1e5, 3e38):
        with pytest.raises(UserError, match=re.escape(f"a/b holds {abs(value):g}, and float16 ends at 65504")):
            save_params(tmp_path / "over", tree(c=[1.0], b=[0.0, value]), np.float16)
        save_params(tmp_path / "whole", tree(b=[0.0, value]))
    assert not (tmp_path / "over").exists() and not (tmp_path / ".over.partial").exists()


@pytest.mark.parametrize("on_host", [False, True])
def test_bfloat16_is_held_as_it_is_stored_and_vectors_are_whole(tmp_path, on_host):
    whole = tree(kernel=[[1.00390625, -3.0]], scale=[1.00390625])
    save_params(tmp_path / "half", whole, jnp.bfloat16)
    read = load_params(tmp_path / "half", whole, on_host=on_host)["a"]
    assert read["kernel"].dtype == jnp.bfloat16 and read["scale"].dtype == jnp.float32
    np.testing.assert_array_equal(np.asarray(read["kernel"], np.float32), [[1.0, -3.0]])
    np.testing.assert_array_equal(read["scale"], whole["a"]["scale"])
    save_params(tmp_path / "again", {"a": read})  # any precision is written from any
    assert load_params(tmp_path / "again", whole)["a"]["kernel"].dtype == jnp.float32


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_is_neither_written_nor_read(tmp_path, value):
    params = tree(good=np.ones(70_000), bad=[1.0, value])
    for dtype in (np.float32, np.float16):
        with pytest.raises(UserError, match="1 of the 2 numbers of a/bad are not finite"):
            save_params(tmp_path / "w", params, dtype)
    save_file({f"a/{name}": leaf for name, leaf in params["a"].items()}, tmp_path / "w")
    for on_host in (False, True):
        with pytest.raises(UserError, match="w: 1 of the 2 numbers of a/bad are not finite"):
            load_params(tmp_path / "w", params, on_host=on_host)


def test_a_tree_on_devices_is_looked_through():
    mesh = make_mesh(fsdp=4)
    values = np.ones((8, 3), np.float32)
    for bad in (None, 0, 7):
        if bad is not None:
            values[bad, 1] = np.nan
        for spec in (P(), P("fsdp")):
            params = {"a": {"b": jax.device_put(values, NamedSharding(mesh, spec))}, "n": np.arange(3)}
            if bad is None:
                require_finite_tree(params, "here")
                continue
            with pytest.raises(UserError, match=r"here: .* numbers of a/b are not finite"):
                require_finite_tree(params, "here")


def test_every_number_is_looked_at():
    for dtype in (np.float16, np.float32, np.float64, jnp.bfloat16):
        for number in (0, CHUNK - 1, CHUNK, 2 * CHUNK + 4):
            array = np.full(2 * CHUNK + 5, -1.5).astype(dtype)
            assert all_finite(array) and all_finite(array.reshape(1, -1).T)
            array[number] = -np.inf
            assert not all_finite(array) and not all_finite(array.reshape(-1, 1).T)
    assert all_finite(np.arange(5)) and all_finite(np.zeros(0, np.float32)) and all_finite(np.float32(3).reshape(()))
