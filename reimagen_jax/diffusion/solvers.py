"""Solvers of the reverse process: each one a function that returns its step from time t to an earlier time s.

  alpha_ts = alpha_t / alpha_s,   sigma_ts^2 = sigma_t^2 - alpha_ts^2 sigma_s^2

  DDPM   x_s = (alpha_ts sigma_s^2 / sigma_t^2) x_t + (alpha_s sigma_ts^2 / sigma_t^2) x_0 + sd * noise          (1)
         sd^2 between sigma_ts^2 sigma_s^2 / sigma_t^2 (gamma = 0) and sigma_ts^2 (gamma = 1), in log space:
         the former times (sigma_t^2 / sigma_s^2)^gamma                                                          (2)
         gamma is a setting, or f of variance.py: what the network says for each pixel
  DDIM   x_s = alpha_s x_0 + sqrt(sigma_s^2 - sd^2) eps + sd * noise                                             (3)
         sd = noise share * sqrt(sigma_ts^2 sigma_s^2 / sigma_t^2);  share 0 is deterministic                    (4)

Sources: Ho et al. 2020, Nichol and Dhariwal 2021 (1, 2); Song et al. 2021 (3, 4).
"""

from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Float

from reimagen_jax.diffusion import schedule
from reimagen_jax.diffusion.base import Carry, Predict, Solver
from reimagen_jax.diffusion.settings import DiffusionConfig, SamplerConfig
from reimagen_jax.errors import require


class Scales(NamedTuple):
    """alpha and sigma at t and at s < t; scalars."""

    alpha_t: Float[Array, ""]
    sigma_t: Float[Array, ""]
    alpha_s: Float[Array, ""]
    sigma_s: Float[Array, ""]

    @classmethod
    def at(cls, t: Float[Array, ""], s: Float[Array, ""], process: DiffusionConfig) -> "Scales":
        """Those of a process."""
        return cls(*schedule.alpha_sigma(t, process), *schedule.alpha_sigma(s, process))

    @property
    def alpha_ts(self) -> Float[Array, ""]:
        return self.alpha_t / self.alpha_s

    @property
    def variance_ts(self) -> Float[Array, ""]:
        return jnp.maximum(self.sigma_t**2 - self.alpha_ts**2 * self.sigma_s**2, 0.0)

    @property
    def posterior_variance(self) -> Float[Array, ""]:
        return self.variance_ts * self.sigma_s**2 / self.sigma_t**2


def solver_of(config: SamplerConfig, process: DiffusionConfig) -> Solver:
    """The solver that the settings name.

    Raises `UserError` if they set a variance that the network has learned.
    """
    if config.solver == "ddim":
        return ddim(process, config.ddim_noise)
    require(
        not process.learned_variance or config.ddpm_gamma == 0,
        f"sampler.ddpm_gamma is {config.ddpm_gamma}, but the model has learned its variance: leave it at 0",
    )
    return ddpm(process, config.ddpm_gamma)


def ddpm(process: DiffusionConfig, gamma: float = 0.0) -> Solver:
    """Ancestral sampling, (1) and (2); a learned variance takes the place of `gamma`."""

    def step(predict: Predict, x: Array, carry: Carry, t: Array, s: Array, noise: Array) -> tuple[Array, Carry]:
        scales, (x0, _, fraction) = Scales.at(t, s, process), predict(x, t)
        share = gamma if fraction is None else fraction
        from_x = scales.alpha_ts * scales.sigma_s**2 / scales.sigma_t**2
        from_x0 = scales.alpha_s * scales.variance_ts / scales.sigma_t**2
        # As a ratio, which is at least 1: a step without any variance (between times where the schedule is cut off)
        # keeps none, where a power of the one variance by a power of the other would be 0 times infinity.
        added = jnp.sqrt(scales.posterior_variance) * (scales.sigma_t / scales.sigma_s) ** share * noise
        if process.schedule == "cosine_chain":  # whose last step is the image itself, without any noise
            added = jnp.where(s < 0.0, jnp.zeros_like(noise), added)
        return from_x * x + from_x0 * x0 + added, carry  # (1), (2)

    return Solver(_remember_nothing, step, stochastic=True)


def ddim(process: DiffusionConfig, noise_share: float = 0.0) -> Solver:
    """Implicit sampling, (3) and (4)."""

    def step(predict: Predict, x: Array, carry: Carry, t: Array, s: Array, noise: Array) -> tuple[Array, Carry]:
        scales, (x0, eps, _) = Scales.at(t, s, process), predict(x, t)
        variance = noise_share**2 * scales.posterior_variance  # (4)
        kept = jnp.sqrt(jnp.maximum(scales.sigma_s**2 - variance, 0.0))  # with all noise, rounding may go below
        return scales.alpha_s * x0 + kept * eps + jnp.sqrt(variance) * noise, carry  # (3)

    return Solver(_remember_nothing, step, stochastic=noise_share > 0.0)


def _remember_nothing(x: Array) -> None:
    """The memory of a solver of single steps."""
