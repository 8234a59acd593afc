"""The k rows with the largest dot products, tile by tile on JAX's devices: exact, or approximate as TPUs like it.

With queries q and rows v of a base that is cut into tiles of T rows:
    (1) s = q . v                                   one matrix product a tile
    (2) best <- top_k(best, top_k(s))               exact; of equal scores the lower id wins, as top_k is stable
    (3) best <- top_k(best, approx_max_k(s))        a hash of the tile's columns into bins, one winner a bin
so no more than T scores a query are in memory, whatever the size of the base. `Streamed` reads the tiles from the host
(a memory-mapped file) as it goes. `Resident` keeps them on the devices, the rows split over a mesh: every device finds
the best of its own, and the best of all are the best of those.
Source of (3): Chern et al. 2022, TPU-KNN. The bins are as many as the whole base needs for the recall that is aimed at,
not the tile: only rows that are among the best of the whole base must not meet in a bin.
"""

import functools
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Bool, Float, Int32

ROWS = 8192
"""T, where the base has as many."""
QUERIES = 1024
"""Queries at a time, at most."""
SHARE = 0.5
"""Of the accelerators' memory, that a base may take."""
AIM = 0.95
"""Recall that (3) is asked for on TPUs; elsewhere JAX computes it exactly."""


class Best(NamedTuple):
    """The best rows so far, best first; -inf and -1 where there are fewer."""

    score_QK: Float[Array, "q k"]
    id_QK: Int32[Array, "q k"]


def nothing(queries: int, k: int) -> Best:
    """Where a search begins."""
    return Best(jnp.full((queries, k), -jnp.inf, jnp.float32), jnp.full((queries, k), -1, jnp.int32))


def merge(
    best: Best,
    query_QD: Float[Array, "q d"],
    row_TD: Float[Array, "t d"],
    usable_T: Bool[Array, " t"],
    first: Int32[Array, ""],
    approximate_of: int | None = None,
) -> Best:
    """Adds a tile, whose first row is number `first` and not below any seen; `usable_T` is false for rows to leave out.

    `approximate_of` is the number of rows of the whole base where approximate results will do; None is exact.
    """
    score_QT = jnp.einsum(
        "qd,td->qt", query_QD, row_TD, precision=jax.lax.Precision.HIGHEST, preferred_element_type=jnp.float32
    )  # (1)
    score_QT = jnp.where(usable_T[None, :], score_QT, -jnp.inf)
    (T,), k = usable_T.shape, best.id_QK.shape[1]
    if approximate_of is None:
        score_QK, place_QK = jax.lax.top_k(score_QT, min(k, T))  # (2)
    else:
        size = max(approximate_of, T)
        score_QK, place_QK = jax.lax.approx_max_k(
            score_QT, min(k, T), recall_target=AIM, reduction_input_size_override=size
        )  # (3)
    id_QK = jnp.where(jnp.isneginf(score_QK), -1, first + place_QK.astype(jnp.int32))
    return _top(jnp.concatenate([best.score_QK, score_QK], axis=1), jnp.concatenate([best.id_QK, id_QK], axis=1), k)


def _top(score_QC: Float[Array, "q c"], id_QC: Int32[Array, "q c"], k: int) -> Best:
    score_QK, place_QK = jax.lax.top_k(score_QC, k)
    return Best(score_QK, jnp.take_along_axis(id_QC, place_QK, axis=1))


class Streamed:
    """Exact search over rows on the host, (2), read tile by tile: any size of base, on any one device."""

    def __init__(self, row_ND: np.ndarray):
        """`row_ND` is float32, in memory or memory-mapped."""
        self._row_ND = row_ND

    def search(self, query_QD: np.ndarray, k: int, allowed_N: np.ndarray | None = None) -> np.ndarray:
        """Ids int32[Q, k] of the best rows that are allowed, best first, -1 where there are fewer.

        Rows that are not allowed are not read: the time is that of a base of the rows that are.
        """
        id_N = None if allowed_N is None else np.flatnonzero(allowed_N).astype(np.int32)
        count = len(self._row_ND) if id_N is None else len(id_N)
        tile = min(ROWS, _power_of_two(count))
        place_QK = np.concatenate([self._block(block, k, id_N, count, tile) for block in _blocks(query_QD)])
        place_QK = place_QK[: len(query_QD)]
        return place_QK if id_N is None or not count else np.where(place_QK < 0, np.int32(-1), id_N[place_QK])

    def _block(self, query_QD: np.ndarray, k: int, id_N: np.ndarray | None, count: int, tile: int) -> np.ndarray:
        best = nothing(len(query_QD), k)
        query = jnp.asarray(query_QD)
        for first in range(0, count, tile):
            part = slice(first, min(first + tile, count))
            row_TD = self._row_ND[part if id_N is None else id_N[part]]
            usable_T = np.arange(tile) < len(row_TD)
            best = _merge(best, query, _padded(row_TD, tile), usable_T, np.int32(first))
        return np.asarray(best.id_QK)


