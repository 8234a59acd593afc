"""`reimagen train EXPERIMENT.py --workdir DIR`: triples to checkpoints, with any setting of the experiment overridden.

The settings' defaults come from the experiment file, so the command line is read when the file is known: this command
has a `main` of its own besides the fields that the other commands have.
"""

import logging
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

import tyro

from reimagen_jax.config import Experiment, load_experiment
from reimagen_jax.errors import UserError

PROGRAM = "reimagen train"


@dataclass(frozen=True)
class Train:
    """Train an experiment, or go on with one.

    Reads KNN-ImageText triples (`reimagen triples`), trains, logs to the console, TensorBoard and metrics.jsonl, draws
    sample grids, and checkpoints. When the working folder holds a checkpoint, training goes on from it; the settings
    have to be the same then, but for lengths, cadences, threads and the sampler.

    Every setting of the experiment can be given here; the values shown are those of the experiment file.
    """

    experiment_file: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="EXPERIMENT.py")]
    """Python file that defines `config = Experiment(...)`."""
    workdir: Annotated[Path, tyro.conf.arg(metavar="DIR")]
    """Folder of the run: checkpoints, logs, samples. Made if it does not exist."""
    config: Annotated[Experiment, tyro.conf.arg(name="")]
    distributed: bool = False
    """This process is one of several of one run, each started with the same command. Not needed where the environment
    says so: JAX_COORDINATOR_ADDRESS with JAX_NUM_PROCESSES and JAX_PROCESS_ID, srun, mpirun, TPU pods under GKE."""

    def run(self) -> None:
        """Trains to the end, or until a signal. Raises `UserError` on bad settings or data."""
        from reimagen_jax.data.loader import make_dataset
        from reimagen_jax.data.triples import Triples
        from reimagen_jax.evaluation.grids import training_grid
        from reimagen_jax.inference.generator import open_weights
        from reimagen_jax.pretrained.adopt import settled
        from reimagen_jax.systems.reimagen import ReImagen
        from reimagen_jax.training import distributed
        from reimagen_jax.training.loop import train

        distributed.start(self.distributed)
        # Orbax logs, with a traceback, what it raises as well; the user needs it once.
        logging.getLogger("absl").setLevel(logging.CRITICAL)
        if not self.config.data.triples:
            raise UserError("data.triples is not set: pass --data.triples DIR, a folder written by `reimagen triples`")
        config, triples = settled(self.config), Triples.open(self.config.data.triples)
        # The first read imports TFDS piece by piece: threads of the loader that begin with it can block each other.
        triples.records.fetch([0])
        config, data_fingerprint = _with_text(config, triples.fingerprint)
        system, dataset = ReImagen(config), make_dataset(triples, config)
        on_sample = None
        if config.train.sample_every:
            on_sample = training_grid(system, next(iter(dataset)), self.workdir / "samples")
        initial = None
        if config.init.weights:
            initial = lambda: open_weights(config.init.weights, on_host=True)[1]  # noqa: E731
        outcome = train(
            config,
            self.workdir,
            system,
            dataset,
            on_sample=on_sample,
            data_fingerprint=data_fingerprint,
            initial=initial,
        )
        if outcome.stopped is not None:
            sys.exit(128 + outcome.stopped)


def _with_text(config: Experiment, fingerprint: str) -> tuple[Experiment, str]:
    """The experiment with its frozen text encoder's fingerprint, and the data's with that of the embeddings."""
    frozen = config.text.frozen
    if frozen is None or not config.data.text_embeddings:
        return config, fingerprint
    from reimagen_jax.data.text_embeddings import TextEmbeddings

    store = TextEmbeddings.open(config.data.text_embeddings)
    store.check(frozen)
    text = replace(config.text, frozen=replace(frozen, fingerprint=store.encoder))
    return replace(config, text=text), f"{fingerprint}-{store.fingerprint}"


def parse(args: Sequence[str]) -> Train:
    """The command line to settings, with the experiment file's own as defaults.

    Exits with status 2 on an unknown or malformed option, 0 after `--help`. Raises `UserError` if the file is missing
    or the settings contradict each other.
    """
    path = next((Path(arg) for arg in args if arg.endswith(".py")), None)
    config = load_experiment(path) if path is not None else Experiment(name="unnamed")
    # An optional part (super_resolution) has options where the experiment has the part, instead of a subcommand.
    command = tyro.cli(
        Train,
        prog=PROGRAM,
        args=list(args),
        default=Train(tyro.MISSING, tyro.MISSING, config),
        config=(tyro.conf.AvoidSubcommands,),
    )
    if command.experiment_file != path:
        raise UserError(f"experiment file {command.experiment_file} is not a .py file")
    return command


def main(args: Sequence[str]) -> None:
    """Runs the command with the arguments after `reimagen train`."""
    parse(args).run()
