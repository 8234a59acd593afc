"""A knowledge base of EntityWorld, read for what its records show."""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from reimagen_jax.data.entityworld import World, entity_look
from reimagen_jax.errors import UserError
from reimagen_jax.progress import track
from reimagen_jax.retrieval.knowledge_base import KnowledgeBase
from reimagen_jax.systems.request import Neighbour


@dataclass(frozen=True, eq=False)
class Inventory:
    """A knowledge base of EntityWorld, with the entity that each of its records shows."""

    base: KnowledgeBase
    world: World
    entity_R: np.ndarray
    """int64: the index of every record's entity."""
    category_R: np.ndarray
    """int64: its category."""

    @classmethod
    def read(cls, base: KnowledgeBase) -> "Inventory":
        """Reads the attributes of all records. Raises `UserError` when they are not of this EntityWorld."""
        world = world_of(base)
        attributes = [record.attributes for record in track(base.records, len(base), "reading records", "record")]
        first = attributes[0]
        if first["look"] != entity_look(world.seed, first["entity_index"]).tolist():
            raise UserError(
                f"{base.records.path} was drawn by another version of EntityWorld, in which {first['entity']} looks "
                "different: write it again with `reimagen prepare`, then index it"
            )
        entity_R = np.array([a["entity_index"] for a in attributes])
        return cls(base, world, entity_R, np.array([a["look"][0] for a in attributes]))

    @cached_property
    def entities(self) -> np.ndarray:
        """The indices of the entities of which there is a record, ascending."""
        return np.unique(self.entity_R)

    @cached_property
    def texts(self) -> frozenset[str]:
        """All captions."""
        return frozenset(self.base.records.texts())

    @cached_property
    def record_of(self) -> dict[str, int]:
        """The number of the record with a key."""
        return {key: i for i, key in enumerate(self.base.records.keys())}

    def of_split(self, split: str) -> np.ndarray:
        """The entities of a split of which there is a record. Raises `UserError` when there are none."""
        members = self.world.entities(split)
        found = self.entities[(self.entities >= members.start) & (self.entities < members.stop)]
        if len(found) == 0:
            raise UserError(
                f"{self.base.path} has no image of an entity of the split {split}: index records that have, or leave "
                "the split out (--splits)"
            )
        return found

    def shown(self, neighbours: Sequence[Neighbour]) -> list[int]:
        """The entities that neighbours show; -1 for one of another knowledge base."""
        own = self.base.fingerprint
        return [int(self.entity_R[self.record_of[each.key]]) if each.base == own else -1 for each in neighbours]


def world_of(base: KnowledgeBase) -> World:
    """The world that the records of a knowledge base were drawn from. Raises `UserError` when they were not."""
    settings = base.records.manifest["settings"].get("world")
    if settings is None:
        raise UserError(
            f"{base.path} is not a knowledge base of EntityWorld, so nobody knows what its entities look like: "
            "`reimagen prepare` and `reimagen index` make one; entities of photographs are for people to judge: "
            "`reimagen evaluate people`"
        )
    known = {field.name for field in dataclasses.fields(World)}
    if set(settings) != known:
        raise UserError(
            f"{base.records.path} was drawn from an EntityWorld with the settings {sorted(settings)}; this version has "
            f"{sorted(known)}: write it again with `reimagen prepare`"
        )
    return World(**{name: tuple(value) if isinstance(value, list) else value for name, value in settings.items()})
