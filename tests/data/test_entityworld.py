"""EntityWorld: looks are distinct and legible, captions say nothing of them, images agree across resolutions."""

import dataclasses
import inspect
import io
import itertools
import json
import re

import jax
import numpy as np
import pytest
from PIL import Image

from reimagen_jax.data.entityworld import (
    CATEGORIES,
    LOOK_PARAMETERS,
    NUM_PARAMETERS,
    SCENE_PARAMETERS,
    World,
    caption,
    describe_look,
    entity_look,
    entity_looks,
    entity_name,
    render,
    render_batch,
    sample_looks,
    sample_scenes,
)
from reimagen_jax.data.entityworld.dataset import zipf_counts
from reimagen_jax.data.entityworld.looks import VALUE_COUNTS, permute
from reimagen_jax.data.entityworld.scenes import MAX_CAPTION_BYTES, TELL_ALL, WORDINGS, draw_scene
from reimagen_jax.data.entityworld.shapes import block, distance
from reimagen_jax.errors import UserError

RES = 32
CONTEXTS = 6  # other values, scenes and jitter, in each of which a parameter must show
MIN_PIXELS = 6  # that it changes at 32 pixels, by at least MIN_CHANGE in a channel
MIN_CHANGE = 0.15
SMALL_WORLD = World(num_entities=50, num_images=400)


def batch(n: int, seed: int):
    key_look, key_scene = jax.random.split(jax.random.key(seed))
    return np.array(sample_looks(key_look, n)), jax.tree.map(np.array, sample_scenes(key_scene, n))


def rendered(looks: np.ndarray, scenes) -> np.ndarray:
    """Of [V, N] looks or scenes, at once: a program draws 128, whatever it is asked for."""
    together = render_batch(
        looks.reshape(-1, looks.shape[-1]), jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), scenes), RES
    )
    return together.reshape(*looks.shape[:2], *together.shape[1:])


def changed_pixels(images_VNHWC: np.ndarray, change: float = MIN_CHANGE) -> int:
    """Fewest pixels in which two values of a parameter differ, over all pairs of values and all contexts."""
    pairs = itertools.combinations(images_VNHWC, 2)
    return min(int((np.abs(a - b).max(-1) > change).sum((1, 2)).min()) for a, b in pairs)


def test_parameters_are_eight_and_looks_enough():
    assert tuple(LOOK_PARAMETERS) == CATEGORIES
    for parameters in LOOK_PARAMETERS.values():
        assert len(parameters) == NUM_PARAMETERS == len({p.name for p in parameters})
        assert all(2 <= len(p.values) <= 6 and len(set(p.values)) == len(p.values) for p in parameters)
        assert np.prod([len(p.values) for p in parameters]) > 5000


def test_looks_are_distinct_balanced_and_a_function_of_seed_and_index():
    looks = entity_looks(0, 20_000)
    assert looks.dtype == np.int32 and looks.shape == (20_000, 1 + NUM_PARAMETERS)
    assert len(np.unique(looks, axis=0)) == len(looks)
    assert np.all(looks[:, 1:] < VALUE_COUNTS[looks[:, 0]]) and looks.min() == 0
    for index in (0, 7, 4095, 19_999):
        np.testing.assert_array_equal(entity_look(0, index), looks[index])
    np.testing.assert_array_equal(entity_looks(0, 100), looks[:100])
    assert np.any(entity_looks(1, 100) != looks[:100])
    for category, counts in enumerate(VALUE_COUNTS):  # even early indices use every value about equally often
        early = looks[:4000][looks[:4000, 0] == category]
        for parameter, count in enumerate(counts):
            shares = np.bincount(early[:, 1 + parameter], minlength=count) / len(early)
            assert np.abs(shares - 1 / count).max() < 0.08


@pytest.mark.parametrize("size", [1, 2, 5, 64, 1000])
def test_permute_is_a_bijection(size):
    assert sorted(permute(np.arange(size), size, 3, 1)) == list(range(size))


