"""An encoder of images alone, trained by MoCo-v3 or published, and the representation that RCG draws from.

    x = [class; patches] + position;  f = norm(tower(x)) at the class token                                         (1)
    p = BN(W_3 relu(BN(W_2 relu(BN(W_1 f)))))                 the last BN without scale and shift                    (2)
    r = (p - mean(p)) / std(p)                                over its own D values, std with D - 1 in the divisor   (3)

Positions are sines and cosines of row and column, not learned. A system holds its parameters frozen beside its own
(`train.rates`: "^encoder/", 0), so that the representations of a batch are made in the step. They have three parts:
`tower`, `head` and `statistics`, the BatchNorms' means and variances, which are constants. In training BatchNorms take
those of the batch, over all devices; what is drawn with are those over training records, of the weights as they are at
the end (`measured`). A CLIP may stand in its place (`representation_of`).
Sources: MoCo-v3, Chen et al. 2021 (arXiv 2104.02057); RCG, Li et al. 2023 (arXiv 2312.03701); statistics that are
measured afterwards, Wu and Johnson 2021 (arXiv 2105.07576).
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict
from jaxtyping import Array, Float, Key

from reimagen_jax.encoders.joint import Joint
from reimagen_jax.encoders.settings import JointConfig, RepresentationConfig
from reimagen_jax.encoders.towers import Tokenizer, unit
from reimagen_jax.errors import UserError, require
from reimagen_jax.nets.transformer import Block, norm, states

BN_EPSILON = 1e-5


@runtime_checkable
class Represents(Protocol):
    """What systems know of an encoder of images; pure functions of its parameters."""

    @property
    def width(self) -> int:
        """D: values of a representation."""
        ...

    def init(self, key: Key[Array, ""]) -> Any:
        """Random parameters."""
        ...

    def represent(self, params: Any, x_BHWC: Float[Array, "b h w 3"]) -> Float[Array, "b d"]:
        """(3) of images in [-1, 1] of any size."""
        ...


def representation_of(config: RepresentationConfig | JointConfig) -> Represents:
    """The functions that these settings are of. Raises `UserError` for a CLIP without an image tower."""
    if isinstance(config, RepresentationConfig):
        return Representation(config)
    require(config.image is not None, "this CLIP has no image tower (image): it cannot represent images")
    return JointRepresentation(config)


def normalised(r_BD: Float[Array, "*b d"]) -> Float[Array, "*b d"]:
    """(3)"""
    r_BD = r_BD - r_BD.mean(axis=-1, keepdims=True)
    # Published without an epsilon: this one keeps a constant vector from becoming NaN, and changes no other.
    return r_BD / jnp.maximum(r_BD.std(axis=-1, keepdims=True, ddof=1), 1e-12)


class BatchNorm(nn.Module):
    """Over batch and pixels, float32; with the statistics of the batch, which become its own, or with its own."""

    train: bool
    affine: bool = True

    @nn.compact
    def __call__(self, x: Float[Array, "b *s c"]) -> Float[Array, "b *s c"]:
        options = {"use_bias": self.affine, "use_scale": self.affine, "use_fast_variance": False, "dtype": jnp.float32}
        return nn.BatchNorm(not self.train, momentum=0.0, epsilon=BN_EPSILON, name="bn", **options)(x)


class VisionTower(nn.Module):
    """(1) of images at its resolution, normalised: float32."""

    config: RepresentationConfig
    train: bool = False

    @nn.compact
    def __call__(self, x_BHWC: Float[Array, "b r r 3"]) -> Float[Array, "b width"]:
        config, D, patch = self.config, self.config.tower.width, self.config.patch
        x = self.halved(x_BHWC) if config.stem else nn.Conv(
            D, (patch, patch), (patch, patch), "VALID", dtype=config.dtype, kernel_init=_patches, name="patches"
        )(x_BHWC)  # fmt: skip
        x = x.reshape(len(x), -1, D).astype(jnp.float32) + positions(config)[None]
        class_D = self.param("class", nn.initializers.normal(1e-6), (D,)).astype(jnp.float32)
        x = jnp.concatenate([jnp.broadcast_to(class_D, (len(x), 1, D)), x], axis=1)
        for i in range(config.tower.depth):
            x = Block(config.tower, config.dtype, "float32", name=f"block{i}")(x)
        return norm(config.tower, "norm")(x)[:, 0]  # (1)

    def halved(self, x: Float[Array, "b r r 3"]) -> Float[Array, "b s s d"]:
        """Patches as tokens, by as many convolutions as halve a patch to one pixel."""
        config, D = self.config, self.config.tower.width
        halvings = config.patch.bit_length() - 1
        for i in range(halvings):
            width, options = D >> (halvings - 1 - i), {"use_bias": False, "dtype": config.dtype, "name": f"stem{i}"}
            x = nn.Conv(width, (3, 3), (2, 2), ((1, 1), (1, 1)), **options)(x)
            x = nn.relu(BatchNorm(self.train, name=f"stem{i}_norm")(x.astype(jnp.float32)))
        return nn.Conv(D, (1, 1), dtype=config.dtype, name="patches")(x)


class Head(nn.Module):
    """(2): float32."""

    config: RepresentationConfig
    train: bool = False

    @nn.compact
    def __call__(self, f_BD: Float[Array, "b width"]) -> Float[Array, "b d"]:
        return mlp(f_BD, (self.config.head_width,) * 2, self.config.width, self.train, self.config.dtype)


def mlp(x: Float[Array, "b c"], hidden: Sequence[int], width: int, train: bool, dtype: str) -> Float[Array, "b d"]:
    """Products without biases, each with a BatchNorm, and all but the last with a relu: MoCo-v3's projector and
    predictor. To be called within a compact module."""
    for i, channels in enumerate((*hidden, width)):
        x = nn.Dense(channels, use_bias=False, dtype=dtype, name=f"dense{i}")(x).astype(jnp.float32)
        x = BatchNorm(train, affine=i < len(hidden), name=f"norm{i}")(x)
        x = nn.relu(x) if i < len(hidden) else x
    return x


class Encoder(nn.Module):
    """(1) and (2)."""

    config: RepresentationConfig
    train: bool = False

    def setup(self) -> None:
        self.tower = VisionTower(self.config, self.train)
        self.head = Head(self.config, self.train)

    def features(self, x_BHWC: Float[Array, "b r r 3"]) -> Float[Array, "b width"]:
        """(1)"""
        return self.tower(x_BHWC)

    def __call__(self, x_BHWC: Float[Array, "b r r 3"]) -> tuple[Float[Array, "b width"], Float[Array, "b d"]]:
        """(1) and (2)."""
        f_BD = self.tower(x_BHWC)
        return f_BD, self.head(f_BD)


@dataclass(frozen=True)
class Representation:
    """The functions of an encoder; holds settings only."""

    config: RepresentationConfig

    @property
    def width(self) -> int:
        """D: values of a representation."""
        return self.config.width if self.config.projected else self.config.tower.width

    def init(self, key: Key[Array, ""]) -> Any:
        """Random parameters, float32; statistics of nothing: means 0 and variances 1."""
        side = self.config.resolution
        variables = Encoder(self.config).init(key, jnp.zeros((1, side, side, 3)))
        return {**variables["params"], "statistics": variables["batch_stats"]}

    def features(self, params: Any, x_BHWC: Float[Array, "b h w 3"]) -> Float[Array, "b width"]:
        """(1) of images in [-1, 1] of any size."""
        return Encoder(self.config).apply(_variables(params), self.pixels(x_BHWC), method="features")

    def states(self, params: Any, x_BHWC: Float[Array, "b h w 3"]) -> list[Float[Array, "b m width"]]:
        """The tokens after each block, of images in [-1, 1] of any size."""
        return states(Encoder(self.config), _variables(params), self.pixels(x_BHWC), "features")

    def represent(self, params: Any, x_BHWC: Float[Array, "b h w 3"]) -> Float[Array, "b d"]:
        """(3) of images in [-1, 1] of any size."""
        if not self.config.projected:
            return normalised(self.features(params, x_BHWC))
        return normalised(Encoder(self.config).apply(_variables(params), self.pixels(x_BHWC))[1])  # (2), (3)

    def training(
        self, params: Any, x_BHWC: Float[Array, "b h w 3"]
    ) -> tuple[Float[Array, "b width"], Float[Array, "b d"], Any]:
        """(1) and (2) with the statistics of this batch, and these."""
        net, pixels = Encoder(self.config, train=True), self.pixels(x_BHWC)
        (f_BD, p_BD), told = net.apply(_variables(params), pixels, mutable="batch_stats")
        return f_BD, p_BD, told["batch_stats"]

    def pixels(self, x_BHWC: Float[Array, "b h w 3"]) -> Float[Array, "b r r 3"]:
        """Images in [-1, 1] of any size as the tower reads them: normalised, then resized (cubic)."""
        config, side = self.config, self.config.resolution
        mean, std = (np.array(each, np.float32).reshape(1, 1, 1, 3) for each in (config.mean, config.std))
        x_BHWC = ((x_BHWC + 1.0) * 0.5 - mean) / std
        if config.smoothed and x_BHWC.shape[1:3] != (side, side):
            return jax.image.resize(x_BHWC, (len(x_BHWC), side, side, 3), "cubic")
        return bicubic(x_BHWC, side)

    def measured(self, params: Any, batches: Iterable[Float[Array, "b h w 3"]]) -> Any:
        """The parameters with statistics over all of these batches, each normalised by its own.

        The variance is that of all examples: of the batches' means, besides that within them. Raises `UserError`
        without any batch.
        """
        told = jax.jit(lambda params, x_BHWC: self.training(params, x_BHWC)[2])
        batches = [flatten_dict(jax.device_get(told(params, x_BHWC))) for x_BHWC in batches]
        require(bool(batches), "no images: the statistics of BatchNorms are measured on some")
        found = {}
        for path in batches[0]:
            *layer, kind = path
            mean_NC, var_NC = (np.stack([batch[(*layer, name)] for batch in batches]) for name in ("mean", "var"))
            mean_NC = mean_NC.astype(np.float64)
            # The means over batches, and how these differ from each other besides.
            value_C = mean_NC.mean(axis=0) if kind == "mean" else var_NC.mean(axis=0) + mean_NC.var(axis=0)
            found[path] = value_C.astype(np.float32)
        return {**params, "statistics": unflatten_dict(found)}

    def embed_images(self, params: Any, x_BHWC: Float[Array, "b h w 3"]) -> Float[Array, "b d"]:
        """Representations of length 1, to compare images by."""
        return unit(self.represent(params, x_BHWC))

    def embed_texts(self, params: Any, tokens_BL: Any) -> Any:
        """Raises `UserError`: it reads none."""
        raise _reads_no_text()

    def tokenizer(self) -> Tokenizer:
        """Raises `UserError`: it reads no texts."""
        raise _reads_no_text()


@dataclass(frozen=True)
class JointRepresentation:
    """A CLIP's image tower in a representation's place; its parameters are those of the whole CLIP."""

    config: JointConfig

    @property
    def width(self) -> int:
        """D: values of a representation."""
        return self.config.width

    def init(self, key: Key[Array, ""]) -> Any:
        """Random parameters."""
        return Joint(self.config).init(key)

    def represent(self, params: Any, x_BHWC: Float[Array, "b h w 3"]) -> Float[Array, "b d"]:
        """(3) of the vectors of images in [-1, 1] of any size."""
        return normalised(Joint(self.config).images(params, x_BHWC))


def positions(config: RepresentationConfig) -> np.ndarray:
    """float32 [patches, D]: sines and cosines of the row, then of the column, at D/4 frequencies."""
    side, D = config.resolution // config.patch, config.tower.width
    frequency_F = 10_000.0 ** -(np.arange(D // 4) / (D // 4))
    row_M, column_M = (axis.ravel() for axis in np.mgrid[:side, :side])
    angles = [place_M[:, None] * frequency_F[None] for place_M in (row_M, column_M)]
    waves = [wave(angle_MF) for angle_MF in angles for wave in (np.sin, np.cos)]
    return np.concatenate(waves, axis=1).astype(np.float32)


def bicubic(x_BHWC: Float[Array, "b h w c"], side: int) -> Float[Array, "b r r c"]:
    """Images resized to side x side as PyTorch does: cubic with a = -0.75, edges repeated, no smoothing.

    (`jax.image.resize` has a = -0.5.)
    """
    for axis in (1, 2):
        if x_BHWC.shape[axis] != side:
            weight_RH = _cubic(x_BHWC.shape[axis], side)
            x_BHWC = jnp.moveaxis(jnp.tensordot(weight_RH, x_BHWC, (1, axis)), 0, axis)
    return x_BHWC


def _cubic(size: int, side: int, a: float = -0.75) -> np.ndarray:
    """float32 [side, size]: what each new pixel takes of each old one (Keys 1981, with his a)."""
    centre_R = (np.arange(side) + 0.5) * (size / side) - 0.5
    first_R = np.floor(centre_R).astype(int)
    weight_RH = np.zeros((side, size))
    for tap in range(-1, 3):
        d_R = np.abs(centre_R - (first_R + tap))
        near_R, far_R = ((a + 2) * d_R - (a + 3)) * d_R**2 + 1, ((d_R - 5) * d_R + 8) * d_R * a - 4 * a
        np.add.at(weight_RH, (np.arange(side), np.clip(first_R + tap, 0, size - 1)), np.where(d_R <= 1, near_R, far_R))
    return weight_RH.astype(np.float32)


def _patches(key: Array, shape: tuple[int, ...], dtype: Any = jnp.float32) -> Array:
    """Of the product that makes tokens of patches, uniform: it may stay as it begins (MoCo-v3, section 4.2)."""
    limit = float(np.sqrt(6.0 / (np.prod(shape[:-1]) + shape[-1])))
    return jax.random.uniform(key, shape, dtype, -limit, limit)


def _variables(params: Any) -> Any:
    return {"params": {name: params[name] for name in ("tower", "head")}, "batch_stats": params["statistics"]}


def _reads_no_text() -> UserError:
    return UserError("this encoder reads images alone: it knows no texts, search by images or take one of both")
