"""What a tokenizer learns from an adversary, and how a loss is pulled on by gradients that are known already.

  told apart   D of true images x and of images put together again x^, with F_phi(x) high where x looks true
  hinge        L_D = (mean max(0, 1 - F(x)) + mean max(0, 1 + F(x^))) / 2,   L_G = -mean F(x^)                     (1)
  nonsaturating  L_D = (mean s(-F(x)) + mean s(F(x^))) / 2,   L_G = mean s(-F(x^)),   s(y) = ln(1 + e^y)           (2)
  weight       lambda = |dL_rec/dW| / (|dL_G/dW| + 1e-4)  at most 1e4,   W of the decoder's last convolution       (3)

All of both networks' gradients come from one backward pass of one sum: L_G sees the discriminator's parameters held
fixed, L_D the images. For (3), the gradients of L_rec and of L_G by x^ are made first; each is carried to W by that
one convolution's own transpose, and what goes on through the decoder is their weighted sum. So no network is passed
twice. Nothing is differentiated through lambda.
Sources: (1) Lim and Ye 2017 (arXiv 1705.02894); (2) Goodfellow et al. 2014 (arXiv 1406.2661), section 3; (3) Esser et
al. 2021 (arXiv 2012.09841), equation 7, with the constants of the published code.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from reimagen_jax.nets.layers import unfold
from reimagen_jax.nets.settings import VQConfig
from reimagen_jax.nets.vq import last_layer
from reimagen_jax.systems.mage.settings import AdversarialLoss

SMALLEST, LARGEST = 1e-4, 1e4
"""Of (3)."""


def fooling(kind: AdversarialLoss, again_BHW: Float[Array, "b h w"]) -> Float[Array, ""]:
    """L_G of F(x^)."""
    return -again_BHW.mean() if kind == "hinge" else jax.nn.softplus(-again_BHW).mean()


def telling(
    kind: AdversarialLoss, true_BHW: Float[Array, "b h w"], again_BHW: Float[Array, "b h w"]
) -> Float[Array, ""]:
    """L_D of F(x) and F(x^)."""
    cost = (lambda y: jnp.maximum(1.0 + y, 0.0)) if kind == "hinge" else jax.nn.softplus
    return 0.5 * (cost(-true_BHW).mean() + cost(again_BHW).mean())


def told_apart(true_BHW: Float[Array, "b h w"], again_BHW: Float[Array, "b h w"]) -> Float[Array, ""]:
    """The share of patches that are told right."""
    return 0.5 * ((true_BHW > 0).astype(jnp.float32).mean() + (again_BHW < 0).astype(jnp.float32).mean())


def pulled(value: Float[Array, ""], x: Float[Array, "*b"], gradient: Float[Array, "*b"]) -> Float[Array, ""]:
    """`value`, whose gradient by `x` is what is given."""
    return jax.lax.stop_gradient(value) + ((x - jax.lax.stop_gradient(x)) * jax.lax.stop_gradient(gradient)).sum()


def balance(
    config: VQConfig,
    conv_out: Any,
    last_BHWC: Float[Array, "b gh gw c"],
    likeness_BHWC: Float[Array, "b h w 3"],
    fooling_BHWC: Float[Array, "b h w 3"],
) -> Float[Array, ""]:
    """(3) of the last convolution's parameters, what it sees, and both losses' gradients by the image."""

    def image(kernel: Array) -> Array:
        return unfold(last_layer(config).apply({"params": {**conv_out, "kernel": kernel}}, last_BHWC), config.patch)

    _, transpose = jax.vjp(image, conv_out["kernel"])
    likeness, fooled = (jnp.sqrt((transpose(g_BHWC)[0] ** 2).sum()) for g_BHWC in (likeness_BHWC, fooling_BHWC))
    return jax.lax.stop_gradient(jnp.minimum(likeness / (fooled + SMALLEST), LARGEST))
