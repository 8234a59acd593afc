"""Measurements that are kept: a JSON file each, with its figures, their intervals, and what made them.

Tables of pages stand between two comments, and are written anew from these files (`filled`):

    <!-- results: unclip entities=unseen column=faithful column=aligned -->
    | drawn by | entities | faithful | aligned |
    <!-- /results -->

The first word is the file's name; rows are those with one of the values that are given of a label, all where none is;
columns likewise. `reports/keeping.py` makes such a file from what an evaluation has left.
"""

import json
import re
import shlex
import unicodedata
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Annotated, Any

from annotated_types import Ge, Le

from reimagen_jax.checked import Known, Number, Seed, parse, read
from reimagen_jax.errors import UserError, require
from reimagen_jax.evaluation.statistics import Interval
from reimagen_jax.files import write_text
from reimagen_jax.reports.words import escaped, table

FORMAT = 1
UNKNOWN = "not recorded"
COLUMN = "column"
"""The word of a comment that chooses columns."""
OPTIONAL = ("bold", "rows")
"""Fields that are left out of a file where they are empty."""
BEGIN, END = "<!-- results: ", "<!-- /results -->"
_BLOCK = re.compile(rf"^{BEGIN}(.+) -->\n((?:(?:\|.*|[ \t]*)\n)*?){END}$", re.MULTILINE)
_ALIKE = re.compile(r"^ {0,3}<!--\s*/?\s*results\b.*$", re.MULTILINE | re.IGNORECASE)
"""A comment that is meant to be one of these; what is further in is text that shows one."""
_FENCED = re.compile(r"^ {0,3}(```|~~~).*?(?:^ {0,3}\1[`~]*[ \t]*$|\Z)", re.MULTILINE | re.DOTALL)
"""Text between fences, which is shown as it is."""

Value = Number | tuple[Number, Number, Number]
"""A figure: alone, or with the bounds of its 95 % interval."""


@dataclass(frozen=True)
class Column(Known):
    """Figures of one kind."""

    name: str
    unit: str
    """What they count, such as `share of images`: columns of one unit are drawn in one plot."""
    digits: Annotated[int, Ge(0), Le(9)] = 3
    """Behind the point."""

    def told(self, value: Value | None) -> str:
        """A cell: `0.711 [0.653, 0.763]`, `0.96`, or nothing."""
        if value is None:
            return ""
        words = [f"{number:,.{self.digits}f}" for number in _numbers(value)]
        return words[0] if len(words) == 1 else "{} [{}, {}]".format(*words)


@dataclass(frozen=True)
class Row(Known):
    """What was measured in one case."""

    labels: tuple[str, ...]
    """Which case: a word for each of the table's labels."""
    values: Mapping[str, Value]
    """Column -> figure; a column may be left out."""
    bold: tuple[str, ...] = ()
    """Columns that the table is about."""


@dataclass(frozen=True)
class Made(Known):
    """What made figures; None is what was not recorded."""

    command: str
    seed: Seed | None
    hardware: str | None
    commit: str | None
    """Of this repository."""
    version: str | None
    """Of this package."""
    date: str | None
    """Of the day on which it was done: 2026-11-26."""
    rows: str = ""
    """Which rows, where they are not all of one command."""

    def facts(self) -> dict[str, str]:
        """All but the command, in words."""
        names = ("seed", "hardware", "commit", "version", "date")
        return {name: UNKNOWN if (value := getattr(self, name)) is None else str(value) for name in names}


@dataclass(frozen=True)
class Kept(Known):
    """A measurement."""

    format: int
    title: str
    measured: str
    """What is measured, how, and how to read it, in sentences."""
    labels: tuple[str, ...]
    """What tells the rows from each other."""
    columns: tuple[Column, ...]
    rows: tuple[Row, ...]
    made: tuple[Made, ...]
    """Each command that figures are from, one at least."""

    def __post_init__(self) -> None:
        require(self.format == FORMAT, f"format {self.format}: this version reads {FORMAT}, update reimagen_jax")
        require(bool(self.rows), "there are no rows")
        require(bool(self.columns), "there are no columns")
        require(bool(self.made), "nothing says what made the figures: `made` is empty")
        names = [*self.labels, *(column.name for column in self.columns)]
        lines = [self.title, *names, *(column.unit for column in self.columns), *(each.rows for each in self.made)]
        for text in (*lines, *(label for row in self.rows for label in row.labels)):
            kinds = {unicodedata.category(letter) for letter in text}
            require(
                not kinds & {"Cc", "Zl", "Zp"},
                f"{text!r} has control characters: titles and labels are words on one line",
            )
        require(len(set(names)) == len(names), f"labels and columns share a name: {', '.join(names)}")
        twice = [labels for labels, count in Counter(row.labels for row in self.rows).items() if count > 1]
        require(not twice, f"several rows are {', '.join(twice[0] if twice else ())}")
        for row in self.rows:
            self._check(row, set(names[len(self.labels) :]))

    def _check(self, row: Row, names: set[str]) -> None:
        where = f"row {', '.join(row.labels)}"
        require(len(row.labels) == len(self.labels), f"{where}: a word for each of {', '.join(self.labels)} is needed")
        unknown = sorted({*row.values, *row.bold} - names)
        require(not unknown, f"{where}: there is no column {', '.join(unknown)}")
        for name, value in row.values.items():
            mean, low, high = interval(value)
            require(low <= mean <= high, f"{where}, {name}: {mean} is not within {low} to {high}")

    def cells(self, row: Row) -> list[str]:
        """Its figures, in the order of the columns."""
        return [column.told(row.values.get(column.name)) for column in self.columns]

    def where(self, chosen: Mapping[str, Sequence[str]]) -> "Kept":
        """The rows that have one of the values chosen of each label; of the columns those chosen, in that order.

        Raises `UserError` where there is no such label, value, column, or row.
        """
        by_label = zip(*(row.labels for row in self.rows), strict=True)
        there = {label: list(dict.fromkeys(words)) for label, words in zip(self.labels, by_label, strict=True)}
        there[COLUMN] = [column.name for column in self.columns]
        for name, values in chosen.items():
            require(name in there, f"{name}: there is no such label, there are {', '.join(there)}")
            for value in values:
                require(value in there[name], f"{name}={value}: there are {', '.join(there[name])}")
        columns = {column.name: column for column in self.columns}
        shown = tuple(columns[name] for name in chosen.get(COLUMN, columns))
        rows = tuple(
            row
            for row in self.rows
            if all(word in chosen.get(label, (word,)) for label, word in zip(self.labels, row.labels, strict=True))
        )
        require(bool(rows), "no row is all of these")
        return replace(self, columns=shown, rows=tuple(_of(shown, row) for row in rows))


