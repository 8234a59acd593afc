"""Plots of means with 95 % confidence intervals: curves with bands, and bars with whiskers.

Figures are drawn by Agg, without a window and without matplotlib's global state. The colours are those of Okabe and Ito
(2008), which colour-blind readers tell apart; curves differ in their markers too, bars in their hatching.
"""

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import cycle
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from reimagen_jax.evaluation.statistics import Interval

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
MARKERS = ("o", "s", "^", "D", "v", "P")
HATCHES = ("", "///", "...", "xx", "\\\\\\", "++")
DASHES = ((5, 3), (1, 2))
INK, GRID = "#333333", "#DDDDDD"
DPI = 150


@dataclass(frozen=True)
class Curve:
    """A line: one mean with its interval at every x."""

    label: str
    x: Sequence[float]
    y: Sequence[Interval | tuple[float, float, float]]
    """(mean, low, high) at every x."""


def curves(
    lines: Sequence[Curve],
    *,
    x_label: str,
    y_label: str = "share of images",
    title: str = "",
    ticks: Sequence[float] | None = None,
    levels: Mapping[str, float] | None = None,
) -> Figure:
    """Lines with bands of confidence; y runs from 0 to 1. `levels` are named horizontals, such as a rater's ceiling."""
    figure, axes = _canvas((6.4, 3.9), title)
    for line, colour, marker in zip(lines, cycle(COLOURS), cycle(MARKERS), strict=False):
        mean, low, high = zip(*line.y, strict=True)
        axes.fill_between(line.x, low, high, color=colour, alpha=0.16, linewidth=0)
        axes.plot(line.x, mean, color=colour, marker=marker, markersize=5, linewidth=1.8, label=line.label)
    _levels(axes, levels)
    if ticks is not None:
        axes.set_xticks(list(ticks))
    _finish(axes, x_label, y_label)
    return figure


def bars(
    groups: Sequence[str],
    values: Mapping[str, Sequence[Interval | tuple[float, float, float] | None]],
    *,
    y_label: str = "share of images",
    title: str = "",
    levels: Mapping[str, float] | None = None,
) -> Figure:
    """Bars side by side within each group, with whiskers of confidence; `values` has one (mean, low, high) per group.

    `None` leaves the place of a bar empty.
    """
    figure, axes = _canvas((max(6.4, 0.5 + 0.55 * len(groups) * len(values)), 3.9), title)
    width = 0.8 / len(values)
    styles = zip(cycle(COLOURS), cycle(HATCHES), strict=False)
    for i, ((label, intervals), (colour, hatch)) in enumerate(zip(values.items(), styles, strict=False)):
        shown = [(g + (i - (len(values) - 1) / 2) * width, y) for g, y in enumerate(intervals) if y is not None]
        if not shown:
            continue
        x, y = zip(*shown, strict=True)
        mean, low, high = zip(*y, strict=True)
        reach = [[m - lo for m, lo in zip(mean, low, strict=True)], [hi - m for m, hi in zip(mean, high, strict=True)]]
        axes.bar(x, mean, width * 0.92, color=colour, hatch=hatch, edgecolor="white", linewidth=0, label=label)
        axes.errorbar(x, mean, yerr=reach, fmt="none", ecolor=INK, elinewidth=1.1, capsize=2.5)
    _levels(axes, levels)
    axes.set_xticks(range(len(groups)), groups)
    axes.tick_params(axis="x", length=0)
    _finish(axes, "", y_label)
    return figure


def png(figure: Figure) -> bytes:
    """The figure as a PNG file."""
    buffer = io.BytesIO()
    FigureCanvasAgg(figure).print_figure(buffer, format="png", dpi=DPI, facecolor="white")
    return buffer.getvalue()


def save(figure: Figure, path: str | Path) -> None:
    """Writes the figure as a PNG file, whole or not at all."""
    path = Path(path)
    partial = path.with_name(f".{path.name}.partial")
    partial.write_bytes(png(figure))
    partial.replace(path)


def _canvas(size: tuple[float, float], title: str) -> tuple[Figure, Axes]:
    figure = Figure(figsize=size, layout="constrained")
    axes = figure.add_subplot()
    if title:
        axes.set_title(title, loc="left", fontsize=11, color=INK)
    return figure, axes


def _levels(axes: Axes, levels: Mapping[str, float] | None) -> None:
    for (name, y), dashes in zip((levels or {}).items(), cycle(DASHES), strict=False):
        axes.axhline(y, color=INK, linewidth=1, linestyle=(0, dashes), label=name, zorder=1)


def _finish(axes: Axes, x_label: str, y_label: str) -> None:
    axes.set_ylim(0.0, 1.02)
    axes.set_xlabel(x_label, color=INK)
    axes.set_ylabel(y_label, color=INK)
    axes.grid(axis="y", color=GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.tick_params(colors=INK, labelsize=9)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    axes.legend(loc="upper left", bbox_to_anchor=(1.01, 1.0), frameon=False, fontsize=9, labelcolor=INK)
