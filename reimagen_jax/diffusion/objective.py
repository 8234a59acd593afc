"""The training loss (Re-Imagen equation 4, with any prediction):

  L = E_{x_0, eps, t} | prediction(x_t, t, c) - target(x_0, eps, t) |^2                                          (1)

where text and neighbours are dropped from c independently of each other, each with its own probability,        (2)
and t = u^r with u uniform in [0, 1].                                                                           (3)
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Key

from reimagen_jax.config import DiffusionConfig
from reimagen_jax.diffusion import process, schedule


def dropped(key: Key[Array, ""], batch: int, probability: float) -> Bool[Array, " b"]:
    """(2): which examples lose a condition."""
    return jax.random.bernoulli(key, probability, (batch,))


def squared_error(
    denoise, x0: Float[Array, "b h w c"], condition, key: Key[Array, ""], config: DiffusionConfig
) -> Float[Array, " b"]:
    """(1) per image, at one time each; the times of a batch are stratified to lower the variance of its mean.

    `denoise(x, t, condition)` is a denoiser, `x0` lies in [-1, 1].
    """
    B = x0.shape[0]
    key_t, key_eps = jax.random.split(key)
    u_B = (jax.random.uniform(key_t) + jnp.arange(B, dtype=jnp.float32) / B) % 1.0
    t_B = u_B**config.time_exponent  # (3)
    eps = jax.random.normal(key_eps, x0.shape)
    alpha_B, sigma_B = schedule.alpha_sigma(t_B, config)
    prediction = denoise(process.diffuse(x0, eps, alpha_B, sigma_B), t_B, condition)
    target = process.target(x0, eps, alpha_B, sigma_B, config.prediction)
    return jnp.mean((prediction - target) ** 2, axis=(1, 2, 3))
