"""Inversion: noise that leads back to a sample, as theory has it and as a network has it; and the way between two."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from reimagen_jax.diffusion import guidance, inversion, sampler, schedule, solvers
from reimagen_jax.diffusion.settings import DiffusionConfig
from reimagen_jax.errors import UserError
from reimagen_jax.systems.reimagen.system import ReImagen
from tests.diffusion.test_diffusion import gaussian_denoiser
from tests.diffusion.test_sampler_contract import FREE, MEAN, STD, flow
from tests.tiny import TINY, random_params

PROCESSES = [
    DiffusionConfig(),
    DiffusionConfig(prediction="eps", logsnr_min=-6.0),
    DiffusionConfig(schedule="linear", prediction="x0"),
    DiffusionConfig(schedule="cosine_chain"),
]


def gaussian(steps, process=PROCESSES[0], guide=guidance.unguided, B=4):
    keys_B = sampler.image_keys(0, range(B))
    return sampler.Sampling(
        gaussian_denoiser(MEAN, STD, process),
        None,
        sampler.initial_noise(keys_B, (3, 2)),
        keys_B,
        schedule.times(steps, process),
        process,
        solvers.ddim(process),
        guide,
        FREE,
    )


def round_trip(sampling, x0, refine=0):
    """x_T of inversion, and what it leads to."""

    def there_and_back(x0):
        x_T = sampler.sample(*inversion.inverted(sampling, x0, refine))
        return x_T, sampler.sample(*sampling._replace(x_T=x_T))

    return jax.jit(there_and_back)(x0)


def rms(x):
    return float(jnp.sqrt(jnp.mean(jnp.square(x))))


def samples(B=4):
    return MEAN + STD * jax.random.normal(jax.random.key(5), (B, 3, 2))


@pytest.mark.parametrize("process", PROCESSES, ids=lambda process: f"{process.schedule} {process.prediction}")
def test_a_sample_is_found_again_and_closer_by_more_steps_and_iterations(process):
    """RMS, in parts of the range from -1 to 1."""
    x0 = samples()
    plain = [rms(round_trip(gaussian(steps, process), x0)[1] - x0) / 2 for steps in (10, 20, 40)]
    refined = [rms(round_trip(gaussian(10, process), x0, refine)[1] - x0) / 2 for refine in (1, 2, 4)]
    assert plain[2] < 0.01 and plain[1] < 0.5 * plain[0] and plain[2] < 0.5 * plain[1]
    assert refined[0] < 0.5 * plain[0] and refined[1] < 0.5 * refined[0]
    assert refined[2] < 0.3 * refined[1] or refined[2] < 1e-5


def test_the_noise_is_that_of_the_probability_flow():
    x_T = gaussian(2).x_T
    found, _ = round_trip(gaussian(200), flow(x_T))
    assert rms(found - x_T) < 0.02


def test_a_step_is_guided_in_inversion_as_it_was_in_sampling():
    """A guide that does something else in every step."""

    def guide(denoise, x, t_B, condition, i):
        return denoise(x, t_B, condition) + 0.05 * jnp.sin(i)

    sampling = gaussian(10, guide=guide)
    x0 = sampler.sample(*sampling)
    x_T, again = round_trip(sampling, x0, refine=8)
    assert rms(x_T - sampling.x_T) < 1e-4 and rms(again - x0) < 1e-5


def test_stochasticity_may_differ_from_sample_to_sample():
    """By one program: 0 is the plain solver's sample, more leads elsewhere."""
    sampling, process = gaussian(10), PROCESSES[0]
    plain = sampler.sample(*sampling)
    share_B11 = jnp.asarray([0.0, 0.5, 1.0, 0.0]).reshape(-1, 1, 1)
    mixed = jax.jit(lambda share: sampler.sample(*sampling._replace(solver=solvers.ddim(process, share))))(share_B11)
    alone = sampler.sample(*sampling._replace(solver=solvers.ddim(process, 0.5)))
    np.testing.assert_allclose(mixed[jnp.array([0, 3])], plain[jnp.array([0, 3])], atol=1e-5)
    np.testing.assert_allclose(mixed[1], alone[1], atol=1e-5)
    assert rms(mixed[2] - plain[2]) > 0.05


