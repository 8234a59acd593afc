"""A world: its entities, how often each is seen, and its examples.

Entities are ranked by their index. The first are frequent, the next rare, the last unseen. With F frequent entities,
    (1) count(rank) = max(m, C / rank^a)  for rank 1 .. F      (Zipf's law with a floor; C so that the counts add up)
A rare entity has a handful of training images, an unseen one none; the reference images of both are for a knowledge
base. Every image is drawn from (world seed, entity index, role, image number) alone.
"""

import dataclasses
import io
import itertools
from collections.abc import Iterator
from typing import Annotated, ClassVar

import jax
import numpy as np
from annotated_types import Ge, Le
from PIL import Image

from reimagen_jax.checked import Checked, Natural, NonNegative, Seed, Share
from reimagen_jax.data.entityworld.looks import CATEGORIES, MAX_ENTITIES, looks_of
from reimagen_jax.data.entityworld.names import entity_name
from reimagen_jax.data.entityworld.render import render_batch
from reimagen_jax.data.entityworld.scenes import caption, describe_scene, draw_scene
from reimagen_jax.errors import UserError

SPLITS = ("frequent", "rare", "unseen")
ROLES = ("train", "reference")
_BATCH = 128


@dataclasses.dataclass(frozen=True)
class World(Checked):
    """A world of entities: how many, how often seen, and the images of each.

    Raises UserError when the settings contradict each other.
    """

    section: ClassVar[str] = "world."

    seed: Seed = 0
    """Seed of looks, names, scenes and captions."""
    num_entities: Annotated[int, Ge(1), Le(MAX_ENTITIES)] = 8192
    """Number of entities."""
    num_images: Natural = 100_000
    """Number of training images, of frequent and rare entities together."""
    frequent_share: Share = 0.6
    """Share of entities that are frequent."""
    rare_share: Share = 0.2
    """Share of entities that are rare; the others are unseen."""
    zipf_exponent: Annotated[NonNegative, Le(10)] = 0.75
    """Exponent a of Zipf's law over the frequent entities."""
    min_images: Natural = 8
    """Fewest training images of a frequent entity."""
    rare_images: tuple[Natural, Natural] = (2, 5)
    """Fewest and most training images of a rare entity."""
    rare_references: Natural = 4
    """Reference images of each rare entity."""
    unseen_references: Natural = 6
    """Reference images of each unseen entity."""

    def __post_init__(self):
        super().__post_init__()
        if self.frequent_share + self.rare_share > 1:
            raise UserError(
                f"world.frequent_share {self.frequent_share} and world.rare_share {self.rare_share} are more than 1 "
                "together"
            )
        low, high = self.rare_images
        if low > high:
            raise UserError(f"world.rare_images {low} {high}: the fewest are more than the most")
        num_frequent, num_rare, _ = self.split_sizes
        rare_total = int(self._rare_counts(num_rare).sum())
        least = num_frequent * self.min_images + rare_total
        if num_frequent and least > self.num_images:
            raise UserError(
                f"world.num_images {self.num_images} is too few: {num_frequent} frequent entities with at least "
                f"{self.min_images} images each and {num_rare} rare ones need {least}"
            )

    @property
    def split_sizes(self) -> tuple[int, int, int]:
        """Numbers of frequent, rare and unseen entities."""
        num_frequent = round(self.num_entities * self.frequent_share)
        num_rare = min(round(self.num_entities * self.rare_share), self.num_entities - num_frequent)
        return num_frequent, num_rare, self.num_entities - num_frequent - num_rare

    def split_of(self, index: int) -> str:
        """Split of an entity: "frequent", "rare" or "unseen"."""
        return SPLITS[int(np.searchsorted(np.cumsum(self.split_sizes), index, side="right"))]

    def entities(self, split: str | None = None) -> range:
        """Indices of the entities of a split, or of all."""
        if split is None:
            return range(self.num_entities)
        stops = np.cumsum((0, *self.split_sizes)).tolist()
        place = SPLITS.index(split)
        return range(stops[place], stops[place + 1])

    def image_counts(self, role: str = "train") -> np.ndarray:
        """Images of every entity in a role: int64 [num_entities]."""
        num_frequent, num_rare, num_unseen = self.split_sizes
        if role == "reference":
            return np.repeat([0, self.rare_references, self.unseen_references], self.split_sizes)
        rare_N = self._rare_counts(num_rare)
        frequent_N = zipf_counts(num_frequent, self.num_images - int(rare_N.sum()), self.zipf_exponent, self.min_images)
        return np.concatenate([frequent_N, rare_N, np.zeros(num_unseen, np.int64)])

    def num_examples(self, role: str | None = None, split: str | None = None) -> int:
        """Number of examples that `examples` yields."""
        entities = self.entities(split)
        roles = ROLES if role is None else (role,)
        return int(sum(self.image_counts(r)[entities.start : entities.stop].sum() for r in roles))

    def __len__(self) -> int:
        return self.num_examples()

    def examples(
        self,
        role: str | None = None,
        split: str | None = None,
        resolution: int = 64,
        compress_level: int = 4,
        start: int = 0,
    ) -> Iterator[dict]:
        """Draw the examples of a role and a split, or all, one after another, from number `start` on.

        Yields dicts: key, image (PNG bytes, resolution^2), text, attributes (entity, entity_index, category, look,
        scene, tells, split, role; JSON types only).
        """
        plan = self._plan(role, split)
        for first in range(start - start % _BATCH, len(plan), _BATCH):
            drawn = self._draw(plan[first : first + _BATCH], resolution, compress_level)
            yield from itertools.islice(drawn, max(0, start - first), None)

    def example(self, index: int, number: int, role: str = "train", resolution: int = 64) -> dict:
        """Draw one example: image `number` of entity `index` in a role."""
        return next(self._draw([(index, number, role)], resolution, 4))

    def _rare_counts(self, num_rare: int) -> np.ndarray:
        low, high = self.rare_images
        return low + np.arange(num_rare) % (high - low + 1)

    def _plan(self, role: str | None, split: str | None) -> list[tuple[int, int, str]]:
        """(entity index, image number, role) of every example, in order."""
        roles = ROLES if role is None else (role,)
        counts = {r: self.image_counts(r) for r in roles}
        return [(i, number, r) for r in roles for i in self.entities(split) for number in range(counts[r][i])]

    def _draw(self, plan: list[tuple[int, int, str]], resolution: int, compress_level: int) -> Iterator[dict]:
        looks = looks_of(self.seed, np.array([index for index, _, _ in plan]))
        rngs = [np.random.default_rng((self.seed, index, ROLES.index(role), number)) for index, number, role in plan]
        scenes = [draw_scene(rng) for rng in rngs]
        images = render_batch(looks, jax.tree.map(lambda *leaves: np.stack(leaves), *scenes), resolution)
        for (index, number, role), look, rng, scene, image in zip(plan, looks, rngs, scenes, images, strict=True):
            name, category = entity_name(self.seed, index), CATEGORIES[look[0]]
            text, tells = caption(rng, name, category, scene)
            yield {
                "key": f"{index:06d}-{'r' if role == 'reference' else ''}{number:02d}",
                "image": encode_png(image, compress_level),
                "text": text,
                "attributes": {
                    "entity": name,
                    "entity_index": index,
                    "category": category,
                    "look": look.tolist(),
                    "scene": describe_scene(scene),
                    "tells": list(tells),
                    "split": self.split_of(index),
                    "role": role,
                },
            }


def zipf_counts(num: int, total: int, exponent: float, floor: int) -> np.ndarray:
    """Share `total` images among `num` ranks by equation (1): int64 [num], falling, adding up to `total` exactly."""
    if num == 0:
        return np.zeros(0, np.int64)
    weight = np.arange(1, num + 1, dtype=np.float64) ** -exponent
    low, high = 0.0, float(total) / weight[-1]
    for _ in range(100):  # bisection: the sum grows with C
        scale = (low + high) / 2
        low, high = (scale, high) if np.maximum(floor, scale * weight).sum() < total else (low, scale)
    exact = np.maximum(floor, low * weight)
    counts = np.floor(exact).astype(np.int64)
    counts[: total - int(counts.sum())] += 1  # what rounding left goes to the first ranks, so counts keep falling
    return counts


def encode_png(image: np.ndarray, compress_level: int = 4) -> bytes:
    """Encode a float image [H, W, 3] in [0, 1] as PNG."""
    buffer = io.BytesIO()
    Image.fromarray(np.round(image * 255.0).astype(np.uint8)).save(buffer, "PNG", compress_level=compress_level)
    return buffer.getvalue()
