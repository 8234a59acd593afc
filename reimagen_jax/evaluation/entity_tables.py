"""Tables and plots of a run of EntityDrawBench: a row for every condition, means with 95 % intervals.

The headline is the mean over images. As in the paper, the best of a prompt's images is reported too: with S images of a
prompt, whether any is faithful, any is aligned, any is both.
"""

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from reimagen_jax.data.entityworld import describe_look, describe_scene
from reimagen_jax.evaluation import plots
from reimagen_jax.evaluation.entity_bench import TRUTH, Condition, Outcome
from reimagen_jax.evaluation.entity_prompts import EntityPrompt
from reimagen_jax.evaluation.rater_check import accuracies, lowest
from reimagen_jax.evaluation.statistics import Interval, difference_ci, mean_ci, paired_difference_ci
from reimagen_jax.files import write_json, write_text

Outcomes = Mapping[Condition, Outcome]
MEASURES = ("faithfulness", "alignment", "both", "best_faithfulness", "best_alignment", "best_both", "copied")
BEST_HEADS = ("best: faithful", "best: aligned")


def row(condition: Condition, outcome: Outcome) -> dict[str, Any]:
    """One condition as JSON types; shares are `Interval`s.

    "both" is faithful and aligned at once; "copied" shows the entity of the first neighbour, whoever that is; "found"
    is the share of the neighbours that show the prompt's entity.
    """
    faithful, aligned = outcome.faithful_NS, outcome.aligned_NS
    both = faithful & aligned
    N, S = faithful.shape
    return {
        "split": condition.split,
        "source": condition.source,
        "k": condition.k,
        "eta": condition.eta,
        "prompts": N,
        "images_per_prompt": S,
        "faithfulness": mean_ci(faithful),
        "alignment": mean_ci(aligned),
        "both": mean_ci(both),
        "best_faithfulness": mean_ci(faithful.any(axis=1)),
        "best_alignment": mean_ci(aligned.any(axis=1)),
        "best_both": mean_ci(both.any(axis=1)),
        "copied": mean_ci(outcome.copied_NS),
        "found": float(np.mean(outcome.found_N)),
        "seconds": round(outcome.seconds, 1),
        "parameters": accuracies(outcome.category_N, outcome.look_right_NSP, outcome.scene_right_NSA, outcome.told_NA),
    }


def comparisons(outcomes: Outcomes, k: int, eta: float) -> list[dict[str, Any]]:
    """What the benchmark asks: retrieval minus none on each split, and, with retrieval, frequent minus the others.

    The first is over the same prompts (paired), the second is not.
    """
    found = []
    retrieved = {c.split: o for c, o in outcomes.items() if c == Condition(c.split, "retrieval", k, eta)}
    without = {c.split: o for c, o in outcomes.items() if c.source == "none"}
    for split in retrieved.keys() & without.keys():
        difference = paired_difference_ci(retrieved[split].faithful_NS, without[split].faithful_NS)
        found.append({"what": f"faithfulness, {split}: retrieval minus none", "difference": difference})
    if "frequent" in retrieved:
        for split in retrieved.keys() - {"frequent"}:
            difference = difference_ci(retrieved["frequent"].faithful_NS, retrieved[split].faithful_NS)
            found.append({"what": f"faithfulness with retrieval: frequent minus {split}", "difference": difference})
    return sorted(found, key=lambda entry: entry["what"])


def heading(several: bool) -> str:
    """The line above those of `line`; `several` is whether prompts have more than one image."""
    return _line("split", "neighbours", "k", "eta", "faithful", "aligned", *BEST_HEADS[: several * 2]).rstrip()


def line(entry: Mapping[str, Any]) -> str:
    """A row for the terminal: faithfulness, alignment; and the best of a prompt's images where there are several."""
    shares = ["faithfulness", "alignment"]
    shares += ["best_faithfulness", "best_alignment"] if entry["images_per_prompt"] > 1 else []
    setting = (str(entry["k"]), f"{entry['eta']:g}") if entry["k"] else ("", "")
    return _line(entry["split"], entry["source"], *setting, *(str(Interval(*entry[name])) for name in shares)).rstrip()


