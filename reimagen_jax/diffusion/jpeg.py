"""What JPEG leaves of an image: its colours at half the side, its blocks' cosines in whole multiples of a table.

  y, cb, cr = A rgb + (0, 128, 128)                                                                               (1)
  c_uv = 1/4 k_u k_v sum_ij (s_ij - 128) cos((2i + 1) u pi / 16) cos((2j + 1) v pi / 16),  k_0 = 1 / sqrt 2       (2)
  c_uv <- T_uv round(c_uv / T_uv)                                                                                 (3)
  T    = clip(floor((scale(q) T_50 + 50) / 100), 1, 255),  scale(q) = 200 - 2 q, or 5000 / q below 50             (4)

and back again; all but c is in whole numbers of 0 to 255. No entropy is coded, which changes nothing. T_50 are the
tables that the standard gives as examples, (4) is libjpeg's quality; cb and cr are halved by means of 2 x 2 and doubled
linearly, its defaults (4:2:0, fancy upsampling), which are Pillow's and OpenCV's.
Source: ITU-T T.81 (1992), A.3.3 and K.1.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

EXACT = jax.lax.Precision.HIGHEST
MACROBLOCK = 16
"""Pixels of a side: 2 x 2 blocks of brightness, one of each colour."""
TO_YCC = np.array(
    [[0.299, 0.587, 0.114], [-0.168735892, -0.331264108, 0.5], [0.5, -0.418687589, -0.081312411]], np.float32
)
_u, _i = np.mgrid[:8, :8]
COSINES = (np.cos((2 * _i + 1) * _u * np.pi / 16) * np.where(_u == 0, np.sqrt(0.125), 0.5)).astype(np.float32)
"""[u, i], orthonormal."""
LUMINANCE = np.array(
    [
        [16, 11, 10, 16, 24, 40, 51, 61],
        [12, 12, 14, 19, 26, 58, 60, 55],
        [14, 13, 16, 24, 40, 57, 69, 56],
        [14, 17, 22, 29, 51, 87, 80, 62],
        [18, 22, 37, 56, 68, 109, 103, 77],
        [24, 35, 55, 64, 81, 104, 113, 92],
        [49, 64, 78, 87, 103, 121, 120, 101],
        [72, 92, 95, 98, 112, 100, 103, 99],
    ],
    np.float32,
)
CHROMINANCE = np.full((8, 8), 99.0, np.float32)
CHROMINANCE[:4, :4] = [[17, 18, 24, 47], [18, 21, 26, 66], [24, 26, 56, 99], [47, 66, 99, 99]]


def compressed(x_HWC: Float[Array, "h w 3"], quality: Float[Array, ""] | float) -> Float[Array, "h w 3"]:
    """RGB in [-1, 1], its sides multiples of 16, as a JPEG of a quality of 1 to 100 would show it."""
    H, W = x_HWC.shape[:2]
    rgb = _levels(127.5 * (x_HWC + 1.0))
    middle = np.array([[[0.0, 128.0, 128.0]]], np.float32)
    ycc = _levels(jnp.einsum("kc,hwc->hwk", TO_YCC, rgb, precision=EXACT) + middle)  # (1)
    y = _coded(ycc[..., :1], table(LUMINANCE, quality))
    small = jnp.round(ycc[..., 1:].reshape(H // 2, 2, W // 2, 2, 2).mean(axis=(1, 3)))
    colours = jax.image.resize(_coded(small, table(CHROMINANCE, quality)), (H, W, 2), "linear", precision=EXACT)
    ycc = jnp.concatenate([y, jnp.round(colours)], axis=-1) - middle
    return _levels(jnp.einsum("ck,hwk->hwc", np.linalg.inv(TO_YCC), ycc, precision=EXACT)) / 127.5 - 1.0


def table(example: np.ndarray, quality: Float[Array, ""] | float) -> Float[Array, "8 8"]:
    """(4)"""
    scale = jnp.where(quality < 50, jnp.floor(5000.0 / quality), 200.0 - 2.0 * quality)
    return jnp.clip(jnp.floor((scale * example + 50.0) / 100.0), 1.0, 255.0)


def _coded(s_HWC: Float[Array, "h w c"], table: Float[Array, "8 8"]) -> Float[Array, "h w c"]:
    """(2), (3) and back."""
    H, W, C = s_HWC.shape
    s = s_HWC.reshape(H // 8, 8, W // 8, 8, C) - 128.0
    c = jnp.einsum("ui,aibjk,vj->aubvk", COSINES, s, COSINES, precision=EXACT)
    T = table[None, :, None, :, None]
    c = T * jnp.round(c / T)
    s = jnp.einsum("ui,aubvk,vj->aibjk", COSINES, c, COSINES, precision=EXACT)
    return _levels(s.reshape(H, W, C) + 128.0)


def _levels(x: Array) -> Array:
    return jnp.clip(jnp.round(x), 0.0, 255.0)
