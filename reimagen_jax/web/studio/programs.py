"""The pipelines that draw, by programs that are kept: a stage's for each number of steps, solver and room."""

import threading
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from reimagen_jax.inference import edits
from reimagen_jax.inference.pipeline import Pipeline, Stage
from reimagen_jax.inference.stepping import SteppedStage, Tell, stepped
from reimagen_jax.systems.reimagen.settings import ETAS
from reimagen_jax.systems.request import Request
from reimagen_jax.web.studio.asked import Drawn, Warm
from reimagen_jax.web.studio.offered import Offered

STRIP = 1 + len(ETAS)
"""Images of a row: without neighbours, and one for each eta."""
BATCH = 4
"""Images that are drawn at once where there is no strip, and by the later stages of a cascade."""
PROGRAMS = 6
"""Pipelines whose programs are kept."""


@dataclass(frozen=True)
class Part:
    """Images of a drawing that one pipeline draws."""

    pipeline: Pipeline
    places: tuple[int, ...]
    """Theirs among all images."""


class Programs:
    """The last pipelines, with what was compiled for them."""

    def __init__(self) -> None:
        self._stages: OrderedDict[Any, list[Stage]] = OrderedDict()
        self._lock = threading.Lock()

    def parts(
        self, offered: Offered, asked: Drawn | Warm, room: int, columns: Sequence[Mapping[str, Any]]
    ) -> list[Part]:
        """What draws the images of these columns: one pipeline, or another for those without neighbours."""
        apart = [bool(column["without"]) and offered.apart for column in columns]
        strip = offered.has_eta and getattr(asked, "kind", "draw") == "draw"
        parts = []
        for without in sorted(set(apart)):
            pipeline = self._pipeline(offered, asked, room, STRIP if strip and not without else BATCH, without)
            parts.append(Part(pipeline, tuple(n for n, own in enumerate(apart) if own == without)))
        return parts

    def _pipeline(self, offered: Offered, asked: Drawn | Warm, room: int, batch: int, without: bool) -> Pipeline:
        """The stages that draw so, by programs that were compiled before where they were."""
        own, room = (offered.without, 0) if without else (offered.settings, room)
        given = {"num_steps": asked.steps, "solver": asked.solver}
        given = {name: value for name, value in given.items() if value is not None and hasattr(own, name)}
        key = (offered.label, tuple(given.items()), room, batch, without)
        with self._lock:
            if key not in self._stages:
                stages = []
                for number, model in enumerate(offered.models):
                    most = room if model.config.data.num_neighbours else 0
                    settings = model.config.system.sampler if number else own.changed(**given)
                    stage = model.stage(settings.with_room(most), BATCH if number else batch)
                    stages.append(stepped(stage, lambda step, steps: None))
                self._stages[key] = stages
            self._stages.move_to_end(key)
            while len(self._stages) > PROGRAMS:
                self._stages.popitem(last=False)
            return Pipeline(self._stages[key], getattr(asked, "seed", 0))


def draw(
    parts: Sequence[Part], requests: Sequence[Request], plan: edits.Plan | None, tell: Tell
) -> tuple[list[Request], np.ndarray]:
    """The requests, and the last stages' images; tells of steps over all parts, stages and batches."""
    total, done = 0, 0

    def count(step: int, steps: int) -> None:
        nonlocal done
        done += step > 0
        tell(done, max(total, done))

    again = None if plan is None or plan.again is None else plan  # drawn on what is drawn: by one part, on pictures
    for part in parts:
        number = len(part.places)
        for stage in part.pipeline.stages:
            batches = sum(
                -(-some // stage.at_once)
                for some in ([number] if again is None else [again.fresh, number - again.fresh])
            )
            if isinstance(stage, SteppedStage):
                stage.tell = count
                total += batches * stage.num_steps
            else:
                total += batches
    count(0, 0)
    if again is not None:
        drawn, stages = again.drawn(parts[0].pipeline.draw)
        return drawn, stages[-1]
    image_of = {}
    for part in parts:
        drawn = part.pipeline.draw([requests[n] for n in part.places])[-1]
        image_of |= dict(zip(part.places, drawn, strict=True))
    return list(requests), np.stack([image_of[n] for n in range(len(requests))])
