"""Plots of means with 95 % confidence intervals: curves with bands, bars with whiskers, tables of colours, trades.

The colours are those of Okabe and Ito (2008), which colour-blind readers tell apart; curves differ in their markers
too, bars in their hatching.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from itertools import cycle

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from reimagen_jax.evaluation.statistics import Curve, Interval
from reimagen_jax.reports.figures import COLOURS, GRID, INK, PAPER
from reimagen_jax.reports.words import say

MARKERS = ("o", "s", "^", "D", "v", "P")
HATCHES = ("", "///", "...", "xx", "\\\\\\", "++")
DASHES = ((5, 3), (1, 2))
GROUP = 0.8
"""Of the room of a group, what its series take."""
LEGEND = {"frameon": False, "fontsize": 9, "labelcolor": INK}


def curves(
    lines: Sequence[Curve],
    *,
    x_label: str,
    y_label: str = "share of images",
    title: str = "",
    ticks: Sequence[float] | None = None,
    names: Sequence[str] = (),
    levels: Mapping[str, float] | None = None,
    size: tuple[float, float] = (6.4, 3.9),
) -> Figure:
    """Lines with bands of confidence; y runs from 0 to 1.

    What there is without neighbours stands left of the lines, what true images reach is dotted. `levels` are further
    named horizontals, such as a rater's ceiling. `size` is in inches. `names` stand at the ticks where they are no
    numbers: what has no order is no line.
    """
    figure = Figure(figsize=size, layout="constrained")
    if apart := any(line.baseline is not None for line in lines):
        left, axes = figure.subplots(1, 2, sharey=True, width_ratios=(1, 7))
    else:
        axes = figure.subplots()
    for i, (line, colour, marker) in enumerate(zip(lines, cycle(COLOURS), cycle(MARKERS), strict=False)):
        style = {"color": colour, "marker": marker, "markersize": 6, "markeredgecolor": PAPER, "clip_on": False}
        mean, low, high = zip(*line.points, strict=True)
        if names:
            axes.vlines([x + 0.06 * i for x in line.x], low, high, color=colour, linewidth=2, alpha=0.6)
            x, width = [x + 0.06 * i for x in line.x], 0.0
        else:
            axes.fill_between(line.x, low, high, color=colour, alpha=0.16, linewidth=0)
            x, width = line.x, 1.8
        axes.plot(x, mean, linewidth=width, label=line.name, gid=f"points-{i}", **style)
        if line.ceiling is not None:
            axes.axhline(line.ceiling, color=colour, linewidth=1.2, linestyle=":", zorder=1)
        if line.baseline is not None:
            mean, low, high = line.baseline
            left.vlines(i, low, high, color=colour, linewidth=2, alpha=0.6)
            left.plot([i], [mean], gid=f"baseline-{i}", **style)
    if any(line.ceiling is not None for line in lines):
        axes.plot([], [], color=INK, linewidth=1.2, linestyle=":", label="true images")
    _levels(axes, levels)
    if ticks is not None:
        axes.set_xticks(list(ticks), names or [f"{x:g}" for x in ticks])
    _finish(axes, title, x_label, "" if apart else y_label)
    if apart:
        _finish(left, "", "", y_label)
        left.set_xlim(-0.8, len(lines) - 0.2)
        left.set_xticks([(len(lines) - 1) / 2], ["no neighbours"])
        for each in (left, axes):
            each.spines["left"].set_visible(False)
            each.tick_params(length=0, pad=6)
        figure.legend(*axes.get_legend_handles_labels(), loc="outside upper left", ncols=len(lines) + 1, **LEGEND)
    else:
        _legend(axes)
    return figure


def over_eta(lines: Sequence[Curve], width: float) -> Figure:
    """The curves of a sweep over eta, `width` inches wide."""
    label = "η: all neighbours (0) to all text (1)"
    return curves(lines, x_label=label, ticks=lines[0].x, size=(width, 3.6))


def tooltips(lines: Sequence[Curve]) -> dict[str, list[str]]:
    """What `curves` shows, in words: the id of a line in SVG -> a text for each of its points."""
    told = {f"baseline-{i}": [f"{c.name}, no neighbours: {say(c.baseline)}"] for i, c in enumerate(lines) if c.baseline}
    for i, line in enumerate(lines):
        told[f"points-{i}"] = [f"{line.name}, η {x:g}: {say(y)}" for x, y in zip(line.x, line.points, strict=True)]
    return told


def heat(
    values: Sequence[Sequence[Interval | None]], columns: Sequence[str], rows: Sequence[str], *, title: str = ""
) -> Figure:
    """Shares as a table of colours, the mean in each cell; None is an empty cell."""
    size = (max(4.0, 1.6 + 0.72 * len(columns)), max(1.6, 1.0 + 0.42 * len(rows)))
    figure = Figure(figsize=size, layout="constrained")
    axes = figure.subplots()
    scale = matplotlib.colormaps["cividis"]
    for y, row in enumerate(values):
        for x, share in enumerate(row):
            if share is None:
                continue
            colour = scale(share.mean)
            axes.add_patch(Rectangle((x - 0.5, y - 0.5), 1, 1, facecolor=colour, linewidth=0, gid=f"cell-{y}-{x}"))
            ink = "#111111" if sum(colour[:3]) > 1.5 else "#fdfdfd"  # no variable of the page's: its ground is its own
            axes.text(x, y, f"{share.mean:.2f}", ha="center", va="center", fontsize=9, color=ink)
    axes.set_xlim(-0.5, len(columns) - 0.5)
    axes.set_ylim(len(rows) - 0.5, -0.5)
    axes.set_xticks(range(len(columns)), columns, rotation=0 if max(map(len, columns)) < 9 else 30)
    axes.set_yticks(range(len(rows)), rows)
    axes.tick_params(colors=INK, labelsize=9, length=0)
    axes.set_facecolor("none")
    axes.spines[:].set_visible(False)
    if title:
        axes.set_title(title, loc="left", fontsize=10, color=INK)
    return figure


def trade(
    points: Sequence[tuple[Interval, Interval, float]],
    front: Sequence[int],
    labels: Mapping[int, str],
    *,
    x_label: str,
    y_label: str,
    cost_label: str,
) -> Figure:
    """Points (x, y, cost): the dearer the larger and the redder; those on the front ringed, joined and labelled.

    `front` and `labels` (of those on it) are about the points' places. A point is a line of its own, `trade-I` in SVG.
    """
    figure = Figure(figsize=(8.6, 4.8), layout="constrained")
    axes = figure.subplots()
    costs = [math.log(max(cost, 1e-9)) for _, _, cost in points]
    least, most = min(costs), max(costs)
    scale = matplotlib.colormaps["YlOrRd"]
    for place in sorted(range(len(points)), key=lambda place: place in front):
        (x, y, _), part = points[place], (costs[place] - least) / ((most - least) or 1.0)
        colour = matplotlib.colors.to_hex(scale(0.15 + 0.8 * part))
        if place in front:
            axes.plot([x.low, x.high], [y.mean] * 2, color=GRID, linewidth=1.2, zorder=1)
            axes.plot([x.mean] * 2, [y.low, y.high], color=GRID, linewidth=1.2, zorder=1)
        edge, width = (INK, 1.6) if place in front else (PAPER, 0.6)
        style = {"markeredgecolor": edge, "markeredgewidth": width, "markersize": 6 + 9 * part, "clip_on": False}
        axes.plot([x.mean], [y.mean], "o", color=colour, gid=f"trade-{place}", zorder=3, **style)
    along = sorted(front, key=lambda place: (points[place][0].mean, -points[place][1].mean))
    axes.plot(
        *zip(*[(points[place][0].mean, points[place][1].mean) for place in along], strict=True),
        color=INK,
        linewidth=1,
        linestyle=(0, (2, 3)),
        zorder=2,
    )
    here: dict[tuple[float, float], list[int]] = {}
    for place in along:
        here.setdefault((points[place][0].mean, points[place][1].mean), []).append(place)
    for (x, y), places in here.items():
        more = f" and {len(places) - 1} more" if len(places) > 1 else ""
        at = {"xytext": (-10, 8), "textcoords": "offset points", "ha": "right"}
        axes.annotate(labels[places[0]] + more, (x, y), fontsize=8, color=INK, **at)
    _finish(axes, "", x_label, y_label)
    axes.set_xlim(min(x.low if i in front else x.mean for i, (x, _, _) in enumerate(points)) - 0.05, 1.02)
    axes.set_ylim(min(y.low if i in front else y.mean for i, (_, y, _) in enumerate(points)) - 0.05, 1.05)
    for cost, part in {math.exp(least): 0.0, math.exp(most): 1.0}.items():
        colour = matplotlib.colors.to_hex(scale(0.15 + 0.8 * part))
        named = f"{cost:.3g} {cost_label}"
        axes.plot([], [], "o", color=colour, markersize=6 + 9 * part, markeredgecolor=PAPER, label=named)
    _legend(axes)
    return figure


def points(
    rows: Sequence[str],
    values: Mapping[str, Sequence[Interval | None]],
    *,
    x_label: str,
    limits: tuple[float, float] | None = None,
) -> Figure:
    """Points with whiskers of confidence, from the left to the right: the rows below each other, in each the series.

    `None` leaves a place empty. In SVG a series is a line of its own, `points-I`.
    """
    figure = Figure(figsize=(8.6, 1.2 + len(rows) * (0.1 + 0.13 * len(values))), layout="constrained")
    axes = figure.subplots()
    for i, name, y, (mean, low, high) in _side_by_side(values):
        colour, marker = COLOURS[i % len(COLOURS)], MARKERS[i % len(MARKERS)]
        axes.hlines(y, low, high, color=colour, linewidth=2, alpha=0.6, clip_on=False)
        style = {"color": colour, "marker": marker, "markersize": 6, "markeredgecolor": PAPER, "clip_on": False}
        axes.plot(mean, y, linewidth=0, label=name, gid=f"points-{i}", zorder=3, **style)
    _finish(axes, "", x_label, "")
    axes.grid(visible=False, axis="y")
    axes.grid(axis="x", color=GRID, linewidth=0.8)
    axes.set_xlim(limits)
    axes.set_ylim(len(rows) - 0.5, -0.5)
    axes.set_yticks(range(len(rows)), rows)
    axes.tick_params(axis="y", length=0, pad=9)
    axes.spines["left"].set_visible(False)
    figure.legend(*axes.get_legend_handles_labels(), loc="outside upper left", ncols=len(values), **LEGEND)
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
    figure = Figure(figsize=(max(6.4, 0.5 + 0.55 * len(groups) * len(values)), 3.9), layout="constrained")
    axes, width = figure.subplots(), 0.92 * GROUP / len(values)
    for i, label, x, (mean, low, high) in _side_by_side(values):
        colour, hatch = COLOURS[i % len(COLOURS)], HATCHES[i % len(HATCHES)]
        reach = [[m - lo for m, lo in zip(mean, low, strict=True)], [hi - m for m, hi in zip(mean, high, strict=True)]]
        axes.bar(x, mean, width, color=colour, hatch=hatch, edgecolor="white", linewidth=0, label=label)
        axes.errorbar(x, mean, yerr=reach, fmt="none", ecolor=INK, elinewidth=1.1, capsize=2.5)
    _levels(axes, levels)
    axes.set_xticks(range(len(groups)), groups)
    axes.tick_params(axis="x", length=0)
    _finish(axes, title, "", y_label)
    _legend(axes)
    return figure


def _side_by_side(
    values: Mapping[str, Sequence[Interval | tuple[float, float, float] | None]],
) -> Iterator[tuple[int, str, tuple[float, ...], tuple[tuple[float, ...], ...]]]:
    """Of each series, but for empty ones: its number, its name, the places of what it shows, and means, lows, highs."""
    for i, (name, intervals) in enumerate(values.items()):
        aside = (i - (len(values) - 1) / 2) * GROUP / len(values)
        if shown := [(group + aside, found) for group, found in enumerate(intervals) if found is not None]:
            places, found = zip(*shown, strict=True)
            yield i, name, places, tuple(zip(*found, strict=True))


def _levels(axes: Axes, levels: Mapping[str, float] | None) -> None:
    for (name, y), dashes in zip((levels or {}).items(), cycle(DASHES), strict=False):
        axes.axhline(y, color=INK, linewidth=1, linestyle=(0, dashes), label=name, zorder=1)


def _finish(axes: Axes, title: str, x_label: str, y_label: str) -> None:
    if title:
        axes.set_title(title, loc="left", fontsize=11, color=INK)
    axes.set_ylim(0.0, 1.02)
    axes.set_xlabel(x_label, color=INK)
    axes.set_ylabel(y_label, color=INK)
    axes.grid(axis="y", color=GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.set_facecolor("none")
    axes.tick_params(colors=INK, labelsize=9)
    axes.spines[["left", "bottom"]].set_color(INK)
    axes.spines[["top", "right"]].set_visible(False)


def _legend(axes: Axes) -> None:
    axes.legend(loc="upper left", bbox_to_anchor=(1.01, 1.0), **LEGEND)