_merge = jax.jit(merge)


def exact(row_ND: np.ndarray) -> "Streamed | Resident":
    """Exact search where it is fastest: on accelerators that have room for the rows, else streamed."""
    devices = jax.local_devices()
    room = sum((device.memory_stats() or {}).get("bytes_limit", 0) for device in devices)
    if devices[0].platform != "cpu" and row_ND.nbytes < SHARE * room:
        return Resident(row_ND, devices, approximate=False)
    return Streamed(row_ND)


class Resident:
    """Search over rows that lie on devices, split over a mesh: approximate (3) in bfloat16, or exact (2) in float32."""

    def __init__(self, row_ND: np.ndarray, devices: Sequence[jax.Device] | None = None, *, approximate: bool):
        """Sends `row_ND` (float32, in memory or memory-mapped) to the devices, by default all of this process."""
        devices = jax.local_devices() if devices is None else list(devices)
        self._count, width = row_ND.shape
        share = -(-self._count // len(devices))
        self._tile = min(ROWS, _power_of_two(share))
        # Every device has the same number of whole tiles; what is too many is left out of every search.
        self._tiles = len(devices) * -(-share // self._tile)
        self._approximate = approximate
        self._mesh = jax.make_mesh((len(devices),), ("rows",), (AxisType.Auto,), devices=devices)
        self._split = NamedSharding(self._mesh, P("rows"))
        dtype = jnp.bfloat16 if approximate else jnp.float32

        def part(index: tuple[slice, ...]) -> np.ndarray:
            first, last, _ = index[0].indices(self._tiles)
            row_RD = row_ND[first * self._tile : last * self._tile]
            return _padded(row_RD, (last - first) * self._tile).reshape(-1, self._tile, width).astype(dtype)

        self._row_NTD = jax.make_array_from_callback((self._tiles, self._tile, width), self._split, part)
        self._all = self._usable(np.ones(self._count, bool))

    def search(self, query_QD: np.ndarray, k: int, allowed_N: np.ndarray | None = None) -> np.ndarray:
        """Ids int32[Q, k] of the best rows that are allowed, best first, -1 where there are fewer."""
        usable = self._all if allowed_N is None else self._usable(allowed_N)
        dtype = self._row_NTD.dtype
        blocks = [self._search(jnp.asarray(block, dtype), self._row_NTD, usable, k) for block in _blocks(query_QD)]
        return np.concatenate([np.asarray(block) for block in blocks])[: len(query_QD)]

    def _usable(self, allowed_N: np.ndarray) -> Bool[Array, "n t"]:
        usable_NT = _padded(allowed_N, self._tiles * self._tile).reshape(self._tiles, self._tile)
        return jax.device_put(usable_NT, self._split)

    @functools.cached_property
    def _search(self):
        """The program (queries, rows, usable, k) -> ids, for all devices together."""
        of_whole = self._count if self._approximate else None
        tiles_each = self._tiles // self._mesh.size

        def search(query_QD: Array, row_NTD: Array, usable_NT: Array, k: int) -> Int32[Array, "q k"]:
            def on_one_device(query_QD: Array, row_NTD: Array, usable_NT: Array) -> Best:
                number_N = jax.lax.axis_index("rows") * tiles_each + jnp.arange(tiles_each, dtype=jnp.int32)

                def add(best: Best, tile: tuple[Array, Array, Array]) -> tuple[Best, None]:
                    return merge(best, query_QD, *tile, approximate_of=of_whole), None

                tiles = (row_NTD, usable_NT, number_N * self._tile)
                return jax.lax.scan(add, nothing(len(query_QD), k), tiles)[0]

            # Side by side in the order of the devices, so that of equal scores the lower id comes first.
            best = jax.shard_map(
                on_one_device,
                mesh=self._mesh,
                in_specs=(P(), P("rows"), P("rows")),
                out_specs=P(None, "rows"),
                check_vma=False,
            )(query_QD, row_NTD, usable_NT)
            return _top(best.score_QK, best.id_QK, k).id_QK

        return jax.jit(search, static_argnums=3)


def _blocks(query_QD: np.ndarray) -> list[np.ndarray]:
    """The queries in blocks of few different sizes, padded with zeros: programs are compiled for each size."""
    size = min(QUERIES, max(8, _power_of_two(len(query_QD))))
    return [_padded(query_QD[start : start + size], size) for start in range(0, len(query_QD), size)]


def _padded(x: np.ndarray, length: int) -> np.ndarray:
    """`x` with zeros after its last row, up to `length` rows."""
    return x if len(x) == length else np.concatenate([x, np.zeros((length - len(x), *x.shape[1:]), x.dtype)])


def _power_of_two(count: int) -> int:
    """The least that is not below `count`."""
    return 1 << max(count - 1, 0).bit_length()
