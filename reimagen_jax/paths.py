"""Paths that people give: a folder or file of this machine, whatever characters are in its name, or a bucket's."""

import os
import re
from pathlib import Path

from reimagen_jax.errors import require

ADDRESS = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+:/")
"""How `gs://bucket/run` begins, also once `Path` has made `gs:/bucket/run` of it; not a drive letter."""

BUCKET = re.compile(r"(?P<kind>gs|s3):/+(?P<bucket>[^/]+)(?P<name>/.*)?", re.DOTALL)
"""An address in a bucket (`stores`), also once `Path` has been at it."""


def in_bucket(path: str | os.PathLike[str]) -> bool:
    """Whether it is such an address; a path there opens by its own methods."""
    return BUCKET.fullmatch(os.fspath(path)) is not None


def local(path: str | Path) -> Path:
    """The path. Raises `UserError` for an address (gs://, s3://, file://), and for a name that is no text."""
    name = os.fspath(path)
    require(
        not ADDRESS.match(name),
        f"{name} is an address, not a folder or file of this machine: copy or mount what is there, and give its path",
    )
    require(
        name == os.fsencode(name).decode("utf-8", errors="replace"),
        f"{name!r} is no UTF-8 text, which settings and checkpoints cannot name: choose another name",
    )
    return Path(path)
