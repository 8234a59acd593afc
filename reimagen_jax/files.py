"""Writing so that what exists is whole: folders and files appear complete or not at all, and one process writes each.

A folder TARGET is written beside its place, as .TARGET.xxxxxxxx.partial, under the lock .TARGET.lock, which the system
lets go of when the process ends, however it ends. What a dead process has left is removed by whoever writes there next.

A complete folder changes places with the one there was in a single step of the system, so that a reader, or kill -9,
finds the old one or the new one. Where a file system cannot do that, the old one is first set aside as
.TARGET.xxxxxxxx.old, and put back by whoever next asks for a TARGET that is missing.

What is there is only ever replaced by the same kind of thing, made by the same command, and only where nothing lies in
it that it was not written with: the mark in each folder tells all three.
"""

import ctypes
import errno
import fcntl
import hashlib
import json
import os
import re
import secrets
import shutil
import tempfile
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from pathlib import Path
from typing import Any

from reimagen_jax.errors import UserError
from reimagen_jax.paths import in_bucket
from reimagen_jax.terminal import say

MARK = ".reimagen_jax"
"""In every folder written here, with what it holds, what made it, and, once it is complete, the names of its files."""
_MARK_TEXT = "Written by reimagen_jax, which may replace this folder when asked to overwrite.\n"
_HOLDS, _MADE, _WITH = "It holds ", "Made by ", "With "
_LITTER = {".DS_Store", "Thumbs.db", "desktop.ini"}
"""What systems leave in folders that somebody looks at."""
_maker: ContextVar[str] = ContextVar("maker", default="")
_told: set[tuple[int, int, int]] = set()
"""Folders of which this process has said that they are replaced."""
_SIGNS = {
    "sample.json": "images",
    "sweep.json": "sweep",
    "demo.json": "demonstration",
    "experiment.json": "weights",
    "rater.json": "rater",
    "split.json": "split",
    "text_embeddings.json": "text embeddings",
    "run.json": "run",
    "prompts.json": "evaluation",
    "drawn.json": "pictures to judge",
}
"""File -> what a folder with it holds, where neither a manifest nor the mark (of an older version) tells."""
_PARTIAL = re.compile(r"\.(?P<name>.+)\.[a-z0-9_]{8}\.(?P<kind>partial|old)")


@contextmanager
def atomic_dir(target: str | Path, *, kind: str = "", overwrite: bool = False, wait: bool = False) -> Iterator[Path]:
    """Yields a temporary sibling of `target`, renamed to `target` when the block ends without an exception.

    With `overwrite`, an existing `target` stays untouched until the new folder is complete, then makes place for it.
    `kind` is what the folder will hold (see `kind_of`): one that holds something else is not replaced. With `wait`, it
    is changed rather than replaced: the block begins when no other process writes there, and nothing is said.
    Raises `UserError` if `target` exists and `overwrite` is false, if it is anything else than a folder of this kind
    written here before (see `require_writable`), if another process is writing it, or if it cannot be written.
    """
    target = Path(target)
    tidy(target)
    require_writable(target, kind=kind, overwrite=overwrite, say=not wait)
    with locked(target, wait=wait):
        require_writable(target, kind=kind, overwrite=overwrite, say=not wait)  # again, now that nobody else writes
        place = real(target)
        try:
            partial = Path(tempfile.mkdtemp(prefix=f".{place.name}.", suffix=".partial", dir=place.parent))
        except OSError as error:
            raise UserError(f"cannot write {target}: {error.strerror}; choose a folder you may write to") from error
        try:
            mark(partial, kind)
            yield partial
            put_in_place(partial, target)
        except BaseException:
            _remove(partial)
            raise


@contextmanager
def growing_dir(target: Path, *, kind: str) -> Iterator[None]:
    """Holds a folder that is written file by file, and gone on with by the same command; makes it where it is missing.

    Raises `UserError` where there is something else, where another process is writing it, and where it cannot be.
    """
    require_own(target, kind)
    try:
        target.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"cannot write {target}: {error.strerror}; choose a folder you may write to") from error
    with locked(target):
        others = foreign(target)
        try:
            mark(target, kind)
            yield
        finally:
            if [path.name for path in target.iterdir()] == [MARK]:  # nothing came of it
                shutil.rmtree(target)
            else:
                with suppress(OSError):  # what went wrong before, such as a full disk, is to be told
                    _note_files(target, but=others)


def require_own(target: Path, kind: str) -> None:
    """Raises `UserError` where there is something else than a folder of this kind, of this command, to go on with."""
    if target.exists() and kind_of(target) != kind and not (target.is_dir() and not any(target.iterdir())):
        found = kind_of(target)
        what = called(found) if found else "something that this program did not write"
        raise UserError(f"{target} holds {what}, not {called(kind)} to go on with: choose another --out")
    _require_maker(target)


