"""The loss and the learned variance, against what theory says of them on Gaussians whose best denoiser is known."""

from itertools import pairwise

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.stats import norm

from reimagen_jax.diffusion import guidance, objective, process, sampler, schedule, solvers, variance
from reimagen_jax.diffusion.settings import DiffusionConfig, SamplerConfig
from reimagen_jax.errors import UserError
from reimagen_jax.systems.reimagen.condition import drop_one
from tests.diffusion.test_diffusion import SHAPE, gaussian_denoiser, one_step, plain, sample

MEAN, STD = 0.2, 0.5


def gaussian_images(key, batch):
    return MEAN + STD * jax.random.normal(key, (batch, *SHAPE))


# --- weighting ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["eps", "x0", "v"])
def test_the_best_denoiser_of_a_gaussian_has_the_loss_that_theory_gives(kind, key):
    """Its error of x0 has variance std^2 sigma^2 / (alpha^2 std^2 + sigma^2), at every t."""
    config = DiffusionConfig(prediction=kind, logsnr_min=-6.0, logsnr_max=6.0)
    loss_B = objective.diffusion_loss(
        gaussian_denoiser(MEAN, STD, config), gaussian_images(key, 8192), None, jax.random.key(1), config
    )
    alpha, sigma = schedule.alpha_sigma((jnp.arange(8192.0) + 0.5) / 8192, config)
    error_of_x0 = STD**2 * sigma**2 / (alpha**2 * STD**2 + sigma**2)
    scale = {"eps": alpha**2 / sigma**2, "x0": 1.0, "v": 1.0 / sigma**2}[kind]
    np.testing.assert_allclose(float(loss_B.mean()), float(jnp.mean(scale * error_of_x0)), rtol=0.03)


def test_min_snr_is_its_formula():
    """Hang et al. 2023, equations 6 to 8."""
    logsnr_B = jnp.linspace(-12.0, 12.0, 49)
    snr_B = np.exp(np.asarray(logsnr_B, np.float64))
    expected = {"eps": 1.0, "x0": snr_B, "v": snr_B / (snr_B + 1.0)}
    for kind, unlimited_B in expected.items():
        config = DiffusionConfig(prediction=kind, weighting="min_snr", snr_limit=5.0)
        weight_B = objective.min_snr_weight(logsnr_B, config)
        np.testing.assert_allclose(weight_B, unlimited_B * np.minimum(1.0, 5.0 / snr_B), rtol=1e-5)


def test_min_snr_is_one_loss_whatever_is_predicted(key):
    """The same wrong image, said as eps, as x0 and as v."""

    def loss(kind):
        config = DiffusionConfig(prediction=kind, weighting="min_snr", logsnr_min=-6.0, logsnr_max=6.0)

        def denoise(x, t_B, condition):
            alpha_B, sigma_B = schedule.alpha_sigma(t_B, config)
            x0 = 0.3 * jnp.cos(x)
            return process.target(x0, process.to_eps(x0, x, alpha_B, sigma_B), alpha_B, sigma_B, kind)

        return objective.diffusion_loss(denoise, gaussian_images(key, 16), None, jax.random.key(1), config)

    np.testing.assert_allclose(loss("eps"), loss("x0"), rtol=1e-3)
    np.testing.assert_allclose(loss("v"), loss("x0"), rtol=1e-3)


@pytest.mark.parametrize("kind", ["eps", "x0", "v"])
def test_without_options_the_loss_is_the_plain_squared_error_bit_for_bit(kind, key):
    config, x0 = DiffusionConfig(prediction=kind, time_exponent=0.5), gaussian_images(key, 8)
    loss_B = objective.diffusion_loss(lambda x, t_B, condition: jnp.sin(x), x0, None, jax.random.key(1), config)
    key_t, key_eps = jax.random.split(jax.random.key(1))
    t_B = ((jax.random.uniform(key_t) + jnp.arange(8, dtype=jnp.float32) / 8) % 1.0) ** 0.5
    eps, (alpha_B, sigma_B) = jax.random.normal(key_eps, x0.shape), schedule.alpha_sigma(t_B, config)
    error = jnp.sin(process.diffuse(x0, eps, alpha_B, sigma_B)) - process.target(x0, eps, alpha_B, sigma_B, kind)
    np.testing.assert_array_equal(loss_B, jnp.mean(error**2, axis=(1, 2, 3)))


# --- learned variance ---------------------------------------------------------------------------------------------


def true_fraction(t, s, config):
    """Where Var(x_s | x_t) of the Gaussian lies between its bounds, in log space."""
    (alpha_t, sigma_t), (alpha_s, sigma_s) = (
        (float(a) for a in schedule.alpha_sigma(jnp.float32(u), config)) for u in (t, s)
    )
    at_t, at_s = (a**2 * STD**2 + b**2 for a, b in ((alpha_t, sigma_t), (alpha_s, sigma_s)))
    true = at_s - (alpha_t / alpha_s) ** 2 * at_s**2 / at_t  # Var(x_s) - Cov(x_s, x_t)^2 / Var(x_t)
    large = sigma_t**2 - (alpha_t / alpha_s) ** 2 * sigma_s**2
    small = large * sigma_s**2 / sigma_t**2
    return np.log(true / small) / np.log(large / small)


