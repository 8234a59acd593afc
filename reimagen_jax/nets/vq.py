"""A vector-quantising autoencoder: an image as a grid of tokens, each the number of a code.

  encoder    z = E(x),  conv, blocks and 2 x 2 averages, two blocks, norm, 1 x 1 conv                             (1)
  tokens     k = argmin_j |z - e_j|^2,  the smallest j on ties                                                    (2)
  decoder    x^ = D(e_k),  conv, two blocks, blocks and repetition with a conv, norm, conv                        (3)
  block      h = conv(act(GN(conv(act(GN(x)))))),  then x + h;  W h + h  where the width changes                  (4)

Images are in [0, 1]. The block is MaskGIT's, as its weights want it: where the width changes, the 1 x 1 product W is of
the branch, and the block's input is not added. No attention; convolutions of the encoder and of blocks have no bias,
but for the encoder's last.
Sources: Esser et al. 2021 (VQGAN, arXiv 2012.09841); Chang et al. 2022 (MaskGIT, arXiv 2202.04200), whose network MAGE
and RCG hold frozen.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int32

from reimagen_jax.nets.layers import fold, resample, unfold
from reimagen_jax.nets.settings import VQConfig


def conv(config: VQConfig, width: int, side: int, name: str, bias: bool = True) -> nn.Conv:
    """A convolution in `config.dtype`."""
    return nn.Conv(width, (side, side), use_bias=bias, dtype=jnp.dtype(config.dtype), name=name)


def last_layer(config: VQConfig, name: str | None = None) -> nn.Conv:
    """The decoder's last convolution, whose output `unfold` makes an image of."""
    return nn.Conv(3 * config.patch**2, (3, 3), dtype=jnp.float32, name=name)


def normed(config: VQConfig, name: str, x: Float[Array, "b h w c"]) -> Float[Array, "b h w c"]:
    """act(GN(x)), float32."""
    return nn.swish(nn.GroupNorm(config.groups, epsilon=1e-6, dtype=jnp.float32, name=name)(x.astype(jnp.float32)))


class VQBlock(nn.Module):
    """(4)"""

    config: VQConfig
    width: int

    @nn.compact
    def __call__(self, x_BHWC: Float[Array, "b h w c"]) -> Float[Array, "b h w c2"]:
        config = self.config
        h = conv(config, self.width, 3, "conv1", bias=False)(normed(config, "norm1", x_BHWC))
        h = conv(config, self.width, 3, "conv2", bias=False)(normed(config, "norm2", h))
        if x_BHWC.shape[-1] == self.width:
            return x_BHWC + h
        return conv(config, self.width, 1, "shortcut", bias=False)(h) + h


class Encoder(nn.Module):
    """(1)"""

    config: VQConfig

    @nn.compact
    def __call__(self, x_BHWC: Float[Array, "b h w 3"]) -> Float[Array, "b gh gw d"]:
        config = self.config
        x = conv(config, config.widths[0], 3, "conv_in", bias=False)(fold(x_BHWC, config.patch))
        for level, width in enumerate(config.widths):
            for i in range(config.blocks):
                x = VQBlock(config, width, name=f"down{level}_block{i}")(x)
            if level < len(config.widths) - 1:
                x = resample(x, "down")
        for i in range(2):
            x = VQBlock(config, config.widths[-1], name=f"middle_block{i}")(x)
        return conv(config, config.code_width, 1, "conv_out")(normed(config, "norm_out", x)).astype(jnp.float32)


class Decoder(nn.Module):
    """(3)"""

    config: VQConfig

    @nn.compact
    def __call__(self, e_BHWD: Float[Array, "b gh gw d"]) -> Float[Array, "b h w 3"]:
        config = self.config
        x = conv(config, config.widths[-1], 3, "conv_in")(e_BHWD)
        for i in range(2):
            x = VQBlock(config, config.widths[-1], name=f"middle_block{i}")(x)
        for level, width in reversed(list(enumerate(config.widths))):
            for i in range(config.blocks):
                x = VQBlock(config, width, name=f"up{level}_block{i}")(x)
            if level > 0:
                x = conv(config, width, 3, f"up{level}_conv")(resample(x, "up"))
        x = normed(config, "norm_out", x)
        self.sow("intermediates", "last", x)  # what the last convolution sees, for those who ask for it
        return unfold(last_layer(config, "conv_out")(x), config.patch)


class VQ(nn.Module):
    """Images to tokens and back."""

    config: VQConfig

    def setup(self) -> None:
        config = self.config
        self.encoder, self.decoder = Encoder(config), Decoder(config)
        self.codes = self.param("codes", nn.initializers.normal(0.5), (config.codes, config.code_width))

    def encode(self, x_BHWC: Float[Array, "b h w 3"]) -> Float[Array, "b gh gw d"]:
        """(1): z, not quantised."""
        z_BHWD = self.encoder(x_BHWC)
        return unit(z_BHWD) if self.config.normalised else z_BHWD

    def codebook(self) -> Float[Array, "k d"]:
        """All e_j."""
        e_KD = self.codes.astype(jnp.float32)
        return unit(e_KD) if self.config.normalised else e_KD

    def distances(self, z_BHWD: Float[Array, "*b d"]) -> Float[Array, "*b k"]:
        """|z - e_j|^2 to every code."""
        e_KD = self.codebook()
        size_K = (e_KD**2).sum(axis=1).reshape(*(1,) * (z_BHWD.ndim - 1), -1)
        return (z_BHWD**2).sum(axis=-1, keepdims=True) - 2.0 * z_BHWD @ e_KD.T + size_K

    def tokens(self, z_BHWD: Float[Array, "*b d"]) -> Int32[Array, " *b"]:
        """(2)"""
        return self.distances(z_BHWD).argmin(axis=-1).astype(jnp.int32)

    def look_up(self, token_BHW: Int32[Array, " *b"]) -> Float[Array, "*b d"]:
        """e_k"""
        return self.codebook()[token_BHW]

    def decode(self, e_BHWD: Float[Array, "b gh gw d"]) -> Float[Array, "b h w 3"]:
        """(3)"""
        return self.decoder(e_BHWD)

    def __call__(self, x_BHWC: Float[Array, "b h w 3"]) -> Float[Array, "b h w 3"]:
        """What an image is after (1) to (3); touches all parameters."""
        return self.decode(self.look_up(self.tokens(self.encode(x_BHWC))))


def unit(x: Float[Array, "*b d"]) -> Float[Array, "*b d"]:
    """Of length 1."""
    return x * jax.lax.rsqrt((x**2).sum(axis=-1, keepdims=True) + 1e-12)


def straight_through(z: Float[Array, "*b d"], e: Float[Array, "*b d"]) -> Float[Array, "*b d"]:
    """e, its gradient given to z."""
    return z + jax.lax.stop_gradient(e - z)
