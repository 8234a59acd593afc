"""The published weights of FID's Inception (`pt_inception-2015-12-05-6726825d.pth`, or torch-fidelity's of the same
values), read without running what is in the file; and how pictures come to it, which decides figures as weights do.

    pytorch-fid      bilinear at half-pixel centres, never smoothed: u = (i + 1/2) s / 299 - 1/2;  x / 127.5 - 1     (1)
    torch-fidelity   bilinear from the corner, as TensorFlow 1 did:  u = i s / 299;                (x - 128) / 128   (2)
    clean            Pillow's bicubic, smoothed on the way down, channel by channel in floats, cut to 0..255;
                     (x - 128) / 128                                                                                 (3)

Whole pictures are resized, whatever their sides: squeezed, not cut. The ADM suite, and RCG's figures, resize as (2).
Sources: pytorch-fid; torch-fidelity; Parmar, Zhang and Zhu 2022 (arXiv 2104.11222).
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image

from reimagen_jax import randomness
from reimagen_jax.encoders.inception import LEAST, SIDE, Inception
from reimagen_jax.encoders.settings import Resizing
from reimagen_jax.errors import require
from reimagen_jax.pretrained.pickles import PickleCheckpoint, state_dict
from reimagen_jax.pretrained.safetensors_reader import CONVOLUTION, KERNEL, Source, fingerprint, load

RESIZINGS: Mapping[Resizing, str] = {
    "pytorch-fid": "bilinear at half-pixel centres, not smoothed",
    "torch-fidelity": "bilinear from the corner as TensorFlow 1, not smoothed; as the ADM suite does, too",
    "clean": "Pillow's bicubic in floats, smoothed",
}
FIRST = "Conv2d_1a_3x3.conv.weight"
_LEAVES = {"scale": "weight", "mean": "running_mean", "var": "running_var", "kernel": "weight"}


class Published(NamedTuple):
    """Read from a file."""

    net: Inception
    params: Any
    fingerprint: str


def published(path: str | Path) -> Published:
    """The network in a file of PyTorch's. Raises `UserError` on one that is damaged, that would run anything, or that
    holds another network, naming what does not fit."""
    path = Path(path)
    tensors = state_dict(path)
    shape = tensors[FIRST].shape if FIRST in tensors else ()
    told = len(shape) == 4 and 0 < shape[0] <= 32 and 32 % shape[0] == 0
    require(told, f"{path} holds no Inception of FID's: there is no {FIRST} of 32 channels in it")
    net, checkpoint = Inception(32 // shape[0]), PickleCheckpoint(path, tensors)
    pictures = jax.ShapeDtypeStruct((1, LEAST, LEAST, 3), np.float32)
    expected = jax.eval_shape(net.init, randomness.key(0), pictures)["params"]
    params = load(checkpoint, expected, source, ignore=("num_batches_tracked$", "^AuxLogits\\."))
    return Published(net, params, fingerprint(checkpoint, [name for name in checkpoint if "tracked" not in name]))


def source(name: str) -> Source:
    """Where a parameter comes from: its path here, to a name there."""
    *modules, leaf = name.split("/")
    axes = None if leaf != "kernel" else KERNEL if modules == ["fc"] else CONVOLUTION
    return Source(".".join([*modules, _LEAVES.get(leaf, leaf)]), axes)


def resized(image_HWC: UInt8[np.ndarray, "h w 3"], how: Resizing, side: int = SIDE) -> Float[np.ndarray, "s s 3"]:
    """A picture as the network takes it: float32 in about [-1, 1]."""
    if how == "clean":
        x = np.clip(_pillow(image_HWC, side), 0, 255)
        return (x - np.float32(128)) / np.float32(128)  # (3)
    x = image_HWC.astype(np.float32)
    for axis in (0, 1):
        x = _between(x, _places(x.shape[axis], side, how), axis)
    return x / np.float32(127.5) - np.float32(1) if how == "pytorch-fid" else (x - np.float32(128)) / np.float32(128)


def _places(size: int, side: int, how: Resizing) -> Float[np.ndarray, " s"]:
    """Where new pixels lie among `size` old ones: (1) with their centres at 1/2, in float32 as PyTorch has it, which
    far from the corner is 1e-5 of a pixel away; (2) with 0."""
    if how == "pytorch-fid":
        half, scale = np.float32(0.5), np.float32(size / side)
        return np.maximum((np.arange(side, dtype=np.float32) + half) * scale - half, np.float32(0))
    return np.arange(side) * (size / side)


def _between(x: Float[np.ndarray, "..."], place_S: Float[np.ndarray, " s"], axis: int) -> Float[np.ndarray, "..."]:
    """The two values around each place, weighed by their nearness."""
    low_S = np.minimum(place_S.astype(int), x.shape[axis] - 1)
    part_S = (place_S - low_S).astype(np.float32).reshape((-1,) + (1,) * (x.ndim - 1 - axis))
    low, high = (np.take(x, each_S, axis) for each_S in (low_S, np.minimum(low_S + 1, x.shape[axis] - 1)))
    return low + (high - low) * part_S


def _pillow(image_HWC: UInt8[np.ndarray, "h w 3"], side: int) -> Float[np.ndarray, "s s 3"]:
    channels = [Image.fromarray(image_HWC[..., c].astype(np.float32)) for c in range(3)]
    return np.stack([np.asarray(each.resize((side, side), Image.Resampling.BICUBIC)) for each in channels], axis=-1)
