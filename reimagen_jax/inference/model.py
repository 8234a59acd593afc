"""Opening models, here alone: the folder of a training run, a folder of weights (converted ones too), or `shipped`."""

import dataclasses
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import jax
from clu import parameter_overview

from reimagen_jax import randomness, stores
from reimagen_jax.checked import Checked, Natural, NonNegative, Share, parse
from reimagen_jax.config import Experiment, SystemConfig
from reimagen_jax.data.manifest import NAME, open_folder
from reimagen_jax.encoders import dual
from reimagen_jax.encoders.settings import DualConfig, JointConfig, LpipsConfig, RepresentationConfig
from reimagen_jax.errors import UserError, require
from reimagen_jax.files import read_json, write_json
from reimagen_jax.inference.pipeline import Stage, shared
from reimagen_jax.pretrained.finite import require_finite_tree
from reimagen_jax.pretrained.weights import WEIGHTS, fingerprint, load_params
from reimagen_jax.systems import kinds
from reimagen_jax.systems.base import Params, Settings, System
from reimagen_jax.systems.dual.settings import ClipSystemConfig, DualSystemConfig
from reimagen_jax.systems.mage.settings import LpipsWeights
from reimagen_jax.systems.moco.settings import MocoConfig
from reimagen_jax.training import checkpoint

SHIPPED = "shipped"
SHIPPED_MODEL = Path(__file__).parent.parent / "assets" / "entityworld32"
EXPERIMENT = "experiment.json"
CHOSEN = "guidance.json"


@dataclass(frozen=True)
class Chosen(Checked):
    """Numbers of guidance by which a run draws in place of its experiment's: `guidance.json` in its folder."""

    step: Natural
    """Of the checkpoint that they were chosen for."""
    by: str
    """What was measured."""
    eta: Share | None = None
    text_weight: NonNegative | None = None
    neighbour_weight: NonNegative | None = None

    @property
    def numbers(self) -> dict[str, float]:
        """Those that were chosen."""
        own = {name: getattr(self, name) for name in ("eta", "text_weight", "neighbour_weight")}
        return {name: value for name, value in own.items() if value is not None}

    def write(self, run: Path) -> None:
        """Into the folder of a run, also in a bucket. Raises `UserError` where that cannot be reached."""
        said = {name: value for name, value in dataclasses.asdict(self).items() if value is not None}
        with stores.told(run):
            write_json(run / CHOSEN, said)

    @staticmethod
    def read(run: Path) -> "Chosen | None":
        """Of the folder of a run; None where nothing was chosen. Raises `UserError` as `write` does."""
        with stores.told(run):
            if not (run / CHOSEN).is_file():
                return None
            return parse(Chosen, read_json(run / CHOSEN, "the guidance of a run"), str(run / CHOSEN))

    @staticmethod
    def forget(run: Path) -> None:
        """Lets a run draw as its experiment says. Raises `UserError` as `write` does."""
        with stores.told(run):
            (run / CHOSEN).unlink(missing_ok=True)

    def __str__(self) -> str:
        told = ", ".join(f"{name.replace('_', ' ')} {value:g}" for name, value in self.numbers.items())
        return f"{told}, chosen at step {self.step} by {self.by}"


def _shapes(system: System) -> Params:
    return jax.eval_shape(system.init, randomness.key(0))


@dataclass(frozen=True)
class Model:
    """An opened model, and how to know it again."""

    path: Path
    config: Experiment
    params: Params
    step: int | None
    """Of the checkpoint; None for a folder of weights."""
    chosen: Chosen | None = None
    """Where the guidance of `config` is not that of the experiment."""

    @classmethod
    def open(
        cls, path: str | Path, *, text_encoder: str | Path | None = None, on_host: bool = False, step: int | None = None
    ) -> "Model":
        """Opens the averaged parameters of a run's checkpoint (the last one, or that of `step`), or weights.

        `text_encoder` is where the frozen text encoder of the model lies, if it is not where it was in training.
        With `on_host` the parameters are arrays of numpy: one device alone may not have room for what many are to
        share. Raises `UserError` when there is no model, and for a text encoder where the model has none.
        """
        path, stored, chosen = _found(path), _stored(path), None
        config = _opened(stored)
        if stores.kind(path) and (path / EXPERIMENT).is_file():  # read from a copy
            with tempfile.TemporaryDirectory(prefix="reimagen_jax_") as folder:
                with stores.told(path):
                    stores.fetch(path, Path(folder))
                opened = cls.open(folder, text_encoder=text_encoder, on_host=on_host, step=step)
            return dataclasses.replace(opened, path=path)
        if (path / EXPERIMENT).is_file():
            if (path / NAME).is_file():  # as `reimagen export` writes it
                open_folder(path, "weights")
            require(step is None, f"{path} holds weights, not the checkpoints of a run: there is no step {step}")
            params = load_params(path / WEIGHTS, shared(_shapes, kinds.system_of(config)), on_host=on_host)
        else:
            step, params = checkpoint.load_ema(path, step, on_host=on_host)
            params = stored.system.opened_params(params)
            require_finite_tree(params, f"{path}, step {step}")
            chosen = Chosen.read(path) if hasattr(config.system, "sampler") else None
            if chosen is not None:
                sampler = config.system.sampler.changed(**chosen.numbers)
                config = dataclasses.replace(config, system=dataclasses.replace(config.system, sampler=sampler))
        if text_encoder is not None:
            config = dataclasses.replace(config, system=config.system.with_text_encoder(str(text_encoder)))
        return cls(path, config, params, step, chosen)

    @cached_property  # reports ask for it again after every row
    def digest(self) -> str:
        """SHA-256 of the parameters (the first 16 hex digits), whatever file they came from."""
        return fingerprint(self.params)[:16]

    def stage(
        self, settings: Settings | None = None, batch_size: int = 32, devices: Sequence[jax.Device] = ()
    ) -> Stage:
        """The model, to draw with these settings (default: those of its experiment), on these devices (see `Stage`)."""
        return Stage(self.config, self.params, settings, batch_size=batch_size, devices=devices, shared=True)

    def facts(self) -> dict[str, str]:
        """For reports."""
        return {
            "model": self.config.name,
            "folder": str(self.path if stores.kind(self.path) else self.path.resolve()),
            "checkpoint": "weights" if self.step is None else f"step {self.step}",
            "parameters": f"{int(parameter_overview.count_parameters(self.params)):,}",
            "SHA-256": self.digest,
            **({"guidance": str(self.chosen)} if self.chosen else {}),
        }

    def choose(self, by: str, **numbers: float) -> None:
        """Lets the run draw by these numbers of guidance from now on, where nothing else is asked for, whoever opens or
        exports it; deleting `guidance.json` in its folder undoes that. Raises `UserError` for a folder of weights."""
        self.require_run()
        Chosen(self.step, by, **numbers).write(self.path)

    def require_run(self) -> None:
        """Raises `UserError` for a folder of weights."""
        require(
            self.step is not None,
            f"{self.path} holds weights, which stay as they are: choose guidance for the training run, then export it; "
            f"or edit the sampler in {EXPERIMENT} of a copy",
        )


