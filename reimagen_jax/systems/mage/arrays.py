"""What the tokenizer and MAGE are trained on and asked for, as arrays."""

from typing import no_type_check

import flax.struct
from jaxtyping import Float, UInt8

from reimagen_jax.encoders.texts import AnyArray
from reimagen_jax.systems.rcg.arrays import GeneratorInputs


@no_type_check  # JAX unflattens a tree with whatever stands for its leaves: places, axes, numbers
@flax.struct.dataclass
class ImageInputs:
    """B images to be put together again."""

    image_BHWC: UInt8[AnyArray, "b h w 3"]


@no_type_check
@flax.struct.dataclass
class MageInputs(GeneratorInputs):
    """B images to draw by parallel decoding."""

    temperature_B: Float[AnyArray, " b"]
