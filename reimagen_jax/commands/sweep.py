"""`reimagen sweep`: prompts over eta, from all neighbours to all text, as a report (HTML and PNG)."""

import dataclasses
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from reimagen_jax.commands.options import PromptOptions, SamplingOptions, command_line, warn_without_neighbours
from reimagen_jax.config import SamplerConfig, require
from reimagen_jax.errors import UserError

if TYPE_CHECKING:
    from reimagen_jax.commands.provenance import Model
    from reimagen_jax.config import Experiment
    from reimagen_jax.evaluation.rater import Rater
    from reimagen_jax.evaluation.report import Report
    from reimagen_jax.evaluation.sweeps import Sweep as DrawnSweep
    from reimagen_jax.inference.prompts import Prompt

ETAS = tuple(i / 10 for i in range(11))
RESULTS = "sweep.json"


@dataclass(frozen=True)
class Sweep:
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
    etas: tuple[float, ...] = ETAS
    """One column each, between 0 and 1."""
    how: Annotated[SamplingOptions, tyro.conf.arg(name="")] = field(default_factory=SamplingOptions)
    rater: Path | None = None
    """A rater of EntityWorld for the model's resolution (default: the one that comes with the package)."""
    overwrite: bool = False
    """Replace an existing output folder, once the new one is complete."""

    def run(self) -> None:
        """Draws, rates where that is possible, and writes the report. Raises `UserError` on bad options or input."""
        from reimagen_jax.commands.provenance import Model, as_json
        from reimagen_jax.evaluation.report import PAGE, write_report
        from reimagen_jax.evaluation.sweeps import draw_sweep
        from reimagen_jax.files import atomic_dir, write_json

        self._check()
        with atomic_dir(self.out, overwrite=self.overwrite) as folder:
            model = Model.open(self.model, self.how.text_encoder)
            sampler = self.how.settings(model.config.sampler)
            prompts = self._prompts(model.config)
            rater, why_unrated = self._rater(prompts, model.config.resolution)
            generator = model.generator(sampler, self.how, prompts)
            sweep = draw_sweep(generator, prompts, sorted(set(self.etas)), self.how.num_images)
            report = self._report(model, sweep, rater, why_unrated)
            write_report(report, folder)
            write_json(folder / RESULTS, as_json(report, model.config))
        print(f"report: {self.out / PAGE}")

    def _rater(self, prompts: "list[Prompt]", resolution: int) -> "tuple[Rater | None, str]":
        """The rater, or a sentence that says why there is none; before anything is drawn, as opening it may fail."""
        from reimagen_jax.evaluation.rater import Rater
        from reimagen_jax.evaluation.ratings import why_unrated

        if why := why_unrated(prompts):
            return None, why
        rater = Rater.open(self.rater)
        if rater.config.resolution == resolution:
            return rater, ""
        sides = f"{rater.config.resolution} x {rater.config.resolution}", f"{resolution} x {resolution}"
        return (
            None,
            f"There are no curves: the rater reads images of {sides[0]} pixels, these have {sides[1]} (--rater).",
        )

    def _report(self, model: "Model", sweep: "DrawnSweep", rater: "Rater | None", why_unrated: str) -> "Report":
        """Rates the sweep where a rater applies, and notes everything that draws it again."""
        from reimagen_jax.commands.provenance import sampler_facts, versions
        from reimagen_jax.evaluation.ratings import rate
        from reimagen_jax.evaluation.report import Report

        what, how = self.what.resolved(model.config), self.how.resolved(sweep.sampler)
        return Report(
            title=f"From neighbours to text: {model.config.name}",
            introduction=(
                f"{_count(len(sweep.prompts), 'prompt', 'prompts')}, {_count(len(sweep.etas), 'value', 'values')} of η "
                f"and the same without neighbours, {_count(sweep.num_seeds, 'image', 'images')} of each."
            ),
            sweep=sweep,
            command=command_line("sweep", dataclasses.replace(self, etas=sweep.etas, what=what, how=how)),
            settings={
                "Model": model.facts(),
                "Data": self.what.sources(),
                "Sampler": sampler_facts(sweep.sampler, self.how),
                "Versions": versions(),
            },
            ratings=rate(sweep, rater) if rater is not None else None,
            why_unrated=why_unrated,
        )

    def _check(self) -> None:
        """Raises `UserError` on options that make no sense; opens nothing."""
        self.what.check()
        self.how.settings(SamplerConfig())
        require(len(self.etas) > 0, "--etas is empty: give at least one value between 0 and 1")
        require(all(0 <= eta <= 1 for eta in self.etas), f"--etas {self.etas}: every value is between 0 and 1")
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


def _count(n: int, one: str, more: str) -> str:
    return f"{n} {one if n == 1 else more}"
