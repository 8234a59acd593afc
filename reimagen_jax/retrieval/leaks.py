"""What must not become a neighbour of a record, because it gives the record's picture away, or says nothing new.

A candidate is left out, for the first of these reasons that holds, when
    it is the record itself (same source and key), or shows the record's picture (equal pixels, however encoded),
    it has the record's value of one of some fields that the user names (an entity, say, or the source file),
    its picture is a near duplicate of the record's (perceptual hash, confirmed at a finer scale, see `duplicates`),
    its picture is, or nearly is, that of a neighbour already taken,
    it is too little alike what was asked for (see `asking`).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numba
import numpy as np

from reimagen_jax.data.parallel import ordered_map
from reimagen_jax.data.records import ImageTexts, Records
from reimagen_jax.progress import track
from reimagen_jax.retrieval import duplicates
from reimagen_jax.retrieval.asking import BELOW
from reimagen_jax.retrieval.duplicates import NO_HASHES, Confirmation, Hashes, hash_records, squared_limit
from reimagen_jax.retrieval.fields import number_all, numbered

NOT_REACHED = -1
KEPT = 0
_ASK = -2
"""And below: the number of the pair that is to be looked at."""


@dataclass(frozen=True, eq=False)
class LeakTest:
    """Which candidates are left out, and why."""

    reasons: tuple[str, ...]
    """One for each row of numbers, then near duplicate, picture already taken, near duplicate of one taken, and, where
    there is a floor, what is below it."""
    number_FN: np.ndarray
    """int64: candidates with the record's number (not -1) in row f are left out for reason f."""
    number_FM: np.ndarray
    hash_N: Hashes
    hash_M: Hashes
    limit: float
    """Of near duplicates, see `duplicates.squared_limit`; negative: they are not looked for."""
    confirm: Confirmation
    """Looks once more at pairs whose hashes are near."""

    @classmethod
    def of(
        cls,
        records: Records,
        others: ImageTexts,
        exclude_same: Sequence[str],
        near_duplicates: float,
        floor: bool = False,
    ) -> "LeakTest":
        """Reads what the test of `records` against candidates from `others` needs, and hashes the pictures.

        Raises `UserError` for a field of `exclude_same` that none of the records or none of the others has.
        """
        fields = tuple(dict.fromkeys(exclude_same))
        field_FN, field_FM = numbered(records, others, fields)
        pictures: dict[str, int] = {}
        picture_N, picture_M = number_all(records.digests(), pictures), number_all(others.digests(), pictures)
        hash_N = hash_M = NO_HASHES
        if near_duplicates:
            hash_N = hash_records(records)
            hash_M = hash_N if records.fingerprint == others.fingerprint else hash_records(others)
        return cls(
            (
                "the record itself",
                "same picture",
                *(f"same {name}" for name in fields),
                "near-duplicate picture",
                "picture already taken",
                "near duplicate of one taken",
                *([BELOW] if floor else []),
            ),
            np.stack([_same_records(records, others), picture_N, *field_FN]),
            np.stack([np.arange(len(others)), picture_M, *field_FM]),
            hash_N,
            hash_M,
            squared_limit(near_duplicates) if near_duplicates else -1.0,
            Confirmation(records, others, near_duplicates),
        )

    def __call__(self, record_Q: np.ndarray, ids_QC: np.ndarray, k: int, below_QC: np.ndarray) -> np.ndarray:
        """For each candidate: kept (0), left out (1 + the reason's number), or not reached (-1), as k were kept.

        Of those that are too little alike (`below_QC`), the ones are told that would have been among the k.
        """
        verdict_QC = np.empty(ids_QC.shape, np.int64)
        open_Q, known, near = np.arange(record_Q.size), np.empty(0, np.int64), np.empty(0, bool)
        while open_Q.size:  # as long as there are pairs of which only the hash is known
            verdict_OC = np.full((open_Q.size, ids_QC.shape[1]), NOT_REACHED, np.int64)
            asked_O = np.full(open_Q.size, -1, np.int64)
            hashes = (self.hash_N, self.hash_M, self.limit, known, near)
            rows = record_Q[open_Q], ids_QC[open_Q], below_QC[open_Q]
            _judge(*rows, k, self.number_FN, self.number_FM, hashes, verdict_OC, asked_O)
            verdict_QC[open_Q] = verdict_OC
            open_Q = open_Q[asked_O >= 0]
            asked = np.unique(asked_O[asked_O >= 0])
            confirmed = track(ordered_map(self._confirm, asked.tolist()), asked.size, "look-alikes", "pair")
            known, near = np.append(known, asked), np.append(near, np.fromiter(confirmed, bool, asked.size))
            order = np.argsort(known)
            known, near = known[order], near[order]
        return verdict_QC

    def _confirm(self, pair: int) -> bool:
        """Whether the two pictures of a pair, as `_pair` numbers it, are near duplicates indeed."""
        i, j = divmod(pair, self.number_FM.shape[1])
        within = i >= self.number_FN.shape[1]
        return self.confirm(i - within * self.number_FN.shape[1], j, within=within)


