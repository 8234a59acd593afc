"""`reimagen rater`: trains and checks the network that reads EntityWorld's parameters off an image."""

import dataclasses
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

DESCRIPTION = "The rater reads off an image of EntityWorld what it shows; `evaluate`, `sweep` and `demo` use it."


@dataclass(frozen=True)
class Train:
    """Train a rater on fresh renders, measure it, and write it with a card that says how well it reads.

    reimagen rater train --out runs/rater
    """

    out: Path
    """Folder to write; it must not exist yet."""
    resolution: int = 32
    """Side in pixels of the images that it is to read."""
    num_steps: int = 4000
    batch_size: int = 64
    """Renders a step."""
    learning_rate: float = 2e-3
    """At its highest; it decays to 0."""
    seed: int = 0
    num_images: int = 8192
    """Fresh renders on which the result is measured."""
    overwrite: bool = False
    """Replace an existing output folder, once the new one is complete."""

    def run(self) -> None:
        """Trains, measures, writes and prints the table. Raises `UserError` on bad options."""
        from reimagen_jax.commands.options import command_line
        from reimagen_jax.config import require
        from reimagen_jax.evaluation import rater_card
        from reimagen_jax.evaluation.rater import Rater
        from reimagen_jax.evaluation.rater_check import measure
        from reimagen_jax.evaluation.rater_net import RaterConfig
        from reimagen_jax.evaluation.rater_training import RaterTraining, train
        from reimagen_jax.files import atomic_dir, write_text
        from reimagen_jax.progress import track

        require(self.num_images > 0, f"--num-images {self.num_images}: at least 1 is needed")
        config = RaterConfig(self.resolution)
        training = RaterTraining(self.num_steps, self.batch_size, self.learning_rate, seed=self.seed)
        with atomic_dir(self.out, overwrite=self.overwrite) as folder:
            steps = track(train(config, training), self.num_steps, "training the rater", "step")
            params, _ = deque(steps, maxlen=1).pop()
            rater = Rater.rounded(config, params)
            rater.metrics = measure(rater, self.num_images)
            rater.save(folder)
            command = command_line("train", dataclasses.replace(self, out=Path("DIR"), overwrite=False))
            command = command.replace("reimagen", "reimagen rater", 1)
            write_text(folder / "README.md", rater_card.card(rater, command, self.num_steps * self.batch_size))
        print(rater_card.table(rater.metrics))
        print(rater_card.verdict(rater.metrics))
        print(f"rater: {self.out}")


@dataclass(frozen=True)
class Check:
    """Measure a rater on fresh renders, and say whether it is fit for use.

    reimagen rater check
    """

    rater: Path | None = None
    """Folder written by `reimagen rater train` (default: the rater that comes with the package)."""
    num_images: int = 8192
    """Fresh renders."""
    seed: int = 2
    """Of the renders; the stored measurement used 1."""

    def run(self) -> None:
        """Measures and prints the table. Raises `UserError` on bad options and when there is no rater."""
        from reimagen_jax.config import require
        from reimagen_jax.evaluation import rater_card
        from reimagen_jax.evaluation.rater import Rater
        from reimagen_jax.evaluation.rater_check import measure

        require(self.num_images > 0, f"--num-images {self.num_images}: at least 1 is needed")
        metrics = measure(Rater.open(self.rater), self.num_images, self.seed)
        print(rater_card.table(metrics))
        print(rater_card.verdict(metrics))


def main(args: Sequence[str]) -> None:
    """Parses and runs; `args` are those after `rater`."""
    import tyro

    commands = {"train": Train, "check": Check}
    tyro.extras.subcommand_cli_from_dict(commands, prog="reimagen rater", description=DESCRIPTION, args=args).run()
