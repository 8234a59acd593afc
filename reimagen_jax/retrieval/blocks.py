"""The best documents for very many queries, exactly: an index cut into blocks that fit a core's cache.

As in `bm25`, a document d scores for a query q
    (1) score(q, d) = sum over words w of q:  c(w, q) s(w, d)
with c how often the query has the word and s the index's summands, added in float32 from the word with the largest
summand anywhere to that with the smallest: so scores are those of `bm25.Index.search` to the last bit.
Documents are sorted by how many words they have and cut into blocks. With w_1, w_2, ... the words of a query from the
rarest to the commonest, and theta the k-th best score so far:
    (2) u_i = c(w_i, q) max s(w_i, d) over the documents d of the block;  R_i = u_i + u_{i+1} + ...
    (3) m = the smallest number with R_{m+1} < theta: a document without any of w_1 ... w_m is not among the best
    (4) of those that have one, the summands of all but the commonest words are added up; a bit for each of the 64
        commonest words tells whether a document has it, and so which of their u_i to add: what stays below theta is out
The few left are scored by (1) from a list of the words of each document. All queries go through a block before the next
one is taken up, and a block is small enough to stay in the cache while they do.
References: Turtle and Flood (1995), the bounds (MaxScore); Ding and Suel (2011), bounds of blocks; Bayardo, Ma and
Srikant (2007), all pairs.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numba
import numpy as np

from reimagen_jax.data.parallel import ordered_map
from reimagen_jax.progress import track

SIZE = 2**14
"""Documents of a block: their partial sums take 64 KB, their lists about 1 MB."""
COMMON = 64
"""Words with a bit of their own."""
_QUERIES_PER_TASK = 2**13
_PROBED = 16
"""Documents scored at once for a first theta."""
_ROUNDING = np.float32(1e-4), np.float32(1e-6)
"""Room for the rounding of float32 sums: theta is lowered by this share, and by the second for every word."""


class Blocks(NamedTuple):
    """An index in blocks. Words are numbered from the rarest to the commonest, documents by their place in blocks."""

    document_N: np.ndarray
    """The id of each document."""
    rank_V: np.ndarray
    """int32: the number here of each of the index's words."""
    common_N: np.ndarray
    """uint64: which of the commonest words each document has."""
    starts: np.ndarray
    """int64[N + 1]: where the words of each document start in the next two."""
    words: np.ndarray
    """int32[P], within a document in the order of (1)"""
    summands: np.ndarray
    """float32[P]"""
    block_starts: np.ndarray
    """int64[B + 1]: where the words of each block start in the next three."""
    block_words: np.ndarray
    """int32[W]"""
    list_starts: np.ndarray
    """int64[W + 1]: where the list of each word of each block starts in the last two."""
    largest: np.ndarray
    """float32[W]: max s(w, d) of (2)."""
    offsets: np.ndarray
    """uint16[P]: documents, counted from the block's first."""
    values: np.ndarray
    """float32[P]: s(w, d)"""


class Queries(NamedTuple):
    """Q queries: the words of query i, different from each other and ascending, are `[starts[i]:starts[i + 1]]`."""

    words: np.ndarray
    """int32, numbered as in `Blocks`"""
    counts: np.ndarray
    """int32: c(w, q)"""
    starts: np.ndarray
    """int64[Q + 1]"""


def arrange(lists: Sequence[np.ndarray], largest_V: np.ndarray, document_N: np.ndarray) -> Blocks:
    """Cuts an index into blocks.

    `lists` are data, indices, indptr as in `bm25`: the summands of word w, and the places in `document_N` that they
    belong to. `document_N` are the ids to answer with. `largest_V` decides the order of (1); ties go by word.
    """
    data, indices, indptr = lists
    num_documents, num_words = len(document_N), len(largest_V)
    order_V = np.lexsort((np.arange(num_words), -largest_V))
    rank_V = np.empty(num_words, np.int32)
    rank_V[np.argsort(np.diff(indptr), kind="stable")] = np.arange(num_words, dtype=np.int32)
    length_N = np.bincount(indices, minlength=num_documents)
    order_N = np.argsort(length_N, kind="stable")
    place_N = np.empty(num_documents, np.int32)
    place_N[order_N] = np.arange(num_documents, dtype=np.int32)
    starts = np.concatenate([[0], np.cumsum(length_N[order_N])]).astype(np.int64)
    words, summands = _by_document(data, indices, indptr, order_V, rank_V, place_N, starts)
    common_N, *rest = _by_block(starts, words, summands, num_words)
    return Blocks(document_N[order_N], rank_V, common_N, starts, words, summands, *rest)


