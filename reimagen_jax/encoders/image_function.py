"""Encoders of images as pure functions: differentiable in the image, whatever its size."""

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import jax
from jaxtyping import Array, Float


class ImageFunction(NamedTuple):
    """(params, images) -> vectors."""

    embed: Callable[[Any, Float[Array, "b r r 3"]], Float[Array, "b d"]]
    """Of images in [-1, 1] at `resolution`."""
    params: Any
    resolution: int

    def __call__(self, params: Any, x_BHWC: Float[Array, "b h w 3"]) -> Float[Array, "b d"]:
        """Vectors of images in [-1, 1] of any size, which are resized (cubic; smoothed on the way down)."""
        return self.embed(params, resized(x_BHWC, self.resolution))


def resized(x_BHWC: Float[Array, "b h w 3"], side: int) -> Float[Array, "b r r 3"]:
    """Images of any size at this side (cubic; smoothed on the way down)."""
    if x_BHWC.shape[1:3] == (side, side):
        return x_BHWC
    return jax.image.resize(x_BHWC, (len(x_BHWC), side, side, 3), "cubic")


class ImageEncoder(Protocol):
    """A `VectorEncoder` whose encoding of images can be differentiated."""

    @property
    def fingerprint(self) -> str:
        """Checksum of all that the vectors depend on."""
        ...

    def image_function(self) -> ImageFunction:
        """The encoder of images as a function."""
        ...
