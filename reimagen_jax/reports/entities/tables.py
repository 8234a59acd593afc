"""EntityDrawBench's rows as lines for the terminal and as CSV, and its prompts as JSON."""

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from reimagen_jax.data.entityworld import describe_look, describe_scene
from reimagen_jax.evaluation.entities import people
from reimagen_jax.evaluation.entities.prompts import EntityPrompt
from reimagen_jax.evaluation.entities.tables import MEASURES, PAPERS_IMAGES, best_of
from reimagen_jax.evaluation.rater_check import lowest
from reimagen_jax.evaluation.statistics import Interval
from reimagen_jax.files import write_json, write_text


def heading(images: int) -> str:
    """The line above those of `line`, of arms with so many images of a prompt."""
    best = [best_of(images)] if images > 1 else []
    return _line("split", "neighbours", "k", "eta", "faithful", "aligned", "both", *best).rstrip()


def about_measures(images: int) -> str:
    """What the columns of `line` are."""
    said = "faithful: the entity is right; aligned: what the text tells of the scene is; both: in the same image"
    if images > 1:
        return f"{said}; {best_of(images)}: both, in any of a prompt's {images} images"
    return f"{said}; the paper's headline is the best of {PAPERS_IMAGES}: --num-images {PAPERS_IMAGES}"


def line(entry: Mapping[str, Any]) -> str:
    """A row for the terminal: faithful, aligned, both; and the best of a prompt's images where there are several."""
    shares = ["faithfulness", "alignment", "both", *(["best_both"] if entry["images_per_prompt"] > 1 else [])]
    setting = (str(entry["k"]), f"{entry['eta']:g}") if entry["k"] else ("", "")
    return _line(entry["split"], entry["source"], *setting, *(str(Interval(*entry[name])) for name in shares)).rstrip()


def _line(split: str, source: str, k: str, eta: str, *shares: str) -> str:
    return f"{split:<9} {source:<12} {k:<2} {eta:<4} " + " ".join(f"{share:<20}" for share in shares)


def counted(images: Sequence[int | None]) -> str:
    """So many training images, from the first number to the second: 0, 1 to 9, ..., 1,000 and more."""
    low, high = images
    if high is None:
        return f"{low:,} and more"
    return f"{low}" if low == high else f"{low} to {high}"


def count_lines(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """A heading and the rows of `by_count`: faithful, by how often the entity was seen."""

    def put(images: str, source: str, k: str, eta: str, prompts: str, *shares: str) -> str:
        named = f"{images:<15} {source:<12} {k:<2} {eta:<4} {prompts:>7} "
        return (named + " ".join(f"{share:<20}" for share in shares)).rstrip()

    lines = [put("training images", "neighbours", "k", "eta", "prompts", "faithful", "both")]
    for entry in rows:
        setting = (str(entry["k"]), f"{entry['eta']:g}") if entry["k"] else ("", "")
        shares = (str(Interval(*entry[name])) for name in ("faithfulness", "both"))
        lines.append(put(counted(entry["images"]), entry["source"], *setting, str(entry["prompts"]), *shares))
    return lines


def judged_lines(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """A heading and the rows of what people have judged."""
    wide = max(len(row["category"]) for row in rows)
    heads = ("faithful", "aligned", "both", best_of(rows[0]["images_per_prompt"]), "realistic")

    def put(category: str, source: str, prompts: str, *shares: str) -> str:
        return f"{category:<{wide}} {source:<10} {prompts:>7} " + " ".join(f"{share:<20}" for share in shares).rstrip()

    lines = [put("", "neighbours", "prompts", *heads)]
    for row in rows:
        shares = (str(Interval(*row[measure])) for measure in people.MEASURES)
        lines.append(put(row["category"], row["source"], str(row["prompts"]), *shares))
    return lines


def about_rater(metrics: Mapping[str, Any]) -> str:
    """The rater's accuracy and ceilings in a sentence, to stand with every table."""
    name, share = lowest(metrics)
    return (
        f"rater, on {metrics['num_images']} fresh true renders: at least {share:.4f} right per parameter ({name}); "
        f"calls {Interval(*metrics['faithful'])} of them faithful, {Interval(*metrics['aligned'])} aligned"
    )


def write_prompts(prompts: Mapping[str, Sequence[EntityPrompt]], folder: Path) -> None:
    """prompts.json: for every split the texts, and what their images have to show."""
    folder.mkdir(parents=True, exist_ok=True)
    lists = {
        split: [
            {
                "text": prompt.text,
                "entity": prompt.name,
                "look": describe_look(prompt.look),
                "scene": describe_scene(prompt.scene),
                "tells": list(prompt.tells),
            }
            for prompt in some
        ]
        for split, some in prompts.items()
    }
    write_json(folder / "prompts.json", lists)


def write_csv(rows: Sequence[Mapping[str, Any]], metrics: Mapping[str, Any], folder: Path) -> None:
    """results.csv, a line for each arm, and parameters.csv, a line for each arm and parameter."""
    arm = ("split", "source", "k", "eta")
    counts = ("prompts", "images_per_prompt")
    rater = {
        "rater_lowest_accuracy": lowest(metrics)[1],
        "rater_ceiling_faithfulness": metrics["faithful"][0],
        "rater_ceiling_alignment": metrics["aligned"][0],
    }
    results, parameters = [], []
    for entry in rows:
        named = {name: entry[name] for name in arm}
        shares = {f"{m}{end}": x for m in MEASURES for end, x in zip(("", "_low", "_high"), entry[m], strict=True)}
        more = {name: entry[name] for name in ("found", "seconds")}
        results.append({**named, **{name: entry[name] for name in counts}, **shares, **more, **rater})
        for name, (mean, low, high) in entry["parameters"].items():
            accuracy = {"parameter": name, "share_right": mean, "low": low, "high": high}
            parameters.append({**named, **accuracy, "rater_accuracy": metrics["parameters"][name][0]})
    for name, lines in (("results.csv", results), ("parameters.csv", parameters)):
        text = io.StringIO()
        writer = csv.DictWriter(text, list(lines[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(lines)
        write_text(folder / name, text.getvalue())
