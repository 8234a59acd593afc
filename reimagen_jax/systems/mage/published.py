"""Published weights by the names of RCG's code (arXiv 2312.03701), as state dicts of arrays: a tokenizer, and a MAGE.

A MAGE's file holds its tokenizer (`vqgan.`) and its encoder (`pretrained_encoder.`) too. Of MAGE's own, what no forward
pass reads (`patch_embed`, `cls_token`, `mask_token`, `pos_embed`, `decoder_pos_embed`, `decoder_pred`) is passed over,
and so are the head's biases of words that are no codes.
"""

import dataclasses
import re
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict

from reimagen_jax import randomness
from reimagen_jax.errors import require
from reimagen_jax.nets.settings import VQConfig
from reimagen_jax.nets.vq import VQ
from reimagen_jax.pretrained.diffusers_unet import params_of, to_ours
from reimagen_jax.systems.mage.net import Mage
from reimagen_jax.systems.mage.settings import MageConfig

VQ_MODULES = (
    (r"middle_block0", "mid.block_1"),
    (r"middle_block1", "mid.block_2"),
    (r"(down|up)(\d+)_block(\d+)", r"\1.\2.block.\3"),
    (r"up(\d+)_conv", r"up.\1.upsample.conv"),
    (r"shortcut", "nin_shortcut"),
    (r"/", "."),
)
"""A pattern of our path, and what stands there; in this order."""
MAGE_MODULES = {
    "words": "token_emb.word_embeddings",
    "norm_in": "token_emb.LayerNorm",
    "norm_encoder": "norm",
    "to_decoder": "decoder_embed",
    "norm_decoder": "decoder_norm",
    "head": "mlm_layer.fc",
    "head_norm": "mlm_layer.ln",
    "representation": "latent_prior_proj",
}
MAGE_ARRAYS = {
    "places": "token_emb.position_embeddings.weight",
    "decoder_places": "decoder_pos_embed_learned",
    "head_bias": "mlm_layer.bias",
    "null": "fake_latent",
}
BLOCK_PARTS = {"norm1": "norm1", "out": "attn.proj", "norm2": "norm2", "mlp1": "mlp.fc1", "mlp2": "mlp.fc2"}
QKV = ("query", "key", "value")
"""The three of a block, one after the other in their `attn.qkv`."""


def vq_params(state: Mapping[str, np.ndarray], config: VQConfig) -> Any:
    """A tokenizer's parameters. Raises `UserError` naming all that is missing, unexpected or of another shape."""
    side = config.stride
    shapes = jax.eval_shape(VQ(config).init, randomness.key(0), jnp.zeros((1, side, side, 3)))["params"]
    return params_of(state, _sides(shapes), lambda path: [vq_name(path)])


def vq_name(path: str) -> str:
    """Their name of the tokenizer's parameter at `path`."""
    if path == "codes":
        return "quantize.embedding.weight"
    module, leaf = path.rsplit("/", 1)
    for pattern, there in VQ_MODULES:
        module = re.sub(pattern, there, module)
    return f"{module}.{_leaf(leaf)}"


def mage_params(state: Mapping[str, np.ndarray], config: MageConfig) -> Any:
    """MAGE's own parameters. Raises `UserError` as `vq_params` does, and for one that draws from classes: theirs have
    learned no class to be led away from."""
    require(config.condition != "class", "published MAGEs that draw from classes are not read: theirs have no null")
    config = dataclasses.replace(config, remat=False)  # which changes no parameter, and takes time to trace
    tokens, width = jnp.zeros((1, config.places), jnp.int32), config.representation_width
    told_B = jnp.zeros((1, width) if config.condition == "representation" else 1)
    shapes = jax.eval_shape(Mage(config).init, randomness.key(0), tokens, tokens > 0, told_B, jnp.zeros(1, bool))
    state = {name: array for name, array in state.items() if name != "token_emb.position_ids"}

    def layout(path: str, arrays: Sequence[np.ndarray]) -> np.ndarray:
        if path in MAGE_ARRAYS:
            (array,) = arrays
            array = np.asarray(array).reshape(np.shape(array)[-2:] if path.endswith("places") else -1)
            return array[: config.vq.codes] if path == "head_bias" else array
        if path.split("/")[-2] in QKV:
            part = QKV.index(path.split("/")[-2])
            arrays = [np.split(np.asarray(arrays[0]), 3)[part]]
        return to_ours(path, arrays)

    return params_of(state, _sides(shapes["params"]), lambda path: [mage_name(path)], layout)


def mage_name(path: str) -> str:
    """Their name of MAGE's parameter at `path`; that of three for query, key and value."""
    if path in MAGE_ARRAYS:
        return MAGE_ARRAYS[path]
    module, leaf = path.rsplit("/", 1)
    if module in MAGE_MODULES:
        return f"{MAGE_MODULES[module]}.{_leaf(leaf)}"
    block, part = module.split("/")
    which, number = block.rsplit("_", 1)
    there = {"encoder_blocks": "blocks", "decoder_blocks": "decoder_blocks"}[which]
    return f"{there}.{number}.{'attn.qkv' if part in QKV else BLOCK_PARTS[part]}.{_leaf(leaf)}"


def _leaf(leaf: str) -> str:
    return "bias" if leaf == "bias" else "weight"


def _sides(shapes: Any) -> dict[str, tuple[int, ...]]:
    return {path: tuple(leaf.shape) for path, leaf in flatten_dict(shapes, sep="/").items()}
