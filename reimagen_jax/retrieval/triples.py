"""KNN-ImageText: every training record with its neighbours from a knowledge base (Re-Imagen section 3.2)."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from reimagen_jax.data.manifest import fingerprint, follow, read_manifest
from reimagen_jax.data.records import Records, open_linked
from reimagen_jax.errors import UserError
from reimagen_jax.retrieval.knowledge_base import KnowledgeBase

KIND = "triples"
NEIGHBOURS_FILE = "neighbours.npy"
SCORES_FILE = "scores.npy"
EXCLUDED_FILE = "excluded.jsonl"


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
    """A folder with, for each of N records, the ids and scores of up to K neighbours, best first."""

    path: Path
    manifest: dict[str, Any]
    records: Records
    knowledge_base: KnowledgeBase

    @classmethod
    def open(cls, path: str | Path) -> "Triples":
        """Opens triples, with their records and their knowledge base.

        Raises `UserError` on what is missing or damaged, or is not what the triples were made from.
        """
        manifest = read_manifest(path, KIND)
        command = "reimagen triples"
        records = open_linked(path, manifest["records"], manifest["records_fingerprint"], command)
        base = follow(path, manifest["knowledge_base"])
        if not base.is_dir():
            raise UserError(f"{path} refers to a knowledge base in {base}, which is gone: run `{command}` again")
        knowledge_base = KnowledgeBase.open(base)
        if knowledge_base.fingerprint != manifest["knowledge_base_fingerprint"]:
            raise UserError(f"{path} was made with another knowledge base than {base} holds: run `{command}` again")
        return cls(Path(path), manifest, records, knowledge_base)

    @property
    def fingerprint(self) -> str:
        """Checksum of the neighbours, the records and the knowledge base."""
        return fingerprint(self.manifest, self.records.fingerprint, self.knowledge_base.fingerprint)

    @property
    def num_neighbours(self) -> int:
        """K."""
        return self.manifest["num_neighbours"]

    def __len__(self) -> int:
        return len(self.records)

    @cached_property
    def neighbours(self) -> np.ndarray:
        """Ids in the knowledge base's records: int32[N, K], memory-mapped; -1 where fewer than K were found."""
        return np.load(self.path / NEIGHBOURS_FILE, mmap_mode="r")

    @cached_property
    def scores(self) -> np.ndarray:
        """Scores of the search: float32[N, K], memory-mapped; 0 where there is no neighbour, NaN where it was drawn."""
        return np.load(self.path / SCORES_FILE, mmap_mode="r")

    def excluded(self) -> Iterator[Exclusion]:
        """The candidates left out, in the order of the records. Raises `UserError` where they were not listed yet."""
        if EXCLUDED_FILE not in self.manifest["files"]:
            raise UserError(
                f"{self.path} was made by a version that only counted what it left out: run `reimagen triples` again"
            )
        with (self.path / EXCLUDED_FILE).open(encoding="utf-8") as file:
            for line in file:
                yield Exclusion(**json.loads(line))
