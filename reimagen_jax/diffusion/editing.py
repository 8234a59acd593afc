"""Editing: what is sampled, changed so that it draws on a known image. Each function maps a `Sampling` to another.

An edit gives every pixel a share g in [0, 1], how far up the process it is taken: tau = g t_0, t_0 the first time.

  enter     x_s = alpha_s y + sigma_s x_T   while s is above the largest tau of the sample; y is the known image    (1)
  hold      x_0 <- y where t > tau of the pixel                                                                  (2)
  keep      the last step ends in y where (2) holds it there: what is never let go is y exactly                  (3)
  resample  from t up again to s:  x_s = a x_t + sqrt(sigma_s^2 - a^2 sigma_t^2) noise,  a = alpha_s / alpha_t   (4)

g = 1 everywhere is drawing anew, whatever y; one g < 1 for all pixels is image to image (1: SDEdit), g of 0 and 1
inpainting, greys a strength for each pixel. (2) lets x_s of what is held be what the solver makes of y: a draw of the
forward process given x_t, where RePaint draws one given y alone, and so anew in every step. (4) is RePaint's, by which
what is drawn learns of what is held: a stretch of steps is walked `repeats` times.

Shares are traced, for each pixel of each sample; a step in which no sample of the batch has entered costs no
evaluation. A sample enters with the memory of a solver that has not begun, and so it goes on from (4).

Sources: Meng et al. 2022, SDEdit (1); Lugmayr et al. 2022, RePaint, equation 8 and algorithm 1 (2, 4); Levin and Fried
2023, Differential Diffusion (a strength for each pixel).
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from reimagen_jax.diffusion import schedule
from reimagen_jax.diffusion.base import Carry, Condition, Denoiser, Predict, Solver
from reimagen_jax.diffusion.sampler import Sampling
from reimagen_jax.diffusion.settings import DiffusionConfig

EDGE = 1e-6
"""Times are of float32: a share that was meant to reach one does."""


def edited(sampling: Sampling, known: Float[Array, "b *s"], share: Float[Array, "b *one"]) -> Sampling:
    """(1) to (3): draws on the images `known`; `share` is g, of the rank of `known` and broadcast to it."""
    process, inner, eps, times_T = sampling.process, sampling.solver, sampling.x_T, sampling.times_T
    tau = share * times_T[0]
    most_B = tau.reshape(len(tau), -1).max(axis=1)
    # The step after which a sample moves: none later begins above its tau, upward ones included.
    above_BT = times_T[None, :] > most_B[:, None] + EDGE
    entry_B = jnp.where(above_BT, jnp.arange(1, len(times_T) + 1), 0).max(axis=1)

    def held(t: Float[Array, ""]) -> Bool[Array, "b *one"]:
        return t > tau + EDGE

    def project(x0: Array, x: Array, t: Array) -> Array:
        return jnp.where(held(t), known, sampling.project(x0, x, t))  # (2)

    def step(predict: Predict, x: Array, carry: Carry, t: Array, s: Array, noise: Array) -> tuple[Array, Carry]:
        memory, i_B = carry
        waits_B, (alpha, sigma) = i_B < entry_B, schedule.alpha_sigma(s, process)
        waiting = alpha * known + sigma * eps  # (1)
        waiting = waiting, inner.init(waiting)

        def moved() -> tuple[Array, Carry]:
            stepped = inner.step(predict, x, memory, t, s, noise)
            return jax.tree.map(lambda *each: jnp.where(_expanded(waits_B, each[0]), *each), waiting, stepped)

        x, memory = jax.lax.cond(waits_B.all(), lambda: waiting, moved)
        x = jnp.where(held(t) & (s <= schedule.clean_time(process)), known, x)  # (3)
        return x, (memory, i_B + 1)

    def init(x: Array) -> Carry:
        return inner.init(x), jnp.zeros(len(x), jnp.int32)

    return sampling._replace(solver=Solver(init, step, inner.stochastic), project=project)


def lets_go(share: float, times_T: Sequence[float]) -> bool:
    """Whether a pixel of this share is drawn at all, at the last of the times that are visited if at no other."""
    return bool(share * times_T[0] + EDGE >= times_T[-2])


def resampled(sampling: Sampling, jump: int, repeats: int) -> Sampling:
    """(4): stretches of `jump` steps are walked `repeats` times each, as `walk` lists them.

    The guide is told the number of the time among those of `sampling`, so that every walk has the same plan.
    """
    visited = np.asarray(walk(len(sampling.times_T) - 1, jump, repeats))
    numbers_T = jnp.asarray(visited)

    def guide(denoise: Denoiser, x: Array, t_B: Array, condition: Condition, i: Array) -> Array:
        return sampling.guide(denoise, x, t_B, condition, numbers_T[i])

    solver = renoising(sampling.solver, sampling.process)
    return sampling._replace(times_T=sampling.times_T[numbers_T], solver=solver, guide=guide)


def walk(num_steps: int, jump: int, repeats: int) -> list[int]:
    """Numbers of the times that are visited, from 0, noise, to `num_steps`, the image.

    RePaint's: the last stretch ends a step before the image, the others where the next begins. None begins in noise,
    from which nothing would be learned.
    """
    visited = [0]
    for number in range(1, num_steps + 1):
        visited.append(number)
        first = number - jump
        if first > 0 and (num_steps - 1 - number) % jump == 0 and number < num_steps:
            visited += [*range(first, number + 1)] * (repeats - 1)
    return visited


def renoising(solver: Solver, process: DiffusionConfig) -> Solver:
    """The solver, which goes up from t to s > t by (4), and forgets what it remembered."""

    def step(predict: Predict, x: Array, carry: Carry, t: Array, s: Array, noise: Array) -> tuple[Array, Carry]:
        def up() -> tuple[Array, Carry]:
            (alpha_t, sigma_t), (alpha_s, sigma_s) = (schedule.alpha_sigma(time, process) for time in (t, s))
            a = alpha_s / alpha_t
            noisier = a * x + jnp.sqrt(jnp.maximum(sigma_s**2 - (a * sigma_t) ** 2, 0.0)) * noise  # (4)
            return noisier, solver.init(noisier)

        return jax.lax.cond(s > t, up, lambda: solver.step(predict, x, carry, t, s, noise))

    return Solver(solver.init, step, stochastic=True)


def _expanded(flag_B: Bool[Array, " b"], like: Array) -> Bool[Array, "b *one"]:
    return flag_B.reshape(-1, *(1,) * (like.ndim - 1))
