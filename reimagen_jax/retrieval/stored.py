"""A knowledge base as files: written whole, read piece by piece when it is asked for.

    manifest.json             count, folders of records (by relative paths), settings, checksums of all files
    bm25.*, attributes.*      words of the captions, and attributes, as inverted lists
    dense.*                   vectors, where there is a search by them
    keys.json                 the records' keys, in order
    rows.npy                  which of the folders' records, where some were deleted

Every change writes a whole new folder and puts it in place when it is complete, so a reader, or a crash, finds the old
base or the new one; a reader that has opened one keeps its files open, and reads them to the end. Bases of format 1 had
neither keys nor attributes, and records of one folder.
"""

import json
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np

from reimagen_jax.checked import Count, Natural, Positive, Share, read
from reimagen_jax.data.manifest import Folder, Manifest, Text, fingerprint, link, open_folder, write_manifest
from reimagen_jax.data.opened import load_array
from reimagen_jax.data.records import ImageTexts, open_linked
from reimagen_jax.errors import UserError
from reimagen_jax.files import write_json
from reimagen_jax.retrieval import attributes, bm25, building, dense, postings
from reimagen_jax.retrieval.analysis import Analyser
from reimagen_jax.retrieval.building import Content, Dense, Lexical
from reimagen_jax.retrieval.collection import collect, parts_of
from reimagen_jax.retrieval.dense import DenseIndex
from reimagen_jax.retrieval.postings import Postings

KIND = "knowledge base"
ROWS_FILE = "rows.npy"
KEYS_FILE = "keys.json"
REMEDY = "run `reimagen index` again"


@dataclass(frozen=True)
class _Recall:
    """How many of the true neighbours are found, as it was measured."""

    k: Natural
    share: Share
    queries: Natural


@dataclass(frozen=True)
class _Vectors:
    """What a manifest says of vectors."""

    encoder: Text
    encoder_fingerprint: Text
    of: Literal["image", "text"]
    kind: Literal["exact", "approx", "faiss"]
    seed: Natural
    width: Count
    recall: _Recall


@dataclass(frozen=True)
class _Part:
    """What a manifest says of a folder of records."""

    records: Text
    fingerprint: Text
    count: Natural


@dataclass(frozen=True)
class _Analysed:
    """What a manifest says of the analyser."""

    version: int
    stemming: str | None
    stop_words: tuple[str, ...]
    stemmer: str | None = None


@dataclass(frozen=True)
class _Manifest1(Manifest):
    """Of a base of format 1."""

    count: Count
    k1: Positive
    b: Share
    records: Text
    records_fingerprint: Text


@dataclass(frozen=True)
class _Manifest2(Manifest):
    """Of a base."""

    count: Count
    k1: Positive
    b: Share
    parts: tuple[_Part, ...]
    deleted: Natural
    analyser: _Analysed
    dense: _Vectors | None


def write(folder: Path, out: Path, content: Content, lexical: Lexical, dense: Dense | None, encoder: str) -> None:
    """Writes to `folder` the files of a base that will lie in `out`; `encoder` is the fingerprint of what made vectors.

    Raises `UserError` when no caption has a word.
    """
    try:
        bm25.write(content.captions, folder, lexical.k1, lexical.b)
    except ValueError as error:
        raise UserError(f"{content.records.path} cannot be indexed: {error}") from error
    postings.save(content.attributes, folder, attributes.PREFIX)
    write_json(folder / KEYS_FILE, content.keys)
    total = sum(map(len, content.folders))
    if len(content.rows) < total:
        np.save(folder / ROWS_FILE, content.rows)
    fields = {
        "count": len(content.rows),
        "parts": [
            {"records": link(part.path, out), "fingerprint": part.fingerprint, "count": len(part)}
            for part in content.folders
        ],
        "deleted": total - len(content.rows),
        "method": "BM25 (Lucene)",
        "k1": lexical.k1,
        "b": lexical.b,
        "analyser": lexical.analyser.fields(),
        "dense": None if dense is None else _write_vectors(folder, out, content, dense, encoder),
    }
    (folder / building.ENCODED).unlink(missing_ok=True)
    write_manifest(folder, KIND, fields)


def _write_vectors(folder: Path, out: Path, content: Content, settings: Dense, encoder: str) -> dict[str, Any]:
    measured = dense.build(content.vectors, folder, kind=settings.kind, seed=settings.seed)
    about = {"encoder": link(settings.encoder, out), "encoder_fingerprint": encoder, "of": settings.of}
    return about | measured


