"""DeepFloyd IF's U-Nets, as diffusers stores them, as settings and parameters of ours.

IF is the published open implementation of Imagen's cascade. Its networks are ours with the settings that `unet_config`
reads off theirs; t in [0, 1] here is their timestep / 1000, and so is the augmentation level (their class label).
Names and layouts are those of pretrained/diffusers_unet.py. Everything in this file is a pure function of arrays and
settings; it reads no files and needs no PyTorch.
"""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict

from reimagen_jax import randomness
from reimagen_jax.errors import UserError, require
from reimagen_jax.nets.settings import Level, UNetConfig
from reimagen_jax.nets.unet import Condition, UNet
from reimagen_jax.pretrained import published_settings
from reimagen_jax.pretrained.diffusers_unet import Params, levels_of, odd_levels, params_of, their_names
from reimagen_jax.pretrained.published_settings import not_counts, not_small

CHANNELS, PREDICTED = 3, 6
"""Of an image, and of the prediction: its noise, and what the variance is learned by."""
DEFAULTS = {
    "in_channels": 4,
    "out_channels": 4,
    "down_block_types": ("CrossAttnDownBlock2D",) * 3 + ("DownBlock2D",),
    "up_block_types": ("UpBlock2D",) + ("CrossAttnUpBlock2D",) * 3,
    "mid_block_type": "UNetMidBlock2DCrossAttn",
    "only_cross_attention": False,
    "block_out_channels": (320, 640, 1280, 1280),
    "layers_per_block": 2,
    "mid_block_scale_factor": 1,
    "act_fn": "silu",
    "norm_eps": 1e-5,
    "cross_attention_dim": 1280,
    "encoder_hid_dim": None,
    "attention_head_dim": 8,
    "class_embed_type": None,
    "addition_embed_type": None,
    "resnet_time_scale_shift": "default",
    "resnet_skip_time_act": False,
    "resnet_out_scale_factor": 1.0,
    "time_embedding_dim": None,
    "cross_attention_norm": None,
    "addition_embed_type_num_heads": 64,
}
"""What diffusers' `UNet2DConditionModel` takes for keys that are not there, of those that IF's networks set."""

FIXED = {
    "mid_block_type": "UNetMidBlock2DSimpleCrossAttn",
    "cross_attention_norm": "group_norm",
    "resnet_time_scale_shift": "scale_shift",
    "act_fn": "gelu",
    "addition_embed_type": "text",
    "out_channels": PREDICTED,
    # What follows is diffusers' default as well.
    "norm_num_groups": 32,
    "center_input_sample": False,
    "flip_sin_to_cos": True,
    "freq_shift": 0,
    "time_embedding_type": "positional",
    "timestep_post_act": None,
    "time_cond_proj_dim": None,
    "conv_in_kernel": 3,
    "conv_out_kernel": 3,
    "num_attention_heads": None,
    "dual_cross_attention": False,
    "num_class_embeds": None,
    "projection_class_embeddings_input_dim": None,
    "class_embeddings_concat": False,
    "attention_type": "default",
    "addition_time_embed_dim": None,
}
"""What makes a `UNet2DConditionModel` one of IF's, and what our network implements."""

RELATED = ("sample_size", "time_embedding_act_fn", "mid_block_only_cross_attention", "encoder_hid_dim_type", *DEFAULTS)
"""Keys that are used, or have to go together."""
HARMLESS = (
    *("dropout", "upcast_attention"),  # of training; of precision
    *("downsample_padding", "use_linear_projection", "transformer_layers_per_block"),  # of blocks that IF has not
    "reverse_transformer_layers_per_block",
)


def unet_config(theirs: Mapping[str, Any]) -> UNetConfig:
    """Our settings for a U-Net's `config.json` of IF's stage I or II; no neighbour attention.

    Raises `UserError` naming the settings that no network of IF's has.
    """
    theirs = DEFAULTS | dict(theirs)
    if problems := _not_ifs(theirs):
        raise UserError("not a network of DeepFloyd IF: " + "; ".join(problems))
    head_width = theirs["attention_head_dim"]
    text_alone = theirs["only_cross_attention"]
    return UNetConfig(
        levels=tuple(
            Level(width, blocks, self_attention=attends and not text_alone, text_attention=attends and text_alone)
            for width, blocks, attends in levels_of(theirs)
        ),
        head_width=head_width,
        groups=32,
        cond_width=theirs["time_embedding_dim"] or 4 * theirs["block_out_channels"][0],
        time_features=theirs["block_out_channels"][0],
        residual_scale=1.0 / theirs["resnet_out_scale_factor"],
        activation="gelu",
        norm_epsilon=theirs["norm_eps"],
        text_width=theirs["cross_attention_dim"] if theirs["encoder_hid_dim"] else None,
        text_pooling="attention",
        text_norm="group",
    )


