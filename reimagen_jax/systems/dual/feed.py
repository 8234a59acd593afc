"""What the host does for a dual encoder: pairs as batches to train on, prompts or images as inputs to encode."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import grain
import numpy as np

from reimagen_jax.config import Experiment
from reimagen_jax.data.loader import make_steps
from reimagen_jax.data.records import Records
from reimagen_jax.encoders.dual import towers_of
from reimagen_jax.encoders.towers import Tokenizer
from reimagen_jax.errors import require
from reimagen_jax.systems.dual.pairs import Pairs, Things, drop_words, split
from reimagen_jax.systems.dual.settings import DualSampler, DualSystemConfig
from reimagen_jax.systems.dual.system import DualBatch, DualInputs, Views
from reimagen_jax.systems.request import Request


@dataclass(frozen=True)
class DualFeed:
    """The feed of an experiment; opens its records when they are asked for."""

    config: Experiment

    @property
    def model(self) -> DualSystemConfig:
        """The experiment's settings of this system."""
        return self.config.system

    @cached_property
    def records(self) -> Records:
        """What is learned from, and measured by."""
        path = self.config.data.records
        require(bool(path), "data.records is not set: pass --data.records DIR, a folder written by `reimagen prepare`")
        return Records.open(path)

    @cached_property
    def tokenizer(self) -> Tokenizer:
        """How texts become rows of ids."""
        return towers_of(self.model.network).tokenizer()

    @cached_property
    def pairs(self) -> Pairs:
        """The records, by number."""
        return Pairs(self.records, self.model.network, self.config.data.same_by)

    @cached_property
    def split(self) -> tuple[np.ndarray, np.ndarray]:
        """Numbers of the pairs to learn from, and of those that are held out."""
        return split(self.pairs.group_NG, self.config.data)

    def settled(self) -> "DualFeed":
        """The feed itself. Raises `UserError` for too few records, and where a step would not see its batch at once:
        a pair is to be told from all others of it."""
        train = self.config.train
        require(
            train.accumulate == 1 and train.parallel == "jit",
            f"train.accumulate {train.accumulate} and train.parallel {train.parallel!r} cut a step's batch, in which a "
            "dual encoder tells each pair from all others: leave them at 1 and 'jit'",
        )
        _ = self.split
        return self

    @property
    def fingerprint(self) -> str:
        """Of the records."""
        return self.records.fingerprint

    def dataset(self, process_index: int | None = None, process_count: int | None = None) -> grain.IterDataset:
        """The endless data set of `DualBatch` (numpy): pairs that are not held out, without some of their words."""
        pairs, (learned, _), data = self.pairs, self.split, self.config.data
        things = Things(self.records, data.views_by, learned) if self.model.views else None

        def draw(ids_B: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, ...]:
            ids_B = learned[ids_B]
            texts_B = np.array([drop_words(pairs.texts[i], rng, data.word_drop) for i in ids_B], object)
            return (ids_B, texts_B) if things is None else (ids_B, texts_B, things.others(ids_B, rng))

        def read(ids_B: np.ndarray, texts_B: np.ndarray, others_B: np.ndarray | None = None) -> DualBatch:
            batch = pairs.batch(ids_B, texts_B)
            if things is None:
                return batch
            return batch._replace(views=Views(pairs.images(others_B), things.thing_N[ids_B][:, None]))

        return make_steps(len(learned), data, draw, read, process_index=process_index, process_count=process_count)

    def preview(self, batch: DualBatch) -> None:
        """None: no image is drawn."""

    def check(self, request: Request, settings: DualSampler) -> None:
        """Raises `UserError` for an image that is missing, of another size, or not asked for."""
        name, side, image = self.config.name, self.model.network.resolution, request.start
        if settings.of == "text":
            require(image is None, f"{name} is asked for vectors of texts (sampler.of): it takes no image")
            return
        require(image is not None, f"{name} is asked for vectors of images (sampler.of), and none is given")
        require(
            image.shape == (side, side, 3) and image.dtype == np.uint8,
            f"{name} reads uint8 images [{side}, {side}, 3], not {image.dtype} {list(image.shape)}",
        )

    def prepare(self, requests: Sequence[Request]) -> None:
        """Nothing is to be done beforehand."""

    def collate(self, requests: Sequence[Request], settings: DualSampler) -> DualInputs:
        """The prompts as tokens, or the images that requests start from."""
        if settings.of == "image":
            return DualInputs(image_BHWC=np.stack([request.start for request in requests]))
        return DualInputs(self.tokenizer.encode([request.prompt for request in requests]))

    def limited(self, request: Request, settings: DualSampler) -> Request:
        """The request itself: neighbours are not looked at."""
        return request
