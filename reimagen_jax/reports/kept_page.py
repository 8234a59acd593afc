"""The page of measurements that are kept, in Markdown with plots beside it and as one HTML file: for each what was
measured, points with their intervals, the table, and the command, seed, hardware, commit and date that it is from."""

from collections.abc import Iterator, Mapping
from pathlib import Path

from matplotlib.figure import Figure

from reimagen_jax.files import write_text
from reimagen_jax.reports import figures, plots
from reimagen_jax.reports.kept import Column, Kept, Row, interval, markdown
from reimagen_jax.reports.report import environment
from reimagen_jax.reports.words import escaped

PAGE, TEXT = "results.html", "results.md"
TITLE = "Measured"
INTRODUCTION = (
    "Made by `reimagen report` from the JSON of each measurement. Figures stand with their 95 % intervals; below each "
    "table is the command that it is from, and what else was recorded of it."
)


def write_page(results: Mapping[str, Kept], folder: Path) -> None:
    """Writes results.html, results.md, and a PNG file for each plot."""
    shown = {}
    for name, kept in results.items():
        charts = list(_charts(kept))
        shown[name] = [figures.svg(figure, f"{kept.title}: {unit}", told) for unit, figure, told in charts]
        for file, (_, figure, _) in zip(_files(name, len(charts)), charts, strict=True):
            figures.save(figure, folder / file)
    words = {"title": TITLE, "introduction": INTRODUCTION.replace("`", "")}
    page = environment().get_template("kept.html.j2").render(results=results, charts=shown, **words)
    write_text(folder / PAGE, page)
    lines = [f"# {TITLE}", "", INTRODUCTION, ""]
    for name, kept in results.items():
        lines += _section(kept, _files(name, len(shown[name])))
    write_text(folder / TEXT, "\n".join(lines))


def _files(name: str, count: int) -> list[str]:
    """Names of a measurement's plots."""
    return [f"{name}.png" if i == 1 else f"{name}-{i}.png" for i in range(1, count + 1)]


def _charts(kept: Kept) -> Iterator[tuple[str, Figure, dict[str, list[str]]]]:
    """Of each unit with at least one interval: its name, the plot of its columns, and what the points say."""
    units: dict[str, list[Column]] = {}
    for column in kept.columns:
        units.setdefault(column.unit, []).append(column)
    for unit, columns in units.items():
        rows = [row for row in kept.rows if any(column.name in row.values for column in columns)]
        names, points, told = [_called(kept, row) for row in rows], {}, {}
        if not any(isinstance(row.values.get(column.name), tuple) for row in rows for column in columns):
            continue
        for i, column in enumerate(columns):
            values = [row.values.get(column.name) for row in rows]
            points[column.name] = [None if value is None else interval(value) for value in values]
            said = zip(names, map(column.told, values), strict=True)
            told[f"points-{i}"] = [f"{name}, {column.name}: {words}" for name, words in said if words]
        limits = (0.0, 1.0) if unit.startswith("share ") else None
        yield unit, plots.points(names, points, x_label=unit, limits=limits), told


def _called(kept: Kept, row: Row) -> str:
    """A row by its labels; a number does not tell what it is of."""
    words = zip(kept.labels, row.labels, strict=True)
    return " · ".join(f"{label} {word}" if word[:1].isdigit() else word for label, word in words if word)


def _section(kept: Kept, pictures: list[str]) -> list[str]:
    """A measurement in Markdown."""
    title = escaped(kept.title)
    lines = [f"## {title}", "", kept.measured, ""]
    for picture in pictures:
        lines += [f"![{title}](<{picture}>)" if " " in picture else f"![{title}]({picture})", ""]
    lines += [*markdown(kept), ""]
    for made in kept.made:
        facts = ", ".join(f"{name} {value}" for name, value in made.facts().items())
        lines += [f"{escaped(made.rows)}:", ""] if made.rows else []
        lines += [f"    {made.command}", "", f"*{facts}*", ""]
    return lines
