"""`reimagen sweep`: prompts over eta, from all neighbours to all text, as a report (HTML and PNG)."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from reimagen_jax.commands.options import PromptOptions, SamplingOptions, command_line, warn_without_neighbours
from reimagen_jax.config import require
from reimagen_jax.errors import UserError

if TYPE_CHECKING:
    from reimagen_jax.evaluation.ratings import Ratings
    from reimagen_jax.evaluation.sweeps import Sweep as DrawnSweep
    from reimagen_jax.inference.prompts import Prompt

ETAS = tuple(i / 10 for i in range(11))


@dataclass(frozen=True)
class Sweep:
    """Draw prompts at a range of eta, from all neighbours (0) to all text (1), and once without neighbours.

        reimagen sweep --model runs/train --records runs/test --knowledge-base runs/index --out runs/sweep

    Writes report.html (one file that needs nothing else), report.png and sweep.json. Prompts and neighbours are given as
    for `reimagen sample`. Where the prompts are captions of EntityWorld records, the images are rated as well.
    """

    model: Path
    """Folder of a training run (its last checkpoint is used) or of weights; `shipped`: the weights in the package."""
    out: Path
    """Folder to write."""
    what: Annotated[PromptOptions, tyro.conf.arg(name="")] = field(default_factory=PromptOptions)
    etas: tuple[float, ...] = ETAS
    """One column each, between 0 and 1."""
    how: Annotated[SamplingOptions, tyro.conf.arg(name="")] = field(default_factory=SamplingOptions)
    overwrite: bool = False
    """Replace an existing output folder, once the new one is complete."""

    def run(self) -> None:
        """Draws, rates where that is possible, and writes the report. Raises `UserError` on bad options or input."""
        from reimagen_jax.commands.provenance import Model
        from reimagen_jax.evaluation.sweeps import draw_sweep
        from reimagen_jax.files import atomic_dir

        require(len(self.etas) > 0, "--etas is empty: give at least one value between 0 and 1")
        require(all(0 <= eta <= 1 for eta in self.etas), f"--etas {self.etas}: every value is between 0 and 1")
        with atomic_dir(self.out, overwrite=self.overwrite) as folder:
            model = Model.open(self.model)
            sampler = self.how.settings(model.config.sampler)
            prompts = self._prompts(model.config)
            generator = model.generator(sampler, self.how, prompts)
            sweep = draw_sweep(generator, prompts, sorted(set(self.etas)), self.how.num_images)
            ratings, why = rate_if_possible(sweep)
            ...

    def _prompts(self, config) -> "list[Prompt]":
        if not (self.what.knowledge_base or self.what.reference):
            raise UserError("a sweep needs neighbours: give --knowledge-base DIR, or --reference IMAGE CAPTION")
        require(self.what.k != 0, "--k 0 leaves a sweep nothing to weigh against the text: at least 1 is needed")
        prompts = self.what.gather(config)
        warn_without_neighbours(prompts)
        if not any(prompt.neighbours for prompt in prompts):
            raise UserError("no neighbours were found for any prompt: --knowledge-base has no caption that shares a word")
        return prompts