_is_near = numba.njit(nogil=True, cache=True)(duplicates.is_near)


@numba.njit(nogil=True, cache=True)
def _judge(record_Q, ids_QC, below_QC, k, number_FN, number_FM, hashes, verdict_QC, asked_Q):
    """Judges row by row; where a row comes to a pair that has to be looked at first, it ends, and asks for that."""
    kept_K = np.empty(k, np.int64)
    for q in range(record_Q.size):
        count, below = 0, 0
        for c in range(ids_QC.shape[1]):
            if count == k or ids_QC[q, c] < 0:
                break
            if below_QC[q, c] and count + below >= k:
                continue
            verdict = _verdict(record_Q[q], ids_QC[q, c], kept_K[:count], number_FN, number_FM, hashes)
            if verdict <= _ASK:
                asked_Q[q] = _ASK - verdict
                break
            if verdict == KEPT and below_QC[q, c]:
                verdict_QC[q, c] = number_FN.shape[0] + 4
                below += 1
                continue
            verdict_QC[q, c] = verdict
            if verdict == KEPT:
                kept_K[count] = ids_QC[q, c]
                count += 1


@numba.njit(nogil=True, cache=True)
def _verdict(record, candidate, kept_K, number_FN, number_FM, hashes):
    hash_N, hash_M, limit, known, near = hashes
    fields, records = number_FN.shape
    for f in range(fields):
        if number_FN[f, record] >= 0 and number_FN[f, record] == number_FM[f, candidate]:
            return 1 + f
    if limit >= 0 and _is_near(hash_N, record, hash_M, candidate, limit):
        verdict = _look_up(_pair(record, candidate, number_FM), 1 + fields, known, near)
        if verdict != KEPT:
            return verdict
    for taken in kept_K:
        if number_FM[1, candidate] == number_FM[1, taken]:
            return 2 + fields
    if limit >= 0:
        for taken in kept_K:
            if _is_near(hash_M, candidate, hash_M, taken, limit):
                first, second = min(candidate, taken), max(candidate, taken)
                verdict = _look_up(_pair(records + first, second, number_FM), 3 + fields, known, near)
                if verdict != KEPT:
                    return verdict
    return KEPT


@numba.njit(nogil=True, cache=True)
def _pair(row, candidate, number_FM):
    """The number of a pair: row is a record's, or the number of records and another candidate's."""
    return np.int64(row) * number_FM.shape[1] + candidate


@numba.njit(nogil=True, cache=True)
def _look_up(pair, reason, known, near):
    """The reason, KEPT where the two were found to be different, or `_ASK` and below where they were not looked at."""
    place = np.searchsorted(known, pair)
    if place == known.size or known[place] != pair:
        return _ASK - pair
    return reason if near[place] else KEPT


def _same_records(records: Records, others: ImageTexts) -> np.ndarray:
    """For each record its own id among the others, -1 where it is not among them: int64[N]."""
    own = zip(others.keys(), others.sources(), strict=True)
    place = {key: i for i, (key, source) in enumerate(own) if source == records.source}
    return np.array([place.get(key, -1) for key in list(records.keys())], np.int64)