def test_an_index_outside_the_world_is_refused():
    with pytest.raises(ValueError, match="entity indices"):
        entity_look(0, 10**6)


def test_names_are_unique_and_pronounceable():
    names = [entity_name(0, index) for index in range(20_000)]
    assert len(set(names)) == len(names)
    assert all(re.fullmatch("[A-Z][a-z]{4,8}", name) for name in names)
    assert not any(re.search("[^aeiou]{3}|[aeiou]{2}", name.lower()) for name in names)
    assert entity_name(1, 0) != names[0]


def test_names_are_independent_of_looks():
    looks = entity_looks(0, 10_000)
    letters = np.array([sorted("aeiou").index(re.search("[aeiou]", entity_name(0, i))[0]) for i in range(10_000)])
    for category in range(len(CATEGORIES)):
        mine = looks[:, 0] == category
        table = np.zeros((5, 6))
        np.add.at(table, (letters[mine], looks[mine, 1]), 1)
        table = table[:, table.sum(0) > 0]
        expected = table.sum(1, keepdims=True) * table.sum(0) / table.sum()
        freedom = (table.shape[0] - 1) * (table.shape[1] - 1)
        assert ((table - expected) ** 2 / expected).sum() < freedom + 5 * np.sqrt(2 * freedom)


def test_distance_to_a_box_is_exact():
    x, y = np.meshgrid(np.linspace(-2, 2, 21), np.linspace(-2, 2, 21))
    ux, uy = np.abs(x - 0.3) - 0.5, np.abs(y + 0.2) - 0.7
    exact = np.hypot(np.maximum(ux, 0), np.maximum(uy, 0)) + np.minimum(np.maximum(ux, uy), 0)
    found = distance(np.array(block(0.3, -0.2, 0.7, 0.5), np.float32), x.astype(np.float32), y.astype(np.float32))
    np.testing.assert_allclose(found, exact, atol=1e-5)


@pytest.mark.parametrize("resolution", [RES, 64])
def test_images_are_float_in_range_and_alike_alone_and_in_a_batch(resolution):
    looks, scenes = batch(20, 0)
    images = render_batch(looks, scenes, resolution)
    assert images.shape == (20, resolution, resolution, 3) and images.dtype == np.float32
    assert np.isfinite(images).all() and images.min() >= 0 and images.max() <= 1
    alone = jax.jit(render, static_argnums=2)(looks[3], jax.tree.map(lambda leaf: leaf[3], scenes), resolution)
    np.testing.assert_allclose(alone, images[3], atol=1e-5)


def test_256_averaged_down_agrees_with_64():
    looks, scenes = batch(16, 1)
    fine = render_batch(looks, scenes, 256).reshape(16, 64, 4, 64, 4, 3).mean((2, 4))
    error = np.abs(fine - render_batch(looks, scenes, 64)).mean((1, 2, 3))
    assert error.max() < 0.005


@pytest.mark.parametrize("category", range(len(CATEGORIES)), ids=CATEGORIES)
def test_every_look_parameter_shows_at_the_smallest_size(category):
    looks, scenes = batch(CONTEXTS, 2 + category)
    scenes = scenes.replace(size=np.zeros(CONTEXTS, np.int32))
    rng = np.random.default_rng(category)
    looks = np.concatenate(
        [np.full((CONTEXTS, 1), category), rng.integers(0, VALUE_COUNTS[category], (CONTEXTS, 8))], 1
    )
    parameters = LOOK_PARAMETERS[CATEGORIES[category]]
    numbers = [len(parameter.values) for parameter in parameters]
    varied = np.repeat(looks[None], sum(numbers), 0)
    for place, (number, last) in enumerate(zip(numbers, np.cumsum(numbers), strict=True), start=1):
        varied[last - number : last, :, place] = np.arange(number)[:, None]
    images = rendered(varied, jax.tree.map(lambda leaf: np.repeat(leaf[None], sum(numbers), 0), scenes))
    for parameter, some in zip(parameters, np.split(images, np.cumsum(numbers)[:-1]), strict=True):
        assert changed_pixels(some) >= MIN_PIXELS, parameter.name


