"""`reimagen evaluate`: what a model is worth, in numbers."""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

import tyro

from reimagen_jax.checked import Count, Natural, Options, Share
from reimagen_jax.commands.evaluate_answers import Answers
from reimagen_jax.commands.evaluate_distances import Drawn, Fid, Scores, Statistics
from reimagen_jax.commands.evaluate_fewshot import FewShot, LongTail
from reimagen_jax.commands.evaluate_pictures import Pictures
from reimagen_jax.commands.evaluate_protocols import Coco, Wiki
from reimagen_jax.commands.evaluate_seedselect import SeedSelect
from reimagen_jax.commands.options import command_line
from reimagen_jax.commands.sampling_options import CascadeOptions, SamplingOptions, open_drawing
from reimagen_jax.commands.usage import run_one
from reimagen_jax.diffusion.settings import DrawingConfig
from reimagen_jax.errors import require
from reimagen_jax.systems.reimagen.settings import ETAS
from reimagen_jax.terminal import say

if TYPE_CHECKING:
    from reimagen_jax.evaluation.entities.arms import Arm
    from reimagen_jax.evaluation.entities.bench import EntityBench
    from reimagen_jax.inference.model import Model

Split = Literal["frequent", "rare", "unseen"]
Source = Literal["retrieval", "caption", "none", "random", "wrong", "own", "dense", "hybrid", "untold", "outside"]
DESCRIPTION = "Measure a model: benchmarks, each with options of its own."
RESULTS = "results.json"
ROWS = "rows"