def _of(columns: Sequence[Column], row: Row) -> Row:
    names = [column.name for column in columns]
    values = {name: value for name, value in row.values.items() if name in names}
    return replace(row, values=values, bold=tuple(name for name in row.bold if name in names))


def _numbers(value: Value) -> tuple[float, ...]:
    return value if isinstance(value, tuple) else (value,)


def interval(value: Value) -> Interval:
    """With its bounds; a figure alone is its own."""
    return Interval(*value) if isinstance(value, tuple) else Interval(value, value, value)


def read_kept(path: Path) -> Kept:
    """Raises `UserError` that names the file and the field where it is none."""
    return read(path, Kept, "a measurement that is kept")


def read_all(folder: Path) -> dict[str, Kept]:
    """Name of the file -> measurement, in the order of the names. Raises `UserError` where there are none."""
    require(folder.is_dir(), f"{folder} not found: give a folder with files that `reimagen report keep` has written")
    found = {path.stem: read_kept(path) for path in sorted(folder.glob("*.json"))}
    require(bool(found), f"{folder} holds no measurements (NAME.json): `reimagen report keep` writes them")
    return found


def write_kept(path: Path, kept: Kept) -> None:
    """As JSON, a row a line, so that what changes can be read in a diff. Raises `UserError` for what `read_kept` would
    refuse, and then writes nothing."""
    parse(Kept, asdict(kept), str(path))
    lines = ",\n".join(f'  "{name}": {_lines(value)}' for name, value in asdict(kept).items())
    write_text(path, f"{{\n{lines}\n}}\n")


def _lines(value: Any) -> str:
    """JSON, each of several objects on a line of its own."""
    if not (isinstance(value, tuple) and isinstance(value[0], dict)):
        return _json(value)
    told = [{name: each for name, each in item.items() if each or name not in OPTIONAL} for item in value]
    return "[\n" + ",\n".join(f"    {_json(each)}" for each in told) + "\n  ]"


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, allow_nan=False)


def markdown(kept: Kept) -> list[str]:
    """The lines of its table."""
    rows = [[escaped(name) for name in (*kept.labels, *(column.name for column in kept.columns))]]
    for row in kept.rows:
        cells = zip(kept.columns, kept.cells(row), strict=True)
        rows.append(
            [
                *map(escaped, row.labels),
                *(_stressed(cell) if column.name in row.bold else cell for column, cell in cells),
            ]
        )
    return table([[cell.replace("|", r"\|") for cell in row] for row in rows])


def _stressed(cell: str) -> str:
    mean, space, bounds = cell.partition(" ")
    return f"**{mean}**{space}{bounds}"


def filled(page: str, results: Mapping[str, Kept], where: str) -> str:
    """A page with its tables as the results have them; what stands between fences stays. Raises `UserError`, beginning
    with `where`, on a comment without its end, or not quite as it has to be, and on what the results do not have."""
    fences = [(each.start(), each.end()) for each in _FENCED.finditer(page)]

    def counts(found: re.Match[str]) -> bool:
        return not any(start <= found.start() < end for start, end in fences)

    comments = [found[0] for found in _ALIKE.finditer(page) if counts(found)]
    for comment in comments:
        require(
            re.fullmatch(f"{BEGIN}.+ -->|{END}", comment) is not None,
            f"{where}: `{comment}` is no comment that a table stands between: write `{BEGIN}NAME -->` and `{END}`, "
            "each at the beginning of a line, with nothing behind it",
        )
    ended = comments.count(END)
    begun = len(comments) - ended
    require(
        sum(map(counts, _BLOCK.finditer(page))) == begun == ended,
        f"{where}: {begun} tables begin by `{BEGIN}NAME -->` and {ended} end by `{END}`, with nothing but a table "
        "between them: each needs both, at the beginning of a line",
    )

    def new(block: re.Match[str]) -> str:
        if not counts(block):
            return block[0]
        try:
            lines = markdown(_chosen(block[1], results))
        except UserError as error:
            raise UserError(f"{where}, {BEGIN}{block[1]} -->: {error}") from None
        return "\n".join([f"{BEGIN}{block[1]} -->", *lines, END])

    return _BLOCK.sub(new, page)


def _chosen(words: str, results: Mapping[str, Kept]) -> Kept:
    """What a comment asks for."""
    try:
        name, *conditions = shlex.split(words)
    except ValueError as error:
        raise UserError(f"it cannot be read: {error}") from error
    require(name in results, f"there are no results {name}, there are {', '.join(results)}")
    chosen: dict[str, list[str]] = {}
    for condition in conditions:
        label, equals, value = condition.partition("=")
        require(bool(label and equals), f"{condition} is not LABEL=VALUE")
        chosen.setdefault(label, []).append(value)
    return results[name].where(chosen)
