"""Near duplicates: a perceptual hash of pictures, and the distance up to which two of them count as one.

The hash is the picture's central square at 8 x 8 pixels, x_P with P = 8 * 8 * 3 values, as mean, contrast and shape:
    (1) m = mean(x),  c = max(std(x), 8 levels),  u = clip((x - m) / c, -4, 4)
so that brighter, darker, stronger and flatter copies keep their shape u. The distance of two pictures is
    (2) d = sqrt(mean((u_1 - u_2)^2)),   and their shapes correlate by about 1 - d^2 / 2
They are near duplicates when d is at most a threshold, 0.08 unless told otherwise (a correlation of 0.997), while
    (3) |m_1 - m_2| <= 32 levels  and  3/4 <= c_1 / c_2 <= 4/3
without which a white and a black square on grey would be one. At 8 x 8 pixels small things on a plain ground are alike,
so such pairs are looked at once more, at S x S pixels: half of the smaller picture's side, 8 to 64. With u of (1) at
that side, no cell of the 8 x 8 may differ more than if all of the difference (2) were there:
    (4) max over cells of sqrt(mean over the cell of (u_1 - u_2)^2) <= 8 times the threshold
Found so are copies recompressed (JPEG of quality 75), resized, and made brighter or flatter by a tenth; not found:
copies cropped by more than 1 %, mirrored, or drawn upon. Icons of a tenth of the picture's width are told apart.
Everything is integers up to (1), whose rounding to steps of 1/31 makes hashes equal on every machine.
Reference: block means as a perceptual hash, Yang, Gu, Niu (2006), here in colour and with a contrast.
"""

from functools import lru_cache
from typing import NamedTuple

import numpy as np
from PIL import Image

from reimagen_jax.data import images
from reimagen_jax.data.parallel import ordered_map
from reimagen_jax.data.records import ImageText, ImageTexts
from reimagen_jax.progress import track

HASH = "8 x 8 colour thumbnail, mean and contrast apart; confirmed at up to 64 x 64"
"""Names the hash in manifests."""
THRESHOLD = 0.08
"""The default largest distance (2) of near duplicates."""
SIDE = 8
_STEPS = 31
"""Steps of the stored shape per unit of contrast: int8 holds 4 of them."""
_LEAST_CONTRAST = 8.0
_MEAN_RANGE = 32.0
_CONTRAST_RANGE = 4 / 3
_BLOCK = 65536
_FINE_SIDE = 64
_LEAST_FINE_CONTRAST = 4.0
_KEPT_PICTURES = 1024
"""48 kB each at most."""


class Hashes(NamedTuple):
    """Perceptual hashes of N pictures: 200 bytes each."""

    shape_NP: np.ndarray
    """int8: u of (1) in steps of 1/31"""
    mean_N: np.ndarray
    """float32: m of (1), in levels of 0..255"""
    contrast_N: np.ndarray
    """float32: c of (1), in levels"""


NO_HASHES = Hashes(np.zeros((0, SIDE * SIDE * 3), np.int8), np.zeros(0, np.float32), np.zeros(0, np.float32))


def hash_records(records: ImageTexts) -> Hashes:
    """The perceptual hashes of all records' pictures, in order, decoded on all cores."""
    thumbnail_NP = np.empty((len(records), SIDE * SIDE * 3), np.uint8)
    for i, thumbnail in enumerate(track(ordered_map(_thumbnail, records), len(records), "picture hashes", "image")):
        thumbnail_NP[i] = thumbnail
    return hash_thumbnails(thumbnail_NP)


def hash_thumbnails(thumbnail_NP: np.ndarray) -> Hashes:
    """The perceptual hashes of pictures given at 8 x 8 pixels: uint8[N, 8 * 8 * 3], as (1)."""
    count, size = thumbnail_NP.shape
    hashes = Hashes(np.empty((count, size), np.int8), np.empty(count, np.float32), np.empty(count, np.float32))
    for start in range(0, count, _BLOCK):
        block = slice(start, start + _BLOCK)
        x_NP = thumbnail_NP[block].astype(np.int64)
        sum_N = x_NP.sum(axis=1)
        spread_N = size * (x_NP * x_NP).sum(axis=1) - sum_N * sum_N  # = (size * std)^2, exactly
        contrast_N = np.maximum(np.sqrt(spread_N.astype(np.float64)) / size, _LEAST_CONTRAST)
        steps_NP = (size * x_NP - sum_N[:, None]) / (size * contrast_N[:, None]) * _STEPS
        hashes.shape_NP[block] = np.rint(np.clip(steps_NP, -4 * _STEPS, 4 * _STEPS))
        hashes.mean_N[block], hashes.contrast_N[block] = sum_N / size, contrast_N
    return hashes


