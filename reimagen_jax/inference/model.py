"""Opening models, here alone: the folder of a training run, a folder of weights (converted ones too), or `shipped`."""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import jax
from clu import parameter_overview

from reimagen_jax import randomness
from reimagen_jax.config import Experiment
from reimagen_jax.data.manifest import NAME, open_folder
from reimagen_jax.errors import UserError, require
from reimagen_jax.files import read_json
from reimagen_jax.inference.pipeline import Stage
from reimagen_jax.pretrained.finite import require_finite_tree
from reimagen_jax.pretrained.weights import WEIGHTS, fingerprint, load_params
from reimagen_jax.systems import kinds
from reimagen_jax.systems.base import Params, Settings
from reimagen_jax.training import checkpoint

SHIPPED = "shipped"
SHIPPED_MODEL = Path(__file__).parent.parent / "assets" / "entityworld32"
EXPERIMENT = "experiment.json"


@dataclass(frozen=True)
class Model:
    """An opened model, and how to know it again."""

    path: Path
    config: Experiment
    params: Params
    step: int | None
    """Of the checkpoint; None for a folder of weights."""

    @classmethod
    def open(
        cls, path: str | Path, *, text_encoder: str | Path | None = None, on_host: bool = False, step: int | None = None
    ) -> "Model":
        """Opens the averaged parameters of a run's checkpoint (the last one, or that of `step`), or weights.

        `text_encoder` is where the frozen text encoder of the model lies, if it is not where it was in training.
        With `on_host` the parameters are arrays of numpy: one device alone may not have room for what many are to
        share. Raises `UserError` when there is no model, and for a text encoder where the model has none.
        """
        path, stored = _found(path), _stored(path)
        config = _opened(stored)
        if (path / EXPERIMENT).is_file():
            if (path / NAME).is_file():  # as `reimagen export` writes it
                open_folder(path, "weights")
            require(step is None, f"{path} holds weights, not the checkpoints of a run: there is no step {step}")
            expected = jax.eval_shape(kinds.system_of(config).init, randomness.key(0))
            params = load_params(path / WEIGHTS, expected, on_host=on_host)
        else:
            step, params = checkpoint.load_ema(path, step, on_host=on_host)
            params = stored.system.opened_params(params)
            require_finite_tree(params, f"{path}, step {step}")
        if text_encoder is not None:
            config = dataclasses.replace(config, system=config.system.with_text_encoder(str(text_encoder)))
        return cls(path, config, params, step)

    @cached_property  # reports ask for it again after every row
    def digest(self) -> str:
        """SHA-256 of the parameters (the first 16 hex digits), whatever file they came from."""
        return fingerprint(self.params)[:16]

    def stage(
        self, settings: Settings | None = None, batch_size: int = 32, devices: Sequence[jax.Device] = ()
    ) -> Stage:
        """The model, to draw with these settings (default: those of its experiment), on these devices (see `Stage`)."""
        return Stage(self.config, self.params, settings, batch_size=batch_size, devices=devices)

    def facts(self) -> dict[str, str]:
        """For reports."""
        return {
            "model": self.config.name,
            "folder": str(self.path.resolve()),
            "checkpoint": "weights" if self.step is None else f"step {self.step}",
            "parameters": f"{int(parameter_overview.count_parameters(self.params)):,}",
            "SHA-256": self.digest,
        }


def experiment_of(path: str | Path) -> Experiment:
    """The experiment of a model; no weights are read. Raises `UserError` when there is none."""
    return _opened(_stored(path))


def _opened(stored: Experiment) -> Experiment:
    return dataclasses.replace(stored, system=stored.system.opened)


def _stored(path: str | Path) -> Experiment:
    """The experiment as it was written."""
    path = _found(path)
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
        "tools/convert_weights.py, for instance)",
    )
    return dataclasses.replace(config, system=config.system.adopt(experiment_of(config.init.weights).system))


def _found(path: str | Path) -> Path:
    path = SHIPPED_MODEL if str(path) == SHIPPED else Path(path)
    wanted = f"give the folder of a training run (--workdir) or of weights, or `{SHIPPED}`"
    require(path.exists(), f"{path} not found: {wanted}")
    if path.is_dir() and _holds_model(path):
        return path
    of = next((folder for folder in path.parents if _holds_model(folder)), None)
    require(of is None, f"{path} is a part of the model in {of}: give that folder")
    require(path.is_dir(), f"{path} is a file: {wanted}")
    raise UserError(f"{path} holds no model, neither {EXPERIMENT} nor a run's run.json: {wanted}")


def _holds_model(folder: Path) -> bool:
    return any((folder / name).is_file() for name in (EXPERIMENT, "run.json"))
