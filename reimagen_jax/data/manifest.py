"""The manifest of an output folder: what it is, by which version, from what, and the checksums of its files.

A reader opens a folder through `open_folder`, which refuses what this version does not know and what is not whole:
files that are missing or of another size, and small ones of another checksum. `verify` compares all.
"""

import hashlib
import json
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

from pydantic import StringConstraints

from reimagen_jax import __version__
from reimagen_jax.checked import Natural, parse
from reimagen_jax.data.opened import Opened
from reimagen_jax.errors import UserError
from reimagen_jax.files import MARK, called, kind_of, read_json, recover, signed, unchanged, write_json

NAME = "manifest.json"
VERSIONS = {"records": 1, "knowledge base": 2, "triples": 1, "encoder": 1, "weights": 1, "human ratings": 1}
OLDER = {"knowledge base": (1,)}
"""Versions that are not written any more, but read."""
COMMANDS = {
    "records": "prepare",
    "knowledge base": "index",
    "triples": "triples",
    "encoder": "encode-train",
    "weights": "export",
    "human ratings": "rate",
}
SMALL = 2**20
"""Bytes of the largest files whose checksums are compared whenever a folder is opened."""
Text = Annotated[str, StringConstraints(min_length=1)]
FileName = Annotated[str, StringConstraints(pattern=r"^[^/\x00]+$")]
Sha256 = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]


@dataclass(frozen=True)
class Entry:
    """What a manifest says of a file."""

    bytes: Natural
    sha256: Sha256


@dataclass(frozen=True)
class Manifest:
    """What is in every manifest; those of a kind declare more fields. What else there is, is for people."""

    kind: str
    version: int
    files: dict[FileName, Entry]


def write_manifest(folder: Path, kind: str, fields: dict[str, Any], *, leave: tuple[str, ...] = ()) -> dict[str, Any]:
    """Writes the manifest of a finished folder of `kind`: `fields`, and size and SHA-256 of every file in it.

    Files of `leave` are not in it: people may change them.
    """
    opened = Opened(folder)
    names = sorted(path.name for path in folder.iterdir() if path.is_file())
    files = {
        name: {"bytes": opened.size(name), "sha256": opened.sha256(name)}
        for name in names
        if name not in (NAME, MARK, *leave)
    }
    manifest = {
        "kind": kind,
        "version": VERSIONS[kind],
        "made_by": f"reimagen_jax {__version__}",
        **fields,
        "files": files,
    }
    write_json(folder / NAME, signed(manifest))
    return manifest


@dataclass(frozen=True, eq=False)
class Folder:
    """A folder with a manifest, opened: `folder / name` is a file of it, whatever is put in its place later."""

    path: Path
    manifest: dict[str, Any]
    opened: Opened = field(repr=False)

    def __truediv__(self, name: str) -> os.PathLike[str]:
        return self.opened / name

    @property
    def remedy(self) -> str:
        """What to do when it is damaged."""
        return f"write it with `reimagen {COMMANDS[self.manifest['kind']]}` again"

    def verify(self, *names: str) -> None:
        """Reads files and compares their SHA-256; by default all, then the manifest's own.

        Raises `UserError` naming the first that differs.
        """
        for name in names or self.manifest["files"]:
            if self.opened.sha256(name) != self.manifest["files"][name]["sha256"]:
                path = self.path / name
                raise UserError(f"{path} does not have the checksum that its manifest notes: it is damaged")
        if not names:
            self.verify_manifest()

    def verify_manifest(self) -> None:
        """Compares the checksum of the manifest itself, which older versions did not sign. Raises `UserError`."""
        if not unchanged(self.manifest):
            raise UserError(f"{self.path / NAME} was changed since it was written: {self.remedy}")


def open_folder(path: str | Path, kind: str, *forms: type, hold: bool = False) -> Folder:
    """Opens a folder of `kind`: its manifest has the fields it needs, its files are there, the small ones intact.

    `forms` tell the fields of version 1 of the format, of version 2, and so on (default: `Manifest`). With `hold` all
    its files stay open (see `Opened`). Raises `UserError` that says which command writes such a folder.
    """
    while True:
        opened = _opened(Path(path), kind)
        try:
            return _checked(opened, kind, forms or (Manifest,), hold)
        except (UserError, OSError):
            if not opened.replaced:  # else it was, while it was being read
                raise


def _opened(path: Path, kind: str) -> Opened:
    try:
        return Opened(path)
    except (FileNotFoundError, NotADirectoryError):
        raise UserError(f"{path} not found: a folder of {kind} was expected there; {_remedy(kind)}") from None
    except OSError as error:
        raise UserError(f"{path} cannot be opened: {error.strerror}") from error


def _checked(opened: Opened, kind: str, forms: tuple[type, ...], hold: bool) -> Folder:
    path, remedy = opened.path, _remedy(kind)
    if not (opened / NAME).is_file():
        if kind == "records" and kind_of(path) == "split":
            parts = sorted(each.parent for each in path.glob(f"*/{NAME}"))
            raise UserError(f"{path} is a split, whose parts hold the records: give {' or '.join(map(str, parts))}")
        raise UserError(f"{path} holds no {kind} (there is no {NAME} in it); {remedy}")
    manifest = read_json(opened / NAME, f"the manifest of {called(kind)}")
    found = manifest.get("kind") if isinstance(manifest, dict) else None
    if found != kind:
        said = called(found) if isinstance(found, str) and found else "something else"
        raise UserError(f"{path} holds {said}, not {called(kind)}; {remedy}")
    if manifest.get("version") not in (VERSIONS[kind], *OLDER.get(kind, ())):
        raise UserError(
            f"{path} has {kind} of format version {manifest.get('version')}, this program reads "
            f"{VERSIONS[kind]}: {remedy} of this version"
        )
    try:
        parse(forms[manifest["version"] - 1], manifest, str(path / NAME))
    except UserError as error:
        raise UserError(f"{path} is damaged: {error}; {remedy} again") from error
    for name, entry in manifest["files"].items():
        size = opened.size(name)
        if size != entry["bytes"]:
            state = "is missing" if size is None else f"has {size} bytes instead of {entry['bytes']}"
            raise UserError(f"{path / name} {state}: {path} is damaged; {remedy} again")
    if hold:
        opened.hold(manifest["files"])
    folder = Folder(path, manifest, opened)
    if small := [name for name, entry in manifest["files"].items() if entry["bytes"] <= SMALL]:
        folder.verify(*small)
    return folder


def _remedy(kind: str) -> str:
    return f"write it with `reimagen {COMMANDS[kind]}`"


def fingerprint(manifest: dict[str, Any], *origins: str) -> str:
    """A checksum (hex) that stands for the folder's content, wherever it lies, and for that of its `origins`."""
    sums = {name: entry["sha256"] for name, entry in manifest["files"].items()}
    return hashlib.sha256(json.dumps([sums, origins], sort_keys=True).encode()).hexdigest()[:32]


def link(target: str | Path, folder: str | Path) -> str:
    """The path of `target` as seen from `folder`, so that both can be moved together."""
    return os.path.relpath(Path(target).resolve(), Path(folder).resolve())


def follow(folder: str | Path, relative: str) -> Path:
    """The inverse of `link`."""
    path = Path(os.path.normpath(Path(folder).resolve() / relative))
    recover(path)
    return path
