"""The manifest of an output folder: what it is, by which version, from what, and the checksums of its files.

A reader opens a folder through `read_manifest`, which refuses what this version does not know and what is not whole.
"""

import hashlib
import json
import os
from pathlib import Path
from typing import Any

from reimagen_jax import __version__
from reimagen_jax.errors import UserError
from reimagen_jax.files import read_json, write_json

NAME = "manifest.json"
VERSIONS = {"records": 1, "knowledge base": 2, "triples": 1, "encoder": 1}
OLDER = {"knowledge base": (1,)}
"""Versions that are not written any more, but read."""
COMMANDS = {"records": "prepare", "knowledge base": "index", "triples": "triples", "encoder": "encode-train"}


def write_manifest(folder: Path, kind: str, fields: dict[str, Any]) -> dict[str, Any]:
    """Writes the manifest of a finished folder of `kind`: `fields`, and size and SHA-256 of every file in it."""
    files = {
        path.name: {"bytes": path.stat().st_size, "sha256": _sha256(path)}
        for path in sorted(folder.iterdir())
        if path.is_file() and path.name != NAME
    }
    manifest = {
        "kind": kind,
        "version": VERSIONS[kind],
        "made_by": f"reimagen_jax {__version__}",
        **fields,
        "files": files,
    }
    write_json(folder / NAME, manifest)
    return manifest


def read_manifest(folder: str | Path, kind: str) -> dict[str, Any]:
    """Reads and checks the manifest of a folder of `kind`: kind, version, presence and size of its files.

    Raises `UserError` that says which command writes such a folder.
    """
    folder = Path(folder)
    remedy = f"write it with `reimagen {COMMANDS[kind]}`"
    if not folder.is_dir():
        raise UserError(f"{folder} not found: a folder of {kind} was expected there; {remedy}")
    if not (folder / NAME).is_file():
        raise UserError(f"{folder} holds no {kind} (there is no {NAME} in it); {remedy}")
    manifest = read_json(folder / NAME, f"the manifest of {kind}")
    found = manifest.get("kind") if isinstance(manifest, dict) else None
    if found != kind:
        raise UserError(f"{folder} holds {found or 'something else'}, not {kind}; {remedy}")
    if manifest.get("version") not in (VERSIONS[kind], *OLDER.get(kind, ())):
        raise UserError(
            f"{folder} has {kind} of format version {manifest.get('version')}, this program reads "
            f"{VERSIONS[kind]}: {remedy} of this version"
        )
    if not isinstance(manifest.get("files"), dict):
        raise UserError(f"{folder / NAME} lists no files: {folder} is damaged; {remedy} again")
    for name, entry in manifest["files"].items():
        path = folder / name
        size = path.stat().st_size if path.is_file() else None
        if size != entry["bytes"]:
            state = "is missing" if size is None else f"has {size} bytes instead of {entry['bytes']}"
            raise UserError(f"{path} {state}: {folder} is damaged; {remedy} again")
    return manifest


def verify_checksums(folder: str | Path, manifest: dict[str, Any]) -> None:
    """Reads every file and compares its SHA-256. Raises `UserError` naming the first that differs."""
    for name, entry in manifest["files"].items():
        if _sha256(Path(folder) / name) != entry["sha256"]:
            raise UserError(f"{Path(folder) / name} does not have the checksum that its manifest notes: it is damaged")


def fingerprint(manifest: dict[str, Any], *origins: str) -> str:
    """A checksum (hex) that stands for the folder's content, wherever it lies, and for that of its `origins`."""
    sums = {name: entry["sha256"] for name, entry in manifest["files"].items()}
    return hashlib.sha256(json.dumps([sums, origins], sort_keys=True).encode()).hexdigest()[:32]


def link(target: str | Path, folder: str | Path) -> str:
    """The path of `target` as seen from `folder`, so that both can be moved together."""
    return os.path.relpath(Path(target).resolve(), Path(folder).resolve())


def follow(folder: str | Path, relative: str) -> Path:
    """The inverse of `link`."""
    return Path(os.path.normpath(Path(folder).resolve() / relative))


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
