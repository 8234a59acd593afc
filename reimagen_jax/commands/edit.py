"""`reimagen edit`: what is drawn on images, and by other neighbours from the same noise."""

import dataclasses
from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

import tyro

from reimagen_jax.checked import Count, NonNegative, Options, Share, Strength
from reimagen_jax.commands.options import command_line
from reimagen_jax.commands.prompt_options import PromptOptions, say_left_out, warn_without_neighbours
from reimagen_jax.commands.sample import DRAWING
from reimagen_jax.commands.sampling_options import CascadeOptions, SamplingOptions, open_drawing
from reimagen_jax.commands.usage import run_one
from reimagen_jax.config import SystemConfig
from reimagen_jax.diffusion.settings import Repeats
from reimagen_jax.errors import require
from reimagen_jax.files import file_facts
from reimagen_jax.systems.reimagen.settings import ReImagenConfig
from reimagen_jax.terminal import say

if TYPE_CHECKING:
    from reimagen_jax.inference.edits import Plan
    from reimagen_jax.inference.model import Model
    from reimagen_jax.inference.pipeline import Pipeline
    from reimagen_jax.inference.prompts import Prompt

DESCRIPTION = """Draw on images, or with other neighbours from the same noise. Images are central squares, resized to
the model's resolution; with --cascade, what is kept is kept at each stage's own where the image is as large as that.
Each writes a folder as `reimagen sample` does: an image each, grid.png, sample.json."""


@dataclass(frozen=True, kw_only=True)
class Edit(Options):
    """What all edits are told."""

    common: ClassVar[tuple[str, ...]] = ("eta", "overwrite")
    systems: ClassVar[tuple[type[SystemConfig], ...]] = (ReImagenConfig,)
    """Those that it is done by."""

    model: Path
    """Folder of a training run (its last checkpoint is used) or of weights; `shipped`: the weights in the package."""
    out: Path
    """Folder to write: an image file each, grid.png (before and after), sample.json (all that is needed to draw them
    again); before.png and mask.png where there are such."""
    what: Annotated[PromptOptions, tyro.conf.arg(name="")] = field(default_factory=PromptOptions)
    eta: Share | None = None
    """From 0 (every step strengthens the neighbours) to 1 (every step the text); default as in the experiment."""
    how: Annotated[SamplingOptions, tyro.conf.arg(name="")] = field(default_factory=SamplingOptions)
    repeats: Repeats | None = None
    """How often each stretch of --jump steps is walked (RePaint's r): more brings what is drawn into line with what is
    kept, at nearly so many times the cost (default: as in the experiment, mostly 1)."""
    jump: Count | None = None
    """Steps of such a stretch (RePaint's j)."""
    baseline: bool = False
    """Draw each image without neighbours, too, on the same picture and from the same noise."""
    stages: Annotated[CascadeOptions, tyro.conf.arg(name="")] = field(default_factory=CascadeOptions)
    overwrite: bool = False
    """Replace the folder in --out, if this command wrote it, once the new one is complete; one of another kind, or with
    other files in it, is kept."""

    @abstractmethod
    def plan(self, prompts: "list[Prompt]", models: "list[Model]") -> "Plan":
        """What to draw. Raises `UserError` on bad input."""

    def files(self) -> dict[str, Path | None]:
        """Image files that are read besides neighbours, by what they are."""
        return {}

    def run(self) -> None:
        """Draws and saves. Raises `UserError` on bad options or input."""
        from reimagen_jax.api import edit_by
        from reimagen_jax.files import atomic_dir
        from reimagen_jax.inference.edits import with_baselines

        self.what.check()
        with atomic_dir(self.out, kind="images", overwrite=self.overwrite) as folder:
            paths = (self.model, *(stage.model for stage in self.stages.cascade))
            models = [open_drawing(path, self.how.text_encoder, on_host=True, kinds=self.systems) for path in paths]
            require(
                models[0].config.system.super_resolution is None,
                f"--model {self.model} is a super-resolution model: give the base model, and this one as --cascade",
            )
            prompts = self.what.gather(models[0].config)
            if self.what.searches:
                warn_without_neighbours(prompts)
                say_left_out([prompt.left_out for prompt in prompts])
            plan = self.plan(prompts, models)
            plan = with_baselines(plan) if self.baseline else plan
            found = max(len(request.neighbours) for request in plan.requests)
            given = {"eta": self.eta, "repeats": self.repeats, "jump": self.jump}
            first = self.how.settings(models[0].config.system.sampler)
            first = first.changed(**{name: value for name, value in given.items() if value is not None})
            pipeline = self.stages.pipeline(models, self.how, first, found)
            drawing = edit_by(pipeline, models, plan)
            facts = self._facts(models, pipeline)
            drawing.write(folder, facts, by={"command": facts["command"]})
        say(f"{len(drawing.requests)} images in {self.out}")

    def _facts(self, models: "list[Model]", pipeline: "Pipeline") -> dict[str, Any]:
        """The command that draws the same again, and where prompts, neighbours and images come from."""
        resolved = dataclasses.replace(
            self,
            **{name: getattr(pipeline.settings, name, None) for name in ("eta", "repeats", "jump")},
            what=self.what.resolved(models[0].config),
            how=self.how.resolved(pipeline.settings),
            stages=self.stages.resolved(pipeline),
        )
        kind = next(name for name, command in COMMANDS.items() if command is type(self))
        data = self.what.sources(models[0].config) | file_facts(self.files())
        return {"command": command_line(f"edit {kind}", resolved), "data": data}


