"""Published weights by the names of RCG's code (arXiv 2312.03701), as state dicts of arrays: a tokenizer, and a MAGE.

A MAGE's file holds its tokenizer (`vqgan.`) and its encoder (`pretrained_encoder.`) too; one of MAGE's own authors
(arXiv 2211.09117), which draws from nothing, no encoder. Of MAGE's own, what no forward pass reads (`patch_embed`,
`cls_token`, `mask_token`, `pos_embed`, `decoder_pos_embed`, `decoder_pred`) is passed over, and so are the head's
biases of words that are no codes. PyTorch's files are read without running them, and what no tensor tells is as
published: heads of attention, group norms of 32, images of 16 tokens a side for a tokenizer alone.
"""

import dataclasses
import functools
import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict

from reimagen_jax import randomness
from reimagen_jax.config import Experiment, TrainConfig
from reimagen_jax.encoders.moco_published import LICENCE, of_tensors
from reimagen_jax.encoders.settings import RepresentationConfig
from reimagen_jax.errors import UserError, require
from reimagen_jax.nets.settings import Tower, VQConfig
from reimagen_jax.nets.vq import VQ
from reimagen_jax.pretrained.diffusers_unet import params_of, to_ours
from reimagen_jax.pretrained.pickles import Tensor, state_dict
from reimagen_jax.systems.mage.net import Mage
from reimagen_jax.systems.mage.settings import FROZEN, MageConfig, VQSystemConfig

__all__ = ["LICENCE", "holds", "mage_name", "mage_params", "read_mage", "read_vq", "vq_name", "vq_params"]

HEADS = {768: 12, 1024: 16, 1280: 16}
"""Of attention, by width: no tensor tells them."""

CODES = "quantize.embedding.weight"
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


GROUPS, SIDE, DECODER_HEADS = 32, 16, 16
"""Of norms; tokens of a side of the images that a tokenizer alone is for; of the decoder's attention."""
MASK_MEAN = {"representation": 0.75, "class": 0.75, "none": 0.55}
"""Of the share of tokens that is masked, in RCG's and in MAGE's training."""
TOKENIZER, ENCODER = "vqgan.", "pretrained_encoder."


def holds(path: str | Path) -> str:
    """What a file of PyTorch's holds: "mage", "vq" (a tokenizer alone), or neither, "". Raises `UserError` on one that
    is damaged, or would run anything."""
    names = state_dict(path)
    if any(name.startswith("token_emb.") for name in names):
        return "mage"
    return "vq" if CODES in names else ""


def read_vq(path: str | Path, name: str) -> tuple[Experiment, Any]:
    """The experiment and the parameters (float32) of the tokenizer in a file.

    Raises `UserError` on a file that is damaged, that would run anything, or that holds another network.
    """
    path = Path(path)
    tensors = state_dict(path)
    config = _vq_settings(path, tensors)
    experiment = Experiment(name, VQSystemConfig(resolution=SIDE * config.stride, vq=config))
    return experiment, {"vq": vq_params(_read(tensors), config)}


def read_mage(path: str | Path, name: str, heads: int | None = None) -> tuple[Experiment, Any]:
    """The experiment and the parameters (float32) of the MAGE in a file, with its tokenizer and its encoder.

    Its transformers have `heads` heads, the encoder too: by default those that are published with their width. Raises
    `UserError` as `read_vq` does.
    """
    path = Path(path)
    tensors = state_dict(path)
    vq_tensors, encoder_tensors = (_under(tensors, prefix) for prefix in (TOKENIZER, ENCODER))
    own = {each: tensors[each] for each in tensors if not each.startswith((TOKENIZER, ENCODER))}
    require(bool(vq_tensors), f"{path} holds no tokenizer ({TOKENIZER}...), by which its tokens are an image")
    vq = _vq_settings(path, vq_tensors)
    shape = functools.partial(_shape, path, own)
    (words, D), (places, _) = (shape(f"token_emb.{each}_embeddings.weight", 2) for each in ("word", "position"))
    W, side = shape("decoder_embed.weight", 2)[0], math.isqrt(max(places - 1, 0))
    require(side**2 == places - 1, f"{path} has {places} positions: one more than a square is expected")
    condition, params = "class" if "class_emb.weight" in own else "none", {}
    encoder: Any = RepresentationConfig()
    if "latent_prior_proj.weight" in own:
        require(bool(encoder_tensors), f"{path} holds no encoder ({ENCODER}...), by which its representations are made")
        condition = "representation"
        encoder, params["encoder"] = of_tensors(path, encoder_tensors, heads)
    own_heads = heads or HEADS.get(D)
    if own_heads is None:
        raise UserError(f"{path} holds a MAGE of width {D}: how many heads has its attention (--heads)?")

    def tower(blocks: str, width: int, heads: int) -> Tower:
        depth = len({found[1] for each in own if (found := re.match(rf"{blocks}\.(\d+)\.", each))})
        return Tower(width, depth, heads, shape(f"{blocks}.0.mlp.fc1.weight", 2)[0], "gelu", 1e-6)

    system = MageConfig(
        resolution=side * vq.stride,
        condition=condition,
        encoder=encoder,
        vq=vq,
        tower=tower("blocks", D, own_heads),
        decoder=tower("decoder_blocks", W, heads or DECODER_HEADS),
        spare_words=words - vq.codes - 1,
        mask_mean=MASK_MEAN[condition],
    )
    params |= {"vq": vq_params(_read(vq_tensors), vq), "mage": mage_params(_read(own), system)}
    return Experiment(name, system, train=TrainConfig(rates=(FROZEN,))), params


def _vq_settings(path: Path, tensors: Mapping[str, Tensor]) -> VQConfig:
    """What the shapes tell. Raises `UserError` where they do not."""
    shape = functools.partial(_shape, path, tensors)
    found = {
        (int(match[1]), int(match[2]))
        for each in tensors
        if (match := re.match(r"encoder\.down\.(\d+)\.block\.(\d+)\.", each))
    }
    require(bool(found), f"{path} holds no tokenizer of MaskGIT's: it has no encoder.down.0.block.0")
    levels, blocks = max(level for level, _ in found) + 1, max(block for _, block in found) + 1
    widths = tuple(shape(f"encoder.down.{level}.block.0.conv1.weight", 4)[0] for level in range(levels))
    return VQConfig(widths, blocks, 1, GROUPS, *shape(CODES, 2))


def _shape(path: Path, tensors: Mapping[str, Tensor], name: str, rank: int) -> tuple[int, ...]:
    """Raises `UserError` where there is no such tensor."""
    require(
        name in tensors and len(tensors[name].shape) == rank,
        f"{path} has no {name} of {rank} axes: it holds another network than RCG's",
    )
    return tensors[name].shape


def _under(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): each for name, each in tensors.items() if name.startswith(prefix)}


def _read(tensors: Mapping[str, Tensor]) -> dict[str, np.ndarray]:
    return {name: each.read() for name, each in tensors.items()}


def vq_params(state: Mapping[str, np.ndarray], config: VQConfig) -> Any:
    """A tokenizer's parameters. Raises `UserError` naming all that is missing, unexpected or of another shape."""
    side = config.stride
    shapes = jax.eval_shape(VQ(config).init, randomness.key(0), jnp.zeros((1, side, side, 3)))["params"]
    return params_of(state, _sides(shapes), lambda path: [vq_name(path)])


def vq_name(path: str) -> str:
    """Their name of the tokenizer's parameter at `path`."""
    if path == "codes":
        return CODES
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
