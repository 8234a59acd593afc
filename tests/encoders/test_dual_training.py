"""Training the dual encoder: the loss is CLIP's where all pairs differ, and it learns what words mean."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from reimagen_jax.data.records import ImageText, write_records
from reimagen_jax.encoders import dual_training
from reimagen_jax.encoders.dual_training import DualBatch, DualSystem, DualTraining, Pairs
from reimagen_jax.errors import UserError
from reimagen_jax.training import sharding
from tests.encoders.test_dual import TINY
from tests.samples import encoded, records_of

COLOURS = {"red": (220, 30, 30), "green": (30, 200, 40), "blue": (40, 50, 230), "white": (250, 250, 250)}
TRAINING = DualTraining(num_steps=60, batch_size=16, learning_rate=5e-3, held_out=0.25)


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


# -- the loss


def scores(seed=0, size=6):
    return 3.0 * jax.random.normal(jax.random.key(seed), (size, size))


def test_loss_of_different_pairs_is_clips():
    score, each = scores(), jnp.arange(6)
    by_image = jax.nn.log_softmax(score, axis=1)[each, each]
    by_text = jax.nn.log_softmax(score, axis=0)[each, each]
    expected = -(by_image.mean() + by_text.mean()) / 2
    np.testing.assert_allclose(dual_training.contrast(score, jnp.eye(6, dtype=bool)), expected, rtol=1e-6)


def test_pairs_that_belong_together_do_not_repel_each_other():
    match = dual_training.matches(jnp.array([[0, 0], [0, 1], [2, 2], [3, 2], [4, 4], [5, 5]], jnp.int32))
    assert np.array_equal(np.argwhere(np.triu(match, 1)), [[0, 1], [2, 3]])
    ideal = jnp.where(match, 0.0, -40.0)
    gradient = jax.grad(dual_training.contrast)(ideal, match)
    np.testing.assert_allclose(gradient, 0.0, atol=1e-6)  # all pairs of a group equally near: nothing to gain
    apart = jnp.where(jnp.eye(6, dtype=bool), 0.0, -40.0)
    assert dual_training.contrast(apart, match) > dual_training.contrast(ideal, match)


def test_loss_does_not_depend_on_the_order_of_the_batch():
    order = np.array([3, 1, 5, 0, 2, 4])
    match = dual_training.matches(jnp.array([[0], [1], [1], [2], [3], [4]], jnp.int32))
    there, here = scores(), scores()[order][:, order]
    expected = dual_training.contrast(there, match)
    np.testing.assert_allclose(dual_training.contrast(here, match[order][:, order]), expected, rtol=1e-6)


def test_each_is_told_from_the_whole_batch_however_many_devices_share_it(pairs):
    system, mesh = DualSystem(TINY, shift=0.1), sharding.make_mesh()
    batch = pairs.batch(np.arange(16), np.random.default_rng(0), 0.0)
    params = jax.jit(system.init)(jax.random.key(0))
    loss = jax.jit(system.loss)
    whole, split = (loss(params, b, jax.random.key(1))[0] for b in (batch, sharding.global_batch(batch, mesh)))
    np.testing.assert_allclose(whole, split, rtol=1e-5)


# -- the batch


def test_images_are_shifted_each_by_its_own_amount_and_nothing_else():
    ramp = np.broadcast_to((np.arange(8) * 30).astype(np.uint8)[None, None, :, None], (32, 8, 8, 3))
    moved = np.asarray(dual_training.shifted(jax.random.key(0), jnp.asarray(ramp), 2))
    amounts = (moved[:, 4, 4, 0] // 30).astype(int) - 4
    assert set(amounts) == {-2, -1, 0, 1, 2}
    for image, amount in zip(moved, amounts, strict=True):
        assert np.array_equal(image[3, :, 1], 30 * np.clip(np.arange(8) + amount, 0, 7))
    assert np.array_equal(dual_training.shifted(jax.random.key(0), jnp.asarray(ramp), 0), ramp)


def test_words_are_left_out_in_order_and_never_all():
    words = ["one", "two", "three", "four", "five", "six", "seven", "eight"]
    rng = np.random.default_rng(0)
    texts = [dual_training.drop_words(" ".join(words), rng, 0.5).split() for _ in range(400)]
    assert all(sorted(text, key=words.index) == text and text for text in texts)
    assert abs(np.mean([len(text) for text in texts]) - 4) < 0.3
    assert dual_training.drop_words("dog", rng, 0.99) == "dog"
    assert dual_training.drop_words("a  b", rng, 0.0) == "a b"


def test_pairs_of_one_caption_or_one_attribute_belong_together(records, pairs):
    def agree(pairs):
        return np.asarray(dual_training.matches(jnp.asarray(pairs.group_NG)))

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
    for seed in range(5):
        learned, held = dual_training.split(groups, DualTraining(batch_size=2, held_out=0.4, seed=seed))
        assert sorted([*learned, *held]) == list(range(12))
        assert not set(picture[learned]) & set(picture[held])


def test_every_epoch_has_all_pairs_in_another_order():
    batches = dual_training.order(np.arange(10, 22), 4, seed=0)
    epochs = [np.concatenate([next(batches) for _ in range(3)]) for _ in range(2)]
    assert all(sorted(epoch) == list(range(10, 22)) for epoch in epochs)
    assert not np.array_equal(*epochs)


# -- what is measured


def test_found_and_chance():
    match = np.array([[1, 0, 0, 0], [0, 1, 1, 0]], bool)
    score = np.array([[0.9, 0.1, 0.2, 0.3], [0.9, 0.8, 0.1, 0.2]])
    assert dual_training.found(score, match) == [0.5, 1.0, 1.0]
    assert dual_training.found(np.zeros((2, 4)), match) == [0.0, 1.0, 1.0]  # ties are not luck
    rng = np.random.default_rng(0)
    draws = np.array([rng.permutation(4)[:2] for _ in range(20000)])
    simulated = np.mean([match[q][draws].any(axis=1).mean() for q in range(2)])
    assert abs(dual_training.chance(match, 2) - simulated) < 0.01
    assert dual_training.chance(match, 10) == 1.0


def test_it_learns_which_colour_a_word_means(pairs):
    encoder, measured = dual_training.train(pairs, TINY, TRAINING)
    assert measured["held_out"] == 24 and measured["trained_on"] == 72
    assert measured["chance"]["1"] < 0.4
    assert measured["text to image"]["1"] > 0.95
    assert measured["image to text"]["1"] > 0.95
    asked = encoder.texts(["blue", "red"]) @ encoder.images(pairs.images(np.arange(96))).T
    assert (asked.argmax(axis=1) % 4).tolist() == [2, 0]


def test_the_same_seed_trains_the_same_encoder(pairs):
    short = DualTraining(num_steps=3, batch_size=16, held_out=0.25)
    encoders = [dual_training.train(pairs, TINY, short)[0] for _ in range(2)]
    assert encoders[0].fingerprint == encoders[1].fingerprint


def test_what_cannot_be_trained(tmp_path, pairs):
    few = Pairs(records_of(tmp_path / "r", ["a", "b", "c"]), TINY)
    with pytest.raises(UserError, match=r"3 records are too few.*--batch-size"):
        dual_training.train(few, TINY, DualTraining())
    with pytest.raises(UserError, match="not a multiple of the 8 devices"):
        dual_training.train(pairs, TINY, DualTraining(batch_size=12))
    with pytest.raises(UserError, match=r"loss is nan.*--learning-rate"):
        dual_training.train(pairs, TINY, DualTraining(num_steps=3, batch_size=16, learning_rate=float("nan")))


def test_a_batch_is_a_tree_of_arrays(pairs):
    batch = pairs.batch(np.arange(4), np.random.default_rng(0), 0.2)
    assert isinstance(batch, DualBatch)
    assert [leaf.shape for leaf in jax.tree.leaves(batch)] == [(4, 8, 8, 3), (4, 16), (4, 2)]


@pytest.mark.parametrize(
    "changes",
    [{"num_steps": 0}, {"batch_size": 1}, {"word_drop": 1.0}, {"shift": 0.6}, {"held_out": 0.0}, {"held_out": 1.0}],
)
def test_values_out_of_range(changes):
    with pytest.raises(UserError, match=next(iter(changes))):
        DualTraining(**changes)
