"""What unCLIP's systems are trained on and asked for, as arrays."""

from typing import no_type_check

import flax.struct
from jaxtyping import Bool, Float, Int32, UInt8

from reimagen_jax.encoders.texts import AnyArray


@no_type_check  # JAX unflattens a tree with whatever stands for its leaves: places, axes, numbers
@flax.struct.dataclass
class PairBatch:
    """B pictures with their captions."""

    image_BHWC: UInt8[AnyArray, "b h w 3"]
    tokens_BL: Int32[AnyArray, "b l"]
    empty_BL: Int32[AnyArray, "b l"]
    """The empty text, what a dropped one is."""


@no_type_check
@flax.struct.dataclass
class ImageBatch:
    """B pictures, whole or the crops that an upsampler is trained on."""

    image_BHWC: UInt8[AnyArray, "b h w 3"]


@no_type_check
@flax.struct.dataclass
class PriorInputs:
    """B embeddings to draw."""

    tokens_BL: Int32[AnyArray, "b l"]
    null_BL: Int32[AnyArray, "b l"]
    """What guidance leads away from: the empty text, or a negative prompt."""
    text_weight_B: Float[AnyArray, " b"]


@no_type_check
@flax.struct.dataclass
class DecoderInputs:
    """B images to draw, each from the embedding that it starts from or from that of its neighbours."""

    tokens_BL: Int32[AnyArray, "b l"]
    null_BL: Int32[AnyArray, "b l"]
    text_weight_B: Float[AnyArray, " b"]
    start_BD: Float[AnyArray, "b d"]
    given_B: Bool[AnyArray, " b"]
    """True where there is such an embedding."""
    nbr_image_BKHWC: UInt8[AnyArray, "b k r r 3"]
    """K may be 0: then no image is looked at."""
    nbr_weight_BK: Float[AnyArray, "b k"]
    """Of their embeddings in the mean; 0 where there is no neighbour."""


@no_type_check
@flax.struct.dataclass
class UpsamplerInputs:
    """B images to enlarge."""

    low_res_BHWC: UInt8[AnyArray, "b low low 3"] | Float[AnyArray, "b low low 3"]
