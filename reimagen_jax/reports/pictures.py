"""What `reimagen evaluate pictures` measured: lines for the terminal, JSON, Markdown, a page, and a contact sheet."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from reimagen_jax.data.spread import spread
from reimagen_jax.evaluation.pictures.bench import AMONG, EVERYTHING, SHARES, TRUE, WITH, Arm, PictureBench
from reimagen_jax.evaluation.pictures.judges import Judge
from reimagen_jax.evaluation.statistics import Interval
from reimagen_jax.files import write_json, write_text
from reimagen_jax.reports import words
from reimagen_jax.reports.grids import labelled_grid
from reimagen_jax.reports.report import environment

RESULTS, TABLE, PAGE, SHEET = "results.json", "results.md", "results.html", "results.png"
DISTANCES = ("KID", "FID")
SIDE = 96


@dataclass(frozen=True)
class Choice:
    """Which numbers of guidance to take."""

    measure: str
    best: Arm
    tied: tuple[Arm, ...]
    """Those that cannot be told from it, itself among them, the one with the least guidance first."""
    options: str
    """Of the first, as they are typed."""

    def lines(self, rows: Sequence[Mapping[str, Any]]) -> list[str]:
        """The best, the one to take, and how."""
        means = {row["arm"]: row[self.measure] for row in rows if row["group"] == EVERYTHING and self.measure in row}
        first = self.tied[0]
        lines = [f"best by {self.measure}: {self.best}, {Interval(*means[str(self.best)])}"]
        if first != self.best:
            lines.append(
                f"{len(self.tied) - 1} cannot be told from it; with the least guidance of these: {first}, "
                f"{Interval(*means[str(first)])}"
            )
        return [*lines, f"take it: {self.options}"]


def columns(bench: PictureBench) -> dict[str, str]:
    """Measures that there are -> what their columns are called."""
    told = {"nearest": f"1st of {AMONG}", "first five": f"5 of {AMONG}"}
    told |= {"entity": bench.entity.about} if bench.entity is not None else {}
    told |= {"rest": bench.rest.about} if bench.rest is not None else {}
    absent = {"entity": bench.entity is None, "rest": bench.rest is None}
    absent["both"] = absent["entity"] or absent["rest"]
    return {name: told.get(name, name) for name in (*SHARES, *DISTANCES) if not absent.get(name)}


def legend(bench: PictureBench) -> list[str]:
    """What the columns are, in sentences."""
    judges = [judge for judge in (bench.entity, bench.rest) if judge is not None]
    alike = " with the same " + bench.rest.about if bench.rest is not None else ""
    return [
        *(f"{judge.about}: a judge says that the picture shows the prompt's ({judge})." for judge in judges),
        f"1st of {AMONG}, 5 of {AMONG}: of the prompt's true picture and others{alike}, its own is the nearest by "
        "pixels, or among the five nearest.",
        f"likeness: the share of these others that are farther than its own in the space {bench.space!r}; 0.5 is "
        "chance.",
        "copied: nearer to a neighbour that was shown than to any other true picture, and than 95 % of true pictures "
        "are to theirs.",
        "blank: less contrast than 99 % of true pictures have.",
        f"KID, FID: distances of the drawn from the true pictures in the space {bench.space!r}, which is not that of "
        "Inception: they compare within this table alone.",
        "true: the records' own pictures, judged like drawn ones; no prompt's own record is known to the judges.",
    ]


def headings(bench: PictureBench) -> list[str]:
    """The line above those of `line`."""
    return [_line("", "", "", columns(bench).values())]


def line(bench: PictureBench, row: Mapping[str, Any]) -> str:
    """A row for the terminal, without intervals."""
    group = "" if row["group"] == EVERYTHING else row["group"]
    return _line(row["arm"], group, str(row["prompts"]), [cell(row.get(name)).split()[0] for name in columns(bench)])


def cell(value: Any) -> str:
    """A value of a row."""
    if value is None:
        return "-"
    if isinstance(value, float | int):
        return "-" if math.isnan(value) else f"{value:.2f}"
    mean, low, high = value
    return "-" if math.isnan(mean) else f"{mean:.2f} [{low:.2f}, {high:.2f}]"


def write(
    bench: PictureBench,
    rows: Sequence[Mapping[str, Any]],
    choice: Choice | None,
    facts: Mapping[str, Any],
    folder: Path,
    shown: int,
) -> None:
    """results.json and results.md; with `shown` prompts on a contact sheet, results.png and results.html too."""
    said = choice.lines(rows) if choice is not None else []
    chosen = None
    if choice is not None:
        numbers = [dict(arm.guidance) for arm in (choice.best, choice.tied[0])]
        chosen = {"by": choice.measure, "best": numbers[0], "take": numbers[1], "options": choice.options}
    judges = {name: _about(judge) for name, judge in (("entity", bench.entity), ("rest", bench.rest)) if judge}
    measured = {
        "judges": judges,
        "space": bench.space,
        "gallery": len(bench.gallery.pictures),
        "copy_threshold": bench.copy_threshold,
        "rows": list(rows),
        "guidance": chosen,
    }
    write_json(folder / RESULTS, _finite({**facts, **measured}))
    names = columns(bench)
    head = ["arm", "group", "prompts", *names.values()]
    table = [[row["arm"], row["group"], str(row["prompts"]), *(cell(row.get(name)) for name in names)] for row in rows]
    notes = [f"- {each}" for each in (*said, *legend(bench))]
    text = ["# Pictures of held-out records", "", *words.table([head, *table]), "", *notes, ""]
    write_text(folder / TABLE, "\n".join([*text, f"    {facts['command']}", ""]))
    if not shown:
        return
    picture = sheet(bench, list(dict.fromkeys(_arms(rows, choice))), shown)
    picture.save(folder / SHEET)
    page = {"head": head, "table": table, "said": said, "legend": legend(bench), "facts": facts}
    sheet_image = np.asarray(picture)
    write_text(
        folder / PAGE, environment().get_template("pictures.html.j2").render(sheet=sheet_image, pixel_art=0, **page)
    )


def sheet(bench: PictureBench, arms: Sequence[Arm], shown: int) -> Image.Image:
    """The first prompts, spread over all: neighbours, the true picture, every arm's, and the true picture nearest to
    that with neighbours."""
    ids = spread(len(bench.prompts), shown)
    prompts = [bench.prompts[i] for i in ids]
    side, most = bench.true.shape[1], max(len(prompt.neighbours) for prompt in prompts)
    names: dict[str, list[Any]] = {}
    for j in range(most):
        found = [prompt.neighbours for prompt in prompts]
        names[f"neighbour {j + 1}"] = [hits[j].at(side) if j < len(hits) else "none found" for hits in found]
    names["true"] = list(bench.true[ids])
    for arm in arms:
        names[str(arm)] = list(bench.drawn(arm)[ids, 0])
        if arm == Arm(WITH):
            nearest = bench.nearest_true(bench.drawn(arm)[ids, 0])
            names["the true picture nearest to that"] = list(nearest)
    rows = list(zip(*names.values(), strict=True))
    return labelled_grid(rows, [prompt.text for prompt in prompts], list(names), side=SIDE)


def _arms(rows: Sequence[Mapping[str, Any]], choice: Choice | None) -> list[Arm]:
    """Those that are shown: of a grid, the best and the one to take."""
    plain = [Arm(row["arm"]) for row in rows if row["arm"] != TRUE and "," not in row["arm"]]
    return [*plain, *((choice.best, choice.tied[0]) if choice is not None else ())]


def _about(judge: Judge) -> dict[str, Any]:
    return {
        "field": judge.about,
        "values": len(judge.names),
        "space": judge.space,
        "by": judge.how,
        "right_on_pictures_set_aside": judge.tried,
    }


def _line(arm: str, group: str, prompts: str, cells: Any) -> str:
    return f"{arm:<34} {group:<9} {prompts:>5}  " + " ".join(f"{each:>10.10}" for each in cells)


def _finite(value: Any) -> Any:
    """JSON has no NaN: an undefined number is null."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {name: _finite(each) for name, each in value.items()}
    return [_finite(each) for each in value] if isinstance(value, list | tuple) else value
