"""T5's encoder (version 1.1, small to XXL, and the original), as Hugging Face stores its weights.

  x = E[token],                                                                                            (1)
  x = x + W_o attend(h W_q, h W_k, h W_v),   h = norm(x)                                                   (2)
  x = x + W_down (gelu(h W_gate) * h W_up),  h = norm(x)          (relu(h W_up) in the original)           (3)
  norm(x) = scale x / sqrt(mean(x^2) + epsilon),  once more at the end                                     (4)
  attend = softmax(q k' + b[bucket(m - q)]) v    not scaled; the bias b is shared by all blocks            (5)
  bucket(d) = B/2 [d > 0] + |d| where |d| < e = B/4,
              else B/2 [d > 0] + min(e + e log(|d| / e) / log(D / e), B/2 - 1)                             (6)

with B = 32 buckets up to the distance D = 128; nothing has a bias of the usual kind. The sum x, norms and softmax are
float32, matrix products are of `dtype`. Raffel et al. 2020 (arXiv 1910.10683); v1.1: Shazeer 2020 (arXiv 2002.05202).
Imagen and Re-Imagen read their text through the frozen XXL encoder (4.8 billion parameters, width 4096).
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Bool, Float, Int32

from reimagen_jax import randomness
from reimagen_jax.encoders.frozen import (
    WITHOUT_EFFECT,
    TextEncoder,
    check_dtype,
    identify,
    jitted,
    placement,
    read_settings,
)
from reimagen_jax.encoders.hf_tokenizers import open_t5_tokenizer
from reimagen_jax.errors import require
from reimagen_jax.nets.transformer import Dtype, biased_attention
from reimagen_jax.pretrained import published_settings
from reimagen_jax.pretrained.safetensors_reader import KERNEL, Checkpoint, Source, fingerprint, load, open_checkpoint
from reimagen_jax.sharding import Rules

RULES: Rules = (
    # Heads and hidden channels are split, so a block needs one sum over devices after (2) and one after (3).
    (r"(query|key|value|gate|up)/kernel$", P("fsdp")),
    (r"(out|down)/kernel$", P("fsdp", None)),
    (r"scale$|relative_bias", P()),
)
"""How parameters are split over a mesh ("data", "fsdp")."""

DECODER = (r"^decoder\.", r"^lm_head\.")
"""What a whole T5 has besides its encoder."""


@dataclass(frozen=True)
class T5Config:
    """The sizes of an encoder; the defaults are those of v1.1 XXL."""

    vocabulary: int = 32128
    width: int = 4096
    depth: int = 24
    heads: int = 64
    head_width: int = 64
    mlp_width: int = 10240
    gated: bool = True
    """(3) as in version 1.1; false as in the original."""
    buckets: int = 32
    max_distance: int = 128
    epsilon: float = 1e-6


V1_1 = {
    "small": T5Config(width=512, depth=8, heads=6, mlp_width=1024),
    "base": T5Config(width=768, depth=12, heads=12, mlp_width=2048),
    "large": T5Config(width=1024, depth=24, heads=16, mlp_width=2816),
    "xl": T5Config(width=2048, depth=24, heads=32, mlp_width=5120),
    "xxl": T5Config(),
}
"""The published sizes of version 1.1: encoders of 35M, 110M, 341M, 1.2B and 4.8B parameters."""

DEFAULTS = {"vocab_size": 32128, "d_model": 512, "num_layers": 6, "num_heads": 8, "d_kv": 64, "d_ff": 2048}
DEFAULTS |= {"relative_attention_num_buckets": 32, "relative_attention_max_distance": 128}
DEFAULTS |= {"layer_norm_epsilon": 1e-6, "feed_forward_proj": "relu", "model_type": None}
"""What transformers leaves out of `config.json`: the sizes of the original small one."""


LIMITS = dict.fromkeys(("vocab_size", "d_model", "num_heads", "d_kv", "d_ff"), published_settings.LARGEST)
LIMITS |= {"num_layers": 1000, "relative_attention_num_buckets": 4096, "relative_attention_max_distance": 2**20}
FIXED = {"model_type": "t5", "is_decoder": False}
HARMLESS = (
    *("dropout_rate", "classifier_dropout", "initializer_factor", "tie_word_embeddings", "num_decoder_layers"),
    *("scale_decoder_outputs", "use_cache", "n_positions", "output_past", *WITHOUT_EFFECT),
)
"""About training, the decoder, or nothing any more."""


def t5_config(theirs: Mapping[str, Any]) -> T5Config:
    """Our settings for a `config.json` of a T5. Raises `UserError` naming what makes it another network."""
    theirs = DEFAULTS | dict(theirs)
    gated = theirs["feed_forward_proj"] == "gated-gelu"
    fixed = FIXED | {"dense_act_fn": "gelu_new" if gated else "relu", "is_gated_act": gated}
    problems = published_settings.problems(theirs, used=DEFAULTS, fixed=fixed, harmless=HARMLESS)
    problems += published_settings.not_counts(theirs, LIMITS)
    problems += published_settings.not_small(theirs, "layer_norm_epsilon")
    if theirs["feed_forward_proj"] not in ("gated-gelu", "relu"):
        problems.append(f"feed_forward_proj is {theirs['feed_forward_proj']!r}, not 'gated-gelu' or 'relu'")
    require(not problems, "config.json is not that of a T5 encoder: " + "; ".join(problems))
    buckets, farthest = theirs["relative_attention_num_buckets"], theirs["relative_attention_max_distance"]
    require(
        buckets % 4 == 0 and farthest > buckets // 4,
        f"config.json: {buckets} relative_attention_num_buckets do not reach {farthest} tokens",
    )
    return T5Config(
        vocabulary=theirs["vocab_size"],
        width=theirs["d_model"],
        depth=theirs["num_layers"],
        heads=theirs["num_heads"],
        head_width=theirs["d_kv"],
        mlp_width=theirs["d_ff"],
        gated=gated,
        buckets=theirs["relative_attention_num_buckets"],
        max_distance=theirs["relative_attention_max_distance"],
        epsilon=theirs["layer_norm_epsilon"],
    )


def relative_buckets(length: int, buckets: int = 32, max_distance: int = 128) -> np.ndarray:
    """Equation (6) for every query and token of a text: int32[length, length]."""
    distance_QM = np.arange(length)[None, :] - np.arange(length)[:, None]
    half, exact = buckets // 2, buckets // 4
    # In float32, as the networks were trained: a distance at the edge of a bucket must not fall into its neighbour.
    far = np.log(np.maximum(np.abs(distance_QM), 1).astype(np.float32) / exact) / math.log(max_distance / exact)
    far = np.minimum(exact + (far * (half - exact)).astype(np.int32), half - 1)
    near = np.abs(distance_QM)
    return (half * (distance_QM > 0) + np.where(near < exact, near, far)).astype(np.int32)


class Block(nn.Module):
    """Equations (2) and (3)."""

    config: T5Config
    dtype: Dtype

    @nn.compact
    def __call__(
        self, x_BLD: Float[Array, "b l d"], bias_BHLL: Float[Array, "1 h l l"], mask_BL: Bool[Array, "b l"]
    ) -> Float[Array, "b l d"]:
        config, (B, L, D) = self.config, x_BLD.shape
        inner = config.heads * config.head_width

        h = self.norm("norm1")(x_BLD)
        query, key, value = (
            self.dense(inner, name)(h).reshape(B, L, config.heads, config.head_width)
            for name in ("query", "key", "value")
        )
        out = biased_attention(query, key, value, bias_BHLL, mask_BL, scale=1.0)  # (5)
        x_BLD = x_BLD + self.dense(D, "out")(out.reshape(B, L, inner)).astype(jnp.float32)  # (2)

        h = self.norm("norm2")(x_BLD)
        up = self.dense(config.mlp_width, "up")(h)
        hidden = nn.gelu(self.dense(config.mlp_width, "gate")(h)) * up if config.gated else nn.relu(up)
        return x_BLD + self.dense(D, "down")(hidden).astype(jnp.float32)  # (3)

    def norm(self, name: str) -> nn.RMSNorm:
        """Equation (4)."""
        return nn.RMSNorm(self.config.epsilon, dtype=jnp.float32, name=name)

    def dense(self, width: int, name: str) -> nn.Dense:
        """A matrix product in `dtype`, of parameters in `dtype`."""
        return nn.Dense(width, use_bias=False, dtype=self.dtype, param_dtype=self.dtype, name=name)


class T5Encoder(nn.Module):
    """Token ids and their mask to embeddings, in `dtype`."""

    config: T5Config
    dtype: Dtype = "float32"

    def setup(self) -> None:
        config = self.config
        self.embed = nn.Embed(config.vocabulary, config.width, dtype=self.dtype, param_dtype=self.dtype)
        self.relative_bias = nn.Embed(config.buckets, config.heads)
        self.block = [Block(config, self.dtype) for _ in range(config.depth)]
        self.norm = nn.RMSNorm(config.epsilon, dtype=jnp.float32)

    def __call__(self, tokens_BL: Int32[Array, "b l"], mask_BL: Bool[Array, "b l"]) -> Float[Array, "b l width"]:
        x_BLD, bias_BHLL = self.begin(tokens_BL)
        for block in self.block:
            x_BLD = block(x_BLD, bias_BHLL, mask_BL)
        return self.end(x_BLD)

    def begin(self, tokens_BL: Int32[Array, "b l"]) -> tuple[Float[Array, "b l width"], Float[Array, "1 h l l"]]:
        """What the first block takes: embeddings, and the bias of all blocks."""
        config = self.config
        bucket_LL = relative_buckets(tokens_BL.shape[1], config.buckets, config.max_distance)
        bias_LLH = self.relative_bias(bucket_LL)
        return self.embed(tokens_BL).astype(jnp.float32), bias_LLH.transpose(2, 0, 1)[None]  # (1)

    def end(self, x_BLD: Float[Array, "b l width"]) -> Float[Array, "b l width"]:
        """What becomes of the last block's result."""
        return self.norm(x_BLD).astype(self.dtype)


