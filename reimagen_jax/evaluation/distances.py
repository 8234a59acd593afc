"""How far two sets of pictures are apart, from vectors of them; x is what is judged (N), y the reference (M).

    (1) Frechet      |m_x - m_y|^2 + tr C_x + tr C_y - 2 tr (C_x C_y)^(1/2), of means and covariances (ddof 1)
                     tr (C_x C_y)^(1/2) = sum of the singular values of F_x^T F_y, where C = F F^T
    (2) without bias the jackknife of (1), which is too high by about a constant / N:
                     g d - (g - 1) mean_j d_(-j) over g parts left out in turn; its error from the spread of the parts
        FID-infinity the same of x alone by a fit: (1) of random subsets of x, least squares in 1 / n, at 1 / n = 0 (2b)
    (3) KID          sum_(i != j) (k(x_i, x_j) + k(y_i, y_j)) / (m (m - 1)) - 2 sum_ij k(x_i, y_j) / m^2,
                     k(x, y) = (x.y / D + 1)^3, over subsets of m of each
    (4) precision    share of x within the ball of any y: as far as its 3rd neighbour among y, the edge included
        recall       share of y within the ball of any x
    (5) density      mean over x of how many balls of y, as far as its 5th neighbour, it is inside of, / 5
        coverage     share of y with an x inside of its ball
    (6) Inception    exp mean_i KL(p_i || mean_i p_i) of x's classes, p_i = softmax of logits without bias: mean and
        Score        deviation over 10 splits of x in a shuffled order
(1) has no difference of near-equal numbers but the last, and no square root of a matrix: rank-deficient covariances
(N <= D) need nothing added. All in float64: FID's third decimal is lost in float32 sums over 50,000.
Sources: Heusel et al. 2017 (1); Quenouille 1956 (2); Chong & Forsyth 2020 for what the bias is, and (2b); Binkowski et
al. 2018 (3); Kynkaanniemi et al. 2019 (4); Naeem et al. 2020 (5); Salimans et al. 2016, as torch-fidelity computes it
(6).
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from typing import NamedTuple

import numpy as np
from jaxtyping import Float
from scipy import stats
from scipy.special import log_softmax
from sklearn.metrics.pairwise import polynomial_kernel

from reimagen_jax.errors import require
from reimagen_jax.evaluation.statistics import Interval

Vectors = Float[np.ndarray, "n d"]
KID_SUBSETS, KID_SIZE, KID_SEED = 100, 1000, 2020
"""torch-fidelity's, which papers' figures are of."""
SPLITS, SPLIT_SEED = 10, 2020
"""Of (6), torch-fidelity's, too."""
NEAREST, INSIDE = 3, 5
"""Neighbours that the balls of (4) and (5) reach to."""
PARTS = 10
"""That the jackknife leaves out in turn."""
POINTS = 15
"""Sizes of subsets that (2b) is fitted over, as published."""
_BLOCK_VALUES = 2**24
"""Distances that are held at once."""


@dataclass(frozen=True, eq=False)
class Gaussian:
    """Mean and covariance of vectors."""

    mean_D: Float[np.ndarray, " d"]
    cov_DD: Float[np.ndarray, "d d"] = field(repr=False)
    count: int | None = None
    """Vectors that they are of; None where nobody knows."""
    vectors_ND: Vectors | None = field(default=None, repr=False)
    """They themselves, where they are no more than they have values: a factor that costs nothing."""

    @classmethod
    def of(cls, x_ND: Vectors) -> "Gaussian":
        """Raises `UserError` for fewer than two vectors, and for what is not finite."""
        moments = Moments()
        moments.add(x_ND)
        return moments.gaussian

    @property
    def width(self) -> int:
        """D."""
        return len(self.mean_D)

    @property
    def deficient(self) -> bool:
        """Whether the vectors are too few for a covariance of full rank."""
        return self.count is not None and self.count <= self.width

    @cached_property
    def spectrum(self) -> tuple[Float[np.ndarray, " d"], Float[np.ndarray, "d d"]]:
        """The covariance's eigenvalues, the smallest first, and their vectors, a column each."""
        values_D, vectors_DD = np.linalg.eigh(self.cov_DD)
        return values_D, vectors_DD

    @cached_property
    def factor_DR(self) -> Float[np.ndarray, "d r"]:
        """F of (1), with a column for each dimension in which there is variance, or for each of few vectors."""
        if self.vectors_ND is not None:
            return (self.vectors_ND - self.mean_D).T / np.sqrt(len(self.vectors_ND) - 1)
        values_D, vectors_DD = self.spectrum
        there = values_D > self.width * np.finfo(np.float64).eps * max(values_D[-1], 0.0)
        return vectors_DD[:, there] * np.sqrt(values_D[there])


