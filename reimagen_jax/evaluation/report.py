"""The report of a sweep as one HTML file: images inlined, no scripts, nothing loaded from elsewhere.

For each prompt: the neighbours with captions and scores, the baseline without them, one column per eta and one row per
seed. Below: curves over eta with 95 % intervals where a rater applies, else why not. Last: everything that is needed to
draw it again.
"""

import base64
import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from pathlib import Path

import numpy as np
from PIL import Image

from reimagen_jax.evaluation.ratings import Ratings
from reimagen_jax.evaluation.report_style import STYLE
from reimagen_jax.evaluation.sheet import sweep_sheet
from reimagen_jax.evaluation.statistics import Interval
from reimagen_jax.evaluation.svg import Curve, curves_svg
from reimagen_jax.evaluation.sweeps import Sweep
from reimagen_jax.files import write_text
from reimagen_jax.inference.prompts import Prompt
from reimagen_jax.inference.requests import Neighbour

PAGE, PICTURE = "report.html", "report.png"
CELL = 64
"""Side of an image on the page, in CSS pixels; or a whole multiple of its own pixels near this."""
PIXEL_ART = 128
"""Images below this resolution are enlarged without smoothing."""

EXPLANATION = (
    "Each step of the sampler strengthens either the text or the neighbours. η is the share of steps that strengthen "
    "the text: at η = 0 the neighbours decide how the subject looks, at η = 1 the text decides the scene, and in "
    "between the two are balanced. Along a row only η changes: the noise is the same. The first column is drawn by the "
    "same weights without neighbours, which is Imagen."
)


@dataclass(frozen=True)
class Row:
    """One line of the table of results."""

    name: str
    shares: tuple[Interval, ...]
    """One per curve, in their order."""
    images: int
    """How many the shares are of."""


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
    """A table on top; none, no table."""


def write_report(report: Report, folder: Path) -> None:
    """Writes report.html and report.png."""
    write_text(folder / PAGE, render(report))
    curves = report.ratings.curves if report.ratings is not None else ()
    sweep_sheet(report.sweep, report.title, curves).save(folder / PICTURE)