@dataclass(frozen=True)
class Entities(Options):
    """EntityDrawBench on EntityWorld: are entities drawn faithfully, and what the caption tells of the scene as well?

        reimagen evaluate entities --model runs/train --knowledge-base runs/index --out runs/evaluation

    Prompts are fresh scenes with entities that the training data shows often, rarely or never. Each condition is a row:
    where the neighbours come from, how many they are, and eta. They are found by the entity's name (retrieval; untold:
    without their captions), or by the whole caption: by its words (caption), by vectors of the knowledge base's encoder
    (dense), by both (hybrid), or by its words in another knowledge base (outside); or there are none, random ones,
    wrong ones, all of one other entity, or the entity's own.
    Rows are stored as they are done: after a stop, the same command goes on where it was.
    A super-resolution model alone enlarges the true images, shrunk; --cascade adds super-resolution models that enlarge
    what --model draws, and the last one's images are rated (by a rater of their size).
    unCLIP is compared likewise: its prior without neighbours (--model PRIOR --cascade DECODER), its decoder by the
    embeddings of neighbours, or (--embedding text) by the prompt's own; conditions that it cannot draw are left out.
    The paper draws four images of a prompt and counts it where one of them shows the entity and what the text tells:
    --num-images 4, column "best of 4".
    Writes results.json, results.csv, parameters.csv, prompts.json, plots, and for each split a picture of its images.
    """

    common: ClassVar[tuple[str, ...]] = ("num_prompts", "splits", "conditions", "k", "eta")

    model: Path
    """Folder of a training run (its last checkpoint is used) or of weights; `shipped`: the weights in the package."""
    knowledge_base: Path
    """Folder written by `reimagen index`, over records of EntityWorld."""
    out: Path
    """Folder to write, or to go on with."""
    num_prompts: Count = 256
    """Prompts about the entities of each split."""
    splits: tuple[Split, ...] = ("unseen", "frequent", "rare")
    """Splits of the entities."""
    conditions: tuple[Source, ...] = ("retrieval", "none", "caption", "random", "wrong")
    """Sources of the neighbours, compared on every split."""
    outside: Path | None = None
    """The other knowledge base, for condition outside."""
    k: Count | None = None
    """Neighbours (default: as many as the model was trained with)."""
    eta: Share | None = None
    """Share of text-enhanced steps (default: as in the model's experiment)."""
    ks: tuple[Natural, ...] = (0, 1, 2, 3, 4)
    """Sweep over the number of retrieved neighbours; give nothing after --ks for no sweep."""
    etas: tuple[Share, ...] = ETAS
    """Sweep over eta, with retrieval; give nothing after --etas for no sweep."""
    sweep_splits: tuple[Split, ...] = ("unseen",)
    """Splits on which the two sweeps are made, if they are among --splits."""
    pictures: bool = False
    """Keep every image in OUT/pictures, a folder for each condition, for people to rate (`reimagen rate`)."""
    rater: Path | None = None
    """Folder written by `reimagen rater train` (default: the rater that comes with the package)."""
    how: Annotated[SamplingOptions, tyro.conf.arg(name="")] = field(default_factory=SamplingOptions)
    stages: Annotated[CascadeOptions, tyro.conf.arg(name="")] = field(default_factory=CascadeOptions)

    def run(self) -> None:
        """Draws, rates, stores and prints row after row. Raises `UserError` on bad options or input."""
        from reimagen_jax.files import growing_dir

        require(len(self.splits) > 0, "--splits is empty: give at least one of frequent, rare, unseen")
        require(
            ("outside" in self.conditions) == (self.outside is not None),
            "--outside DIR is the knowledge base of condition outside: give both or neither",
        )
        with growing_dir(self.out, kind="evaluation"):
            self._evaluate()

    def _evaluate(self) -> None:
        from reimagen_jax.commands.sample import DRAWING
        from reimagen_jax.evaluation.entities import store
        from reimagen_jax.evaluation.entities.arms import plan
        from reimagen_jax.evaluation.entities.kept import PICTURES, Keeper
        from reimagen_jax.evaluation.entities.tables import by_count, comparisons, row
        from reimagen_jax.reports.entities import pictures, plots, tables

        paths = (self.model, *_paths(self.stages))
        models = [open_drawing(path, self.how.text_encoder, kinds=DRAWING) for path in paths]
        bench = self._bench(models)
        command = self._resolved(models, bench)
        eta = 1.0 if command.eta is None else command.eta
        swept = [split for split in command.splits if split in command.sweep_splits]
        arms = plan(command.splits, command.conditions, command.k, eta, command.ks, command.etas, swept)
        say(tables.about_rater(bench.rater.metrics))
        tables.write_prompts({split: bench.prompts(split) for split in command.splits}, self.out)
        _announce(bench, [arm for arm in arms if not store.stored(bench, arm, self.out / ROWS).is_file()])
        say(tables.about_measures(bench.num_images))
        say(tables.heading(bench.num_images))
        keeper = Keeper(bench, models, self.out / PICTURES, command.line) if self.pictures else None
        counts = {split: bench.counts(split) for split in command.splits}
        outcomes, rows = {}, []
        for arm in arms:
            outcomes[arm] = store.run_arm(bench, arm, self.out / ROWS, keeper)
            rows.append(row(arm, outcomes[arm]))
            say(tables.line(rows[-1]))
            differences = comparisons(outcomes, command.k, eta)
            counted = by_count(outcomes, counts)
            command._write(models, bench, rows, counted, differences, complete=len(rows) == len(arms))
        say(*tables.count_lines(counted))
        plots.write(rows, bench.rater.metrics, command.k, eta, self.out)
        plots.write_counts(counted, command.k, eta, self.out)
        for split in command.splits:
            of_split = [arm for arm in arms if arm.split == split]
            pictures.picture(bench, of_split, self.out / ROWS).save(self.out / f"{split}.png")
        for entry in differences:
            say(f"{entry['what']}: {entry['difference']}")
        say(f"results: {self.out / RESULTS}")

    @property
    def line(self) -> str:
        """The command line."""
        return command_line("evaluate entities", self)

    def _resolved(self, models: "Sequence[Model]", bench: "EntityBench") -> "Entities":
        """The same with nothing left to the models' experiments."""
        settings = bench.pipeline.settings
        return dataclasses.replace(
            self._fitting(settings),
            k=self._k(models),
            eta=getattr(settings, "eta", None) if self.eta is None else self.eta,
            how=self.how.resolved(settings),
            stages=self.stages.resolved(bench.pipeline),
        )

    def _fitting(self, settings: DrawingConfig) -> "Entities":
        """The same with the conditions and sweeps that the model can draw: all are a Re-Imagen's; unCLIP has no eta,
        its prior sees no neighbours, its decoder draws from nothing else, or from none. Says what is left out."""
        if hasattr(settings, "eta"):
            return self
        require(self.eta is None, f"--eta {self.eta}: {self.model} has no steps of two kinds")
        seen = getattr(settings, "embedding", "text") != "text"
        conditions = tuple(each for each in self.conditions if (each != "none") == seen)
        left_out = [each for each in self.conditions if each not in conditions]
        why = "draws from neighbours" if seen else "sees no neighbours"
        require(bool(conditions), f"--conditions {' '.join(self.conditions)}: {self.model} {why}, nothing is left")
        if left_out:
            say(f"{self.model} {why}: {', '.join(left_out)} left out", error=True)
        return dataclasses.replace(self, conditions=conditions, ks=tuple(k for k in self.ks if k and seen), etas=())

    def _k(self, models: "Sequence[Model]") -> int:
        return self.k or max(1, *(model.config.data.num_neighbours for model in models))

    def _bench(self, models: "Sequence[Model]") -> "EntityBench":
        from reimagen_jax.evaluation.entities.bench import EntityBench
        from reimagen_jax.evaluation.entities.inventory import Inventory
        from reimagen_jax.evaluation.rater import Rater
        from reimagen_jax.retrieval.knowledge_base import KnowledgeBase

        rater = Rater.open(self.rater)
        rater.require_resolution(models[-1].config.system.resolution)
        first = self.how.settings(models[0].config.system.sampler)
        most = max(self._k(models), *self.ks, 0)  # neighbours that any row has
        return EntityBench(
            self.stages.pipeline(models, self.how, first, most),
            "+".join(model.digest for model in models),
            rater,
            Inventory.read(KnowledgeBase.open(self.knowledge_base)),
            num_prompts=self.num_prompts,
            num_images=self.how.num_images,
            outside=None if self.outside is None else KnowledgeBase.open(self.outside),
        )

    def _write(
        self,
        models: "Sequence[Model]",
        bench: "EntityBench",
        rows: Sequence[dict[str, Any]],
        counted: Sequence[dict[str, Any]],
        differences: Sequence[dict[str, Any]],
        *,
        complete: bool,
    ) -> None:
        """The tables of the rows so far."""
        from reimagen_jax.files import write_json
        from reimagen_jax.inference.provenance import sampler_facts, versions
        from reimagen_jax.reports.entities import tables

        base = bench.inventory.base
        results = {
            "complete": complete,
            "command": self.line,
            "model": models[0].facts(),
            **({"cascade": [model.facts() for model in models[1:]]} if len(models) > 1 else {}),
            "knowledge_base": {"folder": str(base.path), "records": len(base), "checksum": base.fingerprint},
            "world": dataclasses.asdict(bench.inventory.world),
            "sampler": sampler_facts(bench.pipeline.settings, self.how.seed, self.how.num_images),
            "versions": versions(),
            "rater": {"checksum": bench.rater.digest, **bench.rater.metrics},
            "rows": rows,
            "by_count": counted,
            "comparisons": differences,
        }
        write_json(self.out / RESULTS, results)
        tables.write_csv(rows, bench.rater.metrics, self.out)


