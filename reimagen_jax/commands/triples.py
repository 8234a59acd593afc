"""`reimagen triples`: records and a knowledge base into KNN-ImageText."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

import numpy as np
import tyro

from reimagen_jax.checked import Count, Options, Seed
from reimagen_jax.commands.prompt_options import AskingOptions
from reimagen_jax.errors import require
from reimagen_jax.retrieval.asking import CAPTION, floor_of
from reimagen_jax.terminal import say

if TYPE_CHECKING:
    from reimagen_jax.retrieval.triples import Triples

SHEET = "triples.png"
MOST_VALUES = 12
"""Of a field, that are told of."""


@dataclass(frozen=True)
class BuildTriples(Options):
    """Find the neighbours of every training record: the data that `reimagen train` reads.

    For example:
        reimagen triples runs/train --knowledge-base runs/index --out runs/triples

    A record is never its own neighbour, nor is another copy of its picture or nearly the same one, even where the
    knowledge base holds the training records themselves; no picture is a record's neighbour twice. A record for which
    too few are found has fewer, rather than wrong ones. What was left out is counted, and listed with reasons in
    excluded.jsonl. A model that is trained on the triples asks as they were asked for when it draws.

    Pictures of one thing in several styles, asked for by the thing's name, in other styles than its own:
        reimagen triples runs/train --knowledge-base runs/index --out runs/triples \
            --query-by entity entity caption --exclude-same style
    """

    common: ClassVar[tuple[str, ...]] = ("num_neighbours", "candidates", "overwrite")

    records: Annotated[Path, tyro.conf.Positional]
    """Records to train on: a folder written by `reimagen prepare`."""
    knowledge_base: Path
    """Where neighbours are looked for: a folder written by `reimagen index`."""
    out: Path
    """Folder to write; it must not exist yet."""
    num_neighbours: Count = 2
    """Neighbours of each record."""
    candidates: Count | None = None
    """Keep so many of each record, the best, of which training draws --num-neighbours anew each time (default: as many
    as neighbours): what is learned depends less on which pictures happen to be the best."""
    asking: Annotated[AskingOptions, tyro.conf.arg(name="")] = field(default_factory=AskingOptions)
    neighbours: Literal["retrieved", "random", "wrong", "oracle"] = "retrieved"
    """For ablations, neighbours that are not searched but drawn: `random` records, records of one `wrong` entity of the
    same category, or of the same entity (`oracle`)."""
    entity_field: str = "entity"
    """With wrong and oracle neighbours: the attribute that names what a picture shows."""
    category_field: str = "category"
    """With wrong neighbours: the attribute in which the wrong entity is like the right one; '' for any entity."""
    seed: Seed = 0
    """Of neighbours that are drawn."""
    count_by: tuple[str, ...] = ()
    """Say of the values of these attributes how much of the base, and of the neighbours, they are (default: those in
    --exclude-same)."""
    overwrite: bool = False
    """Replace the folder in --out, if this command wrote it, once the new one is complete; one of another kind, or with
    other files in it, is kept."""

    def run(self) -> None:
        """Builds the triples and sums up. Raises `UserError` on bad options or input."""
        from reimagen_jax.data.records import Records
        from reimagen_jax.reports.triples_sheet import triples_sheet
        from reimagen_jax.retrieval import serving
        from reimagen_jax.retrieval.knowledge_base import KnowledgeBase
        from reimagen_jax.retrieval.neighbours import Rules, build_triples
        from reimagen_jax.retrieval.triples import EXCLUDED_FILE

        searched = self.neighbours == "retrieved"
        default = {
            "floor": floor_of(self.asking.query_by or (CAPTION,)) if searched and not self.asking.match else 0.0,
            "tie_seed": 0 if searched else None,
        }
        rules = Rules(
            kind=self.neighbours,
            entity_field=self.entity_field,
            category_field=self.category_field,
            seed=self.seed,
            **default,
        )
        rules = self.asking.settings(rules)
        records, base = Records.open(self.records), KnowledgeBase.open(self.knowledge_base)
        kept, k = self.candidates or self.num_neighbours, self.num_neighbours
        require(kept >= k, f"--candidates {kept}: at least as many as neighbours, {k}, are needed")
        for name in self.count_by:  # before anything is searched
            serving.shares(np.zeros(len(base), np.int64), base, name)
        triples = build_triples(
            records,
            base,
            self.num_neighbours,
            self.out,
            rules,
            num_candidates=self.candidates,
            overwrite=self.overwrite,
            beside=lambda folder, triples: triples_sheet(triples).save(folder / SHEET),
        )
        kind = "" if self.neighbours == "retrieved" else f"{self.neighbours} "
        what = f"{kind}neighbours"
        if self.candidates is not None:
            what = f"{kind}candidates, of which training draws {self.num_neighbours},"
        say(f"{len(triples)} records with up to {triples.num_candidates} {what} in {self.out}")
        for number, count in enumerate(triples.manifest["records_by_neighbours_found"]):
            if count:
                say(f"  {count} with {number}")
        for reason, count in triples.manifest["excluded"].items():
            if count:
                say(f"  {count} candidates left out: {reason}")
        say(f"  listed in {self.out / EXCLUDED_FILE}")
        self._say_serving(triples)
        say(f"  some of them: {self.out / SHEET}")

    def _say_serving(self, triples: "Triples") -> None:
        """How many records of the base are neighbours, and of which kinds."""
        from reimagen_jax.retrieval import serving
        from reimagen_jax.retrieval.triples import SERVING_FILE

        base = triples.knowledge_base
        times_M = serving.served(triples.neighbours, len(base))
        busiest = base.keys()[int(times_M.argmax())]
        say(
            f"  {(times_M > 0).sum():,} of {len(base):,} records of the base serve as neighbours, {busiest} the most: "
            f"{times_M.max():,} times (all in {self.out / SERVING_FILE})"
        )
        for name in self.count_by or [name for name in self.asking.exclude_same if name != CAPTION]:
            shares = serving.shares(times_M, base, name)
            for each in shares[:MOST_VALUES]:
                said = f"{each.of_base:6.1%} of the base, {each.of_neighbours:6.1%} of the neighbours"
                say(f"  {said}: {name} {each.value}")
            if len(shares) > MOST_VALUES:
                say(f"  and {len(shares) - MOST_VALUES:,} further values of {name}")
