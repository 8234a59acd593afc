"""An output folder that takes hours to write, and survives the death of the program that writes it.

Beside the folder TARGET to be written stands, until it is complete, the folder .TARGET.unfinished with

    output/         what is to become TARGET
    progress.json   what it is made from, and how far it is: whatever the writer noted when it last was consistent

`progress.json` is replaced whole, after the files it speaks of are on the disk, so that after kill -9 the writer finds
a state that it once noted, and perhaps files that are newer than it. It also tells which folder the output is (its
inode): where that has come to be TARGET, what is left beside it is the folder that was replaced.
"""

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from reimagen_jax.checked import read
from reimagen_jax.errors import UserError
from reimagen_jax.files import locked, put_in_place, real, require_writable, tidy, write_json
from reimagen_jax.files import mark as mark_folder

PROGRESS = "progress.json"


@dataclass(frozen=True)
class _Progress:
    """What is in `progress.json`."""

    identity: dict[str, Any]
    state: Any
    output: int | None = None
    """The inode of the output; older versions did not note it."""


@dataclass
class Unfinished:
    """An output folder in the making."""

    folder: Path
    """Write here."""
    identity: dict[str, Any]
    state: Any
    """What was last noted; `None` at the beginning."""

    def note(self, state: Any) -> None:
        """Notes a state (JSON) to go on from; the files it speaks of must be on the disk."""
        noted = {"identity": self.identity, "state": state, "output": self.folder.stat().st_ino}
        write_json(self.folder.parent / PROGRESS, noted)
        self.state = state


@contextmanager
def resumable_dir(
    target: str | Path, identity: dict[str, Any], *, kind: str = "", overwrite: bool = False
) -> Iterator[Unfinished]:
    """Yields the folder to write, renamed to `target` when the block ends without an exception.

    When it ends otherwise, what was noted is kept, and yielded again to whoever comes with the same `target` and the
    same `identity` (JSON: from what the output is made, and how); where nothing was noted, nothing is kept. With
    `overwrite`, an existing `target` stays until the new folder is complete, and what another identity has left
    unfinished is thrown away.

    Raises `UserError` where `target` may not be written (see `files.atomic_dir`, also for `kind`), where another
    process is writing it, and where something else was left unfinished and `overwrite` is false.
    """
    target = Path(target)
    tidy(target)
    require_writable(target, kind=kind, overwrite=overwrite)
    place = place_of(target)
    with locked(target):
        require_writable(target, kind=kind, overwrite=overwrite)
        _make(place, target)
        unfinished = Unfinished(place / "output", as_json(identity), None)
        try:
            unfinished.state = _resume(place, unfinished.identity, target, overwrite)
            yield unfinished
            mark_folder(unfinished.folder, kind)
            put_in_place(unfinished.folder, target)
        except BaseException:
            if unfinished.state is None and not (place / PROGRESS).exists():
                shutil.rmtree(place, ignore_errors=True)
            raise
        shutil.rmtree(place, ignore_errors=True)


def completed(target: str | Path, identity: dict[str, Any]) -> bool:
    """Whether a process with this identity has put its output in place, and died before all was tidy; tidies up."""
    target, place = Path(target), place_of(target)
    tidy(target)
    if not (target.is_dir() and place.is_dir()):
        return False
    with locked(target):
        noted = _noted(place, overwrite=True) if (place / PROGRESS).is_file() else None
        done = noted is not None and noted.identity == as_json(identity) and _in_place(noted, target)
        if done or not (place / PROGRESS).is_file():
            shutil.rmtree(place, ignore_errors=True)
        return done


def place_of(target: str | Path) -> Path:
    """Where an output stands while it is unfinished; nothing is there before or after, nor where nothing was noted."""
    target = real(Path(target))
    return target.parent / f".{target.name}.unfinished"


def as_json(identity: dict[str, Any]) -> dict[str, Any]:
    """As it is read again: tuples are lists there."""
    return json.loads(json.dumps(identity))


def _make(place: Path, target: Path) -> None:
    try:
        place.mkdir(exist_ok=True)
    except OSError as error:
        raise UserError(f"cannot write {target}: {error.strerror}; choose a folder you may write to") from error


def _resume(place: Path, identity: dict[str, Any], target: Path, overwrite: bool) -> Any:
    """The state to go on from, or `None` after making place for a new beginning."""
    output, progress = place / "output", place / PROGRESS
    if progress.is_file() and output.is_dir():
        noted = _noted(place, overwrite)
        if noted is not None and noted.identity == identity and not _in_place(noted, target):
            return noted.state
        if noted is not None and not overwrite:
            raise UserError(
                f"{place} holds an unfinished {target.name}, but {_difference(noted.identity, identity)}: give the "
                "same options to go on with it, or --overwrite to throw it away"
            )
    _remove(progress)
    _remove(output)
    output.mkdir()
    return None


def _remove(path: Path) -> None:
    """Removes what has this name, whatever it is."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _noted(place: Path, overwrite: bool) -> _Progress | None:
    """What is noted; `None` where that is damaged and is to be thrown away."""
    try:
        return _progress(place)
    except UserError as error:
        if overwrite:
            return None
        raise UserError(f"{error}; --overwrite begins anew") from error


def _in_place(noted: _Progress, target: Path) -> bool:
    """Whether the output has come to be `target`."""
    return target.is_dir() and target.stat().st_ino == noted.output


def _progress(place: Path) -> _Progress:
    return read(place / PROGRESS, _Progress, "the progress of an unfinished output")


def _difference(before: dict[str, Any], now: dict[str, Any], path: str = "") -> str:
    """The first thing that two identities tell differently."""
    for name in dict.fromkeys((*before, *now)):
        old, new = before.get(name), now.get(name)
        if isinstance(old, dict) and isinstance(new, dict) and old != new:
            return _difference(old, new, f"{path}{name}.")
        if old != new:
            return f"{path}{name} was {old!r}, now {new!r}"
    return "the same"
