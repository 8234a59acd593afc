"""A CLIP as a system: the dual encoder's loss with CLIP's temperature and targets, on however many devices."""

import dataclasses
import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from reimagen_jax import sharding
from reimagen_jax.config import Experiment, to_json
from reimagen_jax.encoders.dual import DualEncoder
from reimagen_jax.encoders.settings import ImageTowerConfig, JointConfig, TextTowerConfig, Tower
from reimagen_jax.encoders.vectors import VectorEncoder
from reimagen_jax.errors import UserError
from reimagen_jax.inference.pipeline import Stage
from reimagen_jax.preflight import programs
from reimagen_jax.systems import kinds
from reimagen_jax.systems.dual import measure
from reimagen_jax.systems.dual.feed import DualFeed
from reimagen_jax.systems.dual.settings import ClipSystemConfig, DualSampler
from reimagen_jax.systems.dual.system import HOTTEST, ClipSystem, DualBatch, clipped, contrast, matches
from reimagen_jax.systems.request import Request
from reimagen_jax.training.state import init_state
from reimagen_jax.training.step import make_optimizer, train_step
from tests.systems.test_dual_system import experiment as dual_experiment
from tests.systems.test_dual_system import records

__all__ = ["records"]
SMALL = Tower(16, 1, 2, 24)
TINY = JointConfig(6, TextTowerConfig(SMALL, max_tokens=16), ImageTowerConfig(SMALL, 8, 4))


def experiment(records, targets="groups", shift=0.08, **settings) -> Experiment:
    config = dual_experiment(records, **settings)
    return dataclasses.replace(config, system=ClipSystemConfig(TINY, targets=targets, shift=shift))


@pytest.fixture(scope="module")
def tiny(records):
    """System, parameters, and pairs of eight different texts and pictures."""
    system = ClipSystem(experiment(records))
    tokens = system.towers.tokenizer().encode([f"text {i}" for i in range(8)])
    image = np.random.default_rng(0).integers(0, 256, (8, 8, 8, 3), np.uint8)
    group = np.stack([np.arange(8)] * 2, axis=1).astype(np.int32)
    return system, jax.jit(system.init)(jax.random.key(0)), DualBatch(image, tokens, group)


@functools.cache
def descend(system):
    return jax.jit(jax.value_and_grad(lambda *arguments: system.loss(*arguments)[0]))


def test_its_temperature_is_learned_and_stays_below_a_hundred(tiny):
    system, params, _ = tiny
    assert params["log_scale"].shape == () and math.isclose(system.scale(params), 1 / 0.07, rel_tol=1e-5)
    towards = jax.vmap(jax.grad(lambda x, g: g * clipped(x)))
    x = jnp.array([1.0, HOTTEST - 0.01, HOTTEST + 0.5, HOTTEST + 0.5], jnp.float32)
    # Descent follows -g: where the scale is at its highest, a step further up is not taken, one back is.
    assert towards(x, jnp.array([-2.0, 3.0, -2.0, 3.0])).tolist() == [-2.0, 3.0, 0.0, 3.0]
    hot = {**params, "log_scale": jnp.float32(9.0)}
    assert math.isclose(system.scale(hot), 100.0, rel_tol=1e-5)


def test_the_loss_goes_down_along_its_gradient_and_the_temperature_follows(tiny):
    system, params, batch = tiny
    loss, gradient = descend(system)(params, batch, jax.random.key(1))
    assert abs(gradient["log_scale"]) > 0
    stepped = jax.tree.map(lambda p, g: p - 0.01 * g, params, gradient)
    assert descend(system)(stepped, batch, jax.random.key(1))[0] < loss


