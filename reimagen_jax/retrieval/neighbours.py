"""Leak-safe neighbours: the best k of a knowledge base for every record's caption, without the record itself.

A candidate is left out when it is the record itself (same source and key), when its picture is the record's (equal
pixels, however encoded), and when its picture is already among the record's neighbours. Where fewer than k candidates
remain, the record has fewer neighbours. Reference: Re-Imagen, section 3.2.
"""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from reimagen_jax.data.manifest import link, write_manifest
from reimagen_jax.data.records import ImageText, Records
from reimagen_jax.data.triples import KIND, NEIGHBOURS_FILE, SCORES_FILE, Triples
from reimagen_jax.errors import UserError
from reimagen_jax.files import atomic_dir
from reimagen_jax.progress import track
from reimagen_jax.retrieval.knowledge_base import KnowledgeBase

SPARE_CANDIDATES = 4
"""Candidates fetched beyond k at first; a record for which that is too few is searched again for four times as many."""


def build_triples(
    records: Records,
    knowledge_base: KnowledgeBase,
    k: int,
    out: str | Path,
    *,
    query_by: Sequence[str] = ("caption",),
    overwrite: bool = False,
) -> Triples:
    """Finds up to k neighbours of every record, writes them to the new folder `out` and opens it.

    The manifest counts the candidates left out, by reason, and the records by their number of neighbours.
    `query_by` names what of a record is the query: see `queries`.
    Raises `UserError` when `out` exists and `overwrite` is false, or a record lacks a field of `query_by`.
    """
    with atomic_dir(out, overwrite=overwrite) as folder:
        ids_NK, scores_NK, excluded = find_neighbours(records, knowledge_base, k, query_by)
        np.save(folder / NEIGHBOURS_FILE, ids_NK)
        np.save(folder / SCORES_FILE, scores_NK)
        found = np.bincount((ids_NK >= 0).sum(axis=1), minlength=k + 1)
        fields = {
            "count": len(records),
            "num_neighbours": k,
            "query_by": list(query_by),
            "records": link(records.path, out),
            "records_fingerprint": records.fingerprint,
            "knowledge_base": link(knowledge_base.path, out),
            "knowledge_base_fingerprint": knowledge_base.fingerprint,
            "excluded": dict(excluded),
            "records_by_neighbours_found": found.tolist(),
        }
        write_manifest(folder, KIND, fields)
    return Triples.open(out)


def queries(records: Records, query_by: Sequence[str]) -> list[str]:
    """Each record's query: the fields named, `caption` or an attribute, one after the other.

    A field named n times weighs n times as much, since BM25 adds the score of a word once for each time it is asked.
    Raises `UserError` naming the first record without such an attribute, and those it has.
    """
    if set(query_by) == {"caption"}:
        return [" ".join([text] * len(query_by)) for text in records.texts()]

    def query(record: ImageText) -> str:
        fields = {"caption": record.text, **record.attributes}
        for name in query_by:
            if name not in fields:
                raise UserError(f"record {record.key} has no attribute {name!r} to be asked by: it has {list(fields)}")
        return " ".join(str(fields[name]) for name in query_by)

    return [query(record) for record in track(records, len(records), "queries", "record")]


def find_neighbours(
    records: Records, knowledge_base: KnowledgeBase, k: int, query_by: Sequence[str] = ("caption",)
) -> tuple[np.ndarray, np.ndarray, Counter[str]]:
    """Finds neighbours of every record: ids int32[N, k] (-1: none), scores float32[N, k], counts of those left out."""
    texts = queries(records, query_by)
    self_N = _same_records(records, knowledge_base.records)
    image_N, kb_image_M = _image_numbers(records, knowledge_base.records)
    ids_NK = np.full((len(records), k), -1, np.int32)
    scores_NK = np.zeros((len(records), k), np.float32)
    excluded: Counter[str] = Counter({"the record itself": 0, "same picture": 0, "picture already taken": 0})
    open_N, width = np.arange(len(records)), k + SPARE_CANDIDATES
    while open_N.size:
        width = min(width, len(knowledge_base))
        ids_QC, scores_QC = knowledge_base.search([texts[i] for i in open_N], width)
        reasons = _reasons(ids_QC, self_N[open_N], image_N[open_N], kb_image_M)
        keep_QC = (ids_QC >= 0) & ~np.any(list(reasons.values()), axis=0)
        exhausted_Q = (ids_QC[:, -1] < 0) | (width == len(knowledge_base))
        done_Q = exhausted_Q | (keep_QC.sum(axis=1) >= k)
        ids_NK[open_N], scores_NK[open_N] = _first(k, keep_QC, ids_QC, scores_QC)
        # Counted are those that would have been among the k.
        wanted_QC = (np.cumsum(keep_QC, axis=1) - keep_QC < k) & done_Q[:, None]
        excluded.update({name: int((left_out & wanted_QC).sum()) for name, left_out in reasons.items()})
        open_N, width = open_N[~done_Q], width * 4
    return ids_NK, scores_NK, excluded


def _same_records(records: Records, others: Records) -> np.ndarray:
    """For each record its own id among the others, -1 where it is not among them: int64[N]."""
    if records.source != others.source:
        return np.full(len(records), -1, np.int64)
    other_keys, keys = others.keys(), records.keys()
    place = {key: i for i, key in enumerate(other_keys)}
    return np.array([place.get(key, -1) for key in keys], np.int64)


def _image_numbers(records: Records, others: Records) -> tuple[np.ndarray, np.ndarray]:
    """Numbers for pictures, equal for equal pixels: int64[N] of the records and int64[M] of the others."""
    _, numbers = np.unique(np.array(records.digests() + others.digests()), return_inverse=True)
    return numbers[: len(records)], numbers[len(records) :]


def _reasons(
    ids_QC: np.ndarray, self_Q: np.ndarray, image_Q: np.ndarray, kb_image_M: np.ndarray
) -> dict[str, np.ndarray]:
    """Which candidates are left out, and why: each candidate for one reason at most, bool[Q, C]."""
    valid_QC = ids_QC >= 0
    image_QC = np.where(valid_QC, kb_image_M[ids_QC], -1)
    itself_QC = valid_QC & (ids_QC == self_Q[:, None])
    same_QC = valid_QC & (image_QC == image_Q[:, None]) & ~itself_QC
    taken_QC = np.zeros_like(valid_QC)
    for c in range(1, ids_QC.shape[1]):
        taken_QC[:, c] = (image_QC[:, :c] == image_QC[:, c : c + 1]).any(axis=1)
    taken_QC &= valid_QC & ~itself_QC & ~same_QC
    return {"the record itself": itself_QC, "same picture": same_QC, "picture already taken": taken_QC}


def _first(k: int, keep_QC: np.ndarray, ids_QC: np.ndarray, scores_QC: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The first k candidates that are kept, in order, padded with -1 and 0."""
    order_QK = np.argsort(~keep_QC, axis=1, kind="stable")[:, :k]
    kept_QK = np.take_along_axis(keep_QC, order_QK, axis=1)
    padding = ((0, 0), (0, k - order_QK.shape[1]))
    ids_QK = np.where(kept_QK, np.take_along_axis(ids_QC, order_QK, axis=1), np.int32(-1))
    scores_QK = np.where(kept_QK, np.take_along_axis(scores_QC, order_QK, axis=1), np.float32(0))
    return np.pad(ids_QK, padding, constant_values=-1), np.pad(scores_QK, padding)
