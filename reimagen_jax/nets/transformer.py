"""Pre-norm transformers: the blocks of CLIP's towers, of unCLIP's priors and of its decoder's text encoder.

  x = x + W_o attend(h W_q, h W_k, h W_v),  h = norm(x)            norms, and a bias in every product            (1)
  x = x + W_2 act(W_1 norm(x))                                     act(y) = y sigmoid(1.702 y), or gelu by erf   (2)

Causal: a token attends to those before it and to itself; tokens that are masked are attended to by none. So tokens may
come a few at a time, those before them remembered by their keys and values (`Memory`). The sum x, norms and softmax are
float32, matrix products are of `dtype`. cuDNN's attention, where it can be had (attention.py:choose), keeps no scores.
Sources: Vaswani et al. 2017; Radford et al. 2021 (CLIP); Ramesh et al. 2022 (arXiv 2204.06125), section 2.2.
"""

from collections.abc import Callable, Mapping
from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.traverse_util import flatten_dict
from jaxtyping import Array, Bool, Float, Int32

from reimagen_jax.nets.attention import FUSED, KEY_BLOCK, MASKED, choose
from reimagen_jax.nets.settings import Tower

Dtype = Literal["float32", "bfloat16"]
Memory = tuple[tuple[Float[Array, "b m h c"], Float[Array, "b m h c"]], ...]
"""Keys and values in each block, of a sequence of M tokens; of those to come, whatever was there."""


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
    drop: Callable[[Array], Array] = lambda weight: weight,
) -> Float[Array, "b q h d"]:
    """softmax(scale q k' + bias) v per head, over the tokens whose mask is true; the softmax is float32. `drop` is what
    becomes of its weights."""
    (B, Q, H, D), M = query_BQHD.shape, key_BMHD.shape[1]
    # N = B x H products of matrices, as in `nets.attention.attend`: CPUs are slow with two batch axes.
    query_NQD, key_NMD, value_NMD = (
        jnp.moveaxis(x, 2, 1).reshape(B * H, -1, D) for x in (query_BQHD * scale, key_BMHD, value_BMHD)
    )
    score_NQM = jnp.einsum("nqd,nmd->nqm", query_NQD, key_NMD, preferred_element_type=jnp.float32)
    score_BHQM = jnp.where(mask_BM[:, None, None, :], score_NQM.reshape(B, H, Q, M) + bias_BHQM, MASKED)
    weight_NQM = jax.nn.softmax(score_BHQM, axis=-1).astype(value_NMD.dtype).reshape(B * H, Q, M)
    out_NQD = jnp.einsum("nqm,nmd->nqd", drop(weight_NQM), value_NMD)
    return jnp.moveaxis(out_NQD.reshape(B, H, Q, D), 1, 2)


def fused_attention(
    query_BQHD: Float[Array, "b q h d"],
    key_BMHD: Float[Array, "b m h d"],
    value_BMHD: Float[Array, "b m h d"],
    seen_QM: Bool[Array, "q m"] | None,
    mask_BM: Bool[Array, "b m"] | None,
) -> Float[Array, "b q h d"]:
    """`biased_attention` by cuDNN, without scores in memory: of the tokens that a query sees (all, or `seen_QM`) and
    that are not masked. Queries and keys are padded to whole blocks."""
    (B, Q), M = query_BQHD.shape[:2], key_BMHD.shape[1]
    spare_q, spare_m, told = -Q % KEY_BLOCK, -M % KEY_BLOCK, {}
    query, key, value = (
        jnp.pad(x, ((0, 0), (0, spare), (0, 0), (0, 0)))
        for x, spare in ((query_BQHD, spare_q), (key_BMHD, spare_m), (value_BMHD, spare_m))
    )
    if seen_QM is not None or mask_BM is not None:
        seen_QM = jnp.ones((Q, M), bool) if seen_QM is None else seen_QM
        seen_BQM = seen_QM[None] if mask_BM is None else seen_QM[None] & mask_BM[:, None, :]
        told["mask"] = jnp.pad(seen_BQM, ((0, 0), (0, spare_q), (0, spare_m)))[:, None]
    elif spare_m:
        told["key_value_seq_lengths"] = jnp.full(B, M, jnp.int32)
    return jax.nn.dot_product_attention(query, key, value, implementation=FUSED, **told)[:, :Q]


