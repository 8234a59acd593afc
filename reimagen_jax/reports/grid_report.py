"""The report of a sweep over a grid as HTML: images inlined, no scripts, nothing loaded from elsewhere.

On top the best setting in a sentence, with the command that draws with it; what is traded for what (faithfulness,
alignment, cost); the shares along each axis, through the best point; a table of the first two axes; all points in
numbers; then the sheet: the first axis in columns, the second in rows, a block for each prompt, a section for each
combination of further axes. A sheet of more than `PAGE_IMAGES` images goes on on pages of its own, sheet-2.html, ...
The pages are templates/grid.html.j2.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np

from reimagen_jax.evaluation.axes import Axis
from reimagen_jax.evaluation.grids import Grid, Point
from reimagen_jax.evaluation.pareto import MEASURES, Result, Table
from reimagen_jax.evaluation.statistics import Curve
from reimagen_jax.evaluation.store import Images
from reimagen_jax.files import write_text
from reimagen_jax.reports import figures, plots
from reimagen_jax.reports.grids import labelled_grid
from reimagen_jax.reports.report import PAGE, PICTURE, PIXEL_ART, cell_pixels, environment
from reimagen_jax.reports.words import say
from reimagen_jax.systems.request import Neighbour

PAGE_IMAGES = 480
"""On a page, at most; or one block."""
PICTURE_ROWS = 48
"""In the picture, at most."""
LABELLED = 12
"""Places on the front that have names in the chart; where there are more, they have numbers."""


@dataclass(frozen=True)
class GridReport:
    """What the pages show."""

    title: str
    introduction: str
    grid: Grid
    images: Images
    table: Table
    command: str
    """That draws it again."""
    drawn_by: Callable[[Point], str]
    """The command that draws with the settings of a point."""
    settings: Mapping[str, Mapping[str, str]]
    """Group -> name -> value."""
    why_unrated: str = ""
    about_rater: str = ""
    shown: int = 8
    """Prompts that are on the sheet."""

    @property
    def cheapest_command(self) -> str:
        """Draws with the cheapest of the best."""
        return self.drawn_by(self.grid.points[self.table.cheapest.number - 1])


@dataclass(frozen=True)
class Cell:
    """An image on the sheet."""

    image: np.ndarray
    told: str
    verdicts: tuple[bool, ...] = ()
    """Faithful and aligned, where it was rated."""


@dataclass(frozen=True)
class Block:
    """A prompt at all values of the first two axes."""

    section: str
    """The values of further axes."""
    text: str
    neighbours: tuple[Neighbour, ...]
    """Of the first point."""
    columns: tuple[str, ...]
    rows: list[tuple[str, list[Cell]]] = field(default_factory=list)
    """A label and its images."""


def write_grid_report(report: GridReport, folder: Path) -> None:
    """Writes report.html, further pages of the sheet, and report.png; removes pages of an earlier, larger sheet."""
    pages = list(_pages(report))
    names = [page_name(number) for number in range(1, len(pages) + 1)]
    for number, blocks in enumerate(pages):
        write_text(folder / names[number], render(report, blocks, number, names))
    for path in folder.glob("sheet-*.html"):
        if path.name not in names:
            path.unlink()
    picture(report).save(folder / PICTURE)


def page_name(number: int) -> str:
    """The file of a page of the sheet, from 1."""
    return PAGE if number == 1 else f"sheet-{number}.html"


def render(report: GridReport, blocks: Sequence[Block], number: int = 0, names: Sequence[str] = (PAGE,)) -> str:
    """A page as HTML; the first one has the numbers, too."""
    shown: dict[str, Any] = {"charts": _charts(report)} if number == 0 else {}
    shown |= {"blocks": blocks, "number": number, "names": names, "measures": MEASURES}
    shown |= {
        "cell": cell_pixels(report.grid.resolution),
        "pixel_art": PIXEL_ART,
        "point": lambda r: in_words(report, r),
    }
    shown |= {"note": note(report), "choice": choice(report)}
    return environment().get_template("grid.html.j2").render(report=report, **shown)


def picture(report: GridReport) -> Any:
    """The sheet's first rows as one picture."""
    blocks = [block for _, block in zip(range(PICTURE_ROWS), _blocks(report), strict=False)]
    rows, labels = [], []
    for block in blocks:
        for label, cells in block.rows:
            rows.append([cell.image for cell in cells])
            labels.append(" · ".join(filter(None, (block.section, block.text, label))))
    return labelled_grid(rows[:PICTURE_ROWS], labels[:PICTURE_ROWS], blocks[0].columns)


