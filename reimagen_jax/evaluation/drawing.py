"""Pieces of pictures that show images with words: fonts, cells, lines of text."""

from collections.abc import Sequence
from functools import cache
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

INK, FAINT, PAPER = (28, 30, 34), (110, 115, 125), (255, 255, 255)
GAP = 6
MARGIN = 20
LINE_SPACING = 1.3


@cache
def font(size: int, bold: bool = False) -> ImageFont.FreeTypeFont:
    """DejaVu Sans, which comes with matplotlib and has Greek letters."""
    import matplotlib

    name = "DejaVuSans-Bold.ttf" if bold else "DejaVuSans.ttf"
    return ImageFont.truetype(str(Path(matplotlib.get_data_path()) / "fonts" / "ttf" / name), size)


def fit(image: np.ndarray, side: int) -> Image.Image:
    """A square uint8 image [R, R, 3] in a cell of `side` pixels: enlarged by the largest whole factor, or shrunk."""
    picture, factor = Image.fromarray(np.asarray(image)), side // image.shape[0]
    if factor >= 1:
        return picture.resize((image.shape[0] * factor,) * 2, Image.Resampling.NEAREST)
    return picture.resize((side, side), Image.Resampling.LANCZOS)


def cell_side(resolution: int, wanted: int) -> int:
    """A cell's side near `wanted`: a whole multiple of the resolution where that is smaller."""
    return resolution * max(1, round(wanted / resolution)) if resolution <= wanted else wanted


def wrap(text: str, face: ImageFont.FreeTypeFont, width: int, max_lines: int) -> list[str]:
    """Breaks a text into lines of at most `width` pixels, at spaces or within words too long; cut with an ellipsis."""
    lines, rest = [], " ".join(text.split())
    while rest and len(lines) < max_lines:
        fits = next((n for n in range(len(rest), 1, -1) if face.getlength(rest[:n]) <= width), 1)
        space = rest.rfind(" ", 0, fits + 1)
        end = len(rest) if fits == len(rest) else space if space > 0 else fits
        lines.append(rest[:end].strip())
        rest = rest[end:].strip()
    if rest and lines:
        line = lines[-1]
        while line and face.getlength(line + "…") > width:
            line = line[:-1]
        lines[-1] = line.rstrip() + "…"
    return lines


def line_height(face: ImageFont.FreeTypeFont) -> int:
    """Pixels from one line to the next."""
    return round(face.size * LINE_SPACING)


def write_lines(
    draw: ImageDraw.ImageDraw, place: tuple[int, int], lines: Sequence[str], face: ImageFont.FreeTypeFont, ink=INK
) -> None:
    """Writes lines under each other, from the top left corner `place`."""
    for i, line in enumerate(lines):
        draw.text((place[0], place[1] + i * line_height(face)), line, fill=ink, font=face)
