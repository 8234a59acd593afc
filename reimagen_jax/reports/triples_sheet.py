"""Some triples as one picture (PNG): a row for each record, itself on the left, then its neighbours, with captions."""

from collections.abc import Sequence

import numpy as np
from PIL import Image

from reimagen_jax.data.images import decode
from reimagen_jax.data.records import ImageText
from reimagen_jax.data.spread import spread
from reimagen_jax.reports.drawing import FAINT, GAP, MARGIN, beside, cell, font, framed, stack, words
from reimagen_jax.reports.hits_sheet import CAPTION_LINES, COLUMN_GAP, score_text
from reimagen_jax.retrieval.triples import Triples

ROWS, COLUMNS = 12, 6
"""Records, and neighbours of each, at most."""


def triples_sheet(triples: Triples, side: int = 128) -> Image.Image:
    """Draws records that are spread evenly over all; what is not found is an empty place."""
    ids = spread(len(triples), ROWS)
    rows = [_row(triples, int(i), side) for i in ids]
    return framed(stack(rows, 2 * GAP), MARGIN)


def _row(triples: Triples, i: int, side: int) -> Image.Image:
    (record,) = triples.records.fetch([i])
    nbr_K, score_K = triples.neighbours[i, :COLUMNS], triples.scores[i, :COLUMNS]
    found = triples.knowledge_base.records.fetch(nbr_K[nbr_K >= 0])
    scores = ["drawn" if np.isnan(score) else score_text(float(score)) for score in score_K[nbr_K >= 0]]
    cells = [_shown(record, "record", side), *map(_shown, found, scores, [side] * len(found))]
    return beside([*cells, *[cell(None, side)] * (len(nbr_K) - len(found))], COLUMN_GAP)


def _shown(record: ImageText, said: str, side: int) -> Image.Image:
    lines: Sequence[Image.Image] = (
        words(said, font(13, bold=True), side, 1),
        words(record.text, font(12), side, CAPTION_LINES),
        words(record.key, font(10), side, 2, FAINT),
    )
    return stack([cell(decode(record.image), side), stack(lines)], GAP)