def in_words(report: GridReport, result: Result) -> str:
    """A point by the values of its axes."""
    return ", ".join(axis.say(result.values[axis.name]) for axis in report.grid.axes)


def choice(report: GridReport) -> list[str]:
    """Sentences: the best setting, what cannot be told from it, the cheapest of these; none where nothing is rated."""
    table = report.table
    best, measure = table.best, table.measure
    if best is None:
        return []
    said = {"both": "faithful and aligned in one image", "faithful": "faithful", "aligned": "aligned"}[measure]
    sentences = [f"Best ({said}): {in_words(report, best)}, {say(best.shares[measure])}, {_cost(best)}."]
    prompts = int(table.rated_P.sum())
    rest = sorted(table.tied, key=lambda each: (-each.shares[measure].mean, each.cost))
    if not rest:
        return [*sentences, f"No other point comes near it on these {prompts} prompts."]
    few = "; ".join(f"{in_words(report, each)} ({each.shares[measure].mean:.2f})" for each in rest[:6])
    more = f"; and {len(rest) - 6} more (≈ in the table)" if len(rest) > 6 else ""
    sentences.append(f"Not to be told from it on these {prompts} prompts: {few}{more}.")
    cheapest = table.cheapest
    own = "the best itself" if cheapest is best else f"{in_words(report, cheapest)}, {say(cheapest.shares[measure])}"
    return [*sentences, f"The cheapest of these: {own}, {_cost(cheapest)}."]


def note(report: GridReport) -> str:
    """How to read the numbers."""
    prompts, S = int(report.table.rated_P.sum()), report.grid.num_images
    return (
        "Faithful: every parameter of the entity's look, which only its images tell, is right. Aligned: everything of "
        "the scene that the caption tells is right. Both: in the same image. Each point: "
        f"{prompts} prompts, {'one image' if S == 1 else f'{S} images'} of each, from the same noise at every point; "
        "95 % intervals. Not to be told from the best (≈): the interval of the difference, prompt by prompt, has 0 in "
        "it, or fewer than six prompts differ, or than six entities, where several are about one. The best of many "
        "points is also the luckiest: other prompts or another seed tell whether it stays the best. The front (★): no "
        f"other point is as good in both and as cheap (by {report.table.by}) and better in one of them."
    )


def _cost(result: Result) -> str:
    seconds = "" if result.seconds is None else f", {result.seconds:.3g} s"
    return f"{result.evaluations:,} evaluations{seconds} an image"


def _pages(report: GridReport) -> Iterator[list[Block]]:
    page, count = [], 0
    for block in _blocks(report):
        size = sum(len(cells) for _, cells in block.rows)
        if page and count + size > PAGE_IMAGES:
            yield page
            page, count = [], 0
        page.append(block)
        count += size
    yield page


def _blocks(report: GridReport) -> Iterator[Block]:
    """In the order of the sheet: sections, in each the prompts."""
    grid, axes = report.grid, report.grid.axes
    places = {tuple(point.values.values()): place for place, point in enumerate(grid.points)}
    columns, rows, further = axes[0], axes[1] if len(axes) > 1 else None, axes[2:]
    for rest in product(*(axis.values for axis in further)):
        section = ", ".join(axis.say(value) for axis, value in zip(further, rest, strict=True))
        for p in range(min(report.shown, len(grid.prompts))):
            block = None
            for y in rows.values if rows else (None,):
                line = [places[(x, *([y] if rows else []), *rest)] for x in columns.values]
                if block is None:
                    first = grid.points[line[0]].prompts[p]
                    block = Block(
                        section, grid.prompts[p].text, first.neighbours, tuple(map(columns.say, columns.values))
                    )
                for s in range(grid.num_images):
                    cells = [_cell(report, place, p, s) for place in line]
                    block.rows.append((rows.say(y) if rows and s == 0 else "", cells))
            yield block


