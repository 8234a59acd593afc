"""Checkpoints on their way to and from a bucket that Orbax does not reach: through a folder of this machine."""

import glob
import hashlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePath
from typing import Self

import numpy as np
from etils import epath

from reimagen_jax import stores
from reimagen_jax.errors import require
from reimagen_jax.training import distributed
from reimagen_jax.training.failing_writes import writing

TOKEN = ".seen"
"""In the folder: a number that the first process has drawn."""


class Folder(type(epath.Path("/"))):
    """A path in whose own name `*`, `?` and `[` mean themselves.

    Orbax joins the parts of a checkpoint by a glob below its folder; etils does not escape the folder's name.
    """

    def glob(self, pattern: str) -> Iterator[Self]:
        return map(self._new, glob.glob(os.path.join(glob.escape(os.fspath(self)), pattern)))


def orbax_reaches(path: PurePath) -> bool:
    """Whether Orbax reads and writes there by itself."""
    kind = stores.kind(path)
    return kind is None or kind.orbax


def make(path: PurePath) -> Folder:
    """The folder of this machine in which checkpoints on their way to `path` lie, empty; every process calls this.

    Raises `UserError` where the processes of the run do not see the same folder: on another machine one of the same
    name may be left of a run that was killed there.
    """
    folder, token = _place_of(path), np.frombuffer(os.urandom(4), np.uint32)
    distributed.on_first_process(lambda: _make(folder, token))
    said, seen = distributed.from_first_process(token).tobytes(), folder / TOKEN
    require(
        distributed.in_all(seen.is_file() and seen.read_bytes() == said),
        f"{path}: the processes of this run do not see the same folder for checkpoints on their way there: set TMPDIR "
        "to one",
    )
    return Folder(folder)


def _place_of(path: PurePath) -> Path:
    """The same in every process of one machine, and of one user's."""
    name = f"reimagen_jax_{os.getuid()}_{hashlib.sha256(os.fspath(path).encode()).hexdigest()[:16]}"
    return Path(tempfile.gettempdir()) / name


def _make(folder: Path, token: np.ndarray) -> None:
    """Without what a killed run has left in it, but for the file that other processes know it by."""
    with writing(folder):
        if folder.exists():
            shutil.rmtree(folder)
        folder.mkdir(mode=0o700)
        (folder / TOKEN).write_bytes(token.tobytes())


def fetch(path: PurePath, here: Path) -> None:
    """Copies a checkpoint to this machine, where it appears when it is whole."""
    partial = here.with_name(f"{here.name}.partial")
    with stores.told(path), writing(here):
        stores.fetch(path, partial)
        partial.rename(here)


@contextmanager
def within_reach(path: PurePath) -> Iterator[PurePath]:
    """A checkpoint where Orbax can read it: where it is, or a copy on this machine, for the time being."""
    if orbax_reaches(path):
        yield path
        return
    with tempfile.TemporaryDirectory(prefix="reimagen_jax_") as folder:
        here = Folder(folder) / path.name
        fetch(path, here)
        yield here
