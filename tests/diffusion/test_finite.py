"""Rounding carries nothing across the domain of a root, a logarithm or a division: a step's result is a number.

Whatever the process, the solver, its share of noise, and how many steps it takes.
"""

from typing import get_args

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from reimagen_jax.diffusion import process as forward
from reimagen_jax.diffusion import sampler, schedule, solvers, variance
from reimagen_jax.diffusion.base import Prediction
from reimagen_jax.diffusion.objective import diffusion_loss
from reimagen_jax.diffusion.settings import DiffusionConfig, SamplerConfig, Solver
from reimagen_jax.diffusion.solvers import LONGEST
from reimagen_jax.diffusion.spacing import ANY_PROCESS, SECTIONS, Spacing
from reimagen_jax.systems.reimagen.presets import IF_PROCESS
from tests.diffusion.test_diffusion import gaussian_denoiser, plain, sample

PROCESSES = {
    "cosine": DiffusionConfig(),
    "cosine, widest": DiffusionConfig(logsnr_min=-30.0, logsnr_max=30.0),
    "cosine, more noise": DiffusionConfig(logsnr_shift=-4.0),
    "cosine, less noise": DiffusionConfig(logsnr_shift=6.0),
    "cosine, cut short": DiffusionConfig(logsnr_min=-1.0, logsnr_max=1.0),
    "linear": DiffusionConfig(schedule="linear"),
    "linear, more noise": DiffusionConfig(schedule="linear", logsnr_shift=-30.0),
    "chain": DiffusionConfig(schedule="cosine_chain"),
    "chain, widest": DiffusionConfig(schedule="cosine_chain", logsnr_min=-30.0, logsnr_max=30.0),
    "chain of 40": DiffusionConfig(schedule="cosine_chain", variance_steps=40),
    "scaled linear": DiffusionConfig(schedule="scaled_linear"),
    "scaled linear, of 40": DiffusionConfig(schedule="scaled_linear", variance_steps=40),
    "DeepFloyd IF": IF_PROCESS,
}
STEPS = [*range(1, 121), 150, 200, 250, 333, 334, 500, 501, 600, 750, 999, 1000]
SHARES = (0.0, 0.3, 1.0)
LEARNED = (-0.7, 0.0, 0.5, 1.0, 1.7, 3.0)
"""Of the variance, f: a network is not held to its bounds."""


def steps_of(process):
    """(t, s) of every step of every number of steps."""
    spacings = ("even", "leading", "trailing") if process.chain else ("even",)
    most = process.variance_steps if process.chain else 1000
    times = [np.asarray(schedule.times(n, process, each)) for n in STEPS if n <= most for each in spacings]
    return np.unique(np.concatenate([np.stack([each[:-1], each[1:]], axis=1) for each in times]), axis=0)


@pytest.mark.parametrize("process", PROCESSES.values(), ids=PROCESSES)
def test_every_step_of_every_solver_is_finite(process):
    def step(t, s):
        alpha, sigma = schedule.alpha_sigma(t, process)
        x0, eps, noise = jnp.float32(0.3), jnp.float32(-1.2), jnp.float32(0.7)
        x = alpha * x0 + sigma * eps

        def of(solver, fraction=None):
            said = Prediction(x0, eps, None if fraction is None else jnp.float32(fraction))
            return solver.step(lambda x, t: said, x, None, t, s, noise)[0]

        by_ddim = [of(solvers.ddim(process, share)) for share in SHARES]
        by_ddpm = [of(solvers.ddpm(process, gamma)) for gamma in SHARES]
        return by_ddim, by_ddpm, [of(solvers.ddpm(process), fraction) for fraction in LEARNED]

    t, s = steps_of(process).T
    by_ddim, by_ddpm, learned = map(np.asarray, jax.jit(jax.vmap(step))(t, s))
    for name, drawn in (("ddim", by_ddim), ("ddpm", by_ddpm), ("learned", learned)):
        assert np.isfinite(drawn).all(), f"{name} at {np.stack([t, s], axis=1)[~np.isfinite(drawn).all(axis=0)][:5]}"
    # With all noise, DDIM is the ancestral step with the small variance. Near the image both divide small numbers.
    np.testing.assert_allclose(by_ddim[-1], by_ddpm[0], atol=2e-3)


def windows_of(process):
    """Four times in a row, wherever a sampler begins, goes on and ends; a step may be of no length at all."""
    chain = process.chain
    named = [(sum(SECTIONS[name]), name) for name in SECTIONS if chain and process.variance_steps == 1000]
    most, spacings = (process.variance_steps, get_args(Spacing)) if chain else (1000, ANY_PROCESS)
    plain = [
        (n, name)
        for n in (1, 2, 3, 5, 10, 25, 40, 250, 1000)
        for name in spacings
        if n <= most and (name != "ddim" or most % n == 0) and (name != "ldm" or n < most)
    ]
    windows = []
    for n, name in [*named, *((n, name) for n, name in plain if name not in SECTIONS)]:
        times = np.pad(np.asarray(schedule.times(n, process, name)), (3, 0), mode="edge")
        windows.append(np.lib.stride_tricks.sliding_window_view(times, 4))
    return np.unique(np.concatenate(windows), axis=0)