def just_begun(target: Path, kind: str) -> bool:
    """Whether `growing_dir` has made the folder, and its process died before any file was complete."""
    if not target.is_dir() or kind_of(target) != kind:
        return False
    return all(name == MARK or name.endswith(".partial") for name in os.listdir(target))


@contextmanager
def resumed_dir(target: Path, *, kind: str, begun: str, overwrite: bool) -> Iterator[Path]:
    """The folder of work that begins, or goes on where `begun` lies in it; with `overwrite` a new one, which replaces
    it when it is complete. Raises `UserError` where there is something else, and where another process is writing it.
    """
    tidy(target)
    if target.exists() and (overwrite or not ((target / begun).exists() or just_begun(target, kind))):
        with atomic_dir(target, kind=kind, overwrite=overwrite) as folder:
            yield folder
        return
    with growing_dir(target, kind=kind):
        remove_partials(target)
        yield target


def remove_partials(folder: Path) -> None:
    """Removes the files in it that a process which died was writing."""
    for partial in folder.rglob(".*.partial"):
        partial.unlink()


def require_writable(target: Path, *, kind: str = "", overwrite: bool, say: bool = True) -> None:
    """Makes the folder that the output folder `target` lies in, and says what is going to be replaced.

    Raises `UserError` where `atomic_dir` may not write it: it exists and `overwrite` is false; it was not written here,
    holds something else than `kind`, was made by another command, or has files in it that it was not written with.
    """
    recover(target)
    if target.exists() and not overwrite:
        raise UserError(f"{target} already exists: pass --overwrite to replace it, or choose another --out")
    if target.exists() and not _replaceable(target):
        if kind_of(target) == "run":
            raise UserError(f"{target} holds a training run, which no command replaces: choose another --out")
        raise UserError(f"{target} was not written by this program, so it is not replaced: choose another --out")
    require_kind(target, kind)
    _require_maker(target)
    if others := foreign(target):
        raise UserError(
            f"{target} holds {listed(others)}, which it was not written with, so it is kept: move what you need out of "
            "it, or choose another --out"
        )
    if say and target.is_dir() and any(target.iterdir()):
        _announce(target)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"cannot write {target}: {error.strerror}; choose a folder you may write to") from error


def require_kind(target: Path, kind: str) -> None:
    """Raises `UserError` where the folder `target` is known to hold something else than `kind`."""
    found = kind_of(target)
    if kind and found and found != kind:
        raise UserError(f"{target} holds {called(found)}, not {called(kind)}, so it is kept: choose another --out")


def _require_maker(target: Path) -> None:
    maker, now = _marked(target, _MADE), _maker.get()
    if maker and now and maker != now:
        raise UserError(f"{target} was made by `{maker}`, not by `{now}`, so it is kept: choose another --out")


@contextmanager
def made_by(command: str) -> Iterator[None]:
    """Folders written meanwhile tell that this command has made them."""
    token = _maker.set(command)
    try:
        yield
    finally:
        _maker.reset(token)


def foreign(folder: Path) -> list[str]:
    """Files somewhere in a folder that it was not written with; none where that was not noted (it is unfinished)."""
    noted = _marked(folder, _WITH)
    if not noted:
        return []
    with suppress(ValueError):
        return sorted(set(_files(folder)) - set(json.loads(noted)))
    return []


def listed(names: Sequence[str], most: int = 3) -> str:
    """The first of some names, and how many more there are."""
    first = ", ".join(names[:most])
    return first if len(names) <= most else f"{first} and {len(names) - most} more"


def _files(folder: Path) -> Iterator[str]:
    for path, _, names in os.walk(folder):
        here = os.path.relpath(path, folder)
        for name in names:
            if name not in _LITTER and (here != "." or name not in (MARK, f".{MARK}.partial")):
                yield os.path.normpath(os.path.join(here, name))


def _note_files(folder: Path, but: Collection[str] = ()) -> None:
    """Notes in the mark the files that a folder is written with."""
    path, names = folder / MARK, sorted(set(_files(folder)) - set(but))
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    kept = "".join(line for line in lines if not line.startswith(_WITH))
    write_text(path, f"{kept}{_WITH}{json.dumps(names)}\n")


def _announce(folder: Path) -> None:
    """Says once of a folder that it is going to be replaced."""
    status = folder.stat()
    folder_now = (status.st_dev, status.st_ino, status.st_mtime_ns)
    if folder_now in _told:
        return
    _told.add(folder_now)
    size = sum((folder / name).lstat().st_size for name in _files(folder))
    marked = folder / MARK
    when = time.strftime("%Y-%m-%d %H:%M", time.localtime((marked if marked.is_file() else folder).stat().st_mtime))
    maker = _marked(folder, _MADE)
    what = f"{called(kind_of(folder)) or 'a folder'} of {size / 2**20:.1f} MiB, made {when}"
    say(f"replacing {folder} once the new one is complete: {what}{f' by `{maker}`' if maker else ''}", error=True)


