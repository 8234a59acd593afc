"""A small dual encoder: a text and an image become unit vectors, near each other where they belong together.

    (1) text:   bytes -> byte transformer -> mean over tokens -> linear -> w / |w|
    (2) image:  (halve the sides, residual block) until they are 4 -> linear -> u / |u|
Trained on the user's own records (systems/dual), it knows their names and looks and nothing else of the world. It
is for where no CLIP weights are at hand, and for pictures unlike those that CLIP has seen.
Source: the two towers are CLIP's idea (Radford et al. 2021), at a thousandth of its size.
"""

import dataclasses
import functools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int32, UInt8

from reimagen_jax import randomness
from reimagen_jax.checked import identity, parse, read
from reimagen_jax.config import without_local
from reimagen_jax.data.manifest import Manifest, Text, open_folder, write_manifest
from reimagen_jax.encoders.bytes import ByteEncoder
from reimagen_jax.encoders.image_function import ImageFunction
from reimagen_jax.encoders.settings import DualConfig, JointConfig, LpipsConfig, Network, RepresentationConfig
from reimagen_jax.encoders.tokenizers import ByteTokenizer
from reimagen_jax.encoders.towers import Tokenizer, Towers, as_floats, unit
from reimagen_jax.errors import require
from reimagen_jax.files import write_json
from reimagen_jax.pretrained.weights import WEIGHTS, fingerprint, load_params, save_params

KIND = "encoder"
SETTINGS = "encoder.json"
BATCH = 256
HOTTEST = math.log(100.0)
"""Limit of the learned scale's logarithm, as CLIP's: beyond it training is unstable."""


@dataclass(frozen=True)
class _Manifest(Manifest):
    """Of an encoder."""

    fingerprint: Text
    encoder: Text = "dual"


NETWORKS = {"dual": DualConfig, "clip": JointConfig, "representation": RepresentationConfig, "lpips": LpipsConfig}
"""The settings of a network, by what the manifest calls it."""


class ImageTower(nn.Module):
    """(2) without the last step."""

    config: DualConfig

    @nn.compact
    def __call__(self, x_BHWC: Float[Array, "b r r 3"]) -> Float[Array, "b d"]:
        def norm_act(x: Array) -> Array:
            return nn.swish(nn.GroupNorm(self.config.groups)(x))

        x = x_BHWC
        for channels in self.config.image_channels:
            x = nn.Conv(channels, (4, 4), strides=(2, 2))(x)
            x = x + nn.Conv(channels, (3, 3))(norm_act(x))
        return nn.Dense(self.config.width)(norm_act(x).reshape(x.shape[0], -1))


class TextTower(nn.Module):
    """(1) without the last step."""

    config: DualConfig

    @nn.compact
    def __call__(self, tokens_BL: Int32[Array, "b l"]) -> Float[Array, "b d"]:
        text_BMD, mask_BM = ByteEncoder(self.config.text, name="bytes")(tokens_BL)
        weight_BM = mask_BM.astype(jnp.float32) / jnp.maximum(mask_BM.sum(axis=1, keepdims=True), 1).astype(jnp.float32)
        pooled_BD = jnp.einsum("bmd,bm->bd", text_BMD, weight_BM)
        # Without a bias, a text of no bytes would have no direction.
        return nn.Dense(self.config.width, bias_init=nn.initializers.normal(0.02), name="out")(pooled_BD)


class DualNet(nn.Module):
    """Both towers, and the scale that turns cosines into logits in training."""

    config: DualConfig

    def setup(self) -> None:
        self.image_tower = ImageTower(self.config)
        self.text_tower = TextTower(self.config)
        self.log_scale = self.param("log_scale", nn.initializers.constant(math.log(1 / 0.07)), ())

    def images(self, image_BHWC: UInt8[Array, "b r r 3"]) -> Float[Array, "b d"]:
        """(2)"""
        return self.pictures(as_floats(image_BHWC))

    def pictures(self, x_BHWC: Float[Array, "b r r 3"]) -> Float[Array, "b d"]:
        """(2) of images in [-1, 1]."""
        return unit(self.image_tower(x_BHWC))

    def texts(self, tokens_BL: Int32[Array, "b l"]) -> Float[Array, "b d"]:
        """(1)"""
        return unit(self.text_tower(tokens_BL))

    def __call__(
        self, image_BHWC: UInt8[Array, "b r r 3"], tokens_BL: Int32[Array, "b l"]
    ) -> tuple[Float[Array, "b d"], Float[Array, "b d"], Float[Array, ""]]:
        """Vectors of images and of texts, and the scale."""
        return self.images(image_BHWC), self.texts(tokens_BL), jnp.exp(jnp.minimum(self.log_scale, HOTTEST))


def init(config: DualConfig, key: Array) -> Any:
    """Random parameters. Pure."""
    return Dual(config).init(key)


@dataclass(frozen=True)
class Dual:
    """The small towers' functions (`Towers`); holds settings only."""

    config: DualConfig

    @property
    def width(self) -> int:
        """D: values of a vector."""
        return self.config.width

    def init(self, key: Array) -> Any:
        """Random parameters."""
        side = self.config.resolution
        image = jnp.zeros((1, side, side, 3), jnp.uint8)
        return DualNet(self.config).init(key, image, jnp.zeros((1, self.config.max_bytes), jnp.int32))["params"]

    def embed_texts(self, params: Any, tokens_BL: Int32[Array, "b l"]) -> Float[Array, "b d"]:
        """(1)"""
        return DualNet(self.config).apply({"params": params}, tokens_BL, method="texts")

    def embed_images(self, params: Any, x_BHWC: Float[Array, "b r r 3"]) -> Float[Array, "b d"]:
        """(2)"""
        return DualNet(self.config).apply({"params": params}, x_BHWC, method="pictures")

    def tokenizer(self) -> Tokenizer:
        """Bytes."""
        return ByteTokenizer(self.config.max_bytes)


