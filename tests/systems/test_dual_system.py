"""The dual encoder as a system: its loss is CLIP's where all pairs differ, and the loop teaches it what words mean."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from reimagen_jax import sharding
from reimagen_jax.config import Experiment, TrainConfig, to_json
from reimagen_jax.data.records import ImageText, write_records
from reimagen_jax.encoders.dual import DualEncoder
from reimagen_jax.errors import UserError
from reimagen_jax.inference.model import Model
from reimagen_jax.inference.pipeline import Stage
from reimagen_jax.preflight import programs
from reimagen_jax.systems import kinds
from reimagen_jax.systems.dual import measure, system
from reimagen_jax.systems.dual.feed import DualFeed
from reimagen_jax.systems.dual.pairs import Pairs, Things, drop_words, split
from reimagen_jax.systems.dual.settings import DualData, DualSampler, DualSystemConfig
from reimagen_jax.systems.dual.system import DualBatch, DualSystem
from reimagen_jax.systems.request import Request
from reimagen_jax.training import loop
from tests.encoders.test_dual import TINY
from tests.samples import encoded, records_of

COLOURS = {"red": (220, 30, 30), "green": (30, 200, 40), "blue": (40, 50, 230), "white": (250, 250, 250)}


@pytest.fixture(scope="module")
def records(tmp_path_factory):
    """Noisy pictures of one colour each, 24 of every colour."""

    def coloured(i: int, colour: str) -> ImageText:
        pixels = COLOURS[colour] + np.random.default_rng(i).normal(0, 30, (8, 8, 3))
        picture = Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))
        return ImageText(f"k{i}", encoded(picture), f"{colour} paint", {"number": i % 3})

    examples = [coloured(i, list(COLOURS)[i % 4]) for i in range(96)]
    return write_records(examples, tmp_path_factory.mktemp("paint") / "r", source="paint")


@pytest.fixture(scope="module")
def pairs(records):
    return Pairs(records, TINY)


def experiment(records, num_steps=60, batch_size=16, learning_rate=5e-3, views=0.0, **data) -> Experiment:
    train = TrainConfig(
        num_steps=num_steps,
        learning_rate=learning_rate,
        warmup_steps=num_steps // 20,
        weight_decay=0.05,
        ema_decay=0.99,
        checkpoint_every=2,
        sample_every=0,
    )
    data = DualData(**{"batch_size": batch_size, "records": str(records.path), "held_out": 0.25, **data})
    return Experiment("tiny", DualSystemConfig(TINY, views=views), data, train=train)


def train(config, workdir) -> tuple[loop.Outcome, DualFeed]:
    """By the one loop, as `reimagen train` does."""
    feed = kinds.feed_of(config).settled()
    outcome = loop.train(config, workdir, kinds.system_of(config), feed.dataset(), data_fingerprint=feed.fingerprint)
    return outcome, feed


# -- the loss


def scores(seed=0, size=6):
    return 3.0 * jax.random.normal(jax.random.key(seed), (size, size))


def test_loss_of_different_pairs_is_clips():
    score, each = scores(), jnp.arange(6)
    by_image = jax.nn.log_softmax(score, axis=1)[each, each]
    by_text = jax.nn.log_softmax(score, axis=0)[each, each]
    expected = -(by_image.mean() + by_text.mean()) / 2
    np.testing.assert_allclose(system.contrast(score, jnp.eye(6, dtype=bool)), expected, rtol=1e-6)


def test_pairs_that_belong_together_do_not_repel_each_other():
    match = system.matches(jnp.array([[0, 0], [0, 1], [2, 2], [3, 2], [4, 4], [5, 5]], jnp.int32))
    assert np.array_equal(np.argwhere(np.triu(match, 1)), [[0, 1], [2, 3]])
    ideal = jnp.where(match, 0.0, -40.0)
    gradient = jax.grad(system.contrast)(ideal, match)
    np.testing.assert_allclose(gradient, 0.0, atol=1e-6)  # all pairs of a group equally near: nothing to gain
    apart = jnp.where(jnp.eye(6, dtype=bool), 0.0, -40.0)
    assert system.contrast(apart, match) > system.contrast(ideal, match)


def test_loss_does_not_depend_on_the_order_of_the_batch():
    order = np.array([3, 1, 5, 0, 2, 4])
    match = system.matches(jnp.array([[0], [1], [1], [2], [3], [4]], jnp.int32))
    there, here = scores(), scores()[order][:, order]
    expected = system.contrast(there, match)
    np.testing.assert_allclose(system.contrast(here, match[order][:, order]), expected, rtol=1e-6)


def test_each_is_told_from_the_whole_batch_however_many_devices_share_it(records, pairs):
    tiny, mesh = DualSystem(experiment(records)), sharding.make_mesh()
    batch = pairs.batch(np.arange(16), np.array(pairs.texts)[:16])
    params = jax.jit(tiny.init)(jax.random.key(0))
    loss = jax.jit(tiny.loss)
    whole, split = (loss(params, b, jax.random.key(1))[0] for b in (batch, sharding.global_batch(batch, mesh)))
    np.testing.assert_allclose(whole, split, rtol=1e-5)


# -- the batch


def test_images_are_shifted_each_by_its_own_amount_and_nothing_else():
    ramp = np.broadcast_to((np.arange(8) * 30).astype(np.uint8)[None, None, :, None], (32, 8, 8, 3))
    moved = np.asarray(system.shifted(jax.random.key(0), jnp.asarray(ramp), 2))
    amounts = (moved[:, 4, 4, 0] // 30).astype(int) - 4
    assert set(amounts) == {-2, -1, 0, 1, 2}
    for image, amount in zip(moved, amounts, strict=True):
        assert np.array_equal(image[3, :, 1], 30 * np.clip(np.arange(8) + amount, 0, 7))
    assert np.array_equal(system.shifted(jax.random.key(0), jnp.asarray(ramp), 0), ramp)


def test_a_view_is_another_picture_of_the_same_thing_or_itself_where_that_is_alone(records):
    ids = np.arange(3, 90)  # what is held out is never seen
    things, rng = Things(records, "number", ids), np.random.default_rng(0)
    seen = {i: set() for i in (3, 4, 5)}
    for _ in range(300):
        for i, other in zip(seen, things.others(np.array(list(seen)), rng), strict=True):
            seen[i].add(int(other))
    assert seen == {i: {other for other in ids.tolist() if other % 3 == i % 3} - {i} for i in seen}
    assert things.thing_N.tolist() == [i % 3 for i in range(96)]
    alone = Things(records, "number", np.array([0, 1, 4]))
    assert alone.others(np.array([0, 1, 4]), rng).tolist() == [0, 4, 1]


def test_the_loss_among_images_tells_a_thing_by_another_picture_of_it(records):
    config = experiment(records, views=0.5, views_by="number")
    config = dataclasses.replace(config, system=dataclasses.replace(config.system, shift=0.0))
    learner, batch = DualSystem(config), next(iter(DualFeed(config).dataset()))
    told, spec = (jax.tree.map(lambda x: (x.shape, x.dtype), each) for each in (batch, learner.batch_spec(16)))
    assert told == spec
    params, loss = jax.jit(learner.init)(jax.random.key(0)), jax.jit(learner.loss)
    (whole, told), (texts, _) = (loss(params, each, jax.random.key(1)) for each in (batch, batch._replace(views=None)))
    encoder = DualEncoder(TINY, params)
    score = encoder.images(batch.image_BHWC) @ encoder.images(batch.views.image_BHWC).T / np.float32(0.07)
    thing = batch.views.group_B1[:, 0]
    among = system.contrast(jnp.asarray(score), jnp.asarray(thing[:, None] == thing[None, :]))
    np.testing.assert_allclose(told["among_images"], among, rtol=1e-4)
    np.testing.assert_allclose(whole, texts + 0.5 * among, rtol=1e-5)


def test_views_and_what_they_are_of_are_set_both_or_neither(records):
    for data, views in (({"views_by": "number"}, 0.0), ({}, 1.0)):
        with pytest.raises(UserError, match=r"views is .* and data\.views_by"):
            experiment(records, views=views, **data)


def test_words_are_left_out_in_order_and_never_all():
    words = ["one", "two", "three", "four", "five", "six", "seven", "eight"]
    rng = np.random.default_rng(0)
    texts = [drop_words(" ".join(words), rng, 0.5).split() for _ in range(400)]
    assert all(sorted(text, key=words.index) == text and text for text in texts)
    assert abs(np.mean([len(text) for text in texts]) - 4) < 0.3
    assert drop_words("dog", rng, 0.99) == "dog"
    assert drop_words("a  b", rng, 0.0) == "a b"


def test_pairs_of_one_caption_or_one_attribute_belong_together(records, pairs):
    def agree(pairs):
        return np.asarray(system.matches(jnp.asarray(pairs.group_NG)))

    i, j = np.meshgrid(np.arange(96), np.arange(96))
    assert np.array_equal(agree(pairs), i % 4 == j % 4)
    assert np.array_equal(agree(Pairs(records, TINY, "number")), i % 3 == j % 3)
    with pytest.raises(UserError, match=r"record k0 has no attribute 'size'.*number"):
        Pairs(records, TINY, "size")


def test_images_are_the_same_from_memory_and_from_disk(records, pairs):
    ids = np.array([5, 90, 5, 0])
    from_disk = Pairs(records, TINY, cache_bytes=0)
    assert from_disk._cache is None
    assert np.array_equal(from_disk.images(ids), pairs.images(ids))


def test_no_picture_is_both_learned_from_and_measured_by():
    picture = np.array([0, 0, 0, 1, 2, 3, 3, 4, 5, 6, 7, 8])
    groups = np.stack([np.arange(12), picture], axis=1)
    kept = []
    for seed in range(5):
        learned, held = split(groups, DualData(batch_size=2, held_out=0.4, seed=seed))
        assert sorted([*learned, *held]) == list(range(12))
        assert not set(picture[learned]) & set(picture[held])
        assert len(set(picture[held])) == 4  # of 9 pictures
        kept.append(tuple(held))
    assert len(set(kept)) > 1


def test_every_epoch_has_all_pairs_in_another_order(records):
    feed = DualFeed(experiment(records, batch_size=24, held_out=0.25))
    learned, held = feed.split
    picture_N = feed.pairs.group_NG[:, 1]
    batches = iter(feed.dataset())
    epochs = [np.concatenate([next(batches).group_BG[:, 1] for _ in range(3)]) for _ in range(2)]
    assert len(learned) == 72 and len(held) == 24
    assert all(sorted(epoch) == sorted(picture_N[learned]) for epoch in epochs)
    assert not np.array_equal(*epochs)


def test_processes_share_a_batch_and_words_are_dropped_anew_in_every_step(records):
    feed = DualFeed(experiment(records, word_drop=0.5))
    whole = iter(feed.dataset())
    parts = [iter(feed.dataset(process_index=i, process_count=2)) for i in range(2)]
    tokens = []
    for _ in range(3):
        batch = next(whole)
        together = jax.tree.map(lambda *leaves: np.concatenate(leaves), *map(next, parts))
        assert all(map(np.array_equal, batch, together))
        tokens.append(batch.tokens_BL)
    assert len({len(np.trim_zeros(row)) for rows in tokens for row in rows}) > 2  # "red paint", "red", "paint", ...


# -- what is measured


def test_found_and_chance():
    match = np.array([[1, 0, 0, 0], [0, 1, 1, 0]], bool)
    score = np.array([[0.9, 0.1, 0.2, 0.3], [0.9, 0.8, 0.1, 0.2]])
    assert measure.found(score, match) == [0.5, 1.0, 1.0]
    assert measure.found(np.zeros((2, 4)), match) == [0.0, 1.0, 1.0]  # ties are not luck
    rng = np.random.default_rng(0)
    draws = np.array([rng.permutation(4)[:2] for _ in range(20000)])
    simulated = np.mean([match[q][draws].any(axis=1).mean() for q in range(2)])
    assert abs(measure.chance(match, 2) - simulated) < 0.01
    assert measure.chance(match, 10) == 1.0


def test_it_learns_which_colour_a_word_means(records, pairs, tmp_path):
    outcome, feed = train(experiment(records), tmp_path / "run")
    learned, held = feed.split
    encoder = DualEncoder(TINY, jax.device_get(outcome.state.ema))
    measured = measure.measure(encoder, feed.pairs, held)
    assert measured["held_out"] == 24 and len(learned) == 72
    assert measured["chance"]["1"] < 0.4
    assert measured["text to image"]["1"] > 0.95
    assert measured["image to text"]["1"] > 0.95
    asked = encoder.texts(["blue", "red"]) @ encoder.images(pairs.images(np.arange(96))).T
    assert (asked.argmax(axis=1) % 4).tolist() == [2, 0]


def test_the_same_seed_trains_the_same_encoder_also_in_two_goes(records, tmp_path):
    config = experiment(records, num_steps=4)
    config = dataclasses.replace(config, train=dataclasses.replace(config.train, decay="constant", fsdp=2))
    half = dataclasses.replace(config, train=dataclasses.replace(config.train, num_steps=2))
    for folder, goes in (("a", [config]), ("b", [config]), ("c", [half, config])):
        for each in goes:
            train(each, tmp_path / folder)
    models = [Model.open(tmp_path / folder) for folder in "abc"]
    assert [model.step for model in models] == [4, 4, 4]
    assert len({DualEncoder(TINY, model.params).fingerprint for model in models}) == 1


def test_what_cannot_be_trained(tmp_path, records):
    few = experiment(records_of(tmp_path / "r", ["a", "b", "c"]), batch_size=128)
    with pytest.raises(UserError, match=r"3 records are too few.*batch_size"):
        train(few, tmp_path / "run")
    with pytest.raises(UserError, match="not divisible by the 8 devices"):
        train(experiment(records, batch_size=12), tmp_path / "run")
    with pytest.raises(UserError, match=r"is (nan|inf) at step \d.*learning_rate"):
        train(experiment(records, num_steps=3, learning_rate=1e38), tmp_path / "run")
    nowhere = dataclasses.replace(experiment(records), data=DualData())
    with pytest.raises(UserError, match=r"data.records is not set.*reimagen prepare"):
        train(nowhere, tmp_path / "run")
    config = experiment(records)
    for name, value in (("accumulate", 2), ("parallel", "pmap")):
        with pytest.raises(UserError, match=f"train.{name}"):
            train(dataclasses.replace(config, train=dataclasses.replace(config.train, **{name: value})), tmp_path / "r")


def test_a_batch_is_a_tree_of_arrays(records, pairs):
    batch = pairs.batch(np.arange(4), np.array(pairs.texts)[:4])
    assert isinstance(batch, DualBatch)
    assert [leaf.shape for leaf in jax.tree.leaves(batch)] == [(4, 8, 8, 3), (4, 16), (4, 2)]
    spec = DualSystem(experiment(records)).batch_spec(4)
    told, expected = ([(leaf.shape, leaf.dtype) for leaf in jax.tree.leaves(each)] for each in (batch, spec))
    assert told == expected


@pytest.mark.parametrize(
    "changes",
    [{"num_steps": 0}, {"batch_size": 1}, {"word_drop": 1.0}, {"held_out": 0.0}, {"held_out": 1.0}],
)
def test_values_out_of_range(records, changes):
    with pytest.raises(UserError, match=next(iter(changes))):
        experiment(records, **changes)
    with pytest.raises(UserError, match="shift"):
        DualSystemConfig(TINY, shift=0.6)


# -- the contracts


def test_it_is_a_kind_whose_experiments_are_stored(records, pairs):
    config = experiment(records, same_by="number")
    assert kinds.from_json(to_json(config)) == config
    assert isinstance(kinds.system_of(config), DualSystem) and isinstance(kinds.feed_of(config), DualFeed)
    batch = pairs.batch(np.arange(4), np.array(pairs.texts)[:4])
    assert kinds.feed_of(config).preview(batch) is None


def test_a_stage_draws_the_vectors_of_the_encoder(records, pairs):
    config = experiment(records)
    params = jax.jit(DualSystem(config).init)(jax.random.key(0))
    encoder, pixels = DualEncoder(TINY, params), pairs.images(np.arange(3))
    texts = ["red paint", "", "nobody has seen this"]
    drawn = Stage(config, params, batch_size=2).draw([Request(text) for text in texts])
    np.testing.assert_allclose(drawn, encoder.texts(texts), atol=1e-6)
    of_images = Stage(config, params, DualSampler("image"), batch_size=2)
    drawn = of_images.draw([Request(start=image) for image in pixels])
    np.testing.assert_allclose(drawn, encoder.images(pixels), atol=1e-6)
    assert of_images.draw([]).shape == (0, TINY.width)
    with pytest.raises(UserError, match="none is given"):
        of_images.draw([Request("red paint")])
    with pytest.raises(UserError, match=r"reads uint8 images \[8, 8, 3\], not uint8 \[4, 4, 3\]"):
        of_images.draw([Request(start=np.zeros((4, 4, 3), np.uint8))])
    with pytest.raises(UserError, match="takes no image"):
        Stage(config, params).draw([Request(start=pixels[0])])


def test_preflight_compiles_its_programs(records):
    config, mesh = experiment(records), sharding.make_mesh()
    for program in (programs.train_program(config, mesh), programs.sampler_program(config, mesh, 16)):
        assert program.jitted.lower(*program.arguments).compile() is not None and program.model_flops > 0
