"""`reimagen rcg`: images by way of their representations."""

import dataclasses
from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

import tyro

from reimagen_jax.checked import Count, Options
from reimagen_jax.commands.options import command_line
from reimagen_jax.commands.sampling_options import CascadeOptions, SamplingOptions
from reimagen_jax.commands.usage import run_one
from reimagen_jax.errors import require
from reimagen_jax.files import file_facts
from reimagen_jax.terminal import say

if TYPE_CHECKING:
    import numpy as np

    from reimagen_jax.inference.edits import Plan
    from reimagen_jax.inference.model import Model
    from reimagen_jax.inference.pipeline import Pipeline

KINDS = ("rdm", "rcg_generator", "mage")
"""What the first model may be."""
DESCRIPTION = """Draw images by way of their representations (RCG): out of nothing, of a class, of what a picture tells,
of what lies between two. Images are central squares. Each writes a folder as `reimagen sample` does: an image each,
grid.png (the contact sheet), sample.json."""


@dataclass(frozen=True, kw_only=True)
class Rcg(Options):
    """What all of them are told."""

    common: ClassVar[tuple[str, ...]] = ("overwrite",)

    model: Path
    """The first model: an RDM or a pixel generator; folder of a training run (its last checkpoint is used) or of
    weights, none is `shipped`."""
    out: Path
    """Folder to write: an image file each, grid.png, sample.json."""
    how: Annotated[SamplingOptions, tyro.conf.arg(name="")] = field(
        default_factory=lambda: SamplingOptions(num_images=4)
    )
    stages: Annotated[CascadeOptions, tyro.conf.arg(name="")] = field(default_factory=CascadeOptions)
    overwrite: bool = False
    """Replace the folder in --out, if this command wrote it, once the new one is complete; one of another kind, or with
    other files in it, is kept."""

    @abstractmethod
    def plan(self, models: "list[Model]") -> "Plan":
        """What to draw. Raises `UserError` on bad input."""

    def files(self) -> dict[str, Path]:
        """Image files that are read, by what they are."""
        return {}

    def check(self) -> None:
        """Raises `UserError` on bad options, before anything is opened."""

    def run(self) -> None:
        """Draws and saves. Raises `UserError` on bad options or input."""
        from reimagen_jax.api import edit_by
        from reimagen_jax.files import atomic_dir
        from reimagen_jax.inference.model import Model
        from reimagen_jax.inference.pipeline import check_chain

        self.check()
        with atomic_dir(self.out, kind="images", overwrite=self.overwrite) as folder:
            paths = (self.model, *(stage.model for stage in self.stages.cascade))
            models = [Model.open(path, on_host=True) for path in paths]
            for path, model in zip(paths, models, strict=True):
                kind = model.config.system.kind
                require(hasattr(model.config.system, "sampler"), f"{path} is a {kind}: it draws no images")
            first = models[0].config.system.kind
            require(first in KINDS, f"{self.model} is a {first}: give a pixel generator, or an RDM: {', '.join(KINDS)}")
            check_chain([model.config for model in models])
            last = models[-1].config
            require(
                last.system.drawn is not None,
                f"{last.name} is a {last.system.kind}: it draws representations, not images; let a generator draw from "
                "them, --cascade GENERATOR",
            )
            plan = self.plan(models)
            settings = self.how.settings(models[0].config.system.sampler)
            pipeline = self.stages.pipeline(models, self.how, settings, 0)
            drawing = edit_by(pipeline, models, plan)
            command = self._command(pipeline)
            drawing.write(folder, {"command": command, "data": file_facts(self.files())}, by=_by(command))
        say(f"{len(drawing.requests)} images in {self.out}")

    def _command(self, pipeline: "Pipeline") -> str:
        """The command that draws the same again, with nothing left to the experiments."""
        how, stages = self.how.resolved(pipeline.settings), self.stages.resolved(pipeline)
        kind = next(name for name, command in COMMANDS.items() if command is type(self))
        return command_line(f"rcg {kind}", dataclasses.replace(self, how=how, stages=stages))


