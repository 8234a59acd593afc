"""A knowledge base: records, and an index over their captions that finds them for a text."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from reimagen_jax.data.manifest import fingerprint, follow, link, read_manifest, write_manifest
from reimagen_jax.data.records import Records
from reimagen_jax.errors import UserError
from reimagen_jax.files import atomic_dir

if TYPE_CHECKING:
    from reimagen_jax.retrieval.bm25 import Index

KIND = "knowledge base"


@dataclass(frozen=True, eq=False)
class KnowledgeBase:
    """A folder with a BM25 index over the captions of records; the ids it finds are those of `records`."""

    path: Path
    manifest: dict[str, Any]
    records: Records

    @classmethod
    def build(
        cls, records: Records, out: str | Path, *, k1: float = 1.5, b: float = 0.75, overwrite: bool = False
    ) -> "KnowledgeBase":
        """Indexes the captions of `records` into the new folder `out` and opens it (BM25, Lucene's form).

        `k1` above 0 says how soon a repeated word stops counting, `b` in 0..1 how much long captions are held back.
        Raises `UserError` when no caption has a word, and when `out` exists and `overwrite` is false.
        """
        from reimagen_jax.retrieval import bm25

        with atomic_dir(out, overwrite=overwrite) as folder:
            try:
                bm25.build(records.texts(), folder, k1, b)
            except ValueError as error:
                raise UserError(f"{records.path} cannot be indexed: {error}") from error
            fields = {
                "count": len(records),
                "records": link(records.path, out),
                "records_fingerprint": records.fingerprint,
                "method": "BM25 (Lucene)",
                "k1": k1,
                "b": b,
            }
            write_manifest(folder, KIND, fields)
        return cls.open(out)

    @classmethod
    def open(cls, path: str | Path) -> "KnowledgeBase":
        """Opens a knowledge base; its index is memory-mapped at the first search.

        Raises `UserError` when it is missing or damaged, or when its records are not those that were indexed.
        """
        manifest = read_manifest(path, KIND)
        records = open_linked_records(path, manifest["records"], manifest["records_fingerprint"], "reimagen index")
        return cls(Path(path), manifest, records)

    @property
    def fingerprint(self) -> str:
        """Checksum of the index and its records."""
        return fingerprint(self.manifest, self.records.fingerprint)

    def __len__(self) -> int:
        return len(self.records)

    def search(self, queries: Sequence[str], k: int) -> tuple[np.ndarray, np.ndarray]:
        """The best k records for each query: ids int32[Q, k] and scores float32[Q, k], best first, ties by lower id.

        Only captions that share a word with the query are found; where there are fewer than k, ids are -1, scores 0.
        """
        return self._index.search(queries, k)

    @cached_property
    def _index(self) -> "Index":
        from reimagen_jax.retrieval import bm25

        return bm25.load(self.path)


def open_linked_records(folder: str | Path, relative: str, expected: str, command: str) -> Records:
    """Opens the records that `folder` refers to. Raises `UserError` when they are gone or others (fingerprint)."""
    path = follow(folder, relative)
    if not path.is_dir():
        raise UserError(f"{folder} refers to records in {path}, which are gone: run `{command}` again")
    records = Records.open(path)
    if records.fingerprint != expected:
        raise UserError(f"{folder} was made from other records than {path} holds now: run `{command}` again")
    return records
