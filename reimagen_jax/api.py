"""Re-Imagen from Python: open a model and a knowledge base, ask, draw, sweep over eta, save with provenance.

    import reimagen_jax as rj

    model, base = rj.open_model("shipped"), rj.open_knowledge_base("runs/world/index")
    prompts = rj.ask(base, ["Zorbel on a hill at night"], queries=["Zorbel"], k=2)
    drawing = rj.draw(model, prompts, num_images=4, eta=0.5)
    drawing.save("runs/drawn")
    rj.seed_select(model, prompts, rj.open_encoder("runs/world/encoder"), k=0, num_steps=10).save("runs/seeds")
    rj.sweep(model, prompts, etas=(0.0, 0.5, 1.0)).save("runs/sweep")
    rj.sweep(model, prompts, over={"eta": (0.0, 0.5, 1.0), "steps": (10, 25)}).save("runs/grid")

The commands of `reimagen` do the same by the same functions; what they add are options and messages.
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
from jaxtyping import UInt8

from reimagen_jax.checked import Count, Natural, Seed, Share, checked
from reimagen_jax.encoders import vectors
from reimagen_jax.encoders.image_function import ImageEncoder
from reimagen_jax.encoders.vectors import VectorEncoder
from reimagen_jax.errors import require
from reimagen_jax.evaluation.axes import METHOD, SETTINGS, axes_of
from reimagen_jax.evaluation.grids import Asked, Grid, Point, about, plan
from reimagen_jax.evaluation.grids import draw as draw_grid
from reimagen_jax.evaluation.pareto import Measure, Table, tabulate
from reimagen_jax.evaluation.ratings import describe_rater, rate, rater_for
from reimagen_jax.evaluation.store import Images
from reimagen_jax.evaluation.sweeps import Sweep, draw_sweep
from reimagen_jax.files import atomic_dir, growing_dir, resumed_dir, write_json
from reimagen_jax.inference.edits import Plan
from reimagen_jax.inference.jobs import Job, job_dir, picture_name, places_of, write_summary
from reimagen_jax.inference.model import SHIPPED, Model
from reimagen_jax.inference.origin import pixels_sha256, read_origin, save_image
from reimagen_jax.inference.pipeline import Pipeline, Stage
from reimagen_jax.inference.prompts import Prompt, PromptSource, asking, with_retrieved
from reimagen_jax.inference.provenance import origins, sampler_facts, stage_facts, versions
from reimagen_jax.inference.searching import SearchedStage, Selected
from reimagen_jax.reports import figures, searches
from reimagen_jax.reports.grid_report import GridReport, write_grid_report
from reimagen_jax.reports.grid_results import write_results
from reimagen_jax.reports.grids import labelled_grid
from reimagen_jax.reports.report import Report, write_report
from reimagen_jax.reports.results import as_json
from reimagen_jax.retrieval.asking import BY_CAPTION, Asking, Method
from reimagen_jax.retrieval.knowledge_base import KnowledgeBase
from reimagen_jax.systems.reimagen.settings import ETAS
from reimagen_jax.systems.request import Neighbour, Request
from reimagen_jax.systems.seedselect.settings import OURS, SeedSelectConfig

GRID, IMAGES = "sweep over a grid", "images"
GRID_ROWS, GRID_COLUMNS = 64, 16
"""Prompts, and images of each, that grid.png shows at most."""
BY_PYTHON = {"made_by": "sample", "command": "reimagen_jax.draw(model, prompts, ...)"}


def open_model(path: str | Path = SHIPPED, *, text_encoder: str | Path | None = None, on_host: bool = False) -> Model:
    """Opens a training run, a folder of weights, or the weights in the package (see `Model.open`)."""
    return Model.open(path, text_encoder=text_encoder, on_host=on_host)


def open_knowledge_base(path: str | Path) -> KnowledgeBase:
    """Opens what `reimagen index` wrote."""
    return KnowledgeBase.open(path)


def ask(
    base: KnowledgeBase,
    texts: Sequence[str | Prompt],
    *,
    queries: Sequence[str] = (),
    k: int = 2,
    method: Method | None = None,
    references: Sequence[Neighbour] = (),
    ban: Sequence[str] = (),
    resolution: int = 64,
    like: Model | Asking | None = None,
    **how: Any,
) -> list[Prompt]:
    """Prompts with k neighbours each: first the `references`, then what the base finds, fewer where fewer are found.

    The base is asked by `queries`, one for each prompt (an entity's name, say), by fields of the prompts
    (`query_by=("entity", "entity", "caption")` of `Prompt(text, attributes={...})`), or by the prompts themselves.
    Records with a key of `ban` are not found. What else is said of asking is as in `retrieval.asking.Asking`: `where`,
    `where_not`, `match`, `exclude_same`, `near_duplicates`, `floor`, `tie_seed`; what is not, is as the triples of the
    model `like` were asked for. Pictures are decoded at `resolution` pixels; a model of another resolution decodes its
    own. Raises `UserError` for a banned key or a condition that no record has, and where the base has no such `method`.
    """
    checked(k, Natural, "k")
    require(len(queries) in (0, len(texts)), f"{len(queries)} queries for {len(texts)} prompts: give one for each")
    prompts = [Prompt(text) if isinstance(text, str) else text for text in texts]
    if queries:
        prompts = [replace(prompt, query=query) for prompt, query in zip(prompts, queries, strict=True)]
    before = like.config.data.asked if isinstance(like, Model) else like
    known = [item.name for item in fields(Asking)]
    unknown = how.keys() - set(known)
    require(not unknown, f"ask: there is no {min(unknown, default='')}, but {', '.join(known)}")
    how = {name: tuple(value) if isinstance(value, list) else value for name, value in how.items()}
    asked = replace(before or BY_CAPTION, **({} if method is None else {"method": method}), **how)
    prompts = asking(prompts, asked, strict="query_by" in how, floor_of_texts="floor" in how)
    return with_retrieved(prompts, base, k, resolution, given=references, ban=ban, how=asked)


def open_encoder(path: str | Path) -> VectorEncoder:
    """Opens what `reimagen encode-train` wrote, or a CLIP as Hugging Face publishes it."""
    return vectors.open_encoder(path)


@dataclass(frozen=True)
class Drawing:
    """P prompts drawn S times each, by one stage or by a cascade."""

    prompts: Sequence[Prompt]
    requests: Sequence[Request]
    """P S of them, prompt by prompt."""
    models: Sequence[Model]
    """Of the stages, in order."""
    pipeline: Pipeline
    stages: Sequence[UInt8[np.ndarray, "n r r 3"]] = field(repr=False)
    """The images of every stage."""

    @property
    def image_PSHWC(self) -> UInt8[np.ndarray, "p s h w 3"]:
        """The last stage's images."""
        last = self.stages[-1]
        return last.reshape(len(self.prompts), -1, *last.shape[1:])

    def grid(self) -> PIL.Image.Image:
        """A row for each prompt (for the first of very many): its neighbours, then its images."""
        return _grid(self.prompts, self.image_PSHWC)

    def save(self, folder: str | Path, *, overwrite: bool = False, paths: bool = True) -> Path:
        """Writes a folder: an image file each with its origin in it and beside it (NAME.json), grid.png, sample.json.

        Images of stages before the last are in folders stage1, stage2, ... within. Without `paths`, no folder of this
        machine is told. Raises `UserError` where the folder exists, unless it was written by this program and
        `overwrite` says so.
        """
        with atomic_dir(folder, kind="images", overwrite=overwrite) as partial:
            self.write(partial, paths=paths)
        return Path(folder)

    def write(
        self,
        folder: Path,
        facts: Mapping[str, Any] | None = None,
        *,
        by: Mapping[str, Any] | None = None,
        paths: bool = True,
    ) -> None:
        """The same into an existing folder, with further `facts` in sample.json; `by` is what each image tells of who
        has made it (see `provenance.origins`)."""
        S, names = len(self.requests) // len(self.prompts), []
        for number, (place, images) in enumerate(zip(places_of(folder, len(self.stages)), self.stages, strict=True), 1):
            if images.ndim != 4:  # embeddings are no pictures
                continue
            place.mkdir(exist_ok=True)
            told = {**BY_PYTHON, **(by or {}), "records": [prompt.key for prompt in self.prompts for _ in range(S)]}
            told = origins(self.models[:number], self.pipeline, self.requests, images, **told, paths=paths)
            names = [picture_name(*divmod(i, S), request.prompt) for i, request in enumerate(self.requests)]
            for name, image, origin in zip(names, images, told, strict=True):
                save_image(place / name, image, origin)
        self.grid().save(folder / "grid.png")
        write_summary(folder, {**(facts or {}), **pipeline_facts(self.models, self.pipeline, paths)}, names)


def _grid(prompts: Sequence[Prompt], image_PSHWC: Sequence[Sequence[np.ndarray]]) -> PIL.Image.Image:
    """Prompts in rows, of very many the first; their neighbours, then their images."""
    prompts = prompts[:GRID_ROWS]
    image_PSHWC = [images[:GRID_COLUMNS] for images in image_PSHWC[:GRID_ROWS]]
    rows, most = [], max((len(prompt.neighbours) for prompt in prompts), default=0)
    for prompt, images in zip(prompts, image_PSHWC, strict=True):
        neighbours = [hit.at(len(images[0])) for hit in prompt.neighbours]
        rows.append([*neighbours, *[None] * (most - len(neighbours)), *images])
    headings = [f"neighbour {j + 1}" for j in range(most)]
    headings += [f"sample {s + 1}" for s in range(max(map(len, image_PSHWC), default=0))]
    return labelled_grid(rows, [prompt.text for prompt in prompts], headings, side=128)


def pipeline_facts(models: Sequence[Model], pipeline: Pipeline, paths: bool = True) -> dict[str, Any]:
    """What sample.json tells of all images."""
    first, *later = map(stage_facts, models, pipeline.stages)
    for stage in (first, *later)[: 0 if paths else None]:
        stage["model"]["folder"] = ""
    return {**first, "cascade": later, "seed": pipeline.seed, "versions": versions()}


def draw(
    model: Model,
    prompts: Sequence[Prompt],
    *,
    num_images: int = 1,
    seed: int = 0,
    batch_size: int = 16,
    **settings: Any,
) -> Drawing:
    """Draws every prompt `num_images` times, image i from noise that depends on (seed, i) alone.

    `settings` are those of the model's sampler that are to differ from its experiment's: `eta` (0: all neighbours, 1:
    all text), `text_weight`, `neighbour_weight`, `num_steps`, `solver`, `spacing`, `times`, ... Raises `UserError` on
    values out of range.
    """
    return draw_by(pipeline_of(model, prompts, seed, batch_size, **settings), [model], prompts, num_images)


def pipeline_of(
    model: Model, prompts: Sequence[Prompt], seed: int, batch_size: int, *, devices: Sequence[Any] = (), **settings: Any
) -> Pipeline:
    """The model as a pipeline of one stage, with room for the neighbours that the prompts have."""
    most = max((len(prompt.neighbours) for prompt in prompts), default=0)
    sampler = model.config.system.sampler.with_room(most).changed(**settings)
    return Pipeline([model.stage(sampler, batch_size, devices)], seed)


def draw_by(
    pipeline: Pipeline,
    models: Sequence[Model],
    prompts: Sequence[Prompt],
    num_images: int,
    start: np.ndarray | None = None,
) -> Drawing:
    """Draws by the stages of a pipeline, whose models these are; `start` is an image for the first one to enlarge."""
    checked(num_images, Count, "num_images")
    numbered = [(prompt, p * num_images + s) for p, prompt in enumerate(prompts) for s in range(num_images)]
    requests = [replace(prompt.request(index), start=start) for prompt, index in numbered]
    return Drawing(prompts, requests, models, pipeline, pipeline.draw(requests))


def draw_into(
    folder: str | Path,
    model: Model,
    prompts: Sequence[Prompt],
    *,
    num_images: int = 1,
    seed: int = 0,
    batch_size: int = 16,
    devices: Sequence[Any] = (),
    overwrite: bool = False,
    paths: bool = True,
    **settings: Any,
) -> Path:
    """As `draw(...).save(folder)`, for any number of images: each is written when it is drawn, none is kept in memory.

    Given again, it goes on where it was. `devices` (of JAX) draw side by side, `batch_size` images each.
    """
    checked(num_images, Count, "num_images")
    pipeline = pipeline_of(model, prompts, seed, batch_size, devices=devices, **settings)

    def tell(number: int, requests: Sequence[Request], images: Sequence[np.ndarray], keys: Sequence[str]):
        return origins([model], pipeline, requests, images, **BY_PYTHON, records=keys, paths=paths)

    with job_dir(Path(folder), overwrite=overwrite) as place:
        complete(Job(PromptSource.of(prompts), pipeline, [model], num_images, tell), place, paths=paths)
    return Path(folder)


def complete(job: Job, folder: Path, facts: Mapping[str, Any] | None = None, *, paths: bool = True) -> None:
    """Draws what is missing of a job's images in an existing folder, then grid.png and sample.json with the facts."""
    job.draw(folder)
    numbers, S = job.prompts[:GRID_ROWS], min(job.num_images, GRID_COLUMNS)
    shown = job.asked.find(job.asked.gather(numbers))
    names = [[picture_name(p, s, each.text) for s in range(S)] for p, each in zip(numbers, shown, strict=True)]
    _grid(shown, [[read_origin(folder / name)[1] for name in row] for row in names]).save(folder / "grid.png")
    write_summary(folder, {**(facts or {}), **pipeline_facts(job.models, job.pipeline, paths)}, job.names())


@dataclass(frozen=True)
class Edited(Drawing):
    """The images of a plan of edits; `prompts` has the one of each row."""

    plan: Plan

    def grid(self) -> PIL.Image.Image:
        """A row for each of the plan's: what was there before, neighbours, what was drawn."""
        image_PSHWC = self.image_PSHWC
        headings = list(max((row.shown for row in self.plan.rows), key=len))
        rows = []
        for row, images in zip(self.plan.rows, image_PSHWC, strict=True):
            shown = (row.shown.get(heading) for heading in headings)
            rows.append([images[each] if isinstance(each, int) else each for each in shown])
        return labelled_grid(rows, [row.prompt.text for row in self.plan.rows], headings, side=128)

    def write(
        self,
        folder: Path,
        facts: Mapping[str, Any] | None = None,
        *,
        by: Mapping[str, Any] | None = None,
        paths: bool = True,
    ) -> None:
        """As `Drawing.write`, with before.png and mask.png where one image is drawn on, and the edit's numbers."""
        told, edit = {"kind": self.plan.kind, **self.plan.told}, self.plan.edit
        if edit is not None:
            R = self.pipeline.stages[0].config.system.resolution
            told |= {"before": "before.png", "before_sha256": pixels_sha256(edit.image)}
            PIL.Image.fromarray(edit.image_at(R)).save(folder / "before.png")
        if edit is not None and edit.mask is not None:
            told |= {"mask": "mask.png", "mask_sha256": pixels_sha256(edit.mask)}
            PIL.Image.fromarray(edit.mask_at(R)).save(folder / "mask.png")
        by = {"made_by": "edit", **(by or {}), "more": {"edit": told}}
        super().write(folder, {**(facts or {}), "edit": told}, by=by, paths=paths)


def edit(model: Model, plan: Plan, *, seed: int = 0, batch_size: int = 16, **settings: Any) -> Edited:
    """Draws a plan of `inference/edits.py`: `image_to_image`, `inpainting`, `outpainting`, `variations`,
    `interpolation` or `swapping`. `settings` as for `draw`; `repeats` and `jump` walk stretches of steps again."""
    asked = [Prompt("", request.neighbours) for request in plan.requests]
    return edit_by(pipeline_of(model, asked, seed, batch_size, **settings), [model], plan)


def edit_by(pipeline: Pipeline, models: Sequence[Model], plan: Plan) -> Edited:
    """Draws a plan by the stages of a pipeline, whose models these are."""
    requests, stages = plan.drawn(pipeline.draw)
    return Edited([row.prompt for row in plan.rows], requests, models, pipeline, stages, plan)


@dataclass(frozen=True)
class Swept:
    """Prompts drawn at a range of eta, and once without neighbours, with what a rater says of the images."""

    model: Model
    report: Report
    cascade: Sequence[Mapping[str, Any]] = ()
    """What sweep.json tells of the stages after the first."""

    @property
    def image_PSCHWC(self) -> UInt8[np.ndarray, "p s c h w 3"]:
        """Prompts, seeds, and columns: without neighbours, then one for each eta."""
        return self.report.sweep.image_PSCHWC

    def save(self, folder: str | Path, *, overwrite: bool = False) -> Path:
        """Writes a folder: report.html (one file that needs nothing else), report.png, sweep.json."""
        with atomic_dir(folder, kind="sweep", overwrite=overwrite) as partial:
            self.write(partial)
        return Path(folder)

    def write(self, folder: Path, name: str = "sweep.json") -> None:
        """The same into an existing folder, the numbers in a file of this name."""
        write_report(self.report, folder)
        told = as_json(self.report, self.model.config)
        write_json(folder / name, told | ({"cascade": self.cascade} if self.cascade else {}))


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
    counts = (_count(len(grid.points), "point"), _count(len(grid.prompts), "prompt"), _count(grid.num_images, "image"))
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


def sweep_by(
    pipeline: Pipeline,
    models: Sequence[Model],
    prompts: Sequence[Prompt],
    etas: Sequence[float],
    num_images: int,
    *,
    rater: str | Path | None = None,
    command: str | Callable[[Sweep], str],
    data: Mapping[str, str] | None = None,
    images: Images | None = None,
) -> Swept:
    """Draws by a pipeline of these models what is not among the `images` yet; `command` and `data` are what the report
    says of where it comes from."""
    model = models[0]
    checked(tuple(etas), tuple[Share, ...], "etas")
    checked(num_images, Count, "num_images")
    found, why_unrated = rater_for(prompts, pipeline.config.system.resolution, rater)  # before hours of drawing
    told = about(models, [stage.settings for stage in pipeline.stages])
    drawn = draw_sweep(pipeline, prompts, sorted(set(etas)), num_images, images, told)
    counts = (_count(len(prompts), "prompt"), _count(len(drawn.etas), "value"), _count(num_images, "image"))
    report = Report(
        title=f"From neighbours to text: {model.config.name}",
        introduction=f"{counts[0]}, {counts[1]} of η and the same without neighbours, {counts[2]} of each.",
        sweep=drawn,
        command=command if isinstance(command, str) else command(drawn),
        settings=report_settings(model, data or {"prompts": "given in Python"}, drawn) | later_facts(models, pipeline),
        ratings=rate(drawn, found) if found is not None else None,
        why_unrated=why_unrated,
    )
    return Swept(model, report, tuple(map(stage_facts, models, pipeline.stages))[1:])


def later_facts(models: Sequence[Model], pipeline: Pipeline) -> dict[str, Mapping[str, str]]:
    """What a report tells of the stages after the first, in groups."""
    later = list(zip(models, pipeline.stages, strict=True))[1:]
    told = [model.facts() | {"steps": str(stage.settings.num_steps)} | stage.settings.told() for model, stage in later]
    return {f"Stage {number}": facts for number, facts in enumerate(told, 2)}


def report_settings(model: Model, data: Mapping[str, str], drawn: Sweep) -> dict[str, Mapping[str, str]]:
    """The settings that a report shows, in groups."""
    sampler = sampler_facts(drawn.sampler, drawn.seed, drawn.num_seeds)
    return {"Model": model.facts(), "Data": data, "Sampler": sampler, "Versions": versions()}


@dataclass(frozen=True)
class Searched:
    """Images drawn from noise that was searched for them (SeedSelect)."""

    drawing: Drawing
    search: SeedSelectConfig
    selected: Sequence[Selected] = field(repr=False)
    """What was found for each request, in the first stage."""

    def before_and_after(self) -> PIL.Image.Image:
        """A row for each image: its references, the image of the first noise, that of the best."""
        requests, side = self.drawing.requests, self.selected[0].image.shape[0]
        references = [[hit.at(side) for hit in request.references] for request in requests]
        firsts, found = ([getattr(each, name) for each in self.selected] for name in ("first", "image"))
        return searches.before_and_after([request.prompt for request in requests], references, firsts, found)

    def save(self, folder: str | Path, *, overwrite: bool = False) -> Path:
        """Writes a folder: that of `Drawing.save`, with before_and_after.png, losses.png and seedselect.json, which
        has the losses of every iteration; and search/, the noises themselves."""
        with atomic_dir(folder, kind="seeds", overwrite=overwrite) as partial:
            (partial / SEARCH).mkdir()
            for request, found in zip(self.drawing.requests, self.selected, strict=True):
                found.save(partial / SEARCH, request.index)
            self.write(partial)
        return Path(folder)

    def write(self, folder: Path, facts: Mapping[str, Any] | None = None, *, command: str = "") -> None:
        """The same, but for search/, into an existing folder, with further `facts` in sample.json; each image tells the
        `command`."""
        command = command or "reimagen_jax.seed_select(model, prompts, encoder, ...)"
        by = {"made_by": "seedselect", "command": command, "more": {"search": asdict(self.search)}}
        self.drawing.write(folder, facts, by=by)
        self.before_and_after().save(folder / "before_and_after.png")
        told = [each.facts for each in self.selected]
        figures.save(searches.curves(told, [each["best"] for each in told]), folder / "losses.png")
        write_json(folder / "seedselect.json", {"search": asdict(self.search), "images": told})


SEARCH = "search"
"""The folder of what was found, within that of the images."""


def seed_select(
    model: Model,
    prompts: Sequence[Prompt],
    encoder: ImageEncoder,
    *,
    references: int = 4,
    num_images: int = 1,
    seed: int = 0,
    batch_size: int = 8,
    search: SeedSelectConfig = OURS,
    folder: str | Path | None = None,
    cascade: Sequence[Stage] = (),
    models: Sequence[Model] = (),
    **settings: Any,
) -> Searched:
    """Searches the noise of every image until it is like the prompt's first neighbours, at most so many `references`.

    `encoder` tells how alike images are (`open_encoder`). `settings` as for `draw`: `k` is the number of neighbours
    that the network sees besides, 0 for the plain model. With a `folder`, what was found lies there as soon as a batch
    is done, and is not searched for again. Stages of a `cascade`, of these `models`, enlarge what was found. Raises
    `UserError` for prompts without neighbours.
    """
    place = None if folder is None else Path(folder)
    how = model.config.system.sampler.changed(**{"k": 0, "solver": "ddim", **settings})
    first = SearchedStage(
        model.config, model.params, how, encoder=encoder, search=search, batch_size=batch_size, folder=place
    )
    with nullcontext() if place is None else growing_dir(place, kind="found noise"):
        return search_by(Pipeline([first, *cascade], seed), [model, *models], prompts, num_images, references)


def search_by(
    pipeline: Pipeline, models: Sequence[Model], prompts: Sequence[Prompt], num_images: int, references: int
) -> Searched:
    """Draws by a pipeline whose first stage searches."""
    checked(num_images, Count, "num_images")
    checked(references, Count, "references")
    numbered = [(prompt, p * num_images + s) for p, prompt in enumerate(prompts) for s in range(num_images)]
    requests = [replace(prompt.request(i), references=prompt.neighbours[:references]) for prompt, i in numbered]
    first = pipeline.stages[0]
    stages = pipeline.draw(requests, "searching")
    shown = [first.feed.limited(request, first.settings) for request in requests]
    told = [
        replace(each, neighbours=request.neighbours) for each, request in zip(prompts, shown[::num_images], strict=True)
    ]
    return Searched(Drawing(told, shown, models, pipeline, stages), first.search, first.selected)


def _count(n: int, what: str) -> str:
    return f"{n} {what}{'' if n == 1 else 's'}"
