"""All pairs: for every text of a collection the best others, by BM25, in parts of any size.

Documents are lists of word numbers. What of (1) and (2) in `bm25` depends on the whole collection (the numbers of
documents N and n(w), the mean length, and the order in which summands are added) is `Statistics`; with them, any part
of the documents becomes an index, and the best of all parts are the best of the whole, to the last bit:
    (1) best_k(q, D_1 + D_2) = best_k(best_k(q, D_1) + best_k(q, D_2)), by score, then by id
`neighbours` does it in one part, on all cores; `beam` with many parts on many machines.
"""

from array import array
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numba
import numpy as np

from reimagen_jax.progress import track
from reimagen_jax.retrieval import blocks, maxscore
from reimagen_jax.retrieval.analysis import words
from reimagen_jax.retrieval.blocks import Blocks

Hits = tuple[np.ndarray, np.ndarray]
"""ids [Q, k], -1 where there are fewer, and scores float32[Q, k]: best first, ties by lower id."""


class Documents(NamedTuple):
    """N documents: the words of document i are `[starts[i]:starts[i + 1]]`."""

    ids_N: np.ndarray
    """All different; of the type in which hits are told."""
    lengths_N: np.ndarray
    """int64: how many words each has, with those that are left out of `words` because no other document has them"""
    words: np.ndarray
    """int32: numbers of words, repeated as in the text, in any order."""
    starts: np.ndarray
    """int64[N + 1]"""

    def take(self, places: np.ndarray) -> "Documents":
        """Some of the documents, in the order given."""
        lists = [self.words[self.starts[i] : self.starts[i + 1]] for i in places]
        starts = np.cumsum([0, *map(len, lists)], dtype=np.int64)
        return Documents(self.ids_N[places], self.lengths_N[places], np.concatenate([*lists, self.words[:0]]), starts)


@dataclass(frozen=True, eq=False)
class Scoring:
    """What a word's summand in a document depends on besides both. Words are numbered alphabetically (code points)."""

    idf_V: np.ndarray
    """float64: (2) of `bm25`"""
    mean_length: float
    k1: float
    b: float


class Lists(NamedTuple):
    """The inverted lists of some documents, as in `bm25`, with the words that they have."""

    words_W: np.ndarray
    """int32, ascending"""
    data: np.ndarray
    """float32: summands"""
    indices: np.ndarray
    """int32: places among the documents"""
    indptr: np.ndarray
    """int64[W + 1]"""

    @property
    def largest_W(self) -> np.ndarray:
        """float32: each word's largest summand."""
        return np.maximum.reduceat(self.data, self.indptr[:-1]) if len(self.words_W) else self.data[:0]


class Part(NamedTuple):
    """An index of some of the documents."""

    words_W: np.ndarray
    """int32: the words that they have, ascending."""
    blocks: Blocks


class Numbers:
    """Numbers words as they come."""

    def __init__(self) -> None:
        self.number_of: dict[str, int] = {}

    def documents(self, texts: Iterable[Iterable[str]]) -> Documents:
        """Documents with the ids 0, 1, 2, ... (int32), each given by its words."""
        flat, starts, number_of = array("i"), array("q", [0]), self.number_of
        for text in texts:
            flat.extend([number_of.setdefault(word, len(number_of)) for word in text])
            starts.append(len(flat))
        starts = np.array(starts)
        return Documents(np.arange(len(starts) - 1, dtype=np.int32), np.diff(starts), np.array(flat, np.int32), starts)

    def alphabetical(self) -> tuple[list[str], np.ndarray]:
        """The words in alphabetical order, and the new number of each old one: int32[V]."""
        order = sorted(self.number_of)
        new_V = np.empty(len(order), np.int32)
        new_V[[self.number_of[word] for word in order]] = np.arange(len(order), dtype=np.int32)
        return order, new_V


def neighbours(
    texts: Sequence[str],
    k: int,
    *,
    k1: float = 1.2,
    b: float = 0.75,
    analyser: Callable[[str], Iterable[str]] = words,
) -> Hits:
    """The best k other texts for each text: ids int32[N, k], -1 where fewer share a word, and scores float32[N, k].

    Ids are places in `texts`. Scores are those of a `bm25.Index` of the texts, to the last bit.
    Raises `ValueError` when k is not positive.
    """
    if k < 1:
        raise ValueError(f"k is {k}: at least 1 is needed")
    numbers = Numbers()
    documents = numbers.documents(analyser(text) for text in track(texts, len(texts), "words", "text"))
    alphabetical, new_V = numbers.alphabetical()
    documents = documents._replace(words=new_V[documents.words])
    hits = nothing(len(texts), k, np.int32)
    if alphabetical:
        idf_V = inverse_frequencies(document_frequencies(documents, len(alphabetical)), len(texts))
        lists = invert(documents, Scoring(idf_V, documents.lengths_N.mean(), k1, b))
        improve(hits, documents, arrange(lists, lists.largest_W, documents.ids_N))
    return hits


