"""Measures of pictures by their vectors; each is a plain function.

    (1) rank      1 + how many of the others are nearer to a drawn picture than its own true one
    (2) KID       of whole sets (distances.py)
    (3) FID       (distances.py)
    (4) copied    nearer to a neighbour that was shown than to any other true picture, and than true pictures are to
                  their own neighbours but for one in twenty
    (5) blank     less contrast than true pictures have but for one in a hundred

(2) and (3) in whichever features: figures compare within one table, not with those of other features.
"""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Float, Int

from reimagen_jax.evaluation.distances import Gaussian, discrepancy, frechet, kernels
from reimagen_jax.evaluation.pictures.features import Pictures, Vectors, pixels
from reimagen_jax.evaluation.statistics import Interval

COPIED_TRUE, BLANK_TRUE = 0.05, 0.01
_RESAMPLES = 200


def flat(pictures: Pictures) -> Vectors:
    """Whole pictures as vectors, in 0..1."""
    return pictures.reshape(len(pictures), -1).astype(np.float32) / np.float32(255)


def distances(a_ND: Vectors, b_ND: Vectors) -> Float[np.ndarray, " n"]:
    """Row by row, root mean squares."""
    return np.sqrt(((a_ND - b_ND) ** 2).mean(axis=1))


def ranks(
    drawn_ND: Vectors, true_ND: Vectors, pool_MD: Vectors, others_NO: Sequence[np.ndarray]
) -> Int[np.ndarray, " n"]:
    """(1), each among its own others, numbers of rows of the pool."""
    own_N = distances(drawn_ND, true_ND)
    nearer = [
        int((distances(np.broadcast_to(x, pool_MD[ids].shape), pool_MD[ids]) < own).sum())
        for x, own, ids in zip(drawn_ND, own_N, others_NO, strict=True)
    ]
    return 1 + np.array(nearer, np.int64)


def kid(x_ND: Vectors, y_MD: Vectors) -> float:
    """(2). NaN with fewer than two of either."""
    if min(len(x_ND), len(y_MD)) < 2:
        return float("nan")
    return discrepancy(*kernels(x_ND, y_MD))


def kid_ci(x_ND: Vectors, y_MD: Vectors) -> Interval:
    """(2), with the 2.5 % and 97.5 % quantiles of pictures drawn with replacement; no picture is paired with itself."""
    if min(len(x_ND), len(y_MD)) < 2:
        return Interval(*[float("nan")] * 3)
    xx, yy, xy = kernels(x_ND, y_MD)
    rng, found = np.random.default_rng(0), []
    for _ in range(_RESAMPLES):
        i, j = (rng.integers(len(each), size=len(each)) for each in (x_ND, y_MD))
        within = [_apart(kernel[np.ix_(k, k)], k) for kernel, k in ((xx, i), (yy, j))]
        found.append(sum(within) - 2 * xy[np.ix_(i, j)].mean())
    return Interval(discrepancy(xx, yy, xy), *map(float, np.quantile(found, (0.025, 0.975))))


def fid(x_ND: Vectors, y_MD: Vectors) -> float:
    """(3). NaN with fewer than two of either."""
    if min(len(x_ND), len(y_MD)) < 2:
        return float("nan")
    return frechet(Gaussian.of(x_ND), Gaussian.of(y_MD))


def copied(
    drawn: Pictures, true: Pictures | None, shown: Sequence[Pictures], pool_MD: Vectors, threshold: float
) -> Bool[np.ndarray, " n"]:
    """(4); `true` are the pictures asked for (None: these are true ones themselves), `pool_MD` the pixels of others,
    `shown` each picture's neighbours (none: no copy)."""
    x_ND = pixels(drawn)
    own_N = np.full(len(drawn), np.inf) if true is None else distances(x_ND, pixels(true))
    found = np.zeros(len(drawn), bool)
    for i, (x, near) in enumerate(zip(x_ND, shown, strict=True)):
        if not len(near):
            continue
        near_KD = pixels(near)
        least = distances(np.broadcast_to(x, near_KD.shape), near_KD).min()
        if least < min(threshold, own_N[i]):
            from_pool = distances(np.broadcast_to(x, pool_MD.shape), pool_MD)
            others = (pool_MD[:, None] != near_KD[None]).any(axis=2).all(axis=1)
            found[i] = not (from_pool[others] < least).any()
    return found


def copy_threshold(true: Pictures, shown: Sequence[Pictures]) -> float:
    """How near true pictures are to the nearest of their neighbours, but for one in twenty; 0 without neighbours."""
    found = [
        distances(np.broadcast_to(x, pixels(near).shape), pixels(near)).min()
        for x, near in zip(pixels(true), shown, strict=True)
        if len(near)
    ]
    return float(np.quantile(found, COPIED_TRUE)) if found else 0.0


def contrast(pictures: Pictures) -> Float[np.ndarray, " n"]:
    """The standard deviation of a picture's pixels, over all channels, in 0..1."""
    return flat(pictures).reshape(len(pictures), -1, 3).std(axis=1).mean(axis=1)


def blank(pictures: Pictures, true: Pictures) -> Bool[np.ndarray, " n"]:
    """(5)"""
    return contrast(pictures) < np.quantile(contrast(true), BLANK_TRUE, method="lower")


def _apart(kernel: np.ndarray, ids: np.ndarray) -> float:
    """The mean over pairs of different pictures."""
    different = ids[:, None] != ids[None]
    return float(kernel[different].mean()) if different.any() else float("nan")
