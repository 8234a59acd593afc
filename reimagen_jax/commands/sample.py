"""`reimagen sample`: prompts into images, with neighbours from a knowledge base or given by hand."""

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

import tyro

from reimagen_jax.checked import Count, Options, Share
from reimagen_jax.commands.options import PLACE, as_typed, command_line, without_folders
from reimagen_jax.commands.prompt_options import PromptOptions, say_left_out, warn_without_neighbours
from reimagen_jax.commands.sampling_options import EnlargingOptions, SamplingOptions, open_drawing
from reimagen_jax.diffusion.settings import DrawingConfig
from reimagen_jax.errors import UserError, require
from reimagen_jax.systems.rcg.settings import PixelsConfig, RdmConfig
from reimagen_jax.systems.reimagen.settings import ReImagenConfig
from reimagen_jax.systems.unclip.settings import ARPriorConfig, DecoderConfig, PriorConfig, UpsamplerConfig
from reimagen_jax.terminal import say

if TYPE_CHECKING:
    import numpy as np

    from reimagen_jax.config import Experiment
    from reimagen_jax.inference.jobs import Job
    from reimagen_jax.inference.model import Model
    from reimagen_jax.inference.pipeline import Pipeline
    from reimagen_jax.inference.prompts import Prompt, PromptSource
    from reimagen_jax.systems.request import Request


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

    By unCLIP, a prior draws an embedding from the text, a decoder an image from it, upsamplers enlarge that. Without
    the prior, the decoder draws from the neighbours' embeddings:
        reimagen sample --model runs/prior --cascade runs/decoder runs/up64 --prompt "a cat" --out runs/unclip
        reimagen sample --model runs/decoder --prompt "a cat" --knowledge-base runs/index --out runs/as_retrieved

    An image of your own, enlarged:
        reimagen sample --model runs/sr256 --low-res cat64.png --prompt "a cat on a mat" --out runs/enlarged

    Each image is written when it is drawn, with all that it comes from in it and beside it (see `reimagen reproduce`).
    After an interruption the same command goes on. Many prompts may be shared among processes:
        reimagen sample --model runs/train --prompts 30k.jsonl --share 1 4 --num-images 1 --out runs/part1
    """

    common: ClassVar[tuple[str, ...]] = ("eta", "overwrite")

    model: Annotated[PurePath, PLACE]
    """Folder of a training run (its last checkpoint is used) or of weights, also in a bucket (gs://, s3://);
    `shipped`: the weights in the package."""
    out: Path
    """Folder to write, or to go on with: an image file each (NAME.png, and NAME.json: all that is needed to draw it
    again), grid.png, sample.json; with --cascade, the images of the stages before the last are in folders stage1,
    stage2, ... within."""
    what: Annotated[PromptOptions, tyro.conf.arg(name="")] = field(default_factory=PromptOptions)
    eta: Share | None = None
    """From 0 (every step strengthens the neighbours) to 1 (every step the text); default as in the experiment."""
    how: Annotated[SamplingOptions, tyro.conf.arg(name="")] = field(
        default_factory=lambda: SamplingOptions(num_images=4)
    )
    stages: Annotated[EnlargingOptions, tyro.conf.arg(name="")] = field(default_factory=EnlargingOptions)
    devices: Count | None = None
    """Devices that draw side by side, --batch-size images each (default: all of this machine that there is work for).
    Images do not depend on it."""
    share: Annotated[tuple[Count, Count] | None, tyro.conf.arg(metavar="N M")] = None
    """Draw number N of M equal shares of the prompts, each for a process and a folder of its own: file names, numbers
    and images are those of the whole."""
    hide_paths: bool = False
    """Leave folders and files of this machine out of what is written, which `reimagen reproduce` is told then."""
    overwrite: bool = False
    """Replace the folder in --out, if this command wrote it, once the new one is complete; one of another kind, or with
    other files in it, is kept."""

    def run(self) -> None:
        """Draws and saves. Raises `UserError` on bad options or input."""
        from reimagen_jax.api import complete
        from reimagen_jax.inference.jobs import job_dir

        self.what.check()
        left_out: dict[tuple[str, ...], Mapping[str, int]] = {}
        which, among = self.share or (1, 1)
        require(which <= among, f"--share {which} {among}: there is no share {which} of {among}")
        try:
            with job_dir(self.out, overwrite=self.overwrite) as folder:
                job, facts = self._job(left_out)
                complete(job, folder, facts, paths=not self.hide_paths)
        except KeyboardInterrupt:
            if self.out.exists() and not self.overwrite:
                say(f"what was drawn is in {self.out}: the same command goes on", error=True)
            raise
        say_left_out(left_out.values())
        say(f"{len(job)} images of {len(job.prompts)} prompts in {self.out}")

    def _job(self, left_out: dict[tuple[str, ...], "Mapping[str, int]"]) -> "tuple[Job, dict[str, Any]]":
        """What there is to draw, and what sample.json tells of it; `left_out` is filled in as neighbours are found."""
        import jax

        from reimagen_jax.inference.jobs import Job, most_neighbours
        from reimagen_jax.inference.provenance import origins

        models = [self._open(path) for path in (self.model, *(stage.model for stage in self.stages.cascade))]
        low_res = self._low_res(models)
        asked = self._asked(models[0].config, left_out)
        share = self.share or (1, 1)
        number = len(range(share[0] - 1, asked.number, share[1])) * self.how.num_images
        require(number > 0, f"--share {share[0]} {share[1]}: there are {asked.number} prompts only")
        devices = jax.local_devices()[: self.devices or -(-number // self.how.batch_size)]
        require(len(devices) >= (self.devices or 1), f"--devices {self.devices}: this machine has {len(devices)}")
        first = self._settings(models[0].config.system.sampler)
        found, _ = most_neighbours(asked)
        pipeline = self.stages.pipeline(models, self.how, first, found, devices if len(devices) > 1 else ())
        said = [self._command(models, pipeline, n) for n in range(1, len(models) + 1)]
        start = "" if self.stages.low_res is None else str(self.stages.low_res)

        def tell(n: int, requests: "Sequence[Request]", images: "Sequence[np.ndarray]", keys: Sequence[str]):
            facts = {"made_by": "sample", "command": said[n - 1], "start": start, "paths": not self.hide_paths}
            return origins(models[:n], pipeline, requests, images, records=keys, **facts)

        data = self.what.sources(models[0].config) | self.stages.sources()
        about = {name: value for name, value in data.items() if name not in PLACES}
        about |= {"hidden paths": "yes"} if self.hide_paths else {}
        job = Job(asked, pipeline, models, self.how.num_images, tell, about, low_res, share)
        if self.hide_paths:
            return job, {"command": said[-1], "data": about}
        return job, {"command": self._command(models, pipeline, len(models), self.out), "data": data}

    def _asked(self, config: "Experiment", left_out: dict[tuple[str, ...], "Mapping[str, int]"]) -> "PromptSource":
        """The prompts; it is said once of each that has found nothing, and noted what was left out for it."""
        asked, said = self.what.source(config), set()

        def find(prompts: "Sequence[Prompt]") -> "list[Prompt]":
            found = asked.find(prompts)
            if self.what.searches:
                warn_without_neighbours([prompt for prompt in found if prompt.text not in said])
                said.update(prompt.text for prompt in found if not prompt.neighbours)
                left_out.update({(each.source, each.key, each.text, each.query): each.left_out for each in found})
            return found

        return dataclasses.replace(asked, find=find)

    def _open(self, path: Path) -> "Model":
        """A model whose parameters are in the host's memory, so that one stage at a time is on the device."""
        return open_drawing(path, self.how.text_encoder, on_host=True, kinds=DRAWING)

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
        last = models[-1].config
        require(
            last.system.drawn is not None,
            f"{last.name} is a {last.system.kind}: it draws embeddings, not images; let a decoder draw from them, "
            "--cascade DECODER",
        )
        return None if path is None else _read_square(path, stage.low_resolution)

    def _settings(self, default: DrawingConfig) -> DrawingConfig:
        settings = self.how.settings(default)
        with as_typed({"sampler.eta": "--eta"}):
            return settings if self.eta is None else settings.changed(eta=self.eta)

    def _command(self, models: "Sequence[Model]", pipeline: "Pipeline", n: int, out: Path = Path("OUT")) -> str:
        """The command that draws what the first n stages drew, whatever folder it is for, with nothing left to the
        experiments."""
        stages = self.stages.resolved(pipeline)
        stages = dataclasses.replace(
            stages, cascade=stages.cascade[: n - 1], handed_on=stages.handed_on if n > 1 else None
        )
        resolved = dataclasses.replace(
            self,
            out=out,
            eta=getattr(pipeline.settings, "eta", None),
            what=self.what.resolved(models[0].config),
            how=self.how.resolved(pipeline.settings),
            stages=stages,
            devices=None,
            share=None,
            overwrite=False,
        )
        return command_line("sample", without_folders(resolved) if self.hide_paths else resolved)


DRAWING = (ReImagenConfig, PriorConfig, ARPriorConfig, DecoderConfig, UpsamplerConfig, RdmConfig, PixelsConfig)
PLACES = ("prompts", "knowledge base", "low-resolution image")
"""Of the facts about data, those that are folders and files of this machine."""


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
        say(f"--low-res {path} has {size} pixels: its central square is resized to {side} x {side}", error=True)
    return np.asarray(images.square(image, side))
