"""Writing so that what exists is whole: folders and files appear complete or not at all."""

import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from reimagen_jax.errors import UserError

MARK = ".reimagen_jax"
"""In every folder that `atomic_dir` wrote: only such a folder, or an empty one, is ever replaced."""


@contextmanager
def atomic_dir(target: str | Path, *, overwrite: bool = False) -> Iterator[Path]:
    """Yields a temporary sibling of `target`, renamed to `target` when the block ends without an exception.

    With `overwrite`, an existing `target` stays untouched until the new folder is complete, then makes place for it.
    Raises `UserError` if `target` exists and `overwrite` is false, if it is anything else than a folder written here
    before, or if it cannot be written.
    """
    target = Path(target)
    require_writable(target, overwrite=overwrite)
    try:
        partial = Path(tempfile.mkdtemp(prefix=f".{target.name}.", suffix=".partial", dir=target.parent))
    except OSError as error:
        raise UserError(f"cannot write {target}: {error.strerror}; choose a folder you may write to") from error
    try:
        yield partial
        put_in_place(partial, target)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise


def require_writable(target: Path, *, overwrite: bool) -> None:
    """Raises `UserError` where `atomic_dir` may not write the output folder `target`; makes the folder it lies in."""
    if target.exists() and not overwrite:
        raise UserError(f"{target} already exists: pass --overwrite to replace it, or choose another --out")
    if target.exists() and not _replaceable(target):
        raise UserError(f"{target} was not written by this program, so it is not replaced: choose another --out")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"cannot write {target}: {error.strerror}; choose a folder you may write to") from error


def put_in_place(partial: Path, target: Path) -> None:
    """Marks a complete folder as written by this program and renames it to `target`, in the place of what was there."""
    write_text(partial / MARK, "Written by reimagen_jax, which may replace this folder when asked to overwrite.\n")
    # mkdtemp makes the folder private; the result follows the user's umask like any other folder.
    umask = os.umask(0)
    os.umask(umask)
    partial.chmod(0o777 & ~umask)
    if target.exists():
        retired = partial.with_suffix(".old")
        target.rename(retired)
        partial.rename(target)
        shutil.rmtree(retired)
    else:
        partial.rename(target)


def _replaceable(target: Path) -> bool:
    return target.is_dir() and ((target / MARK).is_file() or not any(target.iterdir()))


def write_text(path: str | Path, text: str) -> None:
    """Writes a small file whole or not at all."""
    path = Path(path)
    partial = path.with_name(f".{path.name}.partial")
    partial.write_text(text, encoding="utf-8")
    partial.replace(path)


def write_json(path: str | Path, value: Any) -> None:
    """Writes `value` as indented JSON, whole or not at all."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def read_json(path: str | Path, what: str) -> Any:
    """Reads a JSON file. Raises `UserError` naming `what` was expected there when it is missing or broken."""
    path = Path(path)
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{path} not found: {what} was expected there") from None
    except OSError as error:
        raise UserError(f"{path}, {what}: {error.strerror}") from error
    except (ValueError, RecursionError) as error:  # no JSON; of no text; too deep, or with too long a number
        raise UserError(f"{path} cannot be read as {what}: {error}") from error
