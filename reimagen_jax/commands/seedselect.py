"""`reimagen seedselect`: noise searched until its image is like a few references, then drawn from, and enlarged.

The defaults of the search come from --preset, so the command line is read when that is known.
"""

import dataclasses
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

import tyro

from reimagen_jax.checked import Count, Options, Share
from reimagen_jax.commands.options import as_typed, command_line
from reimagen_jax.commands.prompt_options import PromptOptions, say_left_out
from reimagen_jax.commands.sampling_options import CascadeOptions, SamplingOptions, open_drawing
from reimagen_jax.commands.usage import run
from reimagen_jax.errors import require
from reimagen_jax.systems.seedselect.settings import OURS, PRESETS, SeedSelectConfig
from reimagen_jax.terminal import say

if TYPE_CHECKING:
    from reimagen_jax.inference.model import Model
    from reimagen_jax.inference.pipeline import Pipeline

PROGRAM = "reimagen seedselect"
Preset = Literal["ours", "paper", "code"]


@dataclass(frozen=True)
class SeedSelect(Options):
    """Search the noise that an image is drawn from, until the image is like a few references (SeedSelect).

    The references are what a knowledge base finds for the prompt; with --k 0 the network sees none of them:
        reimagen seedselect --model runs/train --encoder runs/encoder --prompt "Mitzi on a mat" \\
            --knowledge-base runs/index --k 0 --out runs/seeds

    Or images of your own, of which the network sees the first two besides:
        reimagen seedselect --model runs/train --encoder runs/encoder --prompt "Mitzi on a mat" \\
            --reference a.png "Mitzi" --reference b.png "Mitzi" --reference c.png "Mitzi" --k 2 --out runs/seeds

    As the published code does it, or as the paper says, with fewer iterations:
        reimagen seedselect --model runs/train --encoder runs/encoder --prompt "Mitzi on a mat" \\
            --knowledge-base runs/index --k 0 --preset code --iterations 20 --out runs/seeds

    Many images of a prompt in a fraction of the time: a common start, then a few iterations on random subsets:
        reimagen seedselect --model runs/train --encoder runs/encoder --prompt "Mitzi on a mat" --num-images 8 \\
            --knowledge-base runs/index --k 0 --start-iterations 20 --iterations 4 --subset 2 --out runs/seeds

    What was found is stored batch by batch: after a stop, the same command goes on where it was.
    """

    common: ClassVar[tuple[str, ...]] = ("references", "eta", "preset", "overwrite")

    model: Path
    """Folder of a training run (its last checkpoint is used) or of weights; `shipped`: the weights in the package."""
    encoder: Path
    """What tells how alike images are: a folder written by `reimagen encode-train`, or a CLIP's."""
    out: Path
    """Folder to write, or to go on with: an image file each, before_and_after.png, losses.png, grid.png, sample.json,
    seedselect.json (the losses of every iteration), and search/ with the noises."""
    what: Annotated[PromptOptions, tyro.conf.arg(name="")] = field(default_factory=PromptOptions)
    references: Count = 4
    """The first so many of the references given, pinned and found are what is searched by; --k says how many of them
    the network sees besides."""
    eta: Share | None = None
    """From 0 (every step strengthens the neighbours) to 1 (every step the text); default as in the experiment."""
    how: Annotated[SamplingOptions, tyro.conf.arg(name="")] = field(
        default_factory=lambda: SamplingOptions(steps=10, solver="ddim", batch_size=8)
    )
    stages: Annotated[CascadeOptions, tyro.conf.arg(name="")] = field(default_factory=CascadeOptions)
    preset: Preset = "ours"
    """Whose search it is, where nothing else is said below: ours, the paper's, or the published code's."""
    search: Annotated[SeedSelectConfig, tyro.conf.arg(name="")] = OURS
    overwrite: bool = False
    """Begin anew where the folder in --out, if this command wrote it, holds another search; one of another kind, or
    with other files in it, is kept."""

    def run(self) -> None:
        """Searches, draws and saves. Raises `UserError` on bad options or input."""
        from reimagen_jax.api import SEARCH, search_by
        from reimagen_jax.files import growing_dir

        self.what.check()
        require(
            bool(self.what.knowledge_base or self.what.reference),
            "a search needs references: give --knowledge-base DIR, or --reference IMAGE CAPTION",
        )
        with growing_dir(self.out, kind="seeds"):
            if self.overwrite:
                shutil.rmtree(self.out / SEARCH, ignore_errors=True)
            (self.out / SEARCH).mkdir(exist_ok=True)
            models = [self._open(path) for path in (self.model, *(stage.model for stage in self.stages.cascade))]
            seen = self.what.resolved(models[0].config)
            prompts = dataclasses.replace(seen, k=max(seen.k, self.references)).gather(models[0].config)
            say_left_out([prompt.left_out for prompt in prompts])
            pipeline = self._pipeline(models, seen.k)
            searched = search_by(pipeline, models, prompts, self.how.num_images, self.references)
            command = command_line("seedselect", self._resolved(seen, pipeline))
            searched.write(self.out, {"command": command, "data": seen.sources(models[0].config)}, command=command)
        lower = sum(found.facts["best"] > 0 for found in searched.selected)
        say(f"{len(searched.selected)} images of {len(prompts)} prompts in {self.out}; {lower} better than at first")

    def _open(self, path: Path) -> "Model":
        return open_drawing(path, self.how.text_encoder, on_host=True)

    def _pipeline(self, models: "list[Model]", k: int) -> "Pipeline":
        """The stages, the first of which searches."""
        from reimagen_jax.api import SEARCH
        from reimagen_jax.encoders.vectors import open_encoder
        from reimagen_jax.inference.pipeline import Pipeline
        from reimagen_jax.inference.searching import SearchedStage

        settings = self.how.settings(models[0].config.system.sampler)
        settings = settings if self.eta is None else dataclasses.replace(settings, eta=self.eta)
        plain, *later = self.stages.pipeline(models, self.how, settings, k).stages
        typed = {f"search.{item.name}": self.spelt(f"--{item.name}") for item in dataclasses.fields(SeedSelectConfig)}
        with as_typed(self.how.typed() | typed):
            encoder = open_encoder(self.encoder)
            first = SearchedStage.of(plain, encoder=encoder, search=self.search, folder=self.out / SEARCH)
        return Pipeline([first, *later], self.how.seed)

    def _resolved(self, what: PromptOptions, pipeline: "Pipeline") -> "SeedSelect":
        """The same with nothing left to the experiment."""
        how, stages = self.how.resolved(pipeline.settings), self.stages.resolved(pipeline)
        return dataclasses.replace(self, eta=pipeline.settings.eta, what=what, how=how, stages=stages)


COMMAND = SeedSelect


def main(args: Sequence[str]) -> None:
    """Parses and runs; `args` are those after `seedselect`."""
    with_preset = type("SeedSelect", (SeedSelect,), {"__doc__": SeedSelect.__doc__, **_defaults(args)})
    command: Any = dataclasses.dataclass(frozen=True)(with_preset)
    run(command, PROGRAM, args)


def _defaults(args: Sequence[str]) -> dict[str, Any]:
    """The search of the preset that is asked for, as a class has it; ours, where it is unknown: tyro says so."""
    words = [word for arg in args for word in arg.split("=", 1)] + [""]
    name = words[words.index("--preset") + 1] if "--preset" in words[:-1] else "ours"
    search = PRESETS.get(name, OURS)
    return {"search": search, "__annotations__": {"search": SeedSelect.__annotations__["search"]}}
