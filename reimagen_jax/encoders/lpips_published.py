"""LPIPS' published weights as ours: a VGG's convolutions, and how much each channel counts.

Both are read without running them, from safetensors or from PyTorch's files: the VGG by torchvision's names
(`features.0.weight`, as in vgg16-397923af.pth, or timm's safetensors of it), the channels by LPIPS' own
(`lin0.model.1.weight`, as in weights/v0.1/vgg.pth). Its classifier is not looked at.
"""

import re
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from reimagen_jax import randomness
from reimagen_jax.encoders.lpips import Lpips
from reimagen_jax.encoders.settings import LpipsConfig
from reimagen_jax.errors import require
from reimagen_jax.nets.settings import VGGConfig
from reimagen_jax.pretrained.finite import require_finite
from reimagen_jax.pretrained.pickles import PickleCheckpoint, state_dict
from reimagen_jax.pretrained.safetensors_reader import CONVOLUTION, Checkpoint, Source, load, open_checkpoint

FEATURES, CHANNELS = r"features\.(\d+)\.weight", r"lin(\d+)\.model\.1\.weight"


def published(vgg: str | Path, channels: str | Path) -> tuple[LpipsConfig, Any]:
    """Settings and parameters (float32) of the two files, which may be one.

    Raises `UserError` on a file that is damaged, that would run anything, or that holds another network.
    """
    files = {path: _opened(Path(path)) for path in {vgg, channels}}
    config = _settings(Path(vgg), files[vgg])
    expected, names = jax.eval_shape(Lpips(config).init, randomness.key(0)), _names(config)
    params = load(files[vgg], {"vgg": expected["vgg"]}, lambda path: _convolution(path, names), ignore=("^lin",))
    found = {name: files[channels].shape(name) for name in files[channels] if re.fullmatch(CHANNELS, name)}
    wanted = {f"lin{i}.model.1.weight": (1, width, 1, 1) for i, width in enumerate(config.vgg.widths)}
    require(
        found == wanted,
        f"{channels} does not tell how much the channels of {vgg} count: it has {found or 'nothing'}, not {wanted}",
    )
    for i, name in enumerate(wanted):
        count_C = np.asarray(files[channels].read(name).reshape(-1), np.float32)
        require_finite(count_C, name, str(channels))
        require((count_C >= 0).all(), f"{channels}: {name} has negative values, by which nothing is a distance")
        params[f"channels{i}"] = jnp.asarray(count_C)
    return config, params


def _opened(path: Path) -> Checkpoint | PickleCheckpoint:
    if path.suffix == ".safetensors":
        return open_checkpoint(path)
    return PickleCheckpoint(path, state_dict(path))


def _settings(path: Path, checkpoint: Checkpoint | PickleCheckpoint) -> LpipsConfig:
    """What names and shapes tell: a convolution takes two places, its relu one of them, and so does no maximum."""
    places = sorted(int(found[1]) for name in checkpoint if (found := re.fullmatch(FEATURES, name)))
    require(places[:1] == [0], f"{path} holds no VGG: it has no features.0.weight, as torchvision calls it")
    widths, counts = [], []
    for before, place in zip([-3, *places], places, strict=False):
        gap, shape = place - before, checkpoint.shape(f"features.{place}.weight")
        require(
            gap in (2, 3) and len(shape) == 4 and shape[2:] == (3, 3),
            f"{path} is no plain VGG: features.{place}.weight of shape {shape} follows features.{before}",
        )
        if gap == 3:  # behind a maximum
            widths.append(shape[0])
            counts.append(0)
        counts[-1] += 1
    return LpipsConfig(VGGConfig(tuple(widths), tuple(counts)))


def _names(config: LpipsConfig) -> dict[str, str]:
    """Our convolutions -> theirs."""
    names, place = {}, 0
    for level, count in enumerate(config.vgg.convolutions):
        for i in range(count):
            names[f"conv{level}_{i}"] = f"features.{place + 2 * i}"
        place += 2 * count + 1
    return names


def _convolution(path: str, names: dict[str, str]) -> Source:
    _, module, leaf = path.split("/")
    if leaf == "kernel":
        return Source(f"{names[module]}.weight", CONVOLUTION)
    return Source(f"{names[module]}.bias")