@pytest.mark.parametrize("kind", ["eps", "v"])
@pytest.mark.parametrize("t", [0.25, 0.6])
def test_the_variational_term_is_least_at_the_true_variance(kind, t, key):
    config = DiffusionConfig(prediction=kind, learned_variance=True, variance_steps=10, logsnr_min=-8.0, logsnr_max=8.0)
    key_x0, key_eps = jax.random.split(key)
    B, x0 = 4096, gaussian_images(key_x0, 4096)
    t_B, eps = jnp.full(B, t), jax.random.normal(key_eps, x0.shape)
    x = process.diffuse(x0, eps, *schedule.alpha_sigma(t_B, config))
    prediction = gaussian_denoiser(MEAN, STD, config)(x, t_B, None)

    @jax.jit
    def bits(fraction):
        every = jnp.broadcast_to(fraction, x0.shape)
        return variance.variational_bits(prediction, every, x, x0, t_B, config).mean()

    fractions = np.linspace(-0.2, 1.2, 141, dtype=np.float32)
    best = fractions[np.argmin([float(bits(fraction)) for fraction in fractions])]
    assert 0.05 < true_fraction(t, t - 0.1, config) < 0.95
    assert best == pytest.approx(true_fraction(t, t - 0.1, config), abs=0.03)


def test_the_variational_term_is_the_divergence_of_the_two_steps(key):
    """(2) against the textbook formula, with means and variances as the solver has them."""
    config = DiffusionConfig(prediction="eps", learned_variance=True, variance_steps=10)
    t, s = jnp.float32(0.6), jnp.float32(0.5)
    x0, x, guess = 0.4 * jax.random.normal(key, (3, 2, *SHAPE))
    prediction = process.to_eps(guess, x, *(jnp.full(2, a) for a in schedule.alpha_sigma(t, config)))
    fraction = jnp.full(x.shape, 0.3)
    bits_B = variance.variational_bits(prediction, fraction, x, x0, jnp.full(2, t), config)
    zero, chosen = jnp.zeros_like(x), DiffusionConfig(prediction="eps")  # the variance is chosen here, not learned

    def step(x, image, noise, gamma=0.0):
        return one_step(solvers.ddpm(chosen, gamma), x, image, t, s, noise, chosen)

    mean_q, mean_p = (step(x, image, zero) for image in (x0, guess))
    var_q, var_p = (step(zero, zero, zero + 1.0, gamma) ** 2 for gamma in (0.0, 0.3))
    nats = 0.5 * (jnp.log(var_p / var_q) + (var_q + (mean_q - mean_p) ** 2) / var_p - 1.0)
    np.testing.assert_allclose(bits_B, 10 * nats.mean(axis=(1, 2, 3)) / np.log(2), rtol=1e-3)


def test_the_last_step_is_judged_by_the_probability_of_the_image_s_byte(key):
    """(3) against scipy; over all 256 bytes the probabilities sum to one."""
    config = DiffusionConfig(learned_variance=True, variance_steps=10)
    t, s = jnp.float32(0.15), jnp.float32(0.0)  # s = 0.05 lies within 1/T of the image
    levels = np.linspace(-1.0, 1.0, 256, dtype=np.float32)
    x0 = jnp.asarray(levels).reshape(256, 1, 1, 1)
    x, v, f = (jnp.full_like(x0, value) for value in (0.9, -0.1, 0.8))
    bits_B = variance.variational_bits(v, f, x, x0, jnp.full(256, t), config)
    probability = 2.0 ** (-np.asarray(bits_B, np.float64) / 10)
    assert probability.sum() == pytest.approx(1.0, abs=1e-4)
    alpha_B, sigma_B = (jnp.full(256, scale) for scale in schedule.alpha_sigma(t, config))
    guess, zero = process.to_x0(v, x, alpha_B, sigma_B, "v")[0, 0, 0, 0], jnp.float32(0.0)
    solver = solvers.ddpm(config, 0.8)
    mean = float(one_step(solver, jnp.float32(0.9), guess, t, s, zero, config))
    sd = float(one_step(solver, zero, zero, t, s, jnp.float32(1.0), config))
    expected = norm.cdf(levels[1:-1] + 1 / 255, mean, sd) - norm.cdf(levels[1:-1] - 1 / 255, mean, sd)
    seen = expected > 1e-3
    np.testing.assert_allclose(probability[1:-1][seen], expected[seen], rtol=0.01)


