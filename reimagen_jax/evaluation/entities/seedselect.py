"""SeedSelect beside Re-Imagen, on entities that were hardly or never seen: the four ways to draw them are compared.

    plain                        the network sees no neighbours                                                 (1)
    SeedSelect                   nor here, but the noise is searched by references                              (2)
    Re-Imagen                    the network sees k neighbours                                                  (3)
    Re-Imagen with SeedSelect    it sees them, and the noise is searched by references                          (4)

The references are the first that retrieval finds for the entity's name, and the neighbours are the first of these: in
(2) to (4), what is known of the entity is the same. Prompts, noise and sampler are the same in all. The encoder that
the search is by must not be the rater that judges.
"""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from reimagen_jax.evaluation.entities.answers import Answer, Cost, Outcomes, difference
from reimagen_jax.evaluation.entities.arms import Arm
from reimagen_jax.evaluation.entities.prompts import find_neighbours
from reimagen_jax.inference.pipeline import Pipeline, Stage
from reimagen_jax.inference.searching import SearchedStage
from reimagen_jax.systems.request import Neighbour, Request

NAMES = {
    (False, False): "plain",
    (False, True): "SeedSelect",
    (True, False): "Re-Imagen",
    (True, True): "Re-Imagen with SeedSelect",
}
"""(sees neighbours, noise is searched) -> what it is called: (1) to (4)."""
FOUND = "found"
"""The folder of what was found, a folder for each way and split."""


class SearchBench(Answer):
    """One of the four ways: a stage, which searches or not, with the references of every prompt."""

    def __init__(self, stage: Stage, seed: int, *inputs: Any, references: int, **counts: Any) -> None:
        """As `EntityBench`, `inputs` being the model's checksum, the rater and the inventory."""
        k, self.searches = stage.settings.k, isinstance(stage, SearchedStage)
        super().__init__(NAMES[k > 0, self.searches], k, Pipeline([stage], seed), *inputs, **counts)
        self.stage, self.num_references = stage, references
        self._references: dict[str, list[tuple[Neighbour, ...]]] = {}

    def placed(self, split: str, folder: Path) -> None:
        if self.searches:
            self.stage.folder = folder / FOUND / f"{split}-k{self.k}"
            self.stage.folder.mkdir(parents=True, exist_ok=True)

    def references(self, split: str) -> list[tuple[Neighbour, ...]]:
        """Of every prompt; the neighbours are the first of them."""
        if split not in self._references:
            most, side = max(self.num_references, self.k), self.stage.config.system.resolution
            prompts = self.prompts(split)
            self._references[split] = find_neighbours(
                "retrieval", prompts, self.inventory, most, side, self.pipeline.seed
            )
        return self._references[split]

    def searched_by(self, split: str) -> list[tuple[Neighbour, ...]]:
        """The references of every prompt that the noise is searched by."""
        return [found[: self.num_references] for found in self.references(split)]

    def neighbours(self, arm: Arm) -> list[tuple[Neighbour, ...]]:
        return [found[: arm.k] for found in self.references(arm.split)]

    def requests(self, arm: Arm) -> list[Request]:
        groups = [found for found in self.searched_by(arm.split) for _ in range(self.num_images)]
        pairs = zip(super().requests(arm), groups, strict=True)
        return [dataclasses.replace(request, references=group) for request, group in pairs]

    def settings(self, arm: Arm) -> dict[str, Any]:
        facts = super().settings(arm) | {"references": self.num_references}
        if self.searches:
            facts |= {"search": dataclasses.asdict(self.stage.search), "encoder": self.stage.encoder.fingerprint}
        return facts

    def cost(self, arm: Arm) -> Cost:
        """Measured as it is drawn, or by drawing a batch again."""
        if self.searches:
            seconds = [found.facts["seconds"] for found in self.stage.selected]
            return Cost(float(np.mean(seconds)), self.stage.objective.memory())
        return super().cost(arm)


def differences(splits: Sequence[str], outcomes: Outcomes) -> list[dict[str, Any]]:
    """What the search brings, with and without neighbours."""
    return [
        difference(split, NAMES[sees, True], NAMES[sees, False], outcomes) for split in splits for sees in (False, True)
    ]
