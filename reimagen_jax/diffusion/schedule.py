"""Continuous-time noise schedules, given by the log signal-to-noise ratio at t in [0, 1].

  log SNR(t) = lambda(t),  alpha^2 = sigmoid(lambda),  sigma^2 = sigmoid(-lambda)           variance preserving  (1)
  cosine:  lambda(t) = -2 log tan(pi t / 2), its ends bent to stay within [lambda_min, lambda_max]               (2)
  linear:  lambda(t) = -log(exp(10^-4 + 10 t^2) - 1), and lambda_max for t < 0                                   (3)
  chain:   alpha^2(t) = f(t + 1/T) / f(0),  f(u) = cos^2(pi/2 (u + b) / (1 + b)),  b = 0.008                     (4)

(4) passes through the chain of T steps with beta_n = min(1 - f((n + 1)/T) / f(n/T), 0.999) that step n = t T of it has
behind it; the image itself lies at t = -1/T. Networks that were trained on the chain (DeepFloyd IF) go on with it. (3)
is fitted to a chain too: its t = 0 is the first step, with noise of 0.01 (1.3 levels of grey); the image lies beyond.

Sources: Kingma et al. 2021 (1, 3); Nichol and Dhariwal 2021 (2, 4); the shift is that of Hoogeboom et al. 2023.
"""

import math

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from reimagen_jax.diffusion.settings import DiffusionConfig, Spacing
from reimagen_jax.errors import require

OFFSET = 0.008
"""b of (4)."""
LARGEST_BETA = 0.999


def logsnr(t: Float[Array, "*b"], config: DiffusionConfig) -> Float[Array, "*b"]:
    """lambda(t) for t in [0, 1], falling from about `logsnr_max` to `logsnr_min`."""
    if config.schedule == "cosine":
        low, high = (jnp.arctan(jnp.exp(-0.5 * jnp.float32(x))) for x in (config.logsnr_max, config.logsnr_min))
        lambda_t = -2.0 * jnp.log(jnp.tan(low + t * (high - low)))  # (2)
    elif config.schedule == "cosine_chain":
        lambda_t = chain_logsnr(t, config.variance_steps)
    else:
        lambda_t = jnp.where(t < 0.0, jnp.inf, -jnp.log(jnp.expm1(1e-4 + 10.0 * t**2)))  # (3)
    return jnp.clip(lambda_t + config.logsnr_shift, config.logsnr_min, config.logsnr_max)


def alpha_sigma(t: Float[Array, "*b"], config: DiffusionConfig) -> tuple[Float[Array, "*b"], Float[Array, "*b"]]:
    """Signal and noise scale at t, by (1)."""
    lambda_t = logsnr(t, config)
    return jnp.sqrt(jax.nn.sigmoid(lambda_t)), jnp.sqrt(jax.nn.sigmoid(-lambda_t))


def chain_logsnr(t: Float[Array, "*b"], steps: int) -> Float[Array, "*b"]:
    """(4) as a log signal-to-noise ratio, for t from -1/steps (without noise: infinite) to 1."""
    u = jnp.clip(t + 1.0 / steps, 0.0, 1.0)
    # f(u) and f(0) - f(u) as products of sines: near the ends, differences of cosines would lose their digits.
    scale = 0.5 * math.pi / (1.0 + OFFSET)
    signal = jnp.sin((1.0 - u) * scale) ** 2
    noise = jnp.sin(u * scale) * jnp.sin((u + 2.0 * OFFSET) * scale)
    last = math.sin(scale / steps) ** 2 / math.cos(OFFSET * scale) ** 2 * (1.0 - LARGEST_BETA)
    return jnp.maximum(jnp.log(signal) - jnp.log(noise), math.log(last) - math.log1p(-last))


def clean_time(config: DiffusionConfig) -> float:
    """The time of the image itself, where the last step of a sampler ends."""
    return 0.0 if config.schedule == "cosine" else -1.0 / config.variance_steps


def times(num_steps: int, config: DiffusionConfig, spacing: Spacing = "even") -> Float[Array, " t"]:
    """The times that a sampler of so many steps visits, `num_steps` + 1 of them, from noise to the image.

    Equally spaced from 1 to 0, the last at `clean_time`; on a chain, from its last step to the image, at whole steps:
    whatever their number, the first is where there is nothing but noise (Lin et al. 2023, "trailing"). Raises
    `UserError` when the chain has fewer steps, and for another spacing where there is no chain.
    """
    if config.schedule != "cosine_chain":
        require(spacing == "even", f"sampler.spacing {spacing!r} is about a chain: the schedule is {config.schedule}")
        return jnp.linspace(1.0, 0.0, num_steps + 1).at[-1].set(clean_time(config))
    T = config.variance_steps
    require(num_steps <= T, f"sampler.num_steps is {num_steps}, but the model's chain has {T} steps")
    visited = np.round(np.linspace(T - 1, -1, num_steps + 1))
    if spacing == "leading":
        visited = np.append(np.arange(num_steps)[::-1] * (T // num_steps), -1)
    return jnp.asarray(visited / T, jnp.float32)
