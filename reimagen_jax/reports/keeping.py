"""What evaluations have left, as a measurement that is kept (`reports/kept.py`): the commands that it knows are in
`READERS`, each with a function that takes the results' JSON and gives their cases and figures."""

import math
import re
import shlex
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

from reimagen_jax.checked import parse
from reimagen_jax.errors import UserError, require
from reimagen_jax.evaluation.entities.tables import best_of
from reimagen_jax.evaluation.statistics import Interval
from reimagen_jax.files import read_json
from reimagen_jax.reports.entities.tables import counted
from reimagen_jax.reports.kept import FORMAT, Column, Kept, Made, Row, Value
from reimagen_jax.reports.pictures import DISTANCES

FILES = ("results.json", "sweep.json")
"""What an evaluation's folder has its figures in."""
PROMPTS = "prompts.json"
"""And the prompts of `evaluate entities`."""
SIGNIFICANT = 6
"""Digits that are kept."""
COUNTED = "prompts"
"""The unit of a column of counts, which have no digits behind the point."""
IMAGES, PICTURES, VERDICTS, LEARNT = "share of images", "share of pictures", "share of raters' verdicts", "accuracy"
LOOK, PARAMETERS = "category and look", "share of parameters"


class Case(NamedTuple):
    """A row as an evaluation has it."""

    labels: dict[str, str]
    """What it is told by; where no row has a word for one, that is left out."""
    figures: dict[str, tuple[str, Any]]
    """Column -> its unit, and a number, (mean, low, high), or None."""


def keep(
    runs: Sequence[str], title: str, measured: str, hardware: str | None = None, *, by_count: bool = False
) -> Kept:
    """The figures of RUN, or of several, each LABEL=RUN, in a table; `hardware` is for runs that have not recorded it.
    With `by_count`, those of `evaluate entities` by how many training images there are of an entity.

    Raises `UserError` where a run has no complete results, or they are of another kind than those of the first.
    """
    require(bool(runs), "no run is given: name the folder of an evaluation, or the file that it has left")
    named = [_named(run, alone=len(runs) == 1) for run in runs]
    cases: list[Case] = []
    made, kind = [], ""
    for label, path in named:
        results, file = _results(path)
        kind, first = _kind(results, file), kind
        require(
            not by_count or "by_count" in results,
            f"{file} has no figures by training images: `reimagen evaluate entities` leaves them",
        )
        require(first in ("", kind), f"{file} is of `reimagen {kind}`, {named[0][1]} of `reimagen {first}`: keep each")
        try:
            found = [_rounded(case) for case in (_by_count if by_count else READERS[kind])(results)]
            made.append(_made(results, file, hardware, label))
        except (LookupError, TypeError, ValueError, AttributeError, OverflowError) as error:
            said = f"{type(error).__name__} {error}"
            raise UserError(f"{file} is not as `reimagen {kind}` leaves it ({said}): give the command again") from error
        cases += [Case({"of": label, **case.labels}, case.figures) for case in found]
    require(bool(cases), f"{', '.join(runs)}: there are no figures")
    labels = [name for name in dict.fromkeys(n for case in cases for n in case.labels) if _anywhere(name, cases)]
    units = {name: unit for case in cases for name, (unit, _) in case.figures.items()}
    rows = [
        Row(
            tuple(case.labels.get(label, "") for label in labels),
            {name: value for name, (_, value) in case.figures.items() if value is not None},
        )
        for case in cases
    ]
    columns = tuple(Column(name, unit, 0) if unit == COUNTED else Column(name, unit) for name, unit in units.items())
    told = {"title": title, "measured": measured, "labels": labels}
    lines = {
        name: [asdict(each) for each in values]
        for name, values in (("columns", columns), ("rows", rows), ("made", made))
    }
    return parse(Kept, {"format": FORMAT, **told, **lines}, ", ".join(runs))


def _anywhere(label: str, cases: Sequence[Case]) -> bool:
    return any(case.labels.get(label) for case in cases)


def _named(run: str, alone: bool) -> tuple[str, Path]:
    label, equals, path = run.partition("=")
    if equals and label and path:
        return label, Path(path)
    require(alone, f"{run} is not LABEL=RUN: of several runs each needs a label, by which its rows are told")
    return "", Path(run)


def _results(path: Path) -> tuple[dict[str, Any], Path]:
    """The results' JSON, and the file that it is from."""
    there = [path / name for name in FILES if (path / name).is_file()]
    require(bool(there) or not path.is_dir(), f"{path} has neither {' nor '.join(FILES)}: it is no evaluation's folder")
    file = there[0] if there else path
    results = read_json(file, "the results of an evaluation")
    named = isinstance(results, dict) and isinstance(results.get("command"), str)
    require(named, f"{file} does not tell the command that it is from: it is no evaluation's results")
    require(results.get("complete", True) is True, f"{file} is not complete: give the command again, it goes on")
    return results, file


