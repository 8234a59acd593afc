"""BM25 in Lucene's form: the best documents for many queries, exactly.

With tf(w, d) how often word w occurs in document d, |d| its number of words, N documents, n(w) of them with w:
    (1) score(q, d) = sum over words w of q:  idf(w) tf(w, d) / (tf(w, d) + k1 (1 - b + b |d| / mean |d|))
    (2) idf(w) = ln(1 + (N - n(w) + 0.5) / (n(w) + 0.5))
The index stores the summands of (1) by word: those of word w are `data[indptr[w]:indptr[w + 1]]`, and their documents,
ascending, the same part of `indices`.

(1) is added up in float32, word by word, from the largest possible summand to the smallest: for a few queries of a
small index as it stands here; for others by compiled code that skips most of it (`maxscore`, `blocks`) and gives the
same to the last bit, but takes a third of a second to load.
Reference: Robertson and Zaragoza (2009), BM25.
"""

import itertools
from array import array
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from reimagen_jax.checked import Count, Natural, parse, read
from reimagen_jax.data.manifest import Folder
from reimagen_jax.data.opened import load_array
from reimagen_jax.data.parallel import ordered_map
from reimagen_jax.files import read_json
from reimagen_jax.progress import track
from reimagen_jax.retrieval import postings
from reimagen_jax.retrieval.analysis import words
from reimagen_jax.retrieval.postings import Postings, check_lists

if TYPE_CHECKING:
    from reimagen_jax.retrieval.blocks import Blocks

__all__ = ["Index", "Match", "build", "load", "words", "write"]

PREFIX = "captions"
_QUERIES_PER_TASK = 1024
_MANY, _FEW = 2**28, 100
"""With so many pairs of query and document or more, and k no larger than that, an index in blocks is worth making."""
_LITTLE, _SMALL = 2**20, 2**12
"""Fewer pairs of query and document are not worth compiled code; an index counts as no smaller than this."""
_ROUNDING = 1e-4
"""Room for the rounding of float32 sums."""


@dataclass(frozen=True)
class Match:
    """What a word of a query contributes to the score of a document: a summand of (1)."""

    word: str
    in_query: int
    """How often the query has it; `score` counts it as often."""
    in_document: int
    """tf(w, d)"""
    documents: int
    """n(w)"""
    idf: float
    """(2)"""
    score: float


