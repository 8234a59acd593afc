"""What a search of noise has done, as pictures: references, image before and after; losses over the iterations."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure
from PIL import Image

from reimagen_jax.reports.figures import COLOURS, GRID, INK
from reimagen_jax.reports.grids import labelled_grid
from reimagen_jax.reports.plots import LEGEND

MOST_ROWS = 24
"""Of the grid: pictures of hundreds of rows are looked at by nobody."""


def before_and_after(
    texts: Sequence[str],
    references: Sequence[Sequence[np.ndarray]],
    first: Sequence[np.ndarray],
    found: Sequence[np.ndarray],
) -> Image.Image:
    """A row for each image, the first `MOST_ROWS` of them: its references, before, after; uint8 [R, R, 3] all."""
    most, rows = max(map(len, references)), []
    for group, before, after in list(zip(references, first, found, strict=True))[:MOST_ROWS]:
        rows.append([*group, *[None] * (most - len(group)), before, after])
    headings = [*(f"reference {j + 1}" for j in range(most)), "before", "after"]
    return labelled_grid(rows, list(texts[:MOST_ROWS]), headings)


def curves(histories: Sequence[Mapping[str, Sequence[float]]], best: Sequence[int]) -> Figure:
    """The loss, its two parts, and the noise's length over the iterations: each image a thin line, their median a thick
    one (of those whose search goes on); dots are the noises that were kept."""
    figure = Figure(figsize=(10.0, 3.2), layout="constrained")
    titles = {"loss": "loss", "semantic": "semantic", "appearance": "appearance", "norm": "length of the noise"}
    for axes, (name, title), colour in zip(figure.subplots(1, 4), titles.items(), COLOURS, strict=False):
        longest = max(len(history[name]) for history in histories)
        value_NI = np.full((len(histories), longest), np.nan)
        for row, history, i in zip(value_NI, histories, best, strict=True):
            row[: len(history[name])] = history[name]
            axes.plot(history[name], color=colour, linewidth=0.8, alpha=0.35)
            axes.plot([i], [history[name][i]], ".", color=colour, markersize=5)
        axes.plot(np.nanmedian(value_NI, axis=0), color=colour, linewidth=2.2, label="median")
        axes.set_title(title, loc="left", fontsize=11, color=INK)
        axes.set_xlabel("iteration", color=INK)
        axes.grid(axis="y", color=GRID, linewidth=0.8)
        axes.tick_params(colors=INK, labelsize=9)
        axes.spines[["left", "bottom"]].set_color(INK)
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(**LEGEND)
    return figure