def common_words(texts: Iterable[Iterable[str]], share: float) -> list[str]:
    """The words that more than this share of the texts have, commonest first: stop words for an `Analyser`.

    Each text is given by its words. Leaving such words out makes searching cheaper, and changes some hits.
    """
    numbers = Numbers()
    documents = numbers.documents(texts)
    having_V = document_frequencies(documents, len(numbers.number_of))
    names = list(numbers.number_of)
    return [names[v] for v in np.argsort(-having_V, kind="stable") if having_V[v] > share * len(documents.ids_N)]


def invert(documents: Documents, scoring: Scoring) -> Lists:
    """The inverted lists of documents."""
    present_V = np.zeros(len(scoring.idf_V), bool)
    present_V[documents.words] = True
    words_W = np.flatnonzero(present_V).astype(np.int32)
    local_V = np.cumsum(present_V, dtype=np.int32) - 1
    distinct, counts, starts = blocks.ranked(documents.words, documents.starts, local_V)
    settings = scoring.mean_length, scoring.k1, scoring.b
    return Lists(words_W, *_invert(distinct, counts, starts, documents.lengths_N, scoring.idf_V[words_W], *settings))


def arrange(lists: Lists, largest_W: np.ndarray, ids_N: np.ndarray) -> Part:
    """An index of the documents with these ids. `largest_W` is each word's largest summand in all parts."""
    return Part(lists.words_W, blocks.arrange(lists[1:], largest_W, ids_N))


def improve(hits: Hits, queries: Documents, part: Part) -> None:
    """(1): updates the best others found so far for each of the queries, in place, by what is found in a part."""
    if not len(part.words_W):
        return
    local = np.searchsorted(part.words_W, queries.words).astype(np.int32)
    local[local == len(part.words_W)] = 0
    local[part.words_W[local] != queries.words] = -1
    ranked = blocks.ranked(local, queries.starts, part.blocks.rank_V)
    blocks.search(part.blocks, ranked, *hits, queries.ids_N)


def merge(hits: Hits, others: Hits) -> Hits:
    """(1) of hits in different documents."""
    k = hits[0].shape[1]
    ids_QC, scores_QC = (np.concatenate(pair, axis=1) for pair in zip(hits, others, strict=True))
    order_QK = np.lexsort((ids_QC, -scores_QC))[:, :k]
    return np.take_along_axis(ids_QC, order_QK, axis=1), np.take_along_axis(scores_QC, order_QK, axis=1)


def nothing(num_queries: int, k: int, dtype: type) -> Hits:
    """The hits before any search."""
    return np.full((num_queries, k), -1, dtype), np.zeros((num_queries, k), np.float32)


@numba.njit(nogil=True, cache=True)
def document_frequencies(documents, num_words):
    """n(w): int64[V]"""
    having_V, last_V = np.zeros(num_words, np.int64), np.full(num_words, -1, np.int64)
    for i in range(documents.starts.size - 1):
        for word in documents.words[documents.starts[i] : documents.starts[i + 1]]:
            having_V[word] += last_V[word] != i
            last_V[word] = i
    return having_V


@numba.njit(nogil=True, cache=True)
def inverse_frequencies(having_V, num_documents):
    """(2) of `bm25`: float64[V]"""
    idf_V = np.empty(having_V.size, np.float64)
    for word in range(having_V.size):
        idf_V[word] = maxscore.inverse_frequency(having_V[word], num_documents)
    return idf_V


@numba.njit(nogil=True, cache=True)
def _invert(words, counts, starts, lengths_N, idf_W, mean_length, k1, b):
    """Lists of documents whose words are given once each, with their counts; (1) of `bm25`, to the last bit."""
    indptr = np.zeros(idf_W.size + 1, np.int64)
    for word in words:
        indptr[word + 1] += 1
    indptr = np.cumsum(indptr)
    free_W = indptr[:-1].copy()
    data, indices = np.empty(words.size, np.float32), np.empty(words.size, np.int32)
    for i in range(starts.size - 1):
        for p in range(starts[i], starts[i + 1]):
            word = words[p]
            data[free_W[word]] = maxscore.summand(idf_W[word], counts[p], lengths_N[i], mean_length, k1, b)
            indices[free_W[word]] = i
            free_W[word] += 1
    return data, indices, indptr