def kind_of(folder: Path) -> str:
    """What a folder written by this program holds: "records", "knowledge base", ...; empty where nothing tells."""
    for file, read in ((folder / MARK, _kind_in_mark), (folder / "manifest.json", _kind_in_manifest)):
        with suppress(OSError, ValueError, RecursionError):
            if found := read(file.read_text(encoding="utf-8")):
                return found
    return next((kind for sign, kind in _SIGNS.items() if (folder / sign).is_file()), "")


def called(kind: str) -> str:
    """A kind of folder with its article, if it has one."""
    return kind if not kind or kind.endswith("s") else f"{'an' if kind[:1] in 'aeiou' else 'a'} {kind}"


def _kind_in_mark(text: str) -> str:
    return _line(text, _HOLDS).rstrip(".")


def _marked(folder: Path, head: str) -> str:
    """What a folder's mark says behind some words; empty where it does not."""
    with suppress(OSError, ValueError):
        return _line((folder / MARK).read_text(encoding="utf-8"), head)
    return ""


def _line(text: str, head: str) -> str:
    return next((line.removeprefix(head) for line in text.splitlines() if line.startswith(head)), "")


def _kind_in_manifest(text: str) -> str:
    manifest = json.loads(text)
    kind = manifest.get("kind") if isinstance(manifest, dict) else None
    return kind if isinstance(kind, str) else ""


def mark(folder: Path, kind: str) -> None:
    """Writes down that the folder is this program's, what it holds, and what makes it."""
    told = (f"{_HOLDS}{kind}.\n" if kind else "") + (f"{_MADE}{_maker.get()}\n" if _maker.get() else "")
    (folder / MARK).write_text(_MARK_TEXT + told, encoding="utf-8")


def put_in_place(complete: Path, target: Path) -> None:
    """Puts a complete folder into the place of `target` and removes what was there. The lock on `target` is held."""
    place = real(target)
    if (complete / MARK).is_file():
        _note_files(complete)
    # mkdtemp makes the folder private; the result follows the user's umask like any other folder.
    umask = os.umask(0)
    os.umask(umask)
    complete.chmod(0o777 & ~umask)
    try:
        if not place.exists():
            complete.rename(place)
            return
        if not _exchange(complete, place):
            aside = place.with_name(f".{place.name}.{secrets.token_hex(4)}.old")
            place.rename(aside)
            complete.rename(place)
            complete = aside
    except OSError as error:
        raise UserError(f"cannot write {target}: {error.strerror}; the new folder is given up") from error
    _remove(complete)  # what cannot be removed now is swept by the next who writes there


def recover(target: Path) -> None:
    """Puts back a folder whose process died between setting it aside and putting the new one in its place."""
    place = real(target)
    if place.exists() or not _set_aside(place):
        return
    with suppress(OSError, UserError), locked(target, wait=True):
        if not place.exists() and (aside := _set_aside(place)):
            aside[0].rename(place)


@contextmanager
def locked(target: Path, *, wait: bool = False) -> Iterator[bool]:
    """Holds `target` (which need not exist) for this process; its folder must exist.

    Where another has it, says so on stderr and waits for it if `wait`, and raises `UserError` otherwise. Yields false
    on a file system without locks, where nothing is held.
    """
    place = real(target)
    path = place.with_name(f".{place.name}.lock")
    try:
        descriptor, held = _take(path, target, wait)
    except OSError as error:
        raise UserError(f"cannot write {target}: {error.strerror}; choose a folder you may write to") from error
    try:
        yield held
    finally:
        # While it is held: whoever waits for it finds that it is gone, and makes a new one.
        path.unlink(missing_ok=True)
        os.close(descriptor)


def _take(path: Path, target: Path, wait: bool) -> tuple[int, bool]:
    """An open descriptor of the file `path`, and whether the lock is on it."""
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            held = _flock(descriptor, target, wait)
            with suppress(FileNotFoundError):
                if os.path.samestat(os.stat(path), os.fstat(descriptor)):
                    os.ftruncate(descriptor, 0)
                    os.write(descriptor, str(os.getpid()).encode())
                    return descriptor, held
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)  # whoever held it has taken it away