def block_by_block(network: T5Encoder, mesh: Mesh | None = None) -> Callable[..., jax.Array]:
    """`network.apply` as a function (params, tokens_BL, mask_BL), compiled: one block, which runs for all of them.

    One program of all blocks takes as many times longer to compile, and CPUs, which multiply in float32, would convert
    every block's bfloat16 weights before the first one runs: 17 GiB more for XXL.
    """
    block = Block(network.config, network.dtype)
    begin = jax.jit(lambda params, tokens: network.apply({"params": params}, tokens, method="begin"))
    step = jax.jit(lambda params, x, bias, mask: block.apply({"params": params}, x, bias, mask))
    end = jitted(lambda params, x: network.apply({"params": params}, x, method="end"), mesh)

    def apply(params: Any, tokens_BL: Any, mask_BL: Any) -> jax.Array:
        x_BLD, bias_BHLL = begin({name: params[name] for name in ("embed", "relative_bias")}, tokens_BL)
        for i in range(network.config.depth):
            x_BLD = step(params[f"block_{i}"], x_BLD, bias_BHLL, mask_BL)
        return end({"norm": params["norm"]}, x_BLD)

    return apply


BLOCK_NAMES = {
    "norm1/scale": "layer.0.layer_norm",
    "query/kernel": "layer.0.SelfAttention.q",
    "key/kernel": "layer.0.SelfAttention.k",
    "value/kernel": "layer.0.SelfAttention.v",
    "out/kernel": "layer.0.SelfAttention.o",
    "norm2/scale": "layer.1.layer_norm",
    "gate/kernel": "layer.1.DenseReluDense.wi_0",
    "up/kernel": "layer.1.DenseReluDense.wi_1",
    "down/kernel": "layer.1.DenseReluDense.wo",
}


