"""`reimagen rater`: trains and checks the network that reads EntityWorld's parameters off an image."""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from reimagen_jax.checked import Count, NonNegative, Options, Seed, Steps
from reimagen_jax.commands.usage import run_one
from reimagen_jax.terminal import say

if TYPE_CHECKING:
    from reimagen_jax.config import Experiment

DESCRIPTION = "The rater reads off an image of EntityWorld what it shows; `evaluate`, `sweep` and `demo` use it."


@dataclass(frozen=True)
class Train(Options):
    """Train a rater on fresh renders, measure it, and write it with a card that says how well it reads.

        reimagen rater train --out runs/rater

    Training goes on in a working folder with logs and checkpoints; the same command resumes there. It is that of
    `reimagen train experiments/rater32.py`, where more can be set, and whose run becomes a rater by --from-run.
    """

    out: Path
    """Folder to write; it must not exist yet."""
    workdir: Path | None = None
    """Working folder of the training: logs and checkpoints, to go on from (default: OUT.run)."""
    from_run: Path | None = None
    """Train nothing: measure and write what this run of `reimagen train` (--workdir there) has learned so far."""
    resolution: Count = 32
    """Side in pixels of the images that it is to read."""
    num_steps: Steps = 4000
    """Of the training."""
    batch_size: Count = 64
    """Renders a step."""
    learning_rate: NonNegative = 2e-3
    """At its highest; it decays to 0."""
    seed: Seed = 0
    """Of the training."""
    num_images: Count = 8192
    """Fresh renders on which the result is measured."""
    overwrite: bool = False
    """Replace the folder in --out, if this command wrote it, once the new one is complete; one of another kind, or with
    other files in it, is kept."""

    def run(self) -> None:
        """Trains, measures, writes and prints the table. Raises `UserError` on bad options.

        Exits with status 128 + its number when a signal ends the training; the same command goes on.
        """
        from reimagen_jax.commands.options import command_line
        from reimagen_jax.commands.train import require_untouched, train_experiment
        from reimagen_jax.errors import require
        from reimagen_jax.evaluation.rater import Rater
        from reimagen_jax.evaluation.rater_check import measure
        from reimagen_jax.files import atomic_dir, require_writable, write_text
        from reimagen_jax.inference.model import Model
        from reimagen_jax.reports import rater_card
        from reimagen_jax.systems.rater.settings import RaterSystemConfig

        require_writable(self.out, kind="rater", overwrite=self.overwrite)
        if self.from_run is not None:
            require_untouched(self, "out", "from_run", "num_images", "overwrite")
            run = self.from_run
        else:
            run = self.workdir or self.out.with_name(f"{self.out.name}.run")
            train_experiment(self.experiment(), run)
        model = Model.open(run, on_host=True)
        system = model.config.system
        require(isinstance(system, RaterSystemConfig), f"{run} is the run of a {system.kind}, not of a rater")
        rater = Rater.rounded(system.network, model.params)
        rater.metrics = measure(rater, self.num_images)
        command = command_line("train", dataclasses.replace(self, out=Path("DIR"), workdir=None, overwrite=False))
        command = command.replace("reimagen", "reimagen rater", 1)
        renders = (model.step or 0) * model.config.data.batch_size
        with atomic_dir(self.out, kind="rater", overwrite=self.overwrite) as folder:
            rater.save(folder)
            write_text(folder / "README.md", rater_card.card(rater, command, renders))
        say(*rater_card.table(rater.metrics).split("\n"))
        say(*rater_card.verdict(rater.metrics).split("\n"))
        say(f"rater: {self.out}")

    def experiment(self) -> "Experiment":
        """The options as settings of the training. Raises `UserError` on those that do not fit together."""
        from reimagen_jax.commands.options import as_typed
        from reimagen_jax.config import Experiment, TrainConfig
        from reimagen_jax.systems.rater.settings import RaterConfig, RaterSystemConfig, RenderData

        with as_typed({"network.resolution": "--resolution"}):
            network = RaterConfig(self.resolution)
        return Experiment(
            "rater",
            RaterSystemConfig(network),
            RenderData(batch_size=self.batch_size),
            train=TrainConfig(
                num_steps=self.num_steps,
                learning_rate=self.learning_rate,
                warmup_steps=120,  # whatever the length, so that a run may be made longer
                clip_norm=1e9,
                ema_decay=0.0,
                log_every=100,
                sample_every=0,
                seed=self.seed,
            ),
        )


@dataclass(frozen=True)
class Check(Options):
    """Measure a rater on fresh renders, and say whether it is fit for use.

    reimagen rater check
    """

    rater: Path | None = None
    """Folder written by `reimagen rater train` (default: the rater that comes with the package)."""
    num_images: Count = 8192
    """Fresh renders."""
    seed: Seed = 2
    """Of the renders; the stored measurement used 1."""

    def run(self) -> None:
        """Measures and prints the table. Raises `UserError` on bad options and when there is no rater."""
        from reimagen_jax.evaluation.rater import Rater
        from reimagen_jax.evaluation.rater_check import measure
        from reimagen_jax.reports import rater_card

        metrics = measure(Rater.open(self.rater), self.num_images, self.seed)
        say(*rater_card.table(metrics).split("\n"))
        say(*rater_card.verdict(metrics).split("\n"))


COMMANDS = {"train": Train, "check": Check}


def main(args: Sequence[str]) -> None:
    """Parses and runs; `args` are those after `rater`."""
    run_one(COMMANDS, "reimagen rater", DESCRIPTION, args)
