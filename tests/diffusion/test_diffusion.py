"""Schedules, predictions, solvers and the sampler, against what theory says of them."""

from itertools import pairwise
from typing import get_args

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from reimagen_jax.diffusion import guidance, process, sampler, schedule, solvers
from reimagen_jax.diffusion.base import Prediction
from reimagen_jax.diffusion.settings import DiffusionConfig, SamplerConfig, Solver
from reimagen_jax.nets.unet import Condition
from reimagen_jax.systems.reimagen.condition import drop, drop_one
from reimagen_jax.systems.reimagen.settings import GuidedSamplerConfig

SHAPE = (4, 4, 1)


def plain(batch: int) -> Condition:
    return Condition(jnp.zeros((batch, 1, 1)), jnp.ones((batch, 1), bool), None, jnp.ones((batch, 1), bool))


def gaussian_denoiser(mean: float, std: float, config: DiffusionConfig):
    """The optimal denoiser of samples of any shape whose numbers are independent N(mean, std^2)."""

    def denoise(x, t_B, condition):
        alpha_B, sigma_B = schedule.alpha_sigma(t_B, config)
        alpha, sigma = (process.expand(scale_B, x) for scale_B in (alpha_B, sigma_B))
        x0 = mean + alpha * std**2 / (alpha**2 * std**2 + sigma**2) * (x - alpha * mean)
        eps = (x - alpha * x0) / sigma
        return process.target(x0, eps, alpha_B, sigma_B, config.prediction)

    return denoise


def sample(denoise, condition, keys, config, settings, shape=SHAPE, eta=0.5, text_weight=1.0, neighbour_weight=1.0):
    """Samples as Re-Imagen draws them: every image's start, plan and noise by its own key."""
    start_B, plan_B, step_B = sampler.split_keys(keys)
    plan_BT = jax.vmap(lambda key: guidance.interleave(eta, settings.num_steps, key))(plan_B)
    return sampler.sample(
        denoise,
        condition,
        sampler.initial_noise(start_B, shape),
        step_B,
        schedule.times(settings.num_steps, config),
        config,
        solvers.solver_of(settings, config),
        guidance.interleaved(drop_one, plan_BT, text_weight, neighbour_weight),
        sampler.projection(settings),
    )


def one_step(solver, x, x0, t, s, noise, config, fraction=None):
    """x_s of a solver that is told x_0 at t."""
    alpha, sigma = schedule.alpha_sigma(t, config)
    said = Prediction(x0, (x - alpha * x0) / sigma, fraction)
    return solver.step(lambda x, t: said, x, solver.init(x), t, s, noise)[0]


@pytest.mark.parametrize("name", ["cosine", "linear"])
def test_schedules_fall_from_signal_to_noise_and_preserve_variance(name):
    config = DiffusionConfig(schedule=name)
    t = jnp.linspace(0.0, 1.0, 101)
    lambda_t = schedule.logsnr(t, config)
    assert jnp.all(jnp.diff(lambda_t) < 0)
    assert lambda_t[0] > 8 and lambda_t[-1] < -8
    alpha, sigma = schedule.alpha_sigma(t, config)
    np.testing.assert_allclose(alpha**2 + sigma**2, 1.0, atol=1e-6)


@pytest.mark.parametrize("name", ["cosine", "linear", "cosine_chain"])
@pytest.mark.parametrize("solver", get_args(Solver))
@pytest.mark.parametrize("steps", [1, 8, 32])
def test_what_is_drawn_is_the_image_without_noise(name, solver, steps, key):
    """The linear schedule has noise of 0.01 at t = 0, 1.3 levels of grey: its last step goes on to the image."""
    config, settings = DiffusionConfig(schedule=name), SamplerConfig(num_steps=steps, solver=solver)
    drawn = sampler.sample(
        gaussian_denoiser(0.3, 0.0, config),
        plain(2),
        jax.random.normal(key, (2, 32, 32, 1)),
        jax.random.split(key, 2),
        schedule.times(steps, config),
        config,
        solvers.solver_of(settings, config),
        guidance.unguided,
        sampler.projection(settings),
    )
    assert 127.5 * float(jnp.abs(drawn - 0.3).max()) < 0.5
    assert 127.5 * float(jnp.std(drawn)) < 0.1


def test_a_shift_moves_the_whole_schedule():
    t = jnp.linspace(0.3, 0.7, 9)
    moved = schedule.logsnr(t, DiffusionConfig(logsnr_shift=-1.0)) - schedule.logsnr(t, DiffusionConfig())
    np.testing.assert_allclose(moved, -1.0, atol=1e-5)


