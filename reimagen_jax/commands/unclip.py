"""`reimagen unclip`: what is done with an image's embedding, by a decoder of unCLIP."""

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

import tyro

from reimagen_jax.checked import Count, Natural, NonNegative, Options, Seed, Strength
from reimagen_jax.commands.options import command_line
from reimagen_jax.commands.usage import run_one
from reimagen_jax.diffusion.settings import SamplerSteps
from reimagen_jax.errors import require
from reimagen_jax.files import file_facts
from reimagen_jax.terminal import say

if TYPE_CHECKING:
    import numpy as np

    from reimagen_jax.api import Edited
    from reimagen_jax.inference.codes import Decoder
    from reimagen_jax.inference.edits import Plan

DESCRIPTION = """Draw from an image's embedding and the noise that it is found again from (unCLIP, section 3): others
like it, what lies between two, what a text would change, what its embedding's components tell. Images are central
squares. Each writes a folder as `reimagen sample` does: an image each, grid.png (the contact sheet), sample.json."""


@dataclass(frozen=True, kw_only=True)
class Unclip(Options):
    """What all of them are told."""

    common: ClassVar[tuple[str, ...]] = ("prompt", "cascade", "seed", "overwrite")

    model: Path
    """A decoder of unCLIP: folder of a training run (its last checkpoint is used) or of weights; none is `shipped`."""
    out: Path
    """Folder to write: an image file each, grid.png, sample.json."""
    prompt: Annotated[str, tyro.conf.arg(metavar="TEXT")] = ""
    """What the decoder reads beside the embedding (default: nothing)."""
    steps: SamplerSteps = 100
    """Of inversion, and of drawing (DDIM); with fewer, less of the image is found again."""
    refine: Natural = 0
    """Iterations of each step of inversion, which bring it closer; each costs as much as the inversion without."""
    guidance: NonNegative = 1.0
    """Weight of guidance in drawing. Inversion has none: with 1, none either, the image is found again best."""
    cascade: Annotated[tuple[Path, ...], tyro.conf.arg(metavar="MODEL ...")] = ()
    """Models that enlarge what --model draws, each by the sampler of its own experiment."""
    seed: Seed = 0
    """Of the noise."""
    batch_size: Count = 16
    """Images drawn at once; changes speed and memory, not the images."""
    overwrite: bool = False
    """Replace the folder in --out, if this command wrote it, once the new one is complete; one of another kind, or with
    other files in it, is kept."""

    @abstractmethod
    def plan(self, decoder: "Decoder") -> "Plan":
        """What to draw. Raises `UserError` on bad input."""

    @abstractmethod
    def files(self) -> dict[str, Path]:
        """Image files that are read, by what they are."""

    def sources(self) -> dict[str, str]:
        """What is read besides, by what it is."""
        return {}

    def check(self) -> None:
        """Raises `UserError` on bad options, before anything is opened."""

    def say(self, drawing: "Edited") -> None:
        """Says what was measured, if anything."""

    def run(self) -> None:
        """Draws and saves. Raises `UserError` on bad options or input."""
        from reimagen_jax.api import edit_by
        from reimagen_jax.files import atomic_dir
        from reimagen_jax.inference.codes import Decoder
        from reimagen_jax.inference.model import Model
        from reimagen_jax.inference.pipeline import Pipeline, check_chain

        self.check()
        with atomic_dir(self.out, kind="images", overwrite=self.overwrite) as folder:
            models = [Model.open(path, on_host=True) for path in (self.model, *self.cascade)]
            check_chain([model.config for model in models])
            decoder = Decoder(
                models[0], self.prompt, self.steps, self.refine, self.guidance, self.seed, self.batch_size
            )
            plan = self.plan(decoder)
            later = [model.stage(batch_size=self.batch_size) for model in models[1:]]
            pipeline = Pipeline([decoder.stage(len(plan.requests)), *later], self.seed)
            drawing = edit_by(pipeline, models, plan)
            kind = next(name for name, command in COMMANDS.items() if command is type(self))
            command = command_line(f"unclip {kind}", self)
            facts = {"command": command, "data": file_facts(self.files()) | self.sources()}
            drawing.write(folder, facts, by={"made_by": "unclip", "command": command})
        self.say(drawing)
        say(f"{len(drawing.requests)} images in {self.out}")


@dataclass(frozen=True, kw_only=True)
class Vary(Unclip):
    """Draw an image again, and others like it: the more stochasticity, the less of it but what it shows.

    reimagen unclip vary cat.png --model runs/decoder --out runs/cats
    """

    common: ClassVar[tuple[str, ...]] = ("stochasticity", "num_images")

    image: Annotated[Path, tyro.conf.Positional]
    """The image file."""
    stochasticity: tuple[Strength, ...] = (0.5, 1.0)
    """Of DDIM, a row each: near 0 the image comes back, which is shown besides; at 1, its embedding alone is kept."""
    num_images: Count = 4
    """Variations of each."""

    def check(self) -> None:
        require(len(self.stochasticity) > 0, "--stochasticity is empty: give at least one, above 0")

    def plan(self, decoder: "Decoder") -> "Plan":
        from reimagen_jax.inference.codes import variations

        return variations(decoder, _read(self.image), self.stochasticity, self.num_images)

    def files(self) -> dict[str, Path]:
        return {"image": self.image}

    def say(self, drawing: "Edited") -> None:
        from reimagen_jax.inference.codes import given_back

        rms = given_back(drawing.plan, drawing.stages[0])
        say(f"the image is given back within {rms:.2%} (RMS, of the range of images)")


