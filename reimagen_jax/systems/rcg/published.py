"""RCG's published representation diffusion models as ours, with the encoder that lies in the same file.

PyTorch's file is read without running it. What is taken of the network are its averages, which the published sampler
draws with; those are stored without the dots of their names. An unconditional model has a table of one class beside,
which does nothing. The encoder is MoCo-v3's: Meta AI's weights are licensed under CC BY-NC 4.0, not for commercial use,
nor is what holds them.
"""

import re
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from reimagen_jax import randomness
from reimagen_jax.config import Experiment, TrainConfig
from reimagen_jax.encoders.moco_published import LICENCE, of_tensors
from reimagen_jax.errors import require
from reimagen_jax.nets.settings import LatentMLPConfig
from reimagen_jax.pretrained.pickles import PickleCheckpoint, Tensor, state_dict
from reimagen_jax.pretrained.safetensors_reader import KERNEL, Source, load
from reimagen_jax.systems.rcg.rdm import Rdm
from reimagen_jax.systems.rcg.settings import FROZEN, PicturesConfig, RdmConfig

__all__ = ["LICENCE", "holds_rdm", "read"]

NETWORK, AVERAGE, ENCODER = "model.diffusion_model.", "model_ema.", "pretrained_encoder."
CLASSES = "cond_stage_model.embedding.weight"
SIDE = 256
"""Of the images that published representations are made of."""


def holds_rdm(path: Path) -> bool:
    """Whether a file of PyTorch's holds an RDM. Raises `UserError` on one that is damaged, or would run anything."""
    return any(name.startswith(NETWORK) for name in state_dict(path))


def read(path: str | Path, name: str, heads: int | None = None) -> tuple[Experiment, Any]:
    """The experiment and the parameters (float32) of the RDM in a file.

    `heads` as of `moco_published.published`. Raises `UserError` on a file that is damaged, that would run anything, or
    that holds another network.
    """
    path = Path(path)
    found = state_dict(path)
    tensors = _averages(path, found)
    inside = {each.removeprefix(ENCODER): tensor for each, tensor in found.items() if each.startswith(ENCODER)}
    require(bool(inside), f"{path} holds no encoder ({ENCODER}...), by which its representations are made")
    encoder, encoder_params = of_tensors(path, inside, heads)
    by_class = "res_blocks.0.context_layers.1.weight" in tensors
    mlp = _settings(path, tensors)
    classes, params = (), {"encoder": encoder_params}
    if by_class:
        require(CLASSES in found, f"{path} holds no {CLASSES}, what its classes are told by")
        embedding_NC = jnp.asarray(found[CLASSES].read(), jnp.float32)
        classes = tuple(str(i) for i in range(len(embedding_NC)))
        # It has learned no dropped class, whose row stands last in ours.
        params["classes"] = {"embedding": jnp.concatenate([embedding_NC, jnp.zeros_like(embedding_NC[:1])])}
    config = Experiment(
        name,
        RdmConfig(encoder=encoder, classes=classes, mlp=mlp, side=SIDE, class_drop=0.0),
        PicturesConfig(class_by="label" if by_class else ""),
        train=TrainConfig(rates=(FROZEN,)),
    )
    expected = jax.eval_shape(Rdm(config).init, randomness.key(0))["rdm"]
    return config, params | {"rdm": load(PickleCheckpoint(path, tensors), expected, _source)}


def _averages(path: Path, found: dict[str, Tensor]) -> dict[str, Tensor]:
    """The averages of the network's parameters, under the parameters' names."""
    tensors = {}
    for name in found:
        if name.startswith(NETWORK):
            plain = name.removeprefix(NETWORK)
            average = AVERAGE + name.removeprefix("model.").replace(".", "")
            require(average in found, f"{path} holds {name}, but not its average, {average}")
            tensors[plain] = found[average]
    require(bool(tensors), f"{path} holds no representation diffusion model ({NETWORK}...)")
    return tensors


def _settings(path: Path, tensors: dict[str, Tensor]) -> LatentMLPConfig:
    """What the shapes tell. Raises `UserError` where they do not."""

    def shape(name: str) -> tuple[int, ...]:
        require(
            name in tensors and len(tensors[name].shape) == 2,
            f"{path} has no {name} of 2 axes: it holds another network than RCG's",
        )
        return tensors[name].shape

    blocks = {int(found[1]) for name in tensors if (found := re.match(r"res_blocks\.(\d+)\.", name))}
    context = "res_blocks.0.context_layers.1.weight"
    return LatentMLPConfig(
        width=shape("input_proj.weight")[0],
        depth=len(blocks),
        time_width=shape("time_embed.0.weight")[0],
        class_width=shape(context)[1] if context in tensors else LatentMLPConfig.class_width,
    )


PARTS = {
    "time1": "time_embed.0",
    "time2": "time_embed.2",
    "input": "input_proj",
    "norm": "out.0",
    "out": "out.2",
    "norm1": "in_layers.0",
    "first": "in_layers.2",
    "time": "emb_layers.1",
    "context": "context_layers.1",
    "norm2": "out_layers.0",
    "second": "out_layers.3",
}
"""Modules of ours -> of theirs."""


def _source(name: str) -> Source:
    """Where a parameter comes from: its path here, to a name there."""
    *block, part, leaf = name.split("/")
    before = f"res_blocks.{block[0].removeprefix('block')}." if block else ""
    there = {"kernel": "weight", "scale": "weight"}.get(leaf, leaf)
    return Source(f"{before}{PARTS[part]}.{there}", KERNEL if leaf == "kernel" else None)
