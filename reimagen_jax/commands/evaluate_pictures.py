"""`reimagen evaluate pictures`: what a model draws for held-out records, of whatever they are, in numbers."""

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

import tyro

from reimagen_jax.checked import Count, Options
from reimagen_jax.commands.options import command_line
from reimagen_jax.commands.prompt_options import PromptOptions
from reimagen_jax.commands.sampling_options import CascadeOptions, SamplingOptions, open_drawing
from reimagen_jax.errors import require
from reimagen_jax.terminal import say

if TYPE_CHECKING:
    from reimagen_jax.data.records import Records
    from reimagen_jax.evaluation.pictures.bench import Arm, PictureBench
    from reimagen_jax.evaluation.pictures.judges import Judge
    from reimagen_jax.inference.model import Model
    from reimagen_jax.inference.prompts import Prompt

REST_FIELDS = ("style", "category", "kind", "type")
"""What else a caption tells, where it is looked for."""
GROUP_FIELDS = ("entity_split", "split")
"""What tells how often an entity is seen in training, where it is looked for; the second is what `reimagen split` and
EntityWorld write."""
NONE = "none"
GUIDANCE = ("eta", "text-weight", "neighbour-weight")


@dataclass(frozen=True)
class Pictures(Options):
    """Are a model's pictures of held-out records right: the entity, the rest of the caption; are they copies?

        reimagen evaluate pictures --model runs/train --records runs/held_out --knowledge-base runs/index \\
            --query-by entity --out runs/quality

    Captions of the records are drawn with the neighbours that are found, without, and with wrong ones. What a picture
    shows is read by judges that learn from true pictures of the other records, in a space of features; how often they
    are right on the records' own pictures stands on top of the table, as the ceiling. Pictures are stored as they are
    drawn: after a stop, the same command goes on where it was.

    With --over, as for `sweep`, it chooses guidance:
        reimagen evaluate pictures --model runs/train --records runs/held_out --knowledge-base runs/index \\
            --query-by entity --out runs/quality --over eta=0,0.5 --over neighbour-weight=1,2,4,8 --set-default

    Writes results.json, results.md, results.html and results.png.
    """

    common: ClassVar[tuple[str, ...]] = ("entity", "rest", "arms", "gallery", "shown")

    model: Path
    """Folder of a training run (its last checkpoint is used) or of weights; `shipped`: the weights in the package."""
    out: Path
    """Folder to write, or to go on with."""
    what: Annotated[PromptOptions, tyro.conf.arg(name="")] = field(default_factory=lambda: PromptOptions(limit=96))
    entity: str | None = None
    """Field that names what a picture shows (default: entity, name, label, ...; `none`: it is not judged)."""
    rest: str | None = None
    """Field of what else the caption tells (default: style, category, ..., where there is one; `none`)."""
    group_by: str | None = None
    """Field by which prompts are told apart in rows of their own (default: entity_split or split, where all have one);
    `count`: by how many other true pictures there are of their entity."""
    arms: tuple[Literal["with", "without", "wrong"], ...] = ("with", "without", "wrong")
    """With the neighbours that are found, without, with those of another prompt."""
    over: Annotated[
        tuple[tuple[str, ...], ...], tyro.conf.UseAppendAction, tyro.conf.arg(metavar="NAME=VALUE,...")
    ] = ()
    """Further arms with neighbours, one for each combination of eta, text-weight and neighbour-weight; the one to take
    is named."""
    best: Literal["entity", "rest", "both", "nearest", "first five", "likeness"] = "likeness"
    """With --over: the measure that it is chosen by."""
    set_default: bool = False
    """With --over, of a training run: let it draw by the guidance to take from then on, in every command, where options
    do not say otherwise (guidance.json in its folder; deleting that undoes it)."""
    gallery: Annotated[tuple[Path, ...], tyro.conf.arg(metavar="DIR ...")] = ()
    """Records whose pictures judges learn from (default: --records and those of the knowledge base). No prompt's own
    record is among them."""
    gallery_size: Count = 4096
    """Pictures of them, at most: first those of the prompts' entities."""
    features: Annotated[
        tuple[Literal["looks", "surface", "unet", "all", "encoder"], ...], tyro.conf.arg(metavar="SPACE ...")
    ] = ()
    """Spaces that judges may use (default: all that are at hand, the most accurate is taken): pixels, edges and
    colours (looks); colours and texture (surface); the shipped model's encoder (unet); all of these; --encoder."""
    judge: Literal["mean", "nearest", "svm"] | None = None
    """How they judge: by the nearest mean, the nearest picture, or a machine trained on the pictures (default: the most
    accurate)."""
    encoder: Path | None = None
    """Folder written by `reimagen encode-train`: one more space."""
    shown: Count = 12
    """Prompts on the contact sheet."""
    how: Annotated[SamplingOptions, tyro.conf.arg(name="")] = field(default_factory=SamplingOptions)
    stages: Annotated[CascadeOptions, tyro.conf.arg(name="")] = field(default_factory=CascadeOptions)

    def run(self) -> None:
        """Draws, judges, writes and prints row after row. Raises `UserError` on bad options or input."""
        from reimagen_jax.files import growing_dir

        self.what.check()
        require(self.what.records is not None, "give --records DIR: their captions are drawn, their pictures are true")
        require(bool(self.arms), "--arms is empty: give at least one of with, without, wrong")
        require(bool(self.over) or not self.set_default, "--set-default writes down what --over chooses: give --over")
        self._axes()
        with growing_dir(self.out, kind="evaluation of pictures"):
            self._evaluate()

    def _evaluate(self) -> None:
        from reimagen_jax.evaluation.pictures.bench import TRUE, Arm, best_of
        from reimagen_jax.reports import pictures

        models = [open_drawing(path, self.how.text_encoder) for path in (self.model, *self._cascade)]
        require(
            models[0].config.system.super_resolution is None,
            f"--model {self.model} enlarges images: give it to --cascade, behind the model that draws them",
        )
        if self.set_default:
            models[0].require_run()
        bench = self._bench(models)
        measured = self.best in pictures.columns(bench)
        require(measured or not self.over, f"--best {self.best} is not measured: no field of it is judged")
        for line in judged(bench):
            say(line)
        grid = self._grid()
        arms = [*(Arm(name) for name in self.arms), *grid]
        say(f"{len(bench.prompts)} prompts, {len(arms)} arms: {bench.prepare(arms):,} pictures to draw")
        for line in pictures.headings(bench):
            say(line)
        rows, outcomes, facts = [], {}, self._facts(models, bench)
        for arm in (Arm(TRUE), *arms):
            bench.draw(arm)
            outcomes[arm] = bench.outcome(arm)
            for row in bench.rows(arm, outcomes[arm]):
                rows.append(row)
                say(pictures.line(bench, row))
            pictures.write(bench, rows, None, {"complete": False, **facts}, self.out, 0)
        choice = None
        if grid:
            own = bench.pipeline.settings
            gentle = {arm: _strength(own, dict(arm.guidance)) for arm in grid}
            best, tied = best_of(grid, outcomes, self.best, gentle, bench.about)
            choice = pictures.Choice(self.best, best, tuple(tied), " ".join(_options(tied[0])))
            say(*choice.lines(rows))
            if self.set_default:
                models[0].choose(f"{self.best} of {len(bench.prompts)} held-out records", **dict(tied[0].guidance))
                say(f"{self.model} draws so from now on, where options say nothing else")
        pictures.write(bench, rows, choice, {"complete": True, **facts}, self.out, self.shown)
        say(f"results: {self.out / pictures.PAGE}, {self.out / pictures.SHEET}")

    def _bench(self, models: "Sequence[Model]") -> "PictureBench":
        from reimagen_jax.data.records import Records
        from reimagen_jax.encoders import dual
        from reimagen_jax.evaluation.pictures.bench import PictureBench, gallery, value_of
        from reimagen_jax.evaluation.pictures.features import Spaces
        from reimagen_jax.evaluation.store import Images
        from reimagen_jax.retrieval.knowledge_base import KnowledgeBase

        config = models[0].config
        prompts = self.what.gather(config)
        side = models[-1].config.system.resolution
        if side != config.system.resolution:
            prompts = _of_side(prompts, Records.open(self.what.records), side)
        entity, rest = self._fields(prompts)
        fields = [name for name in (entity, rest) if name]
        sources: list[Any] = [Records.open(path) for path in self.gallery or (self.what.records,)]
        if self.what.knowledge_base and not self.gallery:
            sources.append(KnowledgeBase.open(self.what.knowledge_base).records)
        true = gallery(sources, prompts, fields, side, self.gallery_size, self.how.seed)
        spaces = Spaces(true.pictures, dual.open(self.encoder) if self.encoder else None)
        judges = [self._judge(name, true.values[name], spaces) for name in fields]
        named = {judge.about: judge for judge in judges}
        most = max((len(each.neighbours) for each in prompts), default=0)
        first = self.how.settings(config.system.sampler)
        pipeline = self.stages.pipeline(models, self.how, first, most)
        told = (name for name in GROUP_FIELDS if all(value_of(each.attributes, name) for each in prompts))
        return PictureBench(
            pipeline,
            "+".join(model.digest for model in models),
            prompts,
            true,
            spaces,
            named.get(entity),
            named.get(rest),
            Images(self.out / "pictures"),
            num_images=self.how.num_images,
            group_by=self.group_by or next(told, ""),
        )

    def _judge(self, about: str, values: Sequence[str | None], spaces: Any) -> "Judge":
        from reimagen_jax.evaluation.pictures.judges import choose

        require("encoder" not in self.features or bool(self.encoder), "--features encoder: give --encoder DIR")
        return choose(about, values, spaces, self.features, (self.judge,) if self.judge else (), self.how.seed)

    def _fields(self, prompts: "Sequence[Prompt]") -> tuple[str, str]:
        """Of the entity and of the rest; empty where there is none. Raises `UserError` for a named one that is not."""
        from reimagen_jax.evaluation.entities.people import ENTITY_FIELDS
        from reimagen_jax.evaluation.pictures.bench import value_of

        def field_of(option: str, named: str | None, known: Sequence[str]) -> str:
            if named == NONE:
                return ""
            there = [n for n in ((named,) if named else known) if any(value_of(p.attributes, n) for p in prompts)]
            require(not named or bool(there), f"--{option} {named}: no record has such a field")
            return there[0] if there else ""

        entity = field_of("entity", self.entity, ENTITY_FIELDS)
        rest = field_of("rest", self.rest, [name for name in REST_FIELDS if name != entity])
        return entity, rest

    def _axes(self) -> "list[Any]":
        from reimagen_jax.evaluation.axes import axes_of

        typed = [word for group in self.over for word in group]
        axes = list(axes_of(typed)) if typed else []
        for axis in axes:
            known = ", ".join(GUIDANCE)
            require(axis.name in GUIDANCE, f"--over {axis.name} is no number of guidance: there are {known}")
        return axes

    def _grid(self) -> "list[Arm]":
        from reimagen_jax.evaluation.axes import points_of
        from reimagen_jax.evaluation.pictures.bench import WITH, Arm

        axes = self._axes()
        points = points_of(axes) if axes else []
        return [Arm(WITH, tuple((name.replace("-", "_"), value) for name, value in point.items())) for point in points]

    @property
    def _cascade(self) -> list[Path]:
        return [stage.model for stage in self.stages.cascade]

    def _facts(self, models: "Sequence[Model]", bench: "PictureBench") -> dict[str, Any]:
        """What the results tell besides their rows."""
        from reimagen_jax.inference.provenance import sampler_facts, versions

        what, how = self.what.resolved(models[0].config), self.how.resolved(bench.pipeline.settings)
        command = dataclasses.replace(self, what=what, how=how, stages=self.stages.resolved(bench.pipeline))
        return {
            "command": command_line("evaluate pictures", command),
            "model": models[0].facts(),
            **({"cascade": [model.facts() for model in models[1:]]} if len(models) > 1 else {}),
            "sources": self.what.sources(models[0].config),
            "sampler": sampler_facts(bench.pipeline.settings, self.how.seed, self.how.num_images),
            "versions": versions(),
        }


