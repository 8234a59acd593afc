"""The system: loss, condition dropout, and that retrieval is what is learned from neighbours."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from reimagen_jax.diffusion import objective
from reimagen_jax.diffusion.sampler import image_keys
from reimagen_jax.systems.pixels import to_bytes, to_model
from reimagen_jax.systems.reimagen.condition import Batch, Inputs
from reimagen_jax.systems.reimagen.system import ReImagen
from tests.tiny import TINY, changed


def random_batch(seed: int, size: int = 8) -> Batch:
    """Images of one colour each; the neighbours have the colour of the image, the captions tell nothing."""
    rng = np.random.default_rng(seed)
    colour = rng.integers(0, 256, (size, 1, 1, 3), dtype=np.uint8)
    image = np.broadcast_to(colour, (size, 16, 16, 3))
    tokens = np.full((size, 32), 7, np.int32)
    neighbours = np.broadcast_to(image[:, None], (size, 2, 16, 16, 3))
    return Batch(image, tokens, neighbours, np.repeat(tokens[:, None], 2, axis=1), np.ones((size, 2), bool))


def numbers(size: int, *values: float) -> list:
    """Guidance's, the same for all."""
    return [jnp.full(size, value) for value in values]


def inputs(batch: Batch, mask, *guidance: float) -> Inputs:
    """To draw the examples again, with the neighbours of the mask."""
    neighbours = batch.nbr_image_BKHWC, batch.nbr_tokens_BKL, mask
    return Inputs(batch.tokens_BL, *neighbours, *numbers(len(mask), *guidance))


@pytest.fixture(scope="module")
def trained():
    """A tiny system after a short training on `random_batch`."""
    system = ReImagen(TINY)
    optimizer = optax.adam(3e-3)

    @jax.jit
    def step(params, state, batch, key):
        (loss, _), gradient = jax.value_and_grad(system.loss, has_aux=True)(params, batch, key)
        with jax.numpy_dtype_promotion("standard"):  # optax's own arithmetic relies on it
            updates, state = optimizer.update(gradient, state, params)
        return optax.apply_updates(params, updates), state, loss

    params = jax.jit(system.init)(jax.random.key(0))
    state = optimizer.init(params)
    losses = []
    for i in range(500):
        params, state, loss = step(params, state, random_batch(i, 16), jax.random.key(i))
        losses.append(float(loss))
    return system, params, losses


def test_bytes_and_model_range_are_inverse():
    levels = jnp.arange(256, dtype=jnp.uint8)[None, :, None, None]
    np.testing.assert_array_equal(to_bytes(to_model(levels)), levels)
    assert float(to_model(levels).min()) == -1.0 and float(to_model(levels).max()) == 1.0


def test_conditions_are_dropped_independently_at_their_rate(key):
    key_text, key_nbr = jax.random.split(key)
    text, neighbours = objective.dropped(key_text, 20_000, 0.1), objective.dropped(key_nbr, 20_000, 0.1)
    assert abs(float(text.mean()) - 0.1) < 0.01 and abs(float(neighbours.mean()) - 0.1) < 0.01
    assert abs(float((text & neighbours).mean()) - 0.01) < 0.004


def test_the_loss_starts_at_the_targets_power_and_falls(trained):
    _, _, losses = trained
    assert 0.5 < losses[0] < 2.0
    assert np.mean(losses[-20:]) < 0.65 * losses[0]


def test_what_only_neighbours_tell_is_learned_from_them(trained):
    """The loss with neighbours is lower than without, and the samples take the neighbours' colour."""
    system, params, _ = trained
    batch = jax.tree.map(jnp.asarray, random_batch(999, 32))
    quiet = ReImagen(changed(TINY, text_drop=0.0, neighbour_drop=0.0))
    loss = jax.jit(lambda *told: quiet.loss(*told)[0])
    with_neighbours = loss(params, batch, jax.random.key(5))
    without = loss(params, batch.replace(nbr_mask_BK=jnp.zeros((32, 2), bool)), jax.random.key(5))
    assert with_neighbours < 0.9 * without

    sample = jax.jit(system.sample, static_argnums=3)

    def draw(mask):
        keys = image_keys(0, range(32))
        settings = dataclasses.replace(TINY.system.sampler, num_steps=20)
        return sample(params, inputs(batch, mask, 0.0, 1.0, 2.0), keys, settings)

    colour = np.asarray(batch.image_BHWC[:, 0, 0], np.float32)
    drawn = np.asarray(draw(batch.nbr_mask_BK), np.float32).mean(axis=(1, 2))
    imagined = np.asarray(draw(jnp.zeros((32, 2), bool)), np.float32).mean(axis=(1, 2))
    assert np.abs(drawn - colour).mean() < 0.5 * np.abs(imagined - colour).mean()


def test_without_neighbours_the_same_weights_are_imagen(trained):
    system, params, _ = trained
    batch = jax.tree.map(jnp.asarray, random_batch(5))
    none = jnp.zeros((8, 2), bool)
    args, sample = (image_keys(0, range(8)), TINY.system.sampler), jax.jit(system.sample, static_argnums=3)
    masked = sample(params, inputs(batch, none, 0.5, 2.0, 2.0), *args)
    no_room = jax.tree.map(lambda leaf: leaf[:, :0], (batch.nbr_image_BKHWC, batch.nbr_tokens_BKL, none))
    imagen = sample(params, Inputs(batch.tokens_BL, *no_room, *numbers(8, 0.5, 2.0, 2.0)), *args)
    assert np.abs(np.asarray(masked, np.int32) - np.asarray(imagen, np.int32)).max() <= 1
