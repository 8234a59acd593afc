"""KNN-ImageText: every training record with its neighbours from a knowledge base (Re-Imagen section 3.2)."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from reimagen_jax.checked import Count, Natural, parse, read_lines
from reimagen_jax.data.manifest import Folder, Manifest, Text, fingerprint, follow, open_folder
from reimagen_jax.data.opened import load_array
from reimagen_jax.data.records import Records, open_linked
from reimagen_jax.errors import UserError
from reimagen_jax.retrieval.asking import BELOW, Asking
from reimagen_jax.retrieval.knowledge_base import KnowledgeBase

KIND = "triples"
NEIGHBOURS_FILE = "neighbours.npy"
SCORES_FILE = "scores.npy"
EXCLUDED_FILE = "excluded.jsonl"
SERVING_FILE = "serving.tsv"
REMEDY = "run `reimagen triples` again"


@dataclass(frozen=True)
class _Manifest(Manifest):
    """Of triples."""

    count: Count
    num_neighbours: Count
    records: Text
    records_fingerprint: Text
    knowledge_base: Text
    knowledge_base_fingerprint: Text
    excluded: dict[str, Natural] = field(default_factory=dict)
    records_by_neighbours_found: tuple[Natural, ...] = ()
    asked: Asking | None = None
    num_candidates: Count | None = None


@dataclass(frozen=True)
class Exclusion:
    """A candidate that would have been a neighbour of a record, but was left out."""

    record: str
    """Its key."""
    left_out: str
    """The key of the candidate, a record of the knowledge base."""
    reason: str


@dataclass(frozen=True, eq=False)
class Triples:
    """A folder with, for each of N records, the ids and scores of up to K neighbours, best first; or of up to C >= K
    candidates, of which training draws K anew each time."""

    path: Path
    manifest: dict[str, Any]
    records: Records
    knowledge_base: KnowledgeBase
    folder: Folder = field(repr=False)

    @classmethod
    def open(cls, path: str | Path) -> "Triples":
        """Opens triples, with their records and their knowledge base.

        Raises `UserError` on what is missing or damaged, or is not what the triples were made from.
        """
        folder = open_folder(path, KIND, _Manifest, hold=True)
        manifest, command = folder.manifest, "reimagen triples"
        records = open_linked(path, manifest["records"], manifest["records_fingerprint"], command)
        base = follow(path, manifest["knowledge_base"])
        if not base.is_dir():
            raise UserError(f"{path} refers to a knowledge base in {base}, which is gone: run `{command}` again")
        knowledge_base = KnowledgeBase.open(base)
        if knowledge_base.fingerprint != manifest["knowledge_base_fingerprint"]:
            raise UserError(f"{path} was made with another knowledge base than {base} holds: run `{command}` again")
        if len(records) != manifest["count"]:
            raise UserError(f"{path} counts {manifest['count']} records, not {len(records)}: {REMEDY}")
        return cls(Path(path), manifest, records, knowledge_base, folder)

    @property
    def fingerprint(self) -> str:
        """Checksum of the neighbours, the records and the knowledge base."""
        return fingerprint(self.manifest, self.records.fingerprint, self.knowledge_base.fingerprint)

    @property
    def num_neighbours(self) -> int:
        """K."""
        return self.manifest["num_neighbours"]

    @property
    def num_candidates(self) -> int:
        """C; K where nothing is to be drawn."""
        return self.manifest.get("num_candidates") or self.num_neighbours

    @property
    def asked(self) -> Asking | None:
        """How the knowledge base was asked; None where neighbours were drawn, and of earlier versions."""
        told = self.manifest.get("asked")
        return None if told is None else parse(Asking, told, f"{self.path}: asked")

    def __len__(self) -> int:
        return len(self.records)

    @cached_property
    def neighbours(self) -> np.ndarray:
        """Ids in the knowledge base's records: int32[N, C], memory-mapped; -1 where fewer than C were found."""
        ids_NK = self._array(NEIGHBOURS_FILE, np.int32)
        if ids_NK.min(initial=0) < -1 or ids_NK.max(initial=0) >= len(self.knowledge_base):
            raise UserError(f"{self.path / NEIGHBOURS_FILE} has ids that its knowledge base does not: {REMEDY}")
        return ids_NK

    @cached_property
    def scores(self) -> np.ndarray:
        """Scores of the search: float32[N, C], memory-mapped; 0 where there is no neighbour, NaN where it was drawn."""
        return self._array(SCORES_FILE, np.float32)

    def excluded(self) -> Iterator[Exclusion]:
        """The candidates left out, in the order of the records. Raises `UserError` where they were not listed yet."""
        if EXCLUDED_FILE not in self.manifest["files"]:
            raise UserError(
                f"{self.path} was made by a version that only counted what it left out: run `reimagen triples` again"
            )
        return read_lines(self.folder / EXCLUDED_FILE, Exclusion, "what was left out")

    @cached_property
    def too_little_alike(self) -> dict[int, list[int]]:
        """Record -> the candidates, best first, that the floor left out; not those whose key several records of the
        base share. Empty for triples of versions that did not list them."""
        if not self.manifest.get("excluded", {}).get(BELOW) or EXCLUDED_FILE not in self.manifest["files"]:
            return {}
        place, found = {key: i for i, key in enumerate(self.records.keys())}, {}
        for each in self.excluded():
            ids = self.knowledge_base.ids_of([each.left_out]) if each.reason == BELOW else ()
            if len(ids) == 1:
                found.setdefault(place[each.record], []).append(int(ids[0]))
        return found

    def verify(self) -> None:
        """Checks everything: checksums of all files, and the records and the knowledge base that they are made from.

        Raises `UserError` naming what is damaged.
        """
        self.folder.verify()
        self.records.verify()
        self.knowledge_base.verify()
        _ = self.neighbours, self.scores, list(self.excluded()) if EXCLUDED_FILE in self.manifest["files"] else ()

    def _array(self, name: str, kind: type) -> np.ndarray:
        with self.folder.opened.reading(REMEDY):
            array = load_array(self.folder / name, mapped=True)
            shape = (len(self), self.num_candidates)
            if array.shape != shape or array.dtype != kind:
                raise ValueError(f"{name} is {array.dtype} {list(array.shape)}, not {np.dtype(kind)} {list(shape)}")
        return array