def _kind(results: Mapping[str, Any], file: Path) -> str:
    """Which command they are of."""
    words = results["command"].removeprefix("reimagen ")
    kind = next((kind for kind in READERS if words == kind or words.startswith(f"{kind} ")), None)
    if kind is None:
        raise UserError(f"{file} is of `{results['command'][:60]}`: what can be kept is of {', '.join(READERS)}")
    return kind


def _made(results: Mapping[str, Any], file: Path, hardware: str | None, label: str) -> Made:
    versions = results.get("versions", {})
    typed = re.search(r"--seed (\d+)", results["command"])
    seed = results.get("seed", results.get("sampler", {}).get("seed", typed and typed[1]))
    by = re.fullmatch(r"reimagen_jax (\S+)", results.get("made_by", ""))
    return Made(
        command=results["command"].replace(f"{Path.cwd()}/", ""),
        seed=int(seed) if isinstance(seed, str) else seed,
        hardware=versions.get("hardware") or hardware or versions.get("device"),
        commit=versions.get("commit"),
        version=versions.get("reimagen_jax", by and by[1]),
        date=datetime.fromtimestamp(file.stat().st_mtime, UTC).date().isoformat(),
        rows=label,
    )


def other_prompts(runs: Sequence[str]) -> list[str]:
    """The runs, of several, that have drawn other prompts of a split than the first that has drawn it: their rows are
    not of the same."""
    first: dict[str, Any] = {}
    apart = []
    for run in runs:
        path = _named(run, alone=len(runs) == 1)[1] / PROMPTS
        asked = read_json(path, "the prompts of an evaluation") if path.is_file() else {}
        if any(first.setdefault(split, prompts) != prompts for split, prompts in asked.items()):
            apart.append(run)
    return apart


def places(made: Made) -> list[str]:
    """Paths of this machine that its command names."""
    try:
        words = shlex.split(made.command)
    except ValueError:  # a quote without its other one
        words = made.command.split()
    return [word for word in words if re.search(r"(^|=)[/~]", word)]


def _rounded(case: Case) -> Case:
    """With the figures that are kept of it. Raises `ValueError` or `TypeError` for what is none."""
    return Case(case.labels, {name: (unit, _figure(name, value)) for name, (unit, value) in case.figures.items()})


def _figure(name: str, value: Any) -> Value | None:
    if value is None:
        return None
    numbers = value if isinstance(value, list | tuple) else [value]
    for number in numbers:
        if isinstance(number, bool) or not isinstance(number, int | float) or not math.isfinite(number):
            raise ValueError(f"{name} is {number!r}, no finite number")
    if len(numbers) not in (1, 3):
        raise ValueError(f"{name} is {len(numbers)} numbers")
    rounded = tuple(float(f"{number:.{SIGNIFICANT}g}") for number in numbers)
    return rounded if len(rounded) == 3 else rounded[0]


def _entities(results: Mapping[str, Any]) -> Iterator[Case]:
    images = max(row["images_per_prompt"] for row in results["rows"])
    shares = {"faithfulness": "faithful", "alignment": "aligned", "both": "both"}
    for row in results["rows"]:
        setting = {"k": str(row["k"]), "eta": f"{row['eta']:g}"} if row["k"] else {}
        figures = {word: (IMAGES, row[name]) for name, word in shares.items()}
        figures |= {LOOK: (PARAMETERS, row["look_right"])} if "look_right" in row else {}
        figures |= {best_of(images): ("share of prompts", row["best_both"])} if images > 1 else {}
        yield Case({"entities": row["split"], "neighbours": row["source"], **setting}, figures)


def _by_count(results: Mapping[str, Any]) -> Iterator[Case]:
    """EntityDrawBench again, by training images of the entity."""
    for row in results["by_count"]:
        setting = {"k": str(row["k"]), "eta": f"{row['eta']:g}"} if row["k"] else {}
        figures: dict[str, tuple[str, Any]] = {"faithful": (IMAGES, row["faithfulness"]), "both": (IMAGES, row["both"])}
        figures["prompts"] = (COUNTED, row["prompts"])
        yield Case({"training images": counted(row["images"]), "neighbours": row["source"], **setting}, figures)


def _answers(results: Mapping[str, Any]) -> Iterator[Case]:
    """The four ways, and all answers, of which it is told besides what is both."""
    shares = {"faithfulness": "faithful", "alignment": "aligned", "both": "both"}
    for row in results["rows"]:
        figures = {word: (IMAGES, row[name]) for name, word in shares.items() if name in row}
        figures[LOOK] = (PARAMETERS, row["look right"])
        cost = {"s an image": ("s", row["seconds"]), "temporaries, MiB": ("MiB", row["MiB"])}
        yield Case({"entities": row["split"], "drawn by": row["drawn by"]}, figures | cost)


