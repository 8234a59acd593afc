"""Two towers, of texts and of images, into one space: all that those who train them, or ask them, know of them."""

from collections.abc import Sequence
from typing import Any, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int32, Key, UInt8


@runtime_checkable
class Tokenizer(Protocol):
    """Texts as rows of ids, all of one length."""

    def encode(self, texts: Sequence[str]) -> np.ndarray:
        """int32[N, L]."""
        ...


@runtime_checkable
class Towers(Protocol):
    """Pure functions of the towers' parameters."""

    @property
    def width(self) -> int:
        """D: values of a vector."""
        ...

    def init(self, key: Key[Array, ""]) -> Any:
        """Random parameters."""
        ...

    def embed_texts(self, params: Any, tokens_BL: Int32[Array, "b l"]) -> Float[Array, "b d"]:
        """Unit vectors of rows of ids."""
        ...

    def embed_images(self, params: Any, x_BHWC: Float[Array, "b h w 3"]) -> Float[Array, "b d"]:
        """Unit vectors of images in [-1, 1]."""
        ...

    def tokenizer(self) -> Tokenizer:
        """How texts become rows of ids."""
        ...


def unit(x_BD: Float[Array, "b d"]) -> Float[Array, "b d"]:
    """Vectors of length 1; the gradient is finite at 0, too."""
    return x_BD * jax.lax.rsqrt(jnp.maximum((x_BD**2).sum(axis=-1, keepdims=True), 1e-12))


def as_floats(image_BHWC: UInt8[Array, "b h w 3"]) -> Float[Array, "b h w 3"]:
    """Bytes in [-1, 1]."""
    return image_BHWC.astype(jnp.float32) / 127.5 - 1.0
