"""CLIP's two towers (ViT-B/32, B/16, L/14, ...; text towers alone) as a network.

  text:   x = E[token] + position; causal attention; z = P norm(x at the first end token)                   (1)
  image:  x = norm([class; patches] + position);     z = P norm(x at the class token)                       (2)
          with a stem, patches are tokens by convolutions of 3 x 3 that halve the sides (Xiao et al. 2021)

Texts and images are compared by the cosine of their z. Both towers are transformers of the blocks of
nets/transformer.py. Radford et al. 2021 (arXiv 2103.00020).
"""

from dataclasses import dataclass

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Float, Int32

from reimagen_jax.encoders.settings import ImageTowerConfig, TextTowerConfig
from reimagen_jax.nets.transformer import Block, Dtype, norm
from reimagen_jax.sharding import Rules

MEAN = np.array([0.48145466, 0.4578275, 0.40821073], np.float32)
STD = np.array([0.26862954, 0.26130258, 0.27577711], np.float32)
"""Of the pixels that CLIP was trained on, in [0, 1], RGB."""

RULES: Rules = (
    (r"(query|key|value|mlp1)/kernel$", P("fsdp")),
    (r"(out|mlp2)/kernel$", P("fsdp", None)),
    (r"(scale|bias)$", P()),
)
"""How parameters are split over a mesh ("data", "fsdp"): as T5's, one sum over devices after each half of a block."""


@dataclass(frozen=True)
class ClipConfig:
    """The towers that there are, and the width of the space that they share."""

    text: TextTowerConfig | None
    image: ImageTowerConfig | None
    projection: int | None
    """None for a text tower without its projection."""


class TextTower(nn.Module):
    """Token ids to the embeddings of all tokens, after the last norm, in `dtype`."""

    config: TextTowerConfig
    dtype: Dtype = "float32"

    @nn.compact
    def __call__(self, tokens_BL: Int32[Array, "b l"]) -> Float[Array, "b l width"]:
        config, tower, kinds = self.config, self.config.tower, {"dtype": self.dtype, "param_dtype": self.dtype}
        words, places = nn.initializers.normal(0.02), nn.initializers.normal(0.01)  # as CLIP begins
        x = nn.Embed(config.vocabulary, tower.width, embedding_init=words, name="embed", **kinds)(tokens_BL)
        x, L = x.astype(jnp.float32), x.shape[1]
        x = x + self.param("position", places, (config.max_tokens, tower.width)).astype(jnp.float32)[None, :L]
        causal_LL = jnp.tri(L, dtype=bool)
        for i in range(tower.depth):
            x = Block(tower, self.dtype, name=f"block{i}")(x, causal_LL)
        return norm(tower, "norm")(x).astype(self.dtype)


class ImageTower(nn.Module):
    """Images [B, R, R, 3], normalised by `normalise`, to the embeddings of class token and patches, before the norm."""

    config: ImageTowerConfig
    dtype: Dtype = "float32"

    @nn.compact
    def __call__(self, x_BHWC: Float[Array, "b r r 3"]) -> Float[Array, "b m width"]:
        config, tower, patch = self.config, self.config.tower, self.config.patch
        D, M = tower.width, (config.resolution // patch) ** 2 + 1
        places = nn.initializers.normal(0.5 if config.stem else D**-0.5)
        class_D = self.param("class", nn.initializers.normal(D**-0.5), (D,)).astype(jnp.float32)
        position_MD = self.param("position", places, (M, D)).astype(jnp.float32)
        x = self.halved(x_BHWC) if config.stem else nn.Conv(
            D, (patch, patch), (patch, patch), "VALID", use_bias=False,
            dtype=self.dtype, param_dtype=self.dtype, name="patches",
        )(x_BHWC)  # fmt: skip
        x = x.reshape(len(x), M - 1, D).astype(jnp.float32)
        x = jnp.concatenate([jnp.broadcast_to(class_D, (len(x), 1, D)), x], axis=1) + position_MD[None]
        x = norm(tower, "norm_in")(x)
        for i in range(tower.depth):
            x = Block(tower, self.dtype, name=f"block{i}")(x)
        return x

    def halved(self, x_BHWC: Float[Array, "b r r 3"]) -> Float[Array, "b s s d"]:
        """Patches as tokens, by as many convolutions as halve a patch to one pixel."""
        tower, kinds = self.config.tower, {"dtype": self.dtype, "param_dtype": self.dtype}
        halvings, x = self.config.patch.bit_length() - 1, x_BHWC
        for i in range(halvings):
            x = nn.Conv(tower.width >> (halvings - 1 - i), (3, 3), (2, 2), name=f"stem{i}", **kinds)(x)
            if i < halvings - 1:
                x = nn.swish(norm(tower, f"stem{i}_norm")(x.astype(jnp.float32))).astype(self.dtype)
        return x


class Clip(nn.Module):
    """Both towers and their projections: `texts` and `images` to one space, not of unit length."""

    config: ClipConfig
    dtype: Dtype = "float32"

    def setup(self) -> None:
        config = self.config
        if config.text is not None:
            self.text = TextTower(config.text, self.dtype)
        if config.image is not None:
            self.image = ImageTower(config.image, self.dtype)
            self.image_norm = nn.LayerNorm(config.image.tower.epsilon, dtype=jnp.float32)
        if config.projection is not None:
            dense = {"use_bias": False, "dtype": self.dtype, "param_dtype": self.dtype}
            if config.text is not None:
                self.text_projection = nn.Dense(config.projection, **dense)
            if config.image is not None:
                self.image_projection = nn.Dense(config.projection, **dense)

    def tokens(self, tokens_BL: Int32[Array, "b l"]) -> Float[Array, "b l width"]:
        """The embeddings of all tokens."""
        return self.text(tokens_BL)

    def read(
        self, tokens_BL: Int32[Array, "b l"], last_B: Int32[Array, " b"]
    ) -> tuple[Float[Array, "b m width"], Float[Array, "b d"]]:
        """The embeddings of all tokens, and equation (1); `last_B` is where the end token stands."""
        x_BMD = self.text(tokens_BL)
        return x_BMD, self.text_projection(x_BMD[jnp.arange(len(x_BMD)), last_B]).astype(jnp.float32)

    def texts(self, tokens_BL: Int32[Array, "b l"], last_B: Int32[Array, " b"]) -> Float[Array, "b d"]:
        """Equation (1)."""
        return self.read(tokens_BL, last_B)[1]

    def images(self, x_BHWC: Float[Array, "b r r 3"]) -> Float[Array, "b d"]:
        """Equation (2), of images in [0, 1]."""
        x_BMD = self.image(normalise(x_BHWC).astype(self.dtype))
        return self.image_projection(self.image_norm(x_BMD[:, 0])).astype(jnp.float32)

    def everything(self) -> None:
        """Touches all parameters, for `init`."""
        if self.config.text is not None:
            x_BLD = self.text(jnp.zeros((1, 1), jnp.int32))
            if self.config.projection is not None:
                self.text_projection(x_BLD[:, 0])
        if self.config.image is not None:
            R = self.config.image.resolution
            self.images(jnp.zeros((1, R, R, 3)))


def normalise(x_BHWC: Float[Array, "b h w 3"]) -> Float[Array, "b h w 3"]:
    """Images in [0, 1] to zero mean and unit variance over CLIP's training images."""
    return (x_BHWC - MEAN.reshape(1, 1, 1, 3)) / STD.reshape(1, 1, 1, 3)
