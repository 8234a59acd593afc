"""Reads the members of a tar archive: where each lies in the file, never writing anything to the disk.

    (1) an archive is a sequence of blocks of 512 bytes: a header, then the member's content, padded to whole blocks;
    (2) checksum = sum of the header's bytes, with spaces in the place of the checksum itself;
    (3) blocks of zeros end the archive.
Headers of types L (GNU) and x, g (POSIX.1-2001 pax) carry what the next header has no room for, such as long names.

Written anew because archives come from strangers: Python's `tarfile` keeps every member in memory, reads a pax header
of any size at once, and in many releases can be made to go round in a circle (CVE-2025-8194). Here every step goes
forward in the file, and nothing larger than `MAX_HEADER_BYTES` is read. Reference: POSIX.1-2017, pax.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO, Literal

BLOCK = 512
MAX_HEADER_BYTES = 2**20
_CHUNK = 2**20
_REGULAR = (b"0", b"\0")
_EMPTY = (b"1", b"2", b"3", b"4", b"5", b"6")
"""Links, devices, folders and pipes: no content follows, whatever size is noted."""
_EXTENSIONS = (b"L", b"x")
_IGNORED = (b"g", b"V", b"K")
"""Global pax headers, volume labels and long link names: they say nothing of a file that is read here."""


@dataclass(frozen=True)
class Member:
    """A member of an archive; its content are `size` bytes at `offset`."""

    name: str
    offset: int
    size: int
    kind: Literal["file", "folder", "other"]
    """Links, devices and sparse files are "other"."""


class TarError(Exception):
    """An archive that is not whole; the message says where."""


def members(file: BinaryIO, size: int) -> Iterator[Member]:
    """Yields the members of an archive of `size` bytes in their order. Raises `TarError` where it is cut or damaged."""
    offset, extra = 0, {}
    while True:
        file.seek(offset)
        block = file.read(BLOCK)
        if not block:
            raise TarError(f"it ends at byte {size} without the blocks of zeros that end an archive")
        if len(block) < BLOCK:
            raise TarError(f"it ends at byte {size}, inside a header")
        if not any(block) and not any(file.read(BLOCK)):  # (3)
            if (there := _after_zeros(file, offset)) < size:
                hint = "either members are missing there, or archives were joined, which must be parted"
                raise TarError(f"it ends at byte {offset} and goes on at {there}: {hint}")
            break
        _require_checksum(block, offset)
        kind = block[156:157]
        name = extra.get("path") or _plain_name(block)
        length = 0 if kind in _EMPTY else _length(block, extra, offset)
        start = offset + BLOCK
        offset = start + -(-length // BLOCK) * BLOCK  # (1)
        if start + length > size:
            raise TarError(f"it ends at byte {size}, inside {name!r}, which needs {start + length}")
        if kind in _EXTENSIONS:
            if length > MAX_HEADER_BYTES:
                raise TarError(f"a header of {length} bytes at byte {start}, the limit is {MAX_HEADER_BYTES}")
            content = file.read(length)
            extra |= {"path": _text(content)} if kind == b"L" else _pax(content, start)
        elif kind not in _IGNORED:
            offset += _more_of_sparse(file, block, start)
            yield Member(name, start, length, _kind(kind, name, extra))
            extra = {}
    if extra:
        raise TarError(f"it ends at byte {size}, after the header of a long name")


def _after_zeros(file: BinaryIO, offset: int) -> int:
    """Where the first block from `offset` on lies that is not all zeros, or the end of the file."""
    file.seek(offset)
    while chunk := file.read(_CHUNK):
        if rest := chunk.lstrip(b"\0"):
            return offset + (len(chunk) - len(rest)) // BLOCK * BLOCK
        offset += len(chunk)
    return offset


def _more_of_sparse(file: BinaryIO, block: bytes, start: int) -> int:
    """Bytes between the header of a sparse member (GNU, type S) and its content: blocks in which its map goes on."""
    begin = start
    more = block[156:157] == b"S" and block[482]
    while more:
        file.seek(start)
        if len(block := file.read(BLOCK)) < BLOCK:
            raise TarError(f"it ends at byte {start + len(block)}, inside the map of a sparse file")
        start, more = start + BLOCK, block[504]
    return start - begin


def _kind(kind: bytes, name: str, extra: dict[str, str]) -> Literal["file", "folder", "other"]:
    if kind == b"5" or (kind in _REGULAR and name.endswith("/")):
        return "folder"
    sparse = any(keyword.startswith("GNU.sparse") for keyword in extra)
    return "file" if kind in _REGULAR and not sparse else "other"


def _length(block: bytes, extra: dict[str, str], offset: int) -> int:
    if block[156:157] not in _REGULAR or "size" not in extra:
        return _number(block[124:136], offset)
    if not (extra["size"].isascii() and extra["size"].isdigit()) or len(extra["size"]) > 20:
        raise TarError(f"no number in the pax header before byte {offset}")
    return int(extra["size"])


def _require_checksum(block: bytes, offset: int) -> None:
    found = sum(block) - sum(block[148:156]) + 8 * ord(" ")  # (2)
    if _number(block[148:156], offset) != found:
        raise TarError(f"no header of a member at byte {offset}")


def _number(field: bytes, offset: int) -> int:
    """A number in octal digits, or in binary where the first bit is set (GNU, for large files)."""
    if field[0] & 0x80:
        if field[0] != 0x80:
            raise TarError(f"a negative number in the header at byte {offset}")
        return int.from_bytes(field[1:], "big")
    digits = field.split(b"\0")[0].strip()
    if digits.strip(b"01234567"):
        raise TarError(f"no number in the header at byte {offset}")
    return int(digits or b"0", 8)


def _plain_name(block: bytes) -> str:
    name, prefix = _text(block[:100]), _text(block[345:500]) if block[257:263] == b"ustar\0" else ""
    return f"{prefix}/{name}" if prefix else name


def _text(field: bytes) -> str:
    return field.split(b"\0")[0].decode("utf-8", "backslashreplace")


def _pax(content: bytes, offset: int) -> dict[str, str]:
    """The records "LENGTH KEYWORD=VALUE\\n" of a pax header."""
    records = {}
    while content and content[:1] != b"\0":
        length, space, _ = content[:24].partition(b" ")
        if not (space and length.isdigit()) or not len(length) + 1 < int(length) <= len(content):
            raise TarError(f"a broken pax header at byte {offset}")
        keyword, _, value = content[len(length) + 1 : int(length)].removesuffix(b"\n").partition(b"=")
        records[keyword.decode("utf-8", "backslashreplace")] = value.decode("utf-8", "backslashreplace")
        content = content[int(length) :]
    return records
