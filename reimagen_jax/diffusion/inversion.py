"""DDIM inversion: the noise that a known sample is drawn from; and the way between two noises on their sphere.

With v = alpha_t eps - sigma_t x_0, predicted at x_t, guided and projected, a step of DDIM without noise is a rotation
by d = phi_t - phi_s, phi = arctan(sigma / alpha), and so is its inverse:

  x_s = cos(d) x_t - sin(d) v(x_t)                                                                               (1)
  x_t = (x_s + sin(d) v(x_t)) / cos(d)                                                                           (2)
  x_t from (2), with v at a guess, which is (2) with the v of the step before (at first 0)                       (3)
  slerp  ((1 - share) |a| + share |b|) (cos(share O) u + sin(share O) w),  u = a / |a|, O the angle of a and b,
         w the unit vector towards b that is orthogonal to u                                                     (4)

(3) is one evaluation a step, and of second order; (2) is implicit, and iterated it makes the inverse exact: an
iteration shrinks the error by tan(d) times the slope of v, which is small both at the image and in noise, where that
of eps, or of x_0, is not. What no noise leads to, such as a picture with a grain that the network never draws, has no
inverse.

Sources: Song et al. 2021, section 4.3; Dhariwal and Nichol 2021, appendix F (inversion); Ramesh et al. 2022, section 3.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from reimagen_jax.diffusion.base import Carry, Condition, Denoiser, Predict, Solver
from reimagen_jax.diffusion.sampler import Sampling
from reimagen_jax.diffusion.settings import DiffusionConfig
from reimagen_jax.diffusion.solvers import Scales
from reimagen_jax.errors import require


def inverted(sampling: Sampling, x0: Float[Array, "b *s"], refine: int = 0) -> Sampling:
    """What, sampled, is the noise x_T from which `sampling` by DDIM without noise comes to `x0`.

    Its times are walked upwards, each step guided and projected as there: guidance of 1 and no projection are advised,
    the others diverge easily. Each step makes `refine` iterations of (2) besides. Raises `UserError` for a single step,
    which is no rotation that could be undone.
    """
    num_steps = len(sampling.times_T) - 1
    require(num_steps > 1, "one step cannot be inverted: give at least 2 (many, 100 and more, come closer)")

    def guide(denoise: Denoiser, x: Array, t_B: Array, condition: Condition, i: Array) -> Array:
        return sampling.guide(denoise, x, t_B, condition, num_steps - 1 - i)

    solver = upwards(sampling.process, refine)
    return sampling._replace(x_T=x0, times_T=sampling.times_T[::-1], solver=solver, guide=guide)


def upwards(process: DiffusionConfig, refine: int = 0) -> Solver:
    """From s up to t > s by (3), and by `refine` iterations of (2). It remembers v."""

    def step(predict: Predict, x: Array, carry: Carry, s: Array, t: Array, noise: Array) -> tuple[Array, Carry]:
        alpha_t, sigma_t, alpha_s, sigma_s = Scales.at(t, s, process)
        cos, sin = alpha_t * alpha_s + sigma_t * sigma_s, sigma_t * alpha_s - alpha_t * sigma_s

        def rotated(v: Array) -> Array:
            return (x + sin * v) / cos  # (2)

        def v_at(x_t: Array) -> Array:
            predicted = predict(x_t, t)
            return alpha_t * predicted.eps - sigma_t * predicted.x0

        v = v_at(rotated(carry))  # (3)
        v = jax.lax.fori_loop(0, refine, lambda _, v: v_at(rotated(v)), v)
        return rotated(v), v

    return Solver(jnp.zeros_like, step, stochastic=False)


def slerp(a: Float[Array, "b *s"], b: Float[Array, "b *s"], share: Float[Array, " b"] | float) -> Float[Array, "b *s"]:
    """(4): from `a` (share 0) to `b` (1) along the great circle between them, their lengths interpolated.

    Samples of any shape count as vectors. Between vectors of one direction it is a line; between opposite ones it takes
    one of the many ways.
    """
    shape, (a, b) = a.shape, (each.reshape(len(each), -1) for each in (a, b))
    share = jnp.broadcast_to(jnp.asarray(share, a.dtype), (len(a),))[:, None]
    (u, length_a), (unit_b, length_b) = _unit(a), _unit(b)
    dot = (u * unit_b).sum(axis=1, keepdims=True)
    w, sine = _unit(unit_b - dot * u)
    # Opposite vectors leave w open: the axis that is most nearly orthogonal to u, made so.
    axis = jax.nn.one_hot(jnp.abs(u).argmin(axis=1), u.shape[1], dtype=u.dtype)
    other, _ = _unit(axis - (u * axis).sum(axis=1, keepdims=True) * u)
    angle = jnp.arctan2(sine, dot)
    direction = jnp.cos(share * angle) * u + jnp.sin(share * angle) * jnp.where(sine > 1e-6, w, other)  # (4)
    return (((1.0 - share) * length_a + share * length_b) * direction).reshape(shape)


def _unit(x: Float[Array, "b d"]) -> tuple[Float[Array, "b d"], Float[Array, "b 1"]]:
    """Unit vectors (of nothing, nothing) and lengths."""
    length = jnp.linalg.norm(x, axis=1, keepdims=True)
    return x / jnp.where(length > 0.0, length, 1.0), length
