"""FID's Inception: InceptionV3 as TensorFlow published it in 2015, with 1,008 classes; papers measure by its features.

A unit is a convolution without bias, a normalisation by constants, and a relu:

    u(x) = relu(scale (w * x - mean) / sqrt(var + 1e-3) + bias)                                                      (1)

It is not torchvision's network: averages over 3 x 3 do not count the padding (2), the last block has their maximum
instead (3), and the Inception Score takes logits before their bias is added (4). Features are means over the map after
one of four places, by their widths: 64 and 192 (the pools of the stem), 768, 2048. What sFID is of is no mean, but a
part of a map: 7 channels of the 1 x 1 unit of the fourth block at 17 x 17, `Mixed_6d.branch1x1` here and
`mixed_6/conv` in TensorFlow's graph, after its relu, in the order height, width, channel (5).
Sources: Szegedy et al. 2015 (arXiv 1512.00567); pytorch-fid's and torch-fidelity's networks, whose names and figures
these are; Nash et al. 2021 (arXiv 2103.03841) and the evaluations of OpenAI's guided-diffusion for (5).
"""

from collections.abc import Sequence
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.lax import Precision
from jaxtyping import Array, Float

from reimagen_jax.encoders.settings import InceptionPoint

POINTS: tuple[InceptionPoint, ...] = (64, 192, 768, 2048)
SIDE = 299
CLASSES = 1008
SPATIAL, PLACES = 7, 17
"""Channels of (5), and the side of its map at 299."""
EPSILON = 1e-3
LEAST = 75
"""Side of the smallest map that the last block is left anything of."""


class Features(NamedTuple):
    """Of B pictures."""

    vector_BD: Float[Array, "b d"]
    logits_BC: Float[Array, "b c"] | None
    """(4); None where the network ends before."""
    spatial_BS: Float[Array, "b s"] | None = None
    """(5); None where the network ends before the last place."""


class Unit(nn.Module):
    """(1), named and laid out as the published weights are."""

    width: int
    kernel: tuple[int, int] = (1, 1)
    stride: int = 1
    padding: tuple[int, int] = (0, 0)

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b i j d"]:
        x = nn.Conv(
            self.width,
            self.kernel,
            (self.stride, self.stride),
            [(self.padding[0],) * 2, (self.padding[1],) * 2],
            use_bias=False,
            precision=Precision.HIGHEST,
            name="conv",
        )(x)
        return nn.relu(_Constants(name="bn")(x))


class _Constants(nn.Module):
    """The normalisation of (1)."""

    @nn.compact
    def __call__(self, x: Float[Array, "b h w d"]) -> Float[Array, "b h w d"]:
        zeros, ones, D = nn.initializers.zeros, nn.initializers.ones, (x.shape[-1],)
        told = [self.param(*each, D) for each in (("scale", ones), ("bias", zeros), ("mean", zeros), ("var", ones))]
        scale, bias, mean, var = (each_D.reshape(1, 1, 1, -1) for each_D in told)
        return (x - mean) * (scale * jax.lax.rsqrt(var + EPSILON)) + bias


