"""Checkpoints of a run: state and data position together, written in the background, whole or not at all.

A working folder holds `run.json` (the experiment, and the fingerprint of its data) and `checkpoints/<step>/`, each with
`state` (step, params, ema, opt_state) and `data` (the position of the input pipeline, one file per process). Orbax
writes a checkpoint under a temporary name and renames it when it is complete, so a killed run leaves only whole ones.
"""

import fcntl
import json
import re
from collections.abc import Iterator
from contextlib import closing, contextmanager, nullcontext
from pathlib import Path
from typing import Any, TextIO

import grain.checkpoint
import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp

from reimagen_jax.config import Experiment, differences, is_free, places, to_dict
from reimagen_jax.errors import UserError
from reimagen_jax.files import read_json, write_json
from reimagen_jax.systems import kinds
from reimagen_jax.systems.base import Params
from reimagen_jax.training import distributed
from reimagen_jax.training.state import TrainState

FORMAT = 1
"""Of `run.json`."""


@contextmanager
def claim(workdir: Path) -> Iterator[None]:
    """Makes `workdir` and holds it for this process. Raises `UserError` if it is unwritable or another run has it.

    The lock is the operating system's: it goes with the process, however that ends. Of several processes of one run,
    the first holds it for all.
    """
    lock = distributed.on_first_process(lambda: _lock(workdir))
    with lock or nullcontext():
        yield


def _lock(workdir: Path) -> TextIO:
    try:
        workdir.mkdir(parents=True, exist_ok=True)
        lock = (workdir / ".lock").open("w")
    except OSError as error:
        raise UserError(f"cannot write to --workdir {workdir}: {error.strerror}; choose another folder") from error
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        lock.close()
        raise UserError(f"another run is training in {workdir}: wait for it, or choose another --workdir") from None
    return lock


def read_run(workdir: Path) -> dict[str, Any]:
    """The contents of `run.json`. Raises `UserError` if it is missing, broken or of another version."""
    run = read_json(workdir / "run.json", "the record of a training run")
    if not isinstance(run, dict) or run.get("format") != FORMAT:
        raise UserError(f"{workdir / 'run.json'} is not of format {FORMAT}: it was written by another version")
    return run


def settle(workdir: Path, config: Experiment, data_fingerprint: str, step: int | None) -> Experiment | None:
    """Writes `run.json`, or checks it when the run resumes at `step`; returns the settings that it had then.

    Raises `UserError` naming the fields that differ and may not (all but those marked `config.FREE`), or if the data
    are not the same.
    """
    history: list[dict[str, Any]] = []
    before = None
    if step is not None:
        run = read_run(workdir)
        history = run["history"]
        before = kinds.from_dict(run["experiment"])
        changed = differences(before, config)
        fixed = [line for name, line in changed.items() if not is_free(config, name)]
        if fixed:
            raise UserError(
                f"{workdir} holds a run with other settings (there != here): {'; '.join(fixed)}. "
                "Use the same settings, or another --workdir"
            )
        if run["data"] != data_fingerprint:
            read = " or ".join(places(config.data)) or "what the data set reads"
            raise UserError(
                f"{workdir} holds a run on other data: {read} has another content than when the run began. "
                "Use the same data, or another --workdir"
            )
        if changed:
            history.append({"step": step, "changed": list(changed.values())})
    record = {"format": FORMAT, "data": data_fingerprint, "history": history, "experiment": to_dict(config)}
    distributed.on_first_process(lambda: _write_run(workdir, record))
    return before


def _write_run(workdir: Path, record: dict[str, Any]) -> None:
    with _writing(workdir / "run.json"):
        write_json(workdir / "run.json", record)


