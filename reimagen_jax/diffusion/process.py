"""The forward process and the three names of one prediction.

  x_t = alpha x_0 + sigma eps                                                                                    (1)
  v   = alpha eps - sigma x_0                                                                                    (2)

so that, with alpha^2 + sigma^2 = 1, x_0 = alpha x_t - sigma v and eps = sigma x_t + alpha v.                    (3)
Sources: Ho et al. 2020 (1); Salimans and Ho 2022 (2, 3).
"""

import jax.numpy as jnp
from jaxtyping import Array, Float

from reimagen_jax.config import Prediction


def over_pixels(scale_B: Float[Array, " b"]) -> Float[Array, "b 1 1 1"]:
    """A number per image, shaped to multiply images."""
    return scale_B[:, None, None, None]


def diffuse(x0: Float[Array, "b h w c"], eps: Float[Array, "b h w c"], alpha_B: Array, sigma_B: Array) -> Array:
    """(1): noise added to images."""
    return over_pixels(alpha_B) * x0 + over_pixels(sigma_B) * eps


def target(x0: Float[Array, "b h w c"], eps: Array, alpha_B: Array, sigma_B: Array, kind: Prediction) -> Array:
    """What a network with predictions of this `kind` should say."""
    if kind == "eps":
        return eps
    if kind == "x0":
        return x0
    return over_pixels(alpha_B) * eps - over_pixels(sigma_B) * x0  # (2)


def to_x0(prediction: Float[Array, "b h w c"], x: Array, alpha_B: Array, sigma_B: Array, kind: Prediction) -> Array:
    """The clean image that a prediction at x_t implies, by (1) or (3)."""
    alpha, sigma = over_pixels(alpha_B), over_pixels(sigma_B)
    if kind == "eps":
        return (x - sigma * prediction) / alpha
    if kind == "x0":
        return prediction
    return alpha * x - sigma * prediction


def to_eps(x0: Float[Array, "b h w c"], x: Array, alpha_B: Array, sigma_B: Array) -> Array:
    """The noise that a clean image implies at x_t, by (1)."""
    # At t = 0 there is no noise to speak of, and dividing by its scale would blow up rounding errors.
    return (x - over_pixels(alpha_B) * x0) / jnp.maximum(over_pixels(sigma_B), 1e-4)
