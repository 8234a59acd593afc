"""Encoded images to pixels: upright, sRGB over white, centre-cropped to a square, resized by area averaging.

Images come from strangers: whatever cannot be decoded within the limits is an `ImageError` with a short reason. What is
amiss with their metadata never costs the pixels.
"""

import ctypes
import errno
import hashlib
import io
import os
import stat
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError

from reimagen_jax.data.mending import mended
from reimagen_jax.data.parallel import Budget
from reimagen_jax.data.viewing import HIDDEN, strips, viewed
from reimagen_jax.errors import UserError

MAX_PIXELS = 2**26
"""Largest image that is decoded: 8192 x 8192."""
MAX_BYTES = 2**28
"""Largest encoded image that is read."""
MEMORY = 2**30
"""Bytes that images being decoded take together, over all threads; one that needs more is decoded alone."""
FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP")
"""What is read; of animations, the first frame."""
LOSSY_FORMATS = ("JPEG", "MPO")
"""MPO is how Pillow calls the JPEG files of some telephones."""
STORED_FORMATS = ("PNG", *LOSSY_FORMATS, "WEBP")
"""What records hold as it came; others are stored as PNG."""
LFS_POINTER = b"version https://git-lfs.github.com/spec/"
"""How a file begins that stands for one that git-LFS did not fetch."""

_LARGE = 2**25
"""Bytes to decode an image after which memory is given back to the system."""
_PNG_DEPTH = 24
"""Where a PNG says how many bits a channel has."""

# Pillow warns of sizes, which are checked here, and of odd metadata, which are not used.
warnings.filterwarnings("ignore", module=r"PIL\.")

_memory = Budget(MEMORY)

# glibc keeps what a thread has freed for that thread alone (up to the whole of a large picture), unless it is told.
_trim = getattr(ctypes.CDLL(None), "malloc_trim", lambda keep: None)


class ImageError(UserError):
    """An image that cannot be used; `reason` is one of a few fixed phrases, for counting."""

    def __init__(self, reason: str, detail: str):
        super().__init__(f"{reason}: {detail}")
        self.reason = reason
        self.detail = detail


def load(data: bytes) -> Image.Image:
    """Decodes to an upright RGB image: in sRGB, transparency over white, EXIF rotation applied.

    `format` names its encoding. Where a strict decoder refuses what viewers show (see `mending`), `info` says under
    "mended" what was amiss, and holds under "encoded" the bytes without it.
    Raises `ImageError`: "not an image", "broken image" (truncated, for instance) or "oversized image".
    """
    if len(data) > MAX_BYTES:
        raise ImageError("oversized image", f"more than {MAX_BYTES} bytes")
    try:
        return _decoded(data)
    except ImageError as error:
        if error.reason != "oversized image" and (image := _mended(data)):
            return image
        raise


def read(path: str | Path) -> bytes:
    """The content of an image file, of which no more is read than `load` needs to refuse it.

    Raises `OSError`, also for what is no regular file: a pipe that nobody writes to would never be read to its end.
    """
    with open(path, "rb", opener=_without_waiting) as file:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise OSError(errno.EINVAL, "it is no regular file", str(path))
        return file.read(MAX_BYTES + 1)


def _without_waiting(path: str, flags: int) -> int:
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))


def decode(data: bytes, resolution: int | None = None) -> np.ndarray:
    """Decodes to uint8 [R, R, 3]: the central square, resized to `resolution`, or in its own size R when `None`.

    Waits for `room`. Raises `ImageError` like `load`.
    """
    with room(data):
        return np.asarray(square(load(data), resolution))


def size(data: bytes) -> tuple[int, int]:
    """Width and height, of which no more than the header is read. Raises `ImageError` like `load`."""
    return _opened(data).size


@contextmanager
def room(data: bytes) -> Iterator[None]:
    """Waits until there is memory to decode an image, and keeps it: for threads, around `load` and what follows."""
    try:
        needed = _memory_of(_opened(data))
    except ImageError:  # for `load` to say
        needed = 0
    with _memory.hold(needed + len(data)):
        try:
            yield
        finally:
            if needed > _LARGE:
                _trim(0)