def search(
    blocks: Blocks, queries: Queries, ids_QK: np.ndarray, scores_QK: np.ndarray, excluded_Q: np.ndarray | None = None
) -> None:
    """Improves the best K documents found so far for each query, in place, by those of `blocks`; on all cores.

    Best first, ties by lower id; ids -1 and scores float32 0 where there are none yet. A theta that comes with them
    saves work, wherever it was found. The document with the id `excluded_Q[q]` is never found.
    """
    num_queries = len(queries.starts) - 1
    if excluded_Q is None:
        excluded_Q = np.full(num_queries, -1, ids_QK.dtype)

    def task(first: int) -> None:
        part = slice(first, first + _QUERIES_PER_TASK)
        starts = queries.starts[first : first + _QUERIES_PER_TASK + 1]
        _search(blocks, queries._replace(starts=starts), excluded_Q[part], ids_QK[part], scores_QK[part])

    tasks = range(0, num_queries, _QUERIES_PER_TASK)
    for _ in track(ordered_map(task, tasks), len(tasks), "search", "batch"):
        pass


@numba.njit(nogil=True, cache=True)
def ranked(words, starts, rank_V):
    """Queries from words numbered as in the index, in any order, repeated as often as asked for; -1 is no word."""
    distinct, counts = np.empty(words.size, np.int32), np.empty(words.size, np.int32)
    new_starts = np.zeros(starts.size, np.int64)
    size = 0
    for q in range(starts.size - 1):
        first = size
        query = words[starts[q] : starts[q + 1]]
        for word in np.sort(rank_V[query[query >= 0]]):
            if size > first and distinct[size - 1] == word:
                counts[size - 1] += 1
            else:
                distinct[size], counts[size] = word, 1
                size += 1
        new_starts[q + 1] = size
    return Queries(distinct[:size], counts[:size], new_starts)


@numba.njit(nogil=True, cache=True)
def _by_document(data, indices, indptr, order_V, rank_V, place_N, starts):
    """The words and summands of each document."""
    words, summands = np.empty(data.size, np.int32), np.empty(data.size, np.float32)
    free = starts[:-1].copy()
    for word in order_V:
        for p in range(indptr[word], indptr[word + 1]):
            place = place_N[indices[p]]
            words[free[place]], summands[free[place]] = rank_V[word], data[p]
            free[place] += 1
    return words, summands


@numba.njit(nogil=True, cache=True)
def _by_block(starts, words, summands, num_words):
    """The bits of common words, and the lists of each word of each block."""
    num_documents = starts.size - 1
    num_blocks = (num_documents + SIZE - 1) // SIZE
    common_N = np.zeros(num_documents, np.uint64)
    block_starts = np.zeros(num_blocks + 1, np.int64)
    block_words, list_starts = np.empty(words.size, np.int32), np.zeros(words.size + 1, np.int64)
    largest = np.zeros(words.size, np.float32)
    offsets, values = np.empty(words.size, np.uint16), np.empty(words.size, np.float32)
    having_V, free_V = np.zeros(num_words, np.int64), np.zeros(num_words, np.int64)
    size, end = 0, 0
    for block in range(num_blocks):
        first, last = block * SIZE, min(num_documents, (block + 1) * SIZE)
        present = np.unique(words[starts[first] : starts[last]])
        for word in words[starts[first] : starts[last]]:
            having_V[word] += 1
        for i, word in enumerate(present):
            block_words[size + i], free_V[word] = word, end
            end += having_V[word]
            list_starts[size + i + 1] = end
            having_V[word] = size + i  # from here on: where its largest summand is kept
        for document in range(first, last):
            for p in range(starts[document], starts[document + 1]):
                word = words[p]
                offsets[free_V[word]], values[free_V[word]] = document - first, summands[p]
                free_V[word] += 1
                largest[having_V[word]] = max(largest[having_V[word]], summands[p])
                if word >= num_words - COMMON:
                    common_N[document] |= np.uint64(1) << np.uint64(word - (num_words - COMMON))
        having_V[present] = 0
        size += present.size
        block_starts[block + 1] = size
    kept = block_words[:size].copy(), list_starts[: size + 1].copy(), largest[:size].copy()
    return common_N, block_starts, *kept, offsets, values


