"""A super-resolution stage: its low-resolution input in training and in drawing, its neighbours, its noise."""

import dataclasses
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from reimagen_jax.diffusion import degrade
from reimagen_jax.diffusion import sampler as diffusion
from reimagen_jax.diffusion.sampler import image_keys
from reimagen_jax.errors import UserError
from reimagen_jax.nets.unet import Condition
from reimagen_jax.systems.pixels import to_model
from reimagen_jax.systems.reimagen.condition import Batch, Inputs
from reimagen_jax.systems.reimagen.system import ReImagen
from tests.tiny import TINY, TINY_CROPS, TINY_SR, changed, random_params


def batch_for(config, seed: int = 0, size: int = 4) -> Batch:
    """Noise; neighbours as many as the experiment has."""
    rng, side, k = np.random.default_rng(seed), config.system.train_resolution, config.data.num_neighbours
    image = rng.integers(0, 256, (size, side, side, 3), np.uint8)
    neighbours = rng.integers(0, 256, (size, k, config.system.resolution, config.system.resolution, 3), np.uint8)
    tokens = rng.integers(1, 200, (size, 32), np.int32)
    batch = Batch(image, tokens, neighbours, np.repeat(tokens[:, None], k, axis=1), np.ones((size, k), bool))
    return jax.tree.map(jnp.asarray, batch)


def stage(**settings):
    return ReImagen(changed(TINY_SR, super_resolution=dataclasses.replace(TINY_SR.system.super_resolution, **settings)))


def inputs_for(config, low, size: int = 4, **batch) -> Inputs:
    """To enlarge `low`, with the neighbours of `batch_for`."""
    batch = batch_for(config, size=size, **batch)
    neighbours = batch.nbr_image_BKHWC, batch.nbr_tokens_BKL, batch.nbr_mask_BK
    return Inputs(batch.tokens_BL, *neighbours, *(jnp.full(size, value) for value in (0.5, 2.0, 2.0)), low)


def empty_condition(size: int) -> Condition:
    return Condition(jnp.zeros((size, 8, 16)), jnp.ones((size, 8), bool))


@pytest.fixture(scope="module")
def params():
    return random_params(TINY_SR)


def test_the_input_without_degradation_and_noise_is_the_image_shrunk_and_enlarged():
    system = stage(blur=0.0, shrinking=("area",), aug_levels=(0.0, 0.1))
    sampler = dataclasses.replace(TINY.system.sampler, aug_level=0.0)
    plain = dataclasses.replace(system.model.super_resolution, aug_levels=(0.0, 0.0))
    system = ReImagen(changed(system.config, super_resolution=plain, sampler=sampler))
    image = to_model(batch_for(TINY_SR).image_BHWC)
    condition = system.degraded(empty_condition(4), image, jax.random.key(0))
    expected = degrade.enlarge(degrade.shrink(image, 16), 32)
    np.testing.assert_allclose(condition.low_res_BHWC, expected, atol=1e-5)
    np.testing.assert_array_equal(condition.aug_level_B, 0.0)


def test_the_network_is_told_the_level_of_its_inputs_noise():
    image = jnp.zeros((64, 32, 32, 3))
    condition = stage().degraded(empty_condition(64), image, jax.random.key(0))
    _, sigma_B = degrade.alpha_sigma(condition.aug_level_B, TINY_SR.system.super_resolution)
    np.testing.assert_allclose(condition.low_res_BHWC.std(axis=(1, 2, 3)), sigma_B, rtol=0.1)
    assert float(condition.aug_level_B.std()) > 0.2


def test_drawings_input_is_the_image_given_at_level_0_and_has_noise_of_its_own_above():
    system, keys = ReImagen(TINY_SR), image_keys(0, range(4))
    low = batch_for(TINY).image_BHWC
    clean = system.enlarged(empty_condition(4), low, 0.0, keys)
    np.testing.assert_array_equal(clean.low_res_BHWC, degrade.enlarge(to_model(low), 32))
    noisy = system.enlarged(empty_condition(4), low, 0.3, keys)
    np.testing.assert_array_equal(noisy.aug_level_B, np.float32(0.3))
    one = system.enlarged(empty_condition(1), low[2:3], 0.3, keys[2:3])
    np.testing.assert_array_equal(one.low_res_BHWC[0], noisy.low_res_BHWC[2])


