"""Solvers of few steps against closed forms: orders of convergence, and a mixture drawn to its moments."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from reimagen_jax.diffusion import guidance, process, sampler, schedule, solvers
from reimagen_jax.diffusion.base import Prediction
from reimagen_jax.diffusion.settings import DiffusionConfig, SamplerConfig

PROCESSES = {
    "cosine": DiffusionConfig(prediction="x0"),
    "linear": DiffusionConfig(schedule="linear", prediction="x0"),
    "chain": DiffusionConfig(schedule="cosine_chain", prediction="x0", logsnr_min=-20.0),
}
WEIGHT, MEANS, STD = 0.3, (-0.6, 0.5), 0.15
"""A mixture of two Gaussians: the weight of the first, their means, and the standard deviation of both."""
MEAN = WEIGHT * MEANS[0] + (1.0 - WEIGHT) * MEANS[1]
DEVIATION = (STD**2 + WEIGHT * (1.0 - WEIGHT) * (MEANS[1] - MEANS[0]) ** 2) ** 0.5


def mixture_denoiser(config):
    """E[x_0 | x_t] of the mixture."""

    def denoise(x, t_B, condition):
        alpha, sigma = (process.expand(scale_B, x) for scale_B in schedule.alpha_sigma(t_B, config))
        variance = alpha**2 * STD**2 + sigma**2
        gains = [alpha * mean for mean in MEANS]
        first, second = ((-0.5 * (x - gain) ** 2 / variance) for gain in gains)
        share = jax.nn.sigmoid(first - second + float(np.log(WEIGHT / (1.0 - WEIGHT))))
        near, far = (mean + alpha * STD**2 / variance * (x - gain) for mean, gain in zip(MEANS, gains, strict=True))
        return share * near + (1.0 - share) * far

    return denoise


def draw(config, settings, samples):
    key = jax.random.key(2)

    @jax.jit
    def program():
        return sampler.sample(
            mixture_denoiser(config),
            None,
            jax.random.normal(key, (samples, 8)),
            jax.random.split(key, samples),
            schedule.times(settings.num_steps, config, settings.spacing, settings.times),
            config,
            solvers.solver_of(settings, config),
            guidance.unguided,
            sampler.projection(settings),
        )

    return np.asarray(program())


@pytest.mark.parametrize("spacing", ["even", "karras", "logsnr"])
@pytest.mark.parametrize("solver", ["dpmpp_2m", "dpmpp_2m_sde", "unipc", "heun"])
@pytest.mark.parametrize("config", PROCESSES.values(), ids=PROCESSES)
def test_a_mixture_is_drawn_to_its_moments(config, solver, spacing):
    settings = SamplerConfig(solver=solver, num_steps=100, spacing=spacing, thresholding="none")
    settings.check_process(config)
    x = draw(config, settings, 2048).ravel()
    assert abs(x.mean() - MEAN) < 0.02
    assert abs(x.std() / DEVIATION - 1.0) < 0.02
    assert abs((x < 0.0).mean() - WEIGHT) < 0.02


@pytest.mark.parametrize("name", ["fast27", "super40"])
@pytest.mark.parametrize("solver", ["dpmpp_2m", "unipc"])
def test_neighbours_among_the_times_are_not_extrapolated(solver, name):
    """Steps 800 and 799 of a chain, and then 600: (x_0 - x_0') / h' would say nothing but rounding and guidance."""

    def error(solver):
        settings = SamplerConfig(solver=solver, num_steps=int(name[-2:]), spacing=name, thresholding="none")
        x = draw(PROCESSES["chain"], settings, 1024).ravel()
        return max(abs(x.mean() - MEAN), abs(x.std() / DEVIATION - 1.0))

    assert error(solver) < error("ddim") + 0.01


@pytest.mark.parametrize(("solver", "order"), [("ddim", 1), ("dpmpp_2m", 2), ("heun", 2), ("unipc", 3)])
def test_the_error_falls_with_the_order_of_the_steps(solver, order):
    """Of a Gaussian's flow: (x - alpha mean) / sd stays."""
    errors = []
    for n in (8, 16):
        alphas, sds, walk = gaussian_walk(solver, n)
        x = float(walk(jnp.float32(1.3), jnp.zeros(n)))
        errors.append(abs(x - (alphas[1] * 0.3 + sds[1] / sds[0] * (1.3 - alphas[0] * 0.3))))
    assert np.log2(errors[0] / errors[1]) > order - 0.1


def test_the_sde_keeps_a_gaussians_mean_and_its_variance_to_second_order():
    """What is drawn is affine in x and in each step's noise: its moments are sums. The mean is exact."""
    errors = []
    for n in (8, 16):
        alphas, sds, walk = gaussian_walk("dpmpp_2m_sde", n)
        drawn, by_x = jax.value_and_grad(walk)(alphas[0] * jnp.float32(0.3), jnp.zeros(n))
        by_noise = np.asarray(jax.grad(walk, argnums=1)(jnp.float32(1.3), jnp.zeros(n)), np.float64)
        assert abs(float(drawn) - alphas[1] * 0.3) < 1e-6
        errors.append(abs((float(by_x) * sds[0]) ** 2 + np.sum(by_noise**2) - sds[1] ** 2))
    assert np.log2(errors[0] / errors[1]) > 1.7


def gaussian_walk(solver, n):
    """From t = 0.75 to 0.25 of N(0.3, 0.4^2): alphas and standard deviations at both, and x, noises -> x."""
    config, mean, std = DiffusionConfig(), 0.3, 0.4
    kind, times = solvers.solver_of(SamplerConfig(solver=solver), config), jnp.linspace(0.75, 0.25, n + 1)

    def predict(x, t):
        alpha, sigma = schedule.alpha_sigma(t, config)
        x0 = mean + alpha * std**2 / (alpha**2 * std**2 + sigma**2) * (x - alpha * mean)
        return Prediction(x0, (x - alpha * x0) / sigma)

    def walk(x, noises):
        def step(state, inputs):
            return kind.step(predict, *state, *inputs), None

        return jax.lax.scan(step, (x, kind.init(x)), (times[:-1], times[1:], noises))[0][0]

    alphas, sigmas = schedule.alpha_sigma(times[jnp.asarray([0, -1])], config)
    return alphas, np.sqrt(np.asarray(alphas, np.float64) ** 2 * std**2 + np.asarray(sigmas, np.float64) ** 2), walk
