"""`reimagen sweep`: prompts over eta, from all neighbours to all text, as a report (HTML and PNG)."""

import dataclasses
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from reimagen_jax.checked import Options, Share
from reimagen_jax.commands.options import (
    PromptOptions,
    SamplingOptions,
    command_line,
    open_drawing,
    warn_without_neighbours,
)
from reimagen_jax.errors import UserError, require
from reimagen_jax.systems.reimagen.settings import ETAS

if TYPE_CHECKING:
    from reimagen_jax.config import Experiment
    from reimagen_jax.evaluation.sweeps import Sweep as DrawnSweep
    from reimagen_jax.inference.prompts import Prompt


@dataclass(frozen=True)
class Sweep(Options):
    """Draw prompts at a range of eta, from all neighbours (0) to all text (1), and once without neighbours:
        reimagen sweep --model runs/train --records runs/test --knowledge-base runs/index --out runs/sweep

    Writes report.html (one file that needs nothing else), report.png and sweep.json. Prompts and neighbours are given
    as for `reimagen sample`. Where the prompts are captions of EntityWorld records, the images are rated as well.
    """

    model: Path
    """Folder of a training run (its last checkpoint is used) or of weights; `shipped`: the weights in the package."""
    out: Path
    """Folder to write."""
    what: Annotated[PromptOptions, tyro.conf.arg(name="")] = field(default_factory=PromptOptions)
    etas: tuple[Share, ...] = ETAS
    """One column each, between 0 and 1."""
    how: Annotated[SamplingOptions, tyro.conf.arg(name="")] = field(default_factory=SamplingOptions)
    rater: Path | None = None
    """A rater of EntityWorld for the model's resolution (default: the one that comes with the package)."""
    overwrite: bool = False
    """Replace an existing output folder, once the new one is complete."""

    def run(self) -> None:
        """Draws, rates where that is possible, and writes the report. Raises `UserError` on bad options or input."""
        from reimagen_jax.api import sweep_by
        from reimagen_jax.files import atomic_dir
        from reimagen_jax.reports.report import PAGE

        self._check()
        with atomic_dir(self.out, kind="sweep", overwrite=self.overwrite) as folder:
            model = open_drawing(self.model, self.how.text_encoder)
            prompts = self._prompts(model.config)
            swept = sweep_by(
                self.how.pipeline(model, prompts),
                model,
                prompts,
                self.etas,
                self.how.num_images,
                rater=self.rater,
                command=lambda drawn: self._command(model.config, drawn),
                data=self.what.sources(),
            )
            swept.write(folder)
        print(f"report: {self.out / PAGE}")

    def _command(self, config: "Experiment", drawn: "DrawnSweep") -> str:
        """The command line with nothing left to the experiment."""
        what, how = self.what.resolved(config), self.how.resolved(drawn.sampler)
        return command_line("sweep", dataclasses.replace(self, etas=drawn.etas, what=what, how=how))

    def _check(self) -> None:
        """Raises `UserError` on options that make no sense; opens nothing."""
        self.what.check()
        require(len(self.etas) > 0, "--etas is empty: give at least one value between 0 and 1")
        require(self.what.k != 0, "--k 0 leaves a sweep nothing to weigh against the text: at least 1 is needed")
        require(
            bool(self.what.knowledge_base or self.what.reference),
            "a sweep needs neighbours: give --knowledge-base DIR, or --reference IMAGE CAPTION",
        )

    def _prompts(self, config: "Experiment") -> "list[Prompt]":
        prompts = self.what.gather(config)
        warn_without_neighbours(prompts)
        if not any(prompt.neighbours for prompt in prompts):
            raise UserError(
                f"no neighbours were found for any prompt: no caption in {self.what.knowledge_base} shares a word"
            )
        return prompts
