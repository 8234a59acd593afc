"""What the host does for MoCo-v3: records as batches of images, images as inputs to represent."""

import dataclasses
from collections.abc import Sequence
from functools import cached_property
from typing import Any

import numpy as np

from reimagen_jax.data.records import ImageText, Records
from reimagen_jax.data.sources.where import told
from reimagen_jax.errors import require
from reimagen_jax.progress import track
from reimagen_jax.systems.examples import Examples, unread
from reimagen_jax.systems.moco.settings import MocoConfig, MocoSampler
from reimagen_jax.systems.moco.system import MocoBatch, MocoInputs
from reimagen_jax.systems.records_feed import RecordsFeed
from reimagen_jax.systems.request import Request


class MocoFeed(RecordsFeed):
    """The feed of an experiment."""

    @property
    def model(self) -> MocoConfig:
        """The experiment's settings of this system."""
        return self.config.system

    def settled(self) -> "MocoFeed":
        """The feed with the classes of its records. Raises `UserError` for too few records, for records without a class
        or of one that is not named, and where a step would not see its batch at once."""
        super().settled()
        train, data, number = self.config.train, self.config.data, len(self.parts[0])
        require(
            train.accumulate == 1 and train.parallel == "jit",
            f"train.accumulate {train.accumulate} and train.parallel {train.parallel!r} cut a step's batch, in which "
            f"{self.config.name} tells each image from all others: leave them at 1 and 'jit'",
        )
        require(
            number >= data.batch_size,
            f"{number} records to learn from are too few for a batch of {data.batch_size}: choose a smaller "
            "data.batch_size, or bring more records",
        )
        if self.model.objective != "supervised":
            return self
        known = tuple(sorted(set(self.labels)))
        classes = self.model.classes or known
        lost = sorted(set(known) - set(classes))
        require(not lost, f"classes lacks {', '.join(map(repr, lost[:5]))}, which records have ({data.class_by})")
        require(len(classes) > 1, f"data.class_by {data.class_by} has one value alone, {classes[0]!r}: nothing to tell")
        system = dataclasses.replace(self.model, classes=classes)
        return dataclasses.replace(self, config=dataclasses.replace(self.config, system=system))

    @cached_property
    def labels(self) -> list[str]:
        """The value of `data.class_by` of each record."""
        return labels_of(self.records, self.config.data.class_by)

    def reader(self, cache_bytes: int) -> Any:
        """Ids of records -> `MocoBatch`."""
        examples = Examples(self.records, self.model.seen, unread).kept(cache_bytes)
        class_N = np.zeros(len(self.records), np.int32)
        if self.model.objective == "supervised":
            number = {name: i for i, name in enumerate(self.model.classes)}
            class_N = np.array([number[label] for label in self.labels], np.int32)
        return lambda ids_B: MocoBatch(examples(ids_B)[0], class_N[ids_B])

    def preview(self, batch: MocoBatch) -> None:
        """None: no image is drawn."""

    def check(self, request: Request, settings: MocoSampler) -> None:
        """Raises `UserError` for an image that is missing, or of another size."""
        name, side, image = self.config.name, self.model.network.resolution, request.start
        require(image is not None, f"{name} represents images, and none is given")
        require(
            image.shape == (side, side, 3) and image.dtype == np.uint8,
            f"{name} reads uint8 images [{side}, {side}, 3], not {image.dtype} {list(image.shape)}",
        )

    def collate(self, requests: Sequence[Request], settings: MocoSampler) -> MocoInputs:
        """The images that requests start from."""
        return MocoInputs(np.stack([request.start for request in requests]))


def labels_of(records: Records | Sequence[ImageText], name: str) -> list[str]:
    """The value of an attribute of each record, as text. A dot reaches into nested ones, or into a list by a
    place's number. Raises `UserError` naming the first record without it."""

    def value(record: ImageText) -> str:
        lists = {key: items for key, items in record.attributes.items() if isinstance(items, list)}
        places = {f"{key}.{i}": item for key, items in lists.items() for i, item in enumerate(items)}
        label = told({**record.attributes, **places}, name)
        require(bool(label), f"record {record.key} has no attribute {name!r}: it has {', '.join(record.attributes)}")
        return label

    return [value(record) for record in track(records, len(records), name, "record")]