class Checkpoints:
    """The checkpoints under one working folder. Saving is asynchronous: `close` (or `wait`) before reading them."""

    def __init__(self, workdir: Path, keep: int):
        self.path = workdir.absolute() / "checkpoints"
        options = ocp.CheckpointManagerOptions(
            preservation_policy=ocp.checkpoint_managers.LatestN(keep), cleanup_tmp_directories=True
        )
        with _writing(self.path):
            self._manager = ocp.CheckpointManager(self.path, options=options)

    def latest(self) -> int | None:
        """The step of the last whole checkpoint, or None."""
        return self._manager.latest_step()

    def save(self, state: TrainState, data: Any) -> None:
        """Starts writing `state` and the position of the iterator `data`; both may move on at once.

        Orbax copies to the host, or holds the buffers, before it returns, so the next step may take `state`'s memory.
        Raises `UserError` if this checkpoint, or the one before it, cannot be written.
        """
        step = int(state.step)
        if step == self.latest():
            return
        args = ocp.args.Composite(state=ocp.args.StandardSave(state), data=grain.checkpoint.CheckpointSave(data))
        with _writing(self.path):
            self._manager.save(step, args=args)

    def restore(self, step: int, abstract: TrainState, data: Any) -> TrainState:
        """The state of `step`, placed as `abstract` says; moves the iterator `data` to its position.

        The number of devices, and of processes, may differ from when it was saved. Raises `UserError` if the checkpoint
        is damaged.
        """
        with _named(self.path / str(step)):
            state = self._manager.restore(step, args=ocp.args.Composite(state=ocp.args.StandardRestore(abstract))).state
            data.set_state(_data_position(self.path / str(step) / "data"))
        return state

    def wait(self) -> None:
        """Returns when everything saved so far is on disk."""
        with _writing(self.path):
            self._manager.wait_until_finished()

    def close(self) -> None:
        """Waits, then frees the threads."""
        with _writing(self.path):
            self._manager.close()


def load_ema(workdir: str | Path, step: int | None = None, *, on_host: bool = False) -> tuple[int, Params]:
    """The number and the averaged parameters of a run's checkpoint: of `step`, or the last one.

    Reads nothing but the average; works on any number of devices. The parameters go to the default device or,
    `on_host`, stay arrays of numpy. Raises `UserError` if there is no such checkpoint.
    """
    workdir = Path(workdir)
    read_run(workdir)
    path = workdir.absolute() / "checkpoints"
    steps = sorted(ocp.utils.checkpoint_steps(path)) if path.is_dir() else []
    if not steps:
        raise UserError(f"{workdir} holds no checkpoint yet: train until the first one is written")
    if step is not None and step not in steps:
        raise UserError(f"{workdir} holds no checkpoint of step {step}: there are {', '.join(map(str, steps))}")
    step = steps[-1] if step is None else step
    path = path / str(step)
    # The handler itself, not a Checkpointer around it: only `state` is read, and the rest need not be known here.
    with _named(path), closing(ocp.PyTreeCheckpointHandler()) as reader:
        ema = reader.metadata(path / "state").tree["ema"]
        wanted = {"ema": jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), ema)}
        as_numpy = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), wanted)
        args = ocp.args.PyTreeRestore(wanted, restore_args=as_numpy, partial_restore=True)
        ema = reader.restore(path / "state", args=args)["ema"]
    return step, ema if on_host else jax.tree.map(jnp.asarray, ema)


def _data_position(folder: Path) -> Any:
    """Where the data go on: every process has written the same, the number of the next step, so any file serves."""
    files = sorted(folder.glob("process_*-of-*.json"))
    if not files:
        raise FileNotFoundError(f"no position in {folder}")
    return json.loads(files[0].read_text(encoding="utf-8"))


@contextmanager
def _named(path: Path) -> Iterator[None]:
    """Turns what a reader raises over a damaged or foreign checkpoint into one line that names it."""
    try:
        yield
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"checkpoint {path} cannot be restored ({_reason(error)}): "
            "delete this folder to go on from the one before it"
        ) from error


@contextmanager
def _writing(path: Path) -> Iterator[None]:
    """Turns a failure to write (a full disk, above all) into one line; what was there before stays whole."""
    try:
        yield
    except (OSError, ValueError) as error:  # tensorstore reports what the system refuses as ValueError
        raise UserError(
            f"{path} cannot be written ({_reason(error)}): make room there, or choose a folder you may write to, "
            "then run the same command again"
        ) from error


def _reason(error: Exception) -> str:
    """The first line of an error's text, or its name; of a long one its beginning and end, where the system speaks.

    After the system's words tensorstore may put more, as `[name='value']`: of an array that cannot be created, its
    whole specification. Which of many writes fails first is chance, so that is left out.
    """
    text = (str(error).strip() or type(error).__name__).splitlines()[0]
    text = re.sub(r" \[\w[\w ]*='.*", "", text)
    return text if len(text) <= 300 else f"{text[:120]} ... {text[-180:]}"
