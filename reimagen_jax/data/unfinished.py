"""An output folder that takes hours to write, and survives the death of the program that writes it.

Beside the folder TARGET to be written stands, until it is complete, the folder .TARGET.unfinished with

    output/         what is to become TARGET
    progress.json   what it is made from, and how far it is: whatever the writer noted when it last was consistent
    lock            held by the program that writes; the system lets go of it when that dies, however it dies

`progress.json` is replaced whole, after the files it speaks of are on the disk, so that after kill -9 the writer finds
a state that it once noted, and perhaps files that are newer than it.
"""

import fcntl
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from reimagen_jax.errors import UserError
from reimagen_jax.files import put_in_place, read_json, require_writable, write_json

PROGRESS = "progress.json"
LOCK = "lock"


@dataclass
class Unfinished:
    """An output folder in the making."""

    folder: Path
    """Write here."""
    identity: dict[str, Any]
    state: dict[str, Any] | None
    """What was last noted; `None` at the beginning."""

    def note(self, state: dict[str, Any]) -> None:
        """Notes a state to go on from; the files it speaks of must be on the disk."""
        write_json(self.folder.parent / PROGRESS, {"identity": self.identity, "state": state})
        self.state = state


@contextmanager
def resumable_dir(target: str | Path, identity: dict[str, Any], *, overwrite: bool = False) -> Iterator[Unfinished]:
    """Yields the folder to write, renamed to `target` when the block ends without an exception.

    When it ends otherwise, what was noted is kept, and yielded again to whoever comes with the same `target` and the
    same `identity` (JSON: from what the output is made, and how); where nothing was noted, nothing is kept. With
    `overwrite`, an existing `target` stays until the new folder is complete, and what another identity has left
    unfinished is thrown away.

    Raises `UserError` where `target` may not be written, where another process is writing it, and where something else
    was left unfinished and `overwrite` is false.
    """
    target = Path(target)
    require_writable(target, overwrite=overwrite)
    place = place_of(target)
    with _locked(place, target):
        state = _resume(place, identity, target, overwrite)
        unfinished = Unfinished(place / "output", identity, state)
        try:
            yield unfinished
            put_in_place(unfinished.folder, target)
        except BaseException:
            if unfinished.state is None:
                shutil.rmtree(place, ignore_errors=True)
            raise
        shutil.rmtree(place)


def place_of(target: str | Path) -> Path:
    """Where an output stands while it is unfinished; nothing is there before or after, nor where nothing was noted."""
    target = Path(target)
    return target.parent / f".{target.name}.unfinished"


def _resume(place: Path, identity: dict[str, Any], target: Path, overwrite: bool) -> dict[str, Any] | None:
    """The state to go on from, or `None` after making place for a new beginning."""
    output, progress = place / "output", place / PROGRESS
    if progress.is_file() and output.is_dir():
        noted = read_json(progress, "the progress of an unfinished output")
        if noted.get("identity") == identity:
            return noted["state"]
        if not overwrite:
            raise UserError(
                f"{place} holds an unfinished {target.name}, but {_difference(noted['identity'], identity)}: give the "
                "same options to go on with it, or --overwrite to throw it away"
            )
    progress.unlink(missing_ok=True)
    shutil.rmtree(output, ignore_errors=True)
    output.mkdir()
    return None


def _difference(before: dict[str, Any], now: dict[str, Any], path: str = "") -> str:
    """The first thing that two identities tell differently."""
    for name in dict.fromkeys((*before, *now)):
        old, new = before.get(name), now.get(name)
        if isinstance(old, dict) and isinstance(new, dict) and old != new:
            return _difference(old, new, f"{path}{name}.")
        if old != new:
            return f"{path}{name} was {old!r}, now {new!r}"
    return "the same"


@contextmanager
def _locked(place: Path, target: Path) -> Iterator[None]:
    try:
        place.mkdir(exist_ok=True)
        descriptor = os.open(place / LOCK, os.O_RDWR | os.O_CREAT, 0o644)
    except OSError as error:
        raise UserError(f"cannot write {target}: {error.strerror}; choose a folder you may write to") from error
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            held = (place / LOCK).exists()  # whoever held it before may just have finished, and taken it away
        except OSError:
            held = False
        if not held:
            raise UserError(f"another process is writing {target}: wait for it, or choose another --out")
        yield
    finally:
        os.close(descriptor)
