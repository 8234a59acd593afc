"""The demonstration's result, for a terminal and for people in a hurry."""

from collections.abc import Sequence

from reimagen_jax.evaluation.demonstration import BALANCE, ETAS
from reimagen_jax.evaluation.ratings import Ratings, Row
from reimagen_jax.reports.words import say


def table_as_text(rows: Sequence[Row], names: Sequence[str]) -> str:
    """The table for a terminal; `names` are those of the shares."""
    lines = [["", *names, "images"], *([row.name, *map(say, row.shares), f"{row.images:,}"] for row in rows)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    padded = ("  ".join(word.ljust(width) for word, width in zip(line, widths, strict=True)) for line in lines)
    return "\n".join(line.rstrip() for line in padded)


def in_words(unseen: Ratings) -> str:
    """The result in a sentence."""
    faithful_PC = unseen.verdict_VPSC[0, :, 0]
    retrieved, without = faithful_PC[:, 1 + ETAS.index(BALANCE)].sum(), faithful_PC[:, 0].sum()
    return (
        f"Asked for {len(faithful_PC)} entities that were absent from its training data, the model draws {retrieved} "
        f"of them right when it retrieves images of them (η {BALANCE:g}), and {without} when it does not."
    )