def _line(split: str, source: str, k: str, eta: str, *shares: str) -> str:
    return f"{split:<9} {source:<12} {k:<2} {eta:<4} " + " ".join(f"{share:<20}" for share in shares)


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
    """results.csv, a line for each condition, and parameters.csv, a line for each condition and parameter."""
    conditions = ("split", "source", "k", "eta")
    counts = ("prompts", "images_per_prompt")
    rater = {
        "rater_lowest_accuracy": lowest(metrics)[1],
        "rater_ceiling_faithfulness": metrics["faithful"][0],
        "rater_ceiling_alignment": metrics["aligned"][0],
    }
    results, parameters = [], []
    for entry in rows:
        named = {name: entry[name] for name in conditions}
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


def write_plots(
    rows: Sequence[Mapping[str, Any]], metrics: Mapping[str, Any], k: int, eta: float, folder: Path
) -> None:
    """faithfulness.png and alignment.png (bars by source), and, where they were swept, eta.png and k.png."""
    ceilings = {"faithfulness": metrics["faithful"][0], "alignment": metrics["aligned"][0]}
    for measure, ceiling in ceilings.items():
        _plot_sources(rows, measure, ceiling, k, eta, folder)
    etas = [entry for entry in rows if entry["source"] == "retrieval" and entry["k"] == k]
    _plot_sweep(etas, "eta", f"Retrieval, k = {k}", "η: share of text-enhanced steps", ceilings, folder)
    ks = [entry for entry in rows if entry["source"] == "retrieval" and entry["eta"] == eta]
    none = [entry for entry in rows if entry["source"] == "none" and entry["split"] in {e["split"] for e in ks}]
    _plot_sweep(none + ks, "k", f"Retrieval, η = {eta:g}", "k: neighbours", ceilings, folder)


def _plot_sources(
    rows: Sequence[Mapping[str, Any]], measure: str, ceiling: float, k: int, eta: float, folder: Path
) -> None:
    shown = [entry for entry in rows if entry["source"] != TRUTH and (entry["k"], entry["eta"]) in ((k, eta), (0, 1.0))]
    if not shown:
        return
    found = {(entry["split"], entry["source"]): entry[measure] for entry in shown}
    splits = list(dict.fromkeys(split for split, _ in found))
    sources = dict.fromkeys(source for _, source in found)
    values = {source: [found.get((split, source)) for split in splits] for source in sources}
    figure = plots.bars(
        splits,
        values,
        y_label=measure,
        title=f"{measure.capitalize()} by source of the neighbours, k = {k}, η = {eta:g}",
        levels={"rater's ceiling": ceiling},
    )
    plots.save(figure, folder / f"{measure}.png")


def _plot_sweep(
    rows: Sequence[Mapping[str, Any]], over: str, title: str, label: str, ceilings: Mapping[str, float], folder: Path
) -> None:
    """Both measures over eta or k, for the splits that have more than two points."""
    lines = []
    for split in dict.fromkeys(entry["split"] for entry in rows):
        points = sorted((entry for entry in rows if entry["split"] == split), key=lambda entry: entry[over])
        if len(points) > 2:
            x = [entry[over] for entry in points]
            lines += [
                plots.Curve(f"{split}: {word}", x, [entry[measure] for entry in points])
                for measure, word in (("faithfulness", "faithful"), ("alignment", "aligned"))
            ]
    if lines:
        ticks = sorted({x for line in lines for x in line.x})
        levels = {f"rater's ceiling: {measure}": ceiling for measure, ceiling in ceilings.items()}
        plots.save(plots.curves(lines, x_label=label, title=title, ticks=ticks, levels=levels), folder / f"{over}.png")