@dataclass(frozen=True, kw_only=True)
class Blend(Unclip):
    """Draw what lies between two images: their embeddings, and the noises that they are found again from, mixed.

    reimagen unclip blend cat.png dog.png --model runs/decoder --frames 7 --out runs/between

    The same way in other pictures, from noises that stay the same along each:
        reimagen unclip blend cat.png dog.png --model runs/decoder --noise fixed --num-images 4 --out runs/ways
    """

    common: ClassVar[tuple[str, ...]] = ("frames", "noise", "num_images")

    first: Annotated[Path, tyro.conf.Positional]
    """The image file to begin with."""
    second: Annotated[Path, tyro.conf.Positional]
    """The image file to end with."""
    frames: Count = 7
    """Images from the first to the second, these among them."""
    noise: Literal["slerp", "fixed"] = "slerp"
    """slerp: from the noise of the one to that of the other, so that both ends are the images; fixed: one noise along
    the way."""
    num_images: Count = 1
    """Ways, each with a noise of its own (--noise fixed)."""

    def check(self) -> None:
        require(self.frames > 1, "--frames 1: from one image to another are 2 at least")
        require(
            self.noise == "fixed" or self.num_images == 1,
            f"--num-images {self.num_images}: between two noises is one way; give --noise fixed",
        )

    def plan(self, decoder: "Decoder") -> "Plan":
        from reimagen_jax.inference.codes import blends

        first, second = _read(self.first), _read(self.second)
        return blends(decoder, first, second, frames=self.frames, noise=self.noise, num_images=self.num_images)

    def files(self) -> dict[str, Path]:
        return {"first image": self.first, "second image": self.second}


@dataclass(frozen=True, kw_only=True)
class Diff(Unclip):
    """Change an image by the difference of two texts, what it shows and what it is to show, from the same noise.

    reimagen unclip diff cat.png --from "a photo of a cat" --to "a photo of an anime cat" --model runs/decoder \\
        --out runs/anime
    """

    common: ClassVar[tuple[str, ...]] = ("from_text", "to_text", "most", "frames")

    image: Annotated[Path, tyro.conf.Positional]
    """The image file."""
    to_text: Annotated[str, tyro.conf.arg(name="to", metavar="TEXT")]
    """What it is to show."""
    from_text: Annotated[str, tyro.conf.arg(name="from", metavar="TEXT")] = ""
    """What it shows; "a photo" does as well (default: the way leads towards --to as it is)."""
    most: Strength = 0.4
    """How far the way goes: at 1 the embedding is the texts' difference alone. The paper's ends at 0.25 to 0.5."""
    frames: Count = 5
    """Images along the way, beginning with the image."""

    def check(self) -> None:
        require(bool(self.to_text.strip()), "--to is empty: say what the image is to show")
        require(self.from_text != self.to_text, f"--from and --to are the same, {self.to_text!r}: nothing would change")
        require(self.frames > 1, "--frames 1: the image alone; give 2 at least")

    def plan(self, decoder: "Decoder") -> "Plan":
        from reimagen_jax.inference.codes import differences

        picture = _read(self.image)
        return differences(decoder, picture, self.to_text, self.from_text, most=self.most, frames=self.frames)

    def files(self) -> dict[str, Path]:
        return {"image": self.image}


@dataclass(frozen=True, kw_only=True)
class Components(Unclip):
    """Draw images by the first principal components of their embeddings: what is told first, what last.

    reimagen unclip components cat.png dog.png --model runs/decoder --records runs/records --out runs/components
    """

    common: ClassVar[tuple[str, ...]] = ("records", "dims", "num_images")

    images: Annotated[tuple[Path, ...], tyro.conf.Positional]
    """The image files, a row each."""
    records: Path
    """Folder written by `reimagen prepare`: the components are those of its pictures' embeddings."""
    fit: Annotated[Count, tyro.conf.arg(metavar="N")] = 2000
    """Records at most that they are found by, spread over all."""
    dims: Annotated[tuple[Natural, ...], tyro.conf.arg(metavar="N ...")] = ()
    """Numbers of components (default: 0, 1, 2, 4, 8, ..., all). The paper shows 20 to 320 of 1024."""
    num_images: Count = 1
    """Images of each, from noises that stay the same."""

    def check(self) -> None:
        require(len(self.images) > 0, "no images: name at least one file")

    def plan(self, decoder: "Decoder") -> "Plan":
        from reimagen_jax.inference.codes import compositions

        pictures = {path.name: _read(path) for path in self.images}
        require(len(pictures) == len(self.images), "two images of one name: give each once")
        return compositions(decoder, pictures, self._components(decoder), self.dims, self.num_images)

    def _components(self, decoder: "Decoder") -> Any:
        import numpy as np

        from reimagen_jax.data import images
        from reimagen_jax.data.records import Records
        from reimagen_jax.inference import codes

        records = Records.open(self.records)
        ids = np.unique(np.linspace(0, len(records) - 1, min(self.fit, len(records))).astype(int))
        side = decoder.model.config.system.seen
        pictures = [images.decode(record.image, side) for record in records.fetch(ids)]
        return codes.Components.of(decoder.images(pictures), decoder.model.config.system.clip.normalised)

    def files(self) -> dict[str, Path]:
        return {f"image {number}": path for number, path in enumerate(self.images, 1)}

    def sources(self) -> dict[str, str]:
        from reimagen_jax.data.records import Records

        return {"records": f"{self.records.resolve()}, checksum {Records.open(self.records).fingerprint}"}


def _read(path: Path) -> "np.ndarray":
    from reimagen_jax.inference.edits import read_square

    return read_square(path, "image")


COMMANDS = {"vary": Vary, "blend": Blend, "diff": Diff, "components": Components}


def main(args: Sequence[str]) -> None:
    """Parses and runs; `args` are those after `unclip`."""
    run_one(COMMANDS, "reimagen unclip", DESCRIPTION, args)
