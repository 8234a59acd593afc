"""U-Nets of diffusers that are built like ours, as they are stored: DeepFloyd IF's and karlo's.

A parameter's name here is a path (`dstack/level1_block0/conv1/kernel`), there a dotted name
(`down_blocks.1.resnets.0.conv1.weight`); levels count from high to low resolution here, the way up counts from low to
high there. Everything in this file is a pure function of arrays and settings; it reads no files and needs no PyTorch.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from flax.traverse_util import unflatten_dict

from reimagen_jax.errors import UserError
from reimagen_jax.pretrained.finite import require_finite

Params = dict[str, Any]

DOWN, UP = (
    ("ResnetDownsampleBlock2D", "SimpleCrossAttnDownBlock2D"),
    ("ResnetUpsampleBlock2D", "SimpleCrossAttnUpBlock2D"),
)
"""Levels without and with attention."""

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


def odd_levels(theirs: Mapping[str, Any]) -> list[str]:
    """What settings say of the levels that no network has which is built like ours."""
    widths, kinds, problems = theirs["block_out_channels"], theirs["down_block_types"], []
    if not _all(widths, int, lambda width: 0 < width <= 2**20 and width % 32 == 0) or not 1 <= len(widths) <= 10:
        return [f"block_out_channels {widths!r} are not multiples of 32, one for each of up to 10 levels"]
    if not _all(kinds, str, DOWN.__contains__) or len(kinds) != len(widths):
        problems.append(f"down_block_types are {kinds!r}, not {' or '.join(DOWN)} for each of {len(widths)} levels")
    elif list(theirs["up_block_types"]) != (up := [UP[DOWN.index(kind)] for kind in reversed(kinds)]):
        problems.append(f"up_block_types are {theirs['up_block_types']!r}, not {up!r}")
    blocks = theirs["layers_per_block"]
    blocks = [blocks] * len(widths) if isinstance(blocks, int) else blocks
    if not _all(blocks, int, lambda number: 0 < number <= 100) or len(blocks) != len(widths):
        problems.append(f"layers_per_block is {blocks!r}, not a number from 1 to 100 for each of {len(widths)} levels")
    return problems


def levels_of(theirs: Mapping[str, Any]) -> list[tuple[int, int, bool]]:
    """Width, blocks, and whether there is attention, of each level; from high to low resolution."""
    widths, blocks, kinds = (theirs[name] for name in ("block_out_channels", "layers_per_block", "down_block_types"))
    blocks = [blocks] * len(widths) if isinstance(blocks, int) else blocks
    return [(width, number, kind == DOWN[1]) for width, number, kind in zip(widths, blocks, kinds, strict=True)]


def _all(values: Any, kind: type, fits: Callable[[Any], bool]) -> bool:
    """Whether it is a list of such values."""
    listed = isinstance(values, list | tuple)
    return listed and all(isinstance(value, kind) and not isinstance(value, bool) and fits(value) for value in values)


def params_of(
    state: Mapping[str, np.ndarray],
    expected: Mapping[str, tuple[int, ...]],
    names_of: Callable[[str], list[str]],
    layout: Callable[[str, Sequence[np.ndarray]], np.ndarray] | None = None,
) -> Params:
    """Our parameters, of the `expected` shapes by path, from a state dict of theirs: arrays of numpy, float32.

    `names_of` tells the entries that make up the parameter at a path, each of which is read once; `layout` (default:
    `to_ours`) makes it of them. Raises `UserError` naming all missing, unexpected and differently shaped entries at
    once.
    """
    layout = layout or to_ours
    sources = {path: names_of(path) for path in expected}
    wanted = {name for names in sources.values() for name in names}
    problems = [f"{name} is missing" for name in sorted(wanted - state.keys())]
    modules = {name.partition(".")[0] for name in wanted}
    unknown = sorted(name for name in state.keys() - wanted if problems or name.partition(".")[0] in modules)
    problems += [f"{name} is unexpected" for name in unknown]
    params = {}
    for path, names in sources.items():
        if all(name in state for name in names):
            leaf, shape = layout(path, [state[name] for name in names]), expected[path]
            if leaf.shape != shape:
                problems.append(f"{' + '.join(names)} has shape {leaf.shape} as {path}, not {shape}")
            with np.errstate(over="ignore"):
                params[path] = np.asarray(leaf, np.float32)
            require_finite(params[path], " + ".join(names), "the network's weights")
    if problems:
        raise UserError("the weights do not fit the network: " + "; ".join(problems))
    return unflatten_dict(params, sep="/")


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
    raise UserError(f"diffusers has no {block}: the settings (unet.efficient?) are not those of one of its networks")


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