@dataclass(frozen=True, kw_only=True)
class Draw(Rcg):
    """Draw images out of nothing: representations by an RDM, images of these by a generator; nobody says what.

    reimagen rcg draw --model runs/rcg/rdm --cascade runs/rcg/generator --num-images 16 --out runs/rcg/drawn

    Of classes, by models that know some; guidance of the RDM by --text-weight, of the generator behind its name:
        reimagen rcg draw --model runs/rcg/class_rdm --text-weight 1.5 --cascade runs/rcg/generator,text-weight=2 \\
            --classes cat dog --out runs/rcg/pets
    """

    common: ClassVar[tuple[str, ...]] = ("classes",)

    classes: Annotated[tuple[str, ...], tyro.conf.arg(metavar="CLASS ...")] = ()
    """Names of classes, a row of images each (default: whatever comes)."""

    def check(self) -> None:
        require(len(set(self.classes)) == len(self.classes), "--classes has one twice: name each once")

    def plan(self, models: "list[Model]") -> "Plan":
        from reimagen_jax.inference.representations import drawings

        knows = bool(getattr(models[0].config.data, "class_by", ""))
        require(knows or not self.classes, f"--classes: {self.model} ({models[0].config.name}) knows no classes")
        return drawings(self.classes, self.how.num_images)


@dataclass(frozen=True, kw_only=True)
class Reconstruct(Rcg):
    """Draw pictures again by their representations, from several noises: what stays is what a representation tells.

    reimagen rcg reconstruct cat.png dog.png --model runs/rcg/generator --out runs/rcg/again
    """

    images: Annotated[tuple[Path, ...], tyro.conf.Positional]
    """The image files, a row each."""

    def check(self) -> None:
        require(len(self.images) > 0, "no images: name at least one file")
        names = [path.name for path in self.images]
        require(len(set(names)) == len(names), "two images of one name: give each once, or copy one under another name")

    def plan(self, models: "list[Model]") -> "Plan":
        from reimagen_jax.inference.representations import Representer, reconstructions

        pictures = {path.name: _read(path) for path in self.images}
        return reconstructions(Representer(models[0], self.how.batch_size), pictures, self.how.num_images)

    def files(self) -> dict[str, Path]:
        return {f"image {number}": path for number, path in enumerate(self.images, 1)}


@dataclass(frozen=True, kw_only=True)
class Interpolate(Rcg):
    """Draw what lies between two pictures: their representations mixed, from noises that stay the same along the way.

    reimagen rcg interpolate cat.png dog.png --model runs/rcg/generator --frames 7 --out runs/rcg/between
    """

    common: ClassVar[tuple[str, ...]] = ("frames",)

    first: Annotated[Path, tyro.conf.Positional]
    """The image file to begin with."""
    second: Annotated[Path, tyro.conf.Positional]
    """The image file to end with."""
    frames: Count = 7
    """Images from the first to the second, these among them."""

    def check(self) -> None:
        require(self.frames > 1, "--frames 1: from one image to another are 2 at least")

    def plan(self, models: "list[Model]") -> "Plan":
        from reimagen_jax.inference.representations import Representer, interpolations

        first, second = _read(self.first), _read(self.second)
        representer = Representer(models[0], self.how.batch_size)
        return interpolations(representer, first, second, frames=self.frames, num_images=self.how.num_images)

    def files(self) -> dict[str, Path]:
        return {"first image": self.first, "second image": self.second}


def _by(command: str) -> dict[str, Any]:
    return {"made_by": "rcg", "command": command}


def _read(path: Path) -> "np.ndarray":
    from reimagen_jax.inference.edits import read_square

    return read_square(path, "image")


COMMANDS = {"draw": Draw, "reconstruct": Reconstruct, "interpolate": Interpolate}


def main(args: Sequence[str]) -> None:
    """Parses and runs; `args` are those after `rcg`."""
    run_one(COMMANDS, "reimagen rcg", DESCRIPTION, args)
