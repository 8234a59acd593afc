"""Two views of each image, made on the device in the step; one key an image and a view.

  crop      a rectangle of a random area and ratio of sides, resized (bilinear)                                    (1)
  mirror
  colours   x <- b x;  x <- c x + (1 - c) mean(grey(x));  x <- s x + (1 - s) grey(x);  hue turned by an angle       (2)
  grey      x <- grey(x)                                                                                           (3)
  blur      a Gaussian of a random width                                                                           (4)
  solarise  x <- 1 - x where x >= 1/2                                                                              (5)

Each with a probability. Images are in [0, 1] and stay there. The order of (2) is always the same, and the hue is an
angle in YIQ: no image leaves the cube of colours by much, which torchvision's by HSV does not at all.
Source: BYOL, Grill et al. 2020, appendix B, which MoCo-v3 follows (Chen et al. 2021, section 5).
"""

import math

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Key

from reimagen_jax.systems.moco.settings import AugmentConfig

GREY = np.array([0.299, 0.587, 0.114], np.float32)
"""What the channels have in an image's brightness."""
YIQ = np.array([GREY, [0.596, -0.274, -0.322], [0.211, -0.523, 0.312]], np.float32)
FROM_YIQ = np.linalg.inv(YIQ).astype(np.float32)
PUBLISHED_SIDE = 224


def view(
    key: Key[Array, ""], x_BHWC: Float[Array, "b h w 3"], config: AugmentConfig, which: int, side: int
) -> Float[Array, "b side side 3"]:
    """The first (0) or the second (1) view of images in [-1, 1], of `side` pixels."""
    one = jax.vmap(lambda key, x_HWC: _view(key, x_HWC, config, which, side))
    return one(jax.random.split(key, len(x_BHWC)), (x_BHWC + 1.0) * 0.5) * 2.0 - 1.0


def _view(key: Array, x_HWC: Array, config: AugmentConfig, which: int, side: int) -> Array:
    keys = dict(zip(("crop", "flip", "jitter", "grey", "blur", "solarise"), jax.random.split(key, 6), strict=True))

    def perhaps(name: str, share: float, changed: Array, x: Array) -> Array:
        return jnp.where(jax.random.bernoulli(jax.random.fold_in(keys[name], 1), share), changed, x)

    x = _cropped(keys["crop"], x_HWC, config, side)  # (1)
    x = perhaps("flip", config.flip, x[:, ::-1], x)
    x = perhaps("jitter", config.jitter, _coloured(keys["jitter"], x, config), x)  # (2)
    x = perhaps("grey", config.grey, jnp.broadcast_to(_grey(x), x.shape), x)  # (3)
    if config.blur[which]:
        x = perhaps("blur", config.blur[which], _blurred(keys["blur"], x, config), x)  # (4)
    return perhaps("solarise", config.solarise[which], jnp.where(x >= 0.5, 1.0 - x, x), x)  # (5)


def _cropped(key: Array, x_HWC: Array, config: AugmentConfig, side: int) -> Array:
    low, high = config.crop
    share, ratio, place_2 = jax.random.split(key, 3)
    area = jax.random.uniform(share, minval=low, maxval=high)
    ratio = jnp.exp(jax.random.uniform(ratio, minval=-1.0, maxval=1.0) * math.log(config.aspect))
    size_2 = jnp.minimum(jnp.sqrt(area) * jnp.stack([jax.lax.rsqrt(ratio), jnp.sqrt(ratio)]), 1.0)  # of the sides
    corner_2 = jax.random.uniform(place_2, (2,)) * (1.0 - size_2)
    pixels_2 = np.array(x_HWC.shape[:2], np.float32)
    scale_2 = side / (size_2 * pixels_2)
    shape, x = (side, side, 3), x_HWC
    return jax.image.scale_and_translate(x, shape, (0, 1), scale_2, -corner_2 * pixels_2 * scale_2, "bilinear")


def _coloured(key: Array, x_HWC: Array, config: AugmentConfig) -> Array:
    u_4 = jax.random.uniform(key, (4,), minval=-1.0, maxval=1.0)
    bright, contrast, colour = (
        1.0 + u * most for u, most in zip(u_4[:3], (config.brightness, config.contrast, config.saturation), strict=True)
    )
    x = jnp.clip(bright * x_HWC, 0.0, 1.0)
    x = jnp.clip(contrast * x + (1.0 - contrast) * _grey(x).mean(), 0.0, 1.0)
    x = jnp.clip(colour * x + (1.0 - colour) * _grey(x), 0.0, 1.0)
    angle = 2.0 * math.pi * config.hue * u_4[3]
    cos, sin = jnp.cos(angle), jnp.sin(angle)
    zero, one = jnp.zeros_like(cos), jnp.ones_like(cos)
    turn = jnp.stack([one, zero, zero, zero, cos, -sin, zero, sin, cos]).reshape(3, 3)
    return jnp.clip(x @ (FROM_YIQ @ turn @ YIQ).T, 0.0, 1.0)


def _grey(x_HWC: Array) -> Array:
    return (x_HWC @ GREY)[..., None]


def _blurred(key: Array, x_HWC: Array, config: AugmentConfig) -> Array:
    side = x_HWC.shape[0]
    sigma = jax.random.uniform(key, minval=config.blur_sigma[0], maxval=config.blur_sigma[1]) * (side / PUBLISHED_SIDE)
    away_SS = np.abs(np.arange(side, dtype=np.float32)[:, None] - np.arange(side, dtype=np.float32)[None])
    # Its row normalised, a pixel at the edge takes of those that there are.
    weight_SS = jax.nn.softmax(-0.5 * (away_SS / sigma) ** 2, axis=1)
    return jnp.einsum("ij,jkc,lk->ilc", weight_SS, x_HWC, weight_SS)