class Block(nn.Module):
    """Equations (1) and (2)."""

    tower: Tower
    dtype: Dtype
    param_dtype: Dtype | None = None
    """Of the matrices; None: `dtype`, as a network holds them that is not trained."""
    dropout: float = 0.0
    """Of the attention's weights, of what is multiplied last and of what joins the sum, where there are random numbers
    for it ("dropout")."""

    @nn.compact
    def __call__(
        self,
        x_BLD: Float[Array, "b l d"],
        seen_LM: Bool[Array, "l m"] | None = None,
        mask_BL: Bool[Array, "b m"] | None = None,
        memory: tuple[Float[Array, "b m h c"], Float[Array, "b m h c"]] | None = None,
        at: Int32[Array, ""] | int = 0,
    ) -> Any:
        """The tokens after the block; with the memory of M tokens, in which they are from `at` on, it too. A token
        attends to those that `seen_LM` says (None: to all) and that are not masked."""
        tower, (B, L, D) = self.tower, x_BLD.shape
        drop = nn.Dropout(self.dropout, deterministic=not self.has_rng("dropout"))
        head_width = D // tower.heads
        h = norm(tower, "norm1")(x_BLD)
        query, key, value = (
            self.dense(D, name)(h).reshape(B, L, tower.heads, head_width) for name in ("query", "key", "value")
        )
        if memory is not None:
            told = zip(memory, (key, value), strict=True)
            key, value = memory = tuple(
                jax.lax.dynamic_update_slice_in_dim(old, new.astype(old.dtype), at, axis=1) for old, new in told
            )
        out = self.attend(query, key, value, seen_LM, mask_BL, drop)
        # What joins the sum begins smaller the more blocks there are, as CLIP has it.
        last = nn.initializers.variance_scaling(0.5 / tower.depth, "fan_in", "normal")
        x_BLD = x_BLD + drop(self.dense(D, "out", last)(out.reshape(B, L, D))).astype(jnp.float32)  # (1)
        h = self.dense(tower.mlp_width, "mlp1")(norm(tower, "norm2")(x_BLD))
        h = drop(ACTIVATIONS[tower.activation](h))
        x_BLD = x_BLD + drop(self.dense(D, "mlp2", last)(h)).astype(jnp.float32)  # (2)
        return x_BLD if memory is None else (x_BLD, memory)

    def attend(
        self,
        query: Float[Array, "b q h d"],
        key: Float[Array, "b m h d"],
        value: Float[Array, "b m h d"],
        seen_QM: Bool[Array, "q m"] | None,
        mask_BM: Bool[Array, "b m"] | None,
        drop: Callable[[Array], Array],
    ) -> Float[Array, "b q h d"]:
        """Of tokens, as settings and device have it. Weights that are dropped have to be there."""
        (Q, _, D), M = query.shape[1:], key.shape[1]
        dropped = self.dropout > 0 and self.has_rng("dropout")
        whole = -(-Q // KEY_BLOCK) * KEY_BLOCK  # as it is padded
        if not dropped and Q > 1 and choose(self.tower.attention, self.dtype, whole, M, D).implementation == FUSED:
            return fused_attention(query, key, value, seen_QM, mask_BM)
        mask_BM = jnp.ones(key.shape[:2], bool) if mask_BM is None else mask_BM
        bias_QM = jnp.zeros((1, M)) if seen_QM is None else jnp.where(seen_QM, 0.0, MASKED)
        return biased_attention(query, key, value, bias_QM[None, None], mask_BM, D**-0.5, drop)

    def dense(self, width: int, name: str, init: nn.initializers.Initializer = LECUN) -> nn.Dense:
        """A matrix product in `dtype`."""
        kinds = {"dtype": self.dtype, "param_dtype": self.param_dtype or self.dtype}
        return nn.Dense(width, kernel_init=init, name=name, **kinds)


def norm(tower: Tower, name: str | None = None) -> nn.LayerNorm:
    """A layer norm in float32; its name where it is made in a compact method."""
    return nn.LayerNorm(tower.epsilon, dtype=jnp.float32, name=name)


class CausalTransformer(nn.Module):
    """Tokens with their positions to what each knows of those before it, after the last norm: float32."""

    tower: Tower
    dtype: Dtype = "float32"
    remat: bool = False
    """Blocks are computed again by backpropagation, which then keeps what goes between them alone."""

    def blank(self, B: int, M: int) -> Memory:
        """The memory of M tokens, none of which has come."""
        tower = self.tower
        empty = jnp.zeros((B, M, tower.heads, tower.width // tower.heads), self.dtype)
        return ((empty, empty),) * tower.depth

    @nn.compact
    def __call__(
        self,
        x_BLD: Float[Array, "b l d"],
        mask_BL: Bool[Array, "b m"] | None = None,
        memory: Memory | None = None,
        at: Int32[Array, ""] | int = 0,
    ) -> Any:
        """With a memory, `x_BLD` are the tokens from `at` on of the M that the mask is of, and the memory is given back
        with them in it."""
        L, block = x_BLD.shape[1], nn.remat(Block) if self.remat and memory is None else Block
        M = L if memory is None else memory[0][0].shape[1]
        position_LD = self.param("position", nn.initializers.normal(0.01), (M, self.tower.width))
        seen_LM = jnp.tri(M, dtype=bool)
        if memory is not None:
            position_LD, seen_LM = (jax.lax.dynamic_slice_in_dim(each, at, L) for each in (position_LD, seen_LM))
        x_BLD = x_BLD.astype(jnp.float32) + position_LD.astype(jnp.float32)[None]
        kept = []
        for i in range(self.tower.depth):
            each = block(self.tower, self.dtype, "float32", name=f"block{i}")
            if memory is None:
                x_BLD = each(x_BLD, seen_LM, mask_BL)
            else:
                x_BLD, remembered = each(x_BLD, seen_LM, mask_BL, memory[i], at)
                kept.append(remembered)
        h_BLD = norm(self.tower, "norm")(x_BLD)
        return h_BLD if memory is None else (h_BLD, tuple(kept))


def states(net: nn.Module, variables: Mapping[str, Any], x: Array, method: str) -> list[Float[Array, "b m d"]]:
    """The tokens after each block of a network with one tower of them, when `method` is asked about `x`."""

    def of_block(module: nn.Module, name: str) -> bool:
        return isinstance(module, Block) and name == "__call__"

    options = {"capture_intermediates": of_block, "mutable": ["intermediates"]}
    _, told = net.apply(variables, x, method=method, **options)
    found = {path[-2]: leaf[0] for path, leaf in flatten_dict(told["intermediates"]).items()}
    return [found[name] for name in sorted(found, key=lambda name: int(name.removeprefix("block")))]
