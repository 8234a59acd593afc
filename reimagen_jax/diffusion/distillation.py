"""Several steps of a sampler as one: what a student is to predict at x_t, to be at s where its teacher would be.

The teacher goes from x_t over times t > ... > s by DDIM, to z_s. One step of DDIM from t to s ends there if the student
predicts

  x_0 = (z_s - r x_t) / (alpha_s - r alpha_t),  r = sigma_s / sigma_t                                            (1)

A student that does so draws in fewer steps what its teacher draws in many; then it can be a teacher itself.
Source: Salimans and Ho 2022, progressive distillation, section 3 and appendix G.
"""

from collections.abc import Callable, Sequence
from itertools import pairwise

from jaxtyping import Array, Float, Int

from reimagen_jax.diffusion import process, schedule
from reimagen_jax.diffusion.settings import DiffusionConfig

SampleAt = Callable[[Float[Array, "b *s"], Float[Array, " b"]], Float[Array, "b *s"]]
"""(x_t, t) -> x_0, guided and projected."""


def step_times(
    step_B: Int[Array, " b"], num_steps: int, parts: int, config: DiffusionConfig
) -> list[Float[Array, " b"]]:
    """The times over which the teacher goes in as many parts, where the student takes step number i of `num_steps`."""
    times_T = schedule.times(num_steps * parts, config)
    return [times_T[step_B * parts + part] for part in range(parts + 1)]


def one_for_many(
    x0_at: SampleAt, x: Float[Array, "b *s"], times: Sequence[Float[Array, " b"]], config: DiffusionConfig
) -> Float[Array, "b *s"]:
    """(1) for the teacher's steps along these times; of one step, its own x_0 (but for rounding)."""
    z = x
    for t_B, s_B in pairwise(times):
        x0 = x0_at(z, t_B)
        eps = process.to_eps(x0, z, *schedule.alpha_sigma(t_B, config))
        z = process.diffuse(x0, eps, *schedule.alpha_sigma(s_B, config))
    (alpha_t, sigma_t), (alpha_s, sigma_s) = (schedule.alpha_sigma(times[end], config) for end in (0, -1))
    ratio_B = sigma_s / sigma_t
    return (z - process.expand(ratio_B, x) * x) / process.expand(alpha_s - ratio_B * alpha_t, x)