def experiment_of(path: str | Path) -> Experiment:
    """The experiment of a model; no weights are read. Raises `UserError` when there is none."""
    return _opened(_stored(path))


def _opened(stored: Experiment) -> Experiment:
    return dataclasses.replace(stored, system=stored.system.opened)


def _stored(path: str | Path) -> Experiment:
    """The experiment as it was written."""
    path = _found(path)
    with stores.told(path):
        if (path / EXPERIMENT).is_file():
            return kinds.from_dict(read_json(path / EXPERIMENT, "a model's settings"))
        return kinds.from_dict(checkpoint.read_run(path)["experiment"])


def settled(config: Experiment, before: Experiment | None = None) -> Experiment:
    """The experiment as it is trained: its network taken over from its weights, where it says so.

    A run that goes on has taken it over already: `before` are its settings. Raises `UserError` when `init.adopt` is set
    without `init.weights`, and when these are no model.
    """
    if not config.init.adopt:
        return config
    if before is not None:
        return dataclasses.replace(config, system=config.system.adopt(before.system))
    require(
        bool(config.init.weights),
        f"{config.name} takes its network over from weights: pass --init.weights DIR (written by "
        "tools/convert_weights.py, for instance; a CLIP's, for a prior or a decoder)",
    )
    system = config.system
    for folder in (config.init.weights, *config.init.beside):
        system = system.adopt(start_of(folder)[0])
    return dataclasses.replace(config, system=system)


def begin_of(config: Experiment) -> Params:
    """The parameters that a run begins with: those of its weights, and of what stands beside them."""
    params = config.system.begun(start_of(config.init.weights)[1]())
    for folder in config.init.beside:
        params = {**params, **config.system.begun(start_of(folder)[1]())}
    return params


def start_of(folder: str | Path) -> tuple[SystemConfig, Callable[[], Params]]:
    """Settings and parameters of what a run starts from: a model, or an encoder that `reimagen encode-train` wrote."""
    path = placed(folder)
    if (path / dual.SETTINGS).is_file():
        encoder = dual.open(path)
        kinds_of = {
            JointConfig: ClipSystemConfig,
            DualConfig: DualSystemConfig,
            RepresentationConfig: MocoConfig,
            LpipsConfig: LpipsWeights,
        }
        kind = kinds_of[type(encoder.config)]
        return kind(network=encoder.config), lambda: encoder.params
    return experiment_of(path).system, lambda: Model.open(path, on_host=True).params


def placed(path: str | Path) -> Path:
    """Where a model lies that is asked for by this name."""
    return SHIPPED_MODEL if str(path) == SHIPPED else stores.place(path)


def _found(path: str | Path) -> Path:
    path = placed(path)
    wanted = f"give the folder of a training run (--workdir) or of weights, or `{SHIPPED}`"
    if stores.kind(path):
        with stores.told(path):
            require(_holds_model(path), f"{path} holds no model, neither {EXPERIMENT} nor a run's run.json: {wanted}")
        return path
    require(path.exists(), f"{path} not found: {wanted}")
    if path.is_dir() and _holds_model(path):
        return path
    of = next((folder for folder in path.parents if _holds_model(folder)), None)
    require(of is None, f"{path} is a part of the model in {of}: give that folder")
    require(path.is_dir(), f"{path} is a file: {wanted}")
    raise UserError(f"{path} holds no model, neither {EXPERIMENT} nor a run's run.json: {wanted}")


def _holds_model(folder: Path) -> bool:
    return any((folder / name).is_file() for name in (EXPERIMENT, "run.json"))
