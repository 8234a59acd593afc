"""`reimagen triples`: records and a knowledge base into KNN-ImageText."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from reimagen_jax.checked import Count, Options, Seed, Share
from reimagen_jax.terminal import say


@dataclass(frozen=True)
class BuildTriples(Options):
    """Find the neighbours of every training record: the data that `reimagen train` reads.

    For example:
        reimagen triples runs/train --knowledge-base runs/index --out runs/triples

    A record is never its own neighbour, nor is another copy of its picture or nearly the same one, even where the
    knowledge base holds the training records themselves; no picture is a record's neighbour twice. A record for which
    too few are found has fewer neighbours. What was left out is counted, and listed with reasons in excluded.jsonl.
    """

    records: Annotated[Path, tyro.conf.Positional]
    """Records to train on: a folder written by `reimagen prepare`."""
    knowledge_base: Path
    """Where neighbours are looked for: a folder written by `reimagen index`."""
    out: Path
    """Folder to write; it must not exist yet."""
    num_neighbours: Count = 2
    """Neighbours of each record."""
    query_by: tuple[str, ...] = ("caption",)
    """What of a record its neighbours are asked by: `caption`, and the names of attributes (`--query-by entity`). A
    field named n times counts n times: with `entity entity caption` the entity's name weighs three times as much as
    the caption's other words, which then decide between pictures of one entity."""
    method: Literal["lexical", "dense", "hybrid"] = "lexical"
    """Search by words, by vectors, or by both (where the knowledge base has vectors)."""
    exclude_same: tuple[str, ...] = ()
    """Leave out candidates that have the record's value of one of these fields: `caption`, and attributes, such as one
    that names the file that pictures were cut from."""
    near_duplicates: Share = 0.08
    """Pictures at most so far apart count as the same: the difference of their 8 x 8 thumbnails in units of their
    contrast. 0: only those with equal pixels."""
    neighbours: Literal["retrieved", "random", "wrong", "oracle"] = "retrieved"
    """For ablations, neighbours that are not searched but drawn: `random` records, records of one `wrong` entity of the
    same category, or of the same entity (`oracle`)."""
    entity_field: str = "entity"
    """With wrong and oracle neighbours: the attribute that names what a picture shows."""
    category_field: str = "category"
    """With wrong neighbours: the attribute in which the wrong entity is like the right one; '' for any entity."""
    seed: Seed = 0
    """Of neighbours that are drawn."""
    overwrite: bool = False
    """Replace an existing output folder, once the new one is complete."""

    def run(self) -> None:
        """Builds the triples and sums up. Raises `UserError` on bad options or input."""
        from reimagen_jax.commands.options import as_typed
        from reimagen_jax.data.records import Records
        from reimagen_jax.retrieval.knowledge_base import KnowledgeBase
        from reimagen_jax.retrieval.neighbours import Rules, build_triples
        from reimagen_jax.retrieval.triples import EXCLUDED_FILE

        with as_typed({name: f"--{name.replace('_', '-')}" for name in ("query_by", "method", "exclude_same")}):
            rules = Rules(
                kind=self.neighbours,
                query_by=self.query_by,
                method=self.method,
                exclude_same=self.exclude_same,
                near_duplicates=self.near_duplicates,
                entity_field=self.entity_field,
                category_field=self.category_field,
                seed=self.seed,
            )
        records, base = Records.open(self.records), KnowledgeBase.open(self.knowledge_base)
        triples = build_triples(records, base, self.num_neighbours, self.out, rules, overwrite=self.overwrite)
        kind = "" if self.neighbours == "retrieved" else f"{self.neighbours} "
        print(f"{len(triples)} records with up to {self.num_neighbours} {kind}neighbours in {self.out}")
        for number, count in enumerate(triples.manifest["records_by_neighbours_found"]):
            if count:
                print(f"  {count} with {number}")
        for reason, count in triples.manifest["excluded"].items():
            if count:
                say(f"  {count} candidates left out: {reason}")
        print(f"  listed in {self.out / EXCLUDED_FILE}")
