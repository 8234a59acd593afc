"""A folder as it was when it was opened, whatever is put in its place later.

A reader that opens some files at once and others when they are asked for must not read a folder's old manifest and the
new one's arrays. So the folder itself is held open, and its files are reached through it. Those that are held open,
too, stay readable when the folder has been replaced and removed; of others it is said then that they are gone.
"""

import hashlib
import os
import tokenize
import weakref
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from reimagen_jax.errors import UserError
from reimagen_jax.files import recover

_DESCRIPTORS = Path("/proc/self/fd")
"""Where Linux shows what is open, as paths. Elsewhere files are opened by their names, as usual."""


@dataclass(frozen=True)
class File(os.PathLike[str]):
    """A file of an opened folder: opens as a path does, and is shown by the name that it had."""

    shown: Path
    place: str
    owner: Any = field(repr=False)
    """Keeps the descriptor open that `place` speaks of."""

    def __fspath__(self) -> str:
        return self.place

    def __str__(self) -> str:
        return str(self.shown)

    def is_file(self) -> bool:
        return os.path.isfile(self.place)


class Opened:
    """`opened / name` is a file of the folder that was there when it was opened."""

    def __init__(self, path: str | Path) -> None:
        """Raises `OSError` where there is no folder, or it may not be read."""
        self.path = Path(path)
        recover(self.path)
        self._folder = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY)
        self._files: dict[str, int] = {}
        weakref.finalize(self, _close, self._folder, self._files)

    def __truediv__(self, name: str) -> File:
        place = self.path / name
        if _DESCRIPTORS.is_dir():
            held = self._files.get(name)
            place = _DESCRIPTORS / str(self._folder) / name if held is None else _DESCRIPTORS / str(held)
        return File(self.path / name, str(place), self)

    def hold(self, names: Iterable[str]) -> None:
        """Keeps files open: for those of a few large files, not for thousands. Raises `OSError`."""
        for name in names:
            self._files[name] = os.open(name, os.O_RDONLY, dir_fd=self._folder)

    def size(self, name: str) -> int | None:
        """Bytes of a file; None where there is no such file."""
        file = self / name
        return os.stat(file).st_size if file.is_file() else None

    def sha256(self, name: str) -> str:
        """Of a file's bytes (hex)."""
        with open(self / name, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()

    @property
    def replaced(self) -> bool:
        """Whether another folder has taken its place, or none."""
        try:
            return not os.path.samestat(os.stat(self.path), os.fstat(self._folder))
        except OSError:
            return True

    @contextmanager
    def reading(self, remedy: str) -> Iterator[None]:
        """Turns what reading a damaged file raises into one line, or says that the folder was replaced meanwhile."""
        try:
            yield
        except UserError:
            if self.replaced:
                raise UserError(f"{self.path} was replaced since it was opened: open it again") from None
            raise
        except MemoryError:
            raise
        except Exception as error:  # libraries raise whatever they like over bytes that are not what they wrote
            if self.replaced:
                raise UserError(f"{self.path} was replaced since it was opened: open it again") from error
            raise UserError(f"{self.path} is damaged ({type(error).__name__}: {error}): {remedy}") from error


def load_array(path: os.PathLike[str], *, mapped: bool = False) -> np.ndarray:
    """Reads an .npy file, or maps it into memory. Raises `ValueError` on one that is damaged."""
    try:
        # Mapped first: then a header that tells of more than there is asks for no memory.
        array = np.load(os.fspath(path), mmap_mode="r", allow_pickle=False)
    except (
        SyntaxError,
        tokenize.TokenError,
        EOFError,
        OverflowError,
        TypeError,
        LookupError,
    ) as error:  # of its header
        raise ValueError(f"no array: {error}") from error
    return array if mapped else np.array(array)


def _close(folder: int, files: dict[str, int]) -> None:
    for descriptor in (folder, *files.values()):
        os.close(descriptor)