class _Scratch(NamedTuple):
    """Memory that a thread uses again and again."""

    sums: np.ndarray
    """float32[SIZE]: of the block's documents, 0 between queries."""
    place_V: np.ndarray
    """int32: of the block's words in its arrays, -1 for others."""
    count_V: np.ndarray
    """int32: c(w, q) while documents are scored, 0 otherwise."""
    candidates: np.ndarray
    """int32[SIZE + 1]: documents of the block."""
    partial: np.ndarray
    """float32[SIZE + 1]: what they are known to have of (4)."""
    bits: np.ndarray
    """uint64[COMMON]: of the common words of a query."""
    bounds: np.ndarray
    """float32[COMMON]: their u_i."""


@numba.njit(nogil=True, cache=True)
def _search(blocks, queries, excluded_Q, ids_QK, scores_QK):
    num_words = blocks.rank_V.size
    scratch = _Scratch(
        np.zeros(SIZE, np.float32),
        np.full(num_words, -1, np.int32),
        np.zeros(num_words, np.int32),
        np.empty(SIZE + 1, np.int32),
        np.empty(SIZE + 1, np.float32),
        np.empty(COMMON, np.uint64),
        np.empty(COMMON, np.float32),
    )
    longest = np.max(queries.starts[1:] - queries.starts[:-1])
    places, u, rest = np.empty(longest, np.int32), np.empty(longest, np.float32), np.empty(longest + 1, np.float32)
    for block in range(blocks.block_starts.size - 1):
        first_word, last_word = blocks.block_starts[block], blocks.block_starts[block + 1]
        for place in range(first_word, last_word):
            scratch.place_V[blocks.block_words[place]] = place
        for q in range(ids_QK.shape[0]):
            words = queries.words[queries.starts[q] : queries.starts[q + 1]]
            counts = queries.counts[queries.starts[q] : queries.starts[q + 1]]
            rest[words.size] = 0.0
            for i in range(words.size - 1, -1, -1):  # (2)
                places[i] = scratch.place_V[words[i]]
                u[i] = counts[i] * blocks.largest[places[i]] if places[i] >= 0 else np.float32(0)
                rest[i] = rest[i + 1] + u[i]
            if rest[0] > 0.0:
                one = words, counts, places, u, rest
                _search_block(blocks, block, one, excluded_Q[q], ids_QK[q], scores_QK[q], scratch)
        for place in range(first_word, last_word):
            scratch.place_V[blocks.block_words[place]] = -1


@numba.njit(nogil=True, cache=True, forceinline=True)
def _search_block(blocks, block, query, excluded, ids_K, scores_K, scratch):
    words, counts, places, u, rest = query
    base, first_common = block * SIZE, blocks.rank_V.size - COMMON
    if scores_K[-1] == 0.0:
        _probe(blocks, base, words, counts, places, excluded, ids_K, scores_K, scratch)
    theta = scores_K[-1] * (np.float32(1) - _ROUNDING[0] - np.float32(words.size) * _ROUNDING[1])
    if rest[0] < theta:
        return
    m = 1
    while m < words.size and rest[m] >= theta:  # (3)
        m += 1
    num_common, of_common = 0, np.float32(0)
    for i in range(words.size):
        if i >= m and words[i] >= first_common:
            if places[i] >= 0:
                scratch.bits[num_common] = words[i] - first_common
                scratch.bounds[num_common] = u[i]
                num_common += 1
                of_common += u[i]
        else:
            _add(blocks, places[i], np.float32(counts[i]), scratch.sums)
    size = 0
    for i in range(m):
        size = _gather(blocks, places[i], theta - of_common, scratch, size)
    for i in range(m, words.size):
        if words[i] < first_common:
            _clear(blocks, places[i], scratch.sums)
    for j in range(num_common):
        of_common -= scratch.bounds[j]
        size = _sift(blocks, base, scratch.bits[j], scratch.bounds[j], theta - of_common, scratch, size)
    if size:
        _set_counts(words, counts, scratch.count_V)
        for i in range(size):
            _try(blocks, base + scratch.candidates[i], excluded, ids_K, scores_K, scratch.count_V)
        _clear_counts(words, scratch.count_V)


