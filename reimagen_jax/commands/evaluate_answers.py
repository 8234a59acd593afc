"""`reimagen evaluate answers`: Imagen, Re-Imagen, SeedSelect, unCLIP and RCG on the same entities, in one table."""

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

import tyro

from reimagen_jax.checked import Count, Options, Seed
from reimagen_jax.commands.options import command_line
from reimagen_jax.commands.sample import DRAWING
from reimagen_jax.commands.sampling_options import CascadeOptions, SamplingOptions, StageOption, open_drawing
from reimagen_jax.config import SystemConfig
from reimagen_jax.diffusion.settings import SamplerSteps
from reimagen_jax.errors import require
from reimagen_jax.systems.mage.settings import MageConfig
from reimagen_jax.systems.rcg.settings import GeneratorConfig
from reimagen_jax.systems.reimagen.settings import ReImagenConfig
from reimagen_jax.systems.seedselect.settings import OURS, SeedSelectConfig
from reimagen_jax.systems.unclip.settings import ARPriorConfig, DecoderConfig, PriorConfig
from reimagen_jax.terminal import say

if TYPE_CHECKING:
    from reimagen_jax.evaluation.entities.answers import Answer
    from reimagen_jax.evaluation.entities.inventory import Inventory
    from reimagen_jax.evaluation.rater import Rater
    from reimagen_jax.inference.model import Model
    from reimagen_jax.inference.pipeline import Pipeline

ROWS, RESULTS = "rows", "results.json"
IMAGEN, SHOWN_NOTHING = "Imagen", "Re-Imagen, no neighbours"
"""The row that the others are compared with: a model trained without neighbours, or --model, which sees none."""


