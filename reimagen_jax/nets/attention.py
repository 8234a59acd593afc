"""The attentions of Re-Imagen's U-Net.

  self and text:   x + W_o attend(q = x,       k, v = [x; text])       Imagen: text joins the keys and values    (1)
  text alone:      x + W_o attend(q = x,       k, v = text)            Imagen, third stage                       (2)
  neighbours:      f + W_o attend(q = f(x_t),  k, v = f(c_n, 0))       Re-Imagen section 3.2                     (3)

with attend(q, k, v) = softmax(q k' / sqrt(d) + b) v per head; b = log w_n for the pixels of a neighbour of weight w_n,
which count w_n times, and 0 where there are no weights. W_o starts at zero, so all begin as the identity.
A masked token has weight exactly zero, and where no text is left (2), where no neighbour is left (3) adds exactly
nothing: a network without neighbours *is* Imagen. The keys and values of (3), and those of the text in (1) and (2), do
not depend on t: a sampler has them made once (`NeighbourMemory`, unet.py:read), for all its denoising steps.

cuDNN's fused attention keeps no scores. It takes whole blocks of keys, and a mask as the number of keys that count,
from the first on: so keys are padded, and tokens and neighbours that are present come first (`present_first`), which
changes nothing, as attention knows of no order.
"""

import math
from typing import Literal, NamedTuple

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Shaped

from reimagen_jax.nets.layers import group_norm, layer_norm, once
from reimagen_jax.nets.settings import UNetConfig, Wanted

MASKED = -1e9
"""Score of a masked token; exp(MASKED - max) is 0 in float32, and finite scores keep gradients finite."""

CACHED_SCORES = 2**16
"""Queries x tokens from which on CPUs do a few images after the others: scores of a whole batch overflow caches."""
CACHED_IMAGES = 8
"""So many at a time, at most."""

KEY_BLOCK = 64
"""Keys are padded to a multiple of so many for cuDNN, whose gradient refuses odd numbers of them."""
FUSED = "cudnn"
"""jax's name of the fused attention."""

Implementation = Literal["einsum", "mapped", "xla", "cudnn"]


class Choice(NamedTuple):
    """An implementation, and why it is that one."""

    implementation: Implementation
    reason: str


