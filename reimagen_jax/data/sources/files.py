"""Files that strangers name: found in their folder however the name is spelt, and nowhere else; read if they are files.

Names come from other systems: with \\ between folders (Windows), or with accents as marks of their own (macOS, NFD of
Unicode). A symbolic link may lead anywhere, so one that leads out of the folder is followed only when asked.
"""

import os
import re
import stat
import unicodedata
from functools import cache
from pathlib import Path, PurePosixPath

from reimagen_jax.data.sources.base import Unreadable, checked, refuse_pointer, require_size

_DRIVE = re.compile(r"[A-Za-z]:")
_NORMAL_FORMS = ("NFC", "NFD")


def slashed(name: str) -> str:
    """The name of a file with / between its folders, whichever system wrote it."""
    return name.replace("\\", "/")


def leads_outside(name: str) -> bool:
    """True for the path of a file that could lie outside the folder or the archive that names it."""
    path = PurePosixPath(slashed(name))
    return path.is_absolute() or ".." in path.parts or _DRIVE.match(name) is not None or "\0" in name


def leaves(path: Path, folder: Path) -> bool:
    """True where symbolic links lead from a path in `folder` to what lies elsewhere."""
    return not Path(os.path.realpath(path)).is_relative_to(_real(folder))


@cache
def _real(folder: Path) -> str:
    return os.path.realpath(folder)


def find(folder: Path, name: str) -> Path | None:
    """Where a file of `folder` lies by its name as it is spelt, or in another system's spelling; `None` if nowhere."""
    if os.path.lexists(folder / name):
        return folder / name
    place = folder
    for part in PurePosixPath(slashed(name)).parts:
        spellings = dict.fromkeys((part, *(unicodedata.normalize(form, part) for form in _NORMAL_FORMS)))
        if (found := next((place / p for p in spellings if os.path.lexists(place / p)), None)) is None:
            return None
        place = found
    return place


def require_file(path: Path) -> None:
    """Raises `Unreadable` for what is not there, is no regular file, may not be read, or was never fetched."""
    try:
        if not stat.S_ISREG(path.stat().st_mode):  # opening a pipe would wait for ever
            raise Unreadable("unreadable file", "not a regular file")
        with path.open("rb") as file:
            refuse_pointer(file.read(100))
    except OSError as error:
        raise Unreadable("unreadable file", error.strerror or str(error)) from None


def read_picture(folder: Path, name: str, named: str, follow_links: bool = False) -> bytes:
    """Reads a picture's file, if it is one: not a folder, a device or a pipe, and no longer than is decoded.

    Raises `Unreadable`, or `OSError` where the system refuses.
    """
    path = find(folder, name) or folder / name
    try:
        status = path.stat()
    except FileNotFoundError:
        raise Unreadable("missing file", f"{named}, not in the folder") from None
    if not follow_links and leaves(path, folder):
        raise Unreadable("unreadable file", "a symbolic link out of the folder; --follow-links follows those")
    if not stat.S_ISREG(status.st_mode):
        raise Unreadable("unreadable file", "not a regular file")
    require_size(status.st_size)
    return checked(path.read_bytes())
