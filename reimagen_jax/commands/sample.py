"""`reimagen sample`: prompts into images, with neighbours from a knowledge base or given by hand."""

import dataclasses
import re
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from reimagen_jax.commands.options import (
    EnlargingOptions,
    PromptOptions,
    SamplingOptions,
    command_line,
    warn_of_small_neighbours,
    warn_without_neighbours,
)
from reimagen_jax.config import SamplerConfig, require
from reimagen_jax.errors import UserError

if TYPE_CHECKING:
    import numpy as np
    import PIL.Image

    from reimagen_jax.commands.provenance import Model
    from reimagen_jax.inference.cascade import Cascade
    from reimagen_jax.inference.prompts import Prompt
    from reimagen_jax.inference.requests import Request


@dataclass(frozen=True)
class Sample:
    """Draw images for prompts.

    With neighbours from a knowledge base:
        reimagen sample --model runs/train --prompt "a cat on a mat" --knowledge-base runs/index --out runs/cats

    With neighbours given by hand (repeat --reference for more):
        reimagen sample --model runs/train --prompt "Mitzi on a mat" --reference a.png "Mitzi, a cat" --out runs/mitzi

    With both, the references are followed by what is found. Records of the knowledge base can be pinned and banned:
        reimagen sample --model runs/train --prompt "Mitzi on a mat" --reference a.png "Mitzi, a cat" \\
            --knowledge-base runs/index --k 4 --pin cats/0007.jpg --ban cats/0003.jpg --out runs/mitzi

    Without either, the images are drawn from the text alone, by the same weights.

    Larger images by a cascade: further models, in order, enlarge what the first has drawn:
        reimagen sample --model runs/base64 --cascade runs/sr256 runs/sr1024 --prompt "a cat" --out runs/large

    An image of your own, enlarged:
        reimagen sample --model runs/sr256 --low-res cat64.png --prompt "a cat on a mat" --out runs/enlarged
    """

    model: Path
    """Folder of a training run (its last checkpoint is used) or of weights; `shipped`: the weights in the package."""
    out: Path
    """Folder to write: an image file each, grid.png, sample.json (all that is needed to draw them again); with
    --cascade, the images of the stages before the last are in folders stage1, stage2, ... within."""
    what: Annotated[PromptOptions, tyro.conf.arg(name="")] = field(default_factory=PromptOptions)
    eta: float | None = None
    """From 0 (every step strengthens the neighbours) to 1 (every step the text); default as in the experiment."""
    how: Annotated[SamplingOptions, tyro.conf.arg(name="")] = field(
        default_factory=lambda: SamplingOptions(num_images=4)
    )
    stages: Annotated[EnlargingOptions, tyro.conf.arg(name="")] = field(default_factory=EnlargingOptions)
    overwrite: bool = False
    """Replace an existing output folder, once the new one is complete."""

    def run(self) -> None:
        """Draws and saves. Raises `UserError` on bad options or input."""
        from reimagen_jax.files import atomic_dir

        self.what.check()
        self.stages.check()
        self._sampler(SamplerConfig())  # refuses what is out of range before anything is opened
        with atomic_dir(self.out, overwrite=self.overwrite) as folder:
            models = [self._open(path) for path in (self.model, *self.stages.cascade)]
            low_res = self._low_res(models)
            samplers = self.stages.samplers([model.config for model in models], self._sampler(models[0].config.sampler))
            prompts = self.what.gather(models[0].config)
            if self.what.knowledge_base:
                warn_without_neighbours(prompts)
            cascade = self._cascade(models, samplers, prompts)
            requests = [dataclasses.replace(each, low_res=low_res) for each in self._requests(prompts, samplers[0])]
            images = cascade.draw(requests)
            self._save(folder, models, cascade, prompts, requests, images)
        print(f"{len(requests)} images of {len(prompts)} prompts in {self.out}")

    def _open(self, path: Path) -> "Model":
        """A model whose parameters are in the host's memory, so that one stage at a time is on the device."""
        import jax

        from reimagen_jax.commands.provenance import Model

        model = Model.open(path, self.how.text_encoder)
        return dataclasses.replace(model, params=jax.device_get(model.params))

    def _low_res(self, models: "list[Model]") -> "np.ndarray | None":
        """The image that the first model enlarges, if it does. Raises `UserError` when the models do not chain."""
        from reimagen_jax.inference.cascade import check_chain

        stage, path = models[0].config.super_resolution, self.stages.low_res
        name = f"--model {self.model} ({models[0].config.name})"
        require(
            stage is None or path is not None,
            f"{name} is a super-resolution model: give it an image to enlarge, "
            "--low-res IMAGE, or a base model to go before it, --model BASE --cascade ...",
        )
        require(stage is not None or path is None, f"{name} is a base model: --low-res is for a super-resolution model")
        check_chain([model.config for model in models])
        return None if path is None else _read_square(path, stage.low_resolution)

    def _cascade(self, models: "list[Model]", samplers: list[SamplerConfig], prompts: "list[Prompt]") -> "Cascade":
        """All stages, with room for the neighbours that the prompts have."""
        from reimagen_jax.commands.provenance import cascade

        found = max(len(prompt.neighbours) for prompt in prompts)
        neighbours = self.stages.neighbours([model.config for model in models], found)
        sizes = self.stages.batch_sizes(self.how.batch_size)
        for model, k in zip(models, neighbours, strict=True):
            if k and model.config.super_resolution is not None:
                warn_of_small_neighbours(prompts, model.config.resolution)
        return cascade(models, samplers, neighbours, sizes, self.how.seed)

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
        models: "list[Model]",
        cascade: "Cascade",
        prompts: "list[Prompt]",
        requests: "list[Request]",
        images: "list[np.ndarray]",
    ) -> None:
        """Writes each image of each stage, the grid, and the JSON."""
        from PIL import Image

        from reimagen_jax.commands.provenance import neighbours_as_json, versions
        from reimagen_jax.files import write_json

        places = [folder / f"stage{number}" for number in range(1, len(models))] + [folder]
        for place in places:
            place.mkdir(exist_ok=True)
        entries = []
        for i, request in enumerate(requests):
            p, s = divmod(i, self.how.num_images)
            name = f"{p:03d}-{_slug(request.prompt)}-{s}.png"
            for place, drawn in zip(places, images, strict=True):
                Image.fromarray(drawn[i]).save(place / name)
            neighbours = neighbours_as_json(request.neighbours)
            entries.append({"file": name, **_numbers(request), "record": prompts[p].key, "neighbours": neighbours})
        final_PSHWC = images[-1].reshape(len(prompts), self.how.num_images, *images[-1].shape[1:])
        _grid(prompts, final_PSHWC).save(folder / "grid.png")
        configs, samplers = [model.config for model in models], [stage.sampler for stage in cascade.stages]
        resolved = dataclasses.replace(
            self,
            eta=samplers[0].eta,
            what=self.what.resolved(configs[0]),
            how=self.how.resolved(samplers[0]),
            stages=self.stages.resolved(configs, samplers, [stage.max_neighbours for stage in cascade.stages]),
        )
        facts = {
            "command": command_line("sample", resolved),
            **_stage_facts(models[0], samplers[0]),
            "cascade": [_stage_facts(*stage) for stage in zip(models[1:], samplers[1:], strict=True)],
            "data": self.what.sources() | self.stages.sources(),
            "seed": self.how.seed,
            "versions": versions(),
            "images": entries,
        }
        write_json(folder / "sample.json", facts)


