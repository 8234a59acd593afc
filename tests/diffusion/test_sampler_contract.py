"""The sampler's contract: any shape, any guide, any solver, any projection, and a gradient by x_T.

Samples are of a Gaussian whose best denoiser is known, so the probability flow is known in closed form: with
sd_t^2 = alpha_t^2 std^2 + sigma_t^2,   x_0 = alpha_0 mean + sd_0 / sd_T (x_T - alpha_T mean).
"""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from reimagen_jax.diffusion import guidance, sampler, schedule, solvers
from reimagen_jax.diffusion.base import Solver
from reimagen_jax.diffusion.settings import DiffusionConfig, SamplerConfig
from tests.diffusion.test_diffusion import gaussian_denoiser

MEAN, STD = 0.3, 0.4
PROCESS = DiffusionConfig()
GAUSSIAN = gaussian_denoiser(MEAN, STD, PROCESS)
FREE = sampler.projection(SamplerConfig(thresholding="none"))


def heun(process: DiffusionConfig) -> Solver:
    """Two evaluations a step: Heun's rule on dx/dphi = v, phi = arctan(sigma / alpha), v = alpha eps - sigma x_0."""

    def slope(predict, x, t):
        alpha, sigma = schedule.alpha_sigma(t, process)
        x0, eps, _ = predict(x, t)
        return alpha * eps - sigma * x0

    def step(predict, x, carry, t, s, noise):
        alphas, sigmas = schedule.alpha_sigma(jnp.stack([t, s]), process)
        h = jnp.diff(jnp.arctan2(sigmas, alphas))[0]
        first = slope(predict, x, t)
        second = slope(predict, x + h * first, s)
        return x + 0.5 * h * (first + second), carry

    return Solver(lambda x: None, step, stochastic=False)


def dpm_2m(process: DiffusionConfig) -> Solver:
    """Several steps: DPM-Solver++ (2M), Lu et al. 2022, algorithm 2, which remembers x_0 and its half log SNR."""

    def step(predict, x, carry, t, s, noise):
        before, half_logsnr_before, begun = carry
        x0, (half_logsnr_t, half_logsnr_s) = predict(x, t).x0, 0.5 * schedule.logsnr(jnp.stack([t, s]), process)
        h = half_logsnr_s - half_logsnr_t
        r = jnp.where(begun, half_logsnr_t - half_logsnr_before, h) / h
        D = jnp.where(begun, x0 + (x0 - before) / (2.0 * r), x0)
        (_, alpha_s), (sigma_t, sigma_s) = schedule.alpha_sigma(jnp.stack([t, s]), process)
        return sigma_s / sigma_t * x - alpha_s * jnp.expm1(-h) * D, (x0, half_logsnr_t, jnp.asarray(True))

    return Solver(lambda x: (jnp.zeros_like(x), jnp.float32(0.0), jnp.asarray(False)), step, stochastic=False)


def draw(x_T, num_steps, solver=None, process=PROCESS, denoise=GAUSSIAN, condition=None, guide=None, project=FREE):
    """x_0, every sample with a key of its own."""
    keys_B = sampler.image_keys(1, range(len(x_T)))
    return sampler.sample(
        denoise,
        condition,
        x_T,
        keys_B,
        schedule.times(num_steps, process),
        process,
        solver or solvers.ddim(process),
        guide or guidance.unguided,
        project,
    )


def noise(*shape):
    return sampler.initial_noise(sampler.image_keys(0, range(shape[0])), shape[1:])


def flow(x_T, process=PROCESS):
    """Where the probability flow ends that begins in x_T."""
    (alpha_T, alpha_0), (sigma_T, sigma_0) = np.asarray(schedule.alpha_sigma(jnp.asarray([1.0, 0.0]), process))
    sd_T, sd_0 = (np.hypot(alpha * STD, sigma) for alpha, sigma in ((alpha_T, sigma_T), (alpha_0, sigma_0)))
    return alpha_0 * MEAN + sd_0 / sd_T * (np.asarray(x_T) - alpha_T * MEAN)