class Moments:
    """Mean and covariance of vectors that come in parts. Source: Chan, Golub & LeVeque 1979."""

    def __init__(self) -> None:
        self.count = 0
        self._mean_D: np.ndarray | None = None
        self._scatter_DD: np.ndarray | None = None
        self._few: list[np.ndarray] = []

    def add(self, x_ND: Vectors) -> None:
        """Takes more vectors. Raises `UserError` for what is not finite."""
        x_ND = np.asarray(x_ND, np.float64)
        require(bool(np.isfinite(x_ND).all()), "there are vectors that are not finite: their network is damaged")
        if not len(x_ND):
            return
        if self._mean_D is None:
            D = x_ND.shape[1]
            self._mean_D, self._scatter_DD = np.zeros(D), np.zeros((D, D))
        n, mean_D = len(x_ND), x_ND.mean(axis=0)
        apart_ND, shift_D = x_ND - mean_D, mean_D - self._mean_D
        total = self.count + n
        self._scatter_DD += apart_ND.T @ apart_ND + np.outer(shift_D, shift_D) * (self.count * n / total)
        self._mean_D += shift_D * (n / total)
        self._few = [*self._few, x_ND] if total <= x_ND.shape[1] else []
        self.count = total

    @property
    def gaussian(self) -> Gaussian:
        """Of all so far. Raises `UserError` for fewer than two."""
        require(self.count > 1, f"{self.count} pictures have no covariance: 2 at least are needed")
        few_ND = np.concatenate(self._few) if self._few else None
        return Gaussian(self._mean_D.copy(), self._scatter_DD / (self.count - 1), self.count, few_ND)


def frechet(x: Gaussian, y: Gaussian) -> float:
    """(1). Raises `UserError` for vectors of different width."""
    require(x.width == y.width, f"vectors of {x.width} and of {y.width} values are not of the same features")
    shift_D = x.mean_D - y.mean_D
    roots_R = np.linalg.svd(x.factor_DR.T @ y.factor_DR, compute_uv=False)
    return max(0.0, float(shift_D @ shift_D + np.trace(x.cov_DD) + np.trace(y.cov_DD) - 2 * roots_R.sum()))


def frechet_unbiased(x_ND: Vectors, y: Vectors | Gaussian, parts: int = PARTS, seed: int = 0) -> Interval:
    """(2) with its 95 % interval; of x alone where y is known by its statistics only. It may be below 0.

    Raises `UserError` where a covariance without one of the parts is not of full rank: its bias is of another kind.
    """
    given = isinstance(y, Gaussian)
    x, other = Gaussian.of(x_ND), y if given else Gaussian.of(y)
    found = frechet(x, other)
    value, variance = found, 0.0
    for vectors, rest in ((x_ND, other), *(() if given else ((y, x),))):
        least = fewest(vectors.shape[1], parts)
        require(len(vectors) >= least, f"{len(vectors)} pictures: to take the bias away {least} at least are needed")
        order = np.random.default_rng(seed).permutation(len(vectors))
        left_J = np.array([frechet(part, rest) for part in _without_each(vectors, np.array_split(order, parts))])
        pseudo_J = parts * found - (parts - 1) * left_J
        value += pseudo_J.mean() - found
        variance += pseudo_J.var(ddof=1) / parts
    reach = stats.t.ppf(0.975, parts - 1) * variance**0.5
    return Interval(value, value - reach, value + reach)


