"""`reimagen sample`: prompts into images, with neighbours from a knowledge base or given by hand."""

import dataclasses
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from reimagen_jax.commands.options import PromptOptions, SamplingOptions, command_line, warn_without_neighbours
from reimagen_jax.config import SamplerConfig

if TYPE_CHECKING:
    import numpy as np
    import PIL.Image

    from reimagen_jax.commands.provenance import Model
    from reimagen_jax.inference.prompts import Prompt
    from reimagen_jax.inference.requests import Request


@dataclass(frozen=True)
class Sample:
    """Draw images for prompts.

    With neighbours from a knowledge base:
        reimagen sample --model runs/train --prompt "a cat on a mat" --knowledge-base runs/index --out runs/cats

    With neighbours given by hand (repeat --reference for more):
        reimagen sample --model runs/train --prompt "Mitzi on a mat" --reference a.png "Mitzi, a cat" --out runs/mitzi

    Without either, the images are drawn from the text alone, by the same weights.
    """

    model: Path
    """Folder of a training run (its last checkpoint is used) or of weights; `shipped`: the weights in the package."""
    out: Path
    """Folder to write: an image file each, grid.png, sample.json (all that is needed to draw them again)."""
    what: Annotated[PromptOptions, tyro.conf.arg(name="")] = field(default_factory=PromptOptions)
    eta: float | None = None
    """From 0 (every step strengthens the neighbours) to 1 (every step the text); default as in the experiment."""
    how: Annotated[SamplingOptions, tyro.conf.arg(name="")] = field(
        default_factory=lambda: SamplingOptions(num_images=4)
    )
    overwrite: bool = False
    """Replace an existing output folder, once the new one is complete."""

    def run(self) -> None:
        """Draws and saves. Raises `UserError` on bad options or input."""
        from reimagen_jax.commands.provenance import Model
        from reimagen_jax.files import atomic_dir

        self.what.check()
        self._sampler(SamplerConfig())  # refuses what is out of range before anything is opened
        with atomic_dir(self.out, overwrite=self.overwrite) as folder:
            model = Model.open(self.model)
            sampler = self._sampler(model.config.sampler)
            prompts = self.what.gather(model.config)
            if self.what.knowledge_base:
                warn_without_neighbours(prompts)
            requests = self._requests(prompts, sampler)
            images = model.generator(sampler, self.how, prompts)(requests)
            self._save(folder, model, sampler, prompts, requests, images)
        print(f"{len(images)} images of {len(prompts)} prompts in {self.out}")

    def _sampler(self, default: SamplerConfig) -> SamplerConfig:
        sampler = self.how.settings(default)
        return sampler if self.eta is None else dataclasses.replace(sampler, eta=self.eta)

    def _requests(self, prompts: "list[Prompt]", sampler: SamplerConfig) -> "list[Request]":
        """`num_images` a prompt, in order; the baseline (plain Imagen) for a prompt that has no neighbours."""
        requests = []
        for p, prompt in enumerate(prompts):
            for index in range(p * self.how.num_images, (p + 1) * self.how.num_images):
                with_neighbours = prompt.request(index, sampler.eta, sampler)
                requests.append(with_neighbours if prompt.neighbours else prompt.baseline(index, sampler))
        return requests

    def _save(
        self,
        folder: Path,
        model: "Model",
        sampler: SamplerConfig,
        prompts: "list[Prompt]",
        requests: "list[Request]",
        images: "np.ndarray",
    ) -> None:
        """Writes each image, the grid, and the JSON."""
        from PIL import Image

        from reimagen_jax.commands.provenance import neighbours_as_json, versions
        from reimagen_jax.files import write_json

        entries = []
        for i, (request, image) in enumerate(zip(requests, images, strict=True)):
            p, s = divmod(i, self.how.num_images)
            name = f"{p:03d}-{_slug(request.prompt)}-{s}.png"
            Image.fromarray(image).save(folder / name)
            neighbours = neighbours_as_json(request.neighbours)
            entries.append({"file": name, **_numbers(request), "record": prompts[p].key, "neighbours": neighbours})
        _grid(prompts, images.reshape(len(prompts), self.how.num_images, *images.shape[1:])).save(folder / "grid.png")
        what, how = self.what.resolved(model.config), self.how.resolved(sampler)
        resolved = dataclasses.replace(self, eta=sampler.eta, what=what, how=how)
        facts = {
            "command": command_line("sample", resolved),
            "model": model.facts(),
            "data": self.what.sources(),
            "sampler": dataclasses.asdict(sampler),
            "seed": self.how.seed,
            "versions": versions(),
            "images": entries,
            "experiment": dataclasses.asdict(model.config),
        }
        write_json(folder / "sample.json", facts)


def _grid(prompts: "list[Prompt]", image_PSHWC: "np.ndarray") -> "PIL.Image.Image":
    """A row for each prompt: its neighbours, then its images."""
    from reimagen_jax.evaluation.grids import labelled_grid

    most = max(len(prompt.neighbours) for prompt in prompts)
    rows = []
    for prompt, images in zip(prompts, image_PSHWC, strict=True):
        neighbours = [hit.image for hit in prompt.neighbours]
        rows.append([*neighbours, *[None] * (most - len(neighbours)), *images])
    headings = [f"neighbour {j + 1}" for j in range(most)] + [f"sample {s + 1}" for s in range(image_PSHWC.shape[1])]
    return labelled_grid(rows, [prompt.text for prompt in prompts], headings, side=128)


def _numbers(request: "Request") -> dict[str, Any]:
    return {
        "prompt": request.prompt,
        "index": request.index,
        "eta": request.eta,
        "text_weight": request.text_weight,
        "neighbour_weight": request.neighbour_weight,
    }


def _slug(text: str) -> str:
    """A prompt as part of a file name."""
    return "-".join(re.findall(r"[a-z0-9]+", text.lower()))[:48].strip("-") or "image"
