"""The noise of images searched for, until they are like references (SeedSelect)."""

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import PIL.Image

from reimagen_jax.api.drawing import Drawing
from reimagen_jax.checked import Count, checked
from reimagen_jax.encoders.image_function import ImageEncoder
from reimagen_jax.files import atomic_dir, growing_dir, write_json
from reimagen_jax.inference.model import Model
from reimagen_jax.inference.pipeline import Pipeline, Stage
from reimagen_jax.inference.prompts import Prompt
from reimagen_jax.inference.searching import SearchedStage, Selected
from reimagen_jax.reports import figures, searches
from reimagen_jax.systems.seedselect.settings import OURS, SeedSelectConfig

SEARCH = "search"
"""The folder of what was found, within that of the images."""


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
