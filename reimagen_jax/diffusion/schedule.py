"""Continuous-time noise schedules, given by the log signal-to-noise ratio at t in [0, 1].

  log SNR(t) = lambda(t),  alpha^2 = sigmoid(lambda),  sigma^2 = sigmoid(-lambda)           variance preserving  (1)
  cosine:  lambda(t) = -2 log tan(pi t / 2), its ends bent to stay within [lambda_min, lambda_max]               (2)
  linear:  lambda(t) = -log(exp(10^-4 + 10 t^2) - 1), and lambda_max for t < 0                                   (3)
  chain:   alpha^2(t) = f(t + 1/T) / f(0),  f(u) = cos^2(pi/2 (u + b) / (1 + b)),  b = 0.008                     (4)
  scaled_linear:  alpha^2 = prod_{i <= n} (1 - beta_i),  beta_i = (from sqrt 0.0015 to sqrt 0.0195, evenly)^2 in 1000
           steps, t = n/T; straight between them, and lambda_max for t < 0                                       (7)
  karras:  n times between the noisy end and t = 0 at which (sigma / alpha)^(1/7) falls by equal parts           (5)
  logsnr:  n at which log(sigma / alpha) does                                                                    (6)

(4) passes through the chain of T steps with beta_n = min(1 - f((n + 1)/T) / f(n/T), 0.999) that step n = t T of it has
behind it; the image itself lies at t = -1/T. Networks that were trained on the chain (DeepFloyd IF) go on with it. (3)
is fitted to a chain too: its t = 0 is the first step, with noise of 0.01 (1.3 levels of grey); the image lies beyond.
(7) is a chain whose steps alone are trained on, of T steps a betas' 1000/T as large.
In (5) and (6), t = 0 is the last of them where the image lies beyond it, and the image itself where it does not; on a
chain, they lie between its steps: there, too, (4) has the noise of the time that the network is told.

Sources: Kingma et al. 2021 (1, 3); Nichol and Dhariwal 2021 (2, 4); the shift is that of Hoogeboom et al. 2023; Karras
et al. 2022 (5); Lu et al. 2022 (6); Rombach et al. 2022 and, with these ends, Li et al. 2024 (7).
"""

import functools
import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from reimagen_jax.diffusion.settings import DiffusionConfig
from reimagen_jax.diffusion.spacing import Spacing, chain_steps
from reimagen_jax.errors import require

OFFSET = 0.008
"""b of (4)."""
LARGEST_BETA = 0.999
ENDS_OF_BETA = (0.0015, 0.0195)
"""Of (7)."""
RHO = 7.0
"""Of (5)."""


def logsnr(t: Float[Array, "*b"], config: DiffusionConfig) -> Float[Array, "*b"]:
    """lambda(t) for t in [0, 1], falling from about `logsnr_max` to `logsnr_min`."""
    if config.schedule == "cosine":
        low, high = (jnp.arctan(jnp.exp(-0.5 * jnp.float32(x))) for x in (config.logsnr_max, config.logsnr_min))
        lambda_t = -2.0 * jnp.log(jnp.tan(low + t * (high - low)))  # (2)
    elif config.schedule == "cosine_chain":
        lambda_t = chain_logsnr(t, config.variance_steps)
    elif config.schedule == "scaled_linear":
        T = config.variance_steps
        table_T = jnp.asarray(_scaled_linear(T), jnp.float32)
        lambda_t = jnp.where(t < 0.0, jnp.inf, jnp.interp(t * T, jnp.arange(T, dtype=jnp.float32), table_T))  # (7)
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
    last = _chain_last(steps)
    return jnp.maximum(jnp.log(signal) - jnp.log(noise), math.log(last) - math.log1p(-last))


@functools.cache
def _scaled_linear(steps: int) -> np.ndarray:
    """(7) as log signal-to-noise ratios of all steps, in double precision."""
    betas = np.linspace(*np.sqrt(ENDS_OF_BETA), steps) ** 2 * (1000 / steps)
    log_signal = np.cumsum(np.log1p(-np.minimum(betas, LARGEST_BETA)))
    return log_signal - np.log(-np.expm1(log_signal))


def _chain_last(steps: int) -> float:
    """alpha^2 of the chain's last step."""
    scale = 0.5 * math.pi / (1.0 + OFFSET)
    return math.sin(scale / steps) ** 2 / math.cos(OFFSET * scale) ** 2 * (1.0 - LARGEST_BETA)


def clean_time(config: DiffusionConfig) -> float:
    """The time of the image itself, where the last step of a sampler ends."""
    return config.clean_time