@dataclass(frozen=True, kw_only=True)
class Image(Edit):
    """Draw prompts on an image: image to image.

    reimagen edit image --model runs/train --image cat.png --strength 0.6 --prompt "a cat at night" --out runs/night
    """

    image: Path
    """The image file."""
    strength: Strength = 0.6
    """How far it is taken towards noise: near 0 hardly anything changes, at 1 nothing of it is left."""

    def plan(self, prompts: "list[Prompt]", models: "list[Model]") -> "Plan":
        from reimagen_jax.inference.edits import image_to_image, read_square

        image = read_square(self.image)
        return image_to_image(prompts, image, strength=self.strength, num_images=self.how.num_images)

    def files(self) -> dict[str, Path | None]:
        return {"image": self.image}


@dataclass(frozen=True, kw_only=True)
class Inpaint(Edit):
    """Draw prompts into an image where a mask is white; what is black stays as it is.

    reimagen edit inpaint --model runs/train --image room.png --mask sofa.png --prompt "Mitzi on a sofa" \\
        --reference mitzi.png "Mitzi, a cat" --out runs/mitzi
    """

    image: Path
    """The image file."""
    mask: Path
    """A grey image of any size, of the image's proportions or square. White (and transparent) is drawn anew, black kept
    byte for byte; greys are taken less far towards noise. A pixel that is partly white, after resizing, is white."""
    strength: Strength = 1.0
    """How far white pixels are taken towards noise; below 1, something of what was there stays."""

    def plan(self, prompts: "list[Prompt]", models: "list[Model]") -> "Plan":
        from reimagen_jax.inference.edits import inpainting, read_mask, read_square

        image, mask = read_square(self.image), read_mask(self.mask, self.image)
        return inpainting(prompts, image, mask, strength=self.strength, num_images=self.how.num_images)

    def files(self) -> dict[str, Path | None]:
        return {"image": self.image, "mask": self.mask}


@dataclass(frozen=True, kw_only=True)
class Outpaint(Edit):
    """Draw the scene around an image, or around the prompt's first neighbour, which stays as it is in its place.

    reimagen edit outpaint --model runs/train --reference mitzi.png "Mitzi, a cat" --scale 0.5 --at 0 1 \\
        --prompt "Mitzi, small, in a large garden" --out runs/garden
    """

    image: Path | None = None
    """The image file (default: the first neighbour's)."""
    mask: Annotated[Path | None, tyro.conf.arg(metavar="IMAGE")] = None
    """What of --image is drawn anew too (white), such as the background of what is to stand in the new scene; of the
    image's proportions, or square."""
    scale: Strength = 0.5
    """Its side, as a share of the scene's; 1 with --mask."""
    at: tuple[Share, Share] = (0.5, 0.5)
    """Where it lies: across (0 left, 1 right) and down (0 top, 1 bottom)."""

    def plan(self, prompts: "list[Prompt]", models: "list[Model]") -> "Plan":
        from reimagen_jax.data import images
        from reimagen_jax.inference.edits import outpainting, read_mask, read_square

        require(self.mask is None or self.image is not None, "--mask is of an image: give it as --image")
        if self.image is not None:
            image = read_square(self.image)
        else:
            require(
                len(prompts) == 1,
                f"around which of the {len(prompts)} prompts' neighbours? Give one prompt, or --image",
            )
            require(bool(prompts[0].neighbours), "there is no neighbour to draw around: give --reference, or --image")
            hit = prompts[0].neighbours[0]
            image = images.decode(hit.encoded) if hit.encoded else hit.image
        return outpainting(
            prompts,
            image,
            [model.config.system.resolution for model in models],
            scale=self.scale,
            at=self.at,
            mask=read_mask(self.mask, self.image) if self.mask is not None and self.image is not None else None,
            num_images=self.how.num_images,
        )

    def files(self) -> dict[str, Path | None]:
        return {"image": self.image, "mask": self.mask}