@dataclass(frozen=True)
class People(Options):
    """EntityDrawBench on real entities: pictures for people to judge, of a knowledge base of photographs.

        reimagen evaluate people --model runs/train --knowledge-base runs/index --out runs/pictures

    Prompts are about the entities that the records name; the neighbours are the entity's own records, or none. Four
    pictures of each prompt, as in the paper, in an order that does not tell which are which. Fill in ratings.csv (0 or
    1 in its last three columns), then

        reimagen evaluate judged runs/pictures
    """

    common: ClassVar[tuple[str, ...]] = ("entity", "prompt", "num_prompts", "k", "eta", "overwrite")

    model: Path
    """Folder of a training run (its last checkpoint is used) or of weights; `shipped`: the weights in the package."""
    knowledge_base: Path
    """Folder written by `reimagen index`, over records that name entities."""
    out: Path
    """Folder to write."""
    entity: str | None = None
    """Field of an entity's name (default: entity, name, subject, label, ..., else the caption)."""
    prompt: Annotated[tuple[str, ...], tyro.conf.arg(metavar="FIELD|TEMPLATE ...")] = ()
    """Fields of prompts, or templates such as 'a {entity} in the snow' (default: prompt, else the caption)."""
    num_prompts: Count | None = None
    """Prompts of each category, at most (default: all)."""
    conditions: tuple[Literal["own", "none"], ...] = ("own", "none")
    """Neighbours: the entity's own records; none."""
    k: Count | None = None
    """Neighbours (default: as many as the model was trained with)."""
    eta: Share | None = None
    """Share of text-enhanced steps (default: as in the model's experiment)."""
    overwrite: bool = False
    """Replace the folder in --out, if this command wrote it, once the new one is complete; one of another kind, or with
    other files in it, is kept."""
    how: Annotated[SamplingOptions, tyro.conf.arg(name="")] = field(
        default_factory=lambda: SamplingOptions(num_images=4)
    )
    stages: Annotated[CascadeOptions, tyro.conf.arg(name="")] = field(default_factory=CascadeOptions)

    def run(self) -> None:
        """Draws, and writes. Raises `UserError` on bad options or input."""
        from reimagen_jax.evaluation.entities import people
        from reimagen_jax.files import atomic_dir, require_writable, write_json
        from reimagen_jax.inference.provenance import sampler_facts, versions
        from reimagen_jax.retrieval.knowledge_base import KnowledgeBase

        require(len(self.conditions) > 0, "--conditions is empty: give own, none, or both")
        require_writable(self.out, kind="pictures to judge", overwrite=self.overwrite)
        models = [open_drawing(path, self.how.text_encoder) for path in (self.model, *_paths(self.stages))]
        require(
            models[0].config.system.super_resolution is None,
            f"--model {self.model} enlarges images, and there is no true one to enlarge: give it to --cascade",
        )
        base = KnowledgeBase.open(self.knowledge_base)
        prompts = people.real_prompts(base, self.entity, self.prompt, self.num_prompts)
        k = self.k or max(1, *(model.config.data.num_neighbours for model in models))
        pipeline = self.stages.pipeline(models, self.how, self.how.settings(models[0].config.system.sampler), k)
        eta = pipeline.settings.eta if self.eta is None else self.eta
        command = dataclasses.replace(
            self, k=k, eta=eta, how=self.how.resolved(pipeline.settings), stages=self.stages.resolved(pipeline)
        )
        number = len(prompts) * len(self.conditions) * self.how.num_images
        say(f"{len(prompts)} prompts about {len({p.entity for p in prompts})} entities, {number:,} pictures")
        if captions := sum(prompt.is_caption for prompt in prompts):
            say(f"{captions} prompts are captions of the neighbours themselves, so a copy is right: see --prompt")
        with atomic_dir(self.out, kind="pictures to judge", overwrite=self.overwrite) as folder:
            sheets = people.draw(pipeline, base, prompts, self.conditions, k, eta, self.how.num_images, folder)
            facts = {
                "command": command_line("evaluate people", command),
                "model": models[0].facts(),
                **({"cascade": [model.facts() for model in models[1:]]} if len(models) > 1 else {}),
                "knowledge_base": {"folder": str(base.path), "records": len(base), "checksum": base.fingerprint},
                "sampler": sampler_facts(pipeline.settings, self.how.seed, self.how.num_images),
                "versions": versions(),
                "sources": self.conditions,
                "images_per_prompt": self.how.num_images,
                "prompts": [dataclasses.asdict(prompt) for prompt in prompts],
                "pictures": sheets,
            }
            write_json(folder / people.DRAWN, facts)
        say(f"fill in {self.out / people.RATINGS}, then: reimagen evaluate judged {self.out}")


