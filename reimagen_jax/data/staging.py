"""What is to be read and lies in a bucket is copied to a disk of this machine first, and checked on the way.

DIR/BUCKET/NAME is the copy of gs://BUCKET/NAME, so that folders which refer to each other by relative paths (triples to
records and a knowledge base) still do. A file gets its name when it has the SHA-256 that the folder's manifest notes,
and the manifest is copied last: what was interrupted is gone on with, and a folder that has the bucket's manifest is
not looked at again.
"""

import hashlib
import os
import posixpath
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from reimagen_jax import stores
from reimagen_jax.checked import parse
from reimagen_jax.data.manifest import NAME, Entry, FileName
from reimagen_jax.errors import UserError, require
from reimagen_jax.files import locked, read_json
from reimagen_jax.progress import say, track

MANIFESTS = (NAME, "text_embeddings.json")
"""What a folder to be staged has one of: it notes the checksums of its files."""
LINKS = ("records", "knowledge_base", "encoder")
"""The fields, at any depth, by which a manifest refers to another folder, where they are texts."""
_LINKING = ("triples", "knowledge base")
_THREADS = 8


@dataclass(frozen=True)
class _Files:
    """What is read of a manifest here; it is checked as a whole when its folder is opened."""

    files: dict[FileName, Entry]


def stage(address: str, folder: str | Path) -> Path:
    """Copies the folder at `address`, and those that it refers to, into `folder`; returns where the copy lies.

    Several processes of a machine may do so at once: one copies. Raises `UserError` where there is no such folder in
    the bucket, where it notes no checksums, and where a file has another one than is noted.
    """
    scheme, _, name = os.fspath(stores.place(address)).partition("://")
    copied: dict[str, Path] = {}
    waiting = [name]
    while waiting:
        name = posixpath.normpath(waiting.pop())
        if name in copied:
            continue
        require(not name.startswith(".."), f"{address} refers to a folder outside of its bucket, {name}")
        manifest = _copy(f"{scheme}://{name}", Path(folder) / name)
        copied[name] = Path(folder) / name
        if manifest.get("kind") in _LINKING:
            waiting += [posixpath.join(name, link) for link in _links(manifest)]
    return next(iter(copied.values()))


def _copy(address: str, target: Path) -> dict[str, Any]:
    """Makes `target` the copy of one folder; returns its manifest."""
    source = stores.place(address)
    with stores.told(source):
        name = next((name for name in MANIFESTS if (source / name).exists()), None)
        require(name is not None, f"{source} holds nothing to copy (neither {' nor '.join(MANIFESTS)} is in it)")
        written = (source / name).read_bytes()
    try:
        target.mkdir(parents=True, exist_ok=True)
        with locked(target, wait=True):
            if not (target / name).is_file() or (target / name).read_bytes() != written:
                temporary = target / f".{name}.partial"
                temporary.write_bytes(written)
                _copy_files(source, target, _entries(temporary, f"{source}/{name}"))
                temporary.replace(target / name)
            return read_json(target / name, f"the manifest of {source}")
    except OSError as error:
        raise UserError(f"cannot copy {source} to {target}: {error.strerror}; give another --data.stage") from error


def _entries(manifest: Path, where: str) -> dict[str, Entry]:
    said = read_json(manifest, f"the copy of {where}")
    files = parse(_Files, {"files": said.get("files") if isinstance(said, dict) else None}, where).files
    require(bool(files), f"{where} notes no checksums, as those of earlier versions: write its folder again")
    return files


def _copy_files(source: Any, target: Path, entries: dict[str, Entry]) -> None:
    total = sum(entry.bytes for entry in entries.values())
    say(f"copying {source} to {target}: {len(entries)} files, {total / 2**30:.2f} GiB")

    def copy(item: tuple[str, Entry]) -> None:
        name, entry = item
        place, partial = target / name, target / f".{name}.partial"
        if _intact(place, entry):
            return
        with stores.told(source / name):
            stores.copy(source / name, partial)
        if not _intact(partial, entry):
            partial.unlink()
            raise UserError(f"{source / name} does not have the checksum that its manifest notes: it is damaged")
        partial.replace(place)

    with ThreadPoolExecutor(_THREADS) as pool:
        for _ in track(pool.map(copy, entries.items()), len(entries), "copying", "file"):
            pass


def _intact(path: Path, entry: Entry) -> bool:
    if not path.is_file() or path.stat().st_size != entry.bytes:
        return False
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest() == entry.sha256


def _links(manifest: Any) -> Iterator[str]:
    """The relative paths by which a manifest refers to other folders."""
    items = manifest.items() if isinstance(manifest, dict) else enumerate(manifest)
    for name, value in items:
        if name in LINKS and isinstance(value, str):
            yield value
        elif isinstance(value, dict | list):
            yield from _links(value)
