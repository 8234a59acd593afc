"""Inverted lists of compressed vectors (faiss), for bases larger than memory on one machine.

The vectors are cut into cells around centres (k-means), and kept as differences from their cell's centre: a byte for
each value, four times less than float32; from `PRODUCT_FROM` vectors on a byte for every four values (product
quantisation), which takes far longer to learn. A query reads the cells nearest to it. The lists are memory-mapped: what
is read often stays in memory, the rest on disk. How many cells are read is not guessed: when the index is built, their
number is doubled until `AIM` of the true best are found.
References: Jégou et al. 2011, product quantisation; Douze et al. 2024, the faiss library.
"""

import os
from collections.abc import Callable, Iterable
from pathlib import Path
from types import ModuleType

import numpy as np

from reimagen_jax.errors import UserError

AIM = 0.95
"""Recall that the number of cells read is chosen for."""
ROWS_PER_CELL = 64
"""On average, at least; k-means learns a centre from as many."""
PRODUCT_FROM = 2**23
"""Vectors, from which on a byte holds `VALUES_PER_BYTE` values of them."""
VALUES_PER_BYTE = 4
_ROWS_FOR_CODES = 2**16
"""From which 256 codes for every four values are learned."""


def build(path: Path, row_ND: np.ndarray, blocks: Iterable[np.ndarray], seed: int) -> str:
    """Writes the index of `row_ND` to the file `path` and returns faiss's name for its kind.

    `blocks` are the same rows, added one block after the other; `seed` starts k-means.
    """
    faiss = _faiss()
    recipe = _recipe(*row_ND.shape)
    index = faiss.index_factory(row_ND.shape[1], recipe, faiss.METRIC_INNER_PRODUCT)
    index.cp.seed = seed
    index.cp.min_points_per_centroid = 1  # a handful of vectors is a base, too
    if hasattr(index, "pq"):
        index.pq.cp.seed = seed
    number = min(len(row_ND), max(index.nlist * ROWS_PER_CELL, _ROWS_FOR_CODES))
    chosen = np.random.default_rng(seed).choice(len(row_ND), number, replace=False)
    index.train(row_ND[np.sort(chosen)])
    for block in blocks:
        index.add(np.ascontiguousarray(block))
    faiss.write_index(index, str(path))
    return recipe


class Lists:
    """A file written by `build`, memory-mapped; safe to search from several threads."""

    def __init__(self, path: os.PathLike[str], probes: int):
        """`probes`: cells that a query reads. Raises `UserError` when faiss is missing or cannot read the file."""
        faiss = _faiss()
        try:
            self._index = faiss.read_index(os.fspath(path), faiss.IO_FLAG_MMAP | faiss.IO_FLAG_READ_ONLY)
        except RuntimeError as error:
            raise UserError(f"{path} cannot be read by faiss {faiss.__version__}: build the index again") from error
        self.probes = probes

    def choose_probes(self, recall: Callable[[], float]) -> int:
        """Doubles the number of cells that are read until `recall()` is at least `AIM`, and returns it."""
        self.probes = 1
        while recall() < AIM and self.probes < self._index.nlist:
            self.probes = min(2 * self.probes, self._index.nlist)
        return self.probes

    def search(self, query_QD: np.ndarray, k: int, allowed_N: np.ndarray | None = None) -> np.ndarray:
        """Ids int32[Q, k] of rows that are allowed, by their compressed form the most similar first, -1 for none."""
        faiss = _faiss()
        settings = {"nprobe": self.probes}
        if allowed_N is not None:
            settings["sel"] = faiss.IDSelectorBitmap(np.packbits(allowed_N, bitorder="little"))
        _, id_QK = self._index.search(query_QD, k, params=faiss.SearchParametersIVF(**settings))
        return id_QK.astype(np.int32)


def _recipe(count: int, width: int) -> str:
    cells = max(1, min(int(4 * count**0.5), count // ROWS_PER_CELL))
    if count < PRODUCT_FROM:
        return f"IVF{cells},SQ8"
    most = max(width // VALUES_PER_BYTE, 1)
    return f"IVF{cells},PQ{next(parts for parts in range(most, 0, -1) if width % parts == 0)}x8"


def _faiss() -> ModuleType:
    try:
        import faiss
    except ImportError as error:
        raise UserError("a dense index of the kind faiss needs it: pip install 'reimagen_jax[faiss]'") from error
    return faiss