def test_the_variational_term_teaches_the_variance_and_not_the_prediction(key):
    """The gradient by the prediction is that of the squared error alone, at every t, the ends included."""
    x0, t_B = gaussian_images(key, 6), jnp.asarray([0.0, 0.0005, 0.0015, 0.1, 0.9, 1.0])
    config = DiffusionConfig(learned_variance=True)
    x, fraction = jax.random.normal(key, x0.shape), jnp.full(x0.shape, 0.5)

    def bits(prediction, fraction):
        return variance.variational_bits(prediction, fraction, x, x0, t_B, config).sum()

    by_prediction, by_fraction = jax.grad(bits, (0, 1))(x, fraction)
    np.testing.assert_array_equal(by_prediction, 0.0)
    assert np.isfinite(by_fraction).all() and np.any(by_fraction)


def test_the_hybrid_loss_is_the_squared_error_and_the_weighted_term(key):
    x0 = gaussian_images(key, 8)

    def loss(config):
        def denoise(x, t_B, condition):
            output = jnp.concatenate([jnp.sin(x), 0.2 * x], axis=-1)
            return output if config.learned_variance else output[..., :1]

        return np.asarray(objective.diffusion_loss(denoise, x0, None, jax.random.key(1), config))

    simple = loss(DiffusionConfig())
    once, twice = (loss(DiffusionConfig(learned_variance=True, variance_weight=w)) for w in (0.001, 0.002))
    np.testing.assert_allclose(once - simple, twice - once, rtol=1e-3)
    assert (once > simple).all()
    np.testing.assert_array_equal(loss(DiffusionConfig(learned_variance=True, variance_weight=0.0)), simple)


def test_a_denoiser_with_other_channels_than_the_settings_ask_for_is_refused(key):
    for learned, channels in ((False, 2), (True, 1)):
        config = DiffusionConfig(learned_variance=learned)
        with pytest.raises(ValueError, match=f"has to return {3 - channels} channels"):
            variance.split(jnp.zeros((1, 4, 4, channels)), 1, config)


# --- sampling with it ---------------------------------------------------------------------------------------------


def told_denoiser(config, num_steps):
    """The best denoiser of the Gaussian, which also tells the true variance of each of the sampler's steps."""
    denoise = gaussian_denoiser(MEAN, STD, config)
    times = np.linspace(1.0, 0.0, num_steps + 1)
    fractions = jnp.asarray([true_fraction(t, s, config) for t, s in pairwise(times)])

    def with_variance(x, t_B, condition):
        said = 2.0 * fractions[jnp.round((1.0 - t_B) * num_steps).astype(jnp.int32)].astype(jnp.float32) - 1.0
        return jnp.concatenate([denoise(x, t_B, condition), jnp.ones_like(x) * process.expand(said, x)], axis=-1)

    return with_variance


def test_few_steps_with_the_true_variance_draw_the_true_distribution():
    """With 4 steps the small variance draws too narrow a Gaussian; the true one is exact with any number of steps."""
    limits = {"prediction": "v", "logsnr_min": -8.0, "logsnr_max": 8.0}
    plain_config, config = DiffusionConfig(**limits), DiffusionConfig(**limits, learned_variance=True)
    settings = SamplerConfig(solver="ddpm", num_steps=4, thresholding="none")
    keys = sampler.image_keys(0, range(1024))

    def spread(denoise, config):
        return np.asarray(sample(denoise, plain(1024), keys, config, settings)).std() / STD

    assert spread(told_denoiser(config, 4), config) == pytest.approx(1.0, abs=0.025)
    assert spread(gaussian_denoiser(MEAN, STD, plain_config), plain_config) < 0.9


def test_guidance_mixes_the_prediction_and_takes_the_variance_of_the_full_condition(key):
    def denoise(x, t_B, condition):
        full = (condition.text_mask_BL.any(axis=1) & condition.nbr_mask_BK.any(axis=1))[:, None, None, None]
        return jnp.concatenate([jnp.where(full, 1.0, 0.0) + 0.0 * x, jnp.where(full, 0.7, -0.7) + 0.0 * x], axis=-1)

    x, t = jax.random.normal(key, (2, *SHAPE)), jnp.full(2, 0.5)
    guide = guidance.interleaved(drop_one, jnp.asarray([[True], [False]]), 3.0, 5.0)
    out = guide(denoise, x, t, plain(2), jnp.int32(0))
    np.testing.assert_allclose(out[..., :1], process.expand(jnp.asarray([3.0, 5.0]), x) * jnp.ones_like(x))
    np.testing.assert_array_equal(out[..., 1:], jnp.float32(0.7))


def test_a_variance_by_hand_is_refused_where_it_is_learned():
    settings = SamplerConfig(solver="ddpm", ddpm_gamma=0.5)
    with pytest.raises(UserError, match=r"ddpm_gamma is 0\.5, but the model has learned"):
        solvers.solver_of(settings, DiffusionConfig(learned_variance=True))
