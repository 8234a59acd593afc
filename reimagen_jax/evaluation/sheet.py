"""A sweep as one picture (PNG): a prompt's neighbours, the baseline without them, then one column per eta."""

import math

from PIL import Image, ImageDraw

from reimagen_jax.evaluation.grids import (
    FAINT,
    GAP,
    INK,
    MARGIN,
    PAPER,
    cell_side,
    fit,
    font,
    line_height,
    wrap,
    write_lines,
)
from reimagen_jax.evaluation.sweeps import Sweep
from reimagen_jax.inference.prompts import Prompt

SECTION_GAP = 22
"""Between neighbours, baseline, and the columns of eta; and between prompts."""
RULE = (222, 225, 230)


def sweep_sheet(sweep: Sweep, title: str, below: Image.Image | None = None, side: int = 96) -> Image.Image:
    """Draws the whole sweep, a block of S rows of images per prompt, with `below` (curves) under it."""
    side = cell_side(sweep.resolution, side)
    layout = _Layout(sweep, side)
    blocks = [_block(sweep, p, layout) for p in range(len(sweep.prompts))]
    header = _header(sweep, title, layout)
    parts = [header, *blocks] + ([below] if below is not None else [])
    width = max(layout.width, *(part.width for part in parts))
    sheet = Image.new("RGB", (width, sum(part.height for part in parts) + MARGIN), PAPER)
    y = 0
    for part in parts:
        sheet.paste(part, (0 if part.width == layout.width else (width - part.width) // 2, y))
        y += part.height
    return sheet


class _Layout:
    """Where the columns stand."""

    def __init__(self, sweep: Sweep, side: int) -> None:
        self.side, step = side, side + GAP
        num_neighbours = max(len(prompt.neighbours) for prompt in sweep.prompts)
        self.neighbour_x = [MARGIN + j * step for j in range(num_neighbours)]
        first = MARGIN + num_neighbours * step + SECTION_GAP
        self.column_x = [first] + [first + SECTION_GAP + (1 + e) * step for e in range(len(sweep.etas))]
        self.width = self.column_x[-1] + side + MARGIN


def _header(sweep: Sweep, title: str, layout: _Layout) -> Image.Image:
    title_face, face = font(20, bold=True), font(13)
    top = MARGIN + line_height(title_face) + GAP
    header = Image.new("RGB", (layout.width, top + line_height(face)), PAPER)
    draw = ImageDraw.Draw(header)
    draw.text((MARGIN, MARGIN), title, fill=INK, font=title_face)
    places = list(zip(layout.column_x, sweep.columns, strict=True))
    if layout.neighbour_x:
        places.insert(0, (layout.neighbour_x[0], "neighbours"))
    for x, heading in places:
        draw.text((x, top), heading, fill=FAINT, font=face)
    return header


def _block(sweep: Sweep, p: int, layout: _Layout) -> Image.Image:
    """One prompt: its text, the captions and scores of its neighbours, then the images."""
    prompt, side, width = sweep.prompts[p], layout.side, layout.width - 2 * MARGIN
    face, small = font(15, bold=True), font(12)
    words, notes = wrap(prompt.text, face, width, 3), wrap(describe_neighbours(prompt), small, width, 4)
    top = SECTION_GAP + len(words) * line_height(face) + len(notes) * line_height(small) + GAP
    block = Image.new("RGB", (layout.width, top + sweep.num_seeds * (side + GAP)), PAPER)
    draw = ImageDraw.Draw(block)
    draw.line((MARGIN, GAP, layout.width - MARGIN, GAP), fill=RULE)
    write_lines(draw, (MARGIN, SECTION_GAP - GAP), words, face)
    write_lines(draw, (MARGIN, SECTION_GAP - GAP + len(words) * line_height(face)), notes, small, FAINT)
    for x, neighbour in zip(layout.neighbour_x, prompt.neighbours, strict=False):
        block.paste(fit(neighbour.image, side), (x, top))
    for s, row in enumerate(sweep.image_PSCHWC[p]):
        for x, image in zip(layout.column_x, row, strict=True):
            block.paste(fit(image, side), (x, top + s * (side + GAP)))
    return block


def describe_neighbours(prompt: Prompt) -> str:
    """The captions of a prompt's neighbours with their scores, in one line."""
    if not prompt.neighbours:
        return "no neighbours found"
    notes = (
        f"“{hit.text}” ({'given by hand' if math.isnan(hit.score) else f'score {hit.score:.1f}'})"
        for hit in prompt.neighbours
    )
    return "neighbours: " + "   ".join(notes)
