"""EntityDrawBench on EntityWorld: what a model draws of an entity in each arm, rated image by image.

In every arm the same prompts are drawn from the same noise, so arms are compared prompt by prompt. A super-resolution
model is given the true images, shrunk, to enlarge: what it adds is judged by itself. In a cascade it enlarges what the
stage before has drawn.
"""

import dataclasses
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import jax
import numpy as np
from jaxtyping import Bool, Float, Int, UInt8

from reimagen_jax.data.entityworld import SCENE_PARAMETERS, Scene, entity_look, render_batch
from reimagen_jax.evaluation.entities.arms import TRUTH, Arm
from reimagen_jax.evaluation.entities.inventory import Inventory
from reimagen_jax.evaluation.entities.prompts import EntityPrompt, draw_prompts, find_neighbours
from reimagen_jax.evaluation.rater import Rater
from reimagen_jax.inference.pipeline import Pipeline
from reimagen_jax.retrieval.knowledge_base import KnowledgeBase
from reimagen_jax.systems.request import Neighbour, Request

FORMAT = 2
"""Of what is stored of an arm."""


@dataclass(frozen=True)
class Outcome:
    """Ratings of the images of one arm: N prompts with S images each."""

    faithful_NS: Bool[np.ndarray, "n s"]
    aligned_NS: Bool[np.ndarray, "n s"]
    look_right_NSP: Bool[np.ndarray, "n s p"]
    """Category, then the look's parameters."""
    scene_right_NSA: Bool[np.ndarray, "n s a"]
    told_NA: Bool[np.ndarray, "n a"]
    """The attributes of the scene that the prompt tells."""
    copied_NS: Bool[np.ndarray, "n s"]
    """The image shows the look of the first neighbour's entity, whoever that is, of this world."""
    found_N: Float[np.ndarray, " n"]
    """Share of the neighbours that show the prompt's entity; 0 without neighbours."""
    category_N: Int[np.ndarray, " n"]
    entity_N: Int[np.ndarray, " n"]
    """What each prompt is about: of few entities there are several prompts each."""
    seconds: float = field(default=0.0, compare=False)
    """Of drawing."""


