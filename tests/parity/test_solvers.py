"""Every solver goes, step by step, where diffusers' scheduler goes on the same predictions, times and noise.

Theirs compute in double precision, with our process's sigma / alpha at our times; their timesteps and IF's respacings
are those that the spacings of the same names visit.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler, DPMSolverMultistepScheduler, HeunDiscreteScheduler, UniPCMultistepScheduler
from diffusers.pipelines.deepfloyd_if import timesteps as published

from reimagen_jax.diffusion import schedule, solvers
from reimagen_jax.diffusion.base import Prediction
from reimagen_jax.diffusion.settings import DiffusionConfig, SamplerConfig
from reimagen_jax.diffusion.spacing import SECTIONS, chain_steps

PROCESSES = {
    "cosine": DiffusionConfig(),
    "linear": DiffusionConfig(schedule="linear"),
    "chain": DiffusionConfig(schedule="cosine_chain", logsnr_min=-30.0, logsnr_max=30.0),
}
MULTISTEP = {"prediction_type": "sample", "solver_order": 2}
THEIRS = {
    "dpmpp_2m": (DPMSolverMultistepScheduler, MULTISTEP | {"euler_at_final": True}),
    "dpmpp_2m_sde": (
        DPMSolverMultistepScheduler,
        MULTISTEP | {"euler_at_final": True, "algorithm_type": "sde-dpmsolver++"},
    ),
    "unipc": (UniPCMultistepScheduler, MULTISTEP),
    "heun": (HeunDiscreteScheduler, {"prediction_type": "epsilon"}),
}


def image(x, t, tanh):
    """A prediction that depends on x and t, and is none of a Gaussian's."""
    return tanh(1.3 * x + 2.0 * t - 0.5)


def ours(name, process, times, x, noises):
    solver = solvers.solver_of(SamplerConfig(solver=name), process)

    def predict(x, t):
        alpha, sigma = schedule.alpha_sigma(t, process)
        x0 = image(x, t, jnp.tanh)
        return Prediction(x0, (x - alpha * x0) / sigma)

    step = jax.jit(lambda x, carry, t, s, noise: solver.step(predict, x, carry, t, s, noise))
    carry, drawn = solver.init(x), []
    for t, s, noise in zip(times[:-1], times[1:], noises, strict=True):
        x, carry = step(x, carry, t, s, noise)
        drawn.append(np.asarray(x))
    return drawn


def theirs(name, process, times, x, noises):
    kind, settings = THEIRS[name]
    scheduler = kind(**settings)
    n, T = len(times) - 1, torch.from_numpy(np.asarray(times, np.float64))
    scheduler.set_timesteps(n)
    ratios = torch.exp(-0.5 * torch.from_numpy(np.asarray(schedule.logsnr(times, process), np.float64)))
    alphas = 1.0 / torch.sqrt(1.0 + ratios**2)
    x, drawn = torch.from_numpy(np.asarray(x, np.float64)), []
    if name == "heun":  # whose samples are x / alpha, and whose last step has one evaluation
        scheduler.sigmas = torch.cat([ratios[:1], ratios[1:-1].repeat_interleave(2), ratios[-1:]])
        scheduler.set_begin_index(0)
        for i in range(n):
            y = x / alphas[i]
            for j in (i, i + 1)[: 1 if i == n - 1 else 2]:
                at = y * alphas[j]
                eps = (at - alphas[j] * image(at, T[j], torch.tanh)) / (alphas[j] * ratios[j])
                y = scheduler.step(eps, scheduler.timesteps[0], y).prev_sample
            x = y * alphas[i + 1]
            drawn.append(x.numpy())
        return drawn
    scheduler.sigmas = ratios
    scheduler.set_begin_index(0)
    for i, noise in enumerate(noises):
        given = {}
        if name == "dpmpp_2m_sde":  # without noise in the image
            given = {"variance_noise": torch.from_numpy(np.asarray(noise, np.float64)) * (i < n - 1)}
        x0 = image(x, T[i], torch.tanh)
        x = scheduler.step(x0, scheduler.timesteps[i], x, **given).prev_sample
        assert x.dtype == torch.float64
        drawn.append(x.numpy())
    return drawn


@pytest.mark.parametrize("spacing", ["even", "karras", "logsnr", "listed"])
@pytest.mark.parametrize("process", PROCESSES.values(), ids=PROCESSES)
@pytest.mark.parametrize("name", THEIRS)
def test_each_step_is_that_of_diffusers(name, process, spacing):
    if spacing == "listed":
        times = schedule.times(5, process, listed=(0.9, 0.7, 0.6, 0.3, 0.1))
    else:
        times = schedule.times(9, process, spacing)
    key_x, key_noise = jax.random.split(jax.random.key(0))
    x, noises = jax.random.normal(key_x, (2, 3)), jax.random.normal(key_noise, (len(times) - 1, 2, 3))
    if name == "heun" and spacing == "even":  # over the first step, e^h is 900: single precision keeps less of it
        times = times[1:]
        noises = noises[1:]
    drawn = zip(ours(name, process, times, x, noises), theirs(name, process, times, x, noises), strict=True)
    for i, (step, of_diffusers) in enumerate(drawn):
        np.testing.assert_allclose(step, of_diffusers, atol=1e-5, err_msg=f"step {i}")


@pytest.mark.parametrize("name", SECTIONS)
def test_the_respacings_of_deepfloyd_if_are_as_published(name):
    steps = chain_steps(sum(SECTIONS[name]), 1000, name)
    np.testing.assert_array_equal(steps, getattr(published, f"{name}_timesteps"))


@pytest.mark.parametrize("spacing", ["leading", "trailing", "linspace"])
def test_spacings_are_those_of_diffusers(spacing):
    scheduler = DDIMScheduler(1000, timestep_spacing=spacing)
    for n in (*range(2, 101), 150, 250, 333, 999, 1000):
        scheduler.set_timesteps(n)
        np.testing.assert_array_equal(chain_steps(n, 1000, spacing), scheduler.timesteps.numpy()[:n], err_msg=str(n))


@pytest.mark.parametrize("n", [10, 27, 50, 100, 150])
def test_plain_numbers_are_deepfloyd_ifs(n):
    """IF sums up strides in double precision, and rounds."""
    at, steps = 0.0, []
    for _ in range(n):
        steps.append(round(at))
        at += 999 / (n - 1)
    np.testing.assert_array_equal(chain_steps(n, 1000, "linspace"), steps[::-1])
