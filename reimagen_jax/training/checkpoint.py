"""Checkpoints of a run: state and data position together, written in the background, whole or not at all.

A working folder holds `run.json` (the experiment, and the fingerprint of its data) and `checkpoints/<step>/`, each with
`state` (step, params, ema, opt_state), `data` (the position of the input pipeline, one file per process) and `digests`
(of the state's arrays as they were in memory, and that position once more). Orbax writes a checkpoint under a temporary
name and renames it when it is complete, so a killed run leaves only whole ones. In a bucket (`stores`) nothing has a
temporary name, and a checkpoint is whole when it has its mark. To gs:// Orbax writes itself, each process its part; it
does not reach s3://, so there a whole checkpoint is copied up, and down again.

What is restored is compared with the digests, by whomever and on however many devices; `run.json` bears a digest of
its own. Runs of earlier versions have neither, and are read all the same.
"""

import dataclasses
import fcntl
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, nullcontext, suppress
from pathlib import Path, PurePath
from typing import Any, TextIO

import grain.checkpoint
import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
import tensorstore
from flax.traverse_util import flatten_dict, unflatten_dict

from reimagen_jax import stores
from reimagen_jax.config import Experiment, differences, is_free, places, to_dict
from reimagen_jax.errors import UserError, require
from reimagen_jax.files import MARK, called, kind_of, listed, read_json, write_json
from reimagen_jax.paths import local
from reimagen_jax.systems import kinds
from reimagen_jax.systems.base import Params
from reimagen_jax.training import digest, distributed, spool
from reimagen_jax.training.failing_reads import told_once
from reimagen_jax.training.failing_writes import reason, writing
from reimagen_jax.training.groups import joined
from reimagen_jax.training.state import TrainState, from_before

FORMAT = 1
"""Of `run.json`."""
DIGESTS = "digests"
"""The part of a checkpoint that tells what the others have to be."""
BEGUN = {".lock", ".run.json.partial", "checkpoints"}
"""What a run that is killed as it begins leaves in its folder, before there is a `run.json`."""
LONGEST = 3840
"""Bytes of a working folder's path: the system reads 4096, and what lies in a checkpoint takes up to 200."""


def _checkpoints(workdir: Path) -> PurePath:
    """Where the checkpoints lie. Raises `UserError` where none could be written, or read again."""
    if stores.kind(workdir):
        return stores.place(workdir) / "checkpoints"
    path = local(workdir).absolute()
    name = f"the name of {workdir}, or of a folder above it,"
    require("\\" not in str(path), f"{name} has a backslash, which checkpoints are not found by: rename or move it")
    require(len(os.fsencode(path)) <= LONGEST, f"{name} is too long for the files in it: choose a shorter one")
    return spool.Folder(path) / "checkpoints"


@contextmanager
def claim(workdir: Path) -> Iterator[None]:
    """Makes `workdir` and holds it for this process.

    A start that is refused before anything was trained leaves no more than there was. Raises `UserError` if it is
    unwritable, if another run has it, or if it holds something else than a run.

    The lock is the operating system's: it goes with the process, however that ends. Of several processes of one run,
    the first holds it for all.
    """
    _checkpoints(workdir)
    if stores.kind(workdir):
        distributed.on_first_process(lambda: _look(workdir))
        yield
        return
    begins, new = (
        not os.path.exists(workdir / "run.json"),  # unlike a path's own method, of a name that is too long as well
        [each for each in (workdir, *workdir.parents) if not os.path.exists(each)],
    )
    lock = distributed.on_first_process(lambda: _lock(workdir))
    with lock or nullcontext():
        try:
            yield
        except UserError:
            if lock and begins:
                _give_up(workdir, new)
            raise


def _give_up(workdir: Path, new: list[Path]) -> None:
    """Removes what a run has that was refused as it began, and the folders that are `new`."""
    begun_with = {"run.json", *BEGUN}
    if set(os.listdir(workdir)) <= begun_with and not _steps(_checkpoints(workdir)):
        shutil.rmtree(workdir / "checkpoints", ignore_errors=True)
        for name in begun_with - {"checkpoints"}:
            (workdir / name).unlink(missing_ok=True)
        with suppress(OSError):
            for folder in new:
                folder.rmdir()


def _look(workdir: PurePath) -> None:
    """Raises `UserError` unless there is a run or nothing in a place of a bucket, which knows no locks."""
    with stores.told(workdir):
        if workdir.exists() and not (workdir / "run.json").exists():
            others = sorted({path.name for path in workdir.iterdir()} - BEGUN)
            require(not others, _foreign(workdir, others))


def _foreign(workdir: PurePath, others: list[str]) -> str:
    return f"{workdir} holds {listed(others)}, of no training run: choose another --workdir, or an empty one"


