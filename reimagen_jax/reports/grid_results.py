"""A sweep over a grid as JSON types and as CSV, for programs: all points with their values, shares, cost and files."""

import csv
import io
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from reimagen_jax.config import Experiment, to_dict
from reimagen_jax.evaluation.axes import spelt
from reimagen_jax.evaluation.pareto import MEASURES, Result
from reimagen_jax.files import write_json, write_text
from reimagen_jax.inference.provenance import neighbours_as_json
from reimagen_jax.reports.grid_report import GridReport, choice, note

RESULTS, TABLE = "sweep.json", "sweep.csv"


def write_results(report: GridReport, config: Experiment, folder: Path, facts: Mapping[str, Any] | None = None) -> None:
    """Writes sweep.csv, a line for each point, and sweep.json with all that there is to tell, and further facts."""
    write_text(folder / TABLE, as_csv(report))
    write_json(folder / RESULTS, as_json(report, config) | (facts or {}))


def as_json(report: GridReport, config: Experiment) -> dict[str, Any]:
    """All of it. Images are named by their checksums: CHECKSUM.png in `images`."""
    grid, table = report.grid, report.table
    facts: dict[str, Any] = {
        "command": report.command,
        "settings": report.settings,
        "axes": {axis.name: axis.values for axis in grid.axes},
        "images_per_prompt": grid.num_images,
        "prompts": [{"prompt": prompt.text, "record": prompt.key} for prompt in grid.prompts],
        "points": [_point(report, each) for each in table.results],
        "experiment": to_dict(config),
    }
    if table.best is None:
        return facts | {"unrated": report.why_unrated}
    return facts | {
        "rated_prompts": table.rated_P.tolist(),
        "measure": table.measure,
        "cost": table.by,
        "best": table.best.number,
        "indistinguishable": [each.number for each in table.tied],
        "cheapest": table.cheapest.number,
        "cheapest_command": report.cheapest_command,
        "front": [each.number for each in table.results if each.front],
        "said": choice(report),
        "note": f"{note(report)} {report.about_rater}",
    }


def _point(report: GridReport, each: Result) -> dict[str, Any]:
    point = report.grid.points[each.number - 1]
    S, later = report.grid.num_images, point.program.stages[1:]
    told = {
        "number": each.number,
        "values": each.values,
        "sampler": asdict(point.settings),
        **({"later_stages": [asdict(stage.settings) for stage in later]} if later else {}),
        "seed": point.seed,
        "evaluations": each.evaluations,
        "seconds": each.seconds,
        "images_prompt_seed": [list(point.keys[p : p + S]) for p in range(0, len(point.keys), S)],
        "neighbours": [[hit["key"] for hit in neighbours_as_json(prompt.neighbours)] for prompt in point.prompts],
    }
    if each.shares is None:
        return told
    told |= {name: share._asdict() for name, share in each.shares.items()}
    verdicts = dict(zip(MEASURES, each.verdict_VQS.astype(int).tolist(), strict=True))
    return told | {"minus_best": each.behind._asdict(), "verdicts_prompt_seed": verdicts}


def as_csv(report: GridReport) -> str:
    """A heading, and a line for each point."""
    lines = []
    for each in report.table.results:
        line = {"point": each.number, **{name: spelt(value) for name, value in each.values.items()}}
        line |= {"evaluations": each.evaluations, "seconds": each.seconds}
        if report.table.best is not None:
            shares = {**(each.shares or {}), "minus_best": each.behind}
            for name in (*MEASURES, "minus_best"):
                share = shares.get(name)
                line |= {f"{name}{end}": share and share[i] for i, end in enumerate(("", "_low", "_high"))}
            line |= {"front": int(each.front), "indistinguishable": int(each.tied)}
        lines.append(line)
    text = io.StringIO()
    writer = csv.DictWriter(text, list(lines[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(lines)
    return text.getvalue()
