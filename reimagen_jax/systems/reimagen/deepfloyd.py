"""DeepFloyd IF's U-Nets, as diffusers stores them, as settings and parameters of ours.

IF is the published open implementation of Imagen's cascade. Its networks are ours with the settings that `unet_config`
reads off theirs; t in [0, 1] here is their timestep / 1000, and so is the augmentation level (their class label).
A parameter's name here is a path (`dstack/level1_block0/conv1/kernel`), there a dotted name
(`down_blocks.1.resnets.0.conv1.weight`); levels count from high to low resolution here, the way up counts from low to
high there. Everything in this file is a pure function of arrays and settings; it reads no files and needs no PyTorch.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from reimagen_jax import randomness
from reimagen_jax.errors import UserError, require
from reimagen_jax.nets.settings import Level, UNetConfig
from reimagen_jax.nets.unet import Condition, UNet
from reimagen_jax.pretrained import published_settings
from reimagen_jax.pretrained.finite import require_finite
from reimagen_jax.pretrained.published_settings import not_counts, not_small

Params = dict[str, Any]

CHANNELS, PREDICTED = 3, 6
"""Of an image, and of the prediction: its noise, and what the variance is learned by."""
DOWN, UP = (
    ("ResnetDownsampleBlock2D", "SimpleCrossAttnDownBlock2D"),
    ("ResnetUpsampleBlock2D", "SimpleCrossAttnUpBlock2D"),
)
"""Levels without and with attention."""

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

MODULES = (
    (r"^conditioning/time(\d)$", lambda m: [f"time_embedding.linear_{m[1]}"]),
    (r"^conditioning/aug(\d)$", lambda m: [f"class_embedding.linear_{m[1]}"]),
    (r"^conditioning/pool_norm$", lambda m: ["add_embedding.norm1"]),
    (r"^conditioning/pool_query$", lambda m: ["add_embedding.pool.q_proj"]),
    (r"^conditioning/pool_kv$", lambda m: ["add_embedding.pool.k_proj", "add_embedding.pool.v_proj"]),
    (r"^conditioning/pool_out$", lambda m: ["add_embedding.proj"]),
    (r"^conditioning/pool_out_norm$", lambda m: ["add_embedding.norm2"]),
    (r"^text_projection$", lambda m: ["encoder_hid_proj"]),
    (r"^dstack/stem$", lambda m: ["conv_in"]),
    (r"^ustack/norm$", lambda m: ["conv_norm_out"]),
    (r"^ustack/out$", lambda m: ["conv_out"]),
)
"""Modules outside the blocks: a pattern of our path, the names there; several are laid side by side in ours."""

BLOCK_PARTS = {"norm1": "norm1", "conv1": "conv1", "cond": "time_emb_proj", "norm2": "norm2", "conv2": "conv2"}
BLOCK_PARTS |= {"skip": "conv_shortcut"}
ATTENTION_PARTS = {
    "norm": ["group_norm"],
    "text_norm": ["norm_cross"],
    "qkv": ["to_q", "to_k", "to_v"],
    "query": ["to_q"],
    "text_kv": ["add_k_proj", "add_v_proj"],
    "out": ["to_out.0"],
}


def unet_config(theirs: Mapping[str, Any]) -> UNetConfig:
    """Our settings for a U-Net's `config.json` of IF's stage I or II; no neighbour attention.

    Raises `UserError` naming the settings that no network of IF's has.
    """
    theirs = DEFAULTS | dict(theirs)
    if problems := _not_ifs(theirs):
        raise UserError("not a network of DeepFloyd IF: " + "; ".join(problems))
    head_width = theirs["attention_head_dim"]
    widths, text_alone = theirs["block_out_channels"], theirs["only_cross_attention"]
    blocks, kinds = theirs["layers_per_block"], theirs["down_block_types"]
    attends = [kind == DOWN[1] for kind in kinds]
    return UNetConfig(
        levels=tuple(
            Level(
                width,
                blocks if isinstance(blocks, int) else blocks[i],
                self_attention=attends[i] and not text_alone,
                text_attention=attends[i] and text_alone,
            )
            for i, width in enumerate(widths)
        ),
        head_width=head_width,
        groups=32,
        cond_width=theirs["time_embedding_dim"] or 4 * widths[0],
        time_features=widths[0],
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
    widths, kinds = theirs["block_out_channels"], theirs["down_block_types"]
    if not _all(widths, int, lambda width: 0 < width <= 2**20 and width % 32 == 0) or not 1 <= len(widths) <= 10:
        problems.append(f"block_out_channels {widths!r} are not multiples of 32, one for each of up to 10 levels")
        return problems
    if not _all(kinds, str, DOWN.__contains__) or len(kinds) != len(widths):
        problems.append(f"down_block_types are {kinds!r}, not {' or '.join(DOWN)} for each of {len(widths)} levels")
    elif list(theirs["up_block_types"]) != (up := [UP[DOWN.index(kind)] for kind in reversed(kinds)]):
        problems.append(f"up_block_types are {theirs['up_block_types']!r}, not {up!r}")
    blocks = theirs["layers_per_block"]
    blocks = [blocks] * len(widths) if isinstance(blocks, int) else blocks
    if not _all(blocks, int, lambda number: 0 < number <= 100) or len(blocks) != len(widths):
        problems.append(f"layers_per_block is {blocks!r}, not a number from 1 to 100 for each of {len(widths)} levels")
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


def _all(values: Any, kind: type, fits: Callable[[Any], bool]) -> bool:
    """Whether it is a list of such values."""
    listed = isinstance(values, list | tuple)
    return listed and all(isinstance(value, kind) and not isinstance(value, bool) and fits(value) for value in values)


def unet_params(state: Mapping[str, np.ndarray], config: UNetConfig) -> Params:
    """Our parameters from a state dict of theirs, as arrays of numpy, float32; each entry is read once.

    `config` may ask for neighbour attention, which IF lacks: those parameters are left out of the result (a run that
    starts from it makes them anew, as the identity: `init.fresh`). Raises `UserError` naming all missing, unexpected
    and differently shaped entries at once.
    """
    expected = expected_shapes(state, config)
    sources = {path: their_names(path, len(config.levels)) for path in expected}
    wanted = {name for names in sources.values() for name in names}
    problems = [f"{name} is missing" for name in sorted(wanted - state.keys())]
    modules = {name.partition(".")[0] for name in wanted}
    unknown = sorted(name for name in state.keys() - wanted if problems or name.partition(".")[0] in modules)
    problems += [f"{name} is unexpected" for name in unknown]
    params = {}
    for path, names in sources.items():
        if all(name in state for name in names):
            leaf, shape = to_ours(path, [state[name] for name in names]), expected[path]
            if leaf.shape != shape:
                problems.append(f"{' + '.join(names)} has shape {leaf.shape} as {path}, not {shape}")
            with np.errstate(over="ignore"):
                params[path] = np.asarray(leaf, np.float32)
            require_finite(params[path], " + ".join(names), "the network's weights")
    if problems:
        raise UserError("the weights do not fit the network: " + "; ".join(problems))
    return unflatten_dict(params, sep="/")


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


def their_names(path: str, levels: int) -> list[str]:
    """The entries there that make up the parameter `path` of a network with that many levels."""
    if path == "conditioning/pool_position":
        return ["add_embedding.pool.positional_embedding"]
    module, leaf = path.rsplit("/", 1)
    ending = "bias" if leaf == "bias" else "weight"
    return [f"{name}.{ending}" for name in _their_modules(module, levels)]


def _their_modules(module: str, levels: int) -> list[str]:
    for pattern, names in MODULES:
        if match := re.match(pattern, module):
            return names(match)
    block, part = module.rsplit("/", 1)
    if "attention" in block:
        return [f"{_their_block(block, levels)}.{name}" for name in ATTENTION_PARTS[part]]
    return [f"{_their_block(block, levels)}.{BLOCK_PARTS[part]}"]


def _their_block(block: str, levels: int) -> str:
    """Of a residual block or an attention: `ustack/level0_block1` of 4 levels is `up_blocks.3.resnets.1`."""
    stack, name = block.split("/")
    if match := re.match(r"level(\d+)_(block|attention)(\d+)$", name):
        i, kind, j = int(match[1]), {"block": "resnets", "attention": "attentions"}[match[2]], match[3]
        return f"down_blocks.{i}.{kind}.{j}" if stack == "dstack" else f"up_blocks.{levels - 1 - i}.{kind}.{j}"
    if match := re.match(r"middle_block(\d)$", name):
        return f"mid_block.resnets.{match[1]}"
    if match := re.match(r"down(\d+)$", name):
        return f"down_blocks.{int(match[1]) - 1}.downsamplers.0"
    if match := re.match(r"up(\d+)$", name):
        return f"up_blocks.{levels - 1 - int(match[1])}.upsamplers.0"
    if name == "middle_attention":
        return "mid_block.attentions.0"
    raise UserError(f"DeepFloyd IF has no {block}: the settings (unet.efficient?) are not those of one of its networks")


def to_ours(path: str, arrays: Sequence[np.ndarray]) -> np.ndarray:
    """Lays the arrays side by side along their outputs, and puts inputs before outputs: OIHW to HWIO, OI to IO."""
    if len({(array.ndim, *array.shape[1:]) for array in map(np.asarray, arrays)}) > 1 or not np.ndim(arrays[0]):
        raise UserError(f"{path} is made of arrays that do not fit: {', '.join(str(np.shape(x)) for x in arrays)}")
    array = np.concatenate([np.asarray(array) for array in arrays], axis=0)
    if path.endswith("pool_position"):
        return array.reshape(-1)
    if array.ndim == 4:
        return array.transpose(2, 3, 1, 0)
    return array.T if path.endswith("kernel") else array
