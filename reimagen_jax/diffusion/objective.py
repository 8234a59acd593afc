"""The training loss, for samples of any shape and any prediction:

  L = E_{x_0, eps, t} w(t) | prediction(x_t, t, c) - target(x_0, eps, t) |^2  (+ lambda L_vlb, variance.py)      (1)

where parts of c are dropped independently of each other, each with its own probability,                         (2)
and t = u^r with u uniform in [0, 1], down to a whole step of the chain in `scaled_linear`.                      (3)

  w(t) = 1                                                                                          (plain)      (4)
  w(t) = min(SNR, gamma) / SNR, min(SNR, gamma), min(SNR, gamma) / (SNR + 1)  for eps, x_0, v     (min_snr)      (5)

The three of (5) are one loss, min(SNR, gamma) |x_0^ - x_0|^2, since at a given x_t an error of eps is sqrt(SNR) times
that of x_0, and one of v sqrt(SNR + 1) times.

Sources: Hang et al. 2023 (5); Nichol and Dhariwal 2021 (lambda L_vlb).
"""

from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Key

from reimagen_jax.diffusion import process, schedule, variance
from reimagen_jax.diffusion.base import Condition, Denoiser
from reimagen_jax.diffusion.settings import DiffusionConfig


def dropped(key: Key[Array, ""], batch: int, probability: float) -> Bool[Array, " b"]:
    """(2): which examples lose a condition."""
    return jax.random.bernoulli(key, probability, (batch,))


def min_snr_weight(logsnr_B: Float[Array, " b"], config: DiffusionConfig) -> Float[Array, " b"]:
    """(5), for the prediction of `config`."""
    log_limited_B = jnp.minimum(logsnr_B, jnp.log(config.snr_limit))
    log_error_scale_B = {"eps": logsnr_B, "x0": jnp.zeros_like(logsnr_B), "v": jax.nn.softplus(logsnr_B)}
    return jnp.exp(log_limited_B - log_error_scale_B[config.prediction])


def uniforms(key_t: Key[Array, ""], batch: int) -> Float[Array, " b"]:
    """u of (3), stratified: one in each of `batch` equal parts of [0, 1], in the order of the parts but for where it
    begins."""
    return (jax.random.uniform(key_t) + jnp.arange(batch, dtype=jnp.float32) / batch) % 1.0


def by_time(
    loss_B: Float[Array, " b"], key: Key[Array, ""], config: DiffusionConfig, bins: int = 4
) -> dict[str, tuple[Float[Array, ""], Float[Array, ""]]]:
    """The losses that `diffusion_loss` gave with this key, summed over intervals of t that training visits equally
    often, and how many they are: {"t_0.00-0.50": (sum, number), ...}."""
    place_B = jnp.floor(uniforms(jax.random.split(key)[0], len(loss_B)) * bins)
    found = {}
    for i in range(bins):
        low, high = ((j / bins) ** config.time_exponent for j in (i, i + 1))
        in_B = (place_B == i).astype(jnp.float32)
        found[f"t_{low:.2f}-{high:.2f}"] = (loss_B * in_B).sum(), in_B.sum()
    return found


def sums(
    losses: Mapping[str, Float[Array, " b"]],
    parts: Callable[[Float[Array, " b"]], Mapping[str, tuple[Array, Array]]] = lambda loss_B: {},
) -> dict[str, tuple[Float[Array, ""], Float[Array, ""]]]:
    """Of losses by name, their sum and their number; and the same of their `parts` (`by_time`), as NAME/PART."""
    found = {name: (loss_B.sum(), jnp.float32(len(loss_B))) for name, loss_B in losses.items()}
    for name, loss_B in losses.items():
        found |= {f"{name}/{part}": value for part, value in parts(loss_B).items()}
    return found


def diffusion_loss(
    denoise: Denoiser, x0: Float[Array, "b *s"], condition: Condition, key: Key[Array, ""], config: DiffusionConfig
) -> Float[Array, " b"]:
    """(1) per sample, at one time each; the times of a batch are stratified to lower the variance of its mean.

    `denoise`'s output has `config.output_channels(c)` channels for the c of `x0`, which lies in [-1, 1]. The loss is
    float32 whatever the network computes in.
    """
    key_t, key_eps = jax.random.split(key)
    t_B = uniforms(key_t, x0.shape[0]) ** config.time_exponent  # (3)
    if config.schedule == "scaled_linear":
        t_B = jnp.floor(t_B * config.variance_steps) / config.variance_steps
    eps = jax.random.normal(key_eps, x0.shape)
    alpha_B, sigma_B = schedule.alpha_sigma(t_B, config)
    x = process.diffuse(x0, eps, alpha_B, sigma_B)
    output = denoise(x, t_B, condition).astype(jnp.float32)
    prediction, fraction = variance.split(output, x0.shape[-1], config)
    target = process.target(x0, eps, alpha_B, sigma_B, config.prediction)
    loss_B = process.sample_mean((prediction - target) ** 2)
    if config.weighting == "min_snr":
        loss_B = min_snr_weight(schedule.logsnr(t_B, config), config) * loss_B
    if fraction is not None:
        bits_B = variance.variational_bits(prediction, fraction, x, x0, t_B, config)
        loss_B = loss_B + config.variance_weight * bits_B
    return loss_B