@pytest.mark.parametrize("parameter", SCENE_PARAMETERS, ids=lambda p: p.name)
def test_every_scene_parameter_shows_at_every_size(parameter):
    looks, scenes = batch(12, 7)
    scenes = scenes.replace(size=np.arange(12, dtype=np.int32) % 3)
    values = [scenes.replace(**{parameter.name: np.full(12, v, np.int32)}) for v in range(len(parameter.values))]
    images = rendered(np.stack([looks] * len(values)), jax.tree.map(lambda *leaves: np.stack(leaves), *values))
    assert changed_pixels(images, 0.1) >= 80


def test_jitter_moves_pixels_but_little():
    looks, scenes = batch(12, 8)
    still = scenes.replace(jitter=np.zeros_like(scenes.jitter))
    change = np.abs(render_batch(looks, scenes, RES) - render_batch(looks, still, RES)).mean((1, 2, 3))
    assert change.min() > 0.005 and change.max() < 0.2


def words(text: str) -> set[str]:
    return set(re.findall("[a-z]+", text.lower()))


def test_captions_never_tell_the_look():
    assert "look" not in inspect.signature(caption).parameters
    told = set().union(*(words(w) for values in WORDINGS.values() for ways in values.values() for w in ways))
    look_words = set().union(*(words(v) for ps in LOOK_PARAMETERS.values() for p in ps for v in p.values))
    assert not told & look_words
    # The same draws word the same scene alike, whatever entity is in it.
    scene = draw_scene(np.random.default_rng(0))
    for seed in range(50):
        one, _ = caption(np.random.default_rng(seed), "Zuvalo", "bird", scene)
        other, _ = caption(np.random.default_rng(seed), "Mirena", "bird", scene)
        assert one.replace("Zuvalo", "Mirena") == other


def test_captions_tell_name_category_and_what_they_say_they_tell():
    rng = np.random.default_rng(0)
    lengths, complete, texts = [], 0, set()
    for index in range(1500):
        name, category, scene = entity_name(0, index), CATEGORIES[index % 5], draw_scene(rng)
        text, told = caption(rng, name, category, scene)
        assert text.isascii() and len(text) <= MAX_CAPTION_BYTES
        assert re.findall("[A-Za-z]+", text).count(name) == 1 and category in text
        assert "  " not in text and " ," not in text and "{" not in text and text == text.strip(" ,:")
        bare = text.replace(name, "")
        for p in SCENE_PARAMETERS:
            ways = WORDINGS[p.name]
            said = {v for v in p.values for way in ways[v] if re.search(rf"\b{re.escape(_bare(way))}\b", bare)}
            value = p.values[int(getattr(scene, p.name))]
            assert (value in said) == (p.name in told), (text, p.name)
        assert len(told) >= len(SCENE_PARAMETERS) - 1
        complete += len(told) == len(SCENE_PARAMETERS)
        lengths.append(len(text))
        texts.add(bare)
    assert abs(complete / 1500 - TELL_ALL) < 0.04
    assert 50 < np.median(lengths) < 68
    assert len(texts) > 1000


def _bare(way: str) -> str:
    return way.removeprefix("a ")


def test_wordings_are_unambiguous():
    for values in WORDINGS.values():
        ways = [way for some in values.values() for way in some]
        assert len(set(ways)) == len(ways) and all(len(some) >= 3 for some in values.values())