def square(image: Image.Image, resolution: int | None) -> Image.Image:
    """The central square; area-averaged on the way down, bicubic on the way up."""
    side = min(image.size)
    left, top = (image.width - side) // 2, (image.height - side) // 2
    box = (left, top, left + side, top + side)
    if resolution is None or resolution == side:
        return image.crop(box)
    method = Image.Resampling.BOX if resolution < side else Image.Resampling.BICUBIC
    return image.resize((resolution, resolution), method, box=box)


def digest(image: Image.Image) -> str:
    """A checksum of the pixels (hex, 128 bits): equal for equal images, however they are encoded.

    Of an image as `load` gives it, what white hides of it counts too: white logos on transparency are told apart.
    """
    content = hashlib.blake2b(f"{image.width}x{image.height}".encode(), digest_size=16)
    for layer in filter(None, (image, image.info.get(HIDDEN))):
        for strip in strips(layer):
            content.update(strip.tobytes())
    return content.hexdigest()


def rounded(images: np.ndarray) -> np.ndarray:
    """Images as bytes: those in floats from -1 to 1 rounded, others as they are."""
    if images.dtype == np.uint8:
        return images
    return np.round((np.clip(images, -1.0, 1.0) + np.float32(1.0)) * np.float32(127.5)).astype(np.uint8)


def encode(image: Image.Image, lossy: bool) -> bytes:
    """Encodes as JPEG (quality 95, full chroma resolution) where `lossy`, else as PNG."""
    buffer = io.BytesIO()
    if lossy:
        image.save(buffer, "JPEG", quality=95, subsampling=0)
    else:
        image.save(buffer, "PNG")
    return buffer.getvalue()


def _opened(data: bytes) -> Image.Image:
    """The image of which only the header is read, within the limits."""
    try:
        image = Image.open(io.BytesIO(data), formats=FORMATS)
    except Image.DecompressionBombError as error:
        raise ImageError("oversized image", str(error)) from None
    except UnidentifiedImageError:
        if data.startswith(LFS_POINTER):
            raise ImageError("git-LFS pointer", "the image itself is to be fetched with `git lfs pull`") from None
        raise ImageError("not an image", f"{len(data)} bytes that are none of {', '.join(FORMATS)}") from None
    except Exception as error:  # Pillow's decoders let all kinds through when a file is broken
        raise _broken(error) from None
    if image.width * image.height > MAX_PIXELS:
        raise ImageError("oversized image", f"{image.width} x {image.height} pixels, the limit is {MAX_PIXELS}")
    return image


def _memory_of(image: Image.Image) -> int:
    """Bytes that it takes at most to decode an image, to convert it and to turn it."""
    pixel = 8
    if image.format == "WEBP":  # two canvases, and a copy of one
        pixel += 12
    elif "progressive" in image.info:  # coefficients
        pixel += 6
    return image.width * image.height * pixel


def _decoded(data: bytes) -> Image.Image:
    image = _opened(data)
    kind = image.format
    try:
        image.load()
        image = viewed(image, data[_PNG_DEPTH] if kind == "PNG" else 8)
    except Exception as error:
        raise _broken(error) from None
    image.format = kind
    return image


def _mended(data: bytes) -> Image.Image | None:
    """What viewers show of an image that a strict decoder refuses; `None` where that depends on what is missing."""
    for what, encodings in mended(data):
        shown = set()
        for encoding in reversed(encodings):
            try:
                image = _decoded(encoding)
            except ImageError:
                break
            shown.add(digest(image))
        else:
            if len(shown) == 1:
                image.info |= {"mended": what, "encoded": encodings[0]}
                return image
    return None


def _broken(error: Exception) -> ImageError:
    if isinstance(error, MemoryError):
        return ImageError("oversized image", "there is not memory enough to decode it")
    return ImageError("broken image", str(error) or type(error).__name__)
