"""A sweep over eta: every prompt at every eta from the same noise, and once without neighbours.

Images are numbered p S + s (prompt p, seed s of S), and the number determines an image's noise and its guidance plan.
So along a row of a sweep only eta changes. By interleaved guidance a growing eta turns steps from neighbour- to
text-enhanced one by one; stratified plans, evenly spread for each eta, are not nested like that.

An image is stored as soon as its batch is drawn, under the checksum that it has in a grid (grids.py): what is there is
not drawn again.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import UInt8

from reimagen_jax.evaluation.grids import Keys, draw_missing
from reimagen_jax.evaluation.store import Images
from reimagen_jax.inference.pipeline import Pipeline
from reimagen_jax.inference.prompts import Prompt
from reimagen_jax.systems.reimagen.settings import GuidedSamplerConfig

BASELINE = "no neighbours"


@dataclass(frozen=True)
class Sweep:
    """P prompts, S seeds, E values of eta; column 0 is the baseline without neighbours, column 1 + e has etas[e]."""

    prompts: tuple[Prompt, ...]
    etas: tuple[float, ...]
    image_PSCHWC: UInt8[np.ndarray, "p s c h w 3"]
    sampler: GuidedSamplerConfig
    seed: int
    keys: tuple[str, ...] = ()
    """Under which the images are stored, prompts, seeds, columns; none where they are in memory alone."""

    @property
    def num_seeds(self) -> int:
        """S."""
        return self.image_PSCHWC.shape[1]

    @property
    def resolution(self) -> int:
        """Side of the images in pixels."""
        return self.image_PSCHWC.shape[3]

    @property
    def columns(self) -> tuple[str, ...]:
        """Headings of the columns."""
        return (BASELINE, *(f"η {eta:g}" for eta in self.etas))


def draw_sweep(
    pipeline: Pipeline,
    prompts: Sequence[Prompt],
    etas: Sequence[float],
    num_seeds: int,
    images: Images | None = None,
    about: str = "",
) -> Sweep:
    """Draws a sweep's images with one program, at the model's own guidance weights, and stores them.

    `about` is a checksum of the models and their settings (`grids.about`), for `images` that outlive this pipeline.
    """
    images, keys = images or Images(), Keys()
    requests = []
    for p, prompt in enumerate(prompts):
        for index in range(p * num_seeds, (p + 1) * num_seeds):
            requests.append(prompt.baseline(index))
            requests += [prompt.request(index, eta=eta) for eta in etas]
    first = pipeline.stages[0]
    for request in requests[:2]:  # a system without eta says so
        first.feed.check(first.feed.limited(request, first.settings), first.settings)
    named = [keys.of(about, pipeline.stages, pipeline.seed, request) for request in requests]
    draw_missing(pipeline, dict(zip(named, requests, strict=True)), images)
    drawn = np.stack([images[name] for name in named])
    image_PSCHWC = drawn.reshape(len(prompts), num_seeds, 1 + len(etas), *drawn.shape[1:])
    stored = () if images.folder is None else tuple(named)
    return Sweep(tuple(prompts), tuple(etas), image_PSCHWC, pipeline.settings, pipeline.seed, stored)
