"""DeepFloyd IF's U-Nets, as diffusers stores them, as settings and parameters of ours.

IF is the published open implementation of Imagen's cascade. Its networks are ours with the settings that `unet_config`
reads off theirs; t in [0, 1] here is their timestep / 1000, and so is the augmentation level (their class label).
A parameter's name here is a path (`dstack/level1_block0/conv1/kernel`), there a dotted name
(`down_blocks.1.resnets.0.conv1.weight`); levels count from high to low resolution here, the way up counts from low to
high there. Everything in this file is a pure function of arrays and settings; it reads no files and needs no PyTorch.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from reimagen_jax.errors import UserError, require
from reimagen_jax.nets.settings import Level, UNetConfig
from reimagen_jax.nets.unet import Condition, UNet

Params = dict[str, Any]

EXPECTED = {
    "mid_block_type": "UNetMidBlock2DSimpleCrossAttn",
    "cross_attention_norm": "group_norm",
    "resnet_time_scale_shift": "scale_shift",
    "act_fn": "gelu",
    "addition_embed_type": "text",
    "norm_num_groups": 32,
}
"""What makes a `UNet2DConditionModel` one of IF's."""

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
    problems = [
        f"{name} is {theirs.get(name)!r}, not {value!r}"
        for name, value in EXPECTED.items()
        if theirs.get(name, value) != value
    ]
    head_width, heads = theirs["attention_head_dim"], theirs.get("addition_embed_type_num_heads", 64)
    text_width = theirs.get("encoder_hid_dim") or theirs["cross_attention_dim"]
    if text_width != head_width * heads:
        problems.append(f"text of width {text_width} is pooled by {heads} heads, of other width than {head_width}")
    if problems:
        raise UserError("not a network of DeepFloyd IF: " + "; ".join(problems))
    widths, text_alone = theirs["block_out_channels"], theirs.get("only_cross_attention", False)
    blocks, kinds = theirs["layers_per_block"], theirs["down_block_types"]
    attends = [kind == "SimpleCrossAttnDownBlock2D" for kind in kinds]
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
        cond_width=theirs.get("time_embedding_dim") or 4 * widths[0],
        time_features=widths[0],
        residual_scale=1.0 / theirs.get("resnet_out_scale_factor", 1.0),
        activation="gelu",
        norm_epsilon=theirs.get("norm_eps", 1e-5),
        text_width=theirs["cross_attention_dim"] if theirs.get("encoder_hid_dim") else None,
        text_pooling="attention",
        text_norm="group",
    )


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
    problems += [f"{name} is unexpected" for name in sorted(state.keys() - wanted)]
    params = {}
    for path, names in sources.items():
        if all(name in state for name in names):
            leaf, shape = to_ours(path, [state[name] for name in names]), expected[path]
            if leaf.shape != shape:
                problems.append(f"{' + '.join(names)} has shape {leaf.shape} as {path}, not {shape}")
            params[path] = leaf
    if problems:
        raise UserError("the weights do not fit the network: " + "; ".join(problems))
    return unflatten_dict({path: np.asarray(leaf, np.float32) for path, leaf in params.items()}, sep="/")


def expected_shapes(state: Mapping[str, np.ndarray], config: UNetConfig) -> dict[str, tuple[int, ...]]:
    """Path to shape of the parameters that IF has, for the network `config`; nothing is computed.

    What the settings do not say is read off the state dict: whether it is a super-resolution stage, the text's width
    and the channels of the prediction (twice those of an image, with a learned variance).
    """
    super_resolution = "class_embedding.linear_1.weight" in state
    for name in ("add_embedding.norm1.weight", "conv_out.weight"):
        require(name in state, f"the weights have no {name}: they are not those of a U-Net of DeepFloyd IF")
    text_width, channels = (len(state[name]) for name in ("add_embedding.norm1.weight", "conv_out.weight"))

    def init() -> Params:
        x = jnp.zeros((1, config.stride, config.stride, 3), jnp.float32)
        text, mask, t = jnp.zeros((1, 2, text_width), jnp.float32), jnp.ones((1, 2), bool), jnp.zeros(1, jnp.float32)
        low_res = {"low_res_BHWC": x, "aug_level_B": t} if super_resolution else {}
        return UNet(config, channels).init(jax.random.key(0), x, t, Condition(text, mask, **low_res))["params"]

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
    array = np.concatenate([np.asarray(array) for array in arrays], axis=0)
    if path.endswith("pool_position"):
        return array.reshape(-1)
    if array.ndim == 4:
        return array.transpose(2, 3, 1, 0)
    return array.T if path.endswith("kernel") else array
