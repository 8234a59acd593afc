"""`reimagen index`: records into a knowledge base."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from reimagen_jax.errors import UserError


@dataclass(frozen=True)
class Index:
    """Index records by their captions, so that neighbours can be found for a text: a knowledge base.

    For example:
        reimagen index runs/knowledge --out runs/index

    The records stay where they are; the knowledge base refers to them.
    """

    records: Annotated[Path, tyro.conf.Positional]
    """Folder written by `reimagen prepare`."""
    out: Path
    """Folder to write; it must not exist yet."""
    k1: float = 1.5
    """BM25: how soon a word that a caption repeats stops counting (above 0; usual values are 1.2 to 1.5)."""
    b: float = 0.75
    """BM25: how much longer captions are held back, 0 (not at all) to 1."""
    overwrite: bool = False
    """Replace an existing output folder, once the new one is complete."""

    def run(self) -> None:
        """Builds the knowledge base and sums up."""
        from reimagen_jax.data.records import Records
        from reimagen_jax.retrieval.knowledge_base import KnowledgeBase

        if self.k1 <= 0 or not 0 <= self.b <= 1:
            raise UserError(f"--k1 {self.k1} has to be above 0, --b {self.b} between 0 and 1")
        knowledge_base = KnowledgeBase.build(
            Records.open(self.records), self.out, k1=self.k1, b=self.b, overwrite=self.overwrite
        )
        print(f"knowledge base of {len(knowledge_base)} records in {self.out}")
