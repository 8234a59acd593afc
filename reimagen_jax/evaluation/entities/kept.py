"""Every picture of a benchmark's arms, each with its origin, for people to rate: a folder for each arm.

The rows of `store` keep ratings, and no more pictures than are shown. Arms of several splits with the same neighbours
are one system, so they share a folder: pictures/retrieval-k2-eta0.5.
"""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from reimagen_jax.data.entityworld import CATEGORIES
from reimagen_jax.evaluation.entities.arms import TRUTH, Arm
from reimagen_jax.evaluation.entities.bench import EntityBench
from reimagen_jax.inference.jobs import picture_name
from reimagen_jax.inference.model import Model
from reimagen_jax.inference.origin import save_image
from reimagen_jax.inference.provenance import origins

PICTURES = "pictures"


def name_of(arm: Arm) -> str:
    """The folder of an arm."""
    return f"{arm.source}-k{arm.k}-eta{arm.eta:g}" if arm.k else arm.source


@dataclass(frozen=True)
class Keeper:
    """Keeps the pictures of arms in a folder."""

    bench: EntityBench
    models: Sequence[Model]
    """Of all stages."""
    folder: Path
    command: str
    """That draws them."""

    def has(self, arm: Arm) -> bool:
        """Whether all are there; of true renders none is kept."""
        return arm.source == TRUTH or all((self.folder / name_of(arm) / name).is_file() for name in self._names(arm))

    def keep(self, arm: Arm, images: np.ndarray) -> None:
        """Writes uint8 [M, R, R, 3] as `EntityBench.draw` gives them, with what is known of their prompts."""
        if arm.source == TRUTH:
            return
        place, S = self.folder / name_of(arm), self.bench.num_images
        place.mkdir(parents=True, exist_ok=True)
        prompts = [prompt for prompt in self.bench.prompts(arm.split) for _ in range(S)]
        requests = [
            dataclasses.replace(
                request,
                told={"entity": prompt.name, "category": CATEGORIES[prompt.look[0]], "split": arm.split},
            )
            for request, prompt in zip(self.bench.requests(arm), prompts, strict=True)
        ]
        about = {"made_by": "evaluate entities", "command": self.command}
        told = origins(self.models, self.bench.pipeline, requests, list(images), **about)
        for name, image, origin in zip(self._names(arm), images, told, strict=True):
            save_image(place / name, image, origin)

    def _names(self, arm: Arm) -> list[str]:
        prompts, images = self.bench.prompts(arm.split), range(self.bench.num_images)
        return [f"{arm.split}-{picture_name(i, s, prompt.text)}" for i, prompt in enumerate(prompts) for s in images]
