"""The cascade: a base stage and super-resolution stages, each drawing from the image of the stage before.

Stage by stage over all requests: with weights that lie in the host's memory, one stage at a time is on the device.
The prompt, the neighbours (decoded at each stage's own resolution) and the image's index are the same at every stage;
guidance, steps and augmentation level are each stage's own. Source: Imagen section 2.4; Re-Imagen section 3.1.
"""

from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise

import numpy as np

from reimagen_jax.config import Experiment, SamplerConfig, require
from reimagen_jax.inference.generator import Generator
from reimagen_jax.inference.requests import Request, limit_neighbours


class Cascade:
    """Stages in order, the first a base model (or a super-resolution model whose requests carry an image to enlarge).

    It is called like a `Generator`, with requests for the first stage, and returns the last stage's images.
    """

    def __init__(self, stages: Sequence[Generator]) -> None:
        """Raises `UserError` when the stages do not chain, or do not draw from one seed."""
        check_chain([stage.config for stage in stages])
        seeds = [stage.seed for stage in stages]
        require(len(set(seeds)) == 1, f"the stages of a cascade draw from one seed, not from {seeds}")
        self.stages = tuple(stages)

    @property
    def config(self) -> Experiment:
        """Of the last stage, whose images the cascade draws."""
        return self.stages[-1].config

    @property
    def sampler(self) -> SamplerConfig:
        """Of the first stage, which the requests' eta and weights are for."""
        return self.stages[0].sampler

    @property
    def max_neighbours(self) -> int:
        """The most that a stage takes; the others take the best of those."""
        return max(stage.max_neighbours for stage in self.stages)

    @property
    def seed(self) -> int:
        """Of the noise of all stages."""
        return self.stages[0].seed

    def __call__(self, requests: Sequence[Request], what: str = "sampling") -> np.ndarray:
        """The last stage's images: uint8 [N, R, R, 3], one per request."""
        return self.draw(requests, what)[-1]

    def draw(self, requests: Sequence[Request], what: str = "sampling") -> list[np.ndarray]:
        """Every stage's images, in order."""
        drawn: list[np.ndarray] = []
        for number, stage in enumerate(self.stages, 1):
            if drawn:
                requests = [pass_on(*pair, stage) for pair in zip(requests, drawn[-1], strict=True)]
            else:
                requests = [limit_neighbours(request, stage.max_neighbours) for request in requests]
            resolution = stage.config.resolution
            title = f"{what}, stage {number}: {resolution} x {resolution}" if len(self.stages) > 1 else what
            drawn.append(stage(requests, title))
        return drawn


def pass_on(request: Request, image: np.ndarray, stage: Generator) -> Request:
    """What the next stage is asked: the same, with the image drawn so far, and guided as that stage is.

    Without neighbours every step is text-enhanced, as for a base stage.
    """
    sampler, neighbours = stage.sampler, request.neighbours[: stage.max_neighbours]
    return replace(
        request,
        neighbours=neighbours,
        eta=sampler.eta if neighbours else 1.0,
        text_weight=sampler.text_weight,
        neighbour_weight=sampler.neighbour_weight,
        low_res=image,
    )


def check_chain(configs: Sequence[Experiment]) -> None:
    """Raises `UserError` unless every stage but the first enlarges images of the size that the one before draws."""
    require(len(configs) > 0, "a cascade without stages draws nothing")
    for number, (before, config) in enumerate(pairwise(configs), 2):
        stage, where = config.super_resolution, f"stage {number} of the cascade, {config.name},"
        require(
            stage is not None,
            f"{where} is a base model: it enlarges nothing, only the first stage can be one",
        )
        require(
            stage.low_resolution == before.resolution,
            f"{where} enlarges images of {stage.low_resolution} pixels, but the stage before it, {before.name}, draws "
            f"{before.resolution}",
        )
