"""What EntityDrawBench drew, to look at: for each split a grid of its first prompts in every arm.

The images come from the strips that are kept, so that the grid of a run that was stopped and went on is whole.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from reimagen_jax.evaluation.entities.arms import TRUTH, Arm
from reimagen_jax.evaluation.entities.bench import EntityBench
from reimagen_jax.evaluation.entities.store import SHOWN, read_strip, strip
from reimagen_jax.reports.grids import labelled_grid

SIDE = 96
"""Of a cell, in pixels, about."""


def picture(bench: EntityBench, arms: Sequence[Arm], folder: Path) -> Image.Image:
    """One split's prompts, a row each: the neighbours found, the image to enlarge if any, then every arm's image.

    `folder` holds the strips of the arms, which are all of one split.
    """
    columns: dict[str, list[np.ndarray | None]] = {}
    retrieved = max((c for c in arms if c.source == "retrieval"), key=lambda c: c.k, default=None)
    if retrieved is not None:
        found = bench.neighbours(retrieved)[:SHOWN]
        for j in range(retrieved.k):
            columns[f"neighbour {j + 1}"] = [hits[j].image if j < len(hits) else None for hits in found]
    requests = bench.requests(arms[0])[:: bench.num_images][:SHOWN]
    if requests[0].start is not None:
        factor = bench.pipeline.config.system.resolution // requests[0].start.shape[0]
        columns["to enlarge"] = [each.start.repeat(factor, 0).repeat(factor, 1) for each in requests]
    for arm in arms:
        columns[_heading(arm)] = list(read_strip(strip(bench, arm, folder)))
    rows = [[images[i] for images in columns.values()] for i in range(len(requests))]
    return labelled_grid(rows, [each.prompt for each in requests], list(columns), side=SIDE)


def _heading(arm: Arm) -> str:
    if arm.source == TRUTH:
        return "as it should be"
    if not arm.k:
        return "no neighbours"
    return f"{arm.source}, k={arm.k}, η={arm.eta:g}"