# --- any shape ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("solver", [solvers.ddim(PROCESS), solvers.ddpm(PROCESS, 1.0)], ids=["ddim", "ddpm"])
def test_vectors_and_images_are_sampled_alike(solver):
    """The same numbers as vectors [B, D] and as images; the steps' noise is the same too."""
    x_T = noise(1024, 12)
    program = jax.jit(lambda x: draw(x, 200, solver))
    vectors, images = np.asarray(program(x_T)), np.asarray(program(x_T.reshape(1024, 2, 2, 3)))
    np.testing.assert_allclose(images.reshape(1024, 12), vectors, atol=1e-5)
    for x in (vectors, images):
        assert abs(x.mean() - MEAN) < 0.012 and abs(x.std() / STD - 1.0) < 0.025


# --- any solver --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("solver", [heun, dpm_2m], ids=["two evaluations", "several steps"])
def test_a_solver_of_another_kind_draws_the_gaussian(solver):
    process, x_T = DiffusionConfig(logsnr_min=-8.0, logsnr_max=8.0), noise(4096, 3)
    denoise = gaussian_denoiser(MEAN, STD, process)
    x = np.asarray(jax.jit(lambda x: draw(x, 80, solver(process), process, denoise))(x_T))
    np.testing.assert_allclose(x, flow(x_T, process), atol=0.01)
    assert abs(x.mean() - MEAN) < 0.012 and abs(x.std() / STD - 1.0) < 0.02


def test_twice_the_steps_of_second_order_have_a_quarter_of_the_error():
    process, x_T = DiffusionConfig(logsnr_min=-6.0, logsnr_max=6.0), noise(64, 2)
    denoise, truth = gaussian_denoiser(MEAN, STD, process), flow(x_T, process)

    def error(num_steps, solver):
        x = jax.jit(lambda x: draw(x, num_steps, solver, process, denoise))(x_T)
        return np.abs(np.asarray(x) - truth).max()

    for solver, order in ((heun(process), 2), (dpm_2m(process), 2), (solvers.ddim(process), 1)):
        np.testing.assert_allclose(error(24, solver) / error(48, solver), 2**order, rtol=0.1)


def test_a_solver_that_looks_at_no_noise_has_none_drawn():
    def program(solver):
        return str(jax.make_jaxpr(lambda x: draw(x, 3, solver))(noise(2, 3)))

    assert "random_bits" in program(solvers.ddpm(PROCESS)) and "random_bits" in program(solvers.ddim(PROCESS, 0.5))
    for solver in (solvers.ddim(PROCESS), heun(PROCESS)):
        assert "random_bits" not in program(solver)


# --- a gradient by x_T -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("solver", [solvers.ddim(PROCESS), solvers.ddpm(PROCESS), dpm_2m(PROCESS)])
def test_the_gradient_by_x_T_is_that_of_finite_differences(solver):
    """x_0 is affine in x_T here, so a central difference of a square is exact whatever its width.

    A wide one, since what ancestral steps keep of x_T is small: beside it, a narrow difference is mostly rounding.
    """
    width = 300.0
    x_T, direction = noise(2, 2, 3)

    @jax.jit
    def value(x):
        return jnp.sum(draw(x, 10, solver) ** 2)

    by_differences = (value(x_T + width * direction) - value(x_T - width * direction)) / (2.0 * width)
    gradient = jax.grad(value)(x_T)
    np.testing.assert_allclose(jnp.vdot(gradient, direction), by_differences, rtol=1e-3)
    assert jnp.all(gradient != 0)


def test_a_sample_s_gradient_is_by_its_own_x_T():
    gradient = jax.grad(lambda x: draw(x, 5)[0].sum())(noise(3, 2))
    assert jnp.all(gradient[0] != 0) and jnp.all(gradient[1:] == 0)


# --- any guide ---------------------------------------------------------------------------------------------------


def toy(x, t_B, condition):
    """A denoiser of known parts."""
    return 0.1 * x + (condition["a"] + 10.0 * condition["b"])[:, None]


CONDITION = {"a": jnp.asarray([1.0, 0.5, 0.25]), "b": jnp.asarray([0.1, 0.2, -0.1])}


def without(name, condition):
    return condition | {name: jnp.zeros_like(condition[name])}


