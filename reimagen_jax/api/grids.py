"""Prompts drawn at every point of a grid; `sweep`, over eta alone or over a grid."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8

from reimagen_jax.api.drawing import pipeline_of
from reimagen_jax.api.sweeping import IMAGES, Swept, count, later_facts, sweep_by
from reimagen_jax.checked import Count, Seed, checked
from reimagen_jax.errors import require
from reimagen_jax.evaluation.axes import METHOD, SETTINGS, axes_of
from reimagen_jax.evaluation.grids import Asked, Grid, Point, plan
from reimagen_jax.evaluation.grids import draw as draw_grid
from reimagen_jax.evaluation.pareto import Measure, Table, tabulate
from reimagen_jax.evaluation.ratings import describe_rater, rater_for
from reimagen_jax.evaluation.store import Images
from reimagen_jax.files import atomic_dir, growing_dir, resumed_dir
from reimagen_jax.inference.model import Model
from reimagen_jax.inference.prompts import Prompt, asking, with_retrieved
from reimagen_jax.inference.provenance import sampler_facts, stage_facts, versions
from reimagen_jax.reports.grid_report import GridReport, write_grid_report
from reimagen_jax.reports.grid_results import write_results
from reimagen_jax.retrieval.asking import BY_CAPTION, Method
from reimagen_jax.retrieval.knowledge_base import KnowledgeBase
from reimagen_jax.systems.reimagen.settings import ETAS

GRID = "sweep over a grid"


def sweep(
    model: Model,
    prompts: Sequence[Prompt],
    etas: Sequence[float] = ETAS,
    *,
    over: Mapping[str, Sequence[Any]] | None = None,
    base: KnowledgeBase | None = None,
    out: str | Path | None = None,
    best: Measure = "both",
    num_images: int = 1,
    seed: int = 0,
    batch_size: int = 16,
    devices: Sequence[Any] = (),
    rater: str | Path | None = None,
    **settings: Any,
) -> "Swept | SweptGrid":
    """Draws every prompt at every eta from the same noise, by one compiled program; `settings` as for `draw`.

    With `over`, at every point of a grid: {"eta": (0, 0.5, 1), "steps": (10, 25), "words": ("cat", "dog")}, its axes as
    in evaluation/axes.py. The prompts keep their neighbours, unless a `base` is to be asked anew, by other methods
    ("method") or for other words. In the folder `out` each image is stored as it is drawn, and the report: the same
    call goes on there, also with more values.
    Where the prompts are those of EntityWorld records the images are rated, by the rater in `rater` or in the package;
    `best` is what the best point of a grid has most of; `devices` of JAX's draw a grid side by side.
    """
    if over is not None:
        require(tuple(etas) == ETAS, "etas and over are both given: give eta as an axis of over")
        checked(best, Measure, "best")
        axes = axes_of(over)
        require(base is not None or METHOD not in over, "over: method needs a base to be asked")
        said = ", ".join(f"{axis.name!r}: {axis.values}" for axis in axes)
        checked(num_images, Count, "num_images")
        checked(seed, Seed, "seed")
        find, opener = _finding(model, base), lambda name: model_at(model.path, name)
        grid = plan(axes, Asked(model, prompts, find, settings, opener, num_images, seed, batch_size, devices))
        how = GridWords(
            f"reimagen_jax.sweep(model, prompts, over={{{said}}}, num_images={num_images}, seed={seed}, ...)",
            lambda point: f"reimagen_jax.draw(model, prompts, {_as_arguments(point)})",
            {"prompts": "given in Python"},
        )
        if out is None:
            return sweep_grid(grid, model, Images(), how, rater=rater, best=best)
        with growing_dir(Path(out), kind=GRID):
            swept = sweep_grid(grid, model, Images(Path(out) / IMAGES), how, rater=rater, best=best)
            swept.write(Path(out))
        return swept
    require(base is None, "base is for a sweep over a grid: give its axes, over={...}")
    pipeline = pipeline_of(model, prompts, seed, batch_size, devices=devices, **settings)
    command = f"reimagen_jax.sweep(model, prompts, etas={tuple(etas)}, num_images={num_images}, seed={seed}, ...)"
    if out is None:
        return sweep_by(pipeline, [model], prompts, etas, num_images, rater=rater, command=command)
    with resumed_dir(Path(out), kind="sweep", begun=IMAGES, overwrite=False) as folder:
        images = Images(folder / IMAGES)
        swept = sweep_by(pipeline, [model], prompts, etas, num_images, rater=rater, command=command, images=images)
        swept.write(folder)
    return swept


@dataclass(frozen=True)
class GridWords:
    """What the report of a grid says of where it comes from."""

    command: str
    drawn_by: Callable[[Point], str]
    """The command that draws with the settings of a point."""
    data: Mapping[str, str]
    shown: int = 8
    """Prompts on the sheet."""


@dataclass(frozen=True)
class SweptGrid:
    """Prompts drawn at every point of a grid, with what a rater says of the images, and which point is best."""

    model: Model
    report: GridReport
    cascade: Sequence[Mapping[str, Any]] = ()
    """What sweep.json tells of the stages after the first, as they are at the first point."""

    @property
    def table(self) -> Table:
        """All points in numbers: `table.best`, `table.cheapest`, `table.results`."""
        return self.report.table

    def images(self, number: int) -> UInt8[np.ndarray, "p s h w 3"]:
        """What was drawn at a point, by its number in the table, from 1: prompts and seeds."""
        return self.report.grid.images_of(self.report.grid.points[number - 1], self.report.images)

    def save(self, folder: str | Path, *, overwrite: bool = False) -> Path:
        """Writes a folder: the report (HTML, PNG), sweep.json, sweep.csv, and all images."""
        with atomic_dir(folder, kind=GRID, overwrite=overwrite) as partial:
            stored = Images(partial / IMAGES)
            for point in self.report.grid.points:
                for key in point.keys:
                    stored[key] = self.report.images[key]
                stored.note(point.program.note, self.report.images.noted(point.program.note))
            self.write(partial)
        return Path(folder)

    def write(self, folder: Path) -> None:
        """The same into an existing folder, without the images."""
        write_grid_report(self.report, folder)
        write_results(self.report, self.model.config, folder, {"cascade": self.cascade} if self.cascade else {})


def sweep_grid(
    grid: Grid,
    model: Model,
    images: Images,
    how: GridWords,
    *,
    rater: str | Path | None = None,
    best: Measure = "both",
    later: Sequence[Model] = (),
) -> SweptGrid:
    """Draws what is missing of a grid, rates it, and puts the report together; `later` are a cascade's other models."""
    found, why_unrated = rater_for(grid.prompts, grid.resolution, rater)  # before hours of drawing
    draw_grid(grid, images)
    names = " x ".join("η" if axis.name == "eta" else axis.name for axis in grid.axes)
    counts = (count(len(grid.points), "point"), count(len(grid.prompts), "prompt"), count(grid.num_images, "image"))
    first, models = grid.points[0], [model, *later]
    pipeline = first.program.pipeline(first.seed)
    sampler = sampler_facts(first.settings, first.seed, grid.num_images)
    report = GridReport(
        title=f"{names}: {model.config.name}",
        introduction=f"{counts[0]}, at each {counts[1]}, {counts[2]} of each, from the same noise.",
        grid=grid,
        images=images,
        table=tabulate(grid, images, found, best),
        command=how.command,
        drawn_by=how.drawn_by,
        settings={"Model": model.facts(), "Data": how.data, "Sampler at point 1": sampler, "Versions": versions()}
        | later_facts(models, pipeline),
        why_unrated=why_unrated,
        about_rater="" if found is None else describe_rater(found),
        shown=how.shown,
    )
    return SweptGrid(model, report, tuple(map(stage_facts, models, pipeline.stages))[1:])


def _finding(model: Model, base: KnowledgeBase | None) -> Callable[..., list[Prompt]]:
    """How the prompts of a grid get their neighbours."""

    def find(prompts: Sequence[Prompt], method: Method | None, most: int | None) -> list[Prompt]:
        if base is None:
            return list(prompts)
        k = model.config.data.num_neighbours if most is None else most
        how = model.config.data.asked or BY_CAPTION
        how = how if method is None else replace(how, method=method)
        return with_retrieved(asking(prompts, how), base, k, model.config.system.resolution, how=how)

    return find


def model_at(path: Path, name: str, text_encoder: str | Path | None = None) -> Model:
    """The model of a step of the run in `path`, or in the folder `name`; its parameters are in the host's memory."""
    if name.isdecimal() and not Path(name).exists():
        return Model.open(path, step=int(name), text_encoder=text_encoder, on_host=True)
    return Model.open(name, text_encoder=text_encoder, on_host=True)


def _as_arguments(point: Point) -> str:
    """The settings of a point as arguments of `draw`."""
    own = {SETTINGS[name][0]: value for name, value in point.values.items() if name in SETTINGS}
    return ", ".join(f"{name}={value!r}" for name, value in {**own, "seed": point.seed}.items())