def _lock(workdir: Path) -> TextIO:
    try:
        if not (workdir / "run.json").exists():
            kind = kind_of(workdir) or ("results" if (workdir / MARK).is_file() else "")
            require(not kind, f"{workdir} holds {called(kind)}, not a training run: choose another --workdir")
            others = sorted(set(os.listdir(workdir)) - BEGUN) if workdir.is_dir() else []
            require(not others, _foreign(workdir, others))
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
    """The contents of `run.json`. Raises `UserError` if it is missing, broken, changed or of another version."""
    path = workdir / "run.json"
    run = read_json(path, "the record of a training run")
    known = {"format", "data", "history", "experiment", "sha256"}
    if not isinstance(run, dict) or run.get("format") != FORMAT or not run.keys() <= known:
        raise UserError(f"{path} is not of format {FORMAT}: it was written by another version, or is damaged")
    if missing := known - {"sha256"} - run.keys():
        raise UserError(f"{path} is damaged: it has no {min(missing)}")
    if run.pop("sha256", None) not in (None, _seal(run)):
        raise UserError(f'{path} is not as it was written: take it from a copy; or, if you changed it, remove "sha256"')
    return run


def begun(workdir: Path) -> Experiment | None:
    """The settings of the run in `workdir`, when it has a checkpoint to go on from."""
    return kinds.from_dict(read_run(workdir)["experiment"]) if _steps(_checkpoints(workdir)) else None


def settle(workdir: Path, config: Experiment, data_fingerprint: str, step: int | None) -> Experiment | None:
    """Writes `run.json`, or checks it when the run resumes at `step`; returns the settings that it had then.

    Where the initial weights lie is kept as it was: a run that goes on does not read them. When no step is left to
    take, how it is trained is kept too, and how it is drawn from (its sampler) is as it is asked for now. Raises
    `UserError` naming the fields that differ and may not (all but those marked `config.FREE`), if the data are not the
    same, or if more steps are done than are wanted.
    """
    history: list[dict[str, Any]] = []
    before = None
    if step is not None:
        run = read_run(workdir)
        history = run["history"]
        before = kinds.from_dict(run["experiment"])
        config = started_as(before, config)
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
        if config.train.num_steps < step:
            raise UserError(
                f"{workdir} holds a run of {step} steps already, more than train.num_steps {config.train.num_steps}: "
                f"give more than {step} to go on with it, or another --workdir for a shorter run"
            )
        if config.train.num_steps == step:  # no step follows other settings of training: those of the steps stay
            config = dataclasses.replace(config, train=before.train)
            changed = differences(before, config)
            if not changed:
                return before
        if changed:
            history.append({"step": step, "changed": list(changed.values())})
    record = {"format": FORMAT, "data": data_fingerprint, "history": history, "experiment": to_dict(config)}
    distributed.on_first_process(lambda: _write_run(workdir, record))
    return before


def note(workdir: Path, said: list[str]) -> None:
    """Adds to the history of a run what it began with."""

    def add() -> None:
        run = read_run(workdir)
        _write_run(workdir, run | {"history": [*run["history"], {"step": 0, "changed": said}]})

    distributed.on_first_process(add)


def started_as(before: Experiment, config: Experiment) -> Experiment:
    """The settings with the place of the initial weights as the run has it: they may have moved, or gone, since."""
    return dataclasses.replace(config, init=dataclasses.replace(config.init, weights=before.init.weights))


def _write_run(workdir: Path, record: dict[str, Any]) -> None:
    with writing(workdir / "run.json"):
        write_json(workdir / "run.json", record | {"sha256": _seal(record)})


def _seal(record: dict[str, Any]) -> str:
    """SHA-256 of a record, however its JSON is laid out."""
    return hashlib.sha256(json.dumps(record, sort_keys=True).encode()).hexdigest()


def _one_copy(state: TrainState) -> TrainState:
    """The state to write. Of what each device of the only process holds whole, one device's copy, which is no new
    memory: Orbax would cut each array into as many parts as there are devices, by a program and a transfer a part."""
    if jax.process_count() > 1:
        return state

    def held(leaf: Any) -> Any:
        whole = isinstance(leaf, jax.Array) and leaf.is_fully_replicated
        return leaf.addressable_data(0) if whole else leaf

    return jax.tree.map(held, state)


