"""The low-resolution input of a super-resolution stage: made from a large image in training, noised in both.

  low = S_f G_w x (S_f G_w)^T       blur G of width w, then shrinking S by filter f                              (1)
  up  = E low E^T                   enlarged again, to the stage's resolution                                    (2)
  z   = alpha(a) up + sigma(a) eps  noise-conditioning augmentation at level a; the network is told a            (3)

In (2) pixel i of n small ones lies at (i + 1/2) / n, or (linear_corners) at i / (n - 1), of N large ones likewise.

Blur and filter are drawn for each image, so that the stage learns to mend what the stage before gets wrong; drawing
uses (2) and (3) alone. Blurring and resizing are linear and separable: one matrix for an axis; in place of (1) more may
be done to an image (bsr.py). Everything is pure and runs on the device. Sources: Ho et al. 2022 (Cascaded Diffusion
Models: blur, (3)); Imagen section 2.4; DALL-E 2 appendix C (blur, then mixed resampling as in BSRGAN).
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from reimagen_jax.diffusion import bsr
from reimagen_jax.diffusion.base import Condition, Denoiser, Guide
from reimagen_jax.diffusion.schedule import chain_logsnr
from reimagen_jax.diffusion.settings import Enlarging, Shrinking, SuperResolutionConfig

EXACT = jax.lax.Precision.HIGHEST
"""Images have 8 bits: the short products that accelerators prefer would show."""
CHAIN_STEPS = 1000
"""Of the chain whose steps the levels of `cosine_chain` are."""


def shrink(x_BHWC: Float[Array, "b h w c"], side: int, filter: Shrinking = "area") -> Float[Array, "b s s c"]:
    """S x S^T: square images to a smaller `side`, which divides theirs; by default the mean over each pixel's area."""
    S = shrinking_matrix(x_BHWC.shape[1], side, filter)
    return jnp.einsum("lh,bhwc,kw->blkc", S, x_BHWC, S, precision=EXACT)


def enlarge(x_BHWC: Float[Array, "b h w c"], side: int, filter: Enlarging = "cubic") -> Float[Array, "b s s c"]:
    """(2): square images to a larger `side`, interpolated bilinearly or bicubically."""
    if filter == "linear_corners":
        E = corner_matrix(x_BHWC.shape[1], side)
        return jnp.einsum("lh,bhwc,kw->blkc", E, x_BHWC, E, precision=EXACT)
    return jax.image.resize(x_BHWC, (x_BHWC.shape[0], side, side, x_BHWC.shape[3]), filter, precision=EXACT)


def degrade(
    x_BHWC: Float[Array, "b h w c"], side: int, config: SuperResolutionConfig, key: Key[Array, ""]
) -> Float[Array, "b s s c"]:
    """(1): square images in [-1, 1] to `side`, each with its own blur (or none) and its own filter of `config`; or by
    its `degradation`.

    Filters other than `area` overshoot at edges; the result is clipped to [-1, 1], like an image file.
    """
    if config.degradation == "bsr":
        return bsr.degrade(x_BHWC, side, key)
    B, large = x_BHWC.shape[:2]
    key_blur, key_width, key_filter = jax.random.split(key, 3)
    blurred_B = jax.random.bernoulli(key_blur, config.blur, (B,))
    low, high = (width * large / side for width in config.blur_width)
    width_B = jax.random.uniform(key_width, (B,), minval=low, maxval=high)
    G_BHH = jnp.where(blurred_B[:, None, None], jax.vmap(lambda w: blur_matrix(large, w))(width_B), jnp.eye(large))
    S_FLH = jnp.stack([shrinking_matrix(large, side, filter) for filter in config.shrinking])
    filter_B = jax.random.randint(key_filter, (B,), 0, len(config.shrinking))
    W_BLH = jnp.einsum("blh,bhj->blj", S_FLH[filter_B], G_BHH, precision=EXACT)
    return jnp.clip(jnp.einsum("blh,bhwc,bkw->blkc", W_BLH, x_BHWC, W_BLH, precision=EXACT), -1.0, 1.0)


