"""EntityDrawBench on EntityWorld: what a model draws of an entity under each condition, rated image by image.

A condition says of which split the entities are, where the neighbours come from, how many there are, and eta. Under
every condition the same prompts are drawn from the same noise, so conditions are compared prompt by prompt. What a
condition gave is written as soon as it is rated, under a checksum of all that it depends on: a later run goes on there.

A super-resolution model is given the true images, shrunk, to enlarge: what it adds is judged by itself. In a cascade
it enlarges what the stage before has drawn.
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
from PIL import Image

from reimagen_jax.data.entityworld import SCENE_PARAMETERS, Scene, entity_look, render_batch
from reimagen_jax.evaluation.entity_prompts import EntityPrompt, Inventory, draw_prompts, find_neighbours
from reimagen_jax.evaluation.rater import Rater
from reimagen_jax.files import read_json, write_json
from reimagen_jax.inference.cascade import Cascade
from reimagen_jax.inference.generator import Generator
from reimagen_jax.inference.requests import Neighbour, Request

FORMAT = 2
SHOWN = 6
"""Prompts whose images are kept, to look at."""
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

    Sweeps use retrieval: over `ks` at `eta`, and over `etas` at `k`. No neighbours is one condition, whatever eta is:
    it is drawn with text-enhanced guidance only (eta 1), as Imagen is.
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
        self,
        generator: Generator | Cascade,
        model: str,
        rater: Rater,
        inventory: Inventory,
        *,
        num_prompts: int,
        num_images: int = 1,
    ) -> None:
        """`model` is a checksum of the generator's parameters."""
        self.generator = generator
        self.stages = generator.stages if isinstance(generator, Cascade) else (generator,)
        self.model = model
        self.rater = rater
        self.inventory = inventory
        self.num_prompts = num_prompts
        self.num_images = num_images
        self._prompts: dict[str, list[EntityPrompt]] = {}
        self._neighbours: dict[tuple[str, str], list[tuple[Neighbour, ...]]] = {}
        self._shrunk: dict[str, list[np.ndarray]] = {}

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
        """What is asked of the generator: S images of each prompt, each from noise that is its own."""
        sampler, S = self.generator.sampler, self.num_images
        prompts = self.prompts(condition.split)
        low_res = self._low_res(condition.split) or [None] * len(prompts)
        asked = zip(prompts, self.neighbours(condition), low_res, strict=True)
        return [
            Request(prompt.text, found, condition.eta, sampler.text_weight, sampler.neighbour_weight, i * S + s, image)
            for i, (prompt, found, image) in enumerate(asked)
            for s in range(S)
        ]

    def draw(self, condition: Condition) -> UInt8[np.ndarray, "m r r 3"]:
        """The images of a condition, S after S."""
        if condition.source != TRUTH:
            return self.generator(self.requests(condition), str(condition))
        return self._true_images(condition.split, self.num_images)

    def outcome(self, condition: Condition) -> Outcome:
        """Draws and rates a condition."""
        began = time.perf_counter()
        images = self.draw(condition)
        return self.rated(condition, images, time.perf_counter() - began)

    def rated(self, condition: Condition, images: UInt8[np.ndarray, "m r r 3"], seconds: float = 0.0) -> Outcome:
        """Rates the images that `draw` gave for a condition."""
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
            found_N=np.array([ids.count(p.index) / max(len(ids), 1) for p, ids in zip(prompts, shown, strict=True)]),
            category_N=looks[:: self.num_images, 0],
            seconds=seconds,
        )

    def seconds_per_image(self, condition: Condition) -> float:
        """Draws a batch twice and times the second: the first also compiles the program."""
        size = max(stage.batch_size for stage in self.stages)
        requests = self.requests(condition)[:size]
        self.generator(requests, "compiling")
        began = time.perf_counter()
        self.generator(requests, "timing")
        return (time.perf_counter() - began) / size

    def settings(self, condition: Condition) -> dict[str, Any]:
        """All that an outcome depends on."""
        generator, base = self.generator, self.inventory.base
        facts = {
            "format": FORMAT,
            "condition": dataclasses.asdict(condition),
            "prompts": self.num_prompts,
            "images_per_prompt": self.num_images,
            "seed": generator.seed,
            "sampler": dataclasses.asdict(generator.sampler),
            "model": self.model,
            "rater": self.rater.digest,
            "knowledge_base": {"index": base.fingerprint, "records": base.records.fingerprint},
        }
        later = [{**dataclasses.asdict(s.sampler), "neighbours": s.max_neighbours} for s in self.stages[1:]]
        return facts | ({"later_stages": later} if later else {})

    def _true_images(self, split: str, repeats: int) -> UInt8[np.ndarray, "m r r 3"]:
        """What the prompts ask for, rendered, each `repeats` times."""
        looks, scenes, _ = truths(self.prompts(split), repeats)
        return np.round(render_batch(looks, scenes, self.generator.config.resolution) * 255.0).astype(np.uint8)

    def _low_res(self, split: str) -> list[np.ndarray]:
        """The true images of the prompts at the size that the first stage enlarges; empty if it enlarges nothing."""
        stage = self.stages[0].config.super_resolution
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
        looks = np.stack([entity_look(self.inventory.world.seed, ids[0] if ids else 0) for ids in shown])
        right = self.rater.read(images).look_right(np.repeat(looks, self.num_images, axis=0)).all(axis=1)
        return right & np.repeat([bool(ids) for ids in shown], self.num_images)


