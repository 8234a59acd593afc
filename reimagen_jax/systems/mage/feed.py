"""What the host does for the tokenizer and for MAGE: records as batches to train on, requests as inputs."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from reimagen_jax.errors import require
from reimagen_jax.systems.base import Preview
from reimagen_jax.systems.examples import Examples, unread
from reimagen_jax.systems.mage.arrays import ImageInputs, MageInputs
from reimagen_jax.systems.mage.settings import FROZEN_FEATURES, MageSamplerConfig, VQSamplerConfig
from reimagen_jax.systems.mage.system import MageSystem
from reimagen_jax.systems.rcg.arrays import GeneratorInputs, PictureBatch
from reimagen_jax.systems.rcg.feed import GeneratorFeed
from reimagen_jax.systems.records_feed import RecordsFeed
from reimagen_jax.systems.request import Request
from reimagen_jax.systems.unclip.arrays import ImageBatch


class VQFeed(RecordsFeed):
    """The feed of a tokenizer."""

    def settled(self) -> "VQFeed":
        """The feed of an experiment that freezes the encoder by which images are compared, and in which a discriminator
        begins anew. Raises `UserError` where there is no such encoder."""
        super().settled()
        config, model = self.config, self.config.system
        rates, fresh = config.train.rates, config.init.fresh
        if model.perceptual.weight:
            require(
                bool(config.init.weights),
                f"{config.name} compares images by an encoder (perceptual.weight {model.perceptual.weight:g}): pass "
                "--init.adopt --init.weights DIR, a folder that `reimagen encode-train` or tools/convert_weights.py "
                "has written, or what holds one; beside a tokenizer to go on from, --init.beside DIR",
            )
            rates = rates if FROZEN_FEATURES in rates else (FROZEN_FEATURES, *rates)
        anew = {"vq": model.perceptual.weight, "discriminator": model.adversarial.weight}
        fresh = (*fresh, *(name for name, weight in anew.items() if weight and name not in fresh))
        config = dataclasses.replace(
            config,
            init=dataclasses.replace(config.init, fresh=fresh),
            train=dataclasses.replace(config.train, rates=rates),
        )
        return dataclasses.replace(self, config=config)

    def reader(self, cache_bytes: int) -> Any:
        """Ids of records -> `ImageBatch`."""
        examples = Examples(self.records, self.config.system.seen, unread).kept(cache_bytes)
        return lambda ids_B: ImageBatch(examples(ids_B)[0])

    def preview(self, batch: ImageBatch) -> Preview:
        """The target; put together again."""
        image_BHWC = np.asarray(batch.image_BHWC)
        drawn = {"of its tokens": ImageInputs(image_BHWC)}
        return Preview(_numbered(len(image_BHWC)), {"target": list(image_BHWC)}, drawn)

    def numbers(self, request: Request, settings: VQSamplerConfig) -> Mapping[str, float]:
        """None: nothing guides it."""
        return {}

    def check(self, request: Request, settings: VQSamplerConfig) -> None:
        """Raises `UserError` for anything but an image of its size."""
        side, start = self.config.system.resolution, request.start
        require(
            start is not None and start.shape == (side, side, 3) and start.dtype == np.uint8,
            f"{self.config.name} puts an image together again, uint8 [{side}, {side}, 3], and needs one to start from",
        )
        self.check_plain(request, settings, ())

    def collate(self, requests: Sequence[Request], settings: VQSamplerConfig) -> ImageInputs:
        """The inputs of `requests`."""
        return ImageInputs(np.stack([request.start for request in requests]))


class MageFeed(GeneratorFeed):
    """The feed of a MAGE."""

    @property
    def system(self) -> MageSystem:
        return MageSystem(self.config)

    @property
    def named(self) -> tuple[str, ...]:
        return (*super().named, "temperature")

    def settled(self) -> "MageFeed":
        beside = ", with --init.beside DIR, the encoder's folder" if self.system.represents else ""
        require(
            bool(self.config.init.weights),
            f"{self.config.name} holds a tokenizer that does not learn: pass --init.weights DIR, a run of "
            f"rcg_vq32.py{beside}; or a mage to go on from",
        )
        return super().settled()

    def preview(self, batch: PictureBatch) -> Preview:
        found = super().preview(batch)
        drawn = {
            name: self._with(inputs, [self.model.sampler.temperature] * len(batch.class_B))
            for name, inputs in found.drawn.items()
        }
        return found._replace(drawn=drawn)

    def collate(self, requests: Sequence[Request], settings: MageSamplerConfig) -> MageInputs:
        """The inputs of `requests`."""
        temperatures = [self.numbers(request, settings)["temperature"] for request in requests]
        return self._with(super().collate(requests, settings), temperatures)

    def _with(self, inputs: GeneratorInputs, temperatures: Sequence[float]) -> MageInputs:
        return MageInputs(**vars(inputs), temperature_B=np.asarray(temperatures, np.float32))


def _numbered(B: int) -> list[str]:
    return [f"example {i + 1}" for i in range(B)]
