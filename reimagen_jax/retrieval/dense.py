"""Dense retrieval: the records whose vectors point most nearly where a query's does.

    (1) u = v / |v|
    (2) score(q, d) = u_q . u_d                                                      cosine, in [-1, 1]
Candidates are found in one of three ways:
    exact    all products, tile by tile (tiled.py)
    approx   `jax.lax.approx_max_k` over rows that are spread over all devices (tiled.py), for TPUs
    faiss    inverted lists of compressed vectors on disk (ivf.py), for bases larger than memory
Then (2) of each candidate is computed again, in float64 from the stored vectors, rounded to float32, and they are put
in order, of equal scores the lower id first. So a score depends on two vectors alone: not on the kind of index, the
device, or what else is asked at the same time. What a kind misses is measured when it is built: with s the k-th best
score of a query, by a plain search (scikit-learn),
    (3) recall@k = mean over queries of  min(k, number of those found with a score not below s) / k

The files' names begin with `dense.`, so that they can lie in one folder with another index.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, NamedTuple, Protocol, get_args

import numpy as np

from reimagen_jax.checked import Count, Natural, parse
from reimagen_jax.data.manifest import Folder
from reimagen_jax.data.opened import load_array
from reimagen_jax.errors import UserError, require
from reimagen_jax.files import read_json, write_json
from reimagen_jax.progress import track

Kind = Literal["exact", "approx", "faiss"]

FORMAT = 1
SETTINGS, VECTORS, LISTS, QUERIES = "dense.json", "dense.vectors.npy", "dense.faiss", "dense.queries.npy"
REMEDY = "build it again with `reimagen index`"
K = 10
"""Of (3)."""
SAMPLE = 256
"""Queries on which (3) is measured, at most."""
FEW = 16384
"""Where a filter leaves no more rows than this, they are searched exactly whatever the kind of index."""
_UNIT = 1e-6
"""Vectors that differ so little from length 1 stay as they are, so that what was normalised is not changed again."""
_TOLERANCE = 1e-6
"""Between two ways to compute one score."""
_BLOCK_BYTES = 2**26
"""Of vectors in memory at a time, where many are gone through."""


@dataclass(frozen=True)
class _Lists:
    """What the settings say of faiss's lists."""

    recipe: str
    probes: Count


@dataclass(frozen=True)
class _Settings:
    """What the settings of an index need; what was measured is for people."""

    kind: Kind
    count: Count
    width: Count
    seed: Natural
    faiss: _Lists | None = None


class Finder(Protocol):
    """One of the ways to find candidates."""

    def search(self, query_QD: np.ndarray, k: int, allowed_N: np.ndarray | None = None) -> np.ndarray:
        """Ids int32[Q, k] of allowed rows, about the best; -1 for none."""
        ...


def build(
    vectors: np.ndarray | Sequence[np.ndarray],
    folder: str | Path,
    *,
    kind: Kind = "exact",
    seed: int = 0,
    queries: np.ndarray | None = None,
) -> dict[str, Any]:
    """Writes an index of vectors into an existing folder and returns its settings, with the recall that was measured.

    `vectors` is float32 [N, D], in memory or memory-mapped, of any length but 0; or several such to be joined: so an
    index is appended to (`[index.vectors, new]`), loses rows (`index.vectors[kept]`), or two are merged. `queries`,
    float32 [Q, D], are examples of what will be asked, to measure recall with (and kept, some of them): texts look
    elsewhere than images do. Without them, some of the vectors look for the others. `seed` draws the sample and starts
    faiss's k-means.
    Raises `UserError` naming the row that is not finite or has length 0, and when faiss is wanted and not installed.
    """
    if kind not in get_args(Kind):
        raise UserError(f"there is no dense index of the kind {kind!r}: choose one of {', '.join(get_args(Kind))}")
    folder = Path(folder)
    parts = [vectors] if isinstance(vectors, np.ndarray) else list(vectors)
    count, width = _write(parts, folder / VECTORS)
    if queries is not None and len(queries):
        _write([queries[np.sort(_chosen(len(queries), seed))]], folder / QUERIES)
    settings = {"format": FORMAT, "kind": kind, "count": count, "width": width, "seed": seed}
    if kind == "faiss":
        from reimagen_jax.retrieval import ivf

        row_ND = np.load(folder / VECTORS, mmap_mode="r")
        recipe = ivf.build(folder / LISTS, row_ND, _blocks(row_ND, "faiss"), seed)
        index = DenseIndex(folder, settings | {"faiss": {"recipe": recipe, "probes": 1}})
        # Chosen on other queries than those that recall is reported for.
        sample = draw_sample(index, which=1)
        index.settings["faiss"]["probes"] = index.finder.choose_probes(lambda: recall(index, sample)["share"])
    else:
        index = DenseIndex(folder, settings)
    index.settings["recall"] = recall(index, draw_sample(index))
    write_json(folder / SETTINGS, index.settings)
    return index.settings