def _pictures(results: Mapping[str, Any]) -> Iterator[Case]:
    told = {name: judge["field"] for name, judge in results["judges"].items()}
    for row in results["rows"]:
        measured = {name: value for name, value in row.items() if name not in ("arm", "group", "prompts")}
        figures = {
            told.get(name, name): (name if name in DISTANCES else PICTURES, value) for name, value in measured.items()
        }
        yield Case({"drawn": row["arm"], "prompts": row["group"]}, figures)


def _few(results: Mapping[str, Any]) -> Iterator[Case]:
    """Few shots, and the long tail, which has no ways and shots."""
    for row in results["rows"]:
        long_tail = row["shots"] is None
        setting = {} if long_tail else {"ways": str(row["ways"] or "all"), "shots": str(row["shots"])}
        of = {name: "accuracy" if name == "all" else f"of {name}" for name in row["accuracy"]}
        figures: dict[str, tuple[str, Any]] = {of[name]: (LEARNT, value) for name, value in row["accuracy"].items()}
        figures["difference to none"] = (f"difference of {LEARNT}", row["difference"].get("all"))
        yield Case({"learner": row["learner"], **setting, "filled up with": row["arm"]}, figures)


def _distances(results: Mapping[str, Any]) -> Iterator[Case]:
    """The figures of two sets, or of one."""
    sets = {title: results[title]["path"] for title in ("pictures", "reference") if title in results}
    names = {title: Path(path).name for title, path in sets.items()}
    yield Case(names | {"features": results["features"]}, _told(results["figures"]))


def _protocol(results: Mapping[str, Any]) -> Iterator[Case]:
    """A protocol's figures with each database."""
    count, drawn = f"{results['captions']['count']:,}", results["captions"]["drawn"]
    common = {"set": Path(results["set"]["path"]).name, "captions": f"{count} {drawn}", "features": results["features"]}
    for row in results["rows"]:
        reference = {"reference": Path(results["reference"]).name}
        yield Case({"database": row["database"], **common, **reference}, _told(row["figures"]))


def _told(figures: Sequence[Mapping[str, Any]]) -> dict[str, tuple[str, Any]]:
    """Figures of sets, each of a unit of its own."""
    names = [each["name"] for each in figures]
    if len(set(names)) < len(names):
        raise ValueError("two figures have one name")
    return {
        each["name"]: (
            each["name"],
            each["value"] if each["low"] is None else Interval(each["value"], each["low"], each["high"]),
        )
        for each in figures
    }


def _ratings(results: Mapping[str, Any]) -> Iterator[Case]:
    for row in results["rows"]:
        counted = ("by", "group", "system", "prompts", "ratings")
        figures = {name: (VERDICTS, value) for name, value in row.items() if name not in counted}
        yield Case({"prompts": row["group"], "system": row["system"]}, figures)


def _sweep(results: Mapping[str, Any]) -> Iterator[Case]:
    """A grid's points, or a strip's etas."""
    require("unrated" not in results, f"the sweep has no figures to keep: {results.get('unrated')}")
    if "points" in results:
        for point in results["points"]:
            shares = {name: point[name] for name in ("faithful", "aligned", "both") if name in point}
            cost = {"evaluations": ("evaluations of the network", point["evaluations"])}
            yield Case({name: str(value) for name, value in point["values"].items()}, _shares(shares) | cost)
        return
    curves = results["curves"]
    yield Case({"neighbours": "none"}, _shares({name: each["no_neighbours"] for name, each in curves.items()}))
    for i, eta in enumerate(results["etas"]):
        shares = {name: each["over_eta"][i] for name, each in curves.items()}
        yield Case({"neighbours": "retrieved", "eta": f"{eta:g}"}, _shares(shares))


def _shares(told: Mapping[str, Mapping[str, float]]) -> dict[str, tuple[str, Any]]:
    return {name: (IMAGES, Interval(**share)) for name, share in told.items()}


READERS: dict[str, Callable[[Mapping[str, Any]], Iterator[Case]]] = {
    "evaluate entities": _entities,
    "evaluate seedselect": _answers,
    "evaluate answers": _answers,
    "evaluate pictures": _pictures,
    "evaluate fewshot": _few,
    "evaluate longtail": _few,
    "evaluate coco": _protocol,
    "evaluate wiki": _protocol,
    "evaluate fid": _distances,
    "evaluate drawn": _distances,
    "evaluate scores": _distances,
    "rate results": _ratings,
    "sweep": _sweep,
}
"""Command -> reader of its results."""
