"""Numbers in words, and tables of them."""

import math
import re
from collections.abc import Sequence

from reimagen_jax.evaluation.statistics import Interval
from reimagen_jax.systems.request import Neighbour


def say(share: Interval) -> str:
    """A share with its interval."""
    return f"{share.mean:.2f} ({share.low:.2f} to {share.high:.2f})"


def escaped(text: str) -> str:
    """A line of plain text as Markdown shows it: what would be a mark is none."""
    return re.sub(r"[\\`*<\[]", r"\\\g<0>", text)


def table(rows: Sequence[Sequence[str]]) -> list[str]:
    """The lines of a table in Markdown; the first row is its head."""
    return [f"| {' | '.join(row)} |" for row in (rows[0], ["---"] * len(rows[0]), *rows[1:])]


def origin(hit: Neighbour) -> str:
    """Where a neighbour comes from: its score, or a person."""
    return "given by hand" if math.isnan(hit.score) else f"score {hit.score:.1f}"
