"""Pre-norm transformers: the blocks of CLIP's towers, of unCLIP's priors and of its decoder's text encoder.

  x = x + W_o attend(h W_q, h W_k, h W_v),  h = norm(x)            norms, and a bias in every product            (1)
  x = x + W_2 act(W_1 norm(x))                                     act(y) = y sigmoid(1.702 y), or gelu by erf   (2)

Causal: a token attends to those before it and to itself; tokens that are masked are attended to by none. The sum x,
norms and softmax are float32, matrix products are of `dtype`.
Sources: Vaswani et al. 2017; Radford et al. 2021 (CLIP); Ramesh et al. 2022 (arXiv 2204.06125), section 2.2.
"""

from collections.abc import Callable, Mapping
from typing import Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from reimagen_jax.nets.attention import MASKED
from reimagen_jax.nets.settings import Tower

Dtype = Literal["float32", "bfloat16"]


ACTIVATIONS: Mapping[str, Callable[[Array], Array]] = {
    "quick_gelu": lambda x: x * nn.sigmoid(1.702 * x),
    "gelu": lambda x: nn.gelu(x, approximate=False),
}


LECUN = nn.initializers.lecun_normal()


def biased_attention(
    query_BQHD: Float[Array, "b q h d"],
    key_BMHD: Float[Array, "b m h d"],
    value_BMHD: Float[Array, "b m h d"],
    bias_BHQM: Float[Array, "#b #h #q m"],
    mask_BM: Bool[Array, "b m"],
    scale: float,
) -> Float[Array, "b q h d"]:
    """softmax(scale q k' + bias) v per head, over the tokens whose mask is true; the softmax is float32."""
    (B, Q, H, D), M = query_BQHD.shape, key_BMHD.shape[1]
    # N = B x H products of matrices, as in `nets.attention.attend`: CPUs are slow with two batch axes.
    query_NQD, key_NMD, value_NMD = (
        jnp.moveaxis(x, 2, 1).reshape(B * H, -1, D) for x in (query_BQHD * scale, key_BMHD, value_BMHD)
    )
    score_NQM = jnp.einsum("nqd,nmd->nqm", query_NQD, key_NMD, preferred_element_type=jnp.float32)
    score_BHQM = jnp.where(mask_BM[:, None, None, :], score_NQM.reshape(B, H, Q, M) + bias_BHQM, MASKED)
    weight_NQM = jax.nn.softmax(score_BHQM, axis=-1).astype(value_NMD.dtype).reshape(B * H, Q, M)
    out_NQD = jnp.einsum("nqm,nmd->nqd", weight_NQM, value_NMD)
    return jnp.moveaxis(out_NQD.reshape(B, H, Q, D), 1, 2)


class Block(nn.Module):
    """Equations (1) and (2)."""

    tower: Tower
    dtype: Dtype
    param_dtype: Dtype | None = None
    """Of the matrices; None: `dtype`, as a network holds them that is not trained."""

    @nn.compact
    def __call__(
        self,
        x_BLD: Float[Array, "b l d"],
        bias_BHLL: Float[Array, "1 1 #l l"],
        mask_BL: Bool[Array, "b l"] | None = None,
    ) -> Float[Array, "b l d"]:
        tower, (B, L, D) = self.tower, x_BLD.shape
        head_width = D // tower.heads
        h = norm(tower, "norm1")(x_BLD)
        query, key, value = (
            self.dense(D, name)(h).reshape(B, L, tower.heads, head_width) for name in ("query", "key", "value")
        )
        mask_BL = jnp.ones((B, L), bool) if mask_BL is None else mask_BL
        out = biased_attention(query, key, value, bias_BHLL, mask_BL, scale=head_width**-0.5)
        # What joins the sum begins smaller the more blocks there are, as CLIP has it.
        last = nn.initializers.variance_scaling(0.5 / tower.depth, "fan_in", "normal")
        x_BLD = x_BLD + self.dense(D, "out", last)(out.reshape(B, L, D)).astype(jnp.float32)  # (1)
        h = self.dense(tower.mlp_width, "mlp1")(norm(tower, "norm2")(x_BLD))
        return x_BLD + self.dense(D, "mlp2", last)(ACTIVATIONS[tower.activation](h)).astype(jnp.float32)  # (2)

    def dense(self, width: int, name: str, init: nn.initializers.Initializer = LECUN) -> nn.Dense:
        """A matrix product in `dtype`."""
        kinds = {"dtype": self.dtype, "param_dtype": self.param_dtype or self.dtype}
        return nn.Dense(width, kernel_init=init, name=name, **kinds)


def norm(tower: Tower, name: str) -> nn.LayerNorm:
    """A layer norm in float32."""
    return nn.LayerNorm(tower.epsilon, dtype=jnp.float32, name=name)


class CausalTransformer(nn.Module):
    """Tokens with their positions to what each knows of those before it, after the last norm: float32."""

    tower: Tower
    dtype: Dtype = "float32"
    remat: bool = False
    """Blocks are computed again by backpropagation, which then keeps what goes between them alone."""

    @nn.compact
    def __call__(
        self, x_BLD: Float[Array, "b l d"], mask_BL: Bool[Array, "b l"] | None = None
    ) -> Float[Array, "b l d"]:
        L, block = x_BLD.shape[1], nn.remat(Block) if self.remat else Block
        position_LD = self.param("position", nn.initializers.normal(0.01), (L, self.tower.width))
        x_BLD = x_BLD.astype(jnp.float32) + position_LD.astype(jnp.float32)[None]
        bias_LL = jnp.where(jnp.tri(L, dtype=bool), 0.0, MASKED)[None, None]
        for i in range(self.tower.depth):
            x_BLD = block(self.tower, self.dtype, "float32", name=f"block{i}")(x_BLD, bias_LL, mask_BL)
        return norm(self.tower, "norm")(x_BLD)
