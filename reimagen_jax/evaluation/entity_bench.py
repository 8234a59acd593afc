"""EntityDrawBench on EntityWorld: what a model draws of an entity under each condition, rated image by image.

A condition says of which split the entities are, where the neighbours come from, how many there are, and eta. The same
prompts are drawn from the same noise under every condition, so conditions are compared prompt by prompt. Every condition
is written as soon as it is rated, under a checksum of all that it depends on: a later run goes on where one ended.
"""

import dataclasses
import hashlib
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jaxtyping import Bool, Float, Int, UInt8

from reimagen_jax.data.entityworld import SCENE_PARAMETERS, Scene, entity_look, render_batch
from reimagen_jax.evaluation.entity_prompts import EntityPrompt, Inventory, draw_prompts, find_neighbours
from reimagen_jax.evaluation.rater import Rater
from reimagen_jax.files import read_json, write_json
from reimagen_jax.inference.generator import Generator
from reimagen_jax.inference.requests import Neighbour, Request

FORMAT = 1
TRUTH = "true renders"
"""The source of the rows in which the images are not drawn by the model but rendered as they should be."""


@dataclass(frozen=True)
class Condition:
    """One row of the table."""

    split: str
    source: str
    """One of `entity_prompts.SOURCES`, or `TRUTH`."""
    k: int = 0
    eta: float = 1.0

    def __str__(self) -> str:
        return f"{self.split}, {self.source}" + (f", k {self.k}, eta {self.eta:g}" if self.k else "")


def plan(
    splits: Sequence[str],
    sources: Sequence[str],
    k: int,
    eta: float,
    ks: Sequence[int] = (),
    etas: Sequence[float] = (),
    sweep_splits: Sequence[str] = (),
) -> tuple[Condition, ...]:
    """The conditions of a run, without repetitions: true renders, all sources on all splits, then both sweeps.

    Sweeps use retrieval: over `ks` at `eta`, and over `etas` at `k`. No neighbours is one condition, whatever eta is: it
    is drawn with text-enhanced guidance only (eta 1), as Imagen is.
    """

    def condition(split: str, source: str, k: int, eta: float) -> Condition:
        return Condition(split, source, k, eta) if k and source != "none" else Condition(split, "none")

    rows = [Condition(split, TRUTH) for split in splits]
    rows += [condition(split, source, k, eta) for source in sources for split in splits]
    rows += [condition(split, "retrieval", few, eta) for split in sweep_splits for few in ks]
    rows += [condition(split, "retrieval", k, share) for split in sweep_splits for share in etas]
    return tuple(dict.fromkeys(rows))


@dataclass(frozen=True)
class Outcome:
    """Ratings of the images of one condition: N prompts with S images each."""

    faithful_NS: Bool[np.ndarray, "n s"]
    aligned_NS: Bool[np.ndarray, "n s"]
    look_right_NSP: Bool[np.ndarray, "n s p"]
    """Category, then the look's parameters."""
    scene_right_NSA: Bool[np.ndarray, "n s a"]
    told_NA: Bool[np.ndarray, "n a"]
    """The attributes of the scene that the prompt tells."""
    copied_NS: Bool[np.ndarray, "n s"]
    """The image shows the look of the first neighbour's entity, whoever that is."""
    found_N: Float[np.ndarray, " n"]
    """Share of the neighbours that show the prompt's entity; 0 without neighbours."""
    category_N: Int[np.ndarray, " n"]
    seconds: float = field(default=0.0, compare=False)
    """Of drawing."""


