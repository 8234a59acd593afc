"""What the host does for the tokenizer: records as batches to train on, images as inputs to put together again."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from reimagen_jax.errors import require
from reimagen_jax.systems.base import Preview
from reimagen_jax.systems.mage.arrays import ImageInputs
from reimagen_jax.systems.mage.settings import VQSamplerConfig
from reimagen_jax.systems.records_feed import RecordsFeed
from reimagen_jax.systems.reimagen.batches import Examples
from reimagen_jax.systems.request import Request
from reimagen_jax.systems.unclip.arrays import ImageBatch


class VQFeed(RecordsFeed):
    """The feed of a tokenizer."""

    def reader(self, cache_bytes: int) -> Any:
        """Ids of records -> `ImageBatch`."""
        examples = Examples(self.records, self.config.system.seen, _unread).kept(cache_bytes)
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


def _numbered(B: int) -> list[str]:
    return [f"example {i + 1}" for i in range(B)]


def _unread(texts: Sequence[str]) -> np.ndarray:
    """Captions, which are not read, as nothing."""
    return np.zeros((len(texts), 0), np.int32)
