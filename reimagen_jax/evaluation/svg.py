"""Curves over eta with intervals as inline SVG: text and colours follow the page's style, light or dark.

Needs the style's classes `series-0`, `series-1`, ... (each sets `--series`), `grid`, `tick` and `band`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from reimagen_jax.evaluation.statistics import Interval

WIDTH, HEIGHT = 860, 330
LEFT, RIGHT, TOP, BOTTOM = 52, 110, 16, 48
BASELINE_X = LEFT + 34
FIRST_X, LAST_X = LEFT + 110, WIDTH - RIGHT
LABEL_HEIGHT = 17


@dataclass(frozen=True)
class Curve:
    """One measure over eta: shares in [0, 1] with 95 % intervals."""

    name: str
    points: tuple[Interval, ...]
    """One per eta."""
    baseline: Interval
    """Without neighbours."""
    ceiling: float | None = None
    """What true images reach."""


def curves_svg(etas: Sequence[float], curves: Sequence[Curve], title: str) -> str:
    """Draws the curves, each with a band, its baseline left of the axis and its ceiling as a dashed line."""
    parts = [
        f'<svg class="curves" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(title)}">',
        *_axes(etas),
        *(part for i, curve in enumerate(curves) for part in _series(i, curve, etas)),
        *_names(curves),
        "</svg>",
    ]
    return "\n".join(parts)


def say(share: Interval) -> str:
    """A share with its interval in words."""
    return f"{share.mean:.2f} ({share.low:.2f} to {share.high:.2f})"


def _x(eta: float) -> float:
    return FIRST_X + (LAST_X - FIRST_X) * eta


def _y(share: float) -> float:
    return TOP + (HEIGHT - BOTTOM - TOP) * (1.0 - share)


def _axes(etas: Sequence[float]) -> list[str]:
    lines = []
    for percent in (0, 25, 50, 75, 100):
        y = _y(percent / 100)
        lines.append(f'<line class="grid" x1="{LEFT}" x2="{LAST_X}" y1="{y:.1f}" y2="{y:.1f}"/>')
        lines.append(f'<text class="tick" x="{LEFT - 8}" y="{y + 4:.1f}" text-anchor="end">{percent} %</text>')
    bottom = HEIGHT - BOTTOM + 20
    for eta in etas:
        lines.append(f'<text class="tick" x="{_x(eta):.1f}" y="{bottom}" text-anchor="middle">{eta:g}</text>')
    lines.append(f'<text class="tick" x="{BASELINE_X}" y="{bottom}" text-anchor="middle">no</text>')
    lines.append(f'<text class="tick" x="{BASELINE_X}" y="{bottom + 15}" text-anchor="middle">neighbours</text>')
    middle = (FIRST_X + LAST_X) / 2
    caption = "η: all neighbours (0) to all text (1)"
    lines.append(f'<text class="tick" x="{middle}" y="{bottom + 20}" text-anchor="middle">{caption}</text>')
    return lines


def _series(i: int, curve: Curve, etas: Sequence[float]) -> list[str]:
    """Curve number i: the band, the line, a marker with a tooltip at every eta and one for the baseline."""
    upper = [(_x(eta), _y(point.high)) for eta, point in zip(etas, curve.points, strict=True)]
    lower = [(_x(eta), _y(point.low)) for eta, point in zip(etas, curve.points, strict=True)]
    middle = [(_x(eta), _y(point.mean)) for eta, point in zip(etas, curve.points, strict=True)]
    shift = BASELINE_X + (-7 if i % 2 == 0 else 7)  # side by side, so that neither interval hides the other
    low, high = _y(curve.baseline.low), _y(curve.baseline.high)
    parts = [
        f'<g class="series-{i}">',
        f'<polygon class="band" points="{_points(upper + lower[::-1])}"/>',
        f'<polyline points="{_points(middle)}"/>',
        f'<line class="interval" x1="{shift}" x2="{shift}" y1="{low:.1f}" y2="{high:.1f}"/>',
    ]
    if curve.ceiling is not None:
        y = _y(curve.ceiling)
        parts.append(
            f'<line class="ceiling" x1="{LEFT}" x2="{LAST_X}" y1="{y:.1f}" y2="{y:.1f}">'
            f"<title>{escape(curve.name)}: {curve.ceiling:.2f} for true images</title></line>"
        )
    parts.append(_marker(i, shift, _y(curve.baseline.mean), f"{curve.name}, no neighbours: {say(curve.baseline)}"))
    for eta, (x, y), point in zip(etas, middle, curve.points, strict=True):
        parts.append(_marker(i, x, y, f"{curve.name}, η {eta:g}: {say(point)}"))
    return [*parts, "</g>"]


def _marker(i: int, x: float, y: float, tooltip: str) -> str:
    """A circle for even, a square for odd series: colours are not the only difference."""
    title = f"<title>{escape(tooltip)}</title>"
    if i % 2 == 0:
        return f'<circle cx="{x:.1f}" cy="{y:.1f}" r="4.5">{title}</circle>'
    return f'<rect x="{x - 4:.1f}" y="{y - 4:.1f}" width="8" height="8">{title}</rect>'


def _names(curves: Sequence[Curve]) -> list[str]:
    """Each curve's name at its right end, moved apart where two would touch."""
    places = sorted((_y(curve.points[-1].mean), i) for i, curve in enumerate(curves))
    names, free = [], float("-inf")
    for y, i in places:
        y = max(y, free)
        free = y + LABEL_HEIGHT
        name = escape(curves[i].name)
        names.append(f'<text class="name series-{i}" x="{LAST_X + 14}" y="{y + 5:.1f}">{name}</text>')
    return names


def _points(places: Sequence[tuple[float, float]]) -> str:
    return " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
