"""LPIPS: how alike two images look, by features of a VGG, whose channels count as much as people have taught them to.

    f_l = VGG's features at resolution l of (x - shift) / scale,   u_l = f_l / |f_l|  over channels               (1)
    d(x, y) = sum_l mean_places sum_c w_lc (u_lc(x) - u_lc(y))^2                                                   (2)

Images are in [-1, 1]. w is learned from judgements, and not negative. As a vector of an image stands the mean of the
last u over places, of length 1.
Source: Zhang et al. 2018 (arXiv 1801.03924), version 0.1 of its weights.
"""

from dataclasses import dataclass
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Key

from reimagen_jax.encoders.settings import LpipsConfig
from reimagen_jax.encoders.towers import Tokenizer, unit
from reimagen_jax.errors import UserError
from reimagen_jax.nets.vgg import VGG

SHIFT = np.array([-0.030, -0.088, -0.188], np.float32)
SCALE = np.array([0.458, 0.448, 0.450], np.float32)


class LpipsNet(nn.Module):
    """(1) and (2)."""

    config: LpipsConfig

    def setup(self) -> None:
        self.vgg = VGG(self.config.vgg)
        self.counts = [
            self.param(f"channels{i}", nn.initializers.constant(1.0 / width), (width,))
            for i, width in enumerate(self.config.vgg.widths)
        ]

    def features(self, x_BHWC: Float[Array, "b h w 3"]) -> list[Float[Array, "b _ _ _"]]:
        """(1)"""
        shift, scale = (each.reshape(1, 1, 1, 3) for each in (SHIFT, SCALE))
        return [unit_channels(f_BHWC) for f_BHWC in self.vgg((x_BHWC - shift) / scale)]

    def __call__(self, x_BHWC: Float[Array, "b h w 3"], y_BHWC: Float[Array, "b h w 3"]) -> Float[Array, " b"]:
        """(2)"""
        B, d_B = len(x_BHWC), jnp.zeros(len(x_BHWC))
        both = self.features(jnp.concatenate([x_BHWC, y_BHWC]))
        for u_EHWC, w_C in zip(both, self.counts, strict=True):
            error_BHWC = (u_EHWC[:B] - u_EHWC[B:]) ** 2
            d_B = d_B + (error_BHWC * w_C.astype(jnp.float32)[None, None, None]).sum(axis=-1).mean(axis=(1, 2))
        return d_B


@dataclass(frozen=True)
class Lpips:
    """The functions of it; holds settings only."""

    config: LpipsConfig

    @property
    def net(self) -> LpipsNet:
        return LpipsNet(self.config)

    @property
    def width(self) -> int:
        """D: values of a vector."""
        return self.config.vgg.widths[-1]

    def init(self, key: Key[Array, ""]) -> Any:
        """Random parameters."""
        side = 2 ** (len(self.config.vgg.widths) - 1)
        zeros = jnp.zeros((1, side, side, 3))
        return self.net.init(key, zeros, zeros)["params"]

    def distance(
        self, params: Any, x_BHWC: Float[Array, "b h w 3"], y_BHWC: Float[Array, "b h w 3"]
    ) -> Float[Array, " b"]:
        """(2) of images in [-1, 1] of one size."""
        return self.net.apply({"params": params}, x_BHWC, y_BHWC)

    def embed_images(self, params: Any, x_BHWC: Float[Array, "b h w 3"]) -> Float[Array, "b d"]:
        """Unit vectors of images in [-1, 1]."""
        return unit(self.net.apply({"params": params}, x_BHWC, method="features")[-1].mean(axis=(1, 2)))

    def embed_texts(self, params: Any, tokens_BL: Any) -> Any:
        """Raises `UserError`: it reads none."""
        raise _reads_no_text()

    def tokenizer(self) -> Tokenizer:
        """Raises `UserError`: it reads no texts."""
        raise _reads_no_text()


def unit_channels(f: Float[Array, "*b c"]) -> Float[Array, "*b c"]:
    """Of length 1 over channels; nothing, where there is nothing, with a gradient that is a number."""
    return f * jax.lax.rsqrt(jnp.maximum((f**2).sum(axis=-1, keepdims=True), 1e-20))


def _reads_no_text() -> UserError:
    return UserError("LPIPS reads images alone: it knows no texts, search by images or take one of both")
