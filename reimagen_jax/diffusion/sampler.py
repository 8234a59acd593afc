"""The sampler: one `lax.scan` from noise to samples of any shape, differentiable in the noise.

For the times t_0 > t_1 > ... > t_n, as `schedule.times` gives them:
  prediction = guide(denoise, x_t, t)               guidance.py                                                  (1)
  x_0 = project(x_0 of the prediction)              static: clip to [-1, 1]; dynamic: Imagen section 2.3         (2)
  eps = recomputed from x_t and the projected x_0                                                                (3)
  x_s = solver(x_t, x_0, eps)                       solvers.py, with the learned variance if there is one        (4)

Every sample has its own key, from which its initial noise, its guidance plan and its step noise derive (`image_keys`,
`split_keys`): a sample does not depend on what else is in the batch.
"""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from reimagen_jax import randomness
from reimagen_jax.diffusion import process as forward
from reimagen_jax.diffusion import schedule, variance
from reimagen_jax.diffusion.base import Carry, Condition, Denoiser, Guide, Prediction, Project, Solver
from reimagen_jax.diffusion.settings import DiffusionConfig, SamplerConfig


class Sampling(NamedTuple):
    """All that `sample` takes: `sample(*sampling)`. To edit or to search, `sampling._replace(x_T=...)`."""

    denoise: Denoiser
    condition: Condition
    x_T: Float[Array, "b *s"]
    keys_B: Key[Array, " b"]
    times_T: Float[Array, " t"]
    process: DiffusionConfig
    solver: Solver
    guide: Guide
    project: Project


def image_keys(seed: int, indices: Sequence[int]) -> Key[Array, " b"]:
    """One key per image, from the seed and the image's index."""
    return jax.vmap(lambda i: jax.random.fold_in(randomness.key(seed), i))(jnp.asarray(indices, jnp.uint32))


def split_keys(keys_B: Key[Array, " b"]) -> Key[Array, "3 b"]:
    """Each image's keys of its initial noise, of its guidance plan and of its steps."""
    return jnp.moveaxis(jax.vmap(lambda key: jax.random.split(key, 3))(keys_B), 1, 0)


def initial_noise(keys_B: Key[Array, " b"], shape: Sequence[int]) -> Float[Array, "b *s"]:
    """x_T: a sample of standard normal noise for every key."""
    return jax.vmap(lambda key: jax.random.normal(key, tuple(shape)))(keys_B)


def projection(config: SamplerConfig) -> Project:
    """(2), as the settings ask for it: keeps a predicted sample within [-1, 1]."""

    def project(x0: Array, x: Array, t: Array) -> Array:
        if config.thresholding == "static":
            return jnp.clip(x0, -1.0, 1.0)
        if config.thresholding == "dynamic":
            magnitude_BP = jnp.abs(x0).reshape(x0.shape[0], -1)
            limit_B = jnp.maximum(jnp.quantile(magnitude_BP, config.percentile, axis=1), 1.0)
            if config.threshold_limit is not None:
                limit_B = jnp.minimum(limit_B, config.threshold_limit)
            limit = forward.expand(limit_B, x0)
            return jnp.clip(x0, -limit, limit) / limit
        return x0

    return project


def sample(
    denoise: Denoiser,
    condition: Condition,
    x_T: Float[Array, "b *s"],
    keys_B: Key[Array, " b"],
    times_T: Float[Array, " t"],
    process: DiffusionConfig,
    solver: Solver,
    guide: Guide,
    project: Project,
) -> Float[Array, "b *s"]:
    """x_0 from x_T along the times, `len(times_T) - 1` steps of `solver`; pure, to be jitted by the caller.

    `denoise`'s predictions mean `process.prediction`. A step draws its noise from `keys_B`, one key a sample, and its
    number. What may vary without another program (guidance's numbers, masks) is traced, inside `condition` and `guide`.
    """
    B, C = x_T.shape[0], x_T.shape[-1]

    def step(state: tuple[Array, Carry], inputs: tuple[Array, Array, Array]) -> tuple[tuple[Array, Carry], None]:
        x, carry = state
        i, t, s = inputs

        def predict(x: Float[Array, "b *s"], t: Float[Array, ""]) -> Prediction:
            alpha_B, sigma_B = (jnp.full(B, scale) for scale in schedule.alpha_sigma(t, process))
            output = guide(denoise, x, jnp.full(B, t), condition, i)  # (1)
            said, fraction = variance.split(output, C, process)
            x0 = project(forward.to_x0(said, x, alpha_B, sigma_B, process.prediction), x, t)  # (2)
            return Prediction(x0, forward.to_eps(x0, x, alpha_B, sigma_B), fraction)  # (3)

        noise = jnp.zeros_like(x)
        if solver.stochastic:
            noise = jax.vmap(lambda key: jax.random.normal(jax.random.fold_in(key, i), x.shape[1:]))(keys_B)
        return solver.step(predict, x, carry, t, s, noise), None  # (4)

    numbers = jnp.arange(len(times_T) - 1)
    (x, _), _ = jax.lax.scan(step, (x_T, solver.init(x_T)), (numbers, times_T[:-1], times_T[1:]))
    return x
