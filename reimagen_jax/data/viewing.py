"""What a decoder gives, as viewers show it: upright, in sRGB, over white.

References: PNG 3rd edition, 11.3.1.1 (transparent colours) and 13.12 (scaling of samples); TIFF 6.0, section 2.
"""

import re
import struct
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import numpy as np
from PIL import Image

from reimagen_jax.data.colours import to_srgb

HIDDEN = "hidden"
"""Key in `info` of the transparency (mode L) where the picture is white: present where that is not the same throughout,
so that something white is concealed by the ground."""

_STRIP_PIXELS = 2**18
"""What is converted at a time, so that conversions need no further copies of large pictures."""
_ORIENTATION = 0x0112
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_NARROW = (np.arange(2**16, dtype=np.float32) / 257.0).round().astype(np.uint8)
"""16 bits to 8: Pillow's own conversion would clip at 255."""


def viewed(image: Image.Image, depth: int) -> Image.Image:
    """The RGB picture that a loaded image shows; `depth` is the file's bits of a channel, which Pillow does not say."""
    turn = _TURNS.get(orientation(image.info))
    image = _on_white(image, depth)
    if turn is not None:
        hidden = image.info.pop(HIDDEN, None)
        image = image.transpose(turn)
        if hidden:
            image.info[HIDDEN] = hidden.transpose(turn)
    return image


def strips(image: Image.Image) -> Iterator[Image.Image]:
    """The picture in parts of some full rows, from above."""
    rows = max(1, _STRIP_PIXELS // image.width)
    for top in range(0, image.height, rows):
        yield image.crop((0, top, image.width, min(top + rows, image.height)))


def orientation(info: dict[Any, Any]) -> int:
    """How a picture was taken (1: upright), by the one tag of its EXIF, or else by its XMP, as Pillow finds them.

    No other tag is read, so none does harm; 1 where this one cannot be read.
    """
    with suppress(Exception):  # of bytes that are anything
        exif = info.get("exif")
        if exif is None and "Raw profile type exif" in info:  # of ImageMagick
            exif = bytes.fromhex("".join(info["Raw profile type exif"].split("\n")[3:]))
        if exif and (found := _in_first_directory(exif)) is not None:
            return found
    with suppress(Exception):
        xmp = info.get("xmp") or info["XML:com.adobe.xmp"].encode()
        return int(re.search(rb'tiff:Orientation(="|>)([0-9])', xmp)[2])
    return 1


def _in_first_directory(exif: bytes) -> int | None:
    tiff = re.sub(rb"^(Exif\0\0){1,2}", b"", exif)
    order = {b"II*\0": "<", b"MM\0*": ">"}[tiff[:4]]
    (start,) = struct.unpack_from(order + "L", tiff, 4)
    (count,) = struct.unpack_from(order + "H", tiff, start)
    for place in range(start + 2, start + 2 + 12 * count, 12):
        tag, kind, number = struct.unpack_from(order + "HHL", tiff, place)
        if tag == _ORIENTATION and number == 1:
            return struct.unpack_from(order + {1: "B", 3: "H", 4: "L"}[kind], tiff, place + 8)[0]
    return None


def _on_white(image: Image.Image, depth: int) -> Image.Image:
    """In sRGB and without transparency; the same object where it is so already."""
    _fit_transparency(image, depth)
    if image.format == "BMP" and image.mode == "RGBA" and image.getchannel("A").getextrema() == (0, 0):
        image = image.convert("RGB")  # of programs that know no transparency, and leave the fourth byte 0
    profile, clear = image.info.get("icc_profile"), image.has_transparency_data
    if not (clear or image.mode.startswith("I") or to_srgb(profile, _colours(image))):
        return image if image.mode == "RGB" else image.convert("RGB")
    result, hidden = Image.new("RGB", image.size), Image.new("L", image.size) if clear else None
    top, low, high = 0, 255, 0
    for strip in strips(image):
        strip = _converted(strip, profile)
        if hidden:
            alpha = np.asarray(strip.getchannel("A"))
            strip = Image.alpha_composite(Image.new("RGBA", strip.size, "white"), strip).convert("RGB")
            red, green, blue = map(np.asarray, strip.split())
            white = (red & green & blue) == 255
            low, high = min(low, alpha.min(where=white, initial=255)), max(high, alpha.max(where=white, initial=0))
            hidden.paste(Image.fromarray(np.where(white, alpha, 0)), (0, top))
        result.paste(strip, (0, top))
        top += strip.height
    if low < high:
        result.info[HIDDEN] = hidden
    return result


def _fit_transparency(image: Image.Image, depth: int) -> None:
    """Makes a PNG's one transparent colour fit the pixels, which Pillow makes bytes."""
    colour = image.info.get("transparency")
    if image.mode == "L" and depth < 8 and isinstance(colour, int):
        image.info["transparency"] = colour * 255 // (2**depth - 1)
    elif image.mode == "RGB" and depth == 16 and isinstance(colour, tuple):
        image.info["transparency"] = tuple(value >> 8 for value in colour)


def _converted(image: Image.Image, profile: bytes | None) -> Image.Image:
    """In sRGB, as RGB or RGBA."""
    if image.mode.startswith("I"):
        image = _narrowed(image)
    shown = image.convert("RGBA" if image.has_transparency_data else "RGB")
    colours = _colours(image)
    if transform := to_srgb(profile, colours):
        alpha = shown.getchannel("A") if shown.mode == "RGBA" else None
        shown = transform.apply(image.convert(colours))
        if alpha:
            shown.putalpha(alpha)
    return shown


def _narrowed(image: Image.Image) -> Image.Image:
    """16-bit grey as bytes, with the transparency that one of its values may mean."""
    value = np.asarray(image)
    narrow = Image.fromarray(_NARROW[value])
    if (clear := image.info.get("transparency")) is not None:
        narrow.putalpha(Image.fromarray(np.where(value == clear, 0, 255).astype(np.uint8)))
    return narrow


def _colours(image: Image.Image) -> str:
    """The mode of the image's colours by themselves: L, RGB or CMYK."""
    if image.mode in ("1", "L", "LA") or image.mode.startswith("I"):
        return "L"
    return "CMYK" if image.mode == "CMYK" else "RGB"
