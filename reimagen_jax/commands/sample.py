"""`reimagen sample`: prompts into images, with neighbours from a knowledge base or given by hand."""

import dataclasses
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from reimagen_jax.checked import Options, Share
from reimagen_jax.commands.options import (
    EnlargingOptions,
    PromptOptions,
    SamplingOptions,
    command_line,
    open_drawing,
    warn_of_small_neighbours,
    warn_without_neighbours,
)
from reimagen_jax.errors import UserError, require
from reimagen_jax.systems.reimagen.settings import GuidedSamplerConfig

if TYPE_CHECKING:
    import numpy as np

    from reimagen_jax.inference.model import Model
    from reimagen_jax.inference.pipeline import Pipeline


@dataclass(frozen=True)
class Sample(Options):
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
    eta: Share | None = None
    """From 0 (every step strengthens the neighbours) to 1 (every step the text); default as in the experiment."""
    how: Annotated[SamplingOptions, tyro.conf.arg(name="")] = field(
        default_factory=lambda: SamplingOptions(num_images=4)
    )
    stages: Annotated[EnlargingOptions, tyro.conf.arg(name="")] = field(default_factory=EnlargingOptions)
    overwrite: bool = False
    """Replace an existing output folder, once the new one is complete."""

    def run(self) -> None:
        """Draws and saves. Raises `UserError` on bad options or input."""
        from reimagen_jax.api import draw_by
        from reimagen_jax.files import atomic_dir

        self.what.check()
        with atomic_dir(self.out, kind="images", overwrite=self.overwrite) as folder:
            models = [self._open(path) for path in (self.model, *(stage.model for stage in self.stages.cascade))]
            low_res = self._low_res(models)
            prompts = self.what.gather(models[0].config)
            if self.what.knowledge_base:
                warn_without_neighbours(prompts)
            found = max(len(prompt.neighbours) for prompt in prompts)
            pipeline = self.stages.pipeline(models, self.how, self._settings(models[0].config.system.sampler), found)
            for stage in pipeline.stages:
                if stage.settings.k and stage.config.system.super_resolution is not None:
                    warn_of_small_neighbours(prompts, stage.config.system.resolution)
            drawing = draw_by(pipeline, models, prompts, self.how.num_images, low_res)
            drawing.write(folder, self._facts(models, pipeline))
        print(f"{len(drawing.requests)} images of {len(prompts)} prompts in {self.out}")

    def _open(self, path: Path) -> "Model":
        """A model whose parameters are in the host's memory, so that one stage at a time is on the device."""
        return open_drawing(path, self.how.text_encoder, on_host=True)

    def _low_res(self, models: "list[Model]") -> "np.ndarray | None":
        """The image that the first model enlarges, if it does. Raises `UserError` when the models do not chain."""
        from reimagen_jax.inference.pipeline import check_chain

        stage, path = models[0].config.system.super_resolution, self.stages.low_res
        name = f"--model {self.model} ({models[0].config.name})"
        require(
            stage is None or path is not None,
            f"{name} is a super-resolution model: give it an image to enlarge, "
            "--low-res IMAGE, or a base model to go before it, --model BASE --cascade ...",
        )
        require(stage is not None or path is None, f"{name} is a base model: --low-res is for a super-resolution model")
        check_chain([model.config for model in models])
        return None if path is None else _read_square(path, stage.low_resolution)

    def _settings(self, default: GuidedSamplerConfig) -> GuidedSamplerConfig:
        settings = self.how.settings(default)
        return settings if self.eta is None else dataclasses.replace(settings, eta=self.eta)

    def _facts(self, models: "list[Model]", pipeline: "Pipeline") -> dict[str, Any]:
        """The command that draws the same again, and where prompts and neighbours come from."""
        resolved = dataclasses.replace(
            self,
            eta=pipeline.settings.eta,
            what=self.what.resolved(models[0].config),
            how=self.how.resolved(pipeline.settings),
            stages=self.stages.resolved(pipeline),
        )
        return {"command": command_line("sample", resolved), "data": self.what.sources() | self.stages.sources()}


def _read_square(path: Path, side: int) -> "np.ndarray":
    """The central square of an image file at `side` pixels; says so where the file has another size."""
    import numpy as np

    from reimagen_jax.data import images

    try:
        image = images.load(images.read(path))
    except OSError as error:
        raise UserError(f"--low-res {path} cannot be read: {error.strerror}") from error
    except images.ImageError as error:
        raise UserError(f"--low-res {path}: {error}") from error
    if image.size != (side, side):
        size = f"{image.width} x {image.height}"
        print(f"--low-res {path} has {size} pixels: its central square is resized to {side} x {side}", file=sys.stderr)
    return np.asarray(images.square(image, side))