class Index:
    """An inverted index in memory or memory-mapped; safe to search from several threads."""

    def __init__(
        self,
        vocabulary: dict[str, int],
        lists: Sequence[np.ndarray],
        size: int,
        analyser: Callable[[str], list[str]] = words,
        largest: np.ndarray | None = None,
    ):
        """`vocabulary` maps words to numbers; `lists` are data, indices, indptr; `size` is the number of documents.

        `analyser` finds the words of a query; `largest` is each word's largest summand, worked out where not given.
        """
        self.vocabulary = vocabulary
        self.size = size
        self.analyser = analyser
        self._lists = tuple(np.asarray(array) for array in lists)
        data, _, indptr = self._lists
        self._largest = np.maximum.reduceat(data, indptr[:-1].astype(np.int64)) if largest is None else largest

    def search(
        self, queries: Sequence[str], k: int, allowed: np.ndarray | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """The best k documents for each query: ids int32[Q, k] and scores float32[Q, k], best first, ties by lower id.

        Only documents that share a word with the query count, and of them those of `allowed` (bool[N]) where it is
        given; where there are fewer, ids are -1 and scores 0. Raises `ValueError` when k is not positive.
        """
        if k < 1:
            raise ValueError(f"k is {k}: at least 1 is needed")
        if allowed is None and len(queries) * self.size >= _MANY and k <= _FEW:
            return self._search_blocks(queries, k)
        ids_QK = np.full((len(queries), k), -1, np.int32)
        scores_QK = np.zeros((len(queries), k), np.float32)
        if self._is_little(len(queries)):
            for terms, ids_K, scores_K in zip(self._terms_of(queries), ids_QK, scores_QK, strict=True):
                self._best(terms, allowed, ids_K, scores_K)
            return ids_QK, scores_QK
        from reimagen_jax.retrieval import maxscore

        # Not met is 0; what is not allowed stays at minus infinity, whatever is added, and so is never met.
        blank = np.zeros(self.size, np.float32) if allowed is None else np.where(allowed, 0, -np.inf).astype(np.float32)

        def task(start: int) -> None:
            part = slice(start, start + _QUERIES_PER_TASK)
            terms, starts = self._terms(queries[part])
            maxscore.search(terms, starts, *self._lists, self._largest, blank.copy(), ids_QK[part], scores_QK[part])

        starts = range(0, len(queries), _QUERIES_PER_TASK)
        for _ in track(ordered_map(task, starts), len(starts), "search", "batch"):
            pass
        return ids_QK, scores_QK

    def _best(self, terms: Sequence[int], allowed: np.ndarray | None, ids_K: np.ndarray, scores_K: np.ndarray) -> None:
        """Fills in the best documents for a query of these words, by (1)."""
        data, indices, indptr = self._lists
        score_N = np.zeros(self.size, np.float32)
        for term in terms:
            part = slice(indptr[term], indptr[term + 1])
            score_N[indices[part]] += data[part]
        met = np.flatnonzero(score_N if allowed is None else np.where(allowed, score_N, 0))
        best = met[np.argsort(-score_N[met], kind="stable")[: len(ids_K)]]
        ids_K[: len(best)], scores_K[: len(best)] = best, score_N[best]

    def _search_blocks(self, queries: Sequence[str], k: int) -> tuple[np.ndarray, np.ndarray]:
        """The same by an index in blocks, which takes a while to make and is then many times faster."""
        from reimagen_jax.retrieval import blocks

        flat, starts, number_of = array("i"), array("q", [0]), self.vocabulary
        for query in track(queries, len(queries), "words", "query"):
            flat.extend([number_of[word] for word in self.analyser(query) if word in number_of])
            starts.append(len(flat))
        hits = np.full((len(queries), k), -1, np.int32), np.zeros((len(queries), k), np.float32)
        ranked = blocks.ranked(np.array(flat, np.int32), np.array(starts), self._blocks.rank_V)
        blocks.search(self._blocks, ranked, *hits)
        return hits

    @cached_property
    def _blocks(self) -> "Blocks":
        from reimagen_jax.retrieval import blocks

        return blocks.arrange(self._lists, self._largest, np.arange(self.size, dtype=np.int32))

    def scores(self, queries: Sequence[str], ids_QC: np.ndarray) -> np.ndarray:
        """The scores (1) of given documents: float32[Q, C], those of `search` to the last bit; 0 where an id is -1."""
        scores_QC = np.zeros(ids_QC.shape, np.float32)
        if self._is_little(len(queries)):
            for q, terms in enumerate(self._terms_of(queries)):
                for term in terms:
                    place_C, has_C = self._places(term, ids_QC[q])
                    scores_QC[q, has_C] += self._lists[0][place_C[has_C]]
            return scores_QC
        from reimagen_jax.retrieval import maxscore

        maxscore.score(*self._terms(queries), *self._lists, np.asarray(ids_QC, np.int32), scores_QC)
        return scores_QC

    def shares(self, texts: Sequence[str], ids_QC: np.ndarray) -> np.ndarray:
        """How much of what each text's words weigh (2) the words weigh that given documents have: float32[Q, C].

        A word counts once, however often it is there; one that no document has weighs the most. 1 where a text has no
        word, 0 where an id is -1.
        """
        terms, starts = self._distinct(texts)
        shares_QC = np.zeros(ids_QC.shape, np.float32)
        if self._is_little(len(texts)):
            idf_W = self._idf_of(terms)
            for q, ids_C in enumerate(ids_QC):
                part = slice(starts[q], starts[q + 1])
                has_WC = [self._places(term, ids_C)[1] for term in terms[part]]
                shares_QC[q] = idf_W[part] @ has_WC / idf_W[part].sum() if has_WC else ids_C >= 0
            return shares_QC
        from reimagen_jax.retrieval import maxscore

        maxscore.share(terms, starts, *self._lists[1:], self.size, np.asarray(ids_QC, np.int32), shares_QC)
        return shares_QC

    def least_scores(self, texts: Sequence[str], share: float) -> np.ndarray:
        """A score (1) that is not undercut by documents with such a share of a text: float64[Q]; infinite where no
        document can have it. The query may have more words than the text."""
        terms, starts = self._distinct(texts)
        text_of, weights = np.repeat(np.arange(len(texts)), np.diff(starts)), self._idf_of(terms)
        whole_Q, known_Q = (np.bincount(text_of, each, len(texts)) for each in (weights, weights * (terms >= 0)))
        return np.where(known_Q >= share * whole_Q, share * whole_Q * self._least_factor, np.inf)

    @cached_property
    def _least_factor(self) -> float:
        """The smallest summand (1) of any word in any document, as a share of its idf."""
        data, _, indptr = self._lists
        if not len(data):
            return 1.0
        smallest = np.minimum.reduceat(data, indptr[:-1].astype(np.int64))
        return float((smallest / self._idf_of(np.arange(len(smallest)))).min()) * (1 - _ROUNDING)

    def _is_little(self, num_queries: int) -> bool:
        return num_queries * max(self.size, _SMALL) < _LITTLE

    def _places(self, term: int, ids_C: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Where the summands of a word, -1 for one of no document, stand for documents; which of them have it: bool."""
        if term < 0:
            return np.zeros_like(ids_C), np.zeros(ids_C.shape, bool)
        _, indices, indptr = self._lists
        of_term = indices[indptr[term] : indptr[term + 1]]
        place_C = np.searchsorted(of_term, ids_C).clip(max=len(of_term) - 1)
        return indptr[term] + place_C, of_term[place_C] == ids_C

    def _idf_of(self, terms: np.ndarray) -> np.ndarray:
        """(2) of words by their numbers, -1 for those of no document: float64"""
        having = np.append(np.diff(self._lists[2]), 0)[terms]
        return np.log(1 + (self.size - having + 0.5) / (having + 0.5))

    def _distinct(self, texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        """The numbers of each text's words, each once, -1 for those of no document; where each text's start."""
        found = [[self.vocabulary.get(word, -1) for word in dict.fromkeys(self.analyser(text))] for text in texts]
        starts = np.cumsum([0, *map(len, found)])
        return np.array([term for terms in found for term in terms], np.int64), starts

    def document_frequencies(self) -> dict[str, int]:
        """n(w) of each word."""
        having = np.diff(self._lists[2])
        return {word: int(having[term]) for word, term in self.vocabulary.items()}

    def has(self, lists: Postings) -> bool:
        """Whether the index is one of these documents."""
        _, indices, indptr = self._lists
        if self.size != lists.num_documents or self.vocabulary.keys() != set(lists.terms):
            return False
        return all(
            np.array_equal(indices[indptr[term] : indptr[term + 1]], lists.of_term(word))
            for word, term in self.vocabulary.items()
        )

    def known(self, query: str) -> list[str]:
        """The words of a query that some document has."""
        return [word for word in self.analyser(query) if word in self.vocabulary]

    def explain(self, query: str, document: int, text: str) -> list[Match]:
        """The summands of the score of a document, whose text is given, largest first."""
        data, indices, indptr = self._lists
        in_document, matches = Counter(self.analyser(text)), []
        for word, in_query in Counter(self.known(query)).items():
            term = self.vocabulary[word]
            first, last = int(indptr[term]), int(indptr[term + 1])
            place = first + int(np.searchsorted(indices[first:last], document))
            if place < last and indices[place] == document:
                score = in_query * float(data[place])
                idf = float(self._idf_of(np.array([term]))[0])
                matches.append(Match(word, in_query, in_document[word], last - first, idf, score))
        return sorted(matches, key=lambda match: (-match.score, match.word))

    def _terms(self, queries: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        """Words of all queries in one array, each query's from the largest possible summand down; where each starts."""
        terms = list(self._terms_of(queries))
        return np.array(list(itertools.chain(*terms)), np.int64), np.cumsum([0, *map(len, terms)], dtype=np.int64)

    def _terms_of(self, queries: Sequence[str]) -> Iterator[list[int]]:
        """The numbers of each query's words, from the largest possible summand down."""
        for query in queries:
            known = [self.vocabulary[word] for word in self.known(query)]
            yield sorted(known, key=lambda term: (-self._largest[term], term))


def build(
    texts: Sequence[str], folder: Path, k1: float, b: float, analyser: Callable[[str], list[str]] = words
) -> None:
    """Writes the index of `texts` to `folder`. Raises `ValueError` when no text has a word."""
    write(postings.invert(map(analyser, track(texts, len(texts), "words", "text"))), folder, k1, b)


def write(lists: Postings, folder: Path, k1: float, b: float) -> None:
    """Writes the index of documents whose words are already counted. Raises `ValueError` when there are none."""
    if not lists.terms:
        raise ValueError("no text has a word")
    folder.mkdir(parents=True, exist_ok=True)
    from reimagen_jax.retrieval import maxscore

    data = np.empty(lists.counts.size, np.float32)
    lengths = lists.lengths
    maxscore.summands(lists.starts, lists.documents, lists.counts, lengths, lengths.mean(), k1, b, data)
    postings.save(lists, folder, PREFIX)
    np.save(folder / f"{PREFIX}.summands.npy", data)
    np.save(folder / f"{PREFIX}.largest.npy", np.maximum.reduceat(data, lists.starts[:-1]))


def load(folder: Path | Folder, analyser: Callable[[str], list[str]] = words) -> Index:
    """Opens what `build` or `write` wrote, memory-mapped. Raises `ValueError` where its parts do not fit together."""
    if (folder / "params.index.json").is_file():
        return _load_1(folder, analyser)
    lists = postings.load(folder, PREFIX)
    data, largest = (load_array(folder / f"{PREFIX}.{name}.npy", mapped=True) for name in ("summands", "largest"))
    if not (data.dtype == largest.dtype == np.float32 and data.shape == lists.counts.shape):
        raise ValueError("summands of another kind")
    if largest.shape != (len(lists.terms),) or not np.isfinite(largest).all():
        raise ValueError("largest summands of another kind")
    return Index(lists.number_of, (data, lists.documents, lists.starts), lists.num_documents, analyser, largest)


def _load_1(folder: Path | Folder, analyser: Callable[[str], list[str]]) -> Index:
    """Opens an index of format 1: bm25s's files."""
    vocabulary = read(folder / "vocab.index.json", dict[str, Natural], "the vocabulary of an index")
    settings = read_json(folder / "params.index.json", "the settings of an index")
    size = parse(Count, settings["num_docs"], f"{folder / 'params.index.json'}.num_docs")
    lists = [load_array(folder / f"{name}.csc.index.npy", mapped=True) for name in ("data", "indices", "indptr")]
    data, indices, indptr = lists
    check_lists(len(vocabulary), size, indptr, indices, data)
    return Index(vocabulary, lists, size, analyser)