def noises(params, aug_noise, indices, guidance):
    """The noise on the low-resolution input at every call of the network: [calls, B, rows, H, W, 3]."""
    system, low = ReImagen(TINY_SR), jnp.zeros((len(indices), 16, 16, 3), jnp.uint8)
    settings = dataclasses.replace(system.settings, aug_noise=aug_noise, aug_level=0.3, guidance=guidance)
    settings = settings.changed(solver="heun", num_steps=2)
    inputs, seen = inputs_for(TINY_SR, low, size=len(indices)), []

    def denoise(x, t_B, condition):
        told = condition.low_res_BHWC, condition.aug_level_B
        jax.debug.callback(lambda *told: seen.append(told), *told, ordered=True)
        return x

    @jax.jit
    def draw(params, inputs, keys):
        return diffusion.sample(*system.sampling(params, inputs, keys, settings)._replace(denoise=denoise))

    draw(params, inputs, image_keys(0, indices))
    jax.effects_barrier()
    assert all(np.all(level_N == np.float32(0.3)) for _, level_N in seen)
    alpha, sigma = degrade.alpha_sigma(jnp.float32(0.3), TINY_SR.system.super_resolution)
    eps = (np.stack([low for low, _ in seen]) + float(alpha)) / float(sigma)  # of black images
    return eps.reshape(len(seen), len(indices), -1, 32, 32, 3)


@pytest.mark.parametrize(("guidance", "rows"), [("interleaved", 2), ("compositional", 3)])
def test_noise_on_the_low_resolution_may_be_drawn_at_every_call(params, guidance, rows):
    once, anew = (noises(params, which, [0, 1], guidance) for which in ("once", "every_call"))
    assert once.shape == anew.shape == (3, 2, rows, 32, 32, 3)  # Heun's method asks three times in two steps
    np.testing.assert_array_equal(once, np.broadcast_to(once[:1, :, :1], once.shape))
    each = anew.reshape(3 * 2 * rows, -1)
    np.testing.assert_allclose(np.cov(each), np.eye(len(each)), atol=0.1)
    assert abs(each.mean()) < 0.02
    alone = noises(params, "every_call", [1], guidance)
    np.testing.assert_array_equal(alone[:, 0], anew[:, 1])


def test_neighbours_come_with_their_own_clean_low_resolution_versions():
    neighbours = to_model(batch_for(TINY_SR).nbr_image_BKHWC)
    (low,) = ReImagen(TINY_SR)._clean_low_res(neighbours)
    expected = degrade.enlarge(degrade.shrink(neighbours[:, 1], 16), 32)
    np.testing.assert_allclose(low[:, 1], expected, atol=1e-6)
    assert ReImagen(TINY)._clean_low_res(neighbours) == ()


@pytest.mark.parametrize("config", [TINY_SR, TINY_CROPS], ids=lambda config: config.name)
def test_the_loss_is_a_function_of_its_key_and_reaches_every_parameter(config):
    config = changed(config, text_drop=0.5, neighbour_drop=0.5)
    system, params, batch = ReImagen(config), random_params(config), batch_for(config)
    gradient = jax.jit(jax.value_and_grad(lambda p, key: system.loss(p, batch, key)[0]))
    loss, grads = gradient(params, jax.random.key(0))
    again, _ = gradient(params, jax.random.key(0))
    other, _ = gradient(params, jax.random.key(1))
    assert float(loss) == float(again) != float(other) and np.isfinite(float(loss))
    still = [
        jax.tree_util.keystr(path)
        for path, g in jax.tree_util.tree_leaves_with_path(grads)
        if not np.any(np.asarray(g))
    ]
    assert not still


def test_the_low_resolution_image_and_the_level_matter(params):
    system, low = ReImagen(TINY_SR), batch_for(TINY).image_BHWC

    @partial(jax.jit, static_argnums=1)
    def draw(low, aug_level):
        sampler = dataclasses.replace(TINY_SR.system.sampler, aug_level=aug_level)
        return system.sample(params, inputs_for(TINY_SR, low), image_keys(0, range(4)), sampler)

    drawn = draw(low, 0.1)
    assert drawn.shape == (4, 32, 32, 3) and drawn.dtype == jnp.uint8
    assert jnp.any(drawn != draw(255 - low, 0.1))
    assert jnp.any(drawn != draw(low, 0.3))


def test_a_stage_trained_on_crops_draws_any_size():
    system, params = ReImagen(TINY_CROPS), random_params(TINY_CROPS)
    keys = image_keys(0, range(2))
    for side in (8, 32):
        inputs = inputs_for(TINY_CROPS, jnp.zeros((2, side, side, 3), jnp.uint8), size=2)
        drawn = jax.eval_shape(lambda inputs: system.sample(params, inputs, keys, TINY_CROPS.system.sampler), inputs)
        assert drawn.shape == (2, 2 * side, 2 * side, 3)


def test_an_image_that_is_missing_or_too_many_is_refused(params):
    keys = image_keys(0, range(1))
    with pytest.raises(UserError, match="tiny_sr takes a low-resolution image"):
        ReImagen(TINY_SR).sample(params, inputs_for(TINY_SR, None, size=1), keys, TINY_SR.system.sampler)
    low = jnp.zeros((1, 8, 8, 3), jnp.uint8)
    with pytest.raises(UserError, match="tiny takes no low-resolution image"):
        ReImagen(TINY).sample(params, inputs_for(TINY, low, size=1), keys, TINY.system.sampler)
