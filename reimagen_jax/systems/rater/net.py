"""The rater's network: it reads the scene, straightens the body by what it has read, and reads the look.

The body of an entity stands at one of a few places, in one of a few sizes (entityworld/render.py). So
    (1) scene    = SceneReader(whole image)                          place, position, size, time
    (2) straight = W_y[size] image W_x[size, position]^T             the body's square, resampled to 32 x 32
    (3) look     = LookReader(straight)                              category, and the look's values for each category
W_x and W_y interpolate linearly and average over what they shrink. In training the true position and size straighten;
in use those read. What is left for (3) is the jitter of the pose, so a small network is enough.
Source: the idea is that of spatial transformers (Jaderberg et al. 2015), with the few transformations known beforehand.
"""

from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from reimagen_jax.data.entityworld import CATEGORIES, LOOK_PARAMETERS, NUM_PARAMETERS, SCENE_PARAMETERS
from reimagen_jax.data.entityworld.render import FLOOR, OFFSETS, SIZES
from reimagen_jax.systems.rater.settings import OVERVIEW, RaterConfig

LOOK_COUNTS = np.array([[len(p.values) for p in LOOK_PARAMETERS[c]] for c in CATEGORIES])  # [category, P]
SCENE_COUNTS = np.array([len(p.values) for p in SCENE_PARAMETERS])
SCENE_NAMES = tuple(p.name for p in SCENE_PARAMETERS)
STRAIGHT = 32
"""Side of the straightened body in pixels."""
MARGIN = 1.12
"""Of the body's square, on which its outline and its rim lie."""
HIDDEN = "hidden"
"""Collection of the readers' last hidden layers, for whoever asks for it (`mutable`)."""
NEVER = -1e9
"""Logit of a value that a parameter does not have."""


class Logits(NamedTuple):
    """Unnormalised log-probabilities; values that a parameter does not have are at `NEVER`."""

    category_BC: Float[Array, "b c"]
    look_BCPV: Float[Array, "b c p v"]
    """Of the look's parameters, if the image showed category c."""
    scene_BAV: Float[Array, "b a v"]
    """In the order of SCENE_PARAMETERS."""


class SceneReader(nn.Module):
    """(1): image -> logits of the scene."""

    config: RaterConfig

    @nn.compact
    def __call__(self, image_BHWC: Float[Array, "b h w 3"]) -> Float[Array, "b a v"]:
        shrink = jnp.asarray(resampling(self.config.resolution, OVERVIEW, 0.0, 1.0))
        x = jnp.einsum("sh,bhwc,tw->bstc", shrink, image_BHWC, shrink)
        first, second = self.config.scene_widths
        x = nn.relu(nn.Conv(first, (4, 4), strides=(2, 2))(x))
        x = nn.relu(nn.Conv(second, (3, 3), strides=(2, 2))(x))
        x = nn.relu(nn.Dense(self.config.scene_hidden)(x.reshape(x.shape[0], -1)))
        self.sow(HIDDEN, "hidden", x)
        x = nn.Dense(SCENE_COUNTS.size * SCENE_COUNTS.max())(x).reshape(-1, SCENE_COUNTS.size, SCENE_COUNTS.max())
        return only(x, SCENE_COUNTS)


class LookReader(nn.Module):
    """(3): straightened body -> logits of the category and of the look for each category."""

    config: RaterConfig

    @nn.compact
    def __call__(self, straight_BHWC: Float[Array, "b h w 3"]) -> tuple[Float[Array, "b c"], Float[Array, "b c p v"]]:
        def norm_relu(x: Array) -> Array:
            return nn.relu(nn.GroupNorm(self.config.groups)(x))

        fine, middle, coarse = self.config.look_widths
        x = norm_relu(nn.Conv(fine, (4, 4), strides=(2, 2))(straight_BHWC))
        x = norm_relu(nn.Conv(middle, (3, 3), strides=(2, 2))(x))
        x = x + norm_relu(nn.Conv(middle, (3, 3))(x))
        x = norm_relu(nn.Conv(coarse, (3, 3), strides=(2, 2))(x))
        x = nn.relu(nn.LayerNorm()(nn.Dense(self.config.look_hidden)(x.reshape(x.shape[0], -1))))
        self.sow(HIDDEN, "hidden", x)
        shape = (len(CATEGORIES), NUM_PARAMETERS, int(LOOK_COUNTS.max()))
        return nn.Dense(len(CATEGORIES))(x), only(nn.Dense(int(np.prod(shape)))(x).reshape(-1, *shape), LOOK_COUNTS)