class Checkpoints:
    """The checkpoints under one working folder. Saving is asynchronous: `close` (or `wait`) before reading them."""

    def __init__(self, workdir: Path, keep: int):
        self.path = _checkpoints(workdir)
        self._keep, self._copied = keep, not spool.orbax_reaches(self.path)
        self._here = self.path
        """Where Orbax writes."""
        if self._copied:
            self._here, keep = spool.make(self.path), 1
        self._unread: int | None = None
        """The step whose checkpoint is being written, and is to be read back."""
        options = ocp.CheckpointManagerOptions(
            preservation_policy=ocp.checkpoint_managers.LatestN(keep), cleanup_tmp_directories=True
        )
        with writing(self.path):
            self._manager = ocp.CheckpointManager(self._here, options=options)

    def latest(self) -> int | None:
        """The step of the last whole checkpoint, or None."""
        if not self._copied:
            return self._manager.latest_step()
        with stores.told(self.path):
            return max(_steps(self.path), default=None)

    def save(self, state: TrainState, data: Any) -> None:
        """Starts writing `state` and the position of the iterator `data`; both may move on at once.

        Orbax copies to the host, or holds the buffers, before it returns, so the next step may take `state`'s memory.
        Raises `UserError` if this checkpoint, or the one before it, cannot be written or read back.
        """
        step = int(state.step)
        if step == self.latest():
            return
        self.wait()
        written = {"arrays": digest.digests(state), "data": data.get_state()}
        args = ocp.args.Composite(
            state=ocp.args.StandardSave(_one_copy(state)),
            data=grain.checkpoint.CheckpointSave(data),
            **{DIGESTS: ocp.args.JsonSave(written)},
        )
        with writing(self.path):
            self._manager.save(step, args=args)
        self._unread = step
        if self._copied:
            self.wait()

    def restore(
        self, step: int, abstract: TrainState, data: Any, earlier: Callable[[], TrainState] | None = None
    ) -> TrainState:
        """The state of `step`, placed as `abstract` says; moves the iterator `data` to its position.

        `earlier` tells what earlier versions held in its place (state.py:as_before), which is read where they wrote it.
        The number of devices, and of processes, may differ from when it was saved. Raises `UserError` if the checkpoint
        is damaged.
        """
        path = self.path / str(step)
        here = self._here / str(step)
        if self._copied:
            # Whether it is there already, the first process says: the others may come when it has just been copied.
            distributed.on_first_process(lambda: None if here.exists() else spool.fetch(path, here))
            self._manager.reload()
        with _named(path):
            written = _written(here)
            wanted = abstract
            if earlier is not None and len(flatten_dict(_tree(here)["ema"])) > len(flatten_dict(abstract.ema)):
                wanted = earlier()
            state = self._manager.restore(step, args=ocp.args.Composite(state=ocp.args.StandardRestore(wanted))).state
            position = _data_position(here / "data")
            if written is not None:
                _require_same(state, written)
                require(position == written["data"], "not as it was written: the position in the data")
            data.set_state(position)
        return state if wanted is abstract else from_before(state, abstract)

    def wait(self) -> None:
        """Returns when everything saved so far is on disk, and was found there."""
        with writing(self.path):
            self._manager.wait_until_finished()
        step, self._unread = self._unread, None
        if step is not None:
            distributed.on_first_process(lambda: self._written(step))

    def _written(self, step: int) -> None:
        """Reads back what was written; then copies it to where it belongs, where Orbax does not reach."""
        _read_back(self._here / str(step))
        if self._copied:
            with stores.told(self.path):
                stores.upload(self._here / str(step), self.path / str(step))
                kept = {str(number) for number in _steps(self.path)[-self._keep :]}
                for other in [each for each in self.path.iterdir() if each.name.isdigit() and each.name not in kept]:
                    stores.remove(other)  # an old one, or what a killed run has left

    def close(self) -> None:
        """Waits, then frees the threads."""
        with writing(self.path):
            self._manager.close()
        if self._copied:
            distributed.on_first_process(lambda: shutil.rmtree(self._here, ignore_errors=True))


def load_ema(workdir: str | Path, step: int | None = None, *, on_host: bool = False) -> tuple[int, Params]:
    """The number and the averaged parameters of a run's checkpoint: of `step`, or the last one.

    Reads nothing but the average, and what is frozen, which has none, as it is held; works on any number of devices.
    The parameters go to the default device or, `on_host`, stay arrays of numpy. Raises `UserError` if there is no such
    checkpoint, or if it is damaged.
    """
    workdir = stores.place(workdir)
    read_run(workdir)
    path = _checkpoints(workdir)
    steps = _steps(path)
    if not steps:
        raise UserError(f"{workdir} holds no checkpoint yet: train until the first one is written")
    if step is not None and step not in steps:
        raise UserError(f"{workdir} holds no checkpoint of step {step}: there are {', '.join(map(str, steps))}")
    step = steps[-1] if step is None else step
    path = path / str(step)
    # The handler itself, not a Checkpointer around it: only `state` is read, and the rest need not be known here.
    with spool.within_reach(path) as here, _named(path), closing(ocp.PyTreeCheckpointHandler()) as reader:
        written = _written(here)
        tree = _tree(here)
        frozen = flatten_dict(tree["params"]).keys() - flatten_dict(tree["ema"]).keys()
        found = {"ema": tree["ema"]}
        if frozen:
            found["params"] = unflatten_dict({name: flatten_dict(tree["params"])[name] for name in sorted(frozen)})
        wanted = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), found)
        as_numpy = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), wanted)
        args = ocp.args.PyTreeRestore(wanted, restore_args=as_numpy, partial_restore=True)
        restored = reader.restore(here / "state", args=args)
        if written is not None:
            _require_same(restored, written)
        ema = joined(restored.get("params", {}), restored["ema"])
    return step, ema if on_host else jax.tree.map(jnp.asarray, ema)


