"""What Re-Imagen is trained on and asked for, as arrays; and how text and neighbours are dropped from a condition."""

from typing import no_type_check

import flax.struct
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, UInt8

from reimagen_jax.encoders.texts import AnyArray, Texts
from reimagen_jax.nets.unet import Condition


@no_type_check  # see `Embedded`
@flax.struct.dataclass
class Batch:
    """B examples with up to K neighbours each."""

    image_BHWC: UInt8[AnyArray, "b h w 3"]
    """Whole, or the crops that a super-resolution stage is trained on."""
    tokens_BL: Texts
    """The captions."""
    nbr_image_BKHWC: UInt8[AnyArray, "b k r r 3"]
    nbr_tokens_BKL: Texts
    nbr_mask_BK: Bool[AnyArray, "b k"]
    """True where there is a neighbour."""


@no_type_check  # see `Embedded`
@flax.struct.dataclass
class Inputs:
    """B images to draw, with up to K neighbours each, and the numbers of their guidance: all of it traced."""

    tokens_BL: Texts
    """The prompts."""
    nbr_image_BKHWC: UInt8[AnyArray, "b k r r 3"]
    """K may be 0: then no neighbour is encoded, and the network is Imagen's."""
    nbr_tokens_BKL: Texts
    nbr_mask_BK: Bool[AnyArray, "b k"]
    eta_B: Float[AnyArray, " b"]
    text_weight_B: Float[AnyArray, " b"]
    neighbour_weight_B: Float[AnyArray, " b"]
    low_res_BHWC: UInt8[AnyArray, "b low low 3"] | None = None
    """The images that a super-resolution stage enlarges, of whatever size; None for a base stage."""


def drop(condition: Condition, text_B: Bool[Array, " b"], neighbours_B: Bool[Array, " b"]) -> Condition:
    """The condition without text, and without neighbours, where the flags are true."""
    nbr_mask = None if condition.nbr_mask_BK is None else condition.nbr_mask_BK & ~neighbours_B[:, None]
    if condition.empty_text_BLD is None:
        return condition.replace(text_mask_BL=condition.text_mask_BL & ~text_B[:, None], nbr_mask_BK=nbr_mask)
    text_BLD = jnp.where(text_B[:, None, None], condition.empty_text_BLD, condition.text_BLD)
    return condition.replace(text_BLD=text_BLD, nbr_mask_BK=nbr_mask)


def drop_one(condition: Condition, text_B: Bool[Array, " b"]) -> Condition:
    """The condition without text where the flag is true, without neighbours elsewhere: interleaved guidance's two."""
    return drop(condition, text_B, ~text_B)
