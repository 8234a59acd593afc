"""The sampler: one `lax.scan` from noise to images, with interleaved guidance and thresholding.

For t = 1 down to 0 in `num_steps` equal steps (schedule.times: on a chain, along its steps):
  prediction = guided(x_t, t)                       guidance.py                                                  (1)
  x_0 = threshold(x_0 of the prediction)            static: clip to [-1, 1]; dynamic: Imagen section 2.3         (2)
  eps = recomputed from x_t and the thresholded x_0                                                              (3)
  x_s = solver(x_t, x_0, eps)                       solvers.py, with the learned variance if there is one        (4)

Every image has its own key, from which its initial noise, its guidance plan and its step noise derive: an image does
not depend on what else is in the batch. eta, both weights and the masks of the condition are traced: a sweep compiles
once.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from reimagen_jax.config import DiffusionConfig, SamplerConfig, require
from reimagen_jax.diffusion import guidance, process, schedule, solvers, variance


def image_keys(seed: int, indices: Sequence[int]) -> Key[Array, " b"]:
    """One key per image, from the seed and the image's index."""
    return jax.vmap(lambda i: jax.random.fold_in(jax.random.key(seed), i))(jnp.asarray(indices, jnp.uint32))


def threshold(x0: Float[Array, "b h w c"], config: SamplerConfig) -> Float[Array, "b h w c"]:
    """(2): keeps a predicted image within [-1, 1]."""
    if config.thresholding == "static":
        return jnp.clip(x0, -1.0, 1.0)
    if config.thresholding == "dynamic":
        magnitude_BP = jnp.abs(x0).reshape(x0.shape[0], -1)
        limit_B = jnp.maximum(jnp.quantile(magnitude_BP, config.percentile, axis=1), 1.0)
        if config.threshold_limit is not None:
            limit_B = jnp.minimum(limit_B, config.threshold_limit)
        limit = process.over_pixels(limit_B)
        return jnp.clip(x0, -limit, limit) / limit
    return x0


def sample(
    denoise,
    condition,
    keys_B: Key[Array, " b"],
    shape: tuple[int, int, int],
    diffusion: DiffusionConfig,
    config: SamplerConfig,
    eta: Float[Array, ""] | Float[Array, " b"] | float,
    text_weight: Float[Array, ""] | Float[Array, " b"] | float,
    neighbour_weight: Float[Array, ""] | Float[Array, " b"] | float,
) -> Float[Array, "b h w c"]:
    """Draws an image of `shape` (H, W, C) in [-1, 1] for every key; pure, to be jitted by the caller.

    `denoise(x, t, condition)` is a denoiser whose predictions mean `diffusion.prediction`. `eta` and the weights are
    taken from these arguments, one number or one per image, not from `config`, so that they can be traced.

    Raises `UserError` if `config` sets a variance that the network has learned.
    """
    require(
        not (diffusion.learned_variance and config.solver == "ddpm" and config.ddpm_gamma > 0),
        f"sampler.ddpm_gamma is {config.ddpm_gamma}, but the model has learned its variance: leave it at 0",
    )
    B, steps = keys_B.shape[0], config.num_steps
    eta_B, text_weight_B, neighbour_weight_B = (
        jnp.broadcast_to(jnp.asarray(x, jnp.float32), (B,)) for x in (eta, text_weight, neighbour_weight)
    )
    start_B, plan_B, step_B = jnp.moveaxis(jax.vmap(lambda key: jax.random.split(key, 3))(keys_B), 1, 0)
    x_start = jax.vmap(lambda key: jax.random.normal(key, shape))(start_B)
    plan_BT = jax.vmap(lambda eta, key: guidance.interleave(eta, steps, key))(eta_B, plan_B)
    times = schedule.times(steps, diffusion)
    stochastic = config.solver == "ddpm" or config.ddim_noise > 0

    def step(x, inputs):
        i, t, s, text_enhanced_B = inputs
        scales = solvers.Scales(*schedule.alpha_sigma(t, diffusion), *schedule.alpha_sigma(s, diffusion))
        alpha_B, sigma_B = jnp.full(B, scales.alpha_t), jnp.full(B, scales.sigma_t)
        output = guidance.guided(
            denoise, x, jnp.full(B, t), condition, text_enhanced_B, text_weight_B, neighbour_weight_B
        )  # (1)
        prediction, fraction = variance.split(output, shape[-1], diffusion)
        x0 = threshold(process.to_x0(prediction, x, alpha_B, sigma_B, diffusion.prediction), config)  # (2)
        eps = process.to_eps(x0, x, alpha_B, sigma_B)  # (3)
        noise = jnp.zeros_like(x)
        if stochastic:
            noise = jax.vmap(lambda key: jax.random.normal(jax.random.fold_in(key, i), shape))(step_B)
        if config.solver == "ddpm":
            if diffusion.schedule == "cosine_chain":  # whose last step is the image itself, without any noise
                noise = jnp.where(i == steps - 1, jnp.zeros_like(noise), noise)
            x = solvers.ddpm(x, x0, noise, scales, config.ddpm_gamma if fraction is None else fraction)  # (4)
        else:
            x = solvers.ddim(x0, eps, noise, scales, config.ddim_noise)
        return x, None

    x, _ = jax.lax.scan(step, x_start, (jnp.arange(steps), times[:-1], times[1:], plan_BT.T))
    return jnp.clip(x, -1.0, 1.0)
