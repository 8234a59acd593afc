"""What Re-Imagen is trained on and asked for, as arrays; how text and neighbours are dropped, and guided by that."""

from typing import no_type_check

import flax.struct
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Key, UInt8

from reimagen_jax.diffusion import guidance
from reimagen_jax.diffusion.base import Guide
from reimagen_jax.encoders.texts import AnyArray, Texts
from reimagen_jax.nets.unet import Condition
from reimagen_jax.systems.reimagen.settings import GuidedSamplerConfig


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
    left_out_BK: Bool[AnyArray, "b k"] | None = None
    """Of held-out examples, for people to see: True where, in place of a neighbour that is missing, there is what was
    found but left out as too little alike."""


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
    low_res_BHWC: UInt8[AnyArray, "b low low 3"] | Float[AnyArray, "b low low 3"] | None = None
    """The images that a super-resolution stage enlarges, of whatever size; None for a base stage."""
    guidance_rescale_B: Float[AnyArray, " b"] | None = None
    """None, as is the interval, where the settings have none."""
    guidance_interval_B2: Float[AnyArray, "b 2"] | None = None
    negative_BL: Texts | None = None
    """Negative prompts, what a dropped text is; without tokens for those that have none. None where nobody has one."""
    nbr_weight_BK: Float[AnyArray, "b k"] | None = None
    """Of each neighbour in the attention; None where all are alike."""
    known_BHWC: UInt8[AnyArray, "b h w 3"] | None = None
    """Images that are drawn on, black for those that have none. None, as the shares, where nobody has one."""
    share_BHW1: Float[AnyArray, "b h w 1"] | None = None
    """How far towards noise each of their pixels is taken, 0 to 1."""


def drop(condition: Condition, text_B: Bool[Array, " b"], neighbours_B: Bool[Array, " b"]) -> Condition:
    """The condition without text, and without neighbours, where the flags are true."""
    nbr_mask = None if condition.nbr_mask_BK is None else condition.nbr_mask_BK & ~neighbours_B[:, None]
    condition = condition.replace(nbr_mask_BK=nbr_mask)

    def either(empty: Array, text: Array) -> Array:
        return jnp.where(text_B.reshape(-1, *(1,) * (text.ndim - 1)), empty, text)

    if condition.told is not None:
        changed = {name: condition.told[name] for name in condition.empty_told}
        told = condition.told | jax.tree.map(either, condition.empty_told, changed)
        condition = condition.replace(told=told)
    if condition.empty_text_BLD is None:
        return condition.replace(text_mask_BL=condition.text_mask_BL & ~text_B[:, None])
    mask_BL = condition.text_mask_BL
    if condition.empty_mask_BL is not None:
        mask_BL = either(condition.empty_mask_BL, mask_BL)
    return condition.replace(text_BLD=either(condition.empty_text_BLD, condition.text_BLD), text_mask_BL=mask_BL)


def drop_one(condition: Condition, text_B: Bool[Array, " b"]) -> Condition:
    """The condition without text where the flag is true, without neighbours elsewhere: interleaved guidance's two."""
    return drop(condition, text_B, ~text_B)


def drop_text(condition: Condition) -> Condition:
    """The condition of the neighbours alone."""
    text_B = jnp.ones(len(condition.text_BLD), bool)
    return drop(condition, text_B, ~text_B)


def drop_neighbours(condition: Condition) -> Condition:
    """The condition of the text alone."""
    neighbours_B = jnp.ones(len(condition.text_BLD), bool)
    return drop(condition, ~neighbours_B, neighbours_B)


def drop_both(condition: Condition) -> Condition:
    """The condition without text and without neighbours."""
    both_B = jnp.ones(len(condition.text_BLD), bool)
    return drop(condition, both_B, both_B)


def mean_guide(excess: guidance.Excess, distilled: bool, rescale: Float[AnyArray, " b"] | None = None) -> Guide:
    """Guidance of text and neighbours by its two numbers: of a model that is told them, or of any other."""
    if distilled:
        return guidance.told(lambda condition, g_B2: condition.replace(guidance_B2=g_B2), excess)
    return guidance.mean(drop_text, drop_neighbours, excess, rescale)


def guide_of(settings: GuidedSamplerConfig, inputs: Inputs, keys_B: Key[Array, " b"], distilled: bool = False) -> Guide:
    """The guide that the settings name, with the numbers of the inputs; `keys_B` are those of plans at random.

    A `distilled` model is told what others are evaluated for: of the forms that it has learned (`Distilled`).
    """
    weights, rescale = [inputs.text_weight_B, inputs.neighbour_weight_B], inputs.guidance_rescale_B
    weights = [guidance.over_time(weight, settings.guidance_schedule) for weight in weights]
    if inputs.guidance_interval_B2 is not None:
        low_B, high_B = inputs.guidance_interval_B2[:, 0], inputs.guidance_interval_B2[:, 1]
        weights = [guidance.within(weight, low_B, high_B) for weight in weights]
    if settings.guidance == "joint":
        return guidance.single(drop_both, weights[0], rescale)
    if settings.guidance == "compositional":
        return guidance.compositional(drop_text, drop_both, *weights, rescale)
    if settings.guidance == "mean":
        return mean_guide(guidance.shared(inputs.eta_B, *weights), distilled, rescale)
    plan_BT = plan_of(settings, inputs.eta_B, keys_B)
    if distilled:
        return mean_guide(guidance.planned(plan_BT, *weights), distilled)
    return guidance.interleaved(drop_one, plan_BT, *weights, rescale)


def plan_of(
    settings: GuidedSamplerConfig, eta_B: Float[AnyArray, " b"], keys_B: Key[Array, " b"]
) -> Bool[Array, "b t"] | None:
    """Which steps strengthen the text, where the others strengthen the neighbours; None where each does both."""
    T = settings.num_steps
    if settings.guidance == "stratified":
        return jax.vmap(lambda eta: guidance.stratify(eta, T))(eta_B)
    if settings.guidance == "interleaved":
        return jax.vmap(lambda eta, key: guidance.interleave(eta, T, key))(eta_B, keys_B)
    return None