def _stage_facts(model: "Model", sampler: SamplerConfig) -> dict[str, Any]:
    return {
        "model": model.facts(),
        "sampler": dataclasses.asdict(sampler),
        "experiment": dataclasses.asdict(model.config),
    }


def _read_square(path: Path, side: int) -> "np.ndarray":
    """The central square of an image file at `side` pixels; says so where the file has another size."""
    import numpy as np

    from reimagen_jax.data import images

    try:
        image = images.load(path.read_bytes())
    except OSError as error:
        raise UserError(f"--low-res {path} cannot be read: {error.strerror}") from error
    except images.ImageError as error:
        raise UserError(f"--low-res {path}: {error}") from error
    if image.size != (side, side):
        size = f"{image.width} x {image.height}"
        print(f"--low-res {path} has {size} pixels: its central square is resized to {side} x {side}", file=sys.stderr)
    return np.asarray(images.square(image, side))


def _grid(prompts: "list[Prompt]", image_PSHWC: "np.ndarray") -> "PIL.Image.Image":
    """A row for each prompt: its neighbours, then its images."""
    from reimagen_jax.evaluation.grids import labelled_grid

    most = max(len(prompt.neighbours) for prompt in prompts)
    rows = []
    for prompt, images in zip(prompts, image_PSHWC, strict=True):
        neighbours = [hit.at(image_PSHWC.shape[2]) for hit in prompt.neighbours]
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
