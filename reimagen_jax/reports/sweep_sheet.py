"""A sweep as one picture (PNG): a prompt's neighbours, the baseline without them, one column per eta; curves below."""

from collections.abc import Sequence

from PIL import Image

from reimagen_jax.evaluation.statistics import Curve
from reimagen_jax.evaluation.sweeps import Sweep
from reimagen_jax.inference.prompts import Prompt
from reimagen_jax.reports import figures, plots
from reimagen_jax.reports.drawing import (
    FAINT,
    GAP,
    MARGIN,
    beside,
    blank,
    cell,
    cell_side,
    font,
    framed,
    placed,
    stack,
    words,
)
from reimagen_jax.reports.words import origin

SECTION_GAP = 22
"""Between neighbours, baseline, and the columns of eta; and above the curves."""
MIN_WIDTH = 760
RULE = (222, 225, 230)


def sweep_sheet(sweep: Sweep, title: str, curves: Sequence[Curve] = (), side: int = 96) -> Image.Image:
    """Draws the whole sweep, a block of S rows of images for each prompt, with the curves, if any, under it."""
    side = cell_side(sweep.resolution, side)
    most = max(len(prompt.neighbours) for prompt in sweep.prompts)
    said = [*["neighbours", *[""] * most][:most], *sweep.columns]
    heads = [placed(words(head, font(13), side, 2, FAINT), side, 0) for head in said]
    header = _line(heads[:most], heads[most:])
    width = max(header.width, MIN_WIDTH)
    parts = [stack([words(title, font(20, bold=True), width, 2), header], GAP)]
    parts += [_block(sweep, p, most, side, width) for p in range(len(sweep.prompts))]
    sheet = stack(parts, 2 * GAP)
    if curves:
        sheet = stack([sheet, figures.image(plots.over_eta(curves, width / 100))], SECTION_GAP)
    return framed(sheet, MARGIN)


def _line(neighbours: Sequence[Image.Image], columns: Sequence[Image.Image]) -> Image.Image:
    """A box for each neighbour, for the baseline, and for each eta, as they stand in a row of the sheet."""
    groups = [neighbours, columns[:1], columns[1:]]
    return beside([beside(group, GAP) for group in groups if group], SECTION_GAP + GAP)


def _block(sweep: Sweep, p: int, most: int, side: int, width: int) -> Image.Image:
    """One prompt: its text, the captions and scores of its neighbours, then the images."""
    prompt = sweep.prompts[p]
    told = [words(prompt.text, font(15, bold=True), width, 3)]
    told.append(words(describe_neighbours(prompt), font(12), width, 4, FAINT))
    found = [cell(hit.at(sweep.resolution), side) for hit in prompt.neighbours]
    found += [cell(None, side)] * (most - len(found))
    lines = [
        _line(found if s == 0 else [cell(None, side)] * most, [cell(image, side) for image in row])
        for s, row in enumerate(sweep.image_PSCHWC[p])
    ]
    return stack([blank(width, 1, RULE), stack(told), *lines], GAP)


def describe_neighbours(prompt: Prompt) -> str:
    """The captions of a prompt's neighbours with their scores, in one line."""
    if not prompt.neighbours:
        return "no neighbours found"
    return "neighbours: " + "   ".join(f"“{hit.text}” ({origin(hit)})" for hit in prompt.neighbours)
