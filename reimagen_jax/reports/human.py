"""What people have said of systems' pictures: lines for the terminal, tables, plots."""

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from reimagen_jax.evaluation.entities.tables import best_of
from reimagen_jax.evaluation.human.results import ALL, BEST, Agreement, Results, Row, as_json, measures_of
from reimagen_jax.evaluation.human.store import Ratings
from reimagen_jax.evaluation.human.study import Study
from reimagen_jax.files import write_json, write_text
from reimagen_jax.reports import figures, plots

RESULTS, TABLE, AGREEMENT = "results.json", "results.csv", "agreement.csv"


def words(study: Study) -> dict[str, str]:
    """What the measures are called."""
    return {name: best_of(study.images_per_prompt) if name == BEST else name for name in measures_of(study)}


def about(study: Study) -> str:
    """What was rated, in a sentence."""
    if study.best_of > 1:
        return f"of the best of {study.best_of} pictures, as a rater chose it; both: photorealistic and faithful"
    return "of each picture by itself; both: photorealistic and faithful, the same picture"


def lines(study: Study, found: Results) -> list[str]:
    """Shares, differences and agreement."""
    named = words(study)
    wide = max(len(row.system) for row in found.rows)
    group = max(len(_group(row)) for row in found.rows)
    told = [about(study)]
    told.append(" ".join([f"{'':<{group}} {'system':<{wide}} prompts ratings", *(f"{w:<20}" for w in named.values())]))
    for row in found.rows:
        shares = [f"{row.shares[name]!s:<20}" if name in row.shares else f"{'':<20}" for name in named]
        told.append(
            " ".join([f"{_group(row):<{group}} {row.system:<{wide}} {row.prompts:>7} {row.ratings:>7}", *shares])
        )
    told += [f"{named[each.measure]}, {each.what}: {each.difference}" for each in found.differences]
    return [line.rstrip() for line in [*told, *map(_agreed, found.agreement)]]


def write(ratings: Ratings, found: Results, folder: Path, facts: Mapping[str, Any]) -> None:
    """results.json, results.csv, agreement.csv and plots, into an existing folder."""
    study, named = ratings.study, words(ratings.study)
    raters = [
        {"rater": rater.name, "rated": done.rated, "of": done.of, "complete": done.rated == done.of}
        for rater, done in ratings.raters()
    ]
    told = {"systems": study.systems, "best_of": study.best_of, "images_per_prompt": study.images_per_prompt}
    told |= {"prompts": len(study.prompts), "tasks": len(study), "seed": study.seed, "study": study.checksum}
    told |= {"about": about(study), "raters": raters}
    write_json(folder / RESULTS, {**facts, **told, **as_json(found)})
    rows = [
        {
            **{name: getattr(row, name) for name in ("by", "group", "system", "prompts", "ratings")},
            **{
                f"{measure}{end}": value
                for measure in named
                for end, value in zip(("", "_low", "_high"), row.shares.get(measure, ("", "", "")), strict=True)
            },
        }
        for row in found.rows
    ]
    write_text(folder / TABLE, as_csv(rows))
    write_text(
        folder / AGREEMENT,
        as_csv(
            [
                {
                    "question": each.question,
                    "raters": " and ".join(each.raters),
                    "tasks": each.tasks,
                    **{name: getattr(each, name) for name in ("agree", "alpha", "kappa")},
                }
                for each in found.agreement
            ]
        ),
    )
    _plots(study, found, folder)


def rating_lines(ratings: Ratings) -> list[dict[str, Any]]:
    """A line for each rating that stands, with all that is known of it."""
    study, told = ratings.study, []
    for rating in ratings.ratings():
        task = study.tasks[rating.task]
        prompt = study.prompts[task.prompt]
        told.append(
            {
                "rater": rating.rater,
                "place": rating.place + 1,
                "prompt": prompt.text,
                "category": prompt.category,
                "frequency": prompt.frequency,
                "system": study.systems[task.system],
                "task": rating.task,
                "pictures": " ".join(task.pictures),
                "rated_picture": rating.picture,
                "photorealism": rating.photorealism,
                "faithfulness": rating.faithfulness,
                "at": rating.at,
            }
        )
    return told


def as_csv(rows: Sequence[Mapping[str, Any]]) -> str:
    """A heading and a line for each row; what is None is left empty."""
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]) if rows else [], lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def _plots(study: Study, found: Results, folder: Path) -> None:
    """all.png; for each grouping and measure, such as category_faithfulness.png, bars of the systems."""
    named = words(study)
    of_all = {row.system: row.shares for row in found.rows if row.by == ALL}
    bars = {system: [shares.get(name) for name in named] for system, shares in of_all.items()}
    share = "share of raters' verdicts"
    figures.save(plots.bars(list(named.values()), bars, y_label=share, title="All prompts"), folder / "all.png")
    for by in dict.fromkeys(row.by for row in found.rows if row.by != ALL):
        rows = [row for row in found.rows if row.by == by]
        groups = list(dict.fromkeys(row.group for row in rows))
        for measure, word in named.items():
            at = {(row.group, row.system): row.shares.get(measure) for row in rows}
            bars = {system: [at.get((group, system)) for group in groups] for system in of_all}
            title = f"{word[:1].upper()}{word[1:]} by {by}"
            figures.save(plots.bars(groups, bars, y_label=share, title=title), folder / f"{by}_{measure}.png")


def _group(row: Row) -> str:
    return ALL if row.by == ALL else row.group


def _agreed(each: Agreement) -> str:
    who = f"{each.raters[0]} and {each.raters[1]}" if each.kappa is not None or len(each.raters) == 2 else "all raters"
    if each.agree is None:
        return f"agreement on {each.question}: no task was rated twice yet"
    told = f"agreement on {each.question}, {who}: {each.agree:.3f} of {each.tasks} tasks"
    if each.alpha is not None:
        return f"{told}, Krippendorff's alpha {each.alpha:.3f}"
    if each.kappa is not None:
        return f"{told}, Cohen's kappa {each.kappa:.3f}"
    return f"{told}; beyond chance it is not defined, all say the same"
