"""EntityDrawBench's prompts: fresh, about their split, with neighbours as their source promises."""

import dataclasses

import pytest

from reimagen_jax.data.entityworld import CATEGORIES, entity_look
from reimagen_jax.data.records import ImageText, write_records
from reimagen_jax.data.sources import WorldSource
from reimagen_jax.errors import UserError
from reimagen_jax.evaluation.entities.inventory import Inventory, world_of
from reimagen_jax.evaluation.entities.prompts import SOURCES, draw_prompts, find_neighbours
from reimagen_jax.retrieval.knowledge_base import KnowledgeBase
from tests.evaluation.entities.conftest import SPLITS, WORLD
from tests.samples import records_of


def test_prompts_are_fresh_about_the_split_and_the_first_of_more(inventory):
    stored = set(inventory.base.records.texts())
    for split in SPLITS:
        prompts = draw_prompts(inventory, split, 12, seed=0)
        assert all(WORLD.split_of(p.index) == split for p in prompts)
        assert not stored & {p.text for p in prompts}
        assert all(p.name in p.text and CATEGORIES[p.look[0]] in p.text for p in prompts)
        assert len({p.index for p in prompts}) == min(12, len(WORLD.entities(split)))
        assert [p.text for p in draw_prompts(inventory, split, 5, seed=0)] == [p.text for p in prompts[:5]]
        assert [p.text for p in draw_prompts(inventory, split, 12, seed=1)] != [p.text for p in prompts]


def test_a_caption_that_the_base_holds_is_worded_anew(inventory):
    first = draw_prompts(inventory, "unseen", 1, seed=0)[0].text
    knowing = dataclasses.replace(inventory)
    knowing.__dict__["texts"] = inventory.texts | {first}
    (other,) = draw_prompts(knowing, "unseen", 1, seed=0)
    assert other.text != first and other.index == draw_prompts(inventory, "unseen", 1, seed=0)[0].index


@pytest.mark.parametrize("source", SOURCES)
def test_neighbours_are_what_their_source_promises(source, inventory, outside):
    prompts = draw_prompts(inventory, "unseen", 8, seed=0)
    found = find_neighbours(source, prompts, inventory, 3, 32, 0, outside)
    fewer = find_neighbours(source, prompts, inventory, 2, 32, 0, outside)
    for prompt, neighbours, two in zip(prompts, found, fewer, strict=True):
        shown = inventory.shown(neighbours)
        assert [n.key for n in two] == [n.key for n in neighbours[:2]]
        assert len(neighbours) == len({n.key for n in neighbours}) == (0 if source == "none" else 3)
        assert all(n.image.shape == (32, 32, 3) for n in neighbours)
        if source in ("retrieval", "own", "untold"):
            assert set(shown) == {prompt.index}
            assert all(bool(n.text) == (source != "untold") for n in neighbours)
        elif source == "random":
            assert prompt.index not in shown
        elif source == "wrong":
            assert len(set(shown)) == 1 and shown[0] != prompt.index
            assert entity_look(WORLD.seed, shown[0])[0] == prompt.look[0]
        elif source == "outside":
            assert shown == [-1] * 3, "its keys are those of records here, and it shows none of this world's entities"
        elif source in ("dense", "hybrid"):
            ids, _ = inventory.base.search([prompt.text], 3, method=source)
            assert shown == inventory.entity_R[ids[0]].tolist()
    if source == "random":
        assert len({entity_look(WORLD.seed, i)[0] for n in found for i in inventory.shown(n)}) > 1


def test_what_there_is_nowhere_to_search_for_is_refused(inventory, outside):
    prompts = draw_prompts(inventory, "unseen", 1, seed=0)
    with pytest.raises(UserError, match="no other knowledge base"):
        find_neighbours("outside", prompts, inventory, 1, 32, 0)
    with pytest.raises(UserError, match="vectors"):
        find_neighbours("dense", prompts, Inventory.read(outside), 1, 32, 0)


def test_only_entityworld_has_looks_to_compare_with(tmp_path, base):
    other = KnowledgeBase.build(records_of(tmp_path / "r", ["a cat", "a dog"]), tmp_path / "i")
    with pytest.raises(UserError, match="not a knowledge base of EntityWorld"):
        world_of(other)
    examples = list(base.records.fetch(range(3)))
    older = write_records(examples, tmp_path / "old", source="x", settings={"world": {"seed": 0, "size": 3}})
    with pytest.raises(UserError, match=r"settings.*size"):
        world_of(KnowledgeBase.build(older, tmp_path / "oldindex"))
    changed = [ImageText(e.key, e.image, e.text, {**e.attributes, "look": [0] * 9}) for e in examples]
    redrawn = write_records(changed, tmp_path / "new", source="x", settings={"world": vars(WORLD)})
    with pytest.raises(UserError, match="another version of EntityWorld"):
        Inventory.read(KnowledgeBase.build(redrawn, tmp_path / "newindex"))


def test_a_split_without_images_is_refused(tmp_path):
    items = list(WorldSource(WORLD, resolution=16).items())[:20]  # of frequent entities
    records = write_records(items, tmp_path / "r", source="x", settings={"world": vars(WORLD)})
    inventory = Inventory.read(KnowledgeBase.build(records, tmp_path / "i"))
    with pytest.raises(UserError, match=r"no image of an entity of the split unseen.*--splits"):
        draw_prompts(inventory, "unseen", 1, seed=0)