def _cell(report: GridReport, place: int, p: int, s: int) -> Cell:
    point, result, verdicts = report.grid.points[place], report.table.results[place], ()
    if result.verdict_VQS is not None and report.table.rated_P[p]:
        q = int(report.table.rated_P[:p].sum())
        verdicts = tuple(bool(said) for said in result.verdict_VQS[:2, q, s])
    return Cell(report.images[_key(report, point, p, s)], in_words(report, result), verdicts)


def _key(report: GridReport, point: Point, p: int, s: int) -> str:
    return point.keys[p * report.grid.num_images + s]


def _charts(report: GridReport) -> dict[str, Any]:
    """SVG of the trade, of each axis, and of the first two axes together; nothing where nothing is rated."""
    if report.table.best is None:
        return {}
    two = [axis for axis in report.grid.axes if len(axis.values) > 1][:2]
    along = {axis.name: _along(report, axis) for axis in report.grid.axes if len(axis.values) > 1}
    return {"trade": _trade(report), "along": along, "heat": _heat(report, *two) if len(two) == 2 else ""}


def _trade(report: GridReport) -> str:
    rated = [each for each in report.table.results if each.shares is not None]
    front = [place for place, each in enumerate(rated) if each.front]
    named = len({(rated[place].shares["aligned"], rated[place].shares["faithful"]) for place in front}) <= LABELLED
    labels = {place: in_words(report, rated[place]) if named else str(rated[place].number) for place in front}
    figure = plots.trade(
        [(each.shares["aligned"], each.shares["faithful"], each.cost) for each in rated],
        front,
        labels,
        x_label="aligned: share of images",
        y_label="faithful: share of images",
        cost_label="s an image" if report.table.by == "seconds" else "evaluations",
    )
    told = {
        f"trade-{place}": [
            f"{each.number}. {in_words(report, each)}: faithful {say(each.shares['faithful'])}, aligned "
            f"{say(each.shares['aligned'])}, {_cost(each)}"
        ]
        for place, each in enumerate(rated)
    }
    return figures.svg(figure, "faithful over aligned, by cost", told)


def _at_best(report: GridReport, *axes: Axis) -> list[Result]:
    """The points that have the best one's values on all axes but these, in their order."""
    names, best = {axis.name for axis in axes}, report.table.best.values
    fixed = {name: value for name, value in best.items() if name not in names}
    return [each for each in report.table.results if fixed.items() <= each.values.items()]


def _along(report: GridReport, axis: Axis) -> str:
    """The shares along an axis, through the best point."""
    found = [each for each in _at_best(report, axis) if each.shares is not None]
    if axis.numeric:
        found = sorted(found, key=lambda each: each.values[axis.name])
    x = tuple(float(each.values[axis.name]) if axis.numeric else float(i) for i, each in enumerate(found))
    lines = [Curve(name, x, tuple(each.shares[name] for each in found)) for name in MEASURES]
    names = [] if axis.numeric else [axis.say(each.values[axis.name]).removeprefix(f"{axis.name} ") for each in found]
    label = "η: all neighbours (0) to all text (1)" if axis.name == "eta" else axis.name
    figure = plots.curves(lines, x_label=label, ticks=x, names=names, size=(8.6, 3.4))
    told = {}
    for i, line in enumerate(lines):
        points = zip(found, line.points, strict=True)
        told[f"points-{i}"] = [f"{line.name}, {in_words(report, each)}: {say(y)}" for each, y in points]
    return figures.svg(figure, f"shares over {axis.name} with 95 % intervals", told)


def _heat(report: GridReport, first: Axis, second: Axis) -> str:
    measure = report.table.measure
    found = {(each.values[first.name], each.values[second.name]): each for each in _at_best(report, first, second)}
    values = [
        [None if (shares := found[x, y].shares) is None else shares[measure] for x in first.values]
        for y in second.values
    ]
    columns, rows = (list(map(axis.say, axis.values)) for axis in (first, second))
    return figures.svg(plots.heat(values, columns, rows), f"{measure} by {first.name} and {second.name}")
