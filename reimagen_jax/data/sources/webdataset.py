"""Webdataset shards: tar archives in which consecutive files with the same name up to the first dot are one sample.

A sample has a picture (000001.jpg), and a caption beside it (000001.txt) or in its fields (000001.json), which become
attributes: what `img2dataset` and the `webdataset` library write. Nothing is unpacked to the disk; a shard that is cut
or damaged is refused as a whole, before any of its samples is read.
"""

import os
import weakref
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property, partial
from itertools import groupby, islice
from pathlib import Path, PurePosixPath
from typing import Any

from reimagen_jax.data.image_text import Problem
from reimagen_jax.data.sources.base import MAX_TEXT_BYTES, Entry, Smaller, Source, Unreadable, checked, require_size
from reimagen_jax.data.sources.fields import Captions, parse_object
from reimagen_jax.data.sources.files import leads_outside, require_file, slashed
from reimagen_jax.data.sources.shards import common_folder, fingerprint, relative_names
from reimagen_jax.data.sources.tar import Member, TarError, members
from reimagen_jax.data.sources.where import EVERYTHING, Where

IMAGE_EXTENSIONS = ("jpg", "jpeg", "png", "webp", "gif", "bmp")
TEXT_EXTENSIONS = ("txt", "text", "caption")
_COMPRESSED = {b"\x1f\x8b": "gzip", b"BZh": "bzip2", b"\xfd7zXZ": "xz", b"\x28\xb5\x2f\xfd": "zstd"}
_MAX_PARTS = 64
"""Most files of one sample."""


@dataclass(frozen=True)
class WebdatasetSource(Source):
    """Tar shards in webdataset's form."""

    paths: tuple[Path, ...]
    where: Where = EVERYTHING
    resolution: int | None = None
    captions: Captions = field(default_factory=Captions)
    image: str | None = None
    """Extension of the pictures; the first of the usual ones that a sample has when `None`."""
    smaller: Smaller = "kept"

    @cached_property
    def name(self) -> str:
        return f"webdataset {common_folder(self.paths).name} {fingerprint(self.paths)}"

    @cached_property
    def files(self) -> tuple[str, ...]:
        return relative_names(self.paths)

    def count(self) -> None:
        """Only reading can tell."""

    def entries(self, file: int, start: int) -> Iterator[tuple[int, Entry | Problem]]:
        shard = self.files[file]
        try:
            require_file(self.paths[file])
            archive = Archive(self.paths[file])
            refused = _why_refused(archive)
        except Unreadable as error:
            refused = error.reason, error.detail
        except OSError as error:
            refused = "unreadable file", error.strerror or str(error)
        if refused:
            yield 0, Problem(shard, *refused)
            return
        files = (member for member in archive.members() if member.kind != "folder" and not _of_a_mac(member.name))
        number = 0
        try:
            for number, (key, parts) in enumerate(groupby(files, key=lambda member: _sample_key(member.name))):
                if number >= start:
                    yield number, self._entry(f"{shard}:{key}", list(islice(parts, _MAX_PARTS + 1)), archive)
        except (TarError, OSError) as error:  # the file changes, or its disk fails
            yield number + 1, Problem(shard, "unreadable file", str(error))

    def _entry(self, key: str, parts: list[Member], archive: "Archive") -> Entry | Problem:
        for part in parts:
            if leads_outside(part.name):
                return Problem(key, "path outside the shard", f"member {part.name!r}")
            if part.kind != "file":
                return Problem(key, "not a file", f"member {part.name!r} is a link, a device or sparse")
        if len(parts) > _MAX_PARTS:
            return Problem(key, "no sample", f"more than {_MAX_PARTS} files with the same name up to the first dot")
        by_extension: dict[str, Member] = {}
        for part in parts:
            if by_extension.setdefault(_extension(part.name), part) is not part:
                return Problem(key, "repeated file", f"two members {part.name!r} in one sample")
        wanted = (self.image.lower().lstrip("."),) if self.image else IMAGE_EXTENSIONS
        picture = next((by_extension[name] for name in wanted if name in by_extension), None)
        if picture is None:
            return Problem(key, "no picture", f"a sample of {', '.join(sorted(by_extension)) or 'nothing'}")
        fields = _fields(by_extension, archive)
        if isinstance(fields, str):
            return Problem(key, "bad text", fields)
        texts, attributes = self.captions.split(fields)
        if not texts:
            return Problem(key, "empty caption", self.captions.why_none(fields, key))
        return Entry(key, texts, attributes, partial(_read_picture, archive, picture))


class Archive:
    """An open archive, read at any place by any thread; closed when its last reader is gone."""

    def __init__(self, path: Path):
        self._descriptor = os.open(path, os.O_RDONLY)
        weakref.finalize(self, os.close, self._descriptor)
        self._path = path
        self.size = os.fstat(self._descriptor).st_size

    def members(self) -> Iterator[Member]:
        """Yields the members in their order. Raises `TarError` where the archive is cut or damaged."""
        with self._path.open("rb") as file:
            yield from members(file, self.size)

    def read(self, offset: int, size: int) -> bytes:
        """Reads `size` bytes at `offset`, fewer at the end of the file."""
        data = os.pread(self._descriptor, size, offset)
        while len(data) < size and (more := os.pread(self._descriptor, size - len(data), offset + len(data))):
            data += more
        return data


def _why_refused(archive: Archive) -> tuple[str, str] | None:
    """Reason and detail where a shard is cut or damaged; goes through its headers, not its contents."""
    head = archive.read(0, 6)
    for magic, name in _COMPRESSED.items():
        if head.startswith(magic):
            return "compressed shard", f"unpack it with {name} to a plain .tar first"
    try:
        for _ in archive.members():
            pass
    except TarError as error:
        return "damaged shard", f"{error}; none of it is used, fetch it again"
    return None


def _of_a_mac(name: str) -> bool:
    """True for what macOS adds to archives, and to samples: ._NAME, which holds attributes of the file NAME."""
    base = slashed(name).rpartition("/")[2]
    return base.startswith("._") or base == ".DS_Store"


def _sample_key(name: str) -> str:
    base = slashed(name).rfind("/") + 1
    return name[:base] + name[base:].partition(".")[0]


def _extension(name: str) -> str:
    return PurePosixPath(slashed(name)).name.partition(".")[2].lower()


def _fields(parts: dict[str, Member], archive: Archive) -> dict[str, Any] | str:
    """The fields of a sample: of its JSON file, of its text files under their extensions; or what is wrong."""
    fields: dict[str, Any] = {}
    for extension in ("json", "cls", *TEXT_EXTENSIONS):
        if (part := parts.get(extension)) is None:
            continue
        if part.size > MAX_TEXT_BYTES:
            return f"{part.name!r} has {part.size} bytes, the limit is {MAX_TEXT_BYTES}"
        data = archive.read(part.offset, part.size)
        try:
            if extension == "json":
                fields |= parse_object(data, lenient=True)
            else:
                text = data.decode("utf-8-sig").strip()
                fields["text" if extension in TEXT_EXTENSIONS else extension] = text
        except ValueError as error:
            return f"{part.name!r}: {error}"
    return fields


def _read_picture(archive: Archive, member: Member) -> bytes:
    require_size(member.size)
    return checked(archive.read(member.offset, member.size))
