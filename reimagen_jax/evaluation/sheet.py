"""A sweep as one picture (PNG): a prompt's neighbours, the baseline without them, one column per eta; curves below."""

import math
from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw

from reimagen_jax.evaluation.drawing import (
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
from reimagen_jax.evaluation.svg import Curve
from reimagen_jax.evaluation.sweeps import Sweep
from reimagen_jax.inference.prompts import Prompt

SECTION_GAP = 22
"""Between neighbours, baseline, and the columns of eta; and between prompts."""
MIN_CURVES_WIDTH = 760
RULE = (222, 225, 230)


def sweep_sheet(sweep: Sweep, title: str, curves: Sequence[Curve] = (), side: int = 96) -> Image.Image:
    """Draws the whole sweep, a block of S rows of images for each prompt, with the curves, if any, under it."""
    layout = _Layout(sweep, cell_side(sweep.resolution, side))
    parts = [_header(sweep, title, layout), *(_block(sweep, p, layout) for p in range(len(sweep.prompts)))]
    if curves:
        parts.append(curves_picture(sweep.etas, curves, max(layout.width, MIN_CURVES_WIDTH)))
    sheet = Image.new("RGB", (max(part.width for part in parts), sum(part.height for part in parts) + MARGIN), PAPER)
    y = 0
    for part in parts:
        sheet.paste(part, (0, y))
        y += part.height
    return sheet


def curves_picture(etas: Sequence[float], curves: Sequence[Curve], width: int) -> Image.Image:
    """The curves over eta with bands, and left of them what there is without neighbours, `width` pixels wide."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    from reimagen_jax.evaluation.plots import COLOURS, MARKERS

    figure = Figure(figsize=(width / 100, 3.9), dpi=100, layout="constrained")
    figure.get_layout_engine().set(w_pad=MARGIN / 100, h_pad=MARGIN / 100)
    left, right = figure.subplots(1, 2, sharey=True, width_ratios=(1, 8))
    for i, (curve, colour, marker) in enumerate(zip(curves, COLOURS, MARKERS, strict=False)):
        style = {"color": colour, "marker": marker, "markersize": 6}
        mean_E, low_E, high_E = np.array(curve.points).T
        right.fill_between(etas, low_E, high_E, color=colour, alpha=0.15, linewidth=0)
        right.plot(etas, mean_E, label=curve.name, linewidth=2, **style)
        if curve.ceiling is not None:
            right.axhline(curve.ceiling, color=colour, linewidth=1.2, linestyle=":")
        mean, low, high = curve.baseline
        left.errorbar([i], [mean], [[mean - low], [high - mean]], elinewidth=2, **style)
    left.set(
        xlim=(-0.8, 1.8), xticks=[0.5], xticklabels=["no neighbours"], ylim=(-0.03, 1.03), ylabel="share of images"
    )
    right.set(xticks=list(etas), xlabel="η: all neighbours (0) to all text (1)")
    right.legend(frameon=False, ncols=len(curves), loc="lower left", bbox_to_anchor=(0, 1))
    for axes in (left, right):
        axes.grid(axis="y", color="#e1e4ea")
        axes.set_axisbelow(True)
        axes.spines[["top", "right", "left"]].set_visible(False)
        axes.tick_params(left=False)
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return Image.fromarray(np.asarray(canvas.buffer_rgba())).convert("RGB")


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
