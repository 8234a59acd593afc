"""The picture that is drawn as training goes on: a few examples, and what the averaged parameters make of them."""

from collections.abc import Callable, Iterable
from pathlib import Path

import jax
import numpy as np

from reimagen_jax.data import images
from reimagen_jax.diffusion.sampler import image_keys
from reimagen_jax.reports.grids import labelled_grid
from reimagen_jax.systems import finite
from reimagen_jax.systems.base import Batch, Feed, Inputs, Params, System
from reimagen_jax.training import distributed, telemetry


def preview_hook(
    system: System, feed: Feed, dataset: Iterable[Batch], folder: str | Path
) -> Callable[[int, Params], Path] | None:
    """The hook that the training loop calls as `on_sample(step, ema_params)`: it draws, saves, returns the path.

    The picture's columns are the first `train.sample_images` examples of the data's first batch, always from the same
    noise; its rows those of the feed's preview. Files are `folder/<step>.png`. An image that is not finite leaves its
    place empty, and is told of: a picture ends no training. None where no samples are wanted, and for a system that
    draws no images.
    """
    train = feed.config.train
    if not train.sample_every or not train.sample_images:
        return None
    examples = jax.tree.map(lambda leaf: np.asarray(leaf)[: train.sample_images], next(iter(dataset)))
    # Each process has its own share of the data, and all draw one picture.
    preview = feed.preview(distributed.from_first_process(examples))
    if preview is None:
        return None

    @jax.jit
    @finite.watched
    def draw(params: Params, inputs: Inputs) -> jax.Array:
        keys = image_keys(train.seed, range(len(preview.captions)))
        return system.sample(params, inputs, keys, system.settings)

    def hook(step: int, ema_params: Params) -> Path:
        rows = dict(preview.shown)
        for name, inputs in preview.drawn.items():
            note, drawn = jax.tree.map(distributed.whole, draw(ema_params, inputs))
            broken_B = finite.broken(note, len(drawn))
            rows[name] = [
                None if broken else image for broken, image in zip(broken_B, images.rounded(drawn), strict=True)
            ]
            if broken_B.any():
                telemetry.say(
                    f"step {step}, preview {name}: {broken_B.sum()} of {len(drawn)} images are not finite and are left "
                    "out; the average of the parameters draws them, the training itself goes on"
                )
        path = Path(folder) / f"{step:08d}.png"
        if jax.process_index() == 0:
            path.parent.mkdir(parents=True, exist_ok=True)
            labelled_grid(list(rows.values()), list(rows), preview.captions).save(path)
        return path

    return hook
