"""EntityDrawBench on EntityWorld: prompts about its entities, and the neighbours that come with them.

A prompt is a fresh scene with one entity, worded in a caption that no record of the knowledge base has. Its neighbours
come from one of these sources:
    retrieval   the best k records for the entity's name (BM25)
    caption     the best k records for the whole prompt: other entities in such scenes are among them
    none        nothing: Imagen, in the same weights
    random      k records of other entities, of any category
    wrong       k records of one other entity of the same category
    own         k records of the entity itself, whatever a search would find: true references
    dense       as caption, by vectors of the knowledge base's encoder
    hybrid      as caption, by words and by vectors
    untold      as retrieval, without the captions of what is found
    outside     as caption, in another knowledge base (the paper's out-of-domain database)
Source: Re-Imagen (Chen et al., ICLR 2023), section 4.3. There the neighbours are the entity's own pairs, which asking
for the name finds here; the entities are real, and the judges people.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from reimagen_jax.data.entityworld import CATEGORIES, Scene, caption, describe_scene, entity_look, entity_name
from reimagen_jax.data.entityworld.dataset import SPLITS
from reimagen_jax.data.entityworld.scenes import draw_scene
from reimagen_jax.errors import UserError
from reimagen_jax.evaluation.entities.inventory import Inventory
from reimagen_jax.inference.requests import neighbours_of, retrieve
from reimagen_jax.retrieval.knowledge_base import KnowledgeBase, Method
from reimagen_jax.systems.request import Neighbour

METHODS: Mapping[str, Method] = {"caption": "lexical", "dense": "dense", "hybrid": "hybrid", "outside": "lexical"}
"""How each source that asks for the whole prompt searches."""
SOURCES = ("retrieval", "caption", "none", "random", "wrong", "own", "dense", "hybrid", "untold", "outside")


@dataclass(frozen=True)
class EntityPrompt:
    """A text to draw, and what its image has to show."""

    text: str
    name: str
    """Of the entity."""
    index: int
    """Of the entity."""
    look: np.ndarray
    """int32 [1 + P]"""
    scene: Scene
    tells: tuple[str, ...]
    """The attributes of the scene that the text tells."""

    @property
    def attributes(self) -> dict[str, Any]:
        """What a record of such an image would have, as JSON types."""
        shown = {"look": self.look.tolist(), "scene": describe_scene(self.scene), "tells": list(self.tells)}
        return {"entity": self.name, **shown}


def draw_prompts(inventory: Inventory, split: str, count: int, seed: int) -> list[EntityPrompt]:
    """Prompts about entities of a split that the knowledge base has: all different ones, as long as there are enough.

    Prompt i depends on (seed, split, i) alone, so fewer prompts are the first of more.
    """
    world, stream = inventory.world, SPLITS.index(split)
    entities = np.random.default_rng((world.seed, seed, stream)).permutation(inventory.of_split(split))
    prompts = []
    for i in range(count):
        index = int(entities[i % len(entities)])
        look, name = entity_look(world.seed, index), entity_name(world.seed, index)
        rng = np.random.default_rng((world.seed, seed, stream, 1 + i))
        while True:
            scene = draw_scene(rng)
            text, tells = caption(rng, name, CATEGORIES[look[0]], scene)
            if text not in inventory.texts:
                break
        prompts.append(EntityPrompt(text, name, index, look, scene, tells))
    return prompts


def find_neighbours(
    source: str,
    prompts: Sequence[EntityPrompt],
    inventory: Inventory,
    k: int,
    resolution: int,
    seed: int,
    outside: KnowledgeBase | None = None,
) -> list[tuple[Neighbour, ...]]:
    """At most k neighbours of every prompt, best first; the first j of them are those for k = j.

    Raises `UserError` for "dense" and "hybrid" where the knowledge base has no vectors, and for "outside" without one.
    """
    if source == "none" or k == 0:
        return [()] * len(prompts)
    if source in ("retrieval", "untold"):
        found = retrieve(inventory.base, [prompt.name for prompt in prompts], k, resolution)
        return found if source == "retrieval" else [tuple(replace(each, text="") for each in few) for few in found]
    if source in METHODS:
        base = outside if source == "outside" else inventory.base
        if base is None:
            raise UserError("neighbours from outside: there is no other knowledge base (--outside) to find them in")
        return retrieve(base, [prompt.text for prompt in prompts], k, resolution, method=METHODS[source])
    choose = {"random": _others, "wrong": _another, "own": _own}[source]
    chosen = []
    for i, prompt in enumerate(prompts):
        ids = choose(np.random.default_rng((seed, SOURCES.index(source), i)), prompt, inventory, k)
        chosen.append(neighbours_of(inventory.base, ids, np.full(len(ids), np.nan), resolution))
    return chosen


def _others(rng: np.random.Generator, prompt: EntityPrompt, inventory: Inventory, k: int) -> np.ndarray:
    """k records of other entities."""
    return _some(rng, inventory.entity_R != prompt.index, k, prompt, inventory)


def _another(rng: np.random.Generator, prompt: EntityPrompt, inventory: Inventory, k: int) -> np.ndarray:
    """k records of one other entity of the same category, fewer where it has fewer."""
    rivals = np.unique(
        inventory.entity_R[(inventory.category_R == prompt.look[0]) & (inventory.entity_R != prompt.index)]
    )
    rival = rng.choice(rivals) if len(rivals) else -1
    return _some(rng, inventory.entity_R == rival, k, prompt, inventory)


def _own(rng: np.random.Generator, prompt: EntityPrompt, inventory: Inventory, k: int) -> np.ndarray:
    """k records of the entity, fewer where it has fewer."""
    return _some(rng, inventory.entity_R == prompt.index, k, prompt, inventory)


def _some(
    rng: np.random.Generator, allowed_R: np.ndarray, k: int, prompt: EntityPrompt, inventory: Inventory
) -> np.ndarray:
    if not allowed_R.any():
        raise UserError(f"{inventory.base.path} has no other entity to mistake for that of {prompt.text!r}")
    return rng.permutation(np.flatnonzero(allowed_R))[:k]