@pytest.mark.parametrize("kind", ["eps", "x0", "v"])
def test_a_true_prediction_gives_back_image_and_noise(kind, key):
    key_x, key_eps = jax.random.split(key)
    x0, eps = jax.random.normal(key_x, (3, *SHAPE)), jax.random.normal(key_eps, (3, *SHAPE))
    alpha_B, sigma_B = schedule.alpha_sigma(jnp.asarray([0.2, 0.5, 0.8]), DiffusionConfig())
    x = process.diffuse(x0, eps, alpha_B, sigma_B)
    prediction = process.target(x0, eps, alpha_B, sigma_B, kind)
    np.testing.assert_allclose(process.to_x0(prediction, x, alpha_B, sigma_B, kind), x0, atol=1e-5)
    np.testing.assert_allclose(process.to_eps(x0, x, alpha_B, sigma_B), eps, atol=1e-4)


@pytest.mark.parametrize("kind", ["eps", "x0", "v"])
@pytest.mark.parametrize("settings", [{"solver": "ddpm", "ddpm_gamma": 1.0}, {"solver": "ddim"}, {"ddim_noise": 1.0}])
def test_a_gaussian_is_sampled_to_its_mean_and_variance(kind, settings):
    config, mean, std = DiffusionConfig(prediction=kind), 0.3, 0.4
    settings = SamplerConfig(**({"thresholding": "none", "num_steps": 200} | settings))
    denoise = gaussian_denoiser(mean, std, config)
    draw = jax.jit(lambda keys: sample(denoise, plain(len(keys)), keys, config, settings))
    x = np.asarray(draw(sampler.image_keys(0, range(1024)))).ravel()
    assert abs(x.mean() - mean) < 0.012
    assert abs(x.std() / std - 1.0) < 0.025


def test_ancestral_variance_lies_between_its_bounds_and_ddim_with_all_noise_is_the_small_one():
    config, t, s = DiffusionConfig(), jnp.float32(0.6), jnp.float32(0.5)
    zero, one = jnp.zeros(()), jnp.ones(())
    sds = [float(one_step(solvers.ddpm(config, gamma), zero, zero, t, s, one, config)) for gamma in (0.0, 0.5, 1.0)]
    assert sds[0] < sds[1] < sds[2]
    np.testing.assert_allclose(sds[1] ** 2, sds[0] * sds[2], rtol=1e-5)
    alpha, sigma = schedule.alpha_sigma(t, config)
    x0, eps = jnp.float32(0.4), jnp.float32(-1.3)
    x, noise = alpha * x0 + sigma * eps, jnp.float32(0.7)
    by_ddpm, by_ddim = (
        one_step(solver, x, x0, t, s, noise, config)
        for solver in (solvers.ddpm(config, 0.0), solvers.ddim(config, 1.0))
    )
    np.testing.assert_allclose(by_ddim, by_ddpm, rtol=1e-5)


@pytest.mark.parametrize("eta", [0.0, 0.25, 0.5, 1.0])
def test_eta_is_the_share_of_text_enhanced_steps(eta, key):
    plan = guidance.interleave(eta, 4000, key)
    assert abs(float(plan.mean()) - eta) < (0.03 if 0 < eta < 1 else 1e-9)


def test_plans_are_nested_so_that_a_sweep_changes_one_thing_at_a_time(key):
    plans = [guidance.interleave(eta, 64, key) for eta in np.linspace(0, 1, 11)]
    for fewer, more in pairwise(plans):
        assert not jnp.any(fewer & ~more)


class Linear:
    """A denoiser of known parts: image, text (1 per unmasked token) and neighbours (10 per unmasked neighbour)."""

    def __call__(self, x, t_B, condition):
        text = condition.text_mask_BL.sum(axis=1).astype(jnp.float32)
        neighbours = condition.nbr_mask_BK.sum(axis=1).astype(jnp.float32)
        return 0.1 * x + process.expand(text + 10.0 * neighbours, x)


def test_guidance_is_equations_1_and_2(key):
    x, t = jax.random.normal(key, (2, *SHAPE)), jnp.full(2, 0.5)
    guide = guidance.interleaved(drop_one, jnp.asarray([[True], [False]]), 3.0, 5.0)
    out = guide(Linear(), x, t, plain(2), jnp.int32(0))
    full, no_text, no_neighbours = 0.1 * x + 11.0, 0.1 * x + 10.0, 0.1 * x + 1.0
    np.testing.assert_allclose(out[0], (3.0 * full - 2.0 * no_text)[0], rtol=1e-5)
    np.testing.assert_allclose(out[1], (5.0 * full - 4.0 * no_neighbours)[1], rtol=1e-5)


