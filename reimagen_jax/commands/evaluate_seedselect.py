"""`reimagen evaluate seedselect`: SeedSelect beside Re-Imagen on entities that were hardly or never seen."""

import dataclasses
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

import tyro

from reimagen_jax.checked import Count, Options
from reimagen_jax.commands.options import command_line
from reimagen_jax.commands.sampling_options import SamplingOptions, open_drawing
from reimagen_jax.errors import require
from reimagen_jax.systems.seedselect.settings import OURS, SeedSelectConfig
from reimagen_jax.terminal import say

if TYPE_CHECKING:
    from reimagen_jax.evaluation.entities.seedselect import SearchBench
    from reimagen_jax.inference.model import Model

ROWS, RESULTS = "rows", "results.json"


@dataclass(frozen=True)
class SeedSelect(Options):
    """Four ways to draw an entity, on EntityWorld: the plain model, SeedSelect on it, Re-Imagen, and both.

        reimagen evaluate seedselect --model runs/train --encoder runs/encoder --knowledge-base runs/index --out runs/4

    Prompts, noise and sampler are the same in all; the references of the search and the neighbours that Re-Imagen sees
    are the first that are found for the entity's name. Rows are stored as they are done, and noises batch by batch:
    after a stop, the same command goes on where it was. Writes results.json, and a picture for each split.
    """

    common: ClassVar[tuple[str, ...]] = ("num_prompts", "splits", "k", "references")

    model: Path
    """Folder of a training run (its last checkpoint is used) or of weights; `shipped`: the weights in the package."""
    encoder: Path
    """What the search is by: a folder written by `reimagen encode-train`, or a CLIP's. The rater judges."""
    knowledge_base: Path
    """Folder written by `reimagen index`, over records of EntityWorld."""
    out: Path
    """Folder to write, or to go on with."""
    num_prompts: Count = 32
    """Prompts about the entities of each split."""
    splits: tuple[Literal["frequent", "rare", "unseen"], ...] = ("rare", "unseen")
    """Splits of the entities."""
    k: Count = 2
    """Neighbours that Re-Imagen sees."""
    references: Count = 4
    """What is searched by."""
    rater: Path | None = None
    """Folder written by `reimagen rater train` (default: the rater that comes with the package)."""
    how: Annotated[SamplingOptions, tyro.conf.arg(name="")] = field(
        default_factory=lambda: SamplingOptions(steps=10, solver="ddim", batch_size=8)
    )
    search: Annotated[SeedSelectConfig, tyro.conf.arg(name="")] = OURS

    def run(self) -> None:
        """Draws, rates, stores and prints row after row. Raises `UserError` on bad options or input."""
        from reimagen_jax.files import growing_dir

        require(len(self.splits) > 0, "--splits is empty: give at least one of frequent, rare, unseen")
        with growing_dir(self.out, kind="evaluation"):
            self._evaluate()

    def _evaluate(self) -> None:
        from reimagen_jax.evaluation.entities import answers, seedselect
        from reimagen_jax.evaluation.statistics import Interval
        from reimagen_jax.files import write_json
        from reimagen_jax.inference.provenance import sampler_facts, versions
        from reimagen_jax.reports.entities import tables
        from reimagen_jax.reports.grids import labelled_grid

        model = open_drawing(self.model, self.how.text_encoder)
        benches = self._benches(model)
        say(tables.about_rater(benches[0].rater.metrics))

        def tell(row: dict[str, Any]) -> None:
            shares = "  ".join(str(Interval(*row[name])) for name in ("faithfulness", "alignment", "look right"))
            cost = f"{row['seconds']:8.2f} s {row['MiB']:8.1f} MiB"
            say(f"{row['split']:<9} {row['drawn by']:<26} {shares}  {cost}")

        heads = (f"{head:<20}" for head in ("faithful", "aligned", "category and look"))
        say(f"{'split':<9} {'drawn by':<26} {'  '.join(heads)}  an image / a batch")
        rows, outcomes = answers.run(benches, self.splits, self.out / ROWS, tell)
        differences = seedselect.differences(self.splits, outcomes)
        for entry in differences:
            say(f"{entry['split']}, {entry['what']}: faithful {entry['faithfulness']}, aligned {entry['alignment']}")
        for split in self.splits:
            cells, texts, headings = answers.picture_rows(
                benches, benches[0].searched_by(split), split, self.out / ROWS
            )
            labelled_grid(cells, texts, headings).save(self.out / f"{split}.png")
        settings = benches[0].stage.settings
        command = dataclasses.replace(self, how=self.how.resolved(settings))
        results = {
            "command": command_line("evaluate seedselect", command),
            "model": model.facts(),
            "encoder": benches[1].stage.encoder.fingerprint,
            "sampler": sampler_facts(settings, self.how.seed, self.how.num_images),
            "search": dataclasses.asdict(self.search),
            "versions": versions(),
            "rater": {"checksum": benches[0].rater.digest, **benches[0].rater.metrics},
            "rows": rows,
            "differences": differences,
        }
        write_json(self.out / RESULTS, results)
        say(f"results: {self.out / RESULTS}")

    def _benches(self, model: "Model") -> "list[SearchBench]":
        """The four ways."""
        from reimagen_jax.encoders.vectors import open_encoder
        from reimagen_jax.evaluation.entities.inventory import Inventory
        from reimagen_jax.evaluation.entities.seedselect import SearchBench
        from reimagen_jax.evaluation.rater import Rater
        from reimagen_jax.inference.searching import SearchedStage
        from reimagen_jax.retrieval.knowledge_base import KnowledgeBase

        rater = Rater.open(self.rater)
        rater.require_resolution(model.config.system.resolution)
        encoder = open_encoder(self.encoder)
        inventory = Inventory.read(KnowledgeBase.open(self.knowledge_base))
        benches = []
        for k in (0, self.k):
            settings = dataclasses.replace(self.how.settings(model.config.system.sampler), k=k)
            plain = model.stage(settings, self.how.batch_size)
            benches += [
                SearchBench(
                    stage,
                    self.how.seed,
                    model.digest,
                    rater,
                    inventory,
                    references=self.references,
                    num_prompts=self.num_prompts,
                    num_images=self.how.num_images,
                )
                for stage in (plain, SearchedStage.of(plain, encoder=encoder, search=self.search))
            ]
        return benches