class EntityBench:
    """Draws and rates arms: a pipeline, a rater, a knowledge base, and the prompts about its entities."""

    def __init__(
        self,
        pipeline: Pipeline,
        model: str,
        rater: Rater,
        inventory: Inventory,
        *,
        num_prompts: int,
        num_images: int = 1,
        outside: KnowledgeBase | None = None,
    ) -> None:
        """`model` is a checksum of the pipeline's parameters; neighbours from outside are found in `outside`."""
        self.pipeline = pipeline
        self.model = model
        self.rater = rater
        self.inventory = inventory
        self.num_prompts = num_prompts
        self.num_images = num_images
        self.outside = outside
        self._prompts: dict[str, list[EntityPrompt]] = {}
        self._neighbours: dict[tuple[str, str], list[tuple[Neighbour, ...]]] = {}
        self._shrunk: dict[str, list[np.ndarray]] = {}

    def prompts(self, split: str) -> list[EntityPrompt]:
        """The prompts about a split's entities, the same in every arm."""
        if split not in self._prompts:
            self._prompts[split] = draw_prompts(self.inventory, split, self.num_prompts, self.pipeline.seed)
        return self._prompts[split]

    def entities(self, split: str) -> Int[np.ndarray, " n"]:
        """The number of every prompt's entity."""
        return np.array([prompt.index for prompt in self.prompts(split)])

    def counts(self, split: str) -> Int[np.ndarray, " n"]:
        """Training images of every prompt's entity."""
        return self.inventory.world.image_counts()[self.entities(split)]

    def neighbours(self, arm: Arm) -> list[tuple[Neighbour, ...]]:
        """Those of every prompt in an arm: for fewer, the first of those for more."""
        source = "none" if arm.source == TRUTH else arm.source
        if (arm.split, source) not in self._neighbours:
            most, size = getattr(self.pipeline.settings, "k", 0), self.pipeline.config.system.resolution
            self._neighbours[arm.split, source] = find_neighbours(
                source, self.prompts(arm.split), self.inventory, most, size, self.pipeline.seed, self.outside
            )
        return [few[: arm.k] for few in self._neighbours[arm.split, source]]

    def requests(self, arm: Arm) -> list[Request]:
        """What is asked of the generator: S images of each prompt, each from noise that is its own."""
        S, prompts = self.num_images, self.prompts(arm.split)
        low_res = self._low_res(arm.split) or [None] * len(prompts)
        asked = zip(prompts, self.neighbours(arm), low_res, strict=True)
        guidance = {"eta": arm.eta} if hasattr(self.pipeline.settings, "eta") else {}
        return [
            Request(prompt.text, found, i * S + s, guidance, image)
            for i, (prompt, found, image) in enumerate(asked)
            for s in range(S)
        ]

    def draw(self, arm: Arm) -> UInt8[np.ndarray, "m r r 3"]:
        """The images of an arm, S after S."""
        if arm.source != TRUTH:
            return self.pipeline(self.requests(arm), str(arm))
        return self._true_images(arm.split, self.num_images)

    def outcome(self, arm: Arm) -> Outcome:
        """Draws and rates an arm."""
        began = time.perf_counter()
        images = self.draw(arm)
        return self.rated(arm, images, time.perf_counter() - began)

    def rated(self, arm: Arm, images: UInt8[np.ndarray, "m r r 3"], seconds: float = 0.0) -> Outcome:
        """Rates the images that `draw` gave for an arm."""
        prompts, neighbours = self.prompts(arm.split), self.neighbours(arm)
        looks, scenes, told = truths(prompts, self.num_images)
        verdicts = self.rater.rate(images, looks, vars(scenes), told)
        shown = [self.inventory.shown(found) for found in neighbours]
        copied = self._copied(images, shown)
        shape = (len(prompts), self.num_images)
        return Outcome(
            faithful_NS=verdicts.faithful.reshape(shape),
            aligned_NS=verdicts.aligned.reshape(shape),
            look_right_NSP=verdicts.look_right.reshape(*shape, -1),
            scene_right_NSA=verdicts.scene_right.reshape(*shape, -1),
            told_NA=told[:: self.num_images],
            copied_NS=copied.reshape(shape),
            found_N=np.array([ids.count(p.index) / max(len(ids), 1) for p, ids in zip(prompts, shown, strict=True)]),
            category_N=looks[:: self.num_images, 0],
            entity_N=self.entities(arm.split),
            seconds=seconds,
        )

    def seconds_per_image(self, arm: Arm) -> float:
        """Draws a batch twice and times the second: the first also compiles the program."""
        size = max(stage.batch_size for stage in self.pipeline.stages)
        requests = self.requests(arm)[:size]
        self.pipeline(requests, "compiling")
        began = time.perf_counter()
        self.pipeline(requests, "timing")
        return (time.perf_counter() - began) / size

    def settings(self, arm: Arm) -> dict[str, Any]:
        """All that an outcome depends on."""
        pipeline, base = self.pipeline, self.inventory.base
        facts = {
            "format": FORMAT,
            "condition": dataclasses.asdict(arm),
            "prompts": self.num_prompts,
            "images_per_prompt": self.num_images,
            "seed": pipeline.seed,
            "sampler": dataclasses.asdict(pipeline.settings),
            "model": self.model,
            "rater": self.rater.digest,
            "knowledge_base": {"index": base.fingerprint, "records": base.records.fingerprint},
        }
        if arm.source == "outside":
            facts["outside"] = {"index": self.outside.fingerprint, "records": self.outside.records.fingerprint}
        later = [dataclasses.asdict(stage.settings) for stage in pipeline.stages[1:]]
        return facts | ({"later_stages": later} if later else {})

    def _true_images(self, split: str, repeats: int) -> UInt8[np.ndarray, "m r r 3"]:
        """What the prompts ask for, rendered, each `repeats` times."""
        looks, scenes, _ = truths(self.prompts(split), repeats)
        return np.round(render_batch(looks, scenes, self.pipeline.config.system.resolution) * 255.0).astype(np.uint8)

    def _low_res(self, split: str) -> list[np.ndarray]:
        """The true images of the prompts at the size that the first stage enlarges; empty if it enlarges nothing."""
        stage = self.pipeline.stages[0].config.system.super_resolution
        if stage is None:
            return []
        if split not in self._shrunk:
            image_NHWC = self._true_images(split, 1)
            N, side = len(image_NHWC), stage.low_resolution
            step = image_NHWC.shape[1] // side
            mean = image_NHWC.reshape(N, side, step, side, step, 3).mean(axis=(2, 4), dtype=np.float32)
            self._shrunk[split] = list(np.round(mean).astype(np.uint8))
        return self._shrunk[split]

    def _copied(self, images: np.ndarray, shown: Sequence[Sequence[int]]) -> np.ndarray:
        """Whether each image shows the entity of its first neighbour: bool [N S]."""
        first = np.array([ids[0] if ids else -1 for ids in shown])
        looks = np.stack([entity_look(self.inventory.world.seed, max(int(entity), 0)) for entity in first])
        right = self.rater.read(images).look_right(np.repeat(looks, self.num_images, axis=0)).all(axis=1)
        return right & np.repeat(first >= 0, self.num_images)


def truths(prompts: Sequence[EntityPrompt], repeats: int) -> tuple[np.ndarray, Scene, np.ndarray]:
    """What images have to show, each `repeats` times: looks [M, 1 + P], scenes with leaves [M], told bool [M, A]."""
    rows = [prompt for prompt in prompts for _ in range(repeats)]
    scenes = jax.tree.map(lambda *leaves: np.stack(leaves), *(row.scene for row in rows))
    told = np.array([[p.name in row.tells for p in SCENE_PARAMETERS] for row in rows])
    return np.stack([row.look for row in rows]), scenes, told
