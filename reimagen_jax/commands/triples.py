"""`reimagen triples`: records and a knowledge base into KNN-ImageText."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from reimagen_jax.errors import UserError


@dataclass(frozen=True)
class BuildTriples:
    """Find the neighbours of every training record: the data that `reimagen train` reads.

    For example:
        reimagen triples runs/train --knowledge-base runs/index --out runs/triples

    A record is never its own neighbour, nor is another copy of its picture, even where the knowledge base holds the
    training records themselves. A record for which too few are found has fewer neighbours.
    """

    records: Annotated[Path, tyro.conf.Positional]
    """Records to train on: a folder written by `reimagen prepare`."""
    knowledge_base: Path
    """Where neighbours are looked for: a folder written by `reimagen index`."""
    out: Path
    """Folder to write; it must not exist yet."""
    num_neighbours: int = 2
    """Neighbours of each record."""
    query_by: tuple[str, ...] = ("caption",)
    """What of a record its neighbours are asked by: `caption`, and the names of attributes (`--query-by entity`). A
    field named n times counts n times: with `entity entity caption` the entity's name weighs three times as much as
    the caption's other words, which then decide between pictures of one entity."""
    overwrite: bool = False
    """Replace an existing output folder, once the new one is complete."""

    def run(self) -> None:
        """Builds the triples and sums up."""
        from reimagen_jax.data.records import Records
        from reimagen_jax.retrieval.knowledge_base import KnowledgeBase
        from reimagen_jax.retrieval.neighbours import build_triples

        if self.num_neighbours < 1:
            raise UserError(f"--num-neighbours {self.num_neighbours} has to be at least 1")
        records, knowledge_base = Records.open(self.records), KnowledgeBase.open(self.knowledge_base)
        triples = build_triples(
            records, knowledge_base, self.num_neighbours, self.out, query_by=self.query_by, overwrite=self.overwrite
        )
        print(f"{len(triples)} records with up to {self.num_neighbours} neighbours in {self.out}")
        for number, count in enumerate(triples.manifest["records_by_neighbours_found"]):
            if count:
                print(f"  {count} with {number}")
        for reason, count in triples.manifest["excluded"].items():
            if count:
                print(f"  {count} candidates left out: {reason}")