@pytest.mark.parametrize("targets", ["groups", "pairs"])
def test_what_is_near_an_image_is_its_group_or_its_own_text_by_choice(tiny, records, targets):
    _, params, batch = tiny
    system, encoder = ClipSystem(experiment(records, targets, shift=0.0)), DualEncoder(TINY, params["clip"])
    batch = batch._replace(group_BG=np.array([[0, 0], [0, 1], *([i, i] for i in range(2, 8))], np.int32))
    loss, metrics = jax.jit(system.loss)(params, batch, jax.random.key(1))
    score = encoder.images(batch.image_BHWC) @ encoder.texts([f"text {i}" for i in range(8)]).T / np.float32(0.07)
    groups, pairs = matches(jnp.asarray(batch.group_BG)), jnp.eye(8, dtype=bool)
    expected, other = (contrast(jnp.asarray(score), match) for match in (groups, pairs))
    if targets == "pairs":
        expected, other = other, expected
    np.testing.assert_allclose(loss, expected, rtol=1e-4)
    assert abs(loss - other) > 1e-3 and 14 < metrics["scale"] < 15


@pytest.mark.parametrize("fsdp", [1, 4])
def test_loss_and_gradient_are_those_of_the_whole_batch_however_many_devices_share_it(tiny, fsdp):
    system, params, batch = tiny
    mesh = sharding.make_mesh(fsdp)
    place = sharding.state_sharding(params, mesh, min_size=64)
    spread = jax.device_put(params, place)
    assert fsdp == 1 or any(not leaf.sharding.is_fully_replicated for leaf in jax.tree.leaves(spread))
    one = descend(system)(params, batch, jax.random.key(1))
    many = descend(system)(spread, sharding.global_batch(batch, mesh), jax.random.key(1))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-4, atol=2e-6), one, jax.device_get(many))


def test_it_learns_which_colour_a_word_means(records):
    feed = DualFeed(experiment(records, num_steps=60))
    system, train = ClipSystem(feed.config), feed.config.train
    optimizer = make_optimizer(train)
    step = jax.jit(train_step(system, optimizer, train))
    state = jax.jit(functools.partial(init_state, system, optimizer))(jax.random.key(0))
    for _, batch in zip(range(train.num_steps), feed.dataset(), strict=False):
        state, _ = step(state, batch, jax.random.key(1))
    measured = measure.measure(DualEncoder(TINY, state.ema["clip"]), feed.pairs, feed.split[1])
    assert measured["chance"]["1"] < 0.4
    assert measured["text to image"]["1"] > 0.95 and measured["image to text"]["1"] > 0.95


def test_a_stage_draws_the_vectors_of_the_encoder(tiny, records):
    system, params, batch = tiny
    encoder = DualEncoder(TINY, params["clip"])
    assert isinstance(encoder, VectorEncoder)
    texts = ["red paint", "", "nobody has seen this"]
    drawn = Stage(system.config, params, batch_size=4).draw([Request(text) for text in texts])
    np.testing.assert_allclose(drawn, encoder.texts(texts), atol=1e-6)
    of_images = Stage(system.config, params, DualSampler("image"), batch_size=4)
    drawn = of_images.draw([Request(start=image) for image in batch.image_BHWC[:3]])
    np.testing.assert_allclose(drawn, encoder.images(batch.image_BHWC[:3]), atol=1e-6)
    np.testing.assert_allclose(np.linalg.norm(drawn, axis=1), 1.0, atol=1e-5)


def test_it_is_a_kind_whose_experiments_are_stored(records):
    config = experiment(records, targets="pairs")
    assert kinds.from_json(to_json(config)) == config
    assert isinstance(kinds.system_of(config), ClipSystem) and isinstance(kinds.feed_of(config), DualFeed)
    with pytest.raises(UserError, match=r"network\.image is missing"):
        ClipSystemConfig(dataclasses.replace(TINY, image=None))
    told = kinds.system_of(config).about()
    assert told["Texts"] == "bytes, up to 16 with the end" and told["Images"] == "8 x 8 pixels"


def test_preflight_compiles_its_training(records):
    program = programs.train_program(experiment(records), sharding.make_mesh())
    assert program.jitted.lower(*program.arguments).compile() is not None and program.model_flops > 0