def augment(
    up_BHWC: Float[Array, "b h w c"],
    level_B: Float[Array, " b"],
    eps_BHWC: Float[Array, "b h w c"],
    config: SuperResolutionConfig,
) -> Float[Array, "b h w c"]:
    """(3): exactly the image at level 0, nothing but noise at level 1 (`linear`: all but 0.7 % of it)."""
    alpha_B, sigma_B = alpha_sigma(level_B, config)
    return alpha_B[:, None, None, None] * up_BHWC + sigma_B[:, None, None, None] * eps_BHWC


def alpha_sigma(
    level: Float[Array, "*b"], config: SuperResolutionConfig
) -> tuple[Float[Array, "*b"], Float[Array, "*b"]]:
    """Signal and noise scale at a level: the schedules of the same names, unclipped.

    Level 0 has no noise (`cosine_chain`: that of the chain's first step, 0.6 %).
    """
    if config.aug_schedule == "cosine_chain":
        logsnr = chain_logsnr(level, CHAIN_STEPS)
        return jnp.sqrt(jax.nn.sigmoid(logsnr)), jnp.sqrt(jax.nn.sigmoid(-logsnr))
    if config.aug_schedule == "cosine":
        return jnp.cos(0.5 * jnp.pi * level), jnp.sin(0.5 * jnp.pi * level)
    return jnp.exp(-5.0 * level**2), jnp.sqrt(-jnp.expm1(-10.0 * level**2))


def anew(
    guide: Guide, noised: Callable[[Condition, Float[Array, "b h w c"]], Condition], keys_B: Key[Array, " b"]
) -> Guide:
    """The guide with the noise of (3) drawn at every call of the network, not once an image: DeepFloyd IF's own rule.

    `noised` gives the condition of a call, from noise for each of its rows: an image's rows have noise of their own,
    from its key, the step's number, the call's time and the row (full, dropped).
    """

    def guided(denoise: Denoiser, x: Array, t_B: Array, condition: Condition, i: Array) -> Array:
        def call(x: Array, t_N: Array, condition: Condition) -> Array:
            rows = len(x) // len(keys_B)
            time_N = jax.lax.bitcast_convert_type(t_N, jnp.uint32)  # a solver may ask twice in a step

            def noise(key: Array, row: Array, time: Array) -> Array:
                for number in (i, row, time):
                    key = jax.random.fold_in(key, number)
                return jax.random.normal(key, x.shape[1:])

            row_N = jnp.tile(jnp.arange(rows), len(keys_B))
            return denoise(x, t_N, noised(condition, jax.vmap(noise)(jnp.repeat(keys_B, rows), row_N, time_N)))

        return guide(call, x, t_B, condition, i)

    return guided


def draw_levels(batch: int, config: SuperResolutionConfig, key: Key[Array, ""]) -> Float[Array, " b"]:
    """Training's augmentation levels, uniform in the stage's range."""
    low, high = config.aug_levels
    return jax.random.uniform(key, (batch,), minval=low, maxval=high)


def shrinking_matrix(large: int, small: int, filter: Shrinking) -> Float[Array, "small large"]:
    """S: each row holds the weights of one small pixel, which sum to 1."""
    if filter == "area":
        return jnp.repeat(jnp.eye(small), large // small, axis=1) * (small / large)
    return jax.image.resize(jnp.eye(large), (small, large), filter, precision=EXACT)


def corner_matrix(small: int, large: int) -> Float[Array, "large small"]:
    """E of (2) with corners aligned: each row holds the weights of the two small pixels that a large one lies between.

    The same as PyTorch's `interpolate(mode="bilinear", align_corners=True)` along an axis.
    """
    place_L = jnp.arange(large, dtype=jnp.float32) * ((small - 1) / (large - 1))
    return jnp.maximum(1.0 - jnp.abs(place_L[:, None] - jnp.arange(small, dtype=jnp.float32)[None, :]), 0.0)


def blur_matrix(side: int, width: Float[Array, ""] | float) -> Float[Array, "side side"]:
    """G: a Gaussian of standard deviation `width` in pixels; what would leave the image is reflected at its border.

    So rows and columns sum to 1: neither a flat image nor any image's mean changes.
    """
    i, j = jnp.arange(side)[:, None], jnp.arange(side)[None, :]
    offsets = jnp.stack([shift + 2 * side * turn for turn in (-1, 0, 1) for shift in (i - j, i + j + 1)])
    weight = jnp.exp(-0.5 * (offsets.astype(jnp.float32) / width) ** 2).sum(axis=0)
    return weight / weight.sum(axis=1, keepdims=True)