def frechet_infinity(x_ND: Vectors, y: Gaussian, points: int = POINTS, seed: int = 0) -> Interval:
    """(2b) with its 95 % interval, of x alone: y is as it is. It may be below 0.

    Subsets have from a tenth of x (or the fewest that `least_subset` allows) to all of it, evenly spaced. The interval
    is of x drawn anew, and of its subsets: to first order (1) of a subset is that of all there is, plus a constant / n,
    plus the mean of h over it (2c), and subsets of n and m out of N share nm / N. (The fit's own residuals know nothing
    of the N that all subsets are out of.) Raises `UserError` for too few vectors.
    """
    N, least = len(x_ND), least_subset(x_ND.shape[1])
    require(2 * least <= N, f"{N} pictures: to fit distances over numbers of pictures {2 * least} at least are needed")
    x, rng = Gaussian.of(x_ND), np.random.default_rng(seed)
    size_K = np.linspace(max(N // 10, least), N, points).round().astype(int)
    subsets = (x if n == N else Gaussian.of(x_ND[rng.choice(N, n, replace=False)]) for n in size_K)
    found_K = np.array([frechet(subset, y) for subset in subsets])
    weight_K = np.linalg.pinv(np.stack([np.ones(points), 1 / size_K], axis=1))[0]  # (2b): the value at 0 is linear
    value = float(weight_K @ found_K)
    variance = _influence(x_ND, x, y).var(ddof=1) * (1 / N + weight_K**2 @ (1 / size_K - 1 / N))
    reach = stats.norm.ppf(0.975) * float(variance) ** 0.5
    return Interval(value, value - reach, value + reach)


def least_subset(width: int) -> int:
    """Vectors, at least, of a subset of `frechet_infinity`: twice as many as they have values."""
    return 2 * width + 1


def _influence(x_ND: Vectors, x: Gaussian, y: Gaussian) -> Float[np.ndarray, " n"]:
    """h(z) = |z|^2 + 2 z.(m_x - m_y) - z^T T z of z = x - m_x, how (1) changes with the weight of a vector of x (2c).

    T = C_x^(-1/2) (C_x^(1/2) C_y C_x^(1/2))^(1/2) C_x^(-1/2) takes C_x to C_y.
    """
    z_ND, F_DR = np.asarray(x_ND, np.float64) - x.mean_D, x.factor_DR
    U_RS, root_S, _ = np.linalg.svd(F_DR.T @ y.factor_DR, full_matrices=False)
    white_NS = z_ND @ (F_DR / (F_DR**2).sum(axis=0)) @ U_RS  # columns of F are at right angles
    return (z_ND**2).sum(axis=1) + 2 * z_ND @ (x.mean_D - y.mean_D) - white_NS**2 @ root_S


def fewest(width: int, parts: int = PARTS) -> int:
    """Vectors that `frechet_unbiased` needs: without a part, they are twice as many as they have values."""
    return max(parts, -(-2 * width * parts // (parts - 1)) + 1)


def _without_each(x_ND: Vectors, parts: list[np.ndarray]) -> Iterator[Gaussian]:
    """Of the vectors without one of the parts, for each."""
    for j in range(len(parts)):
        yield Gaussian.of(x_ND[np.concatenate([part for i, part in enumerate(parts) if i != j])])


class Kid(NamedTuple):
    """(3) over subsets."""

    mean: float
    std: float
    """Over the subsets; 0 where there is one."""
    subsets: int
    size: int
    """m."""


def kid(x_ND: Vectors, y_MD: Vectors, subsets: int = KID_SUBSETS, size: int = KID_SIZE, seed: int = KID_SEED) -> Kid:
    """(3); with fewer vectors than `size`, over subsets as large as the smaller set, or the whole sets once.

    Subsets are drawn without replacement, in torch-fidelity's order: equal vectors give equal figures. Raises
    `UserError` for fewer than two vectors.
    """
    size = min(size, len(x_ND), len(y_MD))
    require(size > 1, f"KID needs 2 pictures at least, there are {len(x_ND)} and {len(y_MD)}")
    subsets = 1 if size == len(x_ND) == len(y_MD) else subsets
    rng, found = np.random.RandomState(seed), []
    for _ in range(subsets):
        some = [each[rng.choice(len(each), size, replace=False)] for each in (x_ND, y_MD)]
        found.append(discrepancy(*kernels(*some)))
    return Kid(float(np.mean(found)), float(np.std(found)), subsets, size)


def kernels(x_ND: Vectors, y_MD: Vectors) -> list[np.ndarray]:
    """k of (3): of x with x, y with y, x with y."""
    pairs = ((x_ND, x_ND), (y_MD, y_MD), (x_ND, y_MD))
    return [polynomial_kernel(*(np.asarray(each, np.float64) for each in pair), degree=3, coef0=1.0) for pair in pairs]


def discrepancy(xx: np.ndarray, yy: np.ndarray, xy: np.ndarray) -> float:
    """(3) of whole sets, which may be of different sizes."""
    within = [(each.sum() - np.trace(each)) / (len(each) * (len(each) - 1)) for each in (xx, yy)]
    return float(sum(within) - 2 * xy.mean())


class InceptionScore(NamedTuple):
    """(6) over splits."""

    mean: float
    std: float
    splits: int


def inception_score(logits_NC: Vectors, splits: int = SPLITS, seed: int = SPLIT_SEED) -> InceptionScore:
    """(6), in torch-fidelity's order: equal logits give equal figures. Raises `UserError` for fewer than `splits`."""
    N = len(logits_NC)
    require(splits <= N, f"{N} pictures: the Inception Score has {splits} splits, and needs as many at least")
    order, found = np.random.RandomState(seed).permutation(N), []
    for k in range(splits):
        rows = order[k * N // splits : (k + 1) * N // splits]
        log_p_NC = log_softmax(np.asarray(logits_NC[rows], np.float64), axis=1)
        p_NC = np.exp(log_p_NC)
        with np.errstate(divide="ignore"):
            log_mean_C = np.log(p_NC.mean(axis=0))
        apart_NC = np.where(p_NC > 0, log_p_NC - log_mean_C, 0.0)
        found.append(np.exp((p_NC * apart_NC).sum(axis=1).mean()))
    return InceptionScore(float(np.mean(found)), float(np.std(found)), splits)


class Neighbourhoods(NamedTuple):
    """(4) and (5)."""

    precision: float
    recall: float
    density: float
    coverage: float


def neighbourhoods(x_ND: Vectors, y_MD: Vectors, nearest: int = NEAREST, inside: int = INSIDE) -> Neighbourhoods:
    """(4) and (5), in blocks of memory. Raises `UserError` where a set has no so many neighbours."""
    most = max(nearest, inside)
    for each in (x_ND, y_MD):
        require(len(each) > most, f"{len(each)} pictures have no {most} neighbours: {most + 1} at least are needed")
    centre_D = np.asarray(y_MD, np.float64).mean(axis=0)  # the nearer to 0, the less is lost in differences
    x_ND, y_MD = np.asarray(x_ND, np.float64) - centre_D, np.asarray(y_MD, np.float64) - centre_D
    x_reach_N = _reaches(x_ND, (nearest,))[0]
    y_reach_M, y_inside_M = _reaches(y_MD, (nearest, inside))
    precise, balls = 0, 0
    recalled_M, closest_M = np.zeros(len(y_MD), bool), np.full(len(y_MD), np.inf)
    for rows, far_BM in _distances(x_ND, y_MD):
        precise += int((far_BM <= y_reach_M).any(axis=1).sum())
        balls += int((far_BM < y_inside_M).sum())
        recalled_M |= (far_BM <= x_reach_N[rows, None]).any(axis=0)
        np.minimum(closest_M, far_BM.min(axis=0), out=closest_M)
    return Neighbourhoods(
        precise / len(x_ND),  # (4)
        float(recalled_M.mean()),
        balls / (inside * len(x_ND)),  # (5)
        float((closest_M < y_inside_M).mean()),
    )


def _reaches(x_ND: np.ndarray, ks: tuple[int, ...]) -> list[np.ndarray]:
    """The squared distance of every vector to its k-th neighbour among the others, for each k."""
    found = [np.empty(len(x_ND)) for _ in ks]
    for rows, far_BN in _distances(x_ND, x_ND):
        ordered = np.partition(far_BN, ks, axis=1)  # the nearest of all, at 0, is itself
        for reach_N, k in zip(found, ks, strict=True):
            reach_N[rows] = ordered[:, k]
    return found


def _distances(x_ND: np.ndarray, y_MD: np.ndarray) -> Iterator[tuple[slice, np.ndarray]]:
    """Squared distances of some of x to all of y, block after block. Those that are lost in rounding are 0: equal
    vectors are not apart."""
    x_norm_N, y_norm_M = (np.einsum("nd,nd->n", each, each) for each in (x_ND, y_MD))
    step, least = max(1, _BLOCK_VALUES // len(y_MD)), 4 * np.finfo(np.float64).eps * x_ND.shape[1]
    for start in range(0, len(x_ND), step):
        rows = slice(start, start + step)
        scale_BM = x_norm_N[rows, None] + y_norm_M
        far_BM = scale_BM - 2 * (x_ND[rows] @ y_MD.T)
        far_BM[far_BM <= least * scale_BM] = 0.0
        yield rows, far_BM