def times(
    num_steps: int, config: DiffusionConfig, spacing: Spacing = "even", listed: Sequence[float] = ()
) -> Float[Array, " t"]:
    """The times that a sampler of so many steps visits, `num_steps` + 1 of them, from noise to the image.

    Equally spaced from 1 to 0, the last at `clean_time`; on a chain, from its last step to the image, at whole steps:
    whatever their number, the first is where there is nothing but noise (Lin et al. 2023, "trailing"). Other spacings
    are (5), (6) and those of `spacing.py`; `listed` are the times themselves, without the image's. Raises `UserError`
    when the chain has no such steps, and for a chain's spacing where there is none.
    """
    if listed:
        require(len(listed) == num_steps, f"sampler.times lists {len(listed)}, but sampler.num_steps is {num_steps}")
        return _on_device([*listed, config.clean_time])
    if config.chain:
        T = config.variance_steps
        end = 0 if spacing == "ldm" else -1
        visited = np.append(chain_steps(num_steps, T, spacing), end) / T  # refuses more steps than there are
        if spacing not in ("karras", "logsnr"):
            return _on_device(visited)
    if spacing in ("karras", "logsnr"):
        return _on_device(_by_noise(num_steps, config, spacing))
    require(spacing == "even", f"sampler.spacing {spacing!r} is about a chain: the schedule is {config.schedule}")
    return jnp.linspace(1.0, 0.0, num_steps + 1).at[-1].set(config.clean_time)


def _on_device(times: Sequence[float] | np.ndarray) -> Float[Array, " t"]:
    """As float32, rounded by numpy: JAX would compile a program for every number of them."""
    return jax.device_put(np.asarray(times, np.float32))


def _by_noise(num_steps: int, config: DiffusionConfig, spacing: Spacing) -> np.ndarray:
    """(5) or (6). A shift of the schedule moves all of sigma / alpha by one factor, so the times stay."""
    first, last = _ratio(np.asarray([config.first_time, 0.0]), config).tolist()
    inner = num_steps if config.clean_time == 0.0 else num_steps - 1  # parts between the noisy end and t = 0
    part = np.arange(num_steps) / max(inner, 1)
    if spacing == "karras":
        r = ((1.0 - part) * first ** (1 / RHO) + part * last ** (1 / RHO)) ** RHO  # (5)
    else:
        r = np.exp((1.0 - part) * math.log(first) + part * math.log(last))  # (6)
    t = _time(r, config)
    t[0] = config.first_time
    return np.append(t, config.clean_time)


def _bend(config: DiffusionConfig) -> tuple[float, float]:
    """The ends of the angle arctan(sigma / alpha) in (2)."""
    low, high = (math.atan(math.exp(-0.5 * x)) for x in (config.logsnr_max, config.logsnr_min))
    return low, high


def _ratio(t: np.ndarray, config: DiffusionConfig) -> np.ndarray:
    """sigma / alpha at t >= 0, unshifted and uncut, in double precision."""
    if config.schedule == "cosine":
        low, high = _bend(config)
        return np.tan(low + t * (high - low))
    if config.schedule == "linear":
        return np.sqrt(np.expm1(1e-4 + 10.0 * t**2))
    if config.schedule == "scaled_linear":
        T = config.variance_steps
        return np.exp(-0.5 * np.interp(t * T, np.arange(T), _scaled_linear(T)))
    scale = 0.5 * math.pi / (1.0 + OFFSET)
    signal = np.cos((t + 1.0 / config.variance_steps + OFFSET) * scale) ** 2 / math.cos(OFFSET * scale) ** 2
    return np.sqrt(1.0 / np.maximum(signal, _chain_last(config.variance_steps)) - 1.0)


def _time(r: np.ndarray, config: DiffusionConfig) -> np.ndarray:
    """The inverse of `_ratio`."""
    if config.schedule == "cosine":
        low, high = _bend(config)
        return (np.arctan(r) - low) / (high - low)
    if config.schedule == "linear":
        return np.sqrt(np.maximum(np.log1p(r**2) - 1e-4, 0.0) / 10.0)
    if config.schedule == "scaled_linear":
        T = config.variance_steps
        return np.interp(2.0 * np.log(r), -_scaled_linear(T), np.arange(T) / T)
    scale = 0.5 * math.pi / (1.0 + OFFSET)
    cosine = math.cos(OFFSET * scale) / np.sqrt(1.0 + r**2)
    t = np.arccos(cosine) / scale - OFFSET - 1.0 / config.variance_steps
    return np.clip(t, 0.0, config.first_time)