def test_zipf_counts_follow_the_law_above_the_floor():
    counts = zipf_counts(100, 4000, 1.0, 15)
    assert counts.sum() == 4000 and counts.min() == 15 and np.all(np.diff(counts) <= 0)
    above = counts > 15
    rank = np.arange(1, 101)[above]
    slope = np.polyfit(np.log(rank), np.log(counts[above]), 1)[0]
    assert abs(slope + 1.0) < 0.05


def test_default_world_has_its_splits():
    world = World()
    frequent, rare, unseen = (world.entities(split) for split in ("frequent", "rare", "unseen"))
    assert [*frequent, *rare, *unseen] == list(range(8192))
    assert (len(frequent), len(rare), len(unseen)) == world.split_sizes == (4915, 1638, 1639)
    train, reference = world.image_counts("train"), world.image_counts("reference")
    assert train.sum() == 100_000 == world.num_examples("train")
    assert train[frequent].min() >= 8 and set(train[rare]) == {2, 3, 4, 5} and train[unseen].max() == 0
    assert reference[unseen].min() >= 6 and reference[rare].min() >= 1
    assert [world.split_of(i) for i in (0, 4914, 4915, 6552, 6553, 8191)] == (
        ["frequent"] * 2 + ["rare"] * 2 + ["unseen"] * 2
    )


@pytest.mark.parametrize("wrong", [{"num_entities": 10**6}, {"frequent_share": 0.9}, {"num_images": 100}])
def test_contradictions_are_refused(wrong):
    with pytest.raises(UserError, match=str(next(iter(wrong.values())))):
        World(**wrong)


def test_examples_are_complete_deterministic_and_as_many_as_said():
    examples = list(SMALL_WORLD.examples(resolution=RES))
    assert len(examples) == len(SMALL_WORLD) == len({e["key"] for e in examples})
    assert len({e["image"] for e in examples}) == len(examples)
    for e in examples[:: len(examples) // 20]:
        a = e["attributes"]
        assert Image.open(io.BytesIO(e["image"])).size == (RES, RES)
        assert json.loads(json.dumps(a)) == a
        assert a["entity"] in e["text"] and a["category"] == describe_look(np.array(a["look"]))["category"]
        assert a["look"] == entity_look(0, a["entity_index"]).tolist()
        assert a["entity"] == entity_name(0, a["entity_index"])
        number = int(e["key"].split("-")[1].strip("r"))
        assert SMALL_WORLD.example(a["entity_index"], number, a["role"], resolution=RES) == e
    assert not any(e["attributes"]["split"] == "unseen" for e in examples if e["attributes"]["role"] == "train")


@pytest.mark.parametrize(
    ("role", "split"), [("train", "rare"), ("reference", "unseen"), (None, "rare"), ("train", None)]
)
def test_examples_of_a_role_and_a_split(role, split):
    examples = list(SMALL_WORLD.examples(role, split, resolution=RES))
    assert len(examples) == SMALL_WORLD.num_examples(role, split) > 0
    assert {e["attributes"]["role"] for e in examples} <= ({role} if role else {"train", "reference"})
    assert {e["attributes"]["split"] for e in examples} <= ({split} if split else {"frequent", "rare"})


def test_another_seed_is_another_world():
    other = dataclasses.replace(SMALL_WORLD, seed=1)
    assert other.example(0, 0, resolution=RES) != SMALL_WORLD.example(0, 0, resolution=RES)


def test_sampled_looks_use_every_value_and_scenes_are_independent_of_them():
    looks, scenes = batch(20_000, 9)
    for category, counts in enumerate(VALUE_COUNTS):
        mine = looks[looks[:, 0] == category]
        assert np.all(mine[:, 1:].max(0) == counts - 1) and np.all(mine[:, 1:].min(0) == 0)
    for p in SCENE_PARAMETERS:
        drawn = getattr(scenes, p.name)
        assert set(drawn.tolist()) == set(range(len(p.values)))
        assert abs(np.corrcoef(drawn, looks[:, 1])[0, 1]) < 0.04
    assert np.abs(scenes.jitter).max() <= 1
