"""What a training step reads: images as bytes, captions as tokens or embeddings, neighbours with a mask."""

from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
from jaxtyping import Array, BFloat16, Bool, Float32, Int32, UInt8

from reimagen_jax.config import TextConfig


@flax.struct.dataclass
class Embedded:
    """Texts as a frozen encoder tells them: an embedding for each of L tokens; any axes before that."""

    embedding_BLD: BFloat16[Array, "*b l d"] | Float32[Array, "*b l d"]
    mask_BL: Bool[Array, "*b l"]
    """False where there is no token. Padding that counts (`text.frozen.padding` "kept") is a token too."""
    caption_BC: Int32[Array, "*b c"] | None = None
    """What the texts say, as bytes (`ByteTokenizer`), for people: no network reads it."""


Texts = Int32[Array, "... _"] | Embedded
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


@flax.struct.dataclass
class Batch:
    """B examples with up to K neighbours each; arrays of numpy (from the loader) or of JAX (on devices)."""

    image_BHWC: UInt8[Array, "b h w 3"]
    """Whole, or the crops that a super-resolution stage is trained on."""
    tokens_BL: Texts
    """The captions."""
    nbr_image_BKHWC: UInt8[Array, "b k h w 3"]
    nbr_tokens_BKL: Texts
    nbr_mask_BK: Bool[Array, "b k"]
    """True where there is a neighbour."""
