"""`reimagen sweep`: prompts over eta, from all neighbours to all text, or over any grid, as a report (HTML and PNG)."""

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

import tyro

from reimagen_jax.checked import Count, Options, Share
from reimagen_jax.commands.options import as_typed, command_line
from reimagen_jax.commands.prompt_options import PromptOptions, say_left_out, warn_without_neighbours
from reimagen_jax.commands.sampling_options import CascadeOptions, SamplingOptions, open_drawing
from reimagen_jax.errors import UserError, require
from reimagen_jax.systems.reimagen.settings import ETAS, GuidedSamplerConfig
from reimagen_jax.terminal import say

if TYPE_CHECKING:
    import jax

    from reimagen_jax.config import Experiment
    from reimagen_jax.evaluation.axes import Axis
    from reimagen_jax.evaluation.grids import Grid, Point
    from reimagen_jax.evaluation.sweeps import Sweep as DrawnSweep
    from reimagen_jax.inference.model import Model
    from reimagen_jax.inference.pipeline import Pipeline
    from reimagen_jax.inference.prompts import Prompt

PROMPTS = "prompts.jsonl"
SHOWN = 8


@dataclass(frozen=True)
class Sweep(Options):
    """Draw prompts at a range of eta, from all neighbours (0) to all text (1), and once without neighbours:
        reimagen sweep --model runs/train --records runs/test --knowledge-base runs/index --out runs/sweep

    Writes report.html (one file that needs nothing else), report.png and sweep.json. Prompts and neighbours are given
    as for `reimagen sample`. Where the prompts are captions of EntityWorld records, the images are rated as well.

    Over a grid of whatever can be set (an X/Y/Z plot), the first axis in columns, the second in rows:
        reimagen sweep --model shipped --world-prompts 64 --knowledge-base runs/index --out runs/grid \\
            --over eta=0:1:0.1 --over steps=10,25 --over solver=ddim,unipc
        reimagen sweep --model runs/train --prompt "a cat on a mat" --knowledge-base runs/index --out runs/words \\
            --over words=cat,dog,fox --over checkpoint=2000,4000

    Axes are all settings of the sampler by their options (eta, k, steps, solver, guidance, text-weight, ...), seed,
    negative, method, checkpoint (steps of the run, or models), and words: the first is looked for in the prompts, and
    each takes its place. The report names the best point of those that are rated, what cannot be told from it, and the
    cheapest of these; sweep.csv has all of them.

    Of a cascade the last stage's images are shown; settings of its further stages are axes behind their stage's number:
        reimagen sweep --model runs/base64 --cascade runs/sr256 --prompt "a cat" --out runs/large \\
            --over steps=10,25 --over stage2.aug-level=0.1,0.3

    Every image is stored as it is drawn, in images: after a stop, or with more values, the same command goes on.
    """

    common: ClassVar[tuple[str, ...]] = ("etas", "over", "world_prompts", "split", "overwrite")

    model: Path
    """Folder of a training run (its last checkpoint is used) or of weights; `shipped`: the weights in the package."""
    out: Path
    """Folder to write, or to go on with."""
    what: Annotated[PromptOptions, tyro.conf.arg(name="")] = field(default_factory=PromptOptions)
    etas: tuple[Share, ...] = ETAS
    """One column each, between 0 and 1."""
    over: Annotated[
        tuple[tuple[str, ...], ...], tyro.conf.UseAppendAction, tyro.conf.arg(metavar="AXIS=VALUE,...")
    ] = ()
    """A grid's axes, in place of --etas: each with its values, or FIRST:LAST:STEP. Repeat it for more."""
    world_prompts: Count | None = None
    """So many of EntityDrawBench's prompts, in place of one's own: about entities of the knowledge base, which has to
    be of EntityWorld and is asked for their names."""
    split: Literal["frequent", "rare", "unseen"] | None = None
    """How often the training has shown the entities of --world-prompts (default: unseen, never)."""
    best: Literal["faithful", "aligned", "both"] | None = None
    """What the best point of a grid has most of (default: both in one image)."""
    show: Count | None = None
    """Prompts on the sheet of a grid, at most (default: 8); all images are in the folder."""
    devices: Count | None = None
    """Of this machine, that draw a grid side by side, a batch each (default: all that have a whole batch to draw)."""
    how: Annotated[SamplingOptions, tyro.conf.arg(name="")] = field(default_factory=SamplingOptions)
    stages: Annotated[CascadeOptions, tyro.conf.arg(name="")] = field(default_factory=CascadeOptions)
    rater: Path | None = None
    """A rater of EntityWorld for the model's resolution (default: the one that comes with the package)."""
    overwrite: bool = False
    """Replace the folder in --out, if this command wrote it, once the new one is complete (of a grid, draw all images
    anew); one of another kind, or with other files in it, is kept."""

    def run(self) -> None:
        """Draws, rates where that is possible, and writes the report. Raises `UserError` on bad options or input."""
        from reimagen_jax.reports.report import PAGE

        self.what.check(*(["world-prompts"] if self.world_prompts else []))
        require(self.split is None or bool(self.world_prompts), "--split is about --world-prompts: give their number")
        if self.over:
            self._draw_grid()
        else:
            self._draw_etas()
        say(f"report: {self.out / PAGE}")

    def _draw_etas(self) -> None:
        from reimagen_jax.api import IMAGES, sweep_by
        from reimagen_jax.evaluation.store import Images
        from reimagen_jax.files import resumed_dir

        self._check_etas()
        with resumed_dir(self.out, kind="sweep", begun=IMAGES, overwrite=self.overwrite) as folder:
            models = self._models()
            model = models[0]
            prompts = self.what.found(self._asked(model), model.config)
            warn_without_neighbours(prompts)
            say_left_out([prompt.left_out for prompt in prompts])
            if not any(prompt.neighbours for prompt in prompts):
                raise UserError(
                    f"no neighbours were found for any prompt: no caption in {self.what.knowledge_base} shares a word"
                )
            most = max(len(prompt.neighbours) for prompt in prompts)
            pipeline = self.stages.pipeline(models, self.how, self.how.settings(model.config.system.sampler), most)
            swept = sweep_by(
                pipeline,
                models,
                prompts,
                self.etas,
                self.how.num_images,
                rater=self.rater,
                command=lambda drawn: self._command(model.config, drawn, pipeline),
                data=self._sources(model.config),
                images=Images(folder / IMAGES),
            )
            swept.write(folder)

    def _models(self) -> "list[Model]":
        """Of all stages. Raises `UserError` where the first is none to begin with, or one does not follow another."""
        from reimagen_jax.inference.pipeline import check_chain

        paths = [self.model, *(stage.model for stage in self.stages.cascade)]
        models = [open_drawing(path, self.how.text_encoder, on_host=len(paths) > 1) for path in paths]
        require(
            models[0].config.system.super_resolution is None,
            f"--model {self.model} is a super-resolution model, and a sweep has no image for it to enlarge: give a "
            f"base model before it, --model BASE --cascade {self.model}",
        )
        check_chain([model.config for model in models])
        return models

    def _command(self, config: "Experiment", drawn: "DrawnSweep", pipeline: "Pipeline") -> str:
        """The command line with nothing left to the experiments."""
        what, how = self.what.resolved(config), self.how.resolved(drawn.sampler)
        stages = self.stages.resolved(pipeline)
        return command_line("sweep", dataclasses.replace(self, etas=drawn.etas, what=what, how=how, stages=stages))

    def _check_etas(self) -> None:
        """Raises `UserError` on options that make no sense; opens nothing."""
        require(len(self.etas) > 0, "--etas is empty: give at least one value between 0 and 1")
        require(self.what.k != 0, "--k 0 leaves a sweep nothing to weigh against the text: at least 1 is needed")
        require(
            bool(self.what.knowledge_base or self.what.reference),
            "a sweep needs neighbours: give --knowledge-base DIR, or --reference IMAGE CAPTION",
        )
        for option in ("best", "show", "devices"):
            require(getattr(self, option) is None, f"--{option} is about a grid: give its axes, --over AXIS=VALUE,...")

    def _draw_grid(self) -> None:
        from reimagen_jax.api import GRID, IMAGES, GridWords, sweep_grid
        from reimagen_jax.evaluation.axes import axes_of
        from reimagen_jax.evaluation.store import Images
        from reimagen_jax.files import growing_dir
        from reimagen_jax.reports.grid_report import choice

        axes = axes_of([text for group in self.over for text in group])
        self._check_axes(axes)
        with growing_dir(self.out, kind=GRID):
            models = self._models()
            model = models[0]
            grid = self._plan(axes, models)
            images = Images(self.out / IMAGES)
            if self.overwrite:
                images.clear()
            self._write_prompts(grid)
            words = GridWords(
                command_line("sweep", self._resolved(model.config, axes, grid.points[0])),
                lambda point: self._drawn_by(point, model.config),
                self._sources(model.config),
                self.show or SHOWN,
            )
            how = {"rater": self.rater, "best": self.best or "both", "later": models[1:]}
            swept = sweep_grid(grid, model, images, words, **how)
            swept.write(self.out)
        if said := choice(swept.report):
            say(*said, f"to draw with the cheapest of these: {swept.report.cheapest_command}")

    def _check_axes(self, axes: "Sequence[Axis]") -> None:
        """Raises `UserError` on options that contradict the axes; opens nothing."""
        from reimagen_jax.evaluation.axes import METHOD, K, field_of_stage

        require(self.etas == ETAS, "--etas and --over are both given: give eta as an axis, --over eta=0,0.5,1")
        based = bool(self.what.knowledge_base)
        for axis in axes:
            name = axis.name.replace("-", "_")
            places = (self.what, self.what.asking, self.how, self.stages)
            given = next((own for own in (getattr(each, name, None) for each in places) if own), None)
            said = f"--{axis.name} {given} and --over {axis}: an axis has all of its values"
            require(given is None or given == "lexical", said)
            for number, option in enumerate(self.stages.cascade, 2):
                both = field_of_stage(axis.name, number) and name.partition(".")[2] in dict(option.settings)
                require(not both, f"--cascade {option} and --over {axis}: an axis has all of its values")
            require(axis.name != METHOD or based, f"--over {axis} asks a --knowledge-base: none is given")
            needed = axis.name == K and any(axis.values) and not (based or self.what.reference)
            require(not needed, f"--over {axis} asks for neighbours: give --knowledge-base DIR, or --reference")

    def _plan(self, axes: "Sequence[Axis]", models: "Sequence[Model]") -> "Grid":
        from reimagen_jax.api import model_at
        from reimagen_jax.evaluation.grids import Asked, Enlarging, plan

        model, configs = models[0], [each.config for each in models]
        sampler = self.how.settings(model.config.system.sampler)
        given = [name.removeprefix("sampler.") for name in self.how.typed()]

        def find(prompts: "Sequence[Prompt]", method: Any, most: int | None) -> "list[Prompt]":
            what = dataclasses.replace(self.what, k=self.what.k if most is None else most)
            return _by_method(what, method).found(prompts, model.config)

        def later(first: "GuidedSamplerConfig", room: int) -> "list[Enlarging]":
            settings = self.stages.settings(configs, first, room)[1:]
            sizes = [option.batch_size(self.how.batch_size) for option in self.stages.cascade]
            return list(map(Enlarging, models[1:], settings, sizes))

        prompts = self._asked(model)
        asked = Asked(
            model,
            prompts,
            find,
            {name: getattr(sampler, name) for name in given} | self.stages.of_all_but_the_last,
            lambda name: model_at(self.model, name, self.how.text_encoder),
            self.how.num_images,
            self.how.seed,
            self.how.batch_size,
            self._devices(math.prod(len(axis.values) for axis in axes) * len(prompts) * self.how.num_images),
            later,
        )
        with as_typed(self.how.typed()):
            grid = plan(axes, asked)
        if self.what.knowledge_base:
            most = max(grid.points, key=lambda point: sum(len(each.neighbours) for each in point.prompts))
            warn_without_neighbours(most.prompts)
            say_left_out([prompt.left_out for prompt in most.prompts])
        return grid

    def _devices(self, number: int) -> "Sequence[jax.Device]":
        """Those that draw so many images: none where the one that JAX takes is enough."""
        import jax

        found = jax.local_devices()[: self.devices or max(1, number // self.how.batch_size)]
        require(len(found) >= (self.devices or 1), f"--devices {self.devices}: this machine has {len(found)}")
        return found if len(found) > 1 else ()

    def _asked(self, model: "Model") -> "list[Prompt]":
        """The prompts, without neighbours yet."""
        if not self.world_prompts:
            return self.what.asked(model.config)
        from reimagen_jax.evaluation.entities.inventory import Inventory
        from reimagen_jax.evaluation.entities.prompts import draw_prompts
        from reimagen_jax.inference.prompts import Prompt
        from reimagen_jax.retrieval.knowledge_base import KnowledgeBase

        require(
            self.what.knowledge_base is not None, "--world-prompts are about a knowledge base: --knowledge-base DIR"
        )
        inventory = Inventory.read(KnowledgeBase.open(self.what.knowledge_base))
        drawn = draw_prompts(inventory, self._split, self.world_prompts, self.how.seed)
        prompts = [Prompt(each.text, attributes=each.attributes, query=each.name) for each in drawn]
        self.what.say_how(model.config)
        return self.what.completed(prompts, model.config)

    @property
    def _split(self) -> str:
        return self.split or "unseen"

    def _sources(self, config: "Experiment") -> dict[str, str]:
        """Where prompts and neighbours come from."""
        sources = self.what.sources(config)
        if not self.world_prompts:
            return sources
        said = f"{self.world_prompts} of EntityDrawBench, about {self._split} entities"
        return sources | {"prompts": said, "asked for": "the entities' names"}

    def _write_prompts(self, grid: "Grid") -> None:
        """EntityDrawBench's prompts as a file for --prompts, with what their images have to show."""
        from reimagen_jax.files import write_text
        from reimagen_jax.terminal import json_line

        if self.world_prompts:
            lines = (json_line({"text": each.text, **each.attributes}) for each in grid.prompts)
            write_text(self.out / PROMPTS, "".join(f"{line}\n" for line in lines))

    def _resolved(self, config: "Experiment", axes: "Sequence[Axis]", point: "Point") -> "Sweep":
        """The same with nothing left to the experiments, but for what the axes say; `point` is one of the grid."""
        from reimagen_jax.evaluation.axes import field_of_stage

        names = {axis.name.replace("-", "_") for axis in axes}
        what, how = self.what.resolved(config), self.how.resolved(self.how.settings(config.system.sampler))
        what = dataclasses.replace(what, k=None) if "k" in names else what
        varied = {name: None for name in names if name != "seed" and hasattr(how, name)}
        over = tuple((str(axis),) for axis in axes)
        stages = self.stages.resolved(point.program.pipeline(point.seed))
        own = {name: None for name in names if hasattr(stages, name)}
        cascade = [
            option.without(name.partition(".")[2] for name in names if field_of_stage(name.replace("_", "-"), number))
            for number, option in enumerate(stages.cascade, 2)
        ]
        stages = dataclasses.replace(stages, cascade=tuple(cascade), **own)
        how = dataclasses.replace(how, **varied)
        return dataclasses.replace(self, etas=(), over=over, what=what, how=how, stages=stages)

    def _drawn_by(self, point: "Point", config: "Experiment") -> str:
        """`reimagen sample` as at a point; where it has no options for that, this sweep at the point alone."""
        from reimagen_jax.commands.sample import Sample
        from reimagen_jax.commands.sampling_options import EnlargingOptions
        from reimagen_jax.evaluation.axes import CHECKPOINT, METHOD, NEGATIVE, SEED, WORDS, Axis, K, stage_of

        out, values = self.out.with_name(f"{self.out.name}-best"), point.values
        beside = (CHECKPOINT, K, METHOD, NEGATIVE, SEED, WORDS, "eta")
        places = (self.how, *([self.stages] if self.stages.cascade else []))
        has_all = all(
            name in beside or stage_of(name) > 1 or any(hasattr(each, name.replace("-", "_")) for each in places)
            for name in values
        )
        if not has_all or values.get(CHECKPOINT, "").isdecimal():
            axes = [Axis(name, (value,)) for name, value in values.items()]
            return command_line("sweep", dataclasses.replace(self._resolved(config, axes, point), out=out))
        what = self.what.resolved(config)
        what = dataclasses.replace(what, **{name: values[name] for name in (K, NEGATIVE) if name in values})
        what = _by_method(what, values.get(METHOD))
        if self.world_prompts:
            asking = dataclasses.replace(what.asking, query_by=("entity",))
            what = dataclasses.replace(what, prompts=self.out / PROMPTS, asking=asking)
        how = dataclasses.replace(self.how.resolved(point.settings), seed=point.seed)
        model = Path(values.get(CHECKPOINT, self.model))
        stages = self.stages.resolved(point.program.pipeline(point.seed))
        stages = EnlargingOptions(**{item.name: getattr(stages, item.name) for item in dataclasses.fields(stages)})
        return command_line("sample", Sample(model, out, what, point.settings.eta, how, stages))


def _by_method(what: PromptOptions, method: Any) -> PromptOptions:
    """The same, to search by another method, if one is named."""
    if method is None:
        return what
    return dataclasses.replace(what, asking=dataclasses.replace(what.asking, method=method))
