"""Grids of images as one picture: contact sheets and labelled grids.

Small images are enlarged by whole factors without smoothing, so that their pixels can be seen; large ones are shrunk.
"""

from collections.abc import Sequence

import numpy as np
from PIL import Image

from reimagen_jax.reports.drawing import (
    FAINT,
    GAP,
    MARGIN,
    Struck,
    beside,
    cell,
    cell_side,
    font,
    framed,
    placed,
    stack,
    words,
)

LABEL_WIDTH = 260


def contact_sheet(images: Sequence[np.ndarray], num_columns: int | None = None, side: int = 128) -> Image.Image:
    """Images, uint8 [R, R, 3] each, in rows of `num_columns` (default: nearly a square), without words."""
    num_columns = num_columns or int(np.ceil(np.sqrt(len(images))))
    rows = [list(images[i : i + num_columns]) for i in range(0, len(images), num_columns)]
    return labelled_grid(rows, side=side)


def labelled_grid(
    rows: Sequence[Sequence[np.ndarray | Struck | str | None]],
    row_labels: Sequence[str] = (),
    column_labels: Sequence[str] = (),
    side: int = 96,
    note: str = "",
) -> Image.Image:
    """Rows of images, uint8 [R, R, 3] each (words in its place; None: an empty one), with words left of rows, above
    columns, and below all."""
    shown = (image for row in rows for image in row if isinstance(image, np.ndarray))
    resolution = next((image.shape[0] for image in shown), side)
    side = cell_side(resolution, side)
    lines = [beside([cell(image, side) for image in row], GAP) for row in rows]
    if column_labels:
        heads = [words(label, font(12), side, 6, FAINT) for label in column_labels]
        top = max(head.height for head in heads)
        lines.insert(0, beside([placed(head, side, top, down=1.0) for head in heads], GAP))
    if row_labels:
        labels = [words(label, font(13), LABEL_WIDTH, 4) for label in ["", *row_labels][not column_labels :]]
        left = max(label.width for label in labels) + MARGIN
        lines = [
            beside([placed(label, left, line.height, down=0.5), line])
            for label, line in zip(labels, lines, strict=True)
        ]
    if note:
        lines.append(words(note, font(11), lines[-1].width, 3, FAINT))
    return framed(stack(lines, GAP), MARGIN)