@numba.njit(nogil=True, cache=True, forceinline=True)
def _probe(blocks, base, words, counts, places, excluded, ids_K, scores_K, scratch):
    """Scores a few documents that have the weightiest words: their best are a first theta."""
    left = _PROBED
    _set_counts(words, counts, scratch.count_V)
    for place in places[: words.size]:
        if place >= 0:
            first, last = blocks.list_starts[place], blocks.list_starts[place + 1]
            for p in range(first, min(last, first + left)):
                _try(blocks, base + blocks.offsets[p], excluded, ids_K, scores_K, scratch.count_V)
                left -= 1
    _clear_counts(words, scratch.count_V)


@numba.njit(nogil=True, cache=True, forceinline=True)
def _set_counts(words, counts, count_V):
    for i in range(words.size):
        count_V[words[i]] = counts[i]


@numba.njit(nogil=True, cache=True, forceinline=True)
def _clear_counts(words, count_V):
    for word in words:
        count_V[word] = 0


@numba.njit(nogil=True, cache=True, forceinline=True)
def _add(blocks, place, count, sums):
    """Adds a word's summands to the sums of the block's documents."""
    if place >= 0:
        for p in range(blocks.list_starts[place], blocks.list_starts[place + 1]):
            sums[blocks.offsets[p]] += count * blocks.values[p]


@numba.njit(nogil=True, cache=True, forceinline=True)
def _clear(blocks, place, sums):
    if place >= 0:
        for p in range(blocks.list_starts[place], blocks.list_starts[place + 1]):
            sums[blocks.offsets[p]] = 0.0


@numba.njit(nogil=True, cache=True, forceinline=True)
def _gather(blocks, place, least, scratch, size):
    """Makes candidates of a word's documents with sums of at least `least`, clearing all; returns how many there are.

    Here and in `_sift`, writing first and counting afterwards spares the processor a jump that it cannot foresee.
    """
    if place >= 0:
        for p in range(blocks.list_starts[place], blocks.list_starts[place + 1]):
            offset = blocks.offsets[p]
            value = scratch.sums[offset]
            scratch.sums[offset] = 0.0
            scratch.candidates[size], scratch.partial[size] = offset, value
            size += (value >= least) & (value > 0.0)
    return size


@numba.njit(nogil=True, cache=True, forceinline=True)
def _sift(blocks, base, bit, bound, least, scratch, size):
    """(4), one common word: adds its bound where a candidate has it; returns how many reach `least`."""
    left = 0
    for i in range(size):
        candidate = scratch.candidates[i]
        has = np.float32((blocks.common_N[base + candidate] >> bit) & np.uint64(1))
        partial = scratch.partial[i] + has * bound
        scratch.candidates[left], scratch.partial[left] = candidate, partial
        left += partial >= least
    return left


@numba.njit(nogil=True, cache=True, forceinline=True)
def _try(blocks, place, excluded, ids_K, scores_K, count_V):
    """Scores a document by (1) and takes it among the best K where it belongs there."""
    document = blocks.document_N[place]
    if document == excluded:
        return
    score = np.float32(0)
    for p in range(blocks.starts[place], blocks.starts[place + 1]):
        for _ in range(count_V[blocks.words[p]]):
            score += blocks.summands[p]
    last = ids_K.size - 1
    if score < scores_K[last] or (score == scores_K[last] and document >= ids_K[last] >= 0):
        return
    for known in ids_K:
        if known == document:  # it was probed
            return
    insert(document, score, ids_K, scores_K)


@numba.njit(nogil=True, cache=True, forceinline=True)
def insert(document, score, ids_K, scores_K):
    """Puts a document that belongs among the best K in its place, best first, ties by lower id; the last one leaves."""
    place = ids_K.size - 1
    while place > 0 and (
        ids_K[place - 1] < 0
        or score > scores_K[place - 1]
        or (score == scores_K[place - 1] and document < ids_K[place - 1])
    ):
        ids_K[place], scores_K[place] = ids_K[place - 1], scores_K[place - 1]
        place -= 1
    ids_K[place], scores_K[place] = document, score