class EntityBench:
    """Draws and rates conditions: a generator, a rater, a knowledge base, and the prompts about its entities."""

    def __init__(
        self, generator: Generator, rater: Rater, inventory: Inventory, *, num_prompts: int, num_images: int = 1
    ) -> None:
        self.generator = generator
        self.rater = rater
        self.inventory = inventory
        self.num_prompts = num_prompts
        self.num_images = num_images
        self._prompts: dict[str, list[EntityPrompt]] = {}
        self._neighbours: dict[tuple[str, str], list[tuple[Neighbour, ...]]] = {}

    def prompts(self, split: str) -> list[EntityPrompt]:
        """The prompts about a split's entities, the same under every condition."""
        if split not in self._prompts:
            self._prompts[split] = draw_prompts(self.inventory, split, self.num_prompts, self.generator.seed)
        return self._prompts[split]

    def neighbours(self, condition: Condition) -> list[tuple[Neighbour, ...]]:
        """Those of every prompt under a condition: for fewer, the first of those for more."""
        source = "none" if condition.source == TRUTH else condition.source
        if (condition.split, source) not in self._neighbours:
            most, size = self.generator.max_neighbours, self.generator.config.resolution
            found = find_neighbours(
                source, self.prompts(condition.split), self.inventory, most, size, self.generator.seed
            )
            self._neighbours[condition.split, source] = found
        return [few[: condition.k] for few in self._neighbours[condition.split, source]]

    def requests(self, condition: Condition) -> list[Request]:
        """What is asked of the generator: S images of each prompt; image s of prompt i has the same noise throughout."""
        sampler, S = self.generator.sampler, self.num_images
        asked = zip(self.prompts(condition.split), self.neighbours(condition), strict=True)
        return [
            Request(prompt.text, found, condition.eta, sampler.text_weight, sampler.neighbour_weight, i * S + s)
            for i, (prompt, found) in enumerate(asked)
            for s in range(S)
        ]

    def draw(self, condition: Condition) -> UInt8[np.ndarray, "m r r 3"]:
        """The images of a condition, S after S."""
        if condition.source != TRUTH:
            return self.generator(self.requests(condition), str(condition))
        looks, scenes, _ = truths(self.prompts(condition.split), self.num_images)
        return np.round(render_batch(looks, scenes, self.generator.config.resolution) * 255.0).astype(np.uint8)

    def outcome(self, condition: Condition) -> Outcome:
        """Draws and rates a condition."""
        began = time.perf_counter()
        images = self.draw(condition)
        seconds = time.perf_counter() - began
        prompts, neighbours = self.prompts(condition.split), self.neighbours(condition)
        looks, scenes, told = truths(prompts, self.num_images)
        ratings = self.rater.rate(images, looks, vars(scenes), told)
        shown = [self.inventory.shown(found) for found in neighbours]
        copied = self._copied(images, shown)
        shape = (len(prompts), self.num_images)
        return Outcome(
            faithful_NS=ratings.faithful.reshape(shape),
            aligned_NS=ratings.aligned.reshape(shape),
            look_right_NSP=ratings.look_right.reshape(*shape, -1),
            scene_right_NSA=ratings.scene_right.reshape(*shape, -1),
            told_NA=told[:: self.num_images],
            copied_NS=copied.reshape(shape),
            found_N=np.array(
                [np.mean([i == prompt.index for i in ids]) if ids else 0.0 for prompt, ids in zip(prompts, shown, strict=True)]
            ),
            category_N=looks[:: self.num_images, 0],
            seconds=seconds,
        )

    def settings(self, condition: Condition) -> dict[str, Any]:
        """All that an outcome depends on."""
        generator, base = self.generator, self.inventory.base
        return {
            "format": FORMAT,
            "condition": dataclasses.asdict(condition),
            "prompts": self.num_prompts,
            "images_per_prompt": self.num_images,
            "seed": generator.seed,
            "sampler": dataclasses.asdict(generator.sampler),
            "model": digest(generator.params),
            "rater": self.rater.digest,
            "knowledge_base": {"index": base.fingerprint, "records": base.records.fingerprint},
        }

    def _copied(self, images: np.ndarray, shown: Sequence[Sequence[int]]) -> np.ndarray:
        """Whether each image shows the entity of its first neighbour: bool [N S]."""
        looks = np.stack([entity_look(self.inventory.world.seed, ids[0] if ids else 0) for ids in shown])
        right = self.rater.read(images).look_right(np.repeat(looks, self.num_images, axis=0)).all(axis=1)
        return right & np.repeat([bool(ids) for ids in shown], self.num_images)
