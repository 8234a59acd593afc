"""Published weights by the names of RCG's code (arXiv 2312.03701), as state dicts of arrays: a tokenizer."""

import re
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict

from reimagen_jax.nets.settings import VQConfig
from reimagen_jax.nets.vq import VQ
from reimagen_jax.pretrained.diffusers_unet import params_of

VQ_MODULES = (
    (r"middle_block0", "mid.block_1"),
    (r"middle_block1", "mid.block_2"),
    (r"(down|up)(\d+)_block(\d+)", r"\1.\2.block.\3"),
    (r"up(\d+)_conv", r"up.\1.upsample.conv"),
    (r"shortcut", "nin_shortcut"),
    (r"/", "."),
)
"""A pattern of our path, and what stands there; in this order."""


def vq_params(state: Mapping[str, np.ndarray], config: VQConfig) -> Any:
    """A tokenizer's parameters. Raises `UserError` naming all that is missing, unexpected or of another shape."""
    side = config.stride
    shapes = jax.eval_shape(VQ(config).init, jax.random.key(0), jnp.zeros((1, side, side, 3)))["params"]
    return params_of(state, _sides(shapes), lambda path: [vq_name(path)])


def vq_name(path: str) -> str:
    """Their name of the tokenizer's parameter at `path`."""
    if path == "codes":
        return "quantize.embedding.weight"
    module, leaf = path.rsplit("/", 1)
    for pattern, there in VQ_MODULES:
        module = re.sub(pattern, there, module)
    return f"{module}.{_leaf(leaf)}"


def _leaf(leaf: str) -> str:
    return "bias" if leaf == "bias" else "weight"


def _sides(shapes: Any) -> dict[str, tuple[int, ...]]:
    return {path: tuple(leaf.shape) for path, leaf in flatten_dict(shapes, sep="/").items()}
