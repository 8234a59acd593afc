"""The feed of a system that learns from pictures out of records: which of them a step reads, which are held out.

A system's own feed says how records become its batch (`reader`), and what it is asked for.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import grain
import numpy as np

from reimagen_jax.config import Experiment
from reimagen_jax.data.loader import CACHE_BYTES, make_steps
from reimagen_jax.data.records import Records
from reimagen_jax.data.sizes import smaller
from reimagen_jax.errors import require
from reimagen_jax.systems.base import Batch, Settings
from reimagen_jax.systems.examples import held_out_parts, split
from reimagen_jax.systems.request import Request


@dataclass(frozen=True)
class RecordsFeed:
    """Pictures out of records; opens them when they are asked for."""

    config: Experiment

    @cached_property
    def records(self) -> Records:
        """What is learned from."""
        path = self.config.data.records
        require(bool(path), "data.records is not set: pass --data.records DIR, a folder written by `reimagen prepare`")
        return Records.open(path)

    def settled(self) -> "RecordsFeed":
        """The feed itself. Raises `UserError` where the records, or weights to start from, are missing."""
        data, side = self.config.data, self.config.system.seen
        found = "" if data.enlarge else smaller(self.records, side)
        require(
            not found,
            f"{found}: run `reimagen prepare` with --resolution {side} on larger ones, or train on enlarged ones "
            "(--data.enlarge)",
        )
        return self

    @property
    def fingerprint(self) -> str:
        """Of the records."""
        return self.records.fingerprint

    def dataset(self, process_index: int | None = None, process_count: int | None = None) -> grain.IterDataset:
        """Batches of the records that are not held out, endless."""
        learned, _ = self.parts

        def draw(ids_B: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, ...]:
            return learned[ids_B], *self.drawn(rng, len(ids_B))

        share = {"process_index": process_index, "process_count": process_count}
        return make_steps(len(learned), self.config.data, draw, self.reader(CACHE_BYTES), **share)

    def held_out(self, number: int, process_index: int | None = None, process_count: int | None = None) -> list[Batch]:
        """Batches of `data.validation_share`; none without it."""
        _, ids = self.parts
        if not len(ids):
            return []
        rng, chosen, parts = held_out_parts(ids, number, self.config.data, process_index, process_count)
        drawn, read = self.drawn(rng, len(chosen)), self.reader(0)
        return [read(chosen[part], *(each[part] for each in drawn)) for part in parts]

    @property
    def parts(self) -> tuple[np.ndarray, np.ndarray]:
        """Ids of the records that are learned from, and of those that are held out."""
        return split(len(self.records), self.config.data)

    def drawn(self, rng: np.random.Generator, batch: int) -> tuple[np.ndarray, ...]:
        """What is drawn at random for each example of a batch."""
        return ()

    def prepare(self, requests: Sequence[Request]) -> None:
        """Nothing is to be done beforehand."""

    def limited(self, request: Request, settings: Settings) -> Request:
        return request

    def numbers(self, request: Request, settings: Settings) -> dict[str, float]:
        """The numbers of guidance that the request is drawn with."""
        return {"text_weight": float(request.guidance.get("text_weight", settings.text_weight))}

    def check_plain(self, request: Request, settings: Settings, known: Sequence[str]) -> None:
        """Raises `UserError` for an edit, and for numbers of guidance that are not known."""
        require(request.edit is None, f"{self.config.name} draws on no picture: edits are for a Re-Imagen")
        for name, number in request.guidance.items():
            require(
                name in known,
                f"{name!r} is no number of {self.config.name}'s guidance: {', '.join(known) or 'it has none'}",
            )
            settings.checked(name, number)