@dataclass(frozen=True, eq=False)
class Stored:
    """A base's folder, opened."""

    path: Path
    manifest: dict[str, Any]
    folder: Folder = field(repr=False)
    records: ImageTexts
    lexical: Lexical
    dense: Dense | None
    """How vectors are made; None where there are none."""

    @classmethod
    def read(cls, path: str | Path, **more: Any) -> Self:
        """Opens a folder; its indexes are memory-mapped when they are asked for. `more` are a subclass's own fields.

        Raises `UserError` when it is missing or damaged, when its records are not those that were indexed, or when it
        was made by another version of the analyser.
        """
        folder = open_folder(path, KIND, _Manifest1, _Manifest2, hold=True)
        path, manifest = folder.path, folder.manifest
        with folder.opened.reading(REMEDY):
            if manifest["version"] == 1:
                parts, analysed = [(manifest["records"], manifest["records_fingerprint"])], None
            else:
                parts, analysed = [(p["records"], p["fingerprint"]) for p in manifest["parts"]], manifest["analyser"]
            lexical = Lexical(manifest["k1"], manifest["b"], Analyser.read(analysed, str(path)))
            vectors = Dense.read(manifest["dense"], path) if manifest.get("dense") else None
            folders = [open_linked(path, *part, "reimagen index") for part in parts]
            rows = load_array(folder / ROWS_FILE) if manifest["version"] > 1 and manifest["deleted"] else None
            records, count = collect(folders, rows), manifest["count"]
            if len(records) != count:
                raise ValueError(f"it counts {count} records, not {len(records)}")
        return cls(path, manifest, folder, records, lexical, vectors, **more)

    def __len__(self) -> int:
        return len(self.records)

    @property
    def fingerprint(self) -> str:
        """Checksum of the index and its records."""
        if self.manifest["version"] == 1:
            return fingerprint(self.manifest, self.records.fingerprint)
        analysed = {name: value for name, value in self.manifest["analyser"].items() if name != "unicode"}
        return fingerprint(self.manifest, self.records.fingerprint, json.dumps(analysed, sort_keys=True))

    @property
    def content(self) -> Content:
        """What the base was written from; one of format 1 is read from its records again."""
        if self.manifest["version"] == 1:
            return building.read([self.records], self.lexical.analyser)
        folders, rows = parts_of(self.records)
        vectors = () if self.dense is None else (self.vectors.vectors,)
        return Content(folders, rows, self.keys(), postings.load(self.folder, bm25.PREFIX), self.attributes, vectors)

    def keys(self) -> list[str]:
        """All records' keys, in order."""
        return self._keys

    @cached_property
    def words(self) -> bm25.Index:
        """The index of words."""
        with self._reading:
            index = bm25.load(self.folder, self.lexical.analyser)
            if index.size != len(self):
                raise ValueError(f"an index of {index.size} captions, not {len(self)}")
        return index

    @cached_property
    def attributes(self) -> Postings:
        """The records' attributes as inverted lists."""
        if self.manifest["version"] == 1:
            return attributes.invert(record.attributes for record in self.records)
        with self._reading:
            lists = postings.load(self.folder, attributes.PREFIX)
            if lists.num_documents != len(self):
                raise ValueError(f"attributes of {lists.num_documents} records, not {len(self)}")
        return lists

    @cached_property
    def vectors(self) -> DenseIndex:
        """The index of vectors. Raises `UserError` when there is none."""
        if self.dense is None:
            raise UserError(f"{self.path} has no vectors to search by: make them with `reimagen index ... --encoder`")
        with self._reading:
            index = dense.load(self.folder)
            if len(index) != len(self):
                raise ValueError(f"{len(index)} vectors of {len(self)} records")
        return index

    @cached_property
    def _keys(self) -> list[str]:
        if self.manifest["version"] == 1:
            return self.records.keys()
        with self._reading:
            keys = read(self.folder / KEYS_FILE, list[str], "the keys of an index")
            if len(keys) != len(self):
                raise ValueError(f"{len(keys)} keys of {len(self)} records")
        return keys

    @property
    def _reading(self) -> AbstractContextManager[None]:
        return self.folder.opened.reading(REMEDY)