def judged(bench: "PictureBench") -> list[str]:
    """Who judges."""
    found = [f"judged by the {judge}" for judge in (bench.entity, bench.rest) if judge is not None]
    return [*found, f"{len(bench.gallery.pictures):,} true pictures of other records to learn from"]


def _of_side(prompts: "Sequence[Prompt]", records: "Records", side: int) -> "list[Prompt]":
    """The prompts with true pictures of the size of what is drawn last."""
    from reimagen_jax.data import images

    ids = {key: i for i, key in enumerate(records.keys())}
    found = records.fetch([ids[prompt.key] for prompt in prompts])
    pairs = zip(prompts, found, strict=True)
    return [dataclasses.replace(prompt, target=images.decode(record.image, side)) for prompt, record in pairs]


def _strength(settings: Any, guidance: Mapping[str, Any]) -> float:
    """How strongly a picture is guided: the sum of both weights' excess over 1, up or down."""
    numbers = {name: guidance.get(name, getattr(settings, name)) for name in ("text_weight", "neighbour_weight")}
    return sum(abs(number - 1.0) for number in numbers.values())


def _options(arm: "Arm") -> list[str]:
    """The numbers of an arm, as they are typed."""
    from reimagen_jax.evaluation.axes import spelt

    return [word for name, value in arm.guidance for word in (f"--{name.replace('_', '-')}", spelt(value))]
