"""What RCG's systems are trained on and asked for, as arrays."""

from typing import no_type_check

import flax.struct
from jaxtyping import Bool, Float, Int32, UInt8

from reimagen_jax.encoders.texts import AnyArray

NO_CLASS = -1


@no_type_check  # JAX unflattens a tree with whatever stands for its leaves: places, axes, numbers
@flax.struct.dataclass
class PictureBatch:
    """B pictures with the numbers of their classes."""

    image_BHWC: UInt8[AnyArray, "b h w 3"]
    class_B: Int32[AnyArray, " b"]
    """`NO_CLASS` where none is known."""


@no_type_check
@flax.struct.dataclass
class RdmInputs:
    """B representations to draw."""

    class_B: Int32[AnyArray, " b"]
    """`NO_CLASS` draws of any."""
    text_weight_B: Float[AnyArray, " b"]


@no_type_check
@flax.struct.dataclass
class GeneratorInputs:
    """B images to draw, each from the representation that it starts from or from those of its neighbours, or from its
    class."""

    class_B: Int32[AnyArray, " b"]
    """`NO_CLASS` draws of any."""
    text_weight_B: Float[AnyArray, " b"]
    start_BD: Float[AnyArray, "b d"]
    """D is 0 where it draws from no representation."""
    given_B: Bool[AnyArray, " b"]
    """True where there is such a representation."""
    nbr_image_BKHWC: UInt8[AnyArray, "b k r r 3"]
    """K may be 0: then no image is looked at."""
    nbr_weight_BK: Float[AnyArray, "b k"]
    """Of their representations in the mean; 0 where there is no neighbour."""
