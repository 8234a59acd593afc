"""TFRecord files, read without TensorFlow: the form in which most TFDS data sets lie on disks.

    (1) a record is: length (uint64), masked CRC of the length, content, masked CRC of the content; little-endian
    (2) mask(crc) = (crc rotated right by 15 bits) + 0xa282ead8  mod 2^32;  CRC-32C: polynomial 0x82f63b78, reflected
Reference: tensorflow/core/lib/io/record_writer.h.
"""

import struct
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import numpy as np

MAX_RECORD_BYTES = 2**30
_HEADER = struct.Struct("<QI")
_FOOTER = struct.Struct("<I")


class TFRecordError(Exception):
    """A file that is cut or damaged; the message says where."""


def read_tfrecords(path: Path) -> Iterator[bytes]:
    """Yields the contents of the records of a file, in order. Raises `TFRecordError` where it is cut or damaged."""
    with path.open("rb") as file:
        offset = 0
        while header := file.read(_HEADER.size):  # (1)
            if len(header) < _HEADER.size:
                raise TFRecordError(f"it ends inside the record at byte {offset}")
            length, check = _HEADER.unpack(header)
            if masked_crc(header[:8]) != check or length > MAX_RECORD_BYTES:
                raise TFRecordError(f"no record at byte {offset}")
            content, footer = file.read(length), file.read(_FOOTER.size)
            if len(footer) < _FOOTER.size:
                raise TFRecordError(f"it ends inside the record at byte {offset}")
            if masked_crc(content) != _FOOTER.unpack(footer)[0]:
                raise TFRecordError(f"the record at byte {offset} does not have its checksum")
            yield content
            offset = file.tell()


def masked_crc(content: bytes) -> int:
    """The checksum of TFRecord files (2)."""
    crc = int(_crc_kernel()(np.frombuffer(content, np.uint8), _table()))
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


@cache
def _table() -> np.ndarray:
    """CRC of every byte value: uint32[256]."""
    crc = np.arange(256, dtype=np.uint32)
    for _ in range(8):
        crc = np.where(crc & np.uint32(1), crc >> np.uint32(1) ^ np.uint32(0x82F63B78), crc >> np.uint32(1))
    return crc


@cache
def _crc_kernel():
    import numba

    @numba.njit(nogil=True)
    def crc32c(content, table):
        crc = np.uint32(0xFFFFFFFF)
        for byte in content:
            crc = table[(crc ^ byte) & np.uint32(0xFF)] ^ (crc >> np.uint32(8))
        return crc ^ np.uint32(0xFFFFFFFF)

    return crc32c
