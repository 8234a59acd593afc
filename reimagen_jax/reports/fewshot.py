"""Few shots and the long tail as tables: on the terminal, as Markdown, CSV and JSON."""

import csv
import io
from collections.abc import Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

from reimagen_jax.evaluation.fewshot.bench import ALL, Row
from reimagen_jax.evaluation.statistics import Interval
from reimagen_jax.files import write_json, write_text

RESULTS, TABLE, PAGE = "results.json", "results.csv", "results.md"


def heading(row: Row) -> list[str]:
    """Above the rows of a setting."""
    columns = "  ".join(f"{_named(name):<22}" for name in row.accuracy)
    return [
        f"{row.setting}: {row.classes} classes, {row.tasks} {_tasks(row)}; accuracy with 95 % intervals",
        f"  {'':<16} {'pictures':>8}  {columns}difference to none",
    ]


def line(row: Row) -> str:
    """A row below it."""
    told = "  ".join(f"{interval!s:<22}" for interval in row.accuracy.values())
    apart = _signed(row.difference[ALL]) if row.difference else ""
    return f"  {row.arm:<16} {row.pictures:>8.1f}  {told}{apart}".rstrip()


def write(rows: Sequence[Row], facts: Mapping[str, Any], out: Path) -> None:
    """All three files."""
    write_json(out / RESULTS, {**facts, "rows": [_as_json(row) for row in rows]})
    write_text(out / TABLE, _csv(rows))
    write_text(out / PAGE, _page(rows, facts))


def _as_json(row: Row) -> dict[str, Any]:
    return {
        **vars(row.setting),
        "arm": row.arm,
        "classes": row.classes,
        "tasks": row.tasks,
        "pictures": row.pictures,
        "accuracy": {name: list(interval) for name, interval in row.accuracy.items()},
        "difference": {name: list(interval) for name, interval in row.difference.items()},
    }


def _csv(rows: Sequence[Row]) -> str:
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    names = ("learner", "ways", "shots", "arm", "classes", "tasks", "pictures", "of", "accuracy", "low", "high")
    writer.writerow([*names, "difference", "difference low", "difference high"])
    for row in rows:
        setting = (row.setting.learner, row.setting.ways or ALL, row.setting.shots or "long tail")
        for name, interval in row.accuracy.items():
            apart = row.difference.get(name, ("", "", ""))
            writer.writerow([*setting, row.arm, row.classes, row.tasks, row.pictures, name, *interval, *apart])
    return file.getvalue()


def _page(rows: Sequence[Row], facts: Mapping[str, Any]) -> str:
    lines = ["# Learning from few pictures", "", f"`{facts['command']}`", ""]
    for _, group in groupby(rows, key=lambda row: row.setting):
        group = list(group)
        first = group[0]
        names = list(first.accuracy)
        lines += [f"## {first.setting}", "", f"{first.classes} classes, {first.tasks} {_tasks(first)}.", ""]
        lines.append("| filled up with | pictures | " + " | ".join(map(_named, names)) + " | difference to none |")
        lines.append("|---|" + "---|" * (len(names) + 2))
        for row in group:
            told = " | ".join(str(row.accuracy[name]) for name in names)
            apart = _signed(row.difference[ALL]) if row.difference else ""
            lines.append(f"| {row.arm.replace('|', ' ')} | {row.pictures:.1f} | {told} | {apart} |")
        lines.append("")
    return "\n".join(lines)


def _named(name: str) -> str:
    return "accuracy" if name == ALL else f"of {name}"


def _tasks(row: Row) -> str:
    return "draws" if row.setting.shots is None else "episodes"


def _signed(interval: Interval) -> str:
    return "{:+.3f} [{:+.3f}, {:+.3f}]".format(*interval)
