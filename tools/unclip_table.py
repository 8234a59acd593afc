"""Runs of `reimagen evaluate entities` as one table: unCLIP with its prior, with references' embeddings, with the
text's own, beside a Re-Imagen.

    reimagen evaluate entities --model runs/prior --cascade runs/decoder --conditions none --out runs/with_prior ...
    reimagen evaluate entities --model runs/decoder --conditions retrieval own --k 2 --out runs/with_references ...
    reimagen evaluate entities --model runs/decoder --embedding text --conditions none --out runs/with_text ...
    reimagen evaluate entities --model shipped --conditions retrieval none --k 2 --out runs/re_imagen ...
    python tools/unclip_table.py "unCLIP, prior"=runs/with_prior "unCLIP, references"=runs/with_references \\
        "unCLIP, text"=runs/with_text Re-Imagen=runs/re_imagen

All are to be of the same prompts. Prints shares with 95 % intervals, and how many times as often as in the first run's
row of the split entities are drawn faithfully.
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro

from reimagen_jax.cli import status_of
from reimagen_jax.errors import require
from reimagen_jax.evaluation.entities.arms import TRUTH
from reimagen_jax.evaluation.statistics import Interval
from reimagen_jax.files import read_json
from reimagen_jax.reports.words import table as markdown

MEASURES = ("faithfulness", "alignment", "both")


def rows_of(runs: Sequence[str]) -> list[dict[str, Any]]:
    """The rows of LABEL=FOLDER, each with its label. Raises `UserError` where runs are of other prompts."""
    rows, asked = [], None
    for run in runs:
        label, equals, folder = run.partition("=")
        require(bool(label and equals and folder), f"{run!r} is no LABEL=FOLDER")
        results = read_json(Path(folder) / "results.json", "the results of an evaluation")
        prompts = (
            {row["split"]: row["prompts"] for row in results["rows"]},
            read_json(Path(folder) / "prompts.json", "the prompts of an evaluation"),
        )
        asked = prompts if asked is None else asked
        require(prompts == asked, f"{folder} is of other prompts than {runs[0].partition('=')[2]}: draw the same")
        rows += [{"label": label, **row} for row in results["rows"]]
    true = next((row for row in rows if row["source"] == TRUTH), None)
    return [row for row in rows if row["source"] != TRUTH or row["label"] == true["label"]]


def table(rows: Sequence[dict[str, Any]]) -> list[str]:
    """The lines of a table in Markdown."""
    firsts: dict[str, float] = {}
    for row in rows:
        if row["source"] != TRUTH:
            firsts.setdefault(row["split"], row["faithfulness"][0])
    head = ["drawn by", "split", "neighbours", "k", "faithful", "aligned", "both", "times as faithful"]
    lines = []
    for row in rows:
        first = firsts.get(row["split"], 0.0)
        times = f"{row['faithfulness'][0] / first:.1f}" if first and row["source"] != TRUTH else "-"
        shares = [str(Interval(*row[name])) for name in MEASURES]
        lines.append([row["label"], row["split"], row["source"], str(row["k"] or ""), *shares, times])
    return markdown([head, *lines])


@dataclass(frozen=True)
class UnclipTable:
    """Print runs of `reimagen evaluate entities` as one table."""

    runs: Annotated[tuple[str, ...], tyro.conf.Positional, tyro.conf.arg(metavar="LABEL=FOLDER ...")]
    """The runs, each with what it is to be called."""

    def run(self) -> None:
        """Reads and prints."""
        require(bool(self.runs), "name runs, LABEL=FOLDER each")
        print("\n".join(table(rows_of(self.runs))))


if __name__ == "__main__":
    sys.exit(status_of(tyro.cli(UnclipTable, description=__doc__).run))
