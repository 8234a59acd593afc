"""BM25's search, compiled: (1) and (2) of `bm25` for many queries, without reading the long lists of common words.

A few documents that have the query's weightiest word are scored first: the k-th best of them is a threshold that the
result cannot fall below. Then (1) is added up word by word, from the largest possible summand to the smallest:
    (3) once all that the remaining words could add together is below the threshold, documents not met yet cannot be
        among the best k, nor can those met whose score lacks more than that: the others alone are looked up
so the long lists of common words are rarely read, and the result is exact.
Reference: Turtle and Flood (1995), the bound (MaxScore).
"""

import numba
import numpy as np

from reimagen_jax.retrieval import blocks

_PROBED = 256
"""Documents scored for the threshold."""
_ROUNDING = 1e-4
"""Room for the rounding of float32 sums: the threshold is lowered by this share."""


@numba.njit(nogil=True, cache=True)
def inverse_frequency(having, num_documents):
    """(2) of a word that so many of the documents have: float64"""
    return np.log(1.0 + (num_documents - having + 0.5) / (having + 0.5))


@numba.njit(nogil=True, cache=True)
def summand(idf, count, length, mean_length, k1, b):
    """(1) of one word: float64, for a document of `length` words that has it `count` times."""
    tf = float(count)
    return idf * tf / (tf + k1 * (1.0 - b + b * length / mean_length))


@numba.njit(nogil=True, cache=True)
def summands(starts, documents, counts, lengths, mean_length, k1, b, data):
    """(1), word by word."""
    for term in range(starts.size - 1):
        idf = inverse_frequency(starts[term + 1] - starts[term], lengths.size)
        for place in range(starts[term], starts[term + 1]):
            data[place] = summand(idf, counts[place], lengths[documents[place]], mean_length, k1, b)


@numba.njit(nogil=True, cache=True)
def score(terms, starts, data, indices, indptr, ids_QC, scores_QC):
    for q in range(ids_QC.shape[0]):
        for term in terms[starts[q] : starts[q + 1]]:
            first, last = indptr[term], indptr[term + 1]
            for c in range(ids_QC.shape[1]):
                place = _find(indices[first:last], ids_QC[q, c])
                if place >= 0:
                    scores_QC[q, c] += data[first + place]


@numba.njit(nogil=True, cache=True)
def share(terms, starts, indices, indptr, num_documents, ids_QC, shares_QC):
    for q in range(ids_QC.shape[0]):
        query, whole = terms[starts[q] : starts[q + 1]], 0.0
        for term in query:
            having = 0 if term < 0 else indptr[term + 1] - indptr[term]
            idf = inverse_frequency(having, num_documents)
            whole += idf
            if term >= 0:
                for c in range(ids_QC.shape[1]):
                    if _find(indices[indptr[term] : indptr[term + 1]], ids_QC[q, c]) >= 0:
                        shares_QC[q, c] += idf
        for c in range(ids_QC.shape[1]):
            if ids_QC[q, c] < 0:
                shares_QC[q, c] = 0.0
            else:
                shares_QC[q, c] = shares_QC[q, c] / whole if whole > 0.0 else 1.0


@numba.njit(nogil=True, cache=True)
def search(terms, starts, data, indices, indptr, largest, score, ids_QK, scores_QK):
    """`score` is (1) so far: 0 where a document is not met, minus infinity where it is not allowed."""
    met = np.empty(score.size, np.int32)
    for q in range(ids_QK.shape[0]):
        query = terms[starts[q] : starts[q + 1]]
        threshold = _threshold(query, data, indices, indptr, score, met, ids_QK[q], scores_QK[q]) * (1.0 - _ROUNDING)
        remaining = 0.0
        for term in query:
            remaining += largest[term]
        num_met = 0
        for term in query:
            first, last = indptr[term], indptr[term + 1]
            if remaining >= threshold:
                for place in range(first, last):
                    document = indices[place]
                    if score[document] == 0.0:
                        met[num_met] = document
                        num_met += 1
                    score[document] += data[place]
            else:  # (3)
                num_met = _drop_hopeless(met[:num_met], score, threshold - remaining)
                _add_to_met(met[:num_met], score, data[first:last], indices[first:last])
            remaining -= largest[term]
        _best(met[:num_met], score, ids_QK[q], scores_QK[q])
        for document in met[:num_met]:
            score[document] = 0.0


@numba.njit(nogil=True, cache=True)
def _threshold(query, data, indices, indptr, score, met, ids_K, scores_K):
    """A score that k documents reach: the k-th best of some with the query's weightiest word; 0 with fewer than k."""
    if query.size == 0:
        return 0.0
    num_some = 0
    for document in indices[indptr[query[0]] : indptr[query[0] + 1]]:
        if score[document] == 0.0:
            met[num_some] = document
            num_some += 1
            if num_some == _PROBED:
                break
    some = met[:num_some]
    for term in query:
        _add_to_met(some, score, data[indptr[term] : indptr[term + 1]], indices[indptr[term] : indptr[term + 1]])
    _best(some, score, ids_K, scores_K)
    for document in some:
        score[document] = 0.0
    return float(scores_K[-1])


@numba.njit(nogil=True, cache=True)
def _add_to_met(met, score, data, indices):
    """Adds a word's summands to the scores of the documents met."""
    for document in met:
        place = _find(indices, document)
        if place >= 0:
            score[document] += data[place]


@numba.njit(nogil=True, cache=True)
def _find(indices, document):
    """The place of a document in a word's list, by binary search; -1 where it is not in it."""
    low, high = 0, indices.size
    while low < high:
        middle = (low + high) // 2
        if indices[middle] < document:
            low = middle + 1
        else:
            high = middle
    return low if low < indices.size and indices[low] == document else -1


@numba.njit(nogil=True, cache=True)
def _drop_hopeless(met, score, least):
    """Forgets the documents with scores below `least`; returns how many are left, at the front of `met`."""
    num_left = 0
    for document in met:
        if score[document] >= least:
            met[num_left] = document
            num_left += 1
        else:
            score[document] = 0.0
    return num_left


@numba.njit(nogil=True, cache=True)
def _best(met, score, ids_K, scores_K):
    """Fills in the best of the documents met, in order; -1 and 0 beyond them."""
    k = ids_K.size
    ids_K[:] = -1
    scores_K[:] = 0.0
    for document in met:
        value = score[document]
        if value < scores_K[k - 1] or (value == scores_K[k - 1] and document > ids_K[k - 1] >= 0):
            continue
        blocks.insert(document, value, ids_K, scores_K)