@dataclass(frozen=True)
class Judged(Options):
    """What people have said of the pictures that `reimagen evaluate people` drew: tables with 95 % intervals.

    reimagen evaluate judged runs/pictures
    """

    pictures: Annotated[Path, tyro.conf.Positional]
    """Folder of the pictures, its ratings.csv filled in."""

    def run(self) -> None:
        """Prints a row for each category and condition, writes results.json. Raises `UserError` where it has gaps."""
        from reimagen_jax.evaluation.entities import people
        from reimagen_jax.reports.entities import tables

        require(self.pictures.is_dir(), f"{self.pictures} not found: give the folder of `reimagen evaluate people`")
        rows = people.judged(self.pictures)
        say(*tables.judged_lines(rows))
        say(f"results: {people.write_results(rows, self.pictures)}")


def _paths(stages: CascadeOptions) -> list[Path]:
    return [stage.model for stage in stages.cascade]


COMMANDS = {
    "pictures": Pictures,
    "entities": Entities,
    "answers": Answers,
    "seedselect": SeedSelect,
    "people": People,
    "judged": Judged,
    "fewshot": FewShot,
    "longtail": LongTail,
    "coco": Coco,
    "wiki": Wiki,
    "fid": Fid,
    "drawn": Drawn,
    "scores": Scores,
    "statistics": Statistics,
}


def main(args: Sequence[str]) -> None:
    """Parses and runs; `args` are those after `evaluate`."""
    run_one(COMMANDS, "reimagen evaluate", DESCRIPTION, args)


def _announce(bench: "EntityBench", missing: "Sequence[Arm]") -> None:
    """Says how long it will take."""
    from reimagen_jax.evaluation.entities.arms import TRUTH

    drawn = [arm for arm in missing if arm.source != TRUTH]
    if not drawn:
        return
    images = len(drawn) * bench.num_prompts * bench.num_images
    say(f"{len(drawn)} conditions to draw, {images:,} images; compiling")
    seconds = images * bench.seconds_per_image(drawn[0])
    say(f"this takes about {_duration(seconds)}")


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} seconds"
    return f"{seconds / 60:.0f} minutes" if seconds < 5400 else f"{seconds / 3600:.1f} hours"
