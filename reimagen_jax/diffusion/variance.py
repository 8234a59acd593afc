"""The learned variance of an ancestral step from t to s < t, and the variational term that trains it.

  q(x_s | x_t, x_0) has variance  beta~ = sigma_ts^2 sigma_s^2 / sigma_t^2
  p(x_s | x_t)      has variance  beta~^(1 - f) beta^f,  beta = sigma_ts^2,  f = (v + 1) / 2                     (1)

where v is what the network says beside its prediction. Both means are the ancestral step's, of the image and of the
predicted image x_0^, and lie alpha_s sigma_ts^2 / sigma_t^2 |x_0 - x_0^| apart. With r = log(beta / beta~) =
log(sigma_t^2 / sigma_s^2), and alpha_s^2 sigma_ts^2 / (sigma_s^2 sigma_t^2) = SNR(s) - SNR(t),

  KL(q || p) = 1/2 [f r - 1 + exp(-f r) (1 + (SNR(s) - SNR(t)) (x_0 - x_0^)^2)]                                  (2)

The chain has T steps: s = t - 1/T. A step that ends within 1/T of the image ends at the image, and is judged by

  -log p(x_0 | x_t),  the probability of the image's byte under a normal distribution                            (3)

The term is (2) or (3) in bits a pixel channel, summed over the steps: T times its mean over t. It teaches the variance
alone, the prediction is taken as it is.                                                                         (4)

Source: Nichol and Dhariwal 2021, section 3.1 and equations 14 to 17, here for continuous t.
"""

import jax
import jax.numpy as jnp
from jax.scipy.stats import norm
from jaxtyping import Array, Float

from reimagen_jax.diffusion import process, schedule
from reimagen_jax.diffusion.settings import DiffusionConfig

HALF_BYTE = 1.0 / 255.0
"""Half the distance of two bytes in [-1, 1]."""
LEAST_PROBABILITY = 1e-12
"""Below it (3) stays as it is: an image that the step cannot reach at all teaches nothing."""


def split(output: Float[Array, "b *d"], channels: int, config: DiffusionConfig) -> tuple[Array, Array | None]:
    """A network's output as its prediction, [B, ..., channels], and f of (1), of that shape or None if not learned.

    Raises `ValueError` if the output has not the channels that the settings ask for.
    """
    if output.shape[-1] != config.output_channels(channels):
        raise ValueError(f"a denoiser has to return {config.output_channels(channels)} channels, not {output.shape}")
    if not config.learned_variance:
        return output, None
    return output[..., :channels], 0.5 * (output[..., channels:] + 1.0)


def variational_bits(
    prediction: Float[Array, "b *s"],
    fraction: Float[Array, "b *s"],
    x: Float[Array, "b *s"],
    x0: Float[Array, "b *s"],
    t_B: Float[Array, " b"],
    config: DiffusionConfig,
) -> Float[Array, " b"]:
    """(4) per image, for the step from t to s: what it adds to the bits of a pixel channel, times T."""
    s_B, clean = t_B - 1.0 / config.variance_steps, schedule.clean_time(config)
    last_B = s_B < clean + 1.0 / config.variance_steps
    logsnr_t, logsnr_s = (schedule.logsnr(u, config) for u in (t_B, jnp.where(last_B, clean, s_B)))
    alpha_B, sigma_B = schedule.alpha_sigma(t_B, config)
    guess = process.to_x0(jax.lax.stop_gradient(prediction), x, alpha_B, sigma_B, config.prediction)
    log_ratio_B = jax.nn.log_sigmoid(-logsnr_t) - jax.nn.log_sigmoid(-logsnr_s)  # r
    surprise = _byte_surprise(x0, guess, x, fraction, logsnr_t, logsnr_s, log_ratio_B)
    divergence = _divergence(x0 - guess, fraction, logsnr_t, logsnr_s, log_ratio_B)
    nats_B = jnp.where(last_B, process.sample_mean(surprise), process.sample_mean(divergence))
    return config.variance_steps * nats_B / jnp.log(2.0)


def _divergence(error: Array, fraction: Array, logsnr_t: Array, logsnr_s: Array, log_ratio_B: Array) -> Array:
    """(2)."""
    log_variance = fraction * process.expand(log_ratio_B, error)  # of p, above that of q
    snr_gain = process.expand(jnp.exp(logsnr_s) - jnp.exp(logsnr_t), error)
    return 0.5 * (log_variance - 1.0 + jnp.exp(-log_variance) * (1.0 + snr_gain * error**2))


def _byte_surprise(
    x0: Array, guess: Array, x: Array, fraction: Array, logsnr_t: Array, logsnr_s: Array, log_ratio_B: Array
) -> Array:
    """(3); the outermost bytes take what lies beyond them."""
    fresh_B = -jnp.expm1(logsnr_t - logsnr_s)  # sigma_ts^2 / sigma_t^2
    alpha_s, alpha_t = (jnp.sqrt(jax.nn.sigmoid(u)) for u in (logsnr_s, logsnr_t))
    from_x_B = alpha_t / alpha_s * jnp.exp(-log_ratio_B)
    mean = process.expand(from_x_B, x0) * x + process.expand(alpha_s * fresh_B, x0) * guess
    # At t = 0 nothing is left to do and the variance is 0: any small one serves.
    log_small_B = jnp.log(jnp.maximum(fresh_B, 1e-6)) + jax.nn.log_sigmoid(-logsnr_s)
    sd = jnp.exp(0.5 * process.expand(log_small_B, x0) + 0.5 * fraction * process.expand(log_ratio_B, x0))
    above = jnp.where(x0 > 1.0 - HALF_BYTE, 1.0, norm.cdf((x0 - mean + HALF_BYTE) / sd))
    below = jnp.where(x0 < HALF_BYTE - 1.0, 0.0, norm.cdf((x0 - mean - HALF_BYTE) / sd))
    return -jnp.log(jnp.maximum(above - below, LEAST_PROBABILITY))
