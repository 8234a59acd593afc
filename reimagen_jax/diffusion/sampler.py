"""The sampler: one `lax.scan` from noise to samples of any shape, differentiable in the noise.

For the times t_0 > t_1 > ... > t_n, as `schedule.times` gives them:
  prediction = guide(denoise, x_t, t)               guidance.py                                                  (1)
  x_0 = project(x_0 of the prediction)              static: clip to [-1, 1]; dynamic: Imagen section 2.3         (2)
  eps = recomputed from x_t and the projected x_0                                                                (3)
  x_s = solver(x_t, x_0, eps)                       solvers.py, with the learned variance if there is one        (4)

Every sample has its own key, from which its initial noise, its guidance plan and its step noise derive (`image_keys`,
`split_keys`): a sample does not depend on what else is in the batch.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key

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
    sampling = Sampling(denoise, condition, x_T, keys_B, times_T, process, solver, guide, project)
    step = step_of(sampling)
    (x, _), _ = jax.lax.scan(lambda state, visit: (step(state, visit)[0], None), begin(sampling), visits(times_T))
    return x


State = tuple[Float[Array, "b *s"], Carry]
"""x_t, and what the solver remembers."""
Visit = tuple[Int[Array, "*n"], Float[Array, "*n"], Float[Array, "*n"]]
"""A step's number, the time t where it begins, and s where it ends."""


class Step(NamedTuple):
    """What is seen of a step."""

    x0: Float[Array, "*s"]
    """As predicted where it begins, guided and projected."""
    x: Float[Array, "*s"]
    """x_s, where it ends."""


def last_steps(sampling: Sampling, k: int) -> Step:
    """The last k steps of `sample`, in order: the last `x` is its sample.

    Differentiated, it keeps x_t and the solver's memory of each step, and computes the rest of it again.
    """
    step = jax.checkpoint(step_of(sampling), prevent_cse=False)  # a loop's body is not merged with another's
    _, steps = jax.lax.scan(step, begin(sampling), visits(sampling.times_T))
    return jax.tree.map(lambda leaf: leaf[-k:], steps)


def begin(sampling: Sampling) -> State:
    """Where `sample` begins."""
    return sampling.x_T, sampling.solver.init(sampling.x_T)


def visits(times_T: Float[Array, " t"]) -> Visit:
    """All steps between these times."""
    return jnp.arange(len(times_T) - 1), times_T[:-1], times_T[1:]


def step_of(sampling: Sampling) -> Callable[[State, Visit], tuple[State, Step]]:
    """One step of `sample`, (1) to (4)."""
    denoise, condition, x_T, keys_B, _, process, solver, guide, project = sampling
    B, C = x_T.shape[0], x_T.shape[-1]

    def step(state: State, visit: Visit) -> tuple[State, Step]:
        x, carry = state
        i, t, s = visit
        predicted = []

        def predict(x: Float[Array, "b *s"], t: Float[Array, ""]) -> Prediction:
            alpha_B, sigma_B = (jnp.full(B, scale) for scale in schedule.alpha_sigma(t, process))
            output = guide(denoise, x, jnp.full(B, t), condition, i)  # (1)
            said, fraction = variance.split(output, C, process)
            x0 = project(forward.to_x0(said, x, alpha_B, sigma_B, process.prediction), x, t)  # (2)
            predicted.append(x0)
            return Prediction(x0, forward.to_eps(x0, x, alpha_B, sigma_B), fraction)  # (3)

        noise = jnp.zeros_like(x)
        if solver.stochastic:
            noise = jax.vmap(lambda key: jax.random.normal(jax.random.fold_in(key, i), x.shape[1:]))(keys_B)
        x, carry = solver.step(predict, x, carry, t, s, noise)  # (4)
        return (x, carry), Step(predicted[0], x)

    return step