@dataclass(frozen=True, kw_only=True)
class Vary(Edit):
    """Draw each prompt once, and --num-images variations of that which keep its layout.

    reimagen edit vary --model runs/train --prompt "a cat on a mat" --knowledge-base runs/index --out runs/cats
    """

    how: Annotated[SamplingOptions, tyro.conf.arg(name="")] = field(
        default_factory=lambda: SamplingOptions(num_images=3)
    )
    strength: Strength = 0.6
    """How far the image is taken towards noise, from which a variation is drawn: more changes more."""

    def plan(self, prompts: "list[Prompt]", models: "list[Model]") -> "Plan":
        from reimagen_jax.inference.edits import variations

        return variations(prompts, strength=self.strength, num_images=self.how.num_images)


@dataclass(frozen=True, kw_only=True)
class Interpolate(Edit):
    """Draw each prompt with its first neighbour, its second, and in between, from the same noise.

    reimagen edit interpolate --model runs/train --prompt "a cat on a mat" --reference a.png "a cat" \\
        --reference b.png "a cat" --frames 7 --out runs/between
    """

    frames: Count = 5
    """Images from the first neighbour to the second."""
    weights: Annotated[
        tuple[tuple[NonNegative, ...], ...], tyro.conf.UseAppendAction, tyro.conf.arg(metavar="WEIGHT ...")
    ] = ()
    """Weights of the neighbours for one image, instead of --frames; repeat it for more. Only their ratios matter."""

    def plan(self, prompts: "list[Prompt]", models: "list[Model]") -> "Plan":
        from reimagen_jax.inference.edits import interpolation

        return interpolation(prompts, self.weights, frames=self.frames, num_images=self.how.num_images)


@dataclass(frozen=True, kw_only=True)
class Swap(Edit):
    """Draw a prompt, and from the same noise another with other neighbours: the same scene, another entity.

    reimagen edit swap --model runs/train --prompt "Mitzi on a mat" --reference mitzi.png "Mitzi, a cat" \\
        --to-prompt "Rex on a mat" --to-reference rex.png "Rex, a dog" --out runs/swapped

    A decoder of unCLIP swaps embeddings, with --strength 1 alone: it draws on no picture.
    """

    systems: ClassVar[tuple[type[SystemConfig], ...]] = DRAWING

    to_prompt: Annotated[str | None, tyro.conf.arg(metavar="TEXT")] = None
    """The other prompt (default: the same). With --knowledge-base, its neighbours are looked for there."""
    to_query: Annotated[str, tyro.conf.arg(metavar="TEXT")] = ""
    """What the knowledge base is asked for the other prompt (default: that prompt; --query is for the first alone)."""
    to_reference: Annotated[
        tuple[tuple[Path, str], ...], tyro.conf.UseAppendAction, tyro.conf.arg(metavar="IMAGE CAPTION")
    ] = ()
    """A neighbour for it, by hand, in place of --reference. Repeat it for more."""
    to_pin: Annotated[tuple[tuple[str, ...], ...], tyro.conf.UseAppendAction, tyro.conf.arg(metavar="KEY ...")] = ()
    """Records of the knowledge base that are its neighbours, in place of --pin."""
    strength: Strength = 1.0
    """Below 1, the other is drawn on the image of the first, taken so far towards noise: more of the scene stays."""

    def plan(self, prompts: "list[Prompt]", models: "list[Model]") -> "Plan":
        from reimagen_jax.inference.edits import swapping
        from reimagen_jax.inference.prompts import Prompt

        require(len(self.what.prompt) == 1 and len(prompts) == 1, "swapping takes one --prompt TEXT")
        given = self.to_prompt or self.to_reference or self.to_pin or self.to_query
        require(bool(given), "there is nothing to swap to: give --to-prompt TEXT, --to-reference IMAGE CAPTION")
        require(
            not self.to_query or bool(self.what.knowledge_base), "--to-query asks a --knowledge-base: none is given"
        )
        text = prompts[0].text if self.to_prompt is None else self.to_prompt
        query = self.what.query if self.to_prompt is None else ()
        query = ((self.to_query,),) if self.to_query else query
        other = dataclasses.replace(
            self.what, prompt=((text,),), query=query, reference=self.to_reference, pin=self.to_pin
        )
        other.check()
        others = other.found(other.completed([Prompt(text.strip())], models[0].config), models[0].config)
        return swapping(prompts, others, strength=self.strength, num_images=self.how.num_images)

    def files(self) -> dict[str, Path | None]:
        return {f"neighbour {number} to swap to": path for number, (path, _) in enumerate(self.to_reference, 1)}


COMMANDS = {
    "image": Image,
    "inpaint": Inpaint,
    "outpaint": Outpaint,
    "vary": Vary,
    "interpolate": Interpolate,
    "swap": Swap,
}


def main(args: Sequence[str]) -> None:
    """Parses and runs; `args` are those after `edit`."""
    run_one(COMMANDS, "reimagen edit", DESCRIPTION, args)