class RaterNet(nn.Module):
    """Image in [0, 1] -> logits of all that it shows."""

    config: RaterConfig

    @nn.compact
    def __call__(
        self,
        image_BHWC: Float[Array, "b h w 3"],
        position_B: Int[Array, " b"] | None = None,
        size_B: Int[Array, " b"] | None = None,
    ) -> Logits:
        """The true position and size may be given, in training; else those read straighten the body."""
        image_BHWC = image_BHWC * 2.0 - 1.0
        scene_BAV = SceneReader(self.config)(image_BHWC)  # (1)
        if position_B is None or size_B is None:
            read_BA = scene_BAV.argmax(axis=-1)
            position_B, size_B = (read_BA[:, SCENE_NAMES.index(name)] for name in ("position", "size"))
        return Logits(*LookReader(self.config)(straighten(image_BHWC, position_B, size_B)), scene_BAV)  # (3)


def straighten(
    image_BHWC: Float[Array, "b h w c"], position_B: Int[Array, " b"], size_B: Int[Array, " b"]
) -> Float[Array, "b s s c"]:
    """(2): the square around the body, resampled to STRAIGHT x STRAIGHT."""
    rows, columns = (jnp.asarray(weights) for weights in straightening(image_BHWC.shape[1]))
    return jnp.einsum("bsh,bhwc,btw->bstc", rows[size_B], image_BHWC, columns[size_B, position_B])  # (2)


def straightening(resolution: int) -> tuple[np.ndarray, np.ndarray]:
    """W_y [size, STRAIGHT, resolution] and W_x [size, position, STRAIGHT, resolution] of (2)."""
    rows, columns = [], []
    for size, offset in zip(SIZES, OFFSETS, strict=True):
        reach, middle = MARGIN * size / 2, 1.0 - (FLOOR + size / 2)  # images count rows from the top
        rows.append(resampling(resolution, STRAIGHT, middle - reach, middle + reach))
        centres = (0.5 + side * offset for side in (-1, 0, 1))
        columns.append(np.stack([resampling(resolution, STRAIGHT, x - reach, x + reach) for x in centres]))
    return np.stack(rows), np.stack(columns)


def resampling(pixels: int, cells: int, low: float, high: float) -> Float[np.ndarray, "cells pixels"]:
    """Weights that resample `pixels` in [0, 1] to `cells` in [low, high]: linear, or averaging where cells are larger.

    A cell outside of the image takes the colour of its edge.
    """
    pixel = (np.arange(pixels) + 0.5) / pixels
    cell = np.clip(low + (np.arange(cells) + 0.5) * (high - low) / cells, pixel[0], pixel[-1])
    width = max((high - low) / cells, 1.0 / pixels)
    weight = np.maximum(0.0, 1.0 - np.abs(pixel[None] - cell[:, None]) / width)
    return (weight / weight.sum(axis=1, keepdims=True)).astype(np.float32)


def only(logits: Float[Array, "b *p v"], counts: np.ndarray) -> Float[Array, "b *p v"]:
    """Puts values that a parameter does not have (from its count on) out of the question."""
    exists = np.arange(logits.shape[-1]) < counts[..., None]
    return jnp.where(exists[None], logits, NEVER)


def of_category(look_BCPV: Float[Array, "b c p v"], category_B: Int[Array, " b"]) -> Float[Array, "b p v"]:
    """The logits of the look for one category per image."""
    return jax.vmap(lambda look_CPV, category: look_CPV[category])(look_BCPV, category_B)