def are_near(first: Hashes, second: Hashes, threshold: float = THRESHOLD) -> np.ndarray:
    """Of which pictures of two equally long sequences (2) and (3) hold, pair by pair: bool[N]."""
    limit = squared_limit(threshold)
    return np.array([is_near(first, i, second, i, limit) for i in range(len(first.mean_N))], bool)


def near_pictures(first: np.ndarray, second: np.ndarray, threshold: float = THRESHOLD) -> bool:
    """Whether two pictures at hand, uint8 [R, R, 3], are near duplicates by (2), (3) and (4)."""
    pictures = [Image.fromarray(each) for each in (first, second)]
    hashes = [hash_thumbnails(np.asarray(images.square(each, SIDE)).reshape(1, -1)) for each in pictures]
    if not are_near(*hashes, threshold)[0]:
        return False
    return finely_near(*(_shrunk(each, 2 * _FINE_SIDE) for each in pictures), SIDE * threshold)


def squared_limit(threshold: float) -> float:
    """The threshold of distance (2) as the largest sum of squared differences in the stored steps."""
    return (threshold * _STEPS) ** 2 * SIDE * SIDE * 3


def is_near(first: Hashes, i: int, second: Hashes, j: int, limit: float) -> bool:
    """Whether (2) and (3) hold of picture i of `first` and j of `second`; `limit` as of `squared_limit`.

    Written for numba too (`leaks`), which keeps compiled callers until their own file changes: touch it when this does.
    """
    if abs(first.mean_N[i] - second.mean_N[j]) > _MEAN_RANGE:  # (3)
        return False
    low, high = first.contrast_N[i], second.contrast_N[j]
    if max(low, high) > _CONTRAST_RANGE * min(low, high):
        return False
    total = 0
    for p in range(first.shape_NP.shape[1]):  # (2)
        difference = int(first.shape_NP[i, p]) - int(second.shape_NP[j, p])
        total += difference * difference
        if total > limit:
            return False
    return True


class Confirmation:
    """Equation (4) for pairs of two sequences of records; safe to use from several threads."""

    def __init__(self, first: ImageTexts, second: ImageTexts, threshold: float):
        self._sequences = (first, second)
        self._limit = SIDE * threshold
        self._picture = lru_cache(_KEPT_PICTURES)(self._read)

    def __call__(self, i: int, j: int, *, within: bool = False) -> bool:
        """Whether (4) holds of picture i of the first (`within`: of the second) sequence and j of the second."""
        return finely_near(self._picture(int(within), i), self._picture(1, j), self._limit)

    def _read(self, sequence: int, index: int) -> Image.Image:
        """The central square, at twice the side that is compared at most."""
        data = self._sequences[sequence][index].image
        with images.room(data):
            return _shrunk(images.load(data), 2 * _FINE_SIDE)


def finely_near(first: Image.Image, second: Image.Image, limit: float = SIDE * THRESHOLD) -> bool:
    """Equation (4); `limit` is its right side."""
    half = min(*first.size, *second.size) // 2
    side = max(SIDE, min(_FINE_SIDE, half // SIDE * SIDE))
    u_SSC, other_SSC = (_shape(images.square(_shrunk(image, side), side)) for image in (first, second))
    square_SSC = (u_SSC - other_SSC) ** 2
    cell_PP = square_SSC.reshape(SIDE, side // SIDE, SIDE, -1).mean(axis=(1, 3))
    return bool(cell_PP.max() <= limit**2)


def _shape(image: Image.Image) -> np.ndarray:
    """u of (1), which is not clipped here."""
    x_SSC = np.asarray(image, np.float64)
    return (x_SSC - x_SSC.mean()) / max(x_SSC.std(), _LEAST_FINE_CONTRAST)


def _shrunk(image: Image.Image, side: int) -> Image.Image:
    """The central square at no more than `side`, by a filter under which all ratios of sides look alike."""
    whole = images.square(image, None)
    return whole.resize((side, side), Image.Resampling.BILINEAR) if whole.width > side else whole


def _thumbnail(record: ImageText) -> np.ndarray:
    return images.decode(record.image, SIDE).reshape(-1)
