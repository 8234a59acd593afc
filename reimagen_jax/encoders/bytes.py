"""A small transformer over bytes, trained jointly with the U-Net of the embedded experiments.

  bytes -> embedding -> two strided convolutions (words are local) -> `depth` pre-norm transformer blocks

It has the signature of every text encoder: token ids to (embeddings, mask). Padding is id 0 and is masked.
"""

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int32

from reimagen_jax.encoders.settings import TextConfig
from reimagen_jax.encoders.tokenizers import PADDING
from reimagen_jax.nets.attention import attend, heads


class Block(nn.Module):
    """Pre-norm self-attention and a two-layer perceptron, both residual."""

    head_width: int

    @nn.compact
    def __call__(self, x_BLD: Float[Array, "b l d"], mask_BL: Bool[Array, "b l"]) -> Float[Array, "b l d"]:
        D = x_BLD.shape[-1]
        qkv = nn.Dense(3 * D, dtype=jnp.float32, name="qkv")(nn.LayerNorm(name="norm1")(x_BLD))
        out = attend(*(heads(x, self.head_width) for x in jnp.split(qkv, 3, axis=-1)), mask_BL)
        x_BLD = x_BLD + nn.Dense(D, dtype=jnp.float32, name="out")(out.reshape(x_BLD.shape))
        h = nn.Dense(4 * D, dtype=jnp.float32, name="mlp1")(nn.LayerNorm(name="norm2")(x_BLD))
        return x_BLD + nn.Dense(D, dtype=jnp.float32, name="mlp2")(nn.gelu(h))


class ByteEncoder(nn.Module):
    """Token ids [B, L] to embeddings [B, L / stride, width] and their mask."""

    config: TextConfig
    vocabulary: int = 257

    @nn.compact
    def __call__(self, tokens_BL: Int32[Array, "b l"]) -> tuple[Float[Array, "b m width"], Bool[Array, "b m"]]:
        config = self.config
        B, L = tokens_BL.shape
        real_BL = tokens_BL != PADDING
        embed = {"embedding_init": nn.initializers.normal(1.0), "dtype": jnp.float32, "name": "embed"}
        x = nn.Embed(self.vocabulary, config.width // 2, **embed)(tokens_BL)
        x = jnp.where(real_BL[..., None], x, 0.0)
        x = nn.swish(nn.Conv(config.width, (5,), dtype=jnp.float32, name="conv1")(x))
        strided = {"strides": (config.stride,), "dtype": jnp.float32, "name": "conv2"}
        x = nn.Conv(config.width, (2 * config.stride + 1,), **strided)(x)
        # A merged token counts when any of its bytes does.
        mask_BM = real_BL.reshape(B, L // config.stride, config.stride).any(axis=-1)
        position = self.param("position", nn.initializers.normal(0.02), (1, x.shape[1], config.width))
        x = x + position.astype(jnp.float32)
        for i in range(config.depth):
            x = Block(config.head_width, name=f"block{i}")(x, mask_BM)
        return nn.LayerNorm(name="norm")(x), mask_BM
