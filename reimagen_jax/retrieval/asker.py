"""A knowledge base that is asked, as `asking` says: the one piece of code for training data, search and drawing.

What it finds, best first, is to be judged further by who asks: by (3) of `asking` where there is a picture, and by what
was found to be too little alike, (4), which is told, not left out, so that it can be said.
"""

import hashlib
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np

from reimagen_jax.retrieval import attributes
from reimagen_jax.retrieval.asking import Asking, Question
from reimagen_jax.retrieval.hybrid import BY_RANK, Fusion
from reimagen_jax.retrieval.knowledge_base import Hits, KnowledgeBase

MOST_TIED = 1024
"""So many of the best are looked at for what scores the same; among others, the lower id comes first."""
_ROUNDING = 1e-6


class Answer(NamedTuple):
    """What Q questions find."""

    ids_QC: np.ndarray
    """int32: different from each other, best first; -1 beyond the last."""
    scores_QC: np.ndarray
    """float32: 0 beyond the last, NaN where nothing was searched."""
    below_QC: np.ndarray
    """bool: too little alike, by (4)."""
    over_Q: np.ndarray
    """bool: whatever comes after these is beyond the last, or below."""


def whole(ids_QC: np.ndarray, scores_QC: np.ndarray) -> Answer:
    """An answer in which nothing is too little alike."""
    return Answer(ids_QC, scores_QC, np.zeros(ids_QC.shape, bool), ids_QC[:, -1] < 0)


def ask(
    base: KnowledgeBase,
    questions: Sequence[Question],
    width: int,
    how: Asking,
    *,
    exclude: Iterable[str] = (),
    fusion: Fusion = BY_RANK,
) -> Answer:
    """The first `width` records for each question; none with a key of `exclude`.

    Raises `UserError` for a condition or a key that no record has, and where the base cannot be searched by the method.
    """
    where, where_not = how.conditions()
    allowed = base.allowed(where, exclude, where_not)
    ids_QC = np.full((len(questions), width), -1, np.int32)
    scores_QC = np.zeros((len(questions), width), np.float32)
    groups: dict[tuple, list[int]] = {}
    for q, question in enumerate(questions):
        groups.setdefault(question.match, []).append(q)
    for match, numbers in groups.items():
        within = allowed
        for name, values in match:
            having = attributes.having(base.attributes, name, values)
            within = having if within is None else within & having
        asked = [questions[q] for q in numbers]
        ids_QC[numbers], scores_QC[numbers] = _find(base, asked, width, how, within, fusion)
    if not how.floor or how.method != "lexical" or how.match:
        return whole(ids_QC, scores_QC)
    asked_Q = np.array([bool(question.names) for question in questions], bool)
    names = [question.names for question in questions]
    below_QC = base.words.shares(names, ids_QC) < how.floor - _ROUNDING
    below_QC &= asked_Q[:, None] & (ids_QC >= 0)
    hopeless_Q = asked_Q & (scores_QC[:, -1] < base.words.least_scores(names, how.floor - _ROUNDING))
    return Answer(ids_QC, scores_QC, below_QC, (ids_QC[:, -1] < 0) | hopeless_Q)


def _find(
    base: KnowledgeBase,
    questions: Sequence[Question],
    width: int,
    how: Asking,
    within: np.ndarray | None,
    fusion: Fusion,
) -> Hits:
    """The first `width` of `within` for each question; of equal scores in the order of (5) of `asking`."""

    def find(some: Sequence[Question], most: int) -> Hits:
        queries = [question.query for question in some]
        hits = base.search(queries, most, method=how.method, fusion=fusion, within=within)
        # What has the very value that is asked for is found, whatever its caption says.
        return _filled(*hits, np.flatnonzero(within)) if how.match and how.method == "lexical" else hits

    if how.tie_seed is None:
        return find(questions, width)
    ids_QC = np.full((len(questions), width), -1, np.int32)
    scores_QC = np.zeros((len(questions), width), np.float32)
    open_Q, most = np.arange(len(questions)), width + 1
    while open_Q.size:
        most = min(most, max(width, MOST_TIED), len(base))
        some = [questions[q] for q in open_Q]
        ids_OM, scores_OM = find(some, most)
        last = min(width, most) - 1
        cut_O = (ids_OM[:, -1] >= 0) & (scores_OM[:, last] == scores_OM[:, -1])
        cut_O &= most < min(max(width, MOST_TIED), len(base))
        asked = (f"{question.who}\0{question.query}" for question in some)
        hash_OM = np.stack([tie_order(how.tie_seed, *each) for each in zip(asked, ids_OM, strict=True)])
        order_OM = np.lexsort((hash_OM, np.where(ids_OM < 0, np.inf, -scores_OM)))[:, :width]
        n = order_OM.shape[1]
        ids_QC[open_Q, :n] = np.take_along_axis(ids_OM, order_OM, axis=1)
        scores_QC[open_Q, :n] = np.take_along_axis(scores_OM, order_OM, axis=1)
        open_Q, most = open_Q[cut_O], most * 4
    return ids_QC, scores_QC


def _filled(ids_QC: np.ndarray, scores_QC: np.ndarray, ids_M: np.ndarray) -> Hits:
    """Hits with others of some ids after them, of score 0, while there is room."""
    for row_C in ids_QC:
        count = int((row_C >= 0).sum())
        others = np.setdiff1d(ids_M, row_C)[: len(row_C) - count]
        row_C[count : count + len(others)] = others
    return ids_QC, scores_QC


def tie_order(seed: int, asked: str, ids_M: np.ndarray) -> np.ndarray:
    """A hash of (seed, what is asked, id) for each id: uint64[M], the finalizer of SplitMix64 (Steele et al. 2014)."""
    text = f"{seed}\0{asked}".encode("utf-8", "surrogatepass")
    start = np.frombuffer(hashlib.blake2b(text, digest_size=8).digest(), "<u8")
    x_M = start + (ids_M.astype(np.int64).astype(np.uint64) + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15)
    x_M = (x_M ^ (x_M >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x_M = (x_M ^ (x_M >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x_M ^ (x_M >> np.uint64(31))
