"""Editing on the sampler's contract: where an image enters, what is kept, and going up again by the forward process."""

from typing import get_args

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from reimagen_jax.diffusion import editing, guidance, sampler, schedule, solvers
from reimagen_jax.diffusion.base import Prediction
from reimagen_jax.diffusion.settings import DiffusionConfig, SamplerConfig, Solver
from tests.diffusion.test_diffusion import gaussian_denoiser

PROCESS = DiffusionConfig()
MEAN, STD = 0.3, 0.4
STEPS = 12


def sampling_of(
    solver="dpmpp_2m", process=PROCESS, denoise=None, B=4, shape=(3, 3, 1), steps=STEPS, seed=0
) -> sampler.Sampling:
    start_B, _, step_B = sampler.split_keys(sampler.image_keys(seed, range(B)))
    settings = SamplerConfig(num_steps=steps, solver=solver, thresholding="none")
    return sampler.Sampling(
        denoise or gaussian_denoiser(MEAN, STD, process),
        None,
        sampler.initial_noise(start_B, shape),
        step_B,
        schedule.times(steps, process),
        process,
        solvers.solver_of(settings, process),
        guidance.unguided,
        sampler.projection(settings),
    )


def draw(sampling):
    return np.asarray(jax.jit(lambda x: sampler.sample(*sampling._replace(x_T=x)))(sampling.x_T))


def known_of(sampling):
    return jax.random.uniform(jax.random.key(9), sampling.x_T.shape, minval=-1.0)


def shares(*values):
    return jnp.asarray(values, jnp.float32).reshape(-1, 1, 1, 1)


@pytest.mark.parametrize("solver", get_args(Solver))
def test_a_share_of_one_is_drawing_anew(solver):
    sampling = sampling_of(solver)
    edited = editing.edited(sampling, known_of(sampling), shares(1, 1, 1, 1))
    np.testing.assert_allclose(draw(edited), draw(sampling), atol=1e-6)


@pytest.mark.parametrize("solver", get_args(Solver))
def test_a_sample_enters_at_its_own_time_whatever_is_beside_it(solver):
    """Going on from alpha y + sigma x_T along the times that are left, with a solver that has not begun."""
    sampling = sampling_of(solver)
    known = known_of(sampling)
    program = jax.jit(lambda share: sampler.sample(*editing.edited(sampling, known, share)))
    together = program(shares(1.0, 0.75, 0.5, 0.25))
    for b, share in enumerate((1.0, 0.75, 0.5, 0.25)):
        np.testing.assert_allclose(program(shares(*[share] * 4))[b], together[b], atol=1e-6)
    if not sampling.solver.stochastic:  # whose noise is by the number of the step
        alpha, sigma = schedule.alpha_sigma(sampling.times_T[6], PROCESS)
        entered = sampling._replace(x_T=alpha * known + sigma * sampling.x_T, times_T=sampling.times_T[6:])
        np.testing.assert_allclose(draw(entered)[2], together[2], atol=1e-5)


def test_what_has_not_entered_is_not_evaluated():
    calls = []

    def denoise(x, t_B, condition):
        jax.debug.callback(lambda t: calls.append(float(t)), t_B[0])
        return gaussian_denoiser(MEAN, STD, PROCESS)(x, t_B, condition)

    for share, number in ((1.0, STEPS), (0.5, 6), (0.25, 3)):
        calls.clear()
        sampling = sampling_of(denoise=denoise)
        draw(editing.edited(sampling, known_of(sampling), shares(*[share] * 4)))
        jax.effects_barrier()
        assert len(calls) == number and max(calls) <= share + 1e-6


@pytest.mark.parametrize(
    ("solver", "name"),
    [*((solver, "cosine") for solver in get_args(Solver)), ("ddpm", "linear"), ("ddim", "cosine_chain")],
)
def test_what_is_kept_is_kept_exactly_and_the_rest_is_drawn(solver, name):
    sampling = sampling_of(solver, DiffusionConfig(schedule=name), B=2)
    known, keep = known_of(sampling), jnp.zeros((2, 3, 3, 1)).at[:, :2].set(1.0)
    x = draw(editing.edited(editing.resampled(sampling, 3, 2), known, 1.0 - keep))
    kept = np.broadcast_to(np.asarray(keep) == 1, x.shape)
    np.testing.assert_array_equal(x[kept], np.asarray(known)[kept])
    assert np.all(np.isfinite(x)) and np.all(np.abs(x - known)[~kept] > 1e-4)


def test_a_grey_is_held_until_its_own_time():
    seen = []

    sampling = sampling_of("ddim", denoise=gaussian_denoiser(MEAN, 0.0, PROCESS), B=1, shape=(1, 4, 1))
    share = jnp.asarray([0.0, 0.25, 0.5, 1.0]).reshape(1, 1, 4, 1)
    edited = editing.edited(sampling, jnp.full((1, 1, 4, 1), -0.5), share)
    for t in np.asarray(sampling.times_T)[:-1]:
        x0 = edited.project(jnp.full((1, 1, 4, 1), MEAN), sampling.x_T, jnp.float32(t))
        seen.append((np.asarray(x0).ravel() == np.float32(MEAN)).tolist())
    assert np.sum(seen, axis=0).tolist() == [0, 3, 6, 12], "shares of the steps"
    x = draw(edited).ravel()
    np.testing.assert_array_equal(x[0], np.float32(-0.5))
    np.testing.assert_allclose(x[1:], MEAN, atol=1e-3)


