"""What a benchmark run drew, to look at: for each split a grid of its first prompts under every condition.

The images shown are kept beside the ratings of their condition as one strip, so that the grid of a run that was stopped
and went on is whole.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from reimagen_jax.evaluation import entity_bench
from reimagen_jax.evaluation.entity_bench import TRUTH, Condition, EntityBench
from reimagen_jax.evaluation.grids import labelled_grid

SIDE = 96
"""Of a cell, in pixels, about."""


def picture(bench: EntityBench, conditions: Sequence[Condition], folder: Path) -> Image.Image:
    """One split's prompts, a row each: the neighbours found, the image to enlarge if any, then every condition's image.

    `folder` holds the strips of the conditions, which are all of one split.
    """
    columns: dict[str, list[np.ndarray | None]] = {}
    retrieved = max((c for c in conditions if c.source == "retrieval"), key=lambda c: c.k, default=None)
    if retrieved is not None:
        found = bench.neighbours(retrieved)[: entity_bench.SHOWN]
        for j in range(retrieved.k):
            columns[f"neighbour {j + 1}"] = [hits[j].image if j < len(hits) else None for hits in found]
    requests = bench.requests(conditions[0])[:: bench.num_images][: entity_bench.SHOWN]
    if requests[0].low_res is not None:
        factor = bench.generator.config.resolution // requests[0].low_res.shape[0]
        columns["to enlarge"] = [each.low_res.repeat(factor, 0).repeat(factor, 1) for each in requests]
    for condition in conditions:
        columns[_heading(condition)] = list(read_strip(entity_bench.strip(bench, condition, folder)))
    rows = [[images[i] for images in columns.values()] for i in range(len(requests))]
    return labelled_grid(rows, [each.prompt for each in requests], list(columns), side=SIDE)


def read_strip(path: Path) -> UInt8[np.ndarray, "n r r 3"]:
    """The images of a strip, in order."""
    with Image.open(path) as strip:
        image = np.asarray(strip.convert("RGB"))
    return np.stack(np.split(image, image.shape[1] // image.shape[0], axis=1))


def _heading(condition: Condition) -> str:
    if condition.source == TRUTH:
        return "as it should be"
    if not condition.k:
        return "no neighbours"
    return f"{condition.source}, k {condition.k}, η {condition.eta:g}"