def test_one_step_cannot_be_inverted():
    with pytest.raises(UserError, match="at least 2"):
        inversion.inverted(gaussian(1), samples())


def test_a_network_finds_an_image_again_within_one_percent():
    """The smallest Re-Imagen with its neighbours: at 25 steps, at 100, and refined."""
    params, system = random_params(TINY), ReImagen(TINY)
    spec = system.inputs_spec(2, TINY.system.sampler)
    inputs = jax.tree.map(lambda leaf: jnp.ones(leaf.shape, leaf.dtype), spec)
    image = jax.random.uniform(jax.random.key(1), (2, 16, 16, 3), minval=-1.0)
    image = jax.image.resize(image[:, ::4, ::4], image.shape, "linear")
    keys_B = sampler.image_keys(0, range(2))

    @jax.jit
    def error(params, image, times_T, refine=0):
        settings = dataclasses.replace(
            TINY.system.sampler, num_steps=2, text_weight=1.0, neighbour_weight=1.0, thresholding="none"
        )
        sampling = system.sampling(params, inputs, keys_B, settings)._replace(times_T=times_T)
        sampling = sampling._replace(guide=guidance.unguided)
        x_T = sampler.sample(*inversion.inverted(sampling, image, refine))
        return sampler.sample(*sampling._replace(x_T=x_T)) - image

    errors = [rms(error(params, image, schedule.times(steps, TINY.system.diffusion))) / 2 for steps in (25, 100)]
    assert errors[1] < 0.01 and errors[1] < 0.5 * errors[0]


# --- between two -------------------------------------------------------------------------------------------------


def test_slerp_keeps_to_the_sphere_and_goes_evenly():
    a, b = jax.random.normal(jax.random.key(0), (2, 3, 4, 4, 2))
    unit = [np.asarray(x / jnp.linalg.norm(x.reshape(3, -1), axis=1)[:, None, None, None]) for x in (a, b)]
    way = np.stack([inversion.slerp(*map(jnp.asarray, unit), share) for share in (0.0, 0.25, 0.5, 0.75, 1.0)])
    np.testing.assert_allclose(way[0], unit[0], atol=1e-6)
    np.testing.assert_allclose(way[-1], unit[1], atol=1e-6)
    flat = way.reshape(5, 3, -1)
    np.testing.assert_allclose(np.linalg.norm(flat, axis=-1), 1.0, atol=1e-6)
    between = np.arccos((flat[1:] * flat[:-1]).sum(-1))
    np.testing.assert_allclose(between, between[:1].repeat(4, 0), atol=1e-3)


def test_slerp_is_the_formula_and_lengths_are_interpolated():
    """(sin((1 - t) O) a + sin(t O) b) / sin O of unit vectors; each sample by its own share."""
    a, b = jnp.asarray([[2.0, 0.0], [2.0, 0.0]]), jnp.asarray([[0.0, 4.0], [0.0, 4.0]])
    np.testing.assert_allclose(
        inversion.slerp(a, b, jnp.asarray([0.5, 0.25])),
        [[3 * np.sqrt(0.5)] * 2, [2.5 * np.cos(np.pi / 8), 2.5 * np.sin(np.pi / 8)]],
        rtol=1e-6,
    )


@pytest.mark.parametrize("scale", [1.0, -1.0, 1.0 + 1e-7, 3.0, -0.5, 0.0])
def test_slerp_of_one_direction_or_the_opposite_is_finite_and_meets_its_ends(scale):
    a = jax.random.normal(jax.random.key(0), (2, 8))
    for share, length in ((0.0, 1.0), (0.3, 0.7 + 0.3 * abs(scale)), (1.0, abs(scale))):
        x = inversion.slerp(a, scale * a, share)
        assert bool(jnp.isfinite(x).all())
        if scale:
            np.testing.assert_allclose(jnp.linalg.norm(x, axis=1), length * jnp.linalg.norm(a, axis=1), rtol=1e-5)
    np.testing.assert_allclose(inversion.slerp(a, scale * a, 0.0), a, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(inversion.slerp(a, scale * a, 1.0), scale * a, rtol=1e-5, atol=1e-6)
