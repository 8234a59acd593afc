"""Encoded images to pixels: upright, RGB over white, centre-cropped to a square, resized by area averaging.

Images come from strangers: whatever cannot be decoded within the limits is an `ImageError` with a short reason.
"""

import hashlib
import io
import struct
import warnings
import zlib

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from reimagen_jax.errors import UserError

MAX_PIXELS = 2**26
"""Largest image that is decoded: 8192 x 8192."""
MAX_BYTES = 2**28
"""Largest encoded image that is read."""
FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP")
"""What is read; of animations, the first frame."""
LOSSY_FORMATS = ("JPEG", "MPO")
"""MPO is how Pillow calls the JPEG files of some telephones."""
STORED_FORMATS = ("PNG", *LOSSY_FORMATS, "WEBP")
"""What records hold as it came; others are stored as PNG."""

# Pillow warns of sizes, which are checked here, and of odd metadata, which are not used.
warnings.filterwarnings("ignore", module=r"PIL\.")

# Pillow's decoders let all of these through when a file is broken.
_DECODER_ERRORS = (OSError, SyntaxError, ValueError, EOFError, LookupError, TypeError, struct.error, zlib.error)


class ImageError(UserError):
    """An image that cannot be used; `reason` is one of a few fixed phrases, for counting."""

    def __init__(self, reason: str, detail: str):
        super().__init__(f"{reason}: {detail}")
        self.reason = reason
        self.detail = detail


def load(data: bytes) -> Image.Image:
    """Decodes to an upright RGB image (transparency over white, EXIF rotation applied); `format` names its encoding.

    Raises `ImageError`: "not an image", "broken image" (truncated, for instance) or "oversized image".
    """
    if len(data) > MAX_BYTES:
        raise ImageError("oversized image", f"{len(data)} bytes, the limit is {MAX_BYTES}")
    try:
        image = Image.open(io.BytesIO(data), formats=FORMATS)
    except Image.DecompressionBombError as error:
        raise ImageError("oversized image", str(error)) from None
    except UnidentifiedImageError:
        raise ImageError("not an image", f"{len(data)} bytes that are none of {', '.join(FORMATS)}") from None
    except _DECODER_ERRORS as error:
        raise ImageError("broken image", str(error)) from None
    width, height = image.size
    if width * height > MAX_PIXELS:
        raise ImageError("oversized image", f"{width} x {height} pixels, the limit is {MAX_PIXELS}")
    try:
        image.load()
        upright = _to_rgb(ImageOps.exif_transpose(image))
    except _DECODER_ERRORS as error:
        raise ImageError("broken image", str(error)) from None
    upright.format = image.format
    return upright


def decode(data: bytes, resolution: int | None = None) -> np.ndarray:
    """Decodes to uint8 [R, R, 3]: the central square, resized to `resolution`, or in its own size R when `None`.

    Raises `ImageError` like `load`.
    """
    return np.asarray(square(load(data), resolution))


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
    """A checksum of the pixels (hex, 128 bits): equal for equal images, however they are encoded."""
    content = hashlib.blake2b(f"{image.width}x{image.height}".encode(), digest_size=16)
    content.update(image.tobytes())
    return content.hexdigest()


def encode(image: Image.Image, lossy: bool) -> bytes:
    """Encodes as JPEG (quality 95, full chroma resolution) where `lossy`, else as PNG."""
    buffer = io.BytesIO()
    if lossy:
        image.save(buffer, "JPEG", quality=95, subsampling=0)
    else:
        image.save(buffer, "PNG")
    return buffer.getvalue()


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I"):  # 16-bit grey: Pillow's own conversion would clip at 255
        return Image.fromarray((np.asarray(image).astype(np.float32) / 257.0).round().astype(np.uint8)).convert("RGB")
    if image.has_transparency_data:
        layer = image.convert("RGBA")
        white = Image.new("RGBA", layer.size, "white")
        return Image.alpha_composite(white, layer).convert("RGB")
    return image.convert("RGB")
