"""Continuous-time noise schedules, given by the log signal-to-noise ratio at t in [0, 1].

  log SNR(t) = lambda(t),  alpha^2 = sigmoid(lambda),  sigma^2 = sigmoid(-lambda)           variance preserving  (1)
  cosine:  lambda(t) = -2 log tan(pi t / 2), its ends bent to stay within [lambda_min, lambda_max]               (2)
  linear:  lambda(t) = -log(exp(10^-4 + 10 t^2) - 1)                                                             (3)

Sources: Kingma et al. 2021 (1, 3); Nichol and Dhariwal 2021 (2); the shift is that of Hoogeboom et al. 2023.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from reimagen_jax.config import DiffusionConfig


def logsnr(t: Float[Array, "*b"], config: DiffusionConfig) -> Float[Array, "*b"]:
    """lambda(t) for t in [0, 1], falling from about `logsnr_max` to `logsnr_min`."""
    if config.schedule == "cosine":
        low, high = (jnp.arctan(jnp.exp(-0.5 * jnp.float32(x))) for x in (config.logsnr_max, config.logsnr_min))
        lambda_t = -2.0 * jnp.log(jnp.tan(low + t * (high - low)))  # (2)
    else:
        lambda_t = -jnp.log(jnp.expm1(1e-4 + 10.0 * t**2))  # (3)
    return jnp.clip(lambda_t + config.logsnr_shift, config.logsnr_min, config.logsnr_max)


def alpha_sigma(t: Float[Array, "*b"], config: DiffusionConfig) -> tuple[Float[Array, "*b"], Float[Array, "*b"]]:
    """Signal and noise scale at t, by (1)."""
    lambda_t = logsnr(t, config)
    return jnp.sqrt(jax.nn.sigmoid(lambda_t)), jnp.sqrt(jax.nn.sigmoid(-lambda_t))
