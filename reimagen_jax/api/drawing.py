"""Prompts drawn, a folder of it with all that each image comes from."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
from jaxtyping import UInt8

from reimagen_jax.checked import Count, checked
from reimagen_jax.files import atomic_dir
from reimagen_jax.inference.jobs import Job, job_dir, picture_name, places_of, write_summary
from reimagen_jax.inference.model import Model
from reimagen_jax.inference.origin import read_origin, save_image
from reimagen_jax.inference.pipeline import Pipeline
from reimagen_jax.inference.prompts import Prompt, PromptSource
from reimagen_jax.inference.provenance import origins, stage_facts, versions
from reimagen_jax.reports.grids import labelled_grid
from reimagen_jax.systems.request import Request

GRID_ROWS, GRID_COLUMNS = 64, 16
"""Prompts, and images of each, that grid.png shows at most."""
BY_PYTHON = {"made_by": "sample", "command": "reimagen_jax.draw(model, prompts, ...)"}


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
