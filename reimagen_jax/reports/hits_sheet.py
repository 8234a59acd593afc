"""Search results as one picture (PNG): for each query a row of what was found, with rank, score, caption and key."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from reimagen_jax.errors import UserError
from reimagen_jax.reports.drawing import FAINT, GAP, MARGIN, beside, cell, font, framed, placed, stack, words

NUM_COLUMNS = 6
CAPTION_LINES = 4
COLUMN_GAP = 14
SECTION_GAP = 34
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
    width = max(3, num_columns) * (side + COLUMN_GAP) - COLUMN_GAP
    heading = placed(words(about[:_LONGEST], font(12), width, 3, FAINT), width, 0)
    parts = [_section(query, hits, width, num_columns, side) for query, hits in sections]
    return framed(stack([heading, *parts], SECTION_GAP), MARGIN)


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


def _section(query: str, hits: Sequence[Hit], width: int, num_columns: int, side: int) -> Image.Image:
    """The query, then its hits."""
    cells = [_hit(rank, hit, side) for rank, hit in enumerate(hits, 1)]
    cells = cells or [words("nothing found", font(13), side, 1, FAINT)]
    rows = [beside(cells[i : i + num_columns], COLUMN_GAP) for i in range(0, len(cells), num_columns)]
    return stack([words(query[:_LONGEST], font(17, bold=True), width, 3), stack(rows, 2 * GAP)], GAP)


def _hit(rank: int, hit: Hit, side: int) -> Image.Image:
    """The image, its rank and score, its caption, its key."""
    said = [
        beside([words(each, font(13, bold=True), side, 1) for each in (str(rank), score_text(hit.score))], 2 * GAP),
        words(hit.text[:_LONGEST], font(12), side, CAPTION_LINES),
        words(hit.key[-_LONGEST:], font(10), side, 2, FAINT),
    ]
    return stack([cell(hit.image, side), stack(said)], GAP)
