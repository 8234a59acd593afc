"""The picture that is drawn as training goes on: a few examples, and what the averaged parameters make of them."""

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import jax
import numpy as np

from reimagen_jax import stores
from reimagen_jax.data import images
from reimagen_jax.inference.examples import Draw, draw_all, drawing, held_out
from reimagen_jax.reports.drawing import Struck
from reimagen_jax.reports.grids import labelled_grid
from reimagen_jax.systems.base import Batch, Feed, Params, System
from reimagen_jax.training import distributed, telemetry

ABSENT = "none found"
CROSSED = "crossed out: found, but too little alike what is asked for, and not shown to the model"


def preview_hook(
    system: System, feed: Feed, dataset: Iterable[Batch], folder: str | Path, draw: Draw | None = None
) -> Callable[[int, Params], Path] | None:
    """The hook that the training loop calls as `on_sample(step, ema_params)`: it draws, saves, returns the path.

    The picture shows `train.sample_images` examples, always from the same noise: held-out ones where the feed holds any
    out, a row each with its caption; else the first of the data's first batch, a column each. Beside them is what the
    feed's preview has. Files are `folder/<step>.png`. An image that is not finite leaves its place empty, and is told
    of: a picture ends no training. None where no samples are wanted, and for a system that draws no images.
    """
    train = feed.config.train
    if not train.sample_every or not train.sample_images:
        return None
    examples = held_out(feed, train.sample_images)
    watched = examples is not None
    if not watched:
        examples = jax.tree.map(lambda leaf: np.asarray(leaf)[: train.sample_images], next(iter(dataset)))
        # Each process has its own share of the data, and all draw one picture.
        examples = distributed.from_first_process(examples)
    preview = feed.preview(examples)
    if preview is None:
        return None
    program = draw or drawing(system)

    def hook(step: int, ema_params: Params) -> Path:
        rows = {name: _told(row, preview.left_out.get(name)) if watched else row for name, row in preview.shown.items()}
        for name, inputs in preview.drawn.items():
            drawn, broken_B = draw_all(program, ema_params, inputs, train.seed, len(preview.captions))
            rows[name] = [
                None if broken else image for broken, image in zip(broken_B, images.rounded(drawn), strict=True)
            ]
            if broken_B.any():
                telemetry.say(
                    f"step {step}, preview {name}: {broken_B.sum()} of {len(drawn)} images are not finite and are left "
                    "out; the average of the parameters draws them, the training itself goes on"
                )
        path = stores.place(folder) / f"{step:08d}.png"
        if jax.process_index() == 0:
            stores.make(path.parent)
            names, captions = list(rows), preview.captions
            if watched:
                note = CROSSED if any(isinstance(each, Struck) for row in rows.values() for each in row) else ""
                grid = labelled_grid(list(zip(*rows.values(), strict=True)), captions, names, note=note)
            else:
                grid = labelled_grid(list(rows.values()), names, captions)
            with stores.told(path), path.open("wb") as file:
                grid.save(file, "PNG")
        return path

    return hook


def _told(
    row: Sequence[np.ndarray | None], left_out: Sequence[np.ndarray | None] | None
) -> list[np.ndarray | Struck | str]:
    """A row in which what is missing is told: what was left out in its place, or that nothing was found."""
    pairs = zip(row, left_out or [None] * len(row), strict=True)
    return [shown if shown is not None else ABSENT if left is None else Struck(left) for shown, left in pairs]
