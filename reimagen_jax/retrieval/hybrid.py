"""Hybrid retrieval: what words find and what vectors find, in one order.

With r(d) the rank of a candidate d in one list (1 is best; none: it is not in the list) and s(d) its score there:
    (1) reciprocal rank fusion: score(d) = sum over lists  w / (c + r(d))
    (2) weighted sum: score(d) = w_dense cos(d) + (1 - w_dense) bm25(d) / max bm25
Candidates are the best `depth` of each list. In (2) both scores of every candidate are exact, also of one that only the
other list has; the maximum is over the candidates.
References: Cormack, Clarke and Büttcher (2009); Bruch, Gai and Ingber (2023).
"""

from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np

from reimagen_jax.checked import Checked, Count, Positive, Share

Kind = Literal["reciprocal", "weighted"]


@dataclass(frozen=True)
class Fusion(Checked):
    """How two lists become one. Raises `UserError` on values out of range."""

    section: ClassVar[str] = "fusion."

    kind: Kind = "reciprocal"
    """By ranks (1), or by scores (2)."""
    dense_weight: Share = 0.5
    """Of the vectors, 0 to 1; the words have the rest."""
    depth: Count = 100
    """Candidates from each list, at least k."""
    constant: Positive = 60.0
    """c of (1): the larger, the less the first ranks stand out."""


BY_RANK = Fusion()


def union(a_QC: np.ndarray, b_QC: np.ndarray) -> np.ndarray:
    """All candidates of two lists, ascending, each once: int32[Q, 2C]; -1 fills up, at the front."""
    both_QC = np.sort(np.concatenate([a_QC, b_QC], axis=1), axis=1)
    both_QC[:, 1:][both_QC[:, 1:] == both_QC[:, :-1]] = -1
    return np.sort(both_QC, axis=1)


def reciprocal(lexical_QC: np.ndarray, dense_QC: np.ndarray, ids_QU: np.ndarray, fusion: Fusion) -> np.ndarray:
    """(1) of the candidates `ids_QU` from the two lists of ids, best first: float32[Q, U]."""
    score_QU = np.zeros(ids_QU.shape)
    for weight, list_QC in ((1 - fusion.dense_weight, lexical_QC), (fusion.dense_weight, dense_QC)):
        score_QU += weight / (fusion.constant + ranks(list_QC, ids_QU))
    return score_QU.astype(np.float32)


def weighted(lexical_QU: np.ndarray, dense_QU: np.ndarray, fusion: Fusion) -> np.ndarray:
    """(2) of candidates from their scores: float32[Q, U]."""
    most_Q1 = lexical_QU.max(axis=1, initial=0, keepdims=True)
    share_QU = lexical_QU / np.where(most_Q1 > 0, most_Q1, 1)
    return (fusion.dense_weight * dense_QU + (1 - fusion.dense_weight) * share_QU).astype(np.float32)


def ranks(list_QC: np.ndarray, ids_QU: np.ndarray) -> np.ndarray:
    """r: of each id in the list of ids, best first, counted from 1; infinite where it is not in it: float64[Q, U]."""
    rank_QU = np.full(ids_QU.shape, np.inf)
    for q, (found, wanted) in enumerate(zip(list_QC, ids_QU, strict=True)):
        place = {int(n): rank for rank, n in enumerate(found, 1) if n >= 0}
        rank_QU[q] = [place.get(int(n), np.inf) for n in wanted]
    return rank_QU


def best(ids_QU: np.ndarray, score_QU: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """The best k candidates: ids int32[Q, k] and scores float32[Q, k], ties by lower id, -1 and 0 beyond them."""
    order_QK = np.lexsort((ids_QU, np.where(ids_QU < 0, np.inf, -score_QU)))[:, :k]
    ids_QK = np.take_along_axis(ids_QU, order_QK, axis=1)
    score_QK = np.where(ids_QK < 0, np.float32(0), np.take_along_axis(score_QU, order_QK, axis=1))
    padding = ((0, 0), (0, k - ids_QK.shape[1]))
    return np.pad(ids_QK, padding, constant_values=-1).astype(np.int32), np.pad(score_QK, padding)
