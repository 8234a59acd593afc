"""The forward process and the three names of one prediction, for samples of any shape.

  x_t = alpha x_0 + sigma eps                                                                                    (1)
  v   = alpha eps - sigma x_0                                                                                    (2)

so that, with alpha^2 + sigma^2 = 1, x_0 = alpha x_t - sigma v and eps = sigma x_t + alpha v.                    (3)
Sources: Ho et al. 2020 (1); Salimans and Ho 2022 (2, 3).
"""

import jax.numpy as jnp
from jaxtyping import Array, Float

from reimagen_jax.diffusion.settings import Prediction


def expand(scale_B: Float[Array, " b"], like: Float[Array, "b *s"]) -> Float[Array, "b *one"]:
    """A number per sample, shaped to multiply samples such as `like`."""
    return scale_B.reshape(-1, *(1,) * (like.ndim - 1))


def sample_mean(x: Float[Array, "b *s"]) -> Float[Array, " b"]:
    """The mean of each sample."""
    return jnp.mean(x, axis=tuple(range(1, x.ndim)))


def diffuse(
    x0: Float[Array, "b *s"], eps: Float[Array, "b *s"], alpha_B: Float[Array, " b"], sigma_B: Float[Array, " b"]
) -> Float[Array, "b *s"]:
    """(1): noise added to samples."""
    return expand(alpha_B, x0) * x0 + expand(sigma_B, x0) * eps


def target(
    x0: Float[Array, "b *s"], eps: Array, alpha_B: Array, sigma_B: Array, kind: Prediction
) -> Float[Array, "b *s"]:
    """What a network with predictions of this `kind` should say."""
    if kind == "eps":
        return eps
    if kind == "x0":
        return x0
    return expand(alpha_B, x0) * eps - expand(sigma_B, x0) * x0  # (2)


def to_x0(
    prediction: Float[Array, "b *s"], x: Array, alpha_B: Array, sigma_B: Array, kind: Prediction
) -> Float[Array, "b *s"]:
    """The clean sample that a prediction at x_t implies, by (1) or (3)."""
    alpha, sigma = expand(alpha_B, x), expand(sigma_B, x)
    if kind == "eps":
        return (x - sigma * prediction) / alpha
    if kind == "x0":
        return prediction
    return alpha * x - sigma * prediction


def to_eps(x0: Float[Array, "b *s"], x: Array, alpha_B: Array, sigma_B: Array) -> Float[Array, "b *s"]:
    """The noise that a clean sample implies at x_t, by (1)."""
    # At t = 0 there is no noise to speak of, and dividing by its scale would blow up rounding errors.
    return (x - expand(alpha_B, x) * x0) / jnp.maximum(expand(sigma_B, x), 1e-4)