def _not_ifs(theirs: Mapping[str, Any]) -> list[str]:
    """What no network of IF's has, every key considered."""
    problems = published_settings.problems(theirs, used=RELATED, fixed=FIXED, harmless=HARMLESS)
    whole = {"attention_head_dim": 1024, "cross_attention_dim": 2**20, "addition_embed_type_num_heads": 2**20}
    if theirs["encoder_hid_dim"] is not None:
        whole["encoder_hid_dim"] = 2**20
    if theirs["time_embedding_dim"] is not None:
        whole["time_embedding_dim"] = 2**20
    problems += not_counts(theirs, whole) + not_small(theirs, "norm_eps")
    problems += odd_levels(theirs)
    if problems:
        return problems
    heads, head_width = theirs["addition_embed_type_num_heads"], theirs["attention_head_dim"]
    if (text_width := theirs["encoder_hid_dim"] or theirs["cross_attention_dim"]) != head_width * heads:
        problems.append(f"text of width {text_width} is pooled by {heads} heads, of other width than {head_width}")
    if theirs.get("encoder_hid_dim_type") not in (None, "text_proj" if theirs["encoder_hid_dim"] else None):
        problems.append(f"encoder_hid_dim_type is {theirs['encoder_hid_dim_type']!r}, not that of a text's projection")
    if (kind := theirs["class_embed_type"]) not in (None, "timestep"):
        problems.append(f"class_embed_type is {kind!r}, not None or 'timestep'")
    if (given := theirs["in_channels"]) != (wanted := CHANNELS if kind is None else 2 * CHANNELS):
        problems.append(f"in_channels is {given!r}, not {wanted} with the class_embed_type {kind!r}")
    if not isinstance(alone := theirs["only_cross_attention"], bool):
        problems.append(f"only_cross_attention is {alone!r}, not true or false for all levels")
    if (middle := theirs.get("mid_block_only_cross_attention")) not in (None, alone):
        problems.append(f"mid_block_only_cross_attention is {middle!r}, where only_cross_attention is {alone!r}")
    # The embedding of the time goes through one activation: in every block, or once before them all.
    acts = (theirs["resnet_skip_time_act"], theirs.get("time_embedding_act_fn"))
    if acts not in ((False, None), (True, "gelu")):
        problems.append(f"resnet_skip_time_act is {acts[0]!r}, where time_embedding_act_fn is {acts[1]!r}")
    scales = (theirs["resnet_out_scale_factor"], theirs["mid_block_scale_factor"])
    if not all(isinstance(scale, int | float) and 0 < scale < 1e3 for scale in scales) or scales[0] != scales[1]:
        problems.append(f"resnet_out_scale_factor {scales[0]!r} and mid_block_scale_factor {scales[1]!r} are not one")
    return problems


def unet_params(state: Mapping[str, np.ndarray], config: UNetConfig) -> Params:
    """Our parameters from a state dict of theirs, as arrays of numpy, float32; each entry is read once.

    `config` may ask for neighbour attention, which IF lacks: those parameters are left out of the result (a run that
    starts from it makes them anew, as the identity: `init.fresh`). Raises `UserError` naming all missing, unexpected
    and differently shaped entries at once.
    """
    return params_of(state, expected_shapes(state, config), lambda path: their_names(path, len(config.levels)))


def expected_shapes(state: Mapping[str, np.ndarray], config: UNetConfig) -> dict[str, tuple[int, ...]]:
    """Path to shape of the parameters that IF has, for the network `config`; nothing is computed.

    What the settings do not say is read off the state dict: whether it is a super-resolution stage, and the text's
    width.
    """
    super_resolution = "class_embedding.linear_1.weight" in state
    name = "add_embedding.norm1.weight"
    require(name in state, f"the weights have no {name}: they are not those of a U-Net of DeepFloyd IF")
    text_width = np.size(state[name])

    def init() -> Params:
        x = jnp.zeros((1, config.stride, config.stride, 3), jnp.float32)
        text, mask, t = jnp.zeros((1, 2, text_width), jnp.float32), jnp.ones((1, 2), bool), jnp.zeros(1, jnp.float32)
        low_res = {"low_res_BHWC": x, "aug_level_B": t} if super_resolution else {}
        return UNet(config, PREDICTED).init(randomness.key(0), x, t, Condition(text, mask, **low_res))["params"]

    return {path: tuple(leaf.shape) for path, leaf in flatten_dict(jax.eval_shape(init), sep="/").items()}