def render(report: Report) -> str:
    """The page as HTML."""
    sections = {
        "results": ("Results", _results(report)),
        "prompts": ("Prompts", _prompts(report)),
        "curves": ("Curves over η", _curves(report)),
        "settings": ("Settings", _settings(report)),
    }
    shown = {anchor: section for anchor, section in sections.items() if section[1]}
    links = "".join(f'<a href="#{anchor}">{name}</a>' for anchor, (name, _) in shown.items())
    body = "\n".join(
        f'<section id="{anchor}"><h2>{name}</h2>\n{content}\n</section>' for anchor, (name, content) in shown.items()
    )
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{escape(report.title)}</title>
<style>{STYLE}</style>
</head>
<body>
<header>
<h1>{escape(report.title)}</h1>
<p class="soft">{escape(report.introduction)}</p>
<nav>{links}</nav>
</header>
<main>
{body}
</main>
<footer>Written by reimagen_jax. Re-Imagen: Chen, Hu, Saharia, Cohen, ICLR 2023.</footer>
</body>
</html>
"""


def _results(report: Report) -> str:
    if not report.rows or report.ratings is None:
        return ""
    heads = "".join(f"<th>{_key(i, curve.name)}</th>" for i, curve in enumerate(report.ratings.curves))
    rows = "".join(
        f'<tr><th scope="row">{escape(row.name)}</th>{"".join(map(_share, row.shares))}<td>{row.images:,}</td></tr>'
        for row in report.rows
    )
    return (
        f'<div class="card scroll"><table class="numbers"><thead><tr><th></th>{heads}<th>images</th></tr></thead>'
        f'<tbody>{rows}</tbody></table><p class="soft small">{escape(report.ratings.about_rater)}</p></div>'
    )


def _share(share: Interval) -> str:
    return f"<td><b>{share.mean:.2f}</b><small>{share.low:.2f} to {share.high:.2f}</small></td>"


def _key(i: int, name: str) -> str:
    return f'<span class="key"><span class="mark yes series-{i}"></span>{escape(name)}</span>'


def _prompts(report: Report) -> str:
    legend = f"<p>{escape(EXPLANATION)}</p>"
    if report.ratings is not None:
        keys = "".join(_key(i, curve.name) for i, curve in enumerate(report.ratings.curves))
        legend += f"<p>Under an image: {keys} filled where the rater says yes.</p>"
    cards = "\n".join(_card(report, p) for p in range(len(report.sweep.prompts)))
    return f"{legend}\n{cards}"


def _card(report: Report, p: int) -> str:
    """One prompt."""
    prompt = report.sweep.prompts[p]
    return (
        f'<article class="card"><h3>{escape(prompt.text)}</h3>\n'
        f'{_neighbours(prompt)}\n<div class="scroll">{_strip(report, p)}</div></article>'
    )


def _neighbours(prompt: Prompt) -> str:
    if not prompt.neighbours:
        return '<p class="soft">No neighbours were found: all columns are drawn without.</p>'
    return f'<ol class="neighbours">{"".join(map(_neighbour, prompt.neighbours))}</ol>'


def _neighbour(hit: Neighbour) -> str:
    origin = "given by hand" if math.isnan(hit.score) else f"score {hit.score:.1f}"
    words = f"<span>{escape(hit.text)}<small>{origin} · {escape(hit.key)}</small></span>"
    return f"<li>{_image(hit.image, 'neighbour: ' + hit.text)}{words}</li>"


def _strip(report: Report, p: int) -> str:
    """The images of one prompt: a column for the baseline and for each eta, the true image last where it is known."""
    sweep, target = report.sweep, report.sweep.prompts[p].target
    heads = [f'<th scope="col" class="{_apart(c)}"><span>{name}</span></th>' for c, name in enumerate(sweep.columns)]
    if target is not None:
        heads.append('<th scope="col" class="before"><span>true image</span></th>')
    rows = []
    for s in range(sweep.num_seeds):
        cells = [_cell(report, p, s, c) for c in range(len(sweep.columns))]
        if target is not None and s == 0:
            cells.append(f'<td class="before">{_image(target, "the true image, not shown to the model")}</td>')
        rows.append(f"<tr>{''.join(cells)}</tr>")
    return (
        f'<table class="strip" style="--cell: {cell_pixels(sweep.resolution)}px">'
        f"<thead><tr>{''.join(heads)}</tr></thead><tbody>{''.join(rows)}</tbody></table>"
    )


def _cell(report: Report, p: int, s: int, c: int) -> str:
    heading, marks = report.sweep.columns[c], ""
    image = _image(report.sweep.image_PSCHWC[p, s, c], heading)
    if report.ratings is not None and report.ratings.applies_P[p]:
        marks = "".join(
            _mark(i, curve.name, bool(report.ratings.verdict_VPSC[i, p, s, c]))
            for i, curve in enumerate(report.ratings.curves)
        )
        marks = f'<div class="marks">{marks}</div>'
    return f'<td class="{_apart(c)}">{image}{marks}</td>'


def _apart(c: int) -> str:
    """The baseline stands apart from the columns of eta."""
    return "apart" if c == 0 else ""


def _mark(i: int, name: str, yes: bool) -> str:
    label = escape(name if yes else f"not {name}")
    return (
        f'<span class="mark series-{i}{" yes" if yes else ""}" role="img" aria-label="{label}" title="{label}"></span>'
    )


def _curves(report: Report) -> str:
    if report.ratings is None:
        return f'<p class="card">{escape(report.why_unrated)}</p>'
    ratings, etas = report.ratings, report.sweep.etas
    chart = curves_svg(etas, ratings.curves, "shares over eta with 95 % intervals")
    words = f"<figcaption>{escape(ratings.note)} {escape(ratings.about_rater)}</figcaption>"
    return f'<figure class="card"><div class="scroll">{chart}</div>{words}{_numbers(etas, ratings.curves)}</figure>'


def _numbers(etas: Sequence[float], curves: Sequence[Curve]) -> str:
    """The curves as a table, folded away."""
    heads = "".join(f"<th>{_key(i, curve.name)}</th>" for i, curve in enumerate(curves))
    lines = [("no neighbours", [curve.baseline for curve in curves])]
    lines += [(f"η {eta:g}", [curve.points[e] for curve in curves]) for e, eta in enumerate(etas)]
    rows = "".join(f'<tr><th scope="row">{name}</th>{"".join(map(_share, shares))}</tr>' for name, shares in lines)
    return (
        '<details><summary>The numbers</summary><div class="scroll"><table class="numbers">'
        f"<thead><tr><th></th>{heads}</tr></thead><tbody>{rows}</tbody></table></div></details>"
    )


def _settings(report: Report) -> str:
    groups = "".join(
        f"<div><h3>{escape(group)}</h3><dl>"
        + "".join(f"<dt>{escape(name)}</dt><dd>{escape(value)}</dd>" for name, value in facts.items())
        + "</dl></div>"
        for group, facts in report.settings.items()
    )
    return (
        f'<div class="card"><p>This command draws the report again:</p><pre>{escape(report.command)}</pre></div>\n'
        f'<div class="card facts">{groups}</div>'
    )


def cell_pixels(resolution: int) -> int:
    """Side of an image on the page: a whole multiple of its own pixels where they are few, so that all look alike."""
    return resolution * max(1, round(CELL / resolution)) if resolution <= CELL else CELL


def _image(image: np.ndarray, alt: str) -> str:
    buffer = io.BytesIO()
    Image.fromarray(np.asarray(image)).save(buffer, "PNG", optimize=True)
    data = base64.b64encode(buffer.getvalue()).decode()
    sharp = ' class="pixels"' if image.shape[0] < PIXEL_ART else ""
    return f'<img{sharp} src="data:image/png;base64,{data}" alt="{escape(alt)}">'
