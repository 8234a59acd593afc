"""Digests of arrays: one number, however an array is split; another for whatever is changed in it."""

import jax
import ml_dtypes
import numpy as np
import pytest
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from reimagen_jax.training.digest import BLOCK, changed, digests

DTYPES = (np.float32, np.float16, ml_dtypes.bfloat16, ml_dtypes.float8_e4m3fn, np.int8, np.uint32, np.bool_, np.float64)


@pytest.fixture
def array():
    return np.random.default_rng(0).standard_normal((16, 24, 8)).astype(np.float32)


@pytest.mark.parametrize(
    "spec", [P(), P("a"), P("b"), P("a", "b"), P(None, ("a", "b")), P(None, "b", "a"), P(("b", "a"), None, None)]
)
def test_an_array_has_one_digest_however_it_is_split(array, spec):
    mesh = jax.make_mesh((2, 4), ("a", "b"))
    assert digests({"x": jax.device_put(array, NamedSharding(mesh, spec))}) == digests({"x": array})


@pytest.mark.parametrize("dtype", DTYPES, ids=lambda dtype: np.dtype(dtype).name)
def test_every_bit_of_every_type_counts(dtype):
    values = np.random.default_rng(1).standard_normal((3, 5)).astype(dtype)
    seen = {digests(values)[""]}
    raw = bytearray(values.tobytes())
    for bit in range(len(raw) * 8):
        raw[bit // 8] ^= 1 << bit % 8
        seen.add(digests(np.frombuffer(bytes(raw), dtype).reshape(values.shape))[""])
        raw[bit // 8] ^= 1 << bit % 8
    assert len(seen) == 1 + len(raw) * 8


def test_order_shape_type_and_what_is_far_apart_count(array):
    seen = [digests(x)[""] for x in (array, array[::-1], array.reshape(24, 16, 8), array.view(np.int32), array[:8])]
    large = np.zeros(3 * BLOCK, np.float32)
    for number in (0, BLOCK - 1, BLOCK, 3 * BLOCK - 1):
        one = large.copy()
        one[number] = 1.0
        seen.append(digests(one)[""])
    assert len(set(seen)) == len(seen)


def test_arrays_that_changed_are_named_and_a_part_of_a_tree_is_enough(array):
    written = digests({"params": {"a": array, "b": array[0]}, "step": np.int32(3)})
    assert set(written) == {"params.a", "params.b", "step"}
    assert changed({"params": {"b": array[0]}}, written) == []
    assert changed({"params": {"a": array + 1, "b": array[0]}, "more": array}, written) == ["more", "params.a"]


def test_empty_arrays_and_numbers_have_digests():
    assert digests({"none": np.zeros((0, 3), np.float32)}) == {"none": "float32[0, 3] 0000000000000000"}
    assert digests(np.float32(0.0)) != digests(np.float32(-0.0))
