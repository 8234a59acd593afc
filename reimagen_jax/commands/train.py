"""`reimagen train EXPERIMENT.py --workdir DIR`: data to checkpoints, with any setting of the experiment overridden.

The settings' defaults come from the experiment file, so the command line is read when the file is known: this command
has a `main` of its own besides the fields that the other commands have.
"""

import dataclasses
import logging
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

import tyro

from reimagen_jax import stores
from reimagen_jax.commands import usage
from reimagen_jax.commands.options import PLACE
from reimagen_jax.config import Experiment, InitConfig, load_experiment, moved, places
from reimagen_jax.errors import UserError, require
from reimagen_jax.paths import local
from reimagen_jax.systems.reimagen.settings import ReImagenConfig

if TYPE_CHECKING:
    from reimagen_jax.evaluation.pictures.watching import HeldOut
    from reimagen_jax.systems.base import Params
    from reimagen_jax.training.loop import Outcome

PROGRAM = "reimagen train"


@dataclass(frozen=True)
class Train:
    """Train an experiment, whatever its system, or go on with one.

    Reads the experiment's data (for a Re-Imagen, triples written by `reimagen triples`), trains, logs to the console,
    TensorBoard and metrics.jsonl, draws sample grids, and checkpoints. When the working folder holds a checkpoint,
    training goes on from it; the settings have to be the same then, but for lengths, cadences, threads and the sampler.

    For example, and again for what is left after an interruption:
        reimagen train experiments/images32.py --workdir runs/train --data.triples runs/triples --train.num-steps 4000

    Every setting of the experiment can be given here; --help and --help-all show the values of the experiment file that
    stands before them.
    """

    common: ClassVar[tuple[str, ...]] = ()

    experiment_file: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="EXPERIMENT.py")]
    """Python file that defines `config = Experiment(...)`."""
    workdir: Annotated[Path, tyro.conf.arg(metavar="DIR"), PLACE]
    """Folder of the run: checkpoints, logs, samples. Made if it does not exist. Or a place in a bucket,
    gs://BUCKET/NAME or s3://BUCKET/NAME."""
    config: Annotated[Experiment, tyro.conf.arg(name="")]
    distributed: bool = False
    """This process is one of several of one run, each started with the same command. Not needed where the environment
    says so: JAX_COORDINATOR_ADDRESS with JAX_NUM_PROCESSES and JAX_PROCESS_ID, srun, mpirun, TPU pods under GKE."""

    def run(self) -> None:
        """Trains to the end, or until a signal. Raises `UserError` on bad settings or data."""
        from reimagen_jax.training import distributed

        distributed.start(self.distributed)
        train_experiment(self.config, self.workdir)


def train_experiment(config: Experiment, workdir: Path) -> None:
    """Trains in `workdir`, or goes on there; exits with status 128 + its number when a signal ends it before its time.

    Raises `UserError` on bad settings or data.
    """
    from reimagen_jax.evaluation.pictures.watching import HeldOut
    from reimagen_jax.inference.examples import drawing
    from reimagen_jax.inference.model import begin_of, settled
    from reimagen_jax.reports.previews import preview_hook
    from reimagen_jax.systems import kinds
    from reimagen_jax.systems.base import Fits
    from reimagen_jax.training.checkpoint import begun
    from reimagen_jax.training.loop import train
    from reimagen_jax.training.validation import validation

    # Orbax logs, with a traceback, what it raises as well; the user needs it once.
    logging.getLogger("absl").setLevel(logging.CRITICAL)
    workdir, said = stores.place(workdir), config.data
    for path in places(config):  # before anything is copied
        stores.place(path)
    copies = {path: staged(path, said.stage) for path in places(said)}
    config = dataclasses.replace(config, data=moved(said, copies.__getitem__))
    for path in places(dataclasses.replace(config, init=InitConfig())):
        local(path)
    feed = kinds.feed_of(settled(config, begun(workdir))).settled()
    addresses, dataset = {copy: path for path, copy in copies.items()}, feed.dataset()
    config = dataclasses.replace(feed.config, data=moved(feed.config.data, lambda path: addresses.get(path, path)))
    system, initial = kinds.system_of(config), None
    if config.init.weights:

        def initial() -> "Params":
            params = begin_of(config)
            return feed.fitted(params) if isinstance(feed, Fits) else params

    draw = drawing(system)
    held_out = HeldOut.of(feed, draw)
    watches = (validation(system, feed, config.train), None if held_out is None else held_out.watch)
    outcome = train(
        config,
        workdir,
        system,
        dataset,
        on_sample=preview_hook(system, feed, dataset, workdir / "samples", draw),
        data_fingerprint=feed.fingerprint,
        initial=initial,
        watches=[watch for watch in watches if watch is not None],
    )
    if outcome.stopped is not None:
        sys.exit(128 + outcome.stopped)
    if held_out is not None and outcome.taken:
        keep_guidance(held_out, outcome, workdir)