def _flock(descriptor: int, target: Path, wait: bool) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        holder = os.pread(descriptor, 20, 0).decode("ascii", "replace")
        who = f"another process{f' (number {holder})' if holder.isdigit() else ''} is writing {target}"
        if not wait:
            raise UserError(f"{who}: wait for it, or choose another --out") from None
        say(f"{who}: waiting for it", error=True)
        fcntl.flock(descriptor, fcntl.LOCK_EX)
    except OSError as error:
        if error.errno not in (errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL):
            raise
        return False
    return True


def real(target: Path) -> Path:
    """Where a folder lies, links followed: what they lead to is replaced, not they."""
    return Path(os.path.realpath(target))


def tidy(target: Path) -> None:
    """Removes what dead processes have left beside `target`, and of the folders there: their locks are free."""
    place = real(target)
    recover(target)
    if not place.parent.is_dir():
        return
    left = [(path, found) for path in _listed(place.parent) if (found := _PARTIAL.fullmatch(path.name))]
    if place.with_name(f".{place.name}.lock").exists():
        with suppress(OSError, UserError), locked(target):
            pass
    for path, found in left:
        of = path.with_name(found["name"])
        with suppress(OSError, UserError), locked(of) as held:
            # One that was set aside is put back where it is missing: see `recover`.
            if held and _replaceable(path) and (found["kind"] == "partial" or of.exists()):
                _remove(path)


def _remove(folder: Path) -> None:
    """Removes a folder, if it can be, its mark last: what is left if that is interrupted is still known as ours."""
    with suppress(OSError):
        for path in folder.iterdir():
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path, ignore_errors=True)
            elif path.name != MARK:
                path.unlink(missing_ok=True)
    shutil.rmtree(folder, ignore_errors=True)


def _listed(folder: Path) -> list[Path]:
    """What lies in a folder; nothing is seen in one that may be written and not read."""
    try:
        return list(folder.iterdir())
    except PermissionError:
        return []


def _set_aside(place: Path) -> list[Path]:
    """The folders that `put_in_place` has set aside for the one in `place`."""
    if not place.parent.is_dir():
        return []
    found = ((path, _PARTIAL.fullmatch(path.name)) for path in _listed(place.parent))
    return [path for path, is_one in found if is_one and is_one["kind"] == "old" and is_one["name"] == place.name]


def _exchange(a: Path, b: Path) -> bool:
    """Lets two folders change places in one step, by Linux's renameat2 or macOS's renamex_np; false if it cannot."""
    system = ctypes.CDLL(None)
    if hasattr(system, "renameat2"):
        at_cwd, exchange = -100, 2
        return system.renameat2(at_cwd, os.fsencode(a), at_cwd, os.fsencode(b), exchange) == 0
    if hasattr(system, "renamex_np"):
        swap = 2
        return system.renamex_np(os.fsencode(a), os.fsencode(b), swap) == 0
    return False


def _replaceable(target: Path) -> bool:
    return target.is_dir() and ((target / MARK).is_file() or not any(target.iterdir()))


def write_text(path: str | Path, text: str) -> None:
    """Writes a small file whole or not at all."""
    if in_bucket(path):  # where every file is
        path.write_text(text)
        return
    path = Path(path)
    partial = path.with_name(f".{path.name}.partial")
    partial.write_text(text, encoding="utf-8")
    partial.replace(path)


def write_json(path: str | Path, value: Any) -> None:
    """Writes `value` as indented JSON, whole or not at all."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def read_json(path: str | os.PathLike[str], what: str) -> Any:
    """Reads a JSON file. Raises `UserError` naming `what` was expected there when it is missing or broken."""
    try:
        with path.open() if in_bucket(path) else open(path, encoding="utf-8") as file:
            return json.load(file)
    except FileNotFoundError:
        raise UserError(f"{path} not found: {what} was expected there") from None
    except OSError as error:
        raise UserError(f"{path}, {what}: {error.strerror or error}") from error
    except (ValueError, RecursionError) as error:  # no JSON; of no text; too deep, or with too long a number
        raise UserError(f"{path} cannot be read as {what}: {error}") from error


def signed(value: dict[str, Any]) -> dict[str, Any]:
    """A JSON object with a checksum of all else that it says."""
    return value | {"checksum": _checksum(value)}


def unchanged(value: dict[str, Any]) -> bool:
    """Whether it is as it was signed; versions of before have not signed what they wrote."""
    return value.get("checksum") in (None, _checksum(value))


def _checksum(value: dict[str, Any]) -> str:
    said = {name: each for name, each in value.items() if name != "checksum"}
    return hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()


def file_facts(files: Mapping[str, Path | None]) -> dict[str, str]:
    """Files that were read, by what they are, with their checksums; those that are None are none."""
    given = {name: path for name, path in files.items() if path is not None}
    return {name: f"{path.resolve()}, SHA-256 {_sha256(path)}" for name, path in given.items()}


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