@pytest.mark.parametrize("name", [name for name in get_args(Solver) if name not in ("ddpm", "ddim")])
@pytest.mark.parametrize("process", PROCESSES.values(), ids=PROCESSES)
def test_every_step_of_a_solver_of_several_is_finite_whatever_is_predicted(process, name):
    solver = solvers.solver_of(SamplerConfig(solver=name), process)

    def predict(x, t):
        alpha, sigma = schedule.alpha_sigma(t, process)
        x0 = jnp.sign(jnp.sin(1e4 * t))  # as rough as it can be
        return Prediction(x0, forward.to_eps(x0[None], x[None], alpha[None], sigma[None])[0])

    def walk(times):
        x = jnp.float32(-1.2)
        carry = solver.init(x)
        for i in range(3):
            x, carry = solver.step(predict, x, carry, times[i], times[i + 1], jnp.float32(0.7))
        return x

    windows = windows_of(process)
    drawn = np.asarray(jax.jit(jax.vmap(walk))(windows))
    assert np.isfinite(drawn).all(), f"{name} at {windows[~np.isfinite(drawn)][:5]}"
    if name != "heun":  # which extrapolates over e^h
        assert np.abs(drawn).max() < 3.0 + LONGEST


@pytest.mark.parametrize("process", PROCESSES.values(), ids=PROCESSES)
@pytest.mark.parametrize("kind", ["eps", "x0", "v"])
def test_loss_predictions_and_the_variational_term_are_finite_at_every_time(process, kind, key):
    process = DiffusionConfig(**{**vars(process), "prediction": kind, "learned_variance": True, "weighting": "min_snr"})
    t_B = np.unique(np.concatenate([steps_of(process).ravel(), np.linspace(0.0, 1.0, 997)])).astype(np.float32)
    t_B = jnp.asarray(t_B[t_B >= 0.0])
    alpha_B, sigma_B = schedule.alpha_sigma(t_B, process)
    x0, eps = (jax.random.normal(jax.random.fold_in(key, i), (len(t_B), 4)) for i in range(2))
    x = forward.diffuse(jnp.clip(x0, -1.0, 1.0), eps, alpha_B, sigma_B)
    said = forward.target(x0, 0.9 * eps, alpha_B, sigma_B, kind)
    assert np.isfinite(forward.to_eps(forward.to_x0(said, x, alpha_B, sigma_B, kind), x, alpha_B, sigma_B)).all()
    for fraction in (0.0, 0.5, 1.0):
        bits = variance.variational_bits(said, jnp.full_like(x, fraction), x, jnp.clip(x0, -1.0, 1.0), t_B, process)
        assert np.isfinite(bits).all()
    loss = diffusion_loss(lambda x, t, c: jnp.concatenate([x, x], axis=-1), jnp.clip(x0, -1.0, 1.0), None, key, process)
    assert np.isfinite(loss).all()


@pytest.mark.parametrize("steps", [1, 10, 50])
def test_ifs_process_is_drawn_by_ddim_with_all_noise(steps):
    process = DiffusionConfig(**{**vars(IF_PROCESS), "learned_variance": False})
    settings = SamplerConfig(num_steps=steps, ddim_noise=1.0, thresholding="static")
    denoise = gaussian_denoiser(0.3, 0.1, process)
    x = np.asarray(sample(denoise, plain(64), sampler.image_keys(0, range(64)), process, settings))
    assert np.isfinite(x).all() and abs(x.mean() - 0.3) < 0.05


@pytest.mark.parametrize("said", [0.9, 1.5, 3.0])
def test_a_step_without_variance_stays_without_where_the_variance_is_learned(said):
    process = DiffusionConfig(prediction="x0", logsnr_shift=-4.0, learned_variance=True)  # its first steps are cut off
    exact = gaussian_denoiser(0.5, 0.1, process)

    def denoise(x, t_B, condition):
        return jnp.concatenate([exact(x, t_B, condition), jnp.full_like(x, said)], axis=-1)

    settings = SamplerConfig(num_steps=250, solver="ddpm", thresholding="none")
    x = np.asarray(sample(denoise, plain(64), sampler.image_keys(0, range(64)), process, settings))
    assert np.isfinite(x).all() and abs(x.mean() - 0.5) < 0.05
    assert said > 1.0 or abs(x.std() / 0.1 - 1.0) < 0.3
