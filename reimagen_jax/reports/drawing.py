"""Pieces of pictures that show images with words: fonts, cells, lines of text, and parts under each other."""

import importlib.util
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

INK, FAINT, PAPER = (28, 30, 34), (110, 115, 125), (255, 255, 255)
STRUCK = (200, 60, 50)
GAP = 6
MARGIN = 20
LINE_SPACING = 1.3


@cache
def font(size: int, bold: bool = False) -> ImageFont.FreeTypeFont:
    """DejaVu Sans, which comes with matplotlib and has Greek letters."""
    name = "DejaVuSans-Bold.ttf" if bold else "DejaVuSans.ttf"
    folder = importlib.util.find_spec("matplotlib").submodule_search_locations[0]  # importing it takes a while
    return ImageFont.truetype(str(Path(folder, "mpl-data", "fonts", "ttf", name)), size)


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


def blank(width: int, height: int, ink: tuple[int, int, int] = PAPER) -> Image.Image:
    """A box without anything in it."""
    return Image.new("RGB", (width, height), ink)


def words(text: str, face: ImageFont.FreeTypeFont, width: int, max_lines: int, ink=INK) -> Image.Image:
    """A text in lines, as a box that is as wide as the longest of them, `width` pixels at most."""
    lines = wrap(text, face, width, max_lines)
    box = blank(max((math.ceil(face.getlength(line)) for line in lines), default=0), len(lines) * line_height(face))
    draw = ImageDraw.Draw(box)
    for i, line in enumerate(lines):
        draw.text((0, i * line_height(face)), line, fill=ink, font=face)
    return box


@dataclass(frozen=True)
class Struck:
    """An image that is shown as one that was left out."""

    image: np.ndarray
    """uint8 [R, R, 3]"""


def cell(image: np.ndarray | Struck | str | None, side: int) -> Image.Image:
    """A square box with an image, or a few words, in its middle; pale and crossed out where it is struck; None: with
    nothing."""
    if isinstance(image, Struck):
        box = Image.blend(cell(image.image, side), blank(side, side), 0.5)
        for y in (0, side - 1):
            ImageDraw.Draw(box).line([(0, y), (side - 1, side - 1 - y)], fill=STRUCK, width=max(2, side // 40))
        return box
    if isinstance(image, str):
        return placed(words(image, font(11), side - 2 * GAP, 5, FAINT), side, side, 0.5, 0.5)
    return blank(side, side) if image is None else placed(fit(image, side), side, side, 0.5, 0.5)


def placed(box: Image.Image, width: int, height: int, across: float = 0.0, down: float = 0.0) -> Image.Image:
    """The box within a larger one: from its left (0) to its right (1), from its top (0) to its bottom (1)."""
    around = blank(max(width, box.width), max(height, box.height))
    around.paste(box, (int(across * (around.width - box.width)), int(down * (around.height - box.height))))
    return around


def framed(box: Image.Image, margin: int) -> Image.Image:
    """The box with room around it."""
    return placed(box, box.width + 2 * margin, box.height + 2 * margin, 0.5, 0.5)


def stack(boxes: Sequence[Image.Image], gap: int = 0) -> Image.Image:
    """Boxes under each other, their left sides in line."""
    height = sum(box.height for box in boxes) + gap * max(len(boxes) - 1, 0)
    pile, y = blank(max((box.width for box in boxes), default=0), height), 0
    for box in boxes:
        pile.paste(box, (0, y))
        y += box.height + gap
    return pile


def beside(boxes: Sequence[Image.Image], gap: int = 0) -> Image.Image:
    """Boxes beside each other, their tops in line."""
    width = sum(box.width for box in boxes) + gap * max(len(boxes) - 1, 0)
    row, x = blank(width, max((box.height for box in boxes), default=0)), 0
    for box in boxes:
        row.paste(box, (x, 0))
        x += box.width + gap
    return row