def test_weight_one_is_the_plain_conditional_prediction(key):
    x, t = jax.random.normal(key, (2, *SHAPE)), jnp.full(2, 0.5)
    guide = guidance.interleaved(drop_one, jnp.asarray([[True], [False]]), 1.0, 1.0)
    out = guide(Linear(), x, t, plain(2), jnp.int32(0))
    np.testing.assert_array_equal(out, Linear()(x, t, plain(2)))


def test_guiding_v_is_guiding_eps(key):
    x, full, less = jax.random.normal(key, (3, 2, *SHAPE))
    alpha_B, sigma_B = schedule.alpha_sigma(jnp.asarray([0.3, 0.6]), DiffusionConfig())

    def eps_of(v):
        return process.to_eps(process.to_x0(v, x, alpha_B, sigma_B, "v"), x, alpha_B, sigma_B)

    np.testing.assert_allclose(
        eps_of(3.0 * full - 2.0 * less), 3.0 * eps_of(full) - 2.0 * eps_of(less), rtol=1e-3, atol=1e-4
    )


def single_guidance_sample(keys, text_enhanced: bool, weight: float, config, settings):
    """A sampler with one guidance only, written out as a plain loop."""
    start = jax.vmap(lambda key: jax.random.normal(jax.random.split(key, 3)[0], SHAPE))(keys)
    x, B = start, len(keys)
    for t, s in pairwise(np.linspace(1.0, 0.0, settings.num_steps + 1, dtype=np.float32)):
        (alpha_t, sigma_t), (alpha_s, sigma_s) = (schedule.alpha_sigma(jnp.float32(u), config) for u in (t, s))
        full = Linear()(x, jnp.full(B, t), plain(B))
        less = drop(plain(B), jnp.full(B, text_enhanced), jnp.full(B, not text_enhanced))
        prediction = weight * full - (weight - 1.0) * Linear()(x, jnp.full(B, t), less)
        x0 = jnp.clip(alpha_t * x - sigma_t * prediction, -1.0, 1.0)
        x = alpha_s * x0 + sigma_s * (x - alpha_t * x0) / sigma_t
    return x


@pytest.mark.parametrize("eta", [0.0, 1.0])
def test_the_ends_of_eta_are_the_two_single_guidance_samplers(eta):
    config, settings = DiffusionConfig(), GuidedSamplerConfig(num_steps=6)
    keys = sampler.image_keys(3, range(2))
    ours = sample(Linear(), plain(2), keys, config, settings, eta=eta, text_weight=2.0, neighbour_weight=3.0)
    theirs = single_guidance_sample(keys, eta == 1.0, 2.0 if eta == 1.0 else 3.0, config, settings)
    np.testing.assert_allclose(ours, theirs, atol=2e-5)


@pytest.mark.parametrize("solver", get_args(Solver))
def test_an_image_does_not_depend_on_its_batch(solver):
    config, settings = DiffusionConfig(), GuidedSamplerConfig(num_steps=5, solver=solver)
    denoise = gaussian_denoiser(0.1, 0.5, config)

    def draw(indices):
        keys = sampler.image_keys(7, indices)
        return sample(denoise, plain(len(keys)), keys, config, settings, text_weight=2.0, neighbour_weight=2.0)

    together = draw([0, 1, 2, 3])
    for i in (3, 1):
        np.testing.assert_allclose(draw([i])[0], together[i], atol=1e-6)
    assert not np.allclose(together[0], together[1])


def test_dynamic_thresholding_scales_each_image_by_its_own_quantile():
    x0 = jnp.stack([jnp.linspace(-0.5, 0.5, 16), jnp.linspace(-4.0, 4.0, 16)]).reshape(2, *SHAPE)
    out = sampler.projection(SamplerConfig(thresholding="dynamic", percentile=0.9))(x0, x0, jnp.float32(0.5))
    np.testing.assert_array_equal(out[0], x0[0])
    assert float(jnp.abs(out[1]).max()) == 1.0
    limit = np.quantile(np.abs(x0[1]), 0.9)
    np.testing.assert_allclose(out[1], np.clip(x0[1], -limit, limit) / limit, rtol=1e-5)
