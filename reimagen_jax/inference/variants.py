"""Variants of records: each record's picture drawn anew, from itself as the one neighbour, as records of their own.

By one door, whatever draws: the record is a neighbour, so a generator of RCG draws from its representation, a decoder
of unCLIP from its embedding, a Re-Imagen with a look at it; a caption is the prompt of those that read one. It is the
reference, too, where the noise is searched (SeedSelect).

    index of variant s of record i of N:  s N + i
so a variant does not depend on how many there are of each, nor on the others. Variants come as a source of records, in
order, from any place on: what writes it goes on after a stop.
"""

import io
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
from PIL import Image

from reimagen_jax.data.image_text import ImageText
from reimagen_jax.data.records import Records
from reimagen_jax.data.sources.base import Entry, Source
from reimagen_jax.data.sources.where import EVERYTHING, Where
from reimagen_jax.inference.pipeline import Pipeline
from reimagen_jax.systems.request import Neighbour, Request

SOURCE, VARIANT = "source", "variant"
"""Attributes: the key of the record that a picture is of; the variant's number from 1 on, 0 for the record itself."""
PART = 256
"""Records that are in memory at once."""


@dataclass(frozen=True, eq=False)
class Variants(Source):
    """`number` variants of each record, drawn by a pipeline; before them the record itself, where `originals` says so.

    Raises `UserError`, when read, where the pipeline's first model does not draw from a neighbour.
    """

    records: Records
    pipeline: Pipeline
    models: str
    """Checksums of the pipeline's models, and of the encoder that noise is searched by."""
    number: int
    originals: bool = False
    where: Where = EVERYTHING
    resolution: int | None = field(default=None, init=False)

    @property
    def name(self) -> str:
        return f"variants of {self.records.source} {self.records.fingerprint[:16]} by {self.models}"

    @property
    def files(self) -> tuple[str]:
        return ("variants",)

    def count(self) -> int:
        return len(self.records) * self._each

    def entries(self, file: int, start: int) -> Iterator[tuple[int, Entry]]:
        drawn = self.pipeline.stream(self._requests(start))
        ready: dict[int, np.ndarray] = {}
        for first, records in self._parts(start):
            for i, record in enumerate(records, first):
                for e in range(self._each):
                    number, variant = i * self._each + e, e + (not self.originals)
                    if number < start:
                        continue
                    told = {**_own(record.attributes), SOURCE: record.key, VARIANT: variant}
                    if not variant:
                        yield number, Entry(record.key, (record.text,), told, partial(_same, record.image))
                        continue
                    index = self._index(i, variant)
                    while index not in ready:
                        asked, stages = next(drawn)
                        ready |= {request.index: image for request, image in zip(asked, stages[-1], strict=True)}
                    key = f"{record.key}~{variant}"
                    yield number, Entry(key, (record.text,), told, partial(_encoded, ready.pop(index)))

    @property
    def _each(self) -> int:
        """Pictures of a record."""
        return self.number + self.originals

    def _index(self, i: int, variant: int) -> int:
        return (variant - 1) * len(self.records) + i

    def _parts(self, start: int) -> Iterator[tuple[int, list[ImageText]]]:
        """Records from the one on that picture `start` is of, with the number of the first."""
        for first in range(start // self._each, len(self.records), PART):
            yield first, self.records.fetch(range(first, min(first + PART, len(self.records))))

    def _requests(self, start: int) -> Iterator[Request]:
        """For the variants from picture `start` on."""
        stage = self.pipeline.stages[0]
        side, place = stage.config.system.resolution, str(self.records.path)
        for first, records in self._parts(start):
            requests = [
                Request(record.text, (neighbour,), self._index(i, variant), references=(neighbour,))
                for i, record in enumerate(records, first)
                for neighbour in [Neighbour.of(record, float("nan"), side, self.records.source, place)]
                for variant in range(1, self.number + 1)
                if i * self._each + variant - (not self.originals) >= start
            ]
            self.pipeline.prepare(requests)
            yield from requests


def _same(data: bytes) -> bytes:
    return data


def _encoded(image: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "PNG")
    return buffer.getvalue()


def _own(attributes: Mapping[str, Any]) -> dict[str, Any]:
    """A record's attributes, those of them that a variant has itself under another name: `source_before`."""
    told = dict(attributes)
    for name in (SOURCE, VARIANT):
        if name in told:
            value, other = told.pop(name), f"{name}_before"
            while other in told:
                other += "_before"
            told[other] = value
    return told