class Attention(NamedTuple):
    """An attention of a network, by its size for one image, and how it is computed."""

    name: str
    queries: int
    tokens: int
    head_width: int
    choice: Choice


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
    implementation: Implementation = "einsum",
    bias_BM: Float[Array, "b m"] | None = None,
) -> Float[Array, "b q h d"]:
    """Scaled dot-product attention of Q queries over M tokens, those with a false mask left out; float32 softmax.

    `bias_BM` is added to the scores of all queries and heads. With "cudnn" tokens that are present come before those
    that are not (`present_first`).

    All implementations agree up to rounding where at least one token is left; where none is, the result is finite and
    otherwise not specified.
    """
    if implementation == "mapped":
        B, group = len(query_BQHD), math.gcd(len(query_BQHD), CACHED_IMAGES)
        mask_BM = jnp.ones(key_BMHD.shape[:2], bool) if mask_BM is None else mask_BM
        told = (query_BQHD, key_BMHD, value_BMHD, mask_BM, bias_BM)
        groups = jax.tree.map(lambda x: x.reshape(B // group, group, *x.shape[1:]), told)
        return jax.lax.map(lambda part: attend(*part[:4], bias_BM=part[4]), groups).reshape(query_BQHD.shape)
    if implementation == "cudnn":
        return _attend_fused(query_BQHD, key_BMHD, value_BMHD, mask_BM, bias_BM)
    if implementation == "xla":
        bias_BM = None if bias_BM is None else bias_BM.astype(query_BQHD.dtype)
        mask, bias = (None if x is None else x[:, None, None, :] for x in (mask_BM, bias_BM))
        return jax.nn.dot_product_attention(
            query_BQHD, key_BMHD, value_BMHD, bias=bias, mask=mask, implementation="xla"
        )
    H, D = query_BQHD.shape[2:]
    # N = B x H products of matrices; with two batch axes, CPUs copy them about, at thrice the time.
    query_NQD, key_NMD, value_NMD = (
        jnp.moveaxis(x, 2, 1).reshape(-1, x.shape[1], D) for x in (query_BQHD * D**-0.5, key_BMHD, value_BMHD)
    )
    score_NQM = jnp.einsum("nqd,nmd->nqm", query_NQD, key_NMD, preferred_element_type=jnp.float32)
    if bias_BM is not None:
        score_NQM = score_NQM + bias_BM.repeat(H, axis=0)[:, None, :]
    if mask_BM is not None:
        score_NQM = jnp.where(mask_BM.repeat(H, axis=0)[:, None, :], score_NQM, MASKED)
    weight_NQM = jnp.exp(score_NQM - jax.lax.stop_gradient(score_NQM.max(axis=-1, keepdims=True)))
    # Divided last: the weights, of which there are far more, are then touched once less.
    out_NQD = jnp.einsum("nqm,nmd->nqd", weight_NQM.astype(value_NMD.dtype), value_NMD)
    out_NQD = out_NQD / weight_NQM.sum(axis=-1, keepdims=True).astype(out_NQD.dtype)
    return jnp.moveaxis(out_NQD.reshape(-1, H, *out_NQD.shape[1:]), 1, 2)


def _attend_fused(query_BQHD: Array, key_BMHD: Array, value_BMHD: Array, mask_BM: Array | None, bias_BM: Array | None):
    """`attend` by cuDNN, over keys that are padded to whole blocks; of a mask it is told how many keys count."""
    (B, Q), M = query_BQHD.shape[:2], key_BMHD.shape[1]
    spare, length_B, bias = -M % KEY_BLOCK, None, None
    if mask_BM is not None:
        # Zero forward, and nothing comes back, whatever a kernel leaves where no key counts.
        kept = mask_BM[:, :, None, None]
        key_BMHD, value_BMHD = (jnp.where(kept, x, jnp.zeros_like(x)) for x in (key_BMHD, value_BMHD))
        # Where no token is left the first one, which is zero now, counts: a softmax over nothing is 0 / 0, and NaN
        # times the gradient 0 of a result that is thrown away is NaN.
        length_B = jnp.maximum(mask_BM.sum(axis=1, dtype=jnp.int32), 1)
    elif spare:
        length_B = jnp.full(B, M, jnp.int32)
    if bias_BM is not None:  # taken in full size only, in the type of the queries
        bias_BM = jnp.pad(bias_BM.astype(query_BQHD.dtype), ((0, 0), (0, spare)))
        bias = jnp.broadcast_to(bias_BM[:, None, None, :], (B, 1, Q, M + spare))
    key, value = (jnp.pad(x, ((0, 0), (0, spare), (0, 0), (0, 0))) for x in (key_BMHD, value_BMHD))
    return jax.nn.dot_product_attention(
        query_BQHD, key, value, bias=bias, key_value_seq_lengths=length_B, implementation=FUSED
    )


def present_first(
    mask_BN: Bool[Array, "b n"], *told: Shaped[Array, "b n *_"]
) -> tuple[Bool[Array, "b n"], *tuple[Shaped[Array, "b n *_"], ...]]:
    """The mask and what is told of its N tokens (or neighbours), in another order: those present first, otherwise as
    before."""
    order_BN = jnp.argsort(~mask_BN, axis=1, stable=True)
    in_order = jax.vmap(lambda x, order_N: x.at[order_N].get(mode="promise_in_bounds", unique_indices=True))
    return tuple(in_order(x, order_BN) for x in (mask_BN, *told))


def choose(wanted: Wanted, dtype: str, queries: int, tokens: int, head_width: int) -> Choice:
    """The implementation that is wanted; `auto` decides by the default device and by the shapes."""
    if wanted in ("einsum", "xla"):
        return Choice(wanted, "its settings say so")
    if wanted == "auto":
        backend = jax.default_backend()
        if backend == "cpu" and queries * tokens >= CACHED_SCORES:
            return Choice("mapped", "CPUs, many scores: a few images after the others")
        if backend == "cpu":
            return Choice("einsum", "CPUs, few scores")
        if backend != "gpu" or not _has_flash():
            return Choice(
                "xla", "cuDNN's fused attention runs on NVIDIA GPUs of compute capability 8.0 (Ampere) or more"
            )
    if dtype != "bfloat16":
        return Choice("xla", f"cuDNN's fused attention takes half precision: dtype is {dtype!r}")
    if head_width % 8 or head_width > 128:
        return Choice("xla", f"cuDNN's fused attention takes heads of 8, 16, ... 128 channels, not of {head_width}")
    if queries % 2:
        return Choice("xla", f"cuDNN's fused attention takes even numbers of queries, not {queries}")
    return Choice("cudnn", "fused: no scores in memory")


def attentions(config: UNetConfig, side: int, text_tokens: int, neighbours: int) -> tuple[Attention, ...]:
    """The attentions of a U-Net that is given images of `side` pixels, by level; blocks of one level have the same.

    The pooling of the text ("attention"), of one query, is not among them: plain products serve it everywhere.
    """
    found = []
    for i, level in enumerate(config.levels):
        pixels, width = (side // config.patch // 2 ** (i + config.efficient)) ** 2, config.head_width_at(i)
        tokens = {
            "self and text": pixels + text_tokens if level.self_attention else 0,
            "text alone": text_tokens if level.text_attention else 0,
            "neighbours": neighbours * pixels if level.neighbour_attention else 0,
        }
        for kind, M in tokens.items():
            if M:
                choice = choose(config.attention, config.dtype, pixels, M, width)
                found.append(Attention(f"level {i}, {kind}", pixels, M, width, choice))
    return tuple(found)


def _has_flash() -> bool:
    """Whether the default device is an NVIDIA GPU that cuDNN's flash attention runs on."""
    capability = getattr(jax.devices()[0], "compute_capability", "0")  # "9.0" on NVIDIA, "gfx90a" on AMD
    return capability.replace(".", "").isdecimal() and float(capability) >= 8.0


def heads(x: Float[Array, "*b c"], head_width: int) -> Float[Array, "*b h d"]:
    """Splits the channels into heads."""
    return x.reshape(*x.shape[:-1], -1, head_width)


def text_group_norm(
    config: UNetConfig, name: str, text_BLD: Float[Array, "b l d"], text_mask_BL: Bool[Array, "b l"]
) -> Float[Array, "b l d"]:
    """Group norm over channels *and* tokens of a text; masked tokens have no part in mean and variance."""
    # A text without tokens keeps them all here, so that nothing is divided by zero; its tokens stay masked later.
    counted_BL = text_mask_BL | ~text_mask_BL.any(axis=-1, keepdims=True)
    norm = nn.GroupNorm(config.groups, epsilon=config.norm_epsilon, dtype=jnp.float32, name=name)
    return norm(text_BLD.astype(jnp.float32), mask=jnp.broadcast_to(counted_BL[..., None], text_BLD.shape))


class SelfTextAttention(nn.Module):
    """Equation (1): pixels attend to all pixels and to the text, if there is one; with `text_alone` equation (2)."""

    config: UNetConfig
    head_width: int
    text_alone: bool = False

    @nn.compact
    def __call__(
        self,
        x_BHWC: Float[Array, "b h w c"],
        text_BLD: Float[Array, "b l d"] | None,
        text_mask_BL: Bool[Array, "b l"] | None,
    ) -> Float[Array, "b h w c"]:
        config, dtype, (B, H, W, C) = self.config, jnp.dtype(self.config.dtype), x_BHWC.shape
        x_BMC = group_norm(config, "norm")(x_BHWC).reshape(B, H * W, C)

        def key_value() -> Array:
            normed_BLD = text_BLD
            if config.text_norm == "layer":
                normed_BLD = layer_norm(config, "text_norm")(text_BLD)
            elif config.text_norm == "group":
                normed_BLD = text_group_norm(config, "text_norm", text_BLD, text_mask_BL)
            return nn.Dense(2 * C, dtype=dtype, name="text_kv")(normed_BLD)

        tokens, mask_BM = 0 if self.text_alone else H * W, text_mask_BL
        if text_BLD is not None:
            key, value = jnp.split(once(self, "key_value", key_value), 2, axis=-1)
            tokens += key.shape[1]
        implementation = choose(config.attention, config.dtype, H * W, tokens, self.head_width).implementation
        if text_BLD is not None and implementation == "cudnn":
            mask_BM, key, value = present_first(mask_BM, key, value)
        if self.text_alone:
            query = nn.Dense(C, dtype=dtype, name="query")(x_BMC)
        else:
            query, pixel_key, pixel_value = jnp.split(nn.Dense(3 * C, dtype=dtype, name="qkv")(x_BMC), 3, axis=-1)
            if text_BLD is None:
                key, value = pixel_key, pixel_value
            else:
                key = jnp.concatenate([pixel_key, key], axis=1)
                value = jnp.concatenate([pixel_value, value], axis=1)
                mask_BM = jnp.concatenate([jnp.ones((B, H * W), bool), mask_BM], axis=1)
        out = attend(*(heads(x, self.head_width) for x in (query, key, value)), mask_BM, implementation)
        out = nn.Dense(C, kernel_init=nn.initializers.zeros, dtype=dtype, name="out")(out.reshape(B, H * W, C))
        if self.text_alone:
            out = jnp.where(text_mask_BL.any(axis=-1)[:, None, None], out, jnp.zeros_like(out))
        return x_BHWC + out.reshape(B, H, W, C)


class NeighbourAttention(nn.Module):
    """Equation (3), in two halves: `remember` the neighbours once, then attend to the memory at every step."""

    config: UNetConfig
    width: int
    head_width: int

    def setup(self) -> None:
        dtype = jnp.dtype(self.config.dtype)
        norm = {"epsilon": self.config.norm_epsilon, "dtype": jnp.float32}
        self.query_norm = nn.GroupNorm(self.config.groups, **norm)
        self.memory_norm = nn.GroupNorm(self.config.groups, **norm)
        self.query = nn.Dense(self.width, dtype=dtype)
        self.key_value = nn.Dense(2 * self.width, dtype=dtype)
        self.out = nn.Dense(self.width, kernel_init=nn.initializers.zeros, dtype=dtype)

    def remember(self, features_NHWC: Float[Array, "n h w c"], num_neighbours: int) -> NeighbourMemory:
        """DStack's features of N = B x K neighbours (K varies fastest) as keys and values."""
        N, H, W, C = features_NHWC.shape
        features = self.memory_norm(features_NHWC.astype(jnp.float32))
        features = features.reshape(N // num_neighbours, num_neighbours, H * W, C)
        key, value = jnp.split(self.key_value(features), 2, axis=-1)
        return NeighbourMemory(heads(key, self.head_width), heads(value, self.head_width))

    def __call__(
        self,
        f_BHWC: Float[Array, "b h w c"],
        memory: NeighbourMemory,
        nbr_mask_BK: Bool[Array, "b k"],
        nbr_weight_BK: Float[Array, "b k"] | None = None,
    ) -> Float[Array, "b h w c"]:
        """`nbr_weight_BK` are numbers of at least 0, of which only the ratios matter; None: all are 1."""
        B, H, W, C = f_BHWC.shape
        _, K, M, *_ = memory.key_BKMHD.shape
        query = self.query(self.query_norm(f_BHWC.astype(jnp.float32)).reshape(B, H * W, C))
        key, value, bias_BM = memory.key_BKMHD, memory.value_BKMHD, None
        config = self.config
        implementation = choose(config.attention, config.dtype, H * W, K * M, self.head_width).implementation
        if nbr_weight_BK is not None:
            nbr_mask_BK = nbr_mask_BK & (nbr_weight_BK > 0.0)  # exactly left out
        if implementation == "cudnn":
            weights = () if nbr_weight_BK is None else (nbr_weight_BK,)
            nbr_mask_BK, key, value, *weights = present_first(nbr_mask_BK, key, value, *weights)
            nbr_weight_BK = weights[0] if weights else None
        if nbr_weight_BK is not None:
            bias_BM = jnp.log(jnp.where(nbr_mask_BK, nbr_weight_BK, 1.0)).repeat(M, axis=1)
        key, value = (x.reshape(B, K * M, *x.shape[3:]) for x in (key, value))
        mask_BM = nbr_mask_BK.repeat(M, axis=1)
        out = attend(heads(query, self.head_width), key, value, mask_BM, implementation, bias_BM)
        out_BHWC = self.out(out.reshape(B, H * W, C)).reshape(B, H, W, C)
        has_neighbour_B = nbr_mask_BK.any(axis=1)
        return f_BHWC + jnp.where(has_neighbour_B[:, None, None, None], out_BHWC, jnp.zeros_like(out_BHWC))
