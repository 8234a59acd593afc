"""The records of a knowledge base: those of one or several folders, some perhaps deleted, under one numbering.

Rows are counted through all folders, one after the other; a collection keeps some of the rows and numbers them anew:
    (1) id i is row `rows[i]`; row r is record r - start(folder) of the folder in which it lies
The folders themselves are never written to.
"""

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from reimagen_jax.data.records import ImageText, ImageTexts, Records


@dataclass(frozen=True, eq=False)
class Collection(ImageTexts):
    """Records of several folders, read like those of one; safe to read from several threads."""

    folders: tuple[Records, ...]
    rows: np.ndarray
    """int64[N], ascending: what is in the collection, by (1)."""

    @property
    def path(self) -> Path:
        """Of the first folder, for messages."""
        return self.folders[0].path

    @property
    def manifest(self) -> dict[str, Any]:
        """The settings that all folders share."""
        first, *others = (folder.manifest.get("settings", {}) for folder in self.folders)
        shared = {name: value for name, value in first.items() if all(o.get(name) == value for o in others)}
        return {"count": len(self), "settings": shared}

    @cached_property
    def fingerprint(self) -> str:
        content = hashlib.sha256(" ".join(folder.fingerprint for folder in self.folders).encode())
        content.update(np.asarray(self.rows, "<i8").tobytes())
        return content.hexdigest()[:32]

    @property
    def source(self) -> str:
        """Where all records come from. Raises `ValueError` when they have several sources: see `sources`."""
        names = {folder.source for folder in self.folders}
        if len(names) > 1:
            raise ValueError(f"these records are of {len(names)} sources: each has its own, see sources()")
        return names.pop()

    def sources(self) -> list[str]:
        return self._column(lambda folder: [folder.source] * len(folder))

    def __len__(self) -> int:
        return len(self.rows)

    def fetch(self, ids: Iterable[int]) -> list[ImageText]:
        ids = np.asarray(list(ids), np.int64)
        if ids.size and (ids.min() < 0 or ids.max() >= len(self)):
            raise IndexError(f"record {ids.min() if ids.min() < 0 else ids.max()} of {len(self)}")
        row = self.rows[ids]
        found: list[ImageText | None] = [None] * len(ids)
        for folder, start in zip(self.folders, self._starts, strict=False):
            places = np.flatnonzero((row >= start) & (row < start + len(folder)))
            for place, record in zip(places, folder.fetch(row[places] - start), strict=True):
                found[place] = record
        return found

    def keys(self) -> list[str]:
        return self._column(Records.keys)

    def texts(self) -> list[str]:
        return self._column(Records.texts)

    def digests(self) -> list[str]:
        return self._column(Records.digests)

    def verify(self) -> None:
        for folder in self.folders:
            folder.verify()

    @cached_property
    def _starts(self) -> np.ndarray:
        return np.cumsum([0, *map(len, self.folders)])

    def _column(self, read) -> list[str]:
        everything = [value for folder in self.folders for value in read(folder)]
        return [everything[row] for row in self.rows]


def collect(folders: Sequence[Records], rows: np.ndarray | None = None) -> ImageTexts:
    """Records of folders, all or those of some rows; the folder itself where it is one, and whole.

    Raises `ValueError` on rows that are not ascending, or not there.
    """
    total = sum(map(len, folders))
    if rows is not None and (np.diff(rows, prepend=-1, append=total) < 1).any():
        raise ValueError(f"rows that are not those of {total} records")
    if rows is None or len(rows) == total:
        return folders[0] if len(folders) == 1 else Collection(tuple(folders), np.arange(total))
    return Collection(tuple(folders), np.asarray(rows, np.int64))


def parts_of(records: ImageTexts) -> tuple[tuple[Records, ...], np.ndarray]:
    """The inverse of `collect`: the folders, and which of their rows."""
    if isinstance(records, Collection):
        return records.folders, records.rows
    return (records,), np.arange(len(records))
