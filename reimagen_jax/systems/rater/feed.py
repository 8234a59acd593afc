"""What the host does for a rater: numbers for a step's renders, images as inputs to read."""

from collections.abc import Sequence
from dataclasses import dataclass

import grain
import numpy as np

from reimagen_jax.config import Experiment
from reimagen_jax.data.entityworld.version import world_version
from reimagen_jax.data.loader import make_steps
from reimagen_jax.errors import require
from reimagen_jax.systems.rater.settings import RaterSampler, RaterSystemConfig
from reimagen_jax.systems.rater.system import RaterBatch, RaterInputs
from reimagen_jax.systems.request import Request


@dataclass(frozen=True)
class RaterFeed:
    """The feed of an experiment; the world is its data."""

    config: Experiment

    @property
    def model(self) -> RaterSystemConfig:
        """The experiment's settings of this system."""
        return self.config.system

    def settled(self) -> "RaterFeed":
        """The feed itself: nothing is left to the data."""
        return self

    @property
    def fingerprint(self) -> str:
        """Of what EntityWorld's looks and scenes can be."""
        return world_version()

    def dataset(self, process_index: int | None = None, process_count: int | None = None) -> grain.IterDataset:
        """The endless data set of `RaterBatch` (numpy): the same numbers for every step, which draws from its key."""
        number = self.config.data.batch_size

        def draw(ids_B: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray]:
            return (np.arange(number, dtype=np.int32),)

        return make_steps(
            number, self.config.data, draw, RaterBatch, process_index=process_index, process_count=process_count
        )

    def preview(self, batch: RaterBatch) -> None:
        """None: no image is drawn."""

    def check(self, request: Request, settings: RaterSampler) -> None:
        """Raises `UserError` for an image that is missing, or of another size."""
        name, side, image = self.config.name, self.model.network.resolution, request.start
        require(image is not None, f"{name} reads images, and none is given")
        require(
            image.shape == (side, side, 3) and image.dtype == np.uint8,
            f"{name} reads uint8 images [{side}, {side}, 3], not {image.dtype} {list(image.shape)}",
        )

    def prepare(self, requests: Sequence[Request]) -> None:
        """Nothing is to be done beforehand."""

    def collate(self, requests: Sequence[Request], settings: RaterSampler) -> RaterInputs:
        """The images that requests start from."""
        return RaterInputs(np.stack([request.start for request in requests]))

    def limited(self, request: Request, settings: RaterSampler) -> Request:
        """The request itself: prompt and neighbours are not looked at."""
        return request