class Branches(nn.Module):
    """Rows of units side by side, their maps in one; what is not a unit's is a pool of the input."""

    shrink: int

    def row(self, x: Array, *units: tuple) -> Array:
        """Units behind one another: (name, width, kernel, stride, padding), as `Unit` has them."""
        for name, width, *rest in units:
            x = Unit(width // self.shrink, *rest, name=name)(x)
        return x


THREE, FIVE, WIDE, HIGH = ((3, 3), 1, (1, 1)), ((5, 5), 1, (2, 2)), ((1, 7), 1, (0, 3)), ((7, 1), 1, (3, 0))
FLAT, TALL, HALVED = ((1, 3), 1, (0, 1)), ((3, 1), 1, (1, 0)), ((3, 3), 2)
"""Kernels with their strides and padding: height, then width."""


class BlockA(Branches):
    """At 35 x 35."""

    pooled: int = 64

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h w d"]:
        one = self.row(x, ("branch1x1", 64))
        five = self.row(x, ("branch5x5_1", 48), ("branch5x5_2", 64, *FIVE))
        double = self.row(
            x, ("branch3x3dbl_1", 64), ("branch3x3dbl_2", 96, *THREE), ("branch3x3dbl_3", 96, *THREE)
        )  # fmt: skip
        return jnp.concatenate([one, five, double, self.row(averaged(x), ("branch_pool", self.pooled))], axis=-1)


class BlockB(Branches):
    """From 35 x 35 to 17 x 17."""

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b i j d"]:
        three = self.row(x, ("branch3x3", 384, *HALVED))
        double = self.row(
            x, ("branch3x3dbl_1", 64), ("branch3x3dbl_2", 96, *THREE), ("branch3x3dbl_3", 96, *HALVED)
        )  # fmt: skip
        return jnp.concatenate([three, double, halved(x)], axis=-1)


class BlockC(Branches):
    """At 17 x 17."""

    inner: int = 192

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h w d"]:
        c = self.inner
        one = self.row(x, ("branch1x1", 192))
        seven = self.row(x, ("branch7x7_1", c), ("branch7x7_2", c, *WIDE), ("branch7x7_3", 192, *HIGH))
        names = [f"branch7x7dbl_{i}" for i in range(1, 6)]
        double = self.row(
            x, (names[0], c), (names[1], c, *HIGH), (names[2], c, *WIDE), (names[3], c, *HIGH), (names[4], 192, *WIDE)
        )
        return jnp.concatenate([one, seven, double, self.row(averaged(x), ("branch_pool", 192))], axis=-1)


class BlockD(Branches):
    """From 17 x 17 to 8 x 8."""

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b i j d"]:
        three = self.row(x, ("branch3x3_1", 192), ("branch3x3_2", 320, *HALVED))
        names = [f"branch7x7x3_{i}" for i in range(1, 5)]
        seven = self.row(x, (names[0], 192), (names[1], 192, *WIDE), (names[2], 192, *HIGH), (names[3], 192, *HALVED))
        return jnp.concatenate([three, seven, halved(x)], axis=-1)


class BlockE(Branches):
    """At 8 x 8."""

    last: bool = False

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h w d"]:
        one = self.row(x, ("branch1x1", 320))
        three = self.row(x, ("branch3x3_1", 384))
        double = self.row(x, ("branch3x3dbl_1", 448), ("branch3x3dbl_2", 384, *THREE))
        forked = [
            self.row(y, (f"{name}{which}", 384, *shape))
            for y, name in ((three, "branch3x3_2"), (double, "branch3x3dbl_3"))
            for which, shape in (("a", FLAT), ("b", TALL))
        ]
        pool = nn.max_pool(x, (3, 3), padding=((1, 1), (1, 1))) if self.last else averaged(x)  # (3)
        return jnp.concatenate([one, *forked, self.row(pool, ("branch_pool", 192))], axis=-1)


def averaged(x: Float[Array, "b h w c"]) -> Float[Array, "b h w c"]:
    """(2)"""
    return nn.avg_pool(x, (3, 3), padding=((1, 1), (1, 1)), count_include_pad=False)


def halved(x: Float[Array, "b h w c"]) -> Float[Array, "b i j c"]:
    """Maxima over 3 x 3, at every other place."""
    return nn.max_pool(x, (3, 3), (2, 2))


class Inception(nn.Module):
    """The network up to a place."""

    shrink: int = 1
    """What all widths are divided by; 1 is the published network, others are of the same plan, for trials."""

    @nn.compact
    def __call__(self, x_BHWC: Float[Array, "b h w 3"], point: InceptionPoint = 2048) -> Features:
        """Features of pictures in [-1, 1] at any size from 75 on (papers: 299); logits and (5) at the last place."""
        n, x = self.shrink, x_BHWC
        x = Unit(32 // n, *HALVED, name="Conv2d_1a_3x3")(x)
        x = Unit(32 // n, (3, 3), name="Conv2d_2a_3x3")(x)
        x = halved(Unit(64 // n, *THREE, name="Conv2d_2b_3x3")(x))
        if point == 64:
            return _pooled(x)
        x = Unit(80 // n, name="Conv2d_3b_1x1")(x)
        x = halved(Unit(192 // n, (3, 3), name="Conv2d_4a_3x3")(x))
        if point == 192:
            return _pooled(x)
        for name, pooled in (("Mixed_5b", 32), ("Mixed_5c", 64), ("Mixed_5d", 64)):
            x = BlockA(n, pooled, name=name)(x)
        x = BlockB(n, name="Mixed_6a")(x)
        for name, inner in (("Mixed_6b", 128), ("Mixed_6c", 160), ("Mixed_6d", 160), ("Mixed_6e", 192)):
            x = BlockC(n, inner, name=name)(x)
            if name == "Mixed_6d":  # whose 1 x 1 unit's channels are its map's first
                spatial_BS = x[..., :SPATIAL].reshape(len(x), -1)  # (5)
        if point == 768:
            return _pooled(x)
        x = BlockD(n, name="Mixed_7a")(x)
        x = BlockE(n, name="Mixed_7b")(x)
        x = BlockE(n, last=True, name="Mixed_7c")(x)
        vector_BD = x.mean(axis=(1, 2))
        logits_BC = Logits(name="fc")(vector_BD)
        return Features(vector_BD, logits_BC, spatial_BS)


class Logits(nn.Module):
    """(4). The bias is read with the weights and takes no part."""

    @nn.compact
    def __call__(self, x_BD: Float[Array, "b d"]) -> Float[Array, "b c"]:
        kernel_DC = self.param("kernel", nn.initializers.lecun_normal(), (x_BD.shape[1], CLASSES))
        self.param("bias", nn.initializers.zeros, (CLASSES,))
        return jnp.dot(x_BD, kernel_DC, precision=Precision.HIGHEST)


def _pooled(x: Float[Array, "b h w d"]) -> Features:
    return Features(x.mean(axis=(1, 2)), None)


def widths(shrink: int = 1) -> Sequence[int]:
    """Values of the features at each of `POINTS`."""
    return [point // shrink for point in POINTS]