def load(folder: str | Path | Folder) -> "DenseIndex":
    """Opens what `build` wrote, memory-mapped. Raises `UserError` when it is missing, damaged or of another version."""
    folder = Path(folder) if isinstance(folder, str) else folder
    settings = read_json(folder / SETTINGS, "the settings of a dense index")
    found = settings.get("format") if isinstance(settings, dict) else None
    if found != FORMAT:
        raise UserError(f"{folder / SETTINGS} is of a dense index of format {found}, not {FORMAT}: {REMEDY}")
    parse(_Settings, settings, str(folder / SETTINGS))
    if (settings["kind"] == "faiss") != ("faiss" in settings):
        raise UserError(f"{folder / SETTINGS} is of the kind {settings['kind']}, but has settings of another: {REMEDY}")
    index = DenseIndex(folder, settings)
    if index.vectors.shape != (settings["count"], settings["width"]) or index.vectors.dtype != np.float32:
        raise UserError(f"{folder / VECTORS} is not what {SETTINGS} says: {REMEDY}")
    return index


class DenseIndex:
    """An index that `build` wrote; safe to search from several threads."""

    def __init__(self, folder: Path | Folder, settings: dict[str, Any]):
        """Use `load`."""
        self.folder = folder
        self.settings = settings
        """With `kind`, `count`, `width`, and `recall` as it was measured at building."""

    def __len__(self) -> int:
        return self.settings["count"]

    @property
    def width(self) -> int:
        """D: values of a vector."""
        return self.settings["width"]

    @cached_property
    def vectors(self) -> np.ndarray:
        """(1) of all rows, float32 [N, D], memory-mapped."""
        try:
            return load_array(self.folder / VECTORS, mapped=True)
        except (OSError, ValueError) as error:
            raise UserError(f"{self.folder / VECTORS} cannot be read: {error}; {REMEDY}") from error

    @cached_property
    def queries(self) -> np.ndarray | None:
        """(1) of examples of what is asked, float32 [Q, D]; None where there were none."""
        return load_array(self.folder / QUERIES) if (self.folder / QUERIES).is_file() else None

    @cached_property
    def finder(self) -> Finder:
        """What finds the candidates; an index that devices hold is sent to them here."""
        from reimagen_jax.retrieval import tiled

        if self.settings["kind"] == "faiss":
            from reimagen_jax.retrieval import ivf

            if isinstance(self.folder, Folder):  # faiss believes what it reads
                self.folder.verify(LISTS)
            return ivf.Lists(self.folder / LISTS, self.settings["faiss"]["probes"])
        if self.settings["kind"] == "approx":
            return tiled.Resident(self.vectors, approximate=True)
        return tiled.exact(self.vectors)

    def search(
        self, queries_QD: np.ndarray, k: int, allowed: np.ndarray | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """The best k rows for each query: ids int32[Q, k] and scores (2) float32[Q, k], best first, ties by lower id.

        `allowed` is bool[N]: rows that may be found. Where there are fewer than k, ids are -1 and scores 0; so it is
        for a query of length 0. Raises `ValueError` when k is not positive, `UserError` on a query that is not finite
        or of another width.
        """
        if k < 1:
            raise ValueError(f"k is {k}: at least 1 is needed")
        query_QD = np.ascontiguousarray(queries_QD, np.float32)
        if query_QD.ndim != 2 or query_QD.shape[1] != self.width:
            raise UserError(
                f"{self.folder / VECTORS} holds vectors of {self.width} values, the queries' shape is "
                f"{query_QD.shape}: they are of another encoder"
            )
        query_QD, length_Q = _normalised(query_QD, "query")
        id_QK, score_QK = np.full((len(query_QD), k), -1, np.int32), np.zeros((len(query_QD), k), np.float32)
        asked = np.flatnonzero(length_Q > 0)
        wanted = min(k, len(self) if allowed is None else int(np.count_nonzero(allowed)))
        if wanted and asked.size:
            id_QC = self._candidates(query_QD[asked], wanted, allowed)
            id_QK[asked, :wanted], score_QK[asked, :wanted] = self._best(query_QD[asked], id_QC, wanted)
        return id_QK, score_QK

    def scores(self, queries_QD: np.ndarray, id_QC: np.ndarray) -> np.ndarray:
        """(2) of each query and given rows, float32[Q, C]; 0 where an id is -1."""
        query_QD, _ = _normalised(np.ascontiguousarray(queries_QD, np.float32), "query")
        score_QC = np.empty(id_QC.shape, np.float32)
        step = max(1, _BLOCK_BYTES // (8 * self.width * max(id_QC.shape[1], 1)))
        for start in range(0, len(id_QC), step):
            part = slice(start, start + step)
            row_QCD = self.vectors[id_QC[part]].astype(np.float64)
            score_QC[part] = np.einsum("qcd,qd->qc", row_QCD, query_QD[part].astype(np.float64))  # (2)
        return np.where(id_QC < 0, np.float32(0), score_QC)

    def measure(self) -> dict[str, Any]:
        """(3) again, on the devices at hand: for an index that was built elsewhere."""
        return recall(self, draw_sample(self))

    def _candidates(self, query_QD: np.ndarray, wanted: int, allowed: np.ndarray | None) -> np.ndarray:
        """Ids int32[Q, C], C at least `wanted`: of each query as many allowed rows, -1 otherwise."""
        from reimagen_jax.retrieval import tiled

        if self.settings["kind"] == "exact":  # rounding may put the last ones a few places further down
            return self.finder.search(query_QD, _rounded(wanted + 8), allowed)
        # The others order candidates by rounded vectors: the best are among more of them.
        number, plain = _rounded(min(8 * wanted, len(self))), tiled.Streamed(self.vectors)
        if allowed is not None and np.count_nonzero(allowed) <= FEW:
            return plain.search(query_QD, number, allowed)
        id_QC = np.array(self.finder.search(query_QD, number, allowed))
        require(
            id_QC.max(initial=-1) < len(self),
            f"{self.folder / LISTS} finds row {id_QC.max(initial=-1)}, but has {len(self)}: it is damaged, {REMEDY}",
        )
        short_Q = (id_QC >= 0).sum(axis=1) < wanted  # the cells that were read hold too few that are allowed
        if short_Q.any():
            id_QC[short_Q] = plain.search(query_QD[short_Q], number, allowed)
        return id_QC

    def _best(self, query_QD: np.ndarray, id_QC: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        score_QC = self.scores(query_QD, id_QC)
        order_QK = np.lexsort((id_QC, np.where(id_QC < 0, np.inf, -score_QC)))[:, :k]
        return np.take_along_axis(id_QC, order_QK, axis=1), np.take_along_axis(score_QC, order_QK, axis=1)


class Sample(NamedTuple):
    """Queries with what an exact search would find."""

    query_QD: np.ndarray
    own_Q: np.ndarray
    """The query's own row, which it is not to find; -1 where it has none."""
    least_Q: np.ndarray
    """s of (3)."""
    k: int


def draw_sample(index: DenseIndex, which: int = 0) -> Sample:
    """At most `SAMPLE` examples of queries, or of the index's own rows where it has none, and a plain search for each.

    `which` is 0 or 1: two samples with no query in common.
    """
    own = index.queries is None
    chosen = _chosen(len(index.vectors if own else index.queries), index.settings["seed"])[which::2]
    query_QD = np.asarray((index.vectors if own else index.queries)[chosen])
    own_Q = chosen if own else np.full(len(chosen), -1)
    k = min(K, len(index) - own)
    return Sample(query_QD, own_Q, _least_of_best(index.vectors, query_QD, own_Q, k), k)


def recall(index: DenseIndex, sample: Sample) -> dict[str, Any]:
    """(3) of an index on a sample, as its settings note it."""
    share = 1.0
    if sample.k and len(sample.query_QD):
        id_QK, score_QK = index.search(sample.query_QD, sample.k + 1)
        right_QK = (score_QK >= sample.least_Q[:, None] - _TOLERANCE) & (id_QK >= 0) & (id_QK != sample.own_Q[:, None])
        share = float(np.minimum(right_QK.sum(axis=1), sample.k).mean() / sample.k)
    return {"share": share, "k": sample.k, "queries": len(sample.query_QD), "device": _device()}


def _least_of_best(row_ND: np.ndarray, query_QD: np.ndarray, own_Q: np.ndarray, k: int) -> np.ndarray:
    """The k-th best score of each query over all rows but its own, float64[Q]; nearest rows are the most similar."""
    from sklearn.neighbors import NearestNeighbors  # a second to import, for building alone

    if not len(query_QD):
        return np.zeros(0)
    k = max(k, 1)
    plain = NearestNeighbors(n_neighbors=min(k + 1, len(row_ND)), algorithm="brute").fit(row_ND)
    id_QC = plain.kneighbors(query_QD, return_distance=False)
    score_QC = np.einsum("qcd,qd->qc", row_ND[id_QC].astype(np.float64), query_QD.astype(np.float64))
    score_QC[id_QC == own_Q[:, None]] = -np.inf
    return np.sort(score_QC, axis=1)[:, -k]


def _chosen(count: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).choice(count, min(2 * SAMPLE, count), replace=False)


def _write(parts: Sequence[np.ndarray], path: Path) -> tuple[int, int]:
    """Writes (1) of the rows of all parts to one file, a block at a time, and returns their number and width."""
    widths = {part.shape[1] if part.ndim == 2 else 0 for part in parts}
    count = sum(len(part) for part in parts)
    if len(widths) != 1 or widths == {0} or not count:
        raise UserError(f"vectors of the shapes {[part.shape for part in parts]} are no base: [N, D], N > 0, is needed")
    (width,) = widths
    row_ND = np.lib.format.open_memmap(path, mode="w+", dtype=np.float32, shape=(count, width))
    first = 0
    for part in parts:
        for block in _blocks(part, "vectors"):
            unit, length_B = _normalised(np.ascontiguousarray(block, np.float32), "vector", first)
            if not length_B.all():
                raise UserError(f"vector {first + int(length_B.argmin())} has length 0: it points nowhere")
            row_ND[first : first + len(block)] = unit
            first += len(block)
    row_ND.flush()
    return count, width


def _normalised(row_ND: np.ndarray, what: str, first: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """(1) of each row, and the rows' lengths. Raises `UserError` naming the first that is not finite."""
    length_N1 = np.sqrt(np.einsum("nd,nd->n", row_ND, row_ND, dtype=np.float64))[:, None]
    if not np.isfinite(length_N1).all():
        raise UserError(
            f"{what} {first + int(np.isfinite(length_N1[:, 0]).argmin())} is not finite: a fault of its encoder"
        )
    keep_N1 = (np.abs(length_N1 - 1.0) < _UNIT) | (length_N1 == 0)
    return (row_ND / np.where(keep_N1, 1.0, length_N1)).astype(np.float32), length_N1[:, 0]  # (1)


def _blocks(row_ND: np.ndarray, what: str = "") -> Iterator[np.ndarray]:
    """The rows, block by block; behind a progress bar when they are many and it has a name."""
    size = max(1, _BLOCK_BYTES // (8 * max(row_ND.shape[1], 1)))
    starts: Iterable[int] = range(0, len(row_ND), size)
    if what and len(row_ND) > size:
        starts = track(starts, -(-len(row_ND) // size), what, "block")
    for start in starts:
        yield row_ND[start : start + size]


def _rounded(number: int) -> int:
    """Up to a multiple of 16: the tiles' programs are compiled for each number."""
    return -(-number // 16) * 16


def _device() -> str:
    import jax

    return jax.devices()[0].device_kind