def source(path: str, config: T5Config) -> Source:
    """The tensor there that is the parameter `path` here."""
    if path == "embed/embedding":
        return Source("shared.weight", aliases=("encoder.embed_tokens.weight",))
    if path == "relative_bias/embedding":
        return Source("encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight")
    if path == "norm/scale":
        return Source("encoder.final_layer_norm.weight")
    block, part = path.split("/", 1)
    name = BLOCK_NAMES[part] if config.gated or part != "up/kernel" else "layer.1.DenseReluDense.wi"
    axes = KERNEL if part.endswith("kernel") else None
    return Source(f"encoder.block.{block.removeprefix('block_')}.{name}.weight", axes)


def abstract_params(config: T5Config, dtype: Dtype) -> Any:
    """Shapes and types of the parameters; nothing is computed."""
    tokens = jax.ShapeDtypeStruct((1, 1), jnp.int32)
    mask = jax.ShapeDtypeStruct((1, 1), jnp.bool_)
    return jax.eval_shape(T5Encoder(config, dtype).init, randomness.key(0), tokens, mask)["params"]


def load_params(checkpoint: Checkpoint, config: T5Config, dtype: Dtype, mesh: Mesh | None = None) -> Any:
    """The encoder's parameters out of a T5's or a T5 encoder's weights, split over `mesh` as `RULES` say."""
    expected = abstract_params(config, dtype)
    place = placement(mesh, RULES)
    return load(checkpoint, expected, lambda path: source(path, config), ignore=DECODER, place=place)


def open(
    folder: str | Path,
    *,
    dtype: Dtype = "bfloat16",
    max_tokens: int = 128,
    mesh: Mesh | None = None,
    tokenizer: str | Path | None = None,
    batch_size: int = 32,
) -> TextEncoder:
    """A T5 encoder from a folder as Hugging Face publishes it: `config.json`, safetensors, tokenizer.

    The tokenizer is looked for in `tokenizer`, else in `folder`, else in the folder `tokenizer` beside it (diffusers'
    layout). With a mesh ("data", "fsdp"), weights are split over "fsdp" and texts over "data". Raises `UserError` for
    what is missing, and naming everything that does not fit.
    """
    folder = Path(folder)
    check_dtype(dtype)
    require(max_tokens >= 2, f"max_tokens {max_tokens}: a text needs at least one token and its end")
    config = t5_config(read_settings(folder))
    words = open_t5_tokenizer(folder if tokenizer is None else tokenizer)
    words.check_fits(config.vocabulary)
    checkpoint = open_checkpoint(folder)
    params = load_params(checkpoint, config, dtype, mesh)
    names = [source(path, config).found(checkpoint) for path in flatten_dict(params, sep="/")]
    return TextEncoder(
        width=config.width,
        max_tokens=max_tokens,
        fingerprint=identify("t5", config, dtype, max_tokens, words.fingerprint, fingerprint(checkpoint, names)),
        dtype=dtype,
        tokenizer=words,
        apply=block_by_block(T5Encoder(config, dtype), mesh),
        params=params,
        batch_size=batch_size,
        mesh=mesh,
    )
