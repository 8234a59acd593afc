"""The two attentions of Re-Imagen's U-Net.

  self and text:   x + W_o attend(q = x,       k, v = [x; text])       Imagen: text joins the keys and values    (1)
  neighbours:      f + W_o attend(q = f(x_t),  k, v = f(c_n, 0))       Re-Imagen section 3.2                     (2)

with attend(q, k, v) = softmax(q k' / sqrt(d)) v per head. W_o starts at zero, so both begin as the identity.
A masked token has weight exactly zero, and where no neighbour is left (2) adds exactly nothing: a network
without neighbours *is* Imagen. The keys and values of (2) do not depend on t: they are made once per sample
(`NeighbourMemory`) and read at every denoising step.
"""

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

MASKED = -1e9
"""Score of a masked token; exp(MASKED - max) is 0 in float32, and finite scores keep gradients finite."""


@flax.struct.dataclass
class NeighbourMemory:
    """Keys and values of K neighbours at one level of the U-Net: M pixels each, H heads of width D."""

    key_BKMHD: Float[Array, "b k m h d"]
    value_BKMHD: Float[Array, "b k m h d"]


def attend(
    query_BQHD: Float[Array, "b q h d"],
    key_BMHD: Float[Array, "b m h d"],
    value_BMHD: Float[Array, "b m h d"],
    mask_BM: Bool[Array, "b m"] | None = None,
) -> Float[Array, "b q h d"]:
    """Scaled dot-product attention of Q queries over M tokens, those with a false mask left out."""
    score_BHQM = jnp.einsum("bqhd,bmhd->bhqm", query_BQHD, key_BMHD) / jnp.sqrt(float(query_BQHD.shape[-1]))
    if mask_BM is not None:
        score_BHQM = jnp.where(mask_BM[:, None, None, :], score_BHQM, MASKED)
    return jnp.einsum("bhqm,bmhd->bqhd", jax.nn.softmax(score_BHQM, axis=-1), value_BMHD)


def heads(x: Float[Array, "*b c"], head_width: int) -> Float[Array, "*b h d"]:
    """Splits the channels into heads."""
    return x.reshape(*x.shape[:-1], -1, head_width)


class SelfTextAttention(nn.Module):
    """Equation (1): pixels attend to all pixels and to the text."""

    head_width: int
    groups: int

    @nn.compact
    def __call__(
        self, x_BHWC: Float[Array, "b h w c"], text_BLD: Float[Array, "b l d"], text_mask_BL: Bool[Array, "b l"]
    ) -> Float[Array, "b h w c"]:
        B, H, W, C = x_BHWC.shape
        x_BMC = nn.GroupNorm(self.groups, name="norm")(x_BHWC).reshape(B, H * W, C)
        text_BLD = nn.LayerNorm(name="text_norm")(text_BLD)
        query, key, value = jnp.split(nn.Dense(3 * C, name="qkv")(x_BMC), 3, axis=-1)
        text_key, text_value = jnp.split(nn.Dense(2 * C, name="text_kv")(text_BLD), 2, axis=-1)
        key = jnp.concatenate([key, text_key], axis=1)
        value = jnp.concatenate([value, text_value], axis=1)
        mask_BM = jnp.concatenate([jnp.ones((B, H * W), bool), text_mask_BL], axis=1)
        out = attend(*(heads(x, self.head_width) for x in (query, key, value)), mask_BM)
        out = nn.Dense(C, kernel_init=nn.initializers.zeros, name="out")(out.reshape(B, H * W, C))
        return x_BHWC + out.reshape(B, H, W, C)


class NeighbourAttention(nn.Module):
    """Equation (2), in two halves: `remember` the neighbours once, then attend to the memory at every step."""

    width: int
    head_width: int
    groups: int

    def setup(self) -> None:
        self.query_norm = nn.GroupNorm(self.groups)
        self.memory_norm = nn.GroupNorm(self.groups)
        self.query = nn.Dense(self.width)
        self.key_value = nn.Dense(2 * self.width)
        self.out = nn.Dense(self.width, kernel_init=nn.initializers.zeros)

    def remember(self, features_NHWC: Float[Array, "n h w c"], num_neighbours: int) -> NeighbourMemory:
        """DStack's features of N = B x K neighbours (K varies fastest) as keys and values."""
        N, H, W, C = features_NHWC.shape
        features = self.memory_norm(features_NHWC).reshape(N // num_neighbours, num_neighbours, H * W, C)
        key, value = jnp.split(self.key_value(features), 2, axis=-1)
        return NeighbourMemory(heads(key, self.head_width), heads(value, self.head_width))

    def __call__(
        self, f_BHWC: Float[Array, "b h w c"], memory: NeighbourMemory, nbr_mask_BK: Bool[Array, "b k"]
    ) -> Float[Array, "b h w c"]:
        B, H, W, C = f_BHWC.shape
        _, K, M, *_ = memory.key_BKMHD.shape
        query_BQHD = heads(self.query(self.query_norm(f_BHWC).reshape(B, H * W, C)), self.head_width)
        key, value = (x.reshape(B, K * M, *x.shape[3:]) for x in (memory.key_BKMHD, memory.value_BKMHD))
        out = attend(query_BQHD, key, value, nbr_mask_BK.repeat(M, axis=1))
        out_BHWC = self.out(out.reshape(B, H * W, C)).reshape(B, H, W, C)
        has_neighbour_B = nbr_mask_BK.any(axis=1)
        return f_BHWC + jnp.where(has_neighbour_B[:, None, None, None], out_BHWC, 0.0)
