"""What sources of many files have in common: a name that tells their content, and problems with a whole file."""

import hashlib
import os
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

_SAMPLED = 2**16


def common_folder(paths: Sequence[Path]) -> Path:
    """The innermost folder that holds all files, by their names: links are not followed."""
    return Path(os.path.commonpath([os.path.dirname(os.path.abspath(path)) for path in paths]))


def relative_names(paths: Sequence[Path]) -> tuple[str, ...]:
    """The files' names as seen from their common folder, spelt in Unicode."""
    root = common_folder(paths)
    return tuple(spelt(Path(os.path.abspath(path)).relative_to(root).as_posix()) for path in paths)


def spelt(name: str) -> str:
    """A file's name as text: bytes of it that are no UTF-8 are written as \\xNN."""
    return os.fsencode(name).decode("utf-8", "backslashreplace")


def fingerprint(paths: Sequence[Path]) -> str:
    """A checksum (hex) of the files' names and sizes and of the beginning and end of each, wherever they lie.

    Reading all of them would take as long as the work itself. A file that cannot be read counts as empty here; what is
    wrong with it is said in its turn.
    """
    content = hashlib.sha256()
    for name, path in zip(relative_names(paths), paths, strict=True):
        size, head, tail = 0, b"", b""
        with suppress(OSError):
            if path.is_file():  # a pipe would be waited for
                size = path.stat().st_size
                with path.open("rb") as file:
                    head = file.read(_SAMPLED)
                    file.seek(max(0, size - _SAMPLED))
                    tail = file.read(_SAMPLED)
        for part in (name.encode(), str(size).encode(), head, tail):
            content.update(hashlib.sha256(part).digest())
    return content.hexdigest()[:16]
