"""Classifier-free guidance: a prediction strengthened against one with a part of the condition dropped.

  single        w eps(x_t, c) - (w - 1) eps(x_t, c without a part)                                               (1)
  interleaved   (1) with w_1 and the first part dropped, or with w_2 and the second, by a plan over the steps    (2)

The plan of (2) is drawn beforehand: step i is of the first kind where R_i ~ U[0, 1] lies below its share. In Re-Imagen
(section 3.3) the first part is the text, the second the neighbours, and the share eta. Both are two evaluations, [full,
dropped], made as one doubled batch, whatever the plan says. The combination is affine with weights that sum to one, and
so is the map between eps, x_0 and v at a given x_t: guiding any of the three is guiding eps. What a network says of the
variance (variance.py) is not guided: it is taken as it is said with the full condition.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Key

from reimagen_jax.diffusion.base import Condition, Denoiser, Guide
from reimagen_jax.diffusion.process import expand

Weight = Float[Array, " b"] | Float[Array, ""] | float


def unguided(
    denoise: Denoiser, x: Float[Array, "b *s"], t_B: Float[Array, " b"], condition: Condition, i: Int[Array, ""]
) -> Float[Array, "b *d"]:
    """The plain conditional prediction: a guide."""
    return denoise(x, t_B, condition)


def single(drop: Callable[[Condition], Condition], weight: Weight) -> Guide:
    """(1): `drop` gives the condition without its part."""

    def guide(denoise: Denoiser, x: Array, t_B: Array, condition: Condition, i: Array) -> Array:
        return strengthened(denoise, x, t_B, condition, drop(condition), weight)

    return guide


def interleaved(
    drop: Callable[[Condition, Bool[Array, " b"]], Condition],
    plan_BT: Bool[Array, "b t"],
    first_weight: Weight,
    second_weight: Weight,
) -> Guide:
    """(2): `drop(condition, first_B)` drops the first part where `first_B` is true and the second elsewhere.

    All of the numbers may be traced: a sweep over them compiles once.
    """

    def guide(denoise: Denoiser, x: Array, t_B: Array, condition: Condition, i: Array) -> Array:
        first_B = plan_BT[:, i]
        weight_B = jnp.where(first_B, first_weight, second_weight)
        return strengthened(denoise, x, t_B, condition, drop(condition, first_B), weight_B)

    return guide


def interleave(share: Float[Array, ""] | float, num_steps: int, key: Key[Array, ""]) -> Bool[Array, " t"]:
    """The plan of (2) for one sample: true where a step is of the first kind. `share` may be traced."""
    return jax.random.uniform(key, (num_steps,)) < share


def strengthened(
    denoise: Denoiser,
    x: Float[Array, "b *s"],
    t_B: Float[Array, " b"],
    condition: Condition,
    less: Condition,
    weight: Weight,
) -> Float[Array, "b *d"]:
    """(1), given the condition and what is left of it.

    The prediction is the first C channels of the output, C those of `x`; channels beyond are handed on from the full
    condition.
    """
    doubled = jax.tree.map(_beside, condition, less)
    output = denoise(_beside(x, x), _beside(t_B, t_B), doubled)
    output_B2D = output.reshape(len(x), 2, *output.shape[1:])
    full, dropped = output_B2D[:, 0], output_B2D[:, 1]
    weight = expand(jnp.broadcast_to(jnp.asarray(weight), t_B.shape), x)
    C = x.shape[-1]
    prediction = weight * full[..., :C] - (weight - 1.0) * dropped[..., :C]
    return jnp.concatenate([prediction, full[..., C:]], axis=-1) if full.shape[-1] > C else prediction


def _beside(a_B: Array, b_B: Array) -> Array:
    """[B, ...] and [B, ...] to [2 B, ...], a sample's rows one after the other: both stay on its device."""
    return jnp.stack([a_B, b_B], axis=1).reshape(2 * len(a_B), *a_B.shape[1:])
