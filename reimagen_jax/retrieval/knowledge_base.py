"""A knowledge base: records, and indexes over their captions and vectors that find them for a text."""

import difflib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import get_args

import numpy as np

from reimagen_jax.data.records import Records
from reimagen_jax.data.sources import Where
from reimagen_jax.encoders.vectors import VectorEncoder, open_encoder
from reimagen_jax.errors import UserError
from reimagen_jax.files import atomic_dir
from reimagen_jax.retrieval import attributes, building, hybrid, postings, stored
from reimagen_jax.retrieval.analysis import DEFAULT, Analyser
from reimagen_jax.retrieval.asking import Method
from reimagen_jax.retrieval.building import Content, Dense, Lexical
from reimagen_jax.retrieval.collection import parts_of
from reimagen_jax.retrieval.explanation import Explanation
from reimagen_jax.retrieval.hybrid import BY_RANK, Fusion
from reimagen_jax.retrieval.stored import KIND, REMEDY, Stored

Hits = tuple[np.ndarray, np.ndarray]
"""ids int32[Q, k] and scores float32[Q, k]"""
EVERYTHING = Where()


@dataclass(frozen=True, eq=False)
class KnowledgeBase(Stored):
    """A folder with indexes of records; the ids it finds are those of `records`."""

    given_encoder: VectorEncoder | None = None
    """Used instead of opening the one that the base refers to."""

    @classmethod
    def build(
        cls,
        records: Records | Sequence[Records],
        out: str | Path,
        *,
        k1: float = 1.2,
        b: float = 0.75,
        analyser: Analyser = DEFAULT,
        dense: Dense | None = None,
        encoder: VectorEncoder | None = None,
        overwrite: bool = False,
    ) -> "KnowledgeBase":
        """Indexes records, of one folder or several, into the new folder `out` and opens it.

        `k1` above 0 says how soon a repeated word stops counting, `b` in 0..1 how much long captions are held back
        (BM25, Lucene's form). With `dense`, records are also found by vectors; `encoder` is opened where not given.
        Raises `UserError` when no caption has a word, when two records of one source have the same key, and when `out`
        exists and `overwrite` is false.
        """
        folders = [records] if isinstance(records, Records) else list(records)
        lexical, out = Lexical(k1, b, analyser), Path(out)
        with atomic_dir(out, kind=KIND, overwrite=overwrite) as folder:
            content = building.read(folders, analyser)
            _refuse_repeated(content, out)
            if dense is not None:
                encoder = encoder or open_encoder(dense.encoder)
                vectors = building.encode(content.records, folder, encoder, dense.of)
                content = replace(content, vectors=(vectors,))
            stored.write(folder, out, content, lexical, dense, encoder.fingerprint if encoder else "")
        return cls.open(out, encoder=encoder)

    @classmethod
    def open(cls, path: str | Path, *, encoder: VectorEncoder | None = None) -> "KnowledgeBase":
        """Opens a knowledge base; its indexes are memory-mapped at the first search, even if it is replaced before.

        Raises `UserError` when it is missing or damaged, when its records are not those that were indexed, or when it
        was made by another version of the analyser.
        """
        return cls.read(path, given_encoder=encoder)

    def sources(self) -> list[str]:
        """Each record's source: records of the same source and key are the same record."""
        return self.records.sources()

    def search(
        self,
        queries: Sequence[str],
        k: int,
        *,
        method: Method = "lexical",
        where: Where = EVERYTHING,
        exclude: Iterable[str] = (),
        pin: Iterable[str] = (),
        fusion: Fusion = BY_RANK,
        within: np.ndarray | None = None,
    ) -> Hits:
        """The best k records for each query: ids int32[Q, k] and scores float32[Q, k], best first, ties by lower id.

        By words (BM25; only captions that share a word with the query are found), by vectors (cosine), or by both.
        `where` keeps records by their attributes, `within` (bool[N]) by their ids; records with a key of `exclude` are
        never found; those of `pin` come first, in their order, with score NaN, whatever the query. Where there are
        fewer than k, ids are -1, scores 0.
        An empty query, or one of spaces, finds nothing but what is pinned.
        Raises `UserError` on a key or a condition that no record has, on `k` below 1 or below the number pinned, and
        where the method needs vectors that the base does not have.
        """
        if isinstance(queries, str) or not all(isinstance(query, str) for query in queries):
            raise UserError("queries are a list of texts")
        if method not in get_args(Method):
            raise UserError(f"there is no search method {method!r}: choose one of {', '.join(get_args(Method))}")
        pinned = self.ids_of(dict.fromkeys(pin))
        if k < max(1, len(pinned)):
            raise UserError(
                f"k is {k}: at least {max(1, len(pinned))} is needed{' for those pinned' * bool(len(pinned))}"
            )
        allowed = self.allowed(where, exclude)
        if within is not None:
            allowed = within if allowed is None else allowed & within
        if pinned.size:
            allowed = np.ones(len(self), bool) if allowed is None else allowed.copy()
            allowed[pinned] = False
        ids_QK, scores_QK = np.full((len(queries), k), -1, np.int32), np.zeros((len(queries), k), np.float32)
        ids_QK[:, : len(pinned)], scores_QK[:, : len(pinned)] = pinned, np.nan
        if len(queries) and k > len(pinned) and (allowed is None or allowed.any()):
            find = {"lexical": self._by_words, "dense": self._by_vectors, "hybrid": self._by_both}[method]
            ids_QK[:, len(pinned) :], scores_QK[:, len(pinned) :] = find(queries, k - len(pinned), allowed, fusion)
        return ids_QK, scores_QK

    def explain(self, query: str, record: int, *, method: Method = "lexical", fusion: Fusion = BY_RANK) -> Explanation:
        """What makes the score of a record for a query, found or not. Raises `IndexError` for an unknown record."""
        text, one = self.records[record].text, np.array([[record]], np.int32)
        words, vectors, told = method != "dense", method != "lexical", {}
        if words:
            told["matches"] = tuple(self.words.explain(query, record, text))
            known = set(self.words.known(query))
            told["unknown"] = tuple(dict.fromkeys(w for w in self.lexical.analyser(query) if w not in known))
            told["lexical"] = score = float(self.words.scores([query], one)[0, 0])
        if vectors:
            told["cosine"] = score = float(self.vectors.scores(self._encode([query]), one)[0, 0])
        if words and vectors:
            lists = self._lists([query], fusion.depth, None)
            told["ranks"] = tuple(float(hybrid.ranks(ids, one)[0, 0]) for ids in lists)
            ids_QU = np.union1d(hybrid.union(*lists), one)[None].astype(np.int32)
            score = float(self._fused([query], lists, ids_QU, fusion)[ids_QU == record][0])
        return Explanation(method, score, **told)

    def was_appended(self, records: Sequence[Records]) -> bool:
        """Whether it is what appending these records gives, all of them being there."""
        folders, _ = parts_of(self.records)
        last = [folder.fingerprint for folder in folders[-len(records) :]]
        if len(folders) <= len(records) or last != [each.fingerprint for each in records]:
            return False
        names = set(zip(self.sources(), self.keys(), strict=True))
        return all(names.issuperset(zip(each.sources(), each.keys(), strict=True)) for each in records)

    def append(
        self, records: Records | Sequence[Records], *, out: str | Path | None = None, overwrite: bool = False
    ) -> "KnowledgeBase":
        """Adds records, after those that are there, in place or into the new folder `out`, and opens the result.

        All settings stay. In place they are added to what the base holds by then: others may have changed it since it
        was opened. Raises `UserError` when a record is there already (same source and key), changing nothing.
        """
        folders = [records] if isinstance(records, Records) else list(records)
        with self._changed(out, overwrite) as (base, folder, target):
            new = building.read(folders, base.lexical.analyser)
            _refuse_repeated(new, target, of=base.content)
            if base.dense:
                new = replace(new, vectors=(building.encode(new.records, folder, base._encoder, base.dense.of),))
            base._write(folder, target, building.join([base.content, new]))
        return KnowledgeBase.open(target, encoder=self.given_encoder)

    def delete(
        self,
        keys: Iterable[str] = (),
        *,
        where: Where | None = None,
        out: str | Path | None = None,
        overwrite: bool = False,
    ) -> "KnowledgeBase":
        """Takes out records by key, and those that satisfy `where`, in place or into the new folder `out`; opens it.

        The records' own folder is not touched; the ids of those left close up. Raises `UserError` for a key or a
        condition that no record has, and when no record with a word would be left, changing nothing.
        """
        keys = list(keys)
        with self._changed(out, overwrite) as (base, folder, target):
            gone = np.zeros(len(base), bool)
            gone[base.ids_of(keys)] = True
            if where is not None and where.allowed:
                gone |= attributes.allowed(base.attributes, where)
            if not gone.any() or gone.all():
                raise UserError(f"{'all' if gone.any() else 'none'} of the records of {base.path} would be deleted")
            base._write(folder, target, building.select(base.content, np.flatnonzero(~gone)))
        return KnowledgeBase.open(target, encoder=self.given_encoder)

    @classmethod
    def merge(cls, bases: Sequence["KnowledgeBase"], out: str | Path, *, overwrite: bool = False) -> "KnowledgeBase":
        """Writes a base of all records of several bases to the new folder `out` and opens it.

        Of a record that several have (same source and key), the first is taken. Raises `UserError` when the bases
        differ in their settings, and when `out` exists and `overwrite` is false.
        """
        first, *others = bases
        for other in others:
            if difference := _difference(first, other):
                raise UserError(f"{first.path} and {other.path} cannot be merged: {difference}")
        with atomic_dir(out, kind=KIND, overwrite=overwrite) as folder:
            first._write(folder, Path(out), building.join([base.content for base in bases]))
        return cls.open(out, encoder=first.given_encoder)

    def verify(self) -> None:
        """Checks everything: checksums of all files, of the records too, and that the index is that of the captions.

        Raises `UserError` naming what is damaged.
        """
        self.folder.verify(*self.manifest["files"])
        self.records.verify()
        lists = postings.invert(map(self.lexical.analyser, self.records.texts()))
        if not self.words.has(lists):
            raise UserError(f"{self.path} does not index the captions of its records: {REMEDY}")
        if self.keys() != self.records.keys():
            raise UserError(f"{self.path} does not name its records right: {REMEDY}")
        if self.dense:
            _ = self.vectors  # as many as there are records, or opening them tells
        self.folder.verify_manifest()  # last: what is wrong with the index says more

    def ids_of(self, keys: Iterable[str]) -> np.ndarray:
        """The ids of the records with these keys, in the keys' order: int64. Raises `UserError` for an unknown key."""
        ids: list[int] = []
        for key in keys:
            if key not in self._ids_by_key:
                near = difflib.get_close_matches(key, self._ids_by_key, n=3)
                hint = f"did you mean {' or '.join(near)}?" if near else f"its keys are such as {self.keys()[0]}"
                raise UserError(f"{self.path} has no record with the key {key!r}: {hint}")
            ids += self._ids_by_key[key]
        return np.array(ids, np.int64)

    def allowed(
        self, where: Where = EVERYTHING, exclude: Iterable[str] = (), where_not: Where = EVERYTHING
    ) -> np.ndarray | None:
        """The records that satisfy `where`, no condition of `where_not`, and have no key of `exclude`: bool[N], or None
        where that leaves out nothing. Raises `UserError` on a key or a condition that no record has."""
        excluded = self.ids_of(exclude)
        if not (where.allowed or where_not.allowed or excluded.size):
            return None
        mask = attributes.allowed(self.attributes, where) if where.allowed else np.ones(len(self), bool)
        mask[excluded] = False
        return mask & ~attributes.refused(self.attributes, where_not) if where_not.allowed else mask

    @cached_property
    def vocabulary(self) -> dict[str, int]:
        """Each word of the captions, with the number of captions that have it."""
        return self.words.document_frequencies()

    def _by_words(self, queries: Sequence[str], k: int, allowed: np.ndarray | None, fusion: Fusion) -> Hits:
        return self.words.search(queries, k, allowed)

    def _by_vectors(self, queries: Sequence[str], k: int, allowed: np.ndarray | None, fusion: Fusion) -> Hits:
        ids_QK, scores_QK = self.vectors.search(self._encode(queries), k, allowed)
        empty_Q1 = np.array([not query.strip() for query in queries])[:, None]
        return np.where(empty_Q1, np.int32(-1), ids_QK), np.where(empty_Q1, np.float32(0), scores_QK)

    def _by_both(self, queries: Sequence[str], k: int, allowed: np.ndarray | None, fusion: Fusion) -> Hits:
        lists = self._lists(queries, max(k, fusion.depth), allowed)
        ids_QU = hybrid.union(*lists)
        return hybrid.best(ids_QU, self._fused(queries, lists, ids_QU, fusion), k)

    def _lists(self, queries: Sequence[str], depth: int, allowed: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
        """The best ids by words and by vectors, int32[Q, depth] each."""
        depth = min(depth, len(self))
        by_vectors, _ = self._by_vectors(queries, depth, allowed, BY_RANK)
        return self.words.search(queries, depth, allowed)[0], by_vectors

    def _fused(
        self, queries: Sequence[str], lists: tuple[np.ndarray, np.ndarray], ids_QU: np.ndarray, fusion: Fusion
    ) -> np.ndarray:
        if fusion.kind == "reciprocal":
            return hybrid.reciprocal(*lists, ids_QU, fusion)
        by_words, by_vectors = self.words.scores(queries, ids_QU), self.vectors.scores(self._encode(queries), ids_QU)
        return hybrid.weighted(by_words, by_vectors, fusion)

    def _encode(self, queries: Sequence[str]) -> np.ndarray:
        """float32[Q, D]; what UTF-8 cannot spell (half a surrogate pair, from a command line) is a question mark."""
        index = self.vectors  # says so when there is none
        vector_QD = self._encoder.texts([query.encode("utf-8", "replace").decode() for query in queries])
        return np.asarray(vector_QD, np.float32).reshape(len(queries), index.width)

    @cached_property
    def _encoder(self) -> VectorEncoder:
        encoder = self.given_encoder or open_encoder(self.dense.encoder)
        if encoder.fingerprint != (expected := self.manifest["dense"]["encoder_fingerprint"]):
            raise UserError(
                f"the vectors of {self.path} were made by another encoder ({expected}) than {self.dense.encoder} holds "
                f"now ({encoder.fingerprint}): {REMEDY}"
            )
        return encoder

    @cached_property
    def _ids_by_key(self) -> dict[str, list[int]]:
        ids: dict[str, list[int]] = {}
        for i, key in enumerate(self._keys):
            ids.setdefault(key, []).append(i)
        return ids

    @contextmanager
    def _changed(self, out: str | Path | None, overwrite: bool) -> "Iterator[tuple[KnowledgeBase, Path, Path]]":
        """The base to change, a folder to write the changed one to, and where it will lie: here, unless `out` is.

        In place, it is what the base is when its turn has come: changes come one after the other.
        """
        if out is not None:
            with atomic_dir(out, kind=KIND, overwrite=overwrite) as folder:
                yield self, folder, Path(out)
            return
        with atomic_dir(self.path, kind=KIND, overwrite=True, wait=True) as folder:
            yield KnowledgeBase.open(self.path, encoder=self.given_encoder), folder, self.path

    def _write(self, folder: Path, out: Path, content: Content) -> None:
        """Writes another content with this base's settings."""
        encoder = self.manifest["dense"]["encoder_fingerprint"] if self.dense else ""
        stored.write(folder, out, content, self.lexical, self.dense, encoder)


def _refuse_repeated(content: Content, out: Path, of: Content | None = None) -> None:
    """Raises `UserError` when a record is there twice."""
    seen = set() if of is None else set(building.names(of))
    for name in building.names(content):
        if name in seen:
            raise UserError(
                f"{out} would have the record {name[1]!r} of {name[0]} twice: leave it out, or delete it first"
            )
        seen.add(name)


def _difference(a: KnowledgeBase, b: KnowledgeBase) -> str:
    """In what settings two bases differ; empty where in none."""
    if a.lexical != b.lexical:
        return f"their settings are {a.lexical} and {b.lexical}"
    if (a.dense is None) != (b.dense is None):
        return f"only {(b if a.dense is None else a).path} has vectors"
    if a.dense is None:
        return ""
    made = [(base.manifest["dense"]["encoder_fingerprint"], base.dense.of) for base in (a, b)]
    return "" if made[0] == made[1] else f"their vectors are of {made[0]} and {made[1]}"
