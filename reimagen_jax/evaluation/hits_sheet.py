"""Search results as one picture (PNG): for each query a row of what was found, with rank, score, caption and key."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw
from PIL.PngImagePlugin import PngInfo

from reimagen_jax.errors import UserError
from reimagen_jax.evaluation.drawing import (
    FAINT,
    GAP,
    INK,
    MARGIN,
    PAPER,
    fit,
    font,
    line_height,
    wrap,
    write_lines,
)

NUM_COLUMNS = 6
CAPTION_LINES = 4
COLUMN_GAP = 14
SECTION_GAP = 22
_LONGEST = 400
"""Characters of a text that are looked at: far more than fit."""
_SIGNATURE = ("Software", "reimagen search")


@dataclass(frozen=True)
class Hit:
    """A record that was found."""

    image: np.ndarray
    """uint8 [R, R, 3]"""
    text: str
    key: str
    score: float
    """NaN: pinned by a person."""


def score_text(score: float, digits: int = 3) -> str:
    """A score for people."""
    return "pinned" if math.isnan(score) else f"{score:.{digits}f}"


def hits_sheet(sections: Sequence[tuple[str, Sequence[Hit]]], about: str, side: int = 160) -> Image.Image:
    """Draws the hits of every query, best first, in rows of at most `NUM_COLUMNS`; `about` is the line on top."""
    num_columns = min(NUM_COLUMNS, max([1, *(len(hits) for _, hits in sections)]))
    width = 2 * MARGIN + max(3, num_columns) * (side + COLUMN_GAP) - COLUMN_GAP
    parts = [_heading(about, width), *(_section(query, hits, width, num_columns, side) for query, hits in sections)]
    sheet = Image.new("RGB", (width, sum(part.height for part in parts) + MARGIN), PAPER)
    y = 0
    for part in parts:
        sheet.paste(part, (0, y))
        y += part.height
    return sheet


def check(path: Path) -> None:
    """Raises `UserError` where a sheet cannot be written, or would replace a file that is not such a sheet."""
    if path.suffix.lower() != ".png":
        raise UserError(f"the contact sheet is a PNG file: {path} has to end in .png")
    if path.exists() and not _is_sheet(path):
        raise UserError(f"{path} was not written by this command, so it is not replaced: choose another --sheet")


def save(sheet: Image.Image, path: Path) -> None:
    """Writes a sheet as PNG, whole or not at all. Raises `UserError` like `check`."""
    check(path)
    signed = PngInfo()
    signed.add_text(*_SIGNATURE)
    partial = path.with_name(f".{path.name}.partial")
    path.parent.mkdir(parents=True, exist_ok=True)
    sheet.save(partial, "PNG", pnginfo=signed)
    partial.replace(path)


def _is_sheet(path: Path) -> bool:
    try:
        with Image.open(path, formats=("PNG",)) as image:
            return image.info.get(_SIGNATURE[0]) == _SIGNATURE[1]
    except OSError:
        return False


def _heading(about: str, width: int) -> Image.Image:
    face = font(12)
    lines = wrap(about[:_LONGEST], face, width - 2 * MARGIN, 3)
    part = Image.new("RGB", (width, MARGIN + len(lines) * line_height(face)), PAPER)
    write_lines(ImageDraw.Draw(part), (MARGIN, MARGIN), lines, face, FAINT)
    return part


def _section(query: str, hits: Sequence[Hit], width: int, num_columns: int, side: int) -> Image.Image:
    """The query, then its hits."""
    face = font(17, bold=True)
    lines = wrap(query[:_LONGEST], face, width - 2 * MARGIN, 3)
    top = SECTION_GAP + len(lines) * line_height(face) + GAP
    cells = [_cell(rank, hit, side) for rank, hit in enumerate(hits, 1)] or [_nothing(side)]
    rows = [cells[i : i + num_columns] for i in range(0, len(cells), num_columns)]
    heights = [max(cell.height for cell in row) for row in rows]
    part = Image.new("RGB", (width, top + sum(heights)), PAPER)
    write_lines(ImageDraw.Draw(part), (MARGIN, SECTION_GAP), lines, face)
    for row, y in zip(rows, np.cumsum([top, *heights]), strict=False):
        for c, cell in enumerate(row):
            part.paste(cell, (MARGIN + c * (side + COLUMN_GAP), int(y)))
    return part


def _cell(rank: int, hit: Hit, side: int) -> Image.Image:
    """The image, its rank and score, its caption, its key."""
    bold, plain, small = font(13, bold=True), font(12), font(10)
    caption = wrap(hit.text[:_LONGEST], plain, side, CAPTION_LINES)
    key = wrap(hit.key[-_LONGEST:], small, side, 2)
    below = side + GAP
    height = below + line_height(bold) + len(caption) * line_height(plain) + len(key) * line_height(small) + 2 * GAP
    cell = Image.new("RGB", (side, height), PAPER)
    picture, draw = fit(hit.image, side), ImageDraw.Draw(cell)
    cell.paste(picture, ((side - picture.width) // 2, (side - picture.height) // 2))
    draw.text((0, below), f"{rank}   {score_text(hit.score)}", fill=INK, font=bold)
    below += line_height(bold)
    write_lines(draw, (0, below), caption, plain)
    write_lines(draw, (0, below + len(caption) * line_height(plain)), key, small, FAINT)
    return cell


def _nothing(side: int) -> Image.Image:
    cell = Image.new("RGB", (side, line_height(font(13)) + GAP), PAPER)
    write_lines(ImageDraw.Draw(cell), (0, 0), ["nothing found"], font(13), FAINT)
    return cell