def keep_guidance(held_out: "HeldOut", outcome: "Outcome", workdir: Path) -> None:
    """Lets a run draw by other weights than its experiment's, where those draw held-out examples better; says so. What
    was chosen for fewer steps is no more."""
    import jax

    from reimagen_jax.inference.model import CHOSEN, Chosen
    from reimagen_jax.training import telemetry

    found = held_out.better_guidance(outcome.state.averaged)
    if jax.process_index() != 0:
        return
    if found:
        chosen = Chosen(outcome.step, f"likeness of {len(held_out)} held-out examples", **found)
        chosen.write(workdir)
        telemetry.say(f"guidance: {chosen}; so the run draws from now on ({workdir / CHOSEN})")
    else:
        Chosen.forget(workdir)
        telemetry.say("guidance: no other draws held-out examples better than the experiment's")


def staged(path: str, folder: str) -> str:
    """Where what lies at `path` is read: there, or in its copy in `folder` where it is in a bucket (`data.stage`)."""
    if stores.kind(path) is None:
        return path
    require(
        bool(folder),
        f"{path} is in a bucket, which is not read example by example: pass --data.stage DIR, a folder of this machine "
        "with room for a copy",
    )
    from reimagen_jax.data.staging import stage

    return str(stage(path, local(folder)))


def require_untouched(command: Any, *others: str) -> None:
    """Raises `UserError` for an option of a training, of all but `others`, that is given where nothing is trained."""
    for item in dataclasses.fields(command):
        if item.name not in others and getattr(command, item.name) != item.default:
            option = item.name.replace("_", "-")
            raise UserError(f"--{option} is about a training, but with --from-run nothing is trained: leave it out")


def unnamed() -> Train:
    """What is left to the command line where there is no experiment file: all of a Re-Imagen's settings."""
    return Train(tyro.MISSING, tyro.MISSING, Experiment("unnamed", ReImagenConfig()))


def parse(args: Sequence[str]) -> Train:
    """The command line to settings, with the experiment file's own as defaults.

    Exits with status 2 on an unknown or malformed option, 0 after `--help`. Raises `UserError` if the file is missing
    or the settings contradict each other.
    """
    path = next((Path(arg) for arg in args if arg.endswith(".py")), None)
    default = unnamed() if path is None else dataclasses.replace(unnamed(), config=load_experiment(path))
    # An optional part (super_resolution) has options where the experiment has the part, instead of a subcommand.
    command = usage.parse(Train, PROGRAM, args, default, config=(tyro.conf.AvoidSubcommands,))
    if command.experiment_file != path:
        raise UserError(f"experiment file {command.experiment_file} is not a .py file")
    return command


COMMAND = Train


def main(args: Sequence[str]) -> None:
    """Runs the command with the arguments after `reimagen train`."""
    parse(args).run()