def _tree(path: Path) -> dict[str, Any]:
    """What the state of a checkpoint is made of, by names; nothing of it is read."""
    with closing(ocp.PyTreeCheckpointHandler()) as reader:
        return reader.metadata(path / "state").tree


def _steps(path: Path) -> list[int]:
    """The steps of the whole checkpoints in a folder, in order."""
    if stores.kind(path):
        with stores.told(path):
            found = list(path.iterdir()) if path.is_dir() else []
            return sorted(int(each.name) for each in found if each.name.isdigit() and stores.whole(each))
    return sorted(ocp.utils.checkpoint_steps(path)) if path.is_dir() else []


def _written(path: Path) -> dict[str, Any] | None:
    """What a checkpoint's arrays and its data position were when it was written; None of one of an earlier version.

    Raises `ValueError` or `OSError` if these cannot be read, or if an array is not there at all.
    """
    if not (path / DIGESTS).is_dir():
        _join(path / "state")
        return None
    written = json.loads((path / DIGESTS / "metadata").read_text(encoding="utf-8"))
    # Reads every node of the store's tree, which have checksums: better here than in the midst of Orbax's many readers.
    if missing := written["arrays"].keys() - _arrays(path / "state"):
        raise ValueError(f"{len(missing)} arrays are not found, such as {min(missing)}")
    return written


def _require_same(tree: Any, written: dict[str, Any]) -> None:
    """Raises `UserError` naming an array that is not as it was written."""
    changed = digest.changed(tree, written["arrays"])
    also = f" and {len(changed) - 1} more" if len(changed) > 1 else ""
    require(not changed, f"not as it was written: {min(changed, default='')}{also}")


def _read_back(path: Path) -> None:
    """Raises `UserError` unless a checkpoint that was just written has its digests, and an array for each of them."""
    try:
        require(_written(path) is not None, "it has no digests")
    except (UserError, OSError, ValueError, KeyError) as error:
        raise UserError(
            f"checkpoint {path} was written, but cannot be read back ({reason(error)}): this file system does not "
            "keep what is written; choose another --workdir"
        ) from error


def _store(state: Path) -> tensorstore.KvStore:
    """The arrays of a checkpoint, as Orbax lays them down."""
    base = f"{os.fspath(state)}/" if stores.kind(state) else {"driver": "file", "path": f"{state}/"}
    return tensorstore.KvStore.open({"driver": "ocdbt", "base": base}).result()


def _arrays(state: Path) -> set[str]:
    """The names of the arrays in a checkpoint."""
    return {key.decode().removesuffix("/.zarray") for key in _store(state).list().result()}


def _join(state: Path) -> None:
    """Does what Orbax left undone in folders with `[`, `*` or `?` in their names: makes one store of its parts."""
    parts = sorted(state.glob("ocdbt.process_*"))
    if parts and not (state / "manifest.ocdbt").exists():
        at_once = tensorstore.Transaction(atomic=True)
        whole = _store(state).with_transaction(at_once)
        for part in map(_store, parts):
            for key in part.list().result():
                whole[key] = part[key]
        at_once.commit_sync()


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
        with told_once():
            yield
    except (MemoryError, jax.errors.JaxRuntimeError):
        raise  # no fault of the checkpoint's
    except Exception as error:  # whatever comes of bytes that are not as they were written
        files = () if stores.kind(path) else (path, *path.rglob("*"))
        denied = next((file for file in files if not os.access(file, os.R_OK)), None)
        if denied is not None:
            raise UserError(f"checkpoint {path} may not be read: {denied} is not yours to read") from error
        raise UserError(f"checkpoint {path} cannot be restored ({reason(error)}): {_advice(path)}") from error


def _advice(path: PurePath) -> str:
    """What to do about a damaged checkpoint."""
    earlier = [step for step in _steps(path.parent) if step < int(path.name)]
    advice = f"delete {path} to go on from step {earlier[-1]}" if earlier else "there is none before it to go on from"
    return f"try again; if that is no help, {advice}" if stores.kind(path) else advice
