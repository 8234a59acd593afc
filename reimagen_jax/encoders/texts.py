"""Texts as networks take them: tokens for an encoder that is trained along, or embedded by a frozen one."""

from typing import Any, no_type_check

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, BFloat16, Bool, Float32, Int32

from reimagen_jax.encoders.settings import TextConfig
from reimagen_jax.encoders.tokenizers import ByteTokenizer

AnyArray = Array | np.ndarray | jax.ShapeDtypeStruct
"""Of JAX (on devices), of numpy (on the host), or the shape of one."""


@no_type_check  # JAX unflattens a tree with whatever stands for its leaves: places, axes, numbers
@flax.struct.dataclass
class Embedded:
    """Texts as a frozen encoder tells them: an embedding for each of L tokens; any axes before that."""

    embedding_BLD: BFloat16[AnyArray, "*b l d"] | Float32[AnyArray, "*b l d"]
    mask_BL: Bool[AnyArray, "*b l"]
    """False where there is no token. Padding that counts (`text.frozen.padding` "kept") is a token too."""
    caption_BC: Int32[AnyArray, "*b c"] | None = None
    """What the texts say, as bytes (`ByteTokenizer`), for people: no network reads it."""


Texts = Int32[AnyArray, "... _"] | Embedded
"""Texts as a system takes them: tokens, 0 is padding, for an encoder trained along; or embedded by a frozen one."""


def abstract_texts(config: TextConfig, *lead: int, **place: Any) -> Texts:
    """The shapes of texts with these leading axes, as a system takes them; `place` is their `sharding`, if any."""
    frozen = config.frozen
    if frozen is None:
        return jax.ShapeDtypeStruct((*lead, config.max_bytes), jnp.int32, **place)
    shape = (*lead, frozen.max_tokens)
    return Embedded(
        jax.ShapeDtypeStruct((*shape, frozen.width), jnp.bfloat16, **place),
        jax.ShapeDtypeStruct(shape, jnp.bool_, **place),
    )


def to_captions(texts_B: Texts, config: TextConfig) -> list[str]:
    """What a batch of texts says, for people."""
    tokenizer = ByteTokenizer(config.max_bytes)
    said_BC = texts_B.caption_BC if isinstance(texts_B, Embedded) else texts_B
    return [tokenizer.decode(np.asarray(tokens_L)) for tokens_L in said_BC]


def scattered(texts_N: Texts, mask: np.ndarray) -> Texts:
    """Leaves [*mask.shape, ...]: the texts where `mask` is true, in order, and zeros elsewhere.

    `texts_N` has at least as many texts; they tell the shapes, also where none is wanted.
    """
    count = int(mask.sum())

    def scatter(leaf: np.ndarray) -> np.ndarray:
        out = np.zeros((*mask.shape, *leaf.shape[1:]), leaf.dtype)
        out[mask] = leaf[:count]
        return out

    return jax.tree.map(scatter, texts_N)
