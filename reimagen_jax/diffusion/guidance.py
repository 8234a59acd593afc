"""Interleaved classifier-free guidance (Re-Imagen section 3.3).

  eps_p = w_p eps(x_t, c_p, c_n) - (w_p - 1) eps(x_t, c_n)      text-enhanced: the text is dropped               (1)
  eps_n = w_n eps(x_t, c_p, c_n) - (w_n - 1) eps(x_t, c_p)      neighbour-enhanced: the neighbours are dropped   (2)

At every step, R ~ U[0, 1] chooses (1) where R < eta, else (2). Both are two evaluations, [full, dropped], made as one
doubled batch. The combination is affine with weights that sum to one, and so is the map between eps, x_0 and v at a
given x_t: guiding any of the three is guiding eps. What a network says of the variance (variance.py) is not guided: it
is taken as it is said with the full condition.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Key

from reimagen_jax.diffusion.process import over_pixels


def interleave(eta: Float[Array, ""] | float, num_steps: int, key: Key[Array, ""]) -> Bool[Array, " t"]:
    """The plan for one image: true where a step is text-enhanced (R < eta). `eta` may be traced."""
    return jax.random.uniform(key, (num_steps,)) < eta


def guided(
    denoise,
    x: Float[Array, "b h w c"],
    t_B: Float[Array, " b"],
    condition,
    text_enhanced_B: Bool[Array, " b"],
    text_weight: Float[Array, " b"] | Float[Array, ""] | float,
    neighbour_weight: Float[Array, " b"] | Float[Array, ""] | float,
) -> Float[Array, "b h w d"]:
    """The guided output of a denoiser: (1) for the images where `text_enhanced_B`, (2) for the others.

    The prediction is its first C channels, C those of `x`; channels beyond are handed on from the full condition.
    """
    less = condition.drop(text_B=text_enhanced_B, neighbours_B=~text_enhanced_B)
    doubled = jax.tree.map(_beside, condition, less)
    output = denoise(_beside(x, x), _beside(t_B, t_B), doubled)
    output_B2HWD = output.reshape(len(x), 2, *output.shape[1:])
    full, dropped = output_B2HWD[:, 0], output_B2HWD[:, 1]
    weight = over_pixels(jnp.where(text_enhanced_B, text_weight, neighbour_weight))
    C = x.shape[-1]
    prediction = weight * full[..., :C] - (weight - 1.0) * dropped[..., :C]
    return jnp.concatenate([prediction, full[..., C:]], axis=-1) if full.shape[-1] > C else prediction


def _beside(a_B: Array, b_B: Array) -> Array:
    """[B, ...] and [B, ...] to [2 B, ...], an image's two rows one after the other: both stay on the image's device."""
    return jnp.stack([a_B, b_B], axis=1).reshape(2 * len(a_B), *a_B.shape[1:])
