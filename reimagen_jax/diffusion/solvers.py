"""One step of a sampler, from time t to an earlier time s.

  alpha_ts = alpha_t / alpha_s,   sigma_ts^2 = sigma_t^2 - alpha_ts^2 sigma_s^2

  DDPM   x_s = (alpha_ts sigma_s^2 / sigma_t^2) x_t + (alpha_s sigma_ts^2 / sigma_t^2) x_0 + sd * noise          (1)
         sd^2 between sigma_ts^2 sigma_s^2 / sigma_t^2 (gamma = 0) and sigma_ts^2 (gamma = 1), in log space      (2)
         gamma is a setting, or f of variance.py: what the network says for each pixel
  DDIM   x_s = alpha_s x_0 + sqrt(sigma_s^2 - sd^2) eps + sd * noise                                             (3)
         sd = noise share * sqrt(sigma_ts^2 sigma_s^2 / sigma_t^2);  share 0 is deterministic                    (4)

Sources: Ho et al. 2020, Nichol and Dhariwal 2021 (1, 2); Song et al. 2021 (3, 4).
"""

from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Float


class Scales(NamedTuple):
    """alpha and sigma at t and at s < t; scalars."""

    alpha_t: Float[Array, ""]
    sigma_t: Float[Array, ""]
    alpha_s: Float[Array, ""]
    sigma_s: Float[Array, ""]

    @property
    def alpha_ts(self) -> Float[Array, ""]:
        return self.alpha_t / self.alpha_s

    @property
    def variance_ts(self) -> Float[Array, ""]:
        return jnp.maximum(self.sigma_t**2 - self.alpha_ts**2 * self.sigma_s**2, 0.0)

    @property
    def posterior_variance(self) -> Float[Array, ""]:
        return self.variance_ts * self.sigma_s**2 / self.sigma_t**2


def ddpm(x: Array, x0: Array, noise: Array, scales: Scales, gamma: Array | float) -> Array:
    """Ancestral sampling, (1) and (2)."""
    from_x = scales.alpha_ts * scales.sigma_s**2 / scales.sigma_t**2
    from_x0 = scales.alpha_s * scales.variance_ts / scales.sigma_t**2
    sd = scales.variance_ts ** (0.5 * gamma) * scales.posterior_variance ** (0.5 * (1.0 - gamma))
    return from_x * x + from_x0 * x0 + sd * noise


def ddim(x0: Array, eps: Array, noise: Array, scales: Scales, noise_share: float) -> Array:
    """Implicit sampling, (3) and (4)."""
    variance = noise_share**2 * scales.posterior_variance
    return scales.alpha_s * x0 + jnp.sqrt(scales.sigma_s**2 - variance) * eps + jnp.sqrt(variance) * noise