def run_condition(bench: EntityBench, condition: Condition, folder: Path) -> Outcome:
    """What a condition gives: read from `folder` if an earlier run has stored it there, else drawn and stored.

    The first image of each of the first prompts is stored too, as a strip.
    """
    path = stored(bench, condition, folder)
    if path.is_file():
        return from_json(read_json(path, "ratings")["outcome"])
    began = time.perf_counter()
    images = bench.draw(condition)
    outcome = bench.rated(condition, images, time.perf_counter() - began)
    folder.mkdir(parents=True, exist_ok=True)
    shown = images[:: bench.num_images][:SHOWN]
    Image.fromarray(np.concatenate(list(shown), axis=1)).save(strip(bench, condition, folder))
    write_json(path, {"settings": bench.settings(condition), "outcome": to_json(outcome)})  # last: all of it is there
    return outcome


def stored(bench: EntityBench, condition: Condition, folder: Path) -> Path:
    """Where the outcome of a condition is stored, once there is one."""
    return folder / f"{checksum(bench.settings(condition))}.json"


def strip(bench: EntityBench, condition: Condition, folder: Path) -> Path:
    """Where the images kept of a condition are."""
    return stored(bench, condition, folder).with_suffix(".png")


def truths(prompts: Sequence[EntityPrompt], repeats: int) -> tuple[np.ndarray, Scene, np.ndarray]:
    """What images have to show, each `repeats` times: looks [M, 1 + P], scenes with leaves [M], told bool [M, A]."""
    rows = [prompt for prompt in prompts for _ in range(repeats)]
    scenes = jax.tree.map(lambda *leaves: np.stack(leaves), *(row.scene for row in rows))
    told = np.array([[p.name in row.tells for p in SCENE_PARAMETERS] for row in rows])
    return np.stack([row.look for row in rows]), scenes, told


def to_json(outcome: Outcome) -> dict[str, Any]:
    """The fields of an outcome; ratings as one string of 0 and 1 for each prompt, which is short and can be read."""

    def encode(value: Any) -> Any:
        if not isinstance(value, np.ndarray):
            return value
        if value.dtype != bool:
            return value.tolist()
        rows = ["".join("01"[int(x)] for x in row) for row in value.reshape(len(value), -1)]
        return {"shape": list(value.shape), "bits": rows}

    return {f.name: encode(getattr(outcome, f.name)) for f in dataclasses.fields(outcome)}


def from_json(stored: dict[str, Any]) -> Outcome:
    """The inverse of `to_json`."""

    def decode(value: Any) -> Any:
        if isinstance(value, dict):
            return np.array([bit == "1" for row in value["bits"] for bit in row]).reshape(value["shape"])
        return np.array(value) if isinstance(value, list) else value

    return Outcome(**{name: decode(value) for name, value in stored.items()})


def checksum(settings: dict[str, Any]) -> str:
    """Of JSON types (hex)."""
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:16]
