"""What SeedSelect minimises: how far an image is from a few references, by an encoder and by its pixels.

  mu_v = mean of E(reference),  mu_z = mean reference                E an encoder of images, centroids plain means  (1)
  dist(mu, v) = |mu - v|,  or 1 - cos(mu, v)                                                                     (2)
  appearance = |L mu_z - L x_0|,  or the mean of its squares         L averages pixels, or changes nothing          (3)
  semantic(v) = dist(mu_v, v),  or, of classes c,  -log softmax_c(-dist(mu_v^c, v) / tau)                        (4)
  sum over the last steps j = 1 .. k of  w_j semantic(E(image of step j))                                        (5)
  loss = a (5) + b (3)                                               a = lambda, b = 1 - lambda in the paper        (6)
  penalty on the noise's length r:  (d - 1) log(m / r) + (r^2 - m^2) / 2,  m^2 = d - 1                           (7)

(7) is minus the log density of the norm of d normal numbers, chi's, from its maximum at r = m.

Sources: Samuel et al. 2023, "It is all about where you start" (arXiv 2304.14530), sections 4.1 to 4.3: Euclidean,
latents in the place of pixels, k = 2 and w = 1. Its published code: cosine, squares, k = 3, w = .05 .25 .7, a = 10 and
b = 1, images of noisy latents. (7): Samuel et al. 2023, "Norm-guided latent space exploration" (arXiv 2306.08687).
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from reimagen_jax.diffusion.process import expand
from reimagen_jax.diffusion.sampler import Step
from reimagen_jax.systems.seedselect.settings import SeedSelectConfig

Embed = Callable[[Any, Float[Array, "b h w 3"]], Float[Array, "b d"]]
"""(parameters, images in [-1, 1]) -> vectors."""
TINY = 1e-12
"""Below it, a squared length has no direction: its root's gradient is 0, not infinite."""


class Goal(NamedTuple):
    """(1) of the classes that there are, and which one each of B images is to be of."""

    vector_CD: Float[Array, "c d"]
    image_BHWC: Float[Array, "b h w c"]
    own_B: Int[Array, " b"]


class Scores(NamedTuple):
    """What is known of B noises, and their images in [-1, 1]."""

    loss_B: Float[Array, " b"]
    """(6), with (7) where it is a part of it."""
    semantic_B: Float[Array, " b"]
    """(5)"""
    appearance_B: Float[Array, " b"]
    """(3)"""
    norm_B: Float[Array, " b"]
    """|x_T|"""
    image_BHWC: Float[Array, "b h w c"]


def goal(
    embed: Embed, params: Any, reference_BKHWC: Float[Array, "b k h w 3"], mask_BK: Bool[Array, "b k"]
) -> tuple[Float[Array, "b d"], Float[Array, "b h w 3"]]:
    """(1) of B times up to K references, of which those count whose mask is true."""
    B, K = mask_BK.shape
    vector_BKD = embed(params, reference_BKHWC.reshape(B * K, *reference_BKHWC.shape[2:])).reshape(B, K, -1)
    share_BK = mask_BK.astype(vector_BKD.dtype)
    share_BK = share_BK / jnp.maximum(share_BK.sum(axis=1, keepdims=True), 1.0)
    return (
        jnp.einsum("bkd,bk->bd", vector_BKD, share_BK),
        jnp.einsum("bkhwc,bk->bhwc", reference_BKHWC, share_BK.astype(reference_BKHWC.dtype)),
    )


def score(
    x_T: Float[Array, "b *s"], steps: Step, goal: Goal, embed: Embed, params: Any, settings: SeedSelectConfig
) -> Scores:
    """What `settings` say of the last k steps of a sampler that began at x_T, k the number of step weights."""
    image_BHWC, seen = steps.x[-1], steps.x0 if settings.seen == "x0" else steps.x
    within = [clamped(image, settings) for image in seen]
    semantic_B = sum(
        weight * semantic(embed(params, image), goal, settings)
        for weight, image in zip(settings.step_weights, within, strict=True)
    )  # (5)
    appearance_B = appearance(image_BHWC, goal.image_BHWC, settings)
    loss_B = settings.semantic_weight * semantic_B + settings.appearance_weight * appearance_B  # (6)
    norm_B = lengths(x_T)
    if settings.norm == "chi":
        loss_B = loss_B + settings.norm_weight * improbability(norm_B, x_T[0].size)
    return Scores(loss_B, semantic_B, appearance_B, norm_B, image_BHWC)


def semantic(vector_BD: Float[Array, "b d"], goal: Goal, settings: SeedSelectConfig) -> Float[Array, " b"]:
    """(4)"""
    if not settings.contrast:
        return distance(vector_BD, goal.vector_CD[goal.own_B], settings)
    # Each image against every class: [B, C].
    distance_BC = jax.vmap(lambda centroid: distance(vector_BD, centroid[None], settings), out_axes=1)(goal.vector_CD)
    logit_BC = jax.nn.log_softmax(-distance_BC / settings.temperature, axis=1)
    return -jnp.take_along_axis(logit_BC, goal.own_B[:, None], axis=1)[:, 0]


def distance(
    vector_BD: Float[Array, "b d"], centroid_BD: Float[Array, "#b d"], settings: SeedSelectConfig
) -> Float[Array, " b"]:
    """(2)"""
    if settings.distance == "euclidean":
        return lengths(vector_BD - centroid_BD)
    product_B = (vector_BD * centroid_BD).sum(axis=1)
    return 1.0 - product_B / jnp.maximum(lengths(vector_BD) * lengths(centroid_BD), TINY)


def appearance(
    image_BHWC: Float[Array, "b h w c"], mean_BHWC: Float[Array, "b h w c"], settings: SeedSelectConfig
) -> Float[Array, " b"]:
    """(3)"""
    difference = image_BHWC - mean_BHWC
    side = settings.low_pass
    if side is not None and side < difference.shape[1]:
        difference = jax.image.resize(difference, (len(difference), side, side, difference.shape[3]), "linear")
    if settings.appearance == "euclidean":
        return lengths(difference)
    return (difference**2).mean(axis=(1, 2, 3))


def lengths(x: Float[Array, "b *s"]) -> Float[Array, " b"]:
    """Euclidean norms, with a gradient of 0 at 0."""
    square_B = (x**2).sum(axis=tuple(range(1, x.ndim)))
    return jnp.where(square_B > TINY, jnp.sqrt(jnp.maximum(square_B, TINY)), 0.0)


def improbability(norm_B: Float[Array, " b"], d: int) -> Float[Array, " b"]:
    """(7)"""
    m = (d - 1) ** 0.5
    return (d - 1) * jnp.log(m / norm_B) + 0.5 * (norm_B**2 - m**2)


def on_sphere(x: Float[Array, "b *s"]) -> Float[Array, "b *s"]:
    """Noise in its direction, of length sqrt(d)."""
    return x * expand(x[0].size ** 0.5 / lengths(x), x)


def clamped(x: Float[Array, "*s"], settings: SeedSelectConfig) -> Float[Array, "*s"]:
    """Within [-1, 1], with the gradient that is asked for."""
    return passed(x, jnp.clip(x, -1.0, 1.0), settings)


def passed(x: Float[Array, "*s"], projected: Float[Array, "*s"], settings: SeedSelectConfig) -> Float[Array, "*s"]:
    """What x is projected to; in place of the projection's gradient, where it is to pass straight, that of x."""
    if settings.clamp == "exact":
        return projected
    return jax.lax.stop_gradient(projected) + (x - jax.lax.stop_gradient(x))  # the latter is 0, exactly
