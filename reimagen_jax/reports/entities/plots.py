"""EntityDrawBench's rows as plots: bars by source of the neighbours, curves over eta and over their number."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from reimagen_jax.evaluation.entities.arms import TRUTH
from reimagen_jax.evaluation.entities.tables import best_of
from reimagen_jax.evaluation.statistics import Curve
from reimagen_jax.reports import figures, plots
from reimagen_jax.reports.entities.tables import counted


def write(rows: Sequence[Mapping[str, Any]], metrics: Mapping[str, Any], k: int, eta: float, folder: Path) -> None:
    """Bars by source, faithfulness.png, alignment.png, both.png and, with several images of a prompt, best.png; and,
    where they were swept, eta.png and k.png."""
    ceilings = {"faithfulness": metrics["faithful"][0], "alignment": metrics["aligned"][0]}
    images = max((entry["images_per_prompt"] for entry in rows), default=1)
    words = {"faithfulness": "faithfulness", "alignment": "alignment", "both": "both"}
    words |= {"best_both": best_of(images)} if images > 1 else {}
    for measure, word in words.items():
        _plot_sources(rows, measure, word, ceilings.get(measure), k, eta, folder)
    etas = [entry for entry in rows if entry["source"] == "retrieval" and entry["k"] == k]
    _plot_sweep(etas, "eta", f"Retrieval, k = {k}", "η: share of text-enhanced steps", ceilings, folder)
    ks = [entry for entry in rows if entry["source"] == "retrieval" and entry["eta"] == eta]
    none = [entry for entry in rows if entry["source"] == "none" and entry["split"] in {e["split"] for e in ks}]
    _plot_sweep(none + ks, "k", f"Retrieval, η = {eta:g}", "k: neighbours", ceilings, folder)


def write_counts(rows: Sequence[Mapping[str, Any]], k: int, eta: float, folder: Path) -> None:
    """count.png: faithfulness by how often the entity was seen in training, at k and eta; none where all were seen as
    often."""
    shown = [entry for entry in rows if (entry["k"], entry["eta"]) in ((k, eta), (0, 1.0))]
    groups = list(dict.fromkeys(tuple(entry["images"]) for entry in shown))
    if len(groups) < 2:
        return
    found = {(tuple(entry["images"]), entry["source"]): entry["faithfulness"] for entry in shown}
    sources = dict.fromkeys(source for _, source in found)
    figure = plots.bars(
        [counted(group) for group in groups],
        {source: [found.get((group, source)) for group in groups] for source in sources},
        y_label="faithfulness",
        title="Faithfulness by training images of the entity",
    )
    figures.save(figure, folder / "count.png")


def _plot_sources(
    rows: Sequence[Mapping[str, Any]], measure: str, word: str, ceiling: float | None, k: int, eta: float, folder: Path
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
        y_label=word,
        title=f"{word.capitalize()} by source of the neighbours, k = {k}, η = {eta:g}",
        levels={} if ceiling is None else {"rater's ceiling": ceiling},
    )
    figures.save(figure, folder / f"{measure.removesuffix('_both')}.png")


def _plot_sweep(
    rows: Sequence[Mapping[str, Any]], over: str, title: str, label: str, ceilings: Mapping[str, float], folder: Path
) -> None:
    """Both measures over eta or k, for the splits that have more than two points."""
    lines = []
    for split in dict.fromkeys(entry["split"] for entry in rows):
        points = sorted((entry for entry in rows if entry["split"] == split), key=lambda entry: entry[over])
        if len(points) > 2:
            x = tuple(entry[over] for entry in points)
            lines += [
                Curve(f"{split}: {word}", x, tuple(entry[measure] for entry in points))
                for measure, word in (("faithfulness", "faithful"), ("alignment", "aligned"))
            ]
    if lines:
        ticks = sorted({x for line in lines for x in line.x})
        levels = {f"rater's ceiling: {measure}": ceiling for measure, ceiling in ceilings.items()}
        figures.save(
            plots.curves(lines, x_label=label, title=title, ticks=ticks, levels=levels), folder / f"{over}.png"
        )
