"""A small EntityWorld with its knowledge base, the rater in the package, and a model that copies what it is shown."""

from dataclasses import replace
from types import SimpleNamespace

import jax
import numpy as np
import pytest

from reimagen_jax.data.entityworld import World, entity_look, render_batch
from reimagen_jax.data.records import write_records
from reimagen_jax.data.sources import WorldSource
from reimagen_jax.evaluation.entities.bench import EntityBench, truths
from reimagen_jax.evaluation.entities.inventory import Inventory
from reimagen_jax.evaluation.entities.prompts import draw_prompts
from reimagen_jax.evaluation.rater import Rater
from reimagen_jax.inference.export import save_weights
from reimagen_jax.retrieval.building import Dense
from reimagen_jax.retrieval.knowledge_base import KnowledgeBase
from reimagen_jax.systems.reimagen.system import ReImagen
from tests.seeing import tiny_dual_in
from tests.tiny import TINY, changed

WORLD = World(num_entities=40, num_images=240)
MODEL = changed(TINY, resolution=32)
SPLITS = ("frequent", "rare", "unseen")


@pytest.fixture(scope="session")
def base(tmp_path_factory) -> KnowledgeBase:
    folder = tmp_path_factory.mktemp("world")
    items = WorldSource(WORLD, resolution=32).items()
    records = write_records(items, folder / "records", source="world", settings={"world": vars(WORLD)})
    return KnowledgeBase.build(records, folder / "index", dense=Dense(tiny_dual_in(folder / "encoder"), of="text"))


@pytest.fixture(scope="session")
def outside(tmp_path_factory) -> KnowledgeBase:
    """Of another world, whose records have the same keys."""
    folder, world = tmp_path_factory.mktemp("outside"), replace(WORLD, seed=7)
    items = WorldSource(world, resolution=32).items()
    records = write_records(items, folder / "records", source="world", settings={"world": vars(world)})
    return KnowledgeBase.build(records, folder / "index")


@pytest.fixture(scope="session")
def inventory(base) -> Inventory:
    return Inventory.read(base)


@pytest.fixture(scope="session")
def rater() -> Rater:
    return Rater.open()


@pytest.fixture(scope="session")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    save_weights(folder, MODEL, jax.jit(ReImagen(MODEL).init)(jax.random.key(0)))
    return folder


class Copyist:
    """Draws the first neighbour's entity in the prompt's scene; an entity of its own choice without neighbours."""

    def __init__(self, inventory: Inventory):
        self.inventory = inventory
        self.config, self.settings, self.seed = MODEL, replace(MODEL.system.sampler, k=3), 0
        self.stages = [SimpleNamespace(config=MODEL, settings=self.settings, batch_size=8)]
        self.calls = 0

    def __call__(self, requests, what=""):
        self.calls += 1
        known = {p.text: p for split in SPLITS for p in draw_prompts(self.inventory, split, 10, self.seed)}
        prompts = [known[request.prompt] for request in requests]
        drawn = [self.inventory.shown(request.neighbours[:1]) or [3] for request in requests]
        looks = np.stack([entity_look(WORLD.seed, ids[0]) for ids in drawn])
        images = render_batch(looks, truths(prompts, 1)[1], MODEL.system.resolution)
        return np.round(images * 255).astype(np.uint8)


@pytest.fixture
def bench(inventory, rater) -> EntityBench:
    return EntityBench(Copyist(inventory), "copyist", rater, inventory, num_prompts=10, num_images=2)
