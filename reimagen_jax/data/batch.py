"""What a training step reads: images as bytes, captions as tokens, neighbours with a mask."""

import flax.struct
from jaxtyping import Array, Bool, Int32, UInt8


@flax.struct.dataclass
class Batch:
    """B examples with up to K neighbours each; arrays of numpy (from the loader) or of JAX (on devices)."""

    image_BHWC: UInt8[Array, "b h w 3"]
    """Whole, or the crops that a super-resolution stage is trained on."""
    tokens_BL: Int32[Array, "b l"]
    """Caption tokens; 0 is padding."""
    nbr_image_BKHWC: UInt8[Array, "b k h w 3"]
    nbr_tokens_BKL: Int32[Array, "b k l"]
    nbr_mask_BK: Bool[Array, "b k"]
    """True where there is a neighbour."""