def test_which_shares_let_go():
    times = [1.0, 0.75, 0.5, 0.25, 0.0]
    assert [editing.lets_go(share, times) for share in (0.0, 0.2, 0.25, 1.0)] == [False, False, True, True]


@pytest.mark.parametrize(
    ("num_steps", "jump", "repeats", "walked"),
    [
        (4, 2, 1, [0, 1, 2, 3, 4]),
        (4, 2, 2, [0, 1, 2, 3, 1, 2, 3, 4]),
        (6, 2, 2, [0, 1, 2, 3, 1, 2, 3, 4, 5, 3, 4, 5, 6]),
        (3, 1, 3, [0, 1, 2, 1, 2, 1, 2, 3]),
        (3, 5, 4, [0, 1, 2, 3]),
        (1, 1, 4, [0, 1]),
    ],
)
def test_stretches_are_walked_again(num_steps, jump, repeats, walked):
    assert editing.walk(num_steps, jump, repeats) == walked


def test_with_250_steps_of_10_it_is_repaints_list():
    """The published schedule: from t = 0, 10, ..., 230 of 250 up by 10, nine times; t = -1 is the image."""
    t, left, published = 250, dict.fromkeys(range(0, 250 - 10, 10), 9), []
    while t >= 1:
        t -= 1
        published.append(t)
        if left.get(t, 0) > 0:
            left[t] -= 1
            t += 10
            published.append(t)
    published.append(-1)
    assert [249 - number for number in editing.walk(250, 10, 10)] == published


def test_a_step_up_has_the_moments_of_the_forward_process():
    """x_s given y by way of x_t is N(alpha_s y, sigma_s^2)."""
    y, t, s, B = 0.7, jnp.float32(0.3), jnp.float32(0.6), 40_000
    (alpha_t, sigma_t), (alpha_s, sigma_s) = (schedule.alpha_sigma(time, PROCESS) for time in (t, s))
    first, second = jax.random.normal(jax.random.key(0), (2, B, 1))
    solver = editing.renoising(solvers.ddim(PROCESS), PROCESS)
    x_t = alpha_t * y + sigma_t * first

    def predict(x, t):
        return Prediction(x, x)

    x_s, _ = solver.step(predict, x_t, solver.init(x_t), t, s, second)
    np.testing.assert_allclose(x_s.mean(), alpha_s * y, atol=0.015)
    np.testing.assert_allclose(x_s.std(), sigma_s, rtol=0.015)
    a = alpha_s / alpha_t
    np.testing.assert_allclose(np.cov(first.ravel(), x_s.ravel())[0, 1], a * sigma_t, rtol=0.02)


@pytest.mark.parametrize("solver", get_args(Solver))
def test_walking_again_leaves_the_distribution_as_it_is(solver):
    process = DiffusionConfig(logsnr_min=-8.0, logsnr_max=8.0)
    sampling = sampling_of(solver, process, gaussian_denoiser(MEAN, STD, process), B=4096, shape=(3,), steps=240)
    x = draw(editing.resampled(sampling, 40, 3))
    assert abs(x.mean() - MEAN) < 0.015 and abs(x.std() / STD - 1.0) < 0.03


def test_resampling_brings_what_is_drawn_into_line_with_what_is_held():
    """Two numbers of correlation 0.9, the second held at 1: the first is 0.9 +- 0.44 given it, which a single walk,
    whose early steps see little of it, misses."""
    process, rho, B = DiffusionConfig(logsnr_min=-8.0, logsnr_max=8.0, prediction="x0"), 0.9, 4096
    axes, variances = jnp.asarray([[1.0, 1.0], [1.0, -1.0]]) / 2**0.5, jnp.asarray([1.0 + rho, 1.0 - rho])

    def denoise(x, t_B, condition):
        alpha, sigma = schedule.alpha_sigma(t_B[0], process)
        gain = alpha * variances / (alpha**2 * variances + sigma**2)
        return (x @ axes) * gain[None] @ axes

    def error(jump, repeats):
        sampling = sampling_of("ddpm", process, denoise, B=B, shape=(2,), steps=40)
        sampling = editing.resampled(sampling, jump, repeats)
        x = draw(editing.edited(sampling, jnp.ones((B, 2)), jnp.tile(jnp.asarray([[1.0, 0.0]]), (B, 1))))
        np.testing.assert_array_equal(x[:, 1], 1.0)
        return abs(x[:, 0].mean() - rho)

    errors = [error(5, repeats) for repeats in (1, 12)]
    assert errors[1] < 0.6 * errors[0], errors
