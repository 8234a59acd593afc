"""BM25 in Lucene's form: the best documents for many queries, exactly.

With tf(w, d) how often word w occurs in document d, |d| its number of words, N documents, n(w) of them with w:
    (1) score(q, d) = sum over words w of q:  idf(w) tf(w, d) / (tf(w, d) + k1 (1 - b + b |d| / mean |d|))
    (2) idf(w) = ln(1 + (N - n(w) + 0.5) / (n(w) + 0.5))
The index (bm25s) stores the summands of (1) by word: those of word w are `data[indptr[w]:indptr[w + 1]]`, and their
documents, ascending, the same part of `indices`.

The search first scores a few documents that have the query's weightiest word: the k-th best of them is a threshold that
the result cannot fall below. Then it adds up (1) word by word, from the largest possible summand to the smallest:
    (3) once all that the remaining words could add together is below the threshold, documents not met yet cannot be
        among the best k, nor can those met whose score lacks more than that: the others alone are looked up
so the long lists of common words are rarely read, and the result is exact.
References: Robertson and Zaragoza (2009), BM25; Turtle and Flood (1995), the bound (MaxScore).
"""

import logging
import re
import unicodedata
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType

import numba
import numpy as np

from reimagen_jax.data.parallel import ordered_map
from reimagen_jax.progress import track

_ASCII_WORD = re.compile(r"[0-9a-z]+")
_QUERIES_PER_TASK = 1024
_PROBED = 256
"""Documents scored for the threshold."""
_ROUNDING = 1e-4
"""Room for the rounding of float32 sums: the threshold is lowered by this share."""


def words(text: str) -> list[str]:
    """The words of a text in order: letters and digits with their combining marks, of any script, case folded."""
    if text.isascii():
        return _ASCII_WORD.findall(text.lower())
    text = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).casefold())
    runs = "".join(c if c.isalnum() or unicodedata.category(c)[0] == "M" else " " for c in text).split()
    return [run for run in runs if any(c.isalnum() for c in run)]  # marks alone are no word (emoji have some)


class Index:
    """An inverted index in memory or memory-mapped; safe to search from several threads."""

    def __init__(self, vocabulary: dict[str, int], lists: Sequence[np.ndarray], size: int):
        """`vocabulary` maps words to numbers; `lists` are data, indices, indptr; `size` is the number of documents."""
        self.vocabulary = vocabulary
        self.size = size
        self._lists = tuple(np.asarray(array) for array in lists)
        data, _, indptr = self._lists
        self._largest = np.maximum.reduceat(data, indptr[:-1].astype(np.int64))

    def search(self, queries: Sequence[str], k: int) -> tuple[np.ndarray, np.ndarray]:
        """The best k documents for each query: ids int32[Q, k] and scores float32[Q, k], best first, ties by lower id.

        Only documents that share a word with the query count; where there are fewer, ids are -1 and scores 0.
        Raises `ValueError` when k is not positive.
        """
        if k < 1:
            raise ValueError(f"k is {k}: at least 1 is needed")
        ids_QK = np.full((len(queries), k), -1, np.int32)
        scores_QK = np.zeros((len(queries), k), np.float32)

        def task(start: int) -> None:
            part = slice(start, start + _QUERIES_PER_TASK)
            terms, starts = self._terms(queries[part])
            _search(terms, starts, *self._lists, self._largest, self.size, ids_QK[part], scores_QK[part])

        starts = range(0, len(queries), _QUERIES_PER_TASK)
        for _ in track(ordered_map(task, starts), len(starts), "search", "batch"):
            pass
        return ids_QK, scores_QK

    def _terms(self, queries: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        """Words of all queries in one array, each query's from the largest possible summand down; where each starts."""
        terms, starts = [], [0]
        for query in queries:
            known = [self.vocabulary[word] for word in words(query) if word in self.vocabulary]
            terms.extend(sorted(known, key=lambda term: (-self._largest[term], term)))
            starts.append(len(terms))
        return np.array(terms, np.int64), np.array(starts, np.int64)


def build(texts: Sequence[str], folder: Path, k1: float, b: float) -> None:
    """Writes the index of `texts` to `folder` (bm25s's files). Raises `ValueError` when no text has a word."""
    bm25s = _bm25s()
    vocabulary: dict[str, int] = {}
    documents = [
        [vocabulary.setdefault(word, len(vocabulary)) for word in words(text)]
        for text in track(texts, len(texts), "words", "text")
    ]
    if not vocabulary:
        raise ValueError("no text has a word")
    model = bm25s.BM25(k1=k1, b=b, method="lucene")
    model.index((documents, vocabulary), create_empty_token=False, show_progress=False)
    model.save(folder, show_progress=False)


def load(folder: Path) -> Index:
    """Opens what `build` wrote, memory-mapped."""
    model = _bm25s().BM25.load(folder, mmap=True)
    lists = [model.scores[name] for name in ("data", "indices", "indptr")]
    return Index(model.vocab_dict, lists, model.scores["num_docs"])


def _bm25s() -> ModuleType:
    import bm25s

    logging.getLogger("bm25s").setLevel(logging.WARNING)  # it sets itself to DEBUG
    return bm25s


@numba.njit(nogil=True, cache=True)
def _search(terms, starts, data, indices, indptr, largest, num_documents, ids_QK, scores_QK):
    score = np.zeros(num_documents, np.float32)  # (1) so far; 0 means not met
    met = np.empty(num_documents, np.int32)
    for q in range(ids_QK.shape[0]):
        query = terms[starts[q] : starts[q + 1]]
        threshold = _threshold(query, data, indices, indptr, score, ids_QK[q], scores_QK[q]) * (1.0 - _ROUNDING)
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
def _threshold(query, data, indices, indptr, score, ids_K, scores_K):
    """A score that k documents reach: the k-th best of some with the query's weightiest word; 0 with fewer than k."""
    if query.size == 0:
        return 0.0
    first = indptr[query[0]]
    some = indices[first : min(indptr[query[0] + 1], first + _PROBED)]
    for term in query:
        _add_to_met(some, score, data[indptr[term] : indptr[term + 1]], indices[indptr[term] : indptr[term + 1]])
    _best(some, score, ids_K, scores_K)
    for document in some:
        score[document] = 0.0
    return float(scores_K[-1])


@numba.njit(nogil=True, cache=True)
def _add_to_met(met, score, data, indices):
    """Adds a word's summands to the scores of the documents met, by binary search in its list."""
    for document in met:
        low, high = 0, indices.size
        while low < high:
            middle = (low + high) // 2
            if indices[middle] < document:
                low = middle + 1
            else:
                high = middle
        if low < indices.size and indices[low] == document:
            score[document] += data[low]


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
        place = k - 1
        while place > 0 and (
            ids_K[place - 1] < 0
            or value > scores_K[place - 1]
            or (value == scores_K[place - 1] and document < ids_K[place - 1])
        ):
            ids_K[place] = ids_K[place - 1]
            scores_K[place] = scores_K[place - 1]
            place -= 1
        ids_K[place] = document
        scores_K[place] = value
