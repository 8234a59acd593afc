"""Images as files have them, as models read them, and as one stage hands them on to the next."""

import jax.numpy as jnp
from jaxtyping import Array, Float, UInt8

from reimagen_jax.systems import finite
from reimagen_jax.systems.settings import HandedOn


def to_model(image: UInt8[Array, "*b h w c"]) -> Float[Array, "*b h w c"]:
    """Bytes to [-1, 1]."""
    return image.astype(jnp.float32) / 127.5 - 1.0


def to_floats(image: Float[Array, "*b h w c"]) -> Float[Array, "*b h w c"]:
    """Clipped to [-1, 1], as in `to_bytes`, and not rounded."""
    return jnp.clip(image, -1.0, 1.0)


def to_bytes(image: Float[Array, "*b h w c"]) -> UInt8[Array, "*b h w c"]:
    """[-1, 1] to bytes. What is not finite has none: it is marked."""
    finite.mark(image)
    return jnp.round((jnp.clip(image, -1.0, 1.0) + 1.0) * 127.5).astype(jnp.uint8)


def handed_on(image: Float[Array, "*b h w c"], form: HandedOn) -> UInt8[Array, "*b h w c"] | Float[Array, "*b h w c"]:
    """Drawn images as another stage is to have them."""
    return to_floats(image) if form == "floats" else to_bytes(image)
