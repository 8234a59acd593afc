"""MoCo-v3's published encoders as ours: from PyTorch's file, which is read without running it, to a representation.

The base encoder (the one that is trained, not its average) is taken, with its projection head, as RCG does. Positions
are no parameters here: those of the file are compared with ours. The file of RCG's ViT-L misspells eight names.

The weights that Meta AI published are licensed under CC BY-NC 4.0: not for commercial use, and nor is what is made of
them.
"""

import math
import re
from pathlib import Path
from typing import Any

import jax
import numpy as np

from reimagen_jax import randomness
from reimagen_jax.encoders.representation import Representation, positions
from reimagen_jax.encoders.settings import RepresentationConfig
from reimagen_jax.errors import UserError, require
from reimagen_jax.nets.settings import Tower
from reimagen_jax.pretrained.pickles import PickleCheckpoint, Tensor, state_dict
from reimagen_jax.pretrained.safetensors_reader import CONVOLUTION, KERNEL, Source, load

LICENCE = "cc-by-nc-4.0"
PREFIX = "module.base_encoder."
HEADS = {384: 12, 768: 12, 1024: 16}
"""Of attention, by width: no tensor tells them."""
MISSPELT = {
    "blocks.13.norm13.": "blocks.13.norm1.",
    "blocks.13.mlp.fc13.": "blocks.13.mlp.fc1.",
    "blocks.14.norm14.": "blocks.14.norm2.",
    "blocks.14.mlp.fc14.": "blocks.14.mlp.fc2.",
}
"""How names begin in RCG's file of ViT-L, and what is meant."""


def published(path: str | Path, heads: int | None = None) -> tuple[RepresentationConfig, Any]:
    """Settings and parameters (float32) of the encoder in a file (`vit-b-300ep.pth.tar`).

    Its attention has `heads` heads, by default those that are published with its width. Raises `UserError` on a file
    that is damaged, that would run anything, or that holds another network.
    """
    return of_tensors(Path(path), state_dict(path, prefix=PREFIX), heads)


def of_tensors(path: Path, tensors: dict[str, Tensor], heads: int | None = None) -> tuple[RepresentationConfig, Any]:
    """The same of tensors of a file, by their names in the encoder."""
    tensors = _spelt(tensors)
    config = _settings(path, tensors, heads)
    checkpoint, encoder = PickleCheckpoint(path, _apart(tensors)), Representation(config)
    expected = jax.eval_shape(encoder.init, randomness.key(0))
    ignore = ("num_batches_tracked$", "^pos_embed$")
    params = load(checkpoint, expected, lambda name: _source(name, config), ignore=ignore)
    theirs_MD = checkpoint.read("pos_embed")[0]
    require(
        not theirs_MD[0].any() and np.allclose(theirs_MD[1:], positions(config), atol=1e-4),
        f"{path}: its positions are not MoCo-v3's sines and cosines of row and column: it is another network",
    )
    return config, params


def _spelt(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The tensors under the names that are meant."""

    def meant(name: str) -> str:
        odd = next((odd for odd in MISSPELT if name.startswith(odd)), "")
        return MISSPELT.get(odd, "") + name.removeprefix(odd)

    return {meant(name): tensor for name, tensor in tensors.items()}


def _settings(path: Path, tensors: dict[str, Tensor], heads: int | None) -> RepresentationConfig:
    """What the shapes tell. Raises `UserError` where they do not."""

    def shape(name: str, rank: int) -> tuple[int, ...]:
        require(
            name in tensors and len(tensors[name].shape) == rank,
            f"{path} has no {name} of {rank} axes: it holds another network than MoCo-v3's vision transformer",
        )
        return tensors[name].shape

    _, patches, D = shape("pos_embed", 3)
    stem = "patch_embed.proj.weight" not in tensors
    blocks = {int(found[1]) for name in tensors if (found := re.match(r"blocks\.(\d+)\.", name))}
    halvings = sum(bool(re.fullmatch(r"patch_embed\.proj\.\d+\.running_mean", name)) for name in tensors)
    patch = 2**halvings if stem else shape("patch_embed.proj.weight", 4)[2]
    heads = heads or HEADS.get(D)
    if heads is None:
        raise UserError(f"{path} holds a vision transformer of width {D}: how many heads has its attention (--heads)?")
    return RepresentationConfig(
        Tower(D, len(blocks), heads, shape("blocks.0.mlp.fc1.weight", 2)[0], "gelu", 1e-6),
        resolution=max(math.isqrt(patches - 1), 1) * patch,
        patch=patch,
        stem=stem,
        head_width=shape("head.0.weight", 2)[0],
        width=shape("head.6.weight", 2)[0],
    )


def _apart(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """With the three parts of attention's first product each by itself; nothing is read."""
    parts = {}
    for name, tensor in tensors.items():
        before, fused, after = name.partition(".attn.qkv.")
        if not fused:
            parts[name] = tensor.squeezed() if name == "cls_token" else tensor
            continue
        D = tensor.shape[0] // 3
        for i, part in enumerate(("query", "key", "value")):
            parts[f"{before}.attn.{part}.{after}"] = tensor.rows(i * D, (i + 1) * D)
    return parts


def _source(name: str, config: RepresentationConfig) -> Source:
    """Where a parameter comes from: its path here, to a name there."""
    kind = name.rpartition("/")[2]
    leaf = {"kernel": "weight", "scale": "weight", "mean": "running_mean", "var": "running_var"}.get(kind, kind)
    if name == "tower/class":
        return Source("cls_token")
    if found := re.search(r"head/(dense|norm)(\d)/", name):
        # Products at 0, 3 and 6, each with a norm after it.
        place = 3 * int(found[2]) + (found[1] == "norm")
        return Source(f"head.{place}.{leaf}", KERNEL if kind == "kernel" else None)
    if found := re.search(r"tower/(patches|stem(\d+)(_norm)?)/", name):
        halvings = config.patch.bit_length() - 1
        place = 3 * int(found[2]) + bool(found[3]) if found[2] else 3 * halvings
        where = f"proj.{place}" if config.stem else "proj"
        return Source(f"patch_embed.{where}.{leaf}", CONVOLUTION if kind == "kernel" else None)
    if found := re.match(r"tower/block(\d+)/(\w+)/", name):
        there = {"out": "attn.proj", "mlp1": "mlp.fc1", "mlp2": "mlp.fc2", "norm1": "norm1", "norm2": "norm2"}
        part = there.get(found[2], f"attn.{found[2]}")
        return Source(f"blocks.{found[1]}.{part}.{leaf}", KERNEL if kind == "kernel" else None)
    return Source(f"norm.{leaf}")
