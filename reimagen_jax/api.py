"""Re-Imagen from Python: open a model and a knowledge base, ask, draw, sweep over eta, save with provenance.

    import reimagen_jax as rj

    model, base = rj.open_model("shipped"), rj.open_knowledge_base("runs/world/index")
    prompts = rj.ask(base, ["Zorbel on a hill at night"], queries=["Zorbel"], k=2)
    drawing = rj.draw(model, prompts, num_images=4, eta=0.5)
    drawing.save("runs/drawn")
    rj.sweep(model, prompts, etas=(0.0, 0.5, 1.0)).save("runs/sweep")

The commands of `reimagen` do the same by the same functions; what they add are options and messages.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
from jaxtyping import UInt8

from reimagen_jax.checked import Count, Natural, Share, checked
from reimagen_jax.errors import require
from reimagen_jax.evaluation.ratings import rate, rater_for
from reimagen_jax.evaluation.sweeps import Sweep, draw_sweep
from reimagen_jax.files import atomic_dir, write_json
from reimagen_jax.inference.model import SHIPPED, Model
from reimagen_jax.inference.pipeline import Pipeline
from reimagen_jax.inference.prompts import Prompt, with_retrieved
from reimagen_jax.inference.provenance import neighbours_as_json, sampler_facts, stage_facts, versions
from reimagen_jax.reports.grids import labelled_grid
from reimagen_jax.reports.report import Report, write_report
from reimagen_jax.reports.results import as_json
from reimagen_jax.retrieval.knowledge_base import KnowledgeBase, Method
from reimagen_jax.systems.base import Neighbour, Request
from reimagen_jax.systems.reimagen.feed import guidance_of
from reimagen_jax.systems.reimagen.settings import ETAS

RESULTS = "sample.json"


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
    method: Method = "lexical",
    references: Sequence[Neighbour] = (),
    ban: Sequence[str] = (),
    resolution: int = 64,
) -> list[Prompt]:
    """Prompts with k neighbours each: first the `references`, then what the base finds, fewer where fewer are found.

    The base is asked by `queries`, one for each prompt (an entity's name, say), or by the prompts themselves. Records
    with a key of `ban` are not found. Pictures are decoded at `resolution` pixels; a model of another resolution
    decodes its own. Raises `UserError` for a banned key that no record has, and where the base has no such `method`.
    """
    checked(k, Natural, "k")
    require(len(queries) in (0, len(texts)), f"{len(queries)} queries for {len(texts)} prompts: give one for each")
    prompts = [Prompt(text) if isinstance(text, str) else text for text in texts]
    if queries:
        prompts = [replace(prompt, query=query) for prompt, query in zip(prompts, queries, strict=True)]
    return with_retrieved(prompts, base, k, resolution, given=references, ban=ban, method=method)


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
        """A row for each prompt: its neighbours, then its images."""
        image_PSHWC, rows = self.image_PSHWC, []
        most = max(len(prompt.neighbours) for prompt in self.prompts)
        for prompt, images in zip(self.prompts, image_PSHWC, strict=True):
            neighbours = [hit.at(image_PSHWC.shape[2]) for hit in prompt.neighbours]
            rows.append([*neighbours, *[None] * (most - len(neighbours)), *images])
        headings = [f"neighbour {j + 1}" for j in range(most)]
        headings += [f"sample {s + 1}" for s in range(image_PSHWC.shape[1])]
        return labelled_grid(rows, [prompt.text for prompt in self.prompts], headings, side=128)

    def save(self, folder: str | Path, *, overwrite: bool = False) -> Path:
        """Writes a folder: an image file each, grid.png, and sample.json, which tells all that they come from.

        Images of stages before the last are in folders stage1, stage2, ... within. Raises `UserError` where the folder
        exists, unless it was written by this program and `overwrite` says so.
        """
        with atomic_dir(folder, kind="images", overwrite=overwrite) as partial:
            self.write(partial)
        return Path(folder)

    def write(self, folder: Path, facts: Mapping[str, Any] | None = None) -> None:
        """The same into an existing folder, with further `facts` in sample.json."""
        places = [folder / f"stage{number}" for number in range(1, len(self.stages))] + [folder]
        for place in places:
            place.mkdir(exist_ok=True)
        entries, S = [], len(self.requests) // len(self.prompts)
        for i, request in enumerate(self.requests):
            p, s = divmod(i, S)
            name = f"{p:03d}-{_slug(request.prompt)}-{s}.png"
            for place, drawn in zip(places, self.stages, strict=True):
                PIL.Image.fromarray(drawn[i]).save(place / name)
            told = {"file": name, "record": self.prompts[p].key, "prompt": request.prompt, "index": request.index}
            told |= {"negative": request.negative} if request.negative else {}
            told |= guidance_of(request, self.pipeline.settings)  # of the first stage
            entries.append(told | {"neighbours": neighbours_as_json(request.neighbours)})
        self.grid().save(folder / "grid.png")
        first, *later = map(stage_facts, self.models, self.pipeline.stages)
        provenance = {**first, "cascade": later, "seed": self.pipeline.seed, "versions": versions()}
        write_json(folder / RESULTS, {**(facts or {}), **provenance, "images": entries})


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


def pipeline_of(model: Model, prompts: Sequence[Prompt], seed: int, batch_size: int, **settings: Any) -> Pipeline:
    """The model as a pipeline of one stage, with room for the neighbours that the prompts have."""
    most = max((len(prompt.neighbours) for prompt in prompts), default=0)
    return Pipeline([model.stage(model.config.system.sampler.changed(**{"k": most, **settings}), batch_size)], seed)


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


@dataclass(frozen=True)
class Swept:
    """Prompts drawn at a range of eta, and once without neighbours, with what a rater says of the images."""

    model: Model
    report: Report

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
        write_json(folder / name, as_json(self.report, self.model.config))


def sweep(
    model: Model,
    prompts: Sequence[Prompt],
    etas: Sequence[float] = ETAS,
    *,
    num_images: int = 1,
    seed: int = 0,
    batch_size: int = 16,
    rater: str | Path | None = None,
    **settings: Any,
) -> Swept:
    """Draws every prompt at every eta from the same noise, by one compiled program; `settings` as for `draw`.

    Where the prompts are those of EntityWorld records the images are rated, by the rater in `rater` or in the package.
    """
    pipeline = pipeline_of(model, prompts, seed, batch_size, **settings)
    command = f"reimagen_jax.sweep(model, prompts, etas={tuple(etas)}, num_images={num_images}, seed={seed}, ...)"
    return sweep_by(pipeline, model, prompts, etas, num_images, rater=rater, command=command)


def sweep_by(
    pipeline: Pipeline,
    model: Model,
    prompts: Sequence[Prompt],
    etas: Sequence[float],
    num_images: int,
    *,
    rater: str | Path | None = None,
    command: str | Callable[[Sweep], str],
    data: Mapping[str, str] | None = None,
) -> Swept:
    """Draws a sweep by a pipeline of `model`; `command` and `data` are what the report says of where it comes from."""
    checked(tuple(etas), tuple[Share, ...], "etas")
    checked(num_images, Count, "num_images")
    found, why_unrated = rater_for(prompts, pipeline.config.system.resolution, rater)  # before hours of drawing
    drawn = draw_sweep(pipeline, prompts, sorted(set(etas)), num_images)
    counts = (_count(len(prompts), "prompt"), _count(len(drawn.etas), "value"), _count(num_images, "image"))
    report = Report(
        title=f"From neighbours to text: {model.config.name}",
        introduction=f"{counts[0]}, {counts[1]} of η and the same without neighbours, {counts[2]} of each.",
        sweep=drawn,
        command=command if isinstance(command, str) else command(drawn),
        settings=report_settings(model, data or {"prompts": "given in Python"}, drawn),
        ratings=rate(drawn, found) if found is not None else None,
        why_unrated=why_unrated,
    )
    return Swept(model, report)


def report_settings(model: Model, data: Mapping[str, str], drawn: Sweep) -> dict[str, Mapping[str, str]]:
    """The settings that a report shows, in groups."""
    sampler = sampler_facts(drawn.sampler, drawn.seed, drawn.num_seeds)
    return {"Model": model.facts(), "Data": data, "Sampler": sampler, "Versions": versions()}


def _count(n: int, what: str) -> str:
    return f"{n} {what}{'' if n == 1 else 's'}"


def _slug(text: str) -> str:
    """A prompt as part of a file name."""
    return "-".join(re.findall(r"[a-z0-9]+", text.lower()))[:48].strip("-") or "image"
