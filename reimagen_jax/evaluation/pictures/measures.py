"""Measures of pictures by their vectors; each is a plain function.

    (1) rank      1 + how many of the others are nearer to a drawn picture than its own true one
    (2) KID       the unbiased squared maximum mean discrepancy of x, y by the kernel (x.y / D + 1)^3
    (3) FID       |m_x - m_y|^2 + tr(C_x + C_y - 2 (C_x C_y)^(1/2))
    (4) copied    nearer to a neighbour that was shown than to any other true picture, and than true pictures are to
                  their own neighbours but for one in twenty
    (5) blank     less contrast than true pictures have but for one in a hundred

(2) and (3) in whichever features: figures compare within one table, not with those of other features.
Sources: Binkowski et al. 2018 (2); Heusel et al. 2017 (3).
"""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy import linalg
from sklearn.metrics.pairwise import polynomial_kernel

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
    return _discrepancy(*_kernels(x_ND, y_MD))


def kid_ci(x_ND: Vectors, y_MD: Vectors) -> Interval:
    """(2), with the 2.5 % and 97.5 % quantiles of pictures drawn with replacement; no picture is paired with itself."""
    if min(len(x_ND), len(y_MD)) < 2:
        return Interval(*[float("nan")] * 3)
    xx, yy, xy = _kernels(x_ND, y_MD)
    rng, found = np.random.default_rng(0), []
    for _ in range(_RESAMPLES):
        i, j = (rng.integers(len(each), size=len(each)) for each in (x_ND, y_MD))
        within = [_apart(kernel[np.ix_(k, k)], k) for kernel, k in ((xx, i), (yy, j))]
        found.append(sum(within) - 2 * xy[np.ix_(i, j)].mean())
    return Interval(_discrepancy(xx, yy, xy), *map(float, np.quantile(found, (0.025, 0.975))))


def fid(x_ND: Vectors, y_MD: Vectors) -> float:
    """(3). NaN with fewer than two of either."""
    if min(len(x_ND), len(y_MD)) < 2:
        return float("nan")
    (m, C), (n, D) = ((each.mean(axis=0), np.cov(each, rowvar=False, ddof=1)) for each in (x_ND, y_MD))
    C, D = np.atleast_2d(C), np.atleast_2d(D)
    # The trace of a square root is the sum of the roots of the eigenvalues, which are real and not below 0.
    roots = np.sqrt(np.maximum(linalg.eigvals(C @ D).real, 0.0))
    return float(((m - n) ** 2).sum() + np.trace(C) + np.trace(D) - 2 * roots.sum())


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


def _kernels(x_ND: Vectors, y_MD: Vectors) -> list[np.ndarray]:
    """Of x with x, y with y, x with y."""
    pairs = ((x_ND, x_ND), (y_MD, y_MD), (x_ND, y_MD))
    return [polynomial_kernel(*(each.astype(np.float64) for each in pair), degree=3, coef0=1.0) for pair in pairs]


def _discrepancy(xx: np.ndarray, yy: np.ndarray, xy: np.ndarray) -> float:
    return float(_off_diagonal(xx) + _off_diagonal(yy) - 2 * xy.mean())


def _off_diagonal(kernel: np.ndarray) -> float:
    n = len(kernel)
    return (kernel.sum() - np.trace(kernel)) / (n * (n - 1))


def _apart(kernel: np.ndarray, ids: np.ndarray) -> float:
    """The mean over pairs of different pictures."""
    different = ids[:, None] != ids[None]
    return float(kernel[different].mean()) if different.any() else float("nan")