def towers_of(config: Network) -> Towers:
    """The towers that these settings are of. An encoder of images alone has one: it refuses texts."""
    if isinstance(config, DualConfig):
        return Dual(config)
    if isinstance(config, RepresentationConfig):
        from reimagen_jax.encoders.representation import Representation

        return Representation(config)
    if isinstance(config, LpipsConfig):
        from reimagen_jax.encoders.lpips import Lpips

        return Lpips(config)
    from reimagen_jax.encoders.joint import Joint

    return Joint(config)


@dataclass(frozen=True, eq=False)
class DualEncoder:
    """Trained towers of texts and images, small ones or a CLIP, or one of images alone: a `VectorEncoder`."""

    config: Network
    params: Any = field(repr=False)
    facts: Mapping[str, Any] = field(default_factory=dict, repr=False)
    """How it was trained, on what, and what was measured; JSON."""

    @property
    def towers(self) -> Towers:
        """Its functions."""
        return towers_of(self.config)

    @property
    def width(self) -> int:
        return self.towers.width

    @property
    def resolution(self) -> int:
        return self.config.resolution

    @property
    def kind(self) -> str:
        """`dual`, the small towers, `clip`, `representation` or `lpips`, of images alone."""
        return next(name for name, settings in NETWORKS.items() if isinstance(self.config, settings))

    @functools.cached_property
    def fingerprint(self) -> str:
        """Checksum of the network and its weights."""
        return f"{self.kind} {fingerprint(self.params, identity(without_local(self.config)))[:24]}"

    def texts(self, texts: Sequence[str]) -> np.ndarray:
        """Unit vectors float32 [N, D]."""
        return self._encoded(_program(self.config, "text"), self._tokenizer.encode(texts))

    def images(self, images: np.ndarray) -> np.ndarray:
        """Unit vectors float32 [N, D] of uint8 [N, R, R, 3]. Raises `UserError` on images of another size or type."""
        side = self.resolution
        require(
            images.dtype == np.uint8 and images.shape[1:] == (side, side, 3),
            f"this encoder reads uint8 images [N, {side}, {side}, 3], not {images.dtype} {list(images.shape)}",
        )
        return self._encoded(_program(self.config, "image"), images)

    def image_function(self) -> ImageFunction:
        """The image tower as a function to differentiate."""
        return ImageFunction(self.towers.embed_images, self.params, self.resolution)

    def save(self, folder: str | Path) -> None:
        """Writes weights, settings and manifest into an existing folder, after what else belongs to it."""
        folder = Path(folder)
        save_params(folder / WEIGHTS, self.params)
        write_json(folder / SETTINGS, {"network": dataclasses.asdict(self.config), **self.facts})
        write_manifest(folder, KIND, {"encoder": self.kind, "fingerprint": self.fingerprint})

    @functools.cached_property
    def _tokenizer(self) -> Tokenizer:
        return self.towers.tokenizer()

    def _encoded(self, program: Callable[[Any, Array], Array], rows: np.ndarray) -> np.ndarray:
        vectors_ND = np.zeros((len(rows), self.width), np.float32)
        for part, padded in _batches(rows):
            vectors_ND[part] = np.asarray(program(self.params, padded))[: len(vectors_ND[part])]
        return vectors_ND


@functools.cache
def _program(config: Network, of: str) -> Callable[[Any, Array], Array]:
    """One of the towers, compiled once for each network."""
    towers = towers_of(config)
    if of == "text":
        return jax.jit(towers.embed_texts)
    return jax.jit(lambda params, image_BHWC: towers.embed_images(params, as_floats(image_BHWC)))


def _batches(rows: np.ndarray) -> Iterator[tuple[slice, np.ndarray]]:
    """Places and rows, padded with zeros to one of two sizes: few are asked in a moment, many are encoded fast."""
    size = BATCH if len(rows) > BATCH // 8 else BATCH // 8
    for start in range(0, len(rows), size):
        part = rows[start : start + size]
        missing = np.zeros((size - len(part), *rows.shape[1:]), rows.dtype)
        yield slice(start, start + len(part)), np.concatenate([part, missing])


def open(folder: str | Path) -> DualEncoder:
    """Opens what `reimagen encode-train` wrote. Raises `UserError` when it is missing, damaged or of another format."""
    opened = open_folder(folder, KIND, _Manifest)
    settings = read(opened / SETTINGS, dict[str, Any], "the settings of an encoder")
    kind = NETWORKS.get(opened.manifest.get("encoder", "dual"))
    require(kind is not None, f"{folder} holds an encoder of a kind that is not known here, only {', '.join(NETWORKS)}")
    config = parse(kind, settings.pop("network", None), f"{opened / SETTINGS}.network")
    expected = jax.eval_shape(towers_of(config).init, randomness.key(0))
    with opened.opened.reading("train it again"):
        encoder = DualEncoder(config, load_params(opened.path / WEIGHTS, expected), settings)
        require(
            encoder.fingerprint == opened.manifest["fingerprint"],
            f"{opened.path / WEIGHTS} is damaged: its checksum is not that of the manifest; train it again",
        )
    return encoder
