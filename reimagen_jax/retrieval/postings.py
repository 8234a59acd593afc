"""Inverted lists: for each term the documents that have it, and how often.

The terms are in alphabetical order, so that the same documents make the same lists in whatever steps they were added
and removed: built at once, appended, merged or left over after a deletion.
"""

import json
from array import array
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from reimagen_jax.checked import Natural, read
from reimagen_jax.data.manifest import Folder
from reimagen_jax.data.opened import load_array

if TYPE_CHECKING:
    import scipy.sparse as sp


@dataclass(frozen=True)
class _Terms:
    """What is stored of terms."""

    num_documents: Natural
    terms: tuple[str, ...]


@dataclass(frozen=True, eq=False)
class Postings:
    """Terms, and how often each of N documents has each: the list of term t is `[starts[t]:starts[t + 1]]`."""

    terms: tuple[str, ...]
    """In alphabetical order (of code points)."""
    starts: np.ndarray
    """int64[V + 1]"""
    documents: np.ndarray
    """int32[M], ascending within a term"""
    counts: np.ndarray
    """unsigned [M], at least 1: how often the document has the term"""
    num_documents: int

    @cached_property
    def number_of(self) -> dict[str, int]:
        """Term -> its number."""
        return {term: number for number, term in enumerate(self.terms)}

    @cached_property
    def lengths(self) -> np.ndarray:
        """How many terms each document has, repetitions counted: int64[N]."""
        return np.bincount(self.documents, self.counts, self.num_documents).astype(np.int64)

    @property
    def document_frequencies(self) -> np.ndarray:
        """How many documents have each term: int64[V]."""
        return np.diff(self.starts)

    def of_term(self, term: str) -> np.ndarray:
        """The documents that have a term: int32, ascending; none for an unknown term."""
        number = self.number_of.get(term)
        return self.documents[:0] if number is None else self._list(number)

    def _list(self, number: int) -> np.ndarray:
        return self.documents[self.starts[number] : self.starts[number + 1]]


class Inverter:
    """Collects the terms of documents, one document after the other."""

    def __init__(self) -> None:
        self._number_of: dict[str, int] = {}
        self._flat, self._starts = array("i"), array("q", [0])

    def add(self, terms: Iterable[str]) -> None:
        """The next document."""
        numbers = self._number_of
        self._flat.extend([numbers.setdefault(term, len(numbers)) for term in terms])
        self._starts.append(len(self._flat))

    def postings(self) -> Postings:
        """The lists of all documents so far."""
        import scipy.sparse as sp  # takes a while, and a search does without it

        flat, starts = np.array(self._flat, np.int32), np.array(self._starts, np.int64)
        shape = (len(starts) - 1, len(self._number_of))
        count_NV = sp.csr_array((np.ones(len(flat), np.int32), flat, starts), shape=shape)
        count_NV.sum_duplicates()
        return _sorted(list(self._number_of), count_NV.tocsc())


def invert(documents: Iterable[Iterable[str]]) -> Postings:
    """The lists of documents, each given by its terms."""
    inverter = Inverter()
    for terms in documents:
        inverter.add(terms)
    return inverter.postings()


def concatenate(parts: Sequence[Postings]) -> Postings:
    """The lists of all parts' documents, in the order of the parts."""
    import scipy.sparse as sp

    terms = sorted(set().union(*(part.terms for part in parts)))
    number_of = {term: number for number, term in enumerate(terms)}
    blocks = []
    for part in parts:
        counts = _matrix(part).tocoo()
        place_V = np.array([number_of[term] for term in part.terms], np.int32)
        columns = place_V[counts.col] if len(part.terms) else counts.col
        blocks.append(sp.csc_array((counts.data, (counts.row, columns)), shape=(part.num_documents, len(terms))))
    return _sorted(terms, sp.vstack(blocks, format="csc"))


def select(postings: Postings, documents: np.ndarray) -> Postings:
    """The lists of some of the documents, in the order given, numbered anew; terms that none of them has are gone."""
    kept = _matrix(postings).tocsr()[documents].tocsc()
    return _sorted(list(postings.terms), kept)


def save(postings: Postings, folder: Path, prefix: str) -> None:
    """Writes the lists to files of `folder` whose names start with `prefix`."""
    for name in ("starts", "documents", "counts"):
        np.save(folder / f"{prefix}.{name}.npy", getattr(postings, name))
    content = {"num_documents": postings.num_documents, "terms": postings.terms}
    (folder / f"{prefix}.terms.json").write_text(json.dumps(content, ensure_ascii=False), encoding="utf-8")


def load(folder: Path | Folder, prefix: str) -> Postings:
    """Opens what `save` wrote, memory-mapped. Raises `ValueError` where its parts do not fit together."""
    content = read(folder / f"{prefix}.terms.json", _Terms, "the terms of an index")
    starts, documents, counts = (
        load_array(folder / f"{prefix}.{name}.npy", mapped=True) for name in ("starts", "documents", "counts")
    )
    lists = Postings(content.terms, starts, documents, counts, content.num_documents)
    check_lists(len(lists.terms), lists.num_documents, starts, documents, counts)
    return lists


def check_lists(
    num_terms: int, num_documents: int, starts: np.ndarray, documents: np.ndarray, values: np.ndarray
) -> None:
    """Raises `ValueError` where a search would read what is not there. (Of what else is wrong, checksums tell.)"""
    if not (starts.ndim == documents.ndim == values.ndim == 1 and starts.dtype.kind == documents.dtype.kind == "i"):
        raise ValueError("lists of another kind")
    if starts.size != num_terms + 1 or starts[0] != 0 or not documents.size == values.size == starts[-1]:
        raise ValueError(f"lists of other lengths than {num_terms} terms have")
    if (np.diff(starts) < 1).any() or documents.min(initial=0) < 0 or documents.max(initial=-1) >= num_documents:
        raise ValueError(f"lists of others than {num_documents} documents")


def _matrix(postings: Postings) -> "sp.csc_array":
    import scipy.sparse as sp

    shape = (postings.num_documents, len(postings.terms))
    return sp.csc_array((postings.counts.astype(np.int32), postings.documents, postings.starts), shape=shape)


def _sorted(terms: list[str], count_NV: "sp.csc_array") -> Postings:
    """Terms in alphabetical order, those that no document has left out, documents ascending."""
    used = np.flatnonzero(np.diff(count_NV.indptr))
    order = np.array(sorted(used, key=terms.__getitem__), np.int64)
    if not np.array_equal(order, np.arange(len(terms))):
        count_NV = count_NV[:, order]
    count_NV.sort_indices()
    most = int(count_NV.data.max(initial=1))
    return Postings(
        tuple(terms[number] for number in order),
        count_NV.indptr.astype(np.int64),
        count_NV.indices.astype(np.int32),
        count_NV.data.astype(np.min_scalar_type(most)),
        count_NV.shape[0],
    )