@dataclass(frozen=True)
class Answers(Options):
    """How is something drawn that the model has hardly or never seen? All answers, on the same entities, in one table.

        reimagen evaluate answers --model runs/train --imagen runs/imagen --encoder runs/encoder --prior runs/prior \\
            --decoder runs/decoder --generator runs/generator --knowledge-base runs/index --out runs/answers

    Imagen draws from the text alone (without --imagen, --model that sees no neighbours), Re-Imagen attends to
    neighbours, SeedSelect searches the noise of either, unCLIP draws from an embedding, of its prior or of a reference,
    RCG from a reference's representation. What is not given is left out. Each draws as its experiment says; SeedSelect
    by few steps of DDIM, as its gradients go through all of them. Rows are stored as they are done, with seconds and
    memory an image: after a stop, the same command goes on where it was. Writes results.json, and a picture for each
    split.
    """

    common: ClassVar[tuple[str, ...]] = ("imagen", "encoder", "prior", "decoder", "generator", "num_prompts", "splits")

    model: Path
    """A Re-Imagen: folder of a training run (its last checkpoint is used) or of weights; `shipped`: the weights in the
    package."""
    knowledge_base: Path
    """Folder written by `reimagen index`, over records of EntityWorld."""
    out: Path
    """Folder to write, or to go on with."""
    imagen: Path | None = None
    """One that was trained without neighbours (default: --model, which is shown none)."""
    encoder: Path | None = None
    """What SeedSelect searches by: a folder written by `reimagen encode-train`, or a CLIP's. The rater judges."""
    prior: Path | None = None
    """A prior of unCLIP, before --decoder."""
    decoder: Path | None = None
    """A decoder of unCLIP; without --prior it draws references alone."""
    generator: Path | None = None
    """What RCG draws pixels with from a representation: by diffusion, or a MAGE."""
    num_prompts: Count = 32
    """Prompts about the entities of each split."""
    splits: tuple[Literal["frequent", "rare", "unseen"], ...] = ("frequent", "rare", "unseen")
    """Splits of the entities."""
    k: Count = 2
    """Neighbours that Re-Imagen sees; the others draw from the first."""
    references: Count = 4
    """What SeedSelect searches by."""
    search_steps: SamplerSteps = 8
    """Of DDIM, where the noise is searched."""
    search: Annotated[SeedSelectConfig, tyro.conf.arg(name="")] = OURS
    batch_size: Count = 8
    """Images drawn at once."""
    seed: Seed = 0
    """Of prompts and noise."""
    text_encoder: Annotated[Path | None, tyro.conf.arg(metavar="DIR")] = None
    """Folder of the published text encoder that the models were trained with, for models that have such a one."""
    rater: Path | None = None
    """Folder written by `reimagen rater train` (default: the rater that comes with the package)."""

    def run(self) -> None:
        """Draws, rates, stores and prints row after row. Raises `UserError` on bad options or input."""
        from reimagen_jax.files import growing_dir

        require(len(self.splits) > 0, "--splits is empty: give at least one of frequent, rare, unseen")
        require(
            self.prior is None or self.decoder is not None,
            f"--prior {self.prior} draws embeddings, not images: give --decoder, too",
        )
        with growing_dir(self.out, kind="evaluation"):
            self._evaluate()

    def _evaluate(self) -> None:
        from reimagen_jax.evaluation.entities import answers
        from reimagen_jax.evaluation.entities.inventory import Inventory
        from reimagen_jax.evaluation.entities.prompts import find_neighbours
        from reimagen_jax.evaluation.rater import Rater
        from reimagen_jax.evaluation.statistics import Interval
        from reimagen_jax.files import write_json
        from reimagen_jax.inference.provenance import versions
        from reimagen_jax.reports.entities import tables
        from reimagen_jax.reports.grids import labelled_grid
        from reimagen_jax.retrieval.knowledge_base import KnowledgeBase

        rater = Rater.open(self.rater)
        inventory = Inventory.read(KnowledgeBase.open(self.knowledge_base))
        models: dict[str, Model] = {}
        asked = list(self._answers(models, rater, inventory))
        say(tables.about_rater(rater.metrics))

        def tell(row: dict[str, Any]) -> None:
            shares = "  ".join(str(Interval(*row[name])) for name in ("faithfulness", "alignment", "both"))
            say(f"{row['split']:<9} {row['drawn by']:<26} {shares}  {row['seconds']:8.2f} s {row['MiB']:8.1f} MiB")

        heads = (f"{head:<20}" for head in ("faithful", "aligned", "both"))
        say(f"{'split':<9} {'drawn by':<26} {'  '.join(heads)}  an image / a batch")
        rows, outcomes = answers.run(asked, self.splits, self.out / ROWS, tell)
        differences = [
            answers.difference(split, each.name, asked[0].name, outcomes) for split in self.splits for each in asked[1:]
        ]
        for entry in differences:
            say(f"{entry['split']}, {entry['what']}: faithful {entry['faithfulness']}, both {entry['both']}")
        for split in self.splits:
            side = rater.config.resolution
            groups = find_neighbours("retrieval", asked[0].prompts(split), inventory, self.k, side, self.seed)
            cells, texts, headings = answers.picture_rows(asked, groups, split, self.out / ROWS)
            labelled_grid(cells, texts, headings).save(self.out / f"{split}.png")
        base = inventory.base
        results = {
            "command": command_line("evaluate answers", self),
            "models": {name: model.facts() for name, model in models.items()},
            "knowledge_base": {"folder": str(base.path), "records": len(base), "checksum": base.fingerprint},
            "seed": self.seed,
            "search": dataclasses.asdict(self.search),
            "versions": versions(),
            "rater": {"checksum": rater.digest, **rater.metrics},
            "rows": rows,
            "differences": differences,
        }
        write_json(self.out / RESULTS, results)
        say(f"results: {self.out / RESULTS}")

    def _answers(self, models: "dict[str, Model]", rater: "Rater", inventory: "Inventory") -> "Iterator[Answer]":
        """All that are given, Imagen first; `models` gets what is opened."""
        from reimagen_jax.evaluation.entities.answers import Answer

        re_imagen = self._open(models, "model", self.model, ReImagenConfig)
        imagen = re_imagen if self.imagen is None else self._open(models, "imagen", self.imagen, ReImagenConfig)

        def answer(name: str, k: int, drawn_by: "list[Model]") -> "Answer":
            rater.require_resolution(drawn_by[-1].config.system.resolution)
            digests = "+".join(model.digest for model in drawn_by)
            counts = {"num_prompts": self.num_prompts}
            return Answer(name, k, self._pipeline(drawn_by, k), digests, rater, inventory, **counts)

        yield answer(SHOWN_NOTHING if self.imagen is None else IMAGEN, 0, [imagen])
        yield answer("Re-Imagen", self.k, [re_imagen])
        if self.encoder is not None:
            yield from self._searched(imagen, re_imagen, rater, inventory)
        if self.decoder is not None:
            decoder = self._open(models, "decoder", self.decoder, DecoderConfig)
            if self.prior is not None:
                prior = self._open(models, "prior", self.prior, PriorConfig, ARPriorConfig)
                yield answer("unCLIP, by its prior", 0, [prior, decoder])
            yield answer("unCLIP, of a reference", 1, [decoder])
        if self.generator is not None:
            generator = self._open(models, "generator", self.generator, GeneratorConfig, MageConfig)
            yield answer("RCG, of a reference", 1, [generator])

    def _open(self, models: "dict[str, Model]", option: str, path: Path, *kinds: type[SystemConfig]) -> "Model":
        model = models[option] = open_drawing(path, self.text_encoder, kinds=DRAWING)
        system, wanted = model.config.system, " or ".join(kind.kind for kind in kinds)
        require(isinstance(system, kinds), f"--{option} {path} is of the system {system.kind}: give one of {wanted}")
        return model

    def _pipeline(self, models: "list[Model]", k: int) -> "Pipeline":
        """As the experiments say, with room for k neighbours."""
        stages = CascadeOptions(cascade=tuple(StageOption(model.path) for model in models[1:]))
        how = SamplingOptions(seed=self.seed, batch_size=self.batch_size)
        return stages.pipeline(models, how, how.settings(models[0].config.system.sampler), k)

    def _searched(
        self, imagen: "Model", re_imagen: "Model", rater: "Rater", inventory: "Inventory"
    ) -> "Iterator[Answer]":
        """SeedSelect on Imagen, and on Re-Imagen."""
        from reimagen_jax.encoders.vectors import open_encoder
        from reimagen_jax.evaluation.entities.seedselect import SearchBench
        from reimagen_jax.inference.searching import SearchedStage

        encoder = open_encoder(self.encoder)
        how = SamplingOptions(steps=self.search_steps, solver="ddim")
        for model, k in ((imagen, 0), (re_imagen, self.k)):
            settings = dataclasses.replace(how.settings(model.config.system.sampler), k=k)
            stage = SearchedStage(
                model.config, model.params, settings, encoder=encoder, search=self.search, batch_size=self.batch_size
            )
            counts = {"references": self.references, "num_prompts": self.num_prompts}
            yield SearchBench(stage, self.seed, model.digest, rater, inventory, **counts)
