"""Several steps as one: what a student is to predict takes it where its teacher goes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from reimagen_jax.diffusion import distillation, process, sampler, schedule, solvers
from reimagen_jax.diffusion.guidance import unguided
from reimagen_jax.diffusion.settings import DiffusionConfig, SamplerConfig

COSINE = DiffusionConfig(prediction="x0")
CHAIN = DiffusionConfig(schedule="cosine_chain", prediction="x0", variance_steps=24)


def toy(x, t_B, condition=None):
    """A denoiser that follows x and t."""
    return jnp.sin(3.0 * x) * jnp.cos(t_B)[:, None]


def drawn(denoise, x_T, num_steps, config):
    """By DDIM."""
    times_T = schedule.times(num_steps, config)
    project, keys_B = sampler.projection(SamplerConfig()), sampler.image_keys(0, range(len(x_T)))
    return sampler.sample(denoise, None, x_T, keys_B, times_T, config, solvers.ddim(config), unguided, project)


@pytest.mark.parametrize("config", [COSINE, CHAIN], ids=["cosine", "chain"])
@pytest.mark.parametrize(("num_steps", "parts"), [(1, 4), (2, 2), (3, 1), (4, 2)])
def test_a_student_that_has_learned_all_draws_what_its_teacher_draws(config, num_steps, parts, key):
    x_T = jax.random.normal(key, (3, 5))
    visited = np.asarray(schedule.times(num_steps, config))

    def student(x, t_B, condition):
        step_B = jnp.argmin(jnp.abs(t_B[:, None] - visited[None, :-1]), axis=1).astype(jnp.int32)
        times = distillation.step_times(step_B, num_steps, parts, config)
        np.testing.assert_allclose(times[0].shape, t_B.shape)
        return distillation.one_for_many(toy, x, times, config)

    np.testing.assert_allclose(
        drawn(student, x_T, num_steps, config), drawn(toy, x_T, num_steps * parts, config), atol=2e-4
    )


@pytest.mark.parametrize("config", [COSINE, CHAIN], ids=["cosine", "chain"])
def test_of_one_step_it_is_the_teachers_own_prediction(config, key):
    x = jax.random.normal(key, (4, 6))
    times = distillation.step_times(jnp.arange(4), 4, 1, config)
    np.testing.assert_array_equal(np.stack(times)[:, 0], schedule.times(4, config)[:2])
    np.testing.assert_allclose(distillation.one_for_many(toy, x, times, config), toy(x, times[0]), atol=1e-4)


def test_samples_of_a_batch_are_at_steps_of_their_own(key):
    x = jax.random.normal(key, (4, 6))
    together = distillation.one_for_many(toy, x, distillation.step_times(jnp.arange(4), 4, 3, COSINE), COSINE)
    for i in range(4):
        alone = distillation.step_times(jnp.asarray([i]), 4, 3, COSINE)
        np.testing.assert_allclose(
            distillation.one_for_many(toy, x[i : i + 1], alone, COSINE)[0], together[i], atol=1e-5
        )


def test_at_the_last_step_the_student_predicts_what_the_teacher_draws(key):
    """There s is the image: r of equation 1 is nothing."""
    x = jax.random.normal(key, (2, 6))
    times = distillation.step_times(jnp.asarray([0, 0]), 1, 5, COSINE)
    alpha_s, sigma_s = schedule.alpha_sigma(times[-1], COSINE)
    assert float(sigma_s.max()) < 1e-3
    predicted = distillation.one_for_many(toy, x, times, COSINE)
    ended = process.diffuse(predicted, jnp.zeros_like(x), alpha_s, sigma_s)
    np.testing.assert_allclose(ended, drawn(lambda x, t_B, _: toy(x, t_B), x, 5, COSINE), atol=2e-3)