def without_a_or_b(condition, first_B):
    return {"a": jnp.where(first_B, 0.0, condition["a"]), "b": jnp.where(first_B, condition["b"], 0.0)}


def guided(guide):
    return draw(noise(3, 4), 6, denoise=toy, condition=CONDITION, guide=guide)


def test_weight_one_is_the_plain_conditional_prediction():
    plan_BT, plain = jnp.arange(18).reshape(3, 6) % 2 == 0, guided(guidance.unguided)
    assert not np.allclose(plain, guided(guidance.single(partial(without, "a"), 1.5)), atol=1e-3)
    for guide in (
        guidance.single(partial(without, "a"), 1.0),
        guidance.interleaved(without_a_or_b, plan_BT, 1.0, jnp.ones(3)),
    ):
        np.testing.assert_allclose(guided(guide), plain, atol=1e-6)


@pytest.mark.parametrize(("first", "name", "weight"), [(True, "a", 1.5), (False, "b", 1.2)])
def test_a_plan_of_one_kind_alone_is_single_guidance(first, name, weight):
    interleaved = guided(guidance.interleaved(without_a_or_b, jnp.full((3, 6), first), 1.5, 1.2))
    np.testing.assert_allclose(interleaved, guided(guidance.single(partial(without, name), weight)), atol=1e-6)


def test_each_sample_follows_its_own_plan_and_weight():
    plan_BT = jnp.asarray([[True] * 6, [False] * 6, [True, False] * 3])
    weight_B = jnp.asarray([1.5, 2.0, 1.1])
    mixed = guided(guidance.interleaved(without_a_or_b, plan_BT, weight_B, weight_B))
    for row, (name, weight) in enumerate((("a", 1.5), ("b", 2.0))):
        np.testing.assert_allclose(mixed[row], guided(guidance.single(partial(without, name), weight))[row], atol=1e-6)


def test_a_guide_is_traced_once_whatever_the_steps_and_its_numbers():
    calls = []

    @jax.jit
    def program(x_T, weight):
        def guide(denoise, x, t_B, condition, i):
            calls.append(i)
            return weight * denoise(x, t_B, condition)

        return draw(x_T, 20, denoise=toy, condition=CONDITION, guide=guide)

    drawn = [program(noise(3, 4), jnp.float32(weight)) for weight in (0.5, 0.6, 0.7)]
    assert len(calls) == 1
    assert not np.allclose(drawn[0], drawn[1], atol=1e-3)


def test_a_guide_is_told_the_step_from_the_noisy_end():
    def guide(denoise, x, t_B, condition, i):
        return jnp.where(i == 0, 0.0, 1.0) * x

    def project(x0, x, t):
        return jnp.where(t == 1.0, 7.0, x0)  # of the first step

    x = draw(noise(2, 3), 1, guide=guide, project=project)
    np.testing.assert_allclose(x, 7.0, atol=0.01)


# --- any projection ----------------------------------------------------------------------------------------------


def test_what_a_projection_pins_stays_and_the_rest_is_drawn_as_before():
    """Inpainting in its simplest form. The last step ends at t = 0, where sigma is 6e-4."""
    known, mask = jnp.linspace(-0.8, 0.8, 4), jnp.asarray([True, False, True, False])
    x_T = noise(512, 4)
    pinned, free = (
        np.asarray(jax.jit(lambda x, p=project: draw(x, 30, project=p))(x_T))
        for project in (lambda x0, x, t: jnp.where(mask[None, :], known[None, :], x0), FREE)
    )
    np.testing.assert_allclose(pinned[:, mask], np.broadcast_to(known[mask], (512, 2)), atol=3e-3)
    np.testing.assert_allclose(pinned[:, ~mask], free[:, ~mask], atol=1e-6)


def test_thresholding_is_of_each_sample_by_itself():
    settings = SamplerConfig(thresholding="dynamic", percentile=1.0)
    x0 = jnp.asarray([[0.5, -0.2], [3.0, -1.5]])
    projected = sampler.projection(settings)(x0, x0, jnp.float32(0.5))
    np.testing.assert_allclose(projected, [[0.5, -0.2], [1.0, -0.5]])
