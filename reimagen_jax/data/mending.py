"""Pictures that viewers show and a strict decoder refuses: what of their bytes makes the pixels.

Metadata is what breaks most often, and nothing of it is needed but orientation and colours; a JPEG without its end mark
(webcams and telephones write them) has all its pixels. Neither can be told beforehand, so this is for pictures that a
decoder has refused. Structure: PNG 3rd edition section 5 (chunks; lower case names may be passed over), JPEG
(ITU T.81) annex B (segments; APPn and COM may), WebP container specification (RIFF chunks).
"""

import re
import struct
import zlib
from collections.abc import Iterator

MAX_PROFILE_BYTES = 2**20
"""Largest colour profile of a PNG that Pillow unpacks."""
NO_END_MARK = "JPEG without its end mark"
DAMAGED_METADATA = "damaged metadata"

_PNG, _JPEG = b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff"
_END_MARK = b"\xff\xd9"
_RESTARTS = [bytes((0xFF, 0xD0 + n)) for n in range(8)]
_START_OF_SCAN, _COMMENT = 0xDA, 0xFE
_FRAMES = (0xC0, 0xC1, 0xC2)
"""Baseline, extended, progressive."""
_MARKER = re.compile(rb"\xff[^\x00\xff\xd0-\xd7]")
"""Of a segment: not a byte of a scan, not a restart."""
_JPEG_METADATA = ((0xE0, b"JFIF\0", 12), (0xE1, b"Exif\0\0", 6), (0xE2, b"ICC_PROFILE\0", 14), (0xEE, b"Adobe", 12))
"""Marker, beginning and least length of the segments that are kept: orientation, and what tells the colours."""
_WEBP_FLAGS = {b"ICCP": 0x20, b"ALPH": 0x10, b"EXIF": 0x08, b"XMP ": 0x04, b"ANIM": 0x02}
_WEBP_CHUNKS = (*_WEBP_FLAGS, b"VP8X", b"VP8 ", b"VP8L", b"ANMF")


def mended(data: bytes) -> Iterator[tuple[str, tuple[bytes, ...]]]:
    """Yields what may be amiss, and the picture without it: encodings that must all give the same pixels.

    The first encoding is the one to keep. A JPEG whose pixels depend on what is put behind its last byte is truncated.
    """
    if data.startswith(_PNG):
        yield DAMAGED_METADATA, (_png(data),)
    elif data.startswith(_JPEG):
        lean = _jpeg(data)
        yield DAMAGED_METADATA, (lean,)
        for what, whole in ((NO_END_MARK, data.rstrip(b"\xff")), (DAMAGED_METADATA, lean.rstrip(b"\xff"))):
            if _all_scans(whole):
                yield what, tuple(whole + filler + _END_MARK for filler in _fillers(whole))
    elif data.startswith(b"RIFF") and data[8:12] == b"WEBP":
        yield DAMAGED_METADATA, (_webp(data),)


def _png(data: bytes) -> bytes:
    """Without the chunks that a decoder may pass over, but those whole ones that change what is seen."""
    kept, place = [data[:8]], 8
    while place + 8 <= len(data):
        length, kind = struct.unpack_from(">L4s", data, place)
        chunk = data[place : place + length + 12]
        critical = not kind[0] & 0x20
        if critical or (chunk[-4:] == struct.pack(">L", zlib.crc32(chunk[4:-4])) and _tells(kind, chunk[8:-4], data)):
            kept.append(chunk)
        place += length + 12
    return b"".join(kept)


def _tells(kind: bytes, content: bytes, data: bytes) -> bool:
    """Whether an ancillary chunk of a PNG says, in its due form, how the pixels are to be seen."""
    if kind == b"tRNS":
        return len(content) >= {0: 2, 2: 6}.get(data[25], 0)  # grey, RGB
    if kind == b"iCCP":
        _, _, packed = content.partition(b"\0")
        try:
            return packed[:1] == b"\0" and len(_unpacked(packed[1:])) <= MAX_PROFILE_BYTES
        except zlib.error:
            return False
    return kind == b"eXIf"


def _unpacked(packed: bytes) -> bytes:
    return zlib.decompressobj().decompress(packed, MAX_PROFILE_BYTES + 1)


def _jpeg(data: bytes) -> bytes:
    """Without the application segments and comments before the first scan that tell nothing of the pixels."""
    kept, place = [data[:2]], 2
    while place + 4 <= len(data) and data[place] == 0xFF and data[place + 1] != _START_OF_SCAN:
        marker, length = struct.unpack_from(">xBH", data, place)
        if marker == 0xFF:  # a filling byte
            place += 1
            continue
        content = data[place + 4 : place + 2 + length]
        metadata = 0xE0 <= marker <= 0xEF or marker == _COMMENT
        if not metadata or any(
            marker == known and content.startswith(start) and len(content) >= least
            for known, start, least in _JPEG_METADATA
        ):
            kept.append(data[place : place + 2 + length])
        place += 2 + length
    return b"".join([*kept, data[place:]])


def _all_scans(data: bytes) -> bool:
    """Whether a JPEG ends within a scan, and has begun to tell the last bit of every coefficient by then."""
    missing, last, place = {None}, None, 2
    while found := _MARKER.search(data, place):
        last, start = data[found.start() + 1], found.end()
        length = int.from_bytes(data[start : start + 2])
        content = data[start + 2 : start + length]
        if len(content) != length - 2 or (last in (_START_OF_SCAN, *_FRAMES) and length < 8):
            return False
        if last in _FRAMES:
            missing = {(component, k) for component in content[6::3] for k in range(64)}
        elif last == _START_OF_SCAN:
            first, end, bits = content[-3:]
            if bits & 15 == 0:
                missing -= {(component, k) for component in content[1:-3:2] for k in range(first, end + 1)}
        place = start + length
    return last == _START_OF_SCAN and not missing


def _fillers(data: bytes) -> Iterator[bytes]:
    """Nothing, and bits and their opposites, also behind the next restart markers: pixels read from them differ."""
    _, last = max((data.rfind(mark), n) for n, mark in enumerate(_RESTARTS))
    coming = _RESTARTS[last + 1 :] + _RESTARTS[: last + 1]
    yield b""
    for byte in (b"\x55", b"\xaa"):
        yield (64 * byte).join([b"", *coming, b""])


def _webp(data: bytes) -> bytes:
    """The whole chunks of known kinds, padded as they should be, under a header that names them."""
    kept, place, flags = [], 12, 0
    while place + 8 <= len(data):
        kind, length = struct.unpack_from("<4sL", data, place)
        content = data[place + 8 : place + 8 + length]
        if kind in _WEBP_CHUNKS and len(content) == length:
            kept.append((kind, content))
            flags |= _WEBP_FLAGS.get(kind, 0)
        place += 8 + length + length % 2
    body = b""
    for kind, content in kept:
        if kind == b"VP8X":
            content = bytes([content[0] & (flags | 0x10)]) + content[1:] if content else content
        body += kind + struct.pack("<L", len(content)) + content + bytes(len(content) % 2)
    return b"RIFF" + struct.pack("<L", 4 + len(body)) + b"WEBP" + body
