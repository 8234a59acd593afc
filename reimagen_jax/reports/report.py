"""The report of a sweep as one HTML file: images inlined, no scripts, nothing loaded from elsewhere.

For each prompt: the neighbours with captions and scores, the baseline without them, one column per eta and one row per
seed. Below: curves over eta with 95 % intervals where a rater applies, else why not. Last: everything that is needed to
draw it again. The page itself is templates/report.html.j2.
"""

import base64
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

import jinja2
import numpy as np
from PIL import Image

from reimagen_jax.evaluation.ratings import Ratings, Row
from reimagen_jax.evaluation.sweeps import Sweep
from reimagen_jax.files import write_text
from reimagen_jax.reports import figures, plots
from reimagen_jax.reports.sweep_sheet import sweep_sheet
from reimagen_jax.reports.words import origin

PAGE, PICTURE = "report.html", "report.png"
CELL = 64
"""Side of an image on the page, in CSS pixels; or a whole multiple of its own pixels near this."""
PIXEL_ART = 128
"""Images below this resolution are enlarged without smoothing."""
CHART = 8.6
"""Width of the chart, in inches: it is scaled to the page, and its text with it."""


@dataclass(frozen=True)
class Report:
    """What the page shows."""

    title: str
    introduction: str
    sweep: Sweep
    command: str
    """The command line that draws it again."""
    settings: Mapping[str, Mapping[str, str]]
    """Group -> name -> value."""
    ratings: Ratings | None = None
    why_unrated: str = ""
    """Where `ratings` is None: a sentence that says why."""
    rows: Sequence[Row] = field(default_factory=tuple)
    """A table on top, where there are ratings; none, no table."""


def write_report(report: Report, folder: Path) -> None:
    """Writes report.html and report.png."""
    write_text(folder / PAGE, render(report))
    curves = report.ratings.curves if report.ratings is not None else ()
    sweep_sheet(report.sweep, report.title, curves).save(folder / PICTURE)


def render(report: Report) -> str:
    """The page as HTML."""
    sweep, ratings, shown = report.sweep, report.ratings, {}
    if ratings is not None:
        figure, about = plots.over_eta(ratings.curves, CHART), "shares over eta with 95 % intervals"
        shown["chart"] = figures.svg(figure, about, plots.tooltips(ratings.curves))
        points_CV = zip(*([curve.baseline, *curve.points] for curve in ratings.curves), strict=True)
        images = int(ratings.applies_P.sum()) * sweep.num_seeds
        shown["points"] = [Row(*row, images) for row in zip(sweep.columns, points_CV, strict=True)]
    shown |= {"cell": cell_pixels(sweep.resolution), "pixel_art": PIXEL_ART}
    return environment().get_template("report.html.j2").render(report=report, **shown)


def cell_pixels(resolution: int) -> int:
    """Side of an image on the page: a whole multiple of its own pixels where they are few, so that all look alike."""
    return resolution * max(1, round(CELL / resolution)) if resolution <= CELL else CELL


@cache
def environment() -> jinja2.Environment:
    """All that a template shows is escaped, unless it is marked as HTML."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("reimagen_jax.reports"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"data_uri": _data_uri, "origin": origin}
    return environment


def _data_uri(image: np.ndarray) -> str:
    """An image, uint8 [R, R, 3], as PNG within the page."""
    buffer = io.BytesIO()
    Image.fromarray(np.asarray(image)).save(buffer, "PNG", optimize=True)
    return f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}"
