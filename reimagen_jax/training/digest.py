"""Digests of a tree's arrays, the same however the arrays are split over devices and processes.

Of an array x of words of at most 32 bits, with element i in the order of its rows:
    digest(x) = (sum_i h_i, sum_i g(h_i)) mod 2^32,   h_i = f(x_i xor a i)                                        (1)
f (the finaliser of MurmurHash3) and g are one to one, so one changed element always changes the digest, and what else
goes wrong goes unnoticed once in 2^64. A sum has no order: each process adds up what its own devices hold. On the host,
since compiling it for a network's hundred shapes would take seconds, and Orbax brings the arrays there anyway.
"""

from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

BLOCK = 1 << 16
"""Words at a time: what a core's cache holds."""


def digests(tree: Any) -> dict[str, str]:
    """`params.unet.stem.kernel` -> "float32[3, 3, 12, 64] 0123456789abcdef", of arrays of numpy or JAX.

    Of arrays of JAX the processes of a run add up their parts: all of them ask together.
    """
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    sums = np.stack([_of_parts(leaf) for _, leaf in leaves]) if leaves else np.zeros((0, 2), np.uint32)
    if jax.process_count() > 1 and any(isinstance(leaf, jax.Array) for _, leaf in leaves):
        sums = multihost_utils.process_allgather(sums).sum(axis=0, dtype=np.uint32)
    return {
        jax.tree_util.keystr(path, simple=True, separator="."): (
            f"{leaf.dtype}{list(leaf.shape)} {first:08x}{second:08x}"
        )
        for (path, leaf), (first, second) in zip(leaves, sums.tolist(), strict=True)
    }


def changed(tree: Any, written: Mapping[str, str]) -> list[str]:
    """The names of the arrays that are not as they were when `written` was made of them, or of more."""
    return [name for name, digest in digests(tree).items() if written.get(name) != digest]


def _of_parts(array: Any) -> np.ndarray:
    """(1) over the parts of an array that this process holds, each once: uint32 [2]."""
    if not isinstance(array, jax.Array):
        return _of_part(np.asarray(array), (slice(None),) * array.ndim, array.shape)
    parts = [shard for shard in array.addressable_shards if shard.replica_id == 0]
    sums = [_of_part(np.asarray(shard.data), shard.index, array.shape) for shard in parts]
    return np.sum(sums, axis=0, dtype=np.uint32) if sums else np.zeros(2, np.uint32)


def _of_part(part: np.ndarray, where: tuple[slice, ...], shape: tuple[int, ...]) -> np.ndarray:
    """(1) over `array[where]`, given that part and the shape of the whole array: uint32 [2]."""
    size = min(part.dtype.itemsize, 4)
    words = np.ascontiguousarray(part).reshape(-1).view(f"u{size}")
    split = part.dtype.itemsize // size  # a wider element is two words, which make one more axis
    starts = [*(axis.indices(length)[0] for axis, length in zip(where, shape, strict=True)), 0]
    numbers, stride = np.zeros((), np.uint32), 1
    for start, length, whole in reversed([*zip(starts, (*part.shape, split), (*shape, split), strict=True)]):
        axis = (start + np.arange(length, dtype=np.uint64)) * np.uint64(stride)
        numbers, stride = np.add.outer(axis.astype(np.uint32), numbers), stride * whole
    sums = np.zeros(2, np.uint32)
    for begin in range(0, words.size, BLOCK):
        block = slice(begin, begin + BLOCK)
        sums += _mixed(words[block], numbers.reshape(-1)[block])
    return sums


def _mixed(words: np.ndarray, numbers: np.ndarray) -> np.ndarray:
    """(1) of the words of these numbers: uint32 [2]."""
    h = numbers * np.uint32(0x9E3779B9)
    h ^= words
    h ^= h >> np.uint32(16)
    h *= np.uint32(0x85EBCA6B)
    h ^= h >> np.uint32(13)
    h *= np.uint32(0xC2B2AE35)
    h ^= h >> np.uint32(16)
    g = (h ^ np.uint32(0x27D4EB2F)) * np.uint32(0x165667B1)
    g ^= g >> np.uint32(15)
    return np.array([h.sum(dtype=np.uint32), g.sum(dtype=np.uint32)])
