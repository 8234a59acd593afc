"""Sets of pictures as vectors of named features, and how far two of them are apart (distances.py), told as it is.

A set is read once, in order, wherever it lies, also while it is being drawn: its mean and covariance are summed up as
vectors come, and all vectors are kept where distances need them (float32: 50,000 of 2,048 values are 400 MB). Of the
map that sFID is of, mean and covariance alone are summed up.
Statistics alone, an .npz with `mu` and `sigma` as pytorch-fid and the ADM suite exchange them, and `mu_s` and `sigma_s`
of that map as the suite has them, give Frechet's distances and no others; the pictures that the ADM suite puts beside
them (`arr_0`) give the others.
"""

import os
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Float
from scipy import stats

from reimagen_jax.data.pictures import ARRAY, Batch, Pictures, array_names, open_pictures, stored_array
from reimagen_jax.errors import UserError, require
from reimagen_jax.evaluation import distances
from reimagen_jax.evaluation.distances import (
    INSIDE,
    NEAREST,
    SPLITS,
    Gaussian,
    Moments,
    Vectors,
    fewest,
    frechet_infinity,
    frechet_unbiased,
    inception_score,
    least_subset,
    neighbourhoods,
)
from reimagen_jax.evaluation.features import Features
from reimagen_jax.evaluation.statistics import Interval, wilson

STATISTICS = "statistics"
MEAN, COV, COUNT, FEATURES = "mu", "sigma", "count", "features"
"""Of statistics; the first two are everybody's."""
SPATIAL_MEAN, SPATIAL_COV = "mu_s", "sigma_s"
"""Beside them in files of the ADM suite, of the map that sFID is of."""
LARGEST = 1e30
"""That statistics may hold: what they are of is float32."""
ROUNDED = 1e-4
"""How far below 0 a covariance's eigenvalues may be by rounding (to float32, at worst), as a share of the largest."""


@dataclass(frozen=True, eq=False)
class PictureSet:
    """What is known of a set of pictures."""

    name: str
    what: str
    gaussian: Gaussian
    vectors_ND: Vectors | None = field(default=None, repr=False)
    """None where its statistics alone are known."""
    noted: str = ""
    """Of statistics: the features that they are said to be of; empty where nothing is said."""
    logits_NC: Vectors | None = field(default=None, repr=False)
    """Of Inception's classes."""
    cosine_N: Float[np.ndarray, " n"] | None = field(default=None, repr=False)
    """Of each picture's vector with its caption's."""
    apart: bool = False
    """Whether the statistics are of more pictures than the vectors."""
    spatial: Gaussian | None = None
    """Of the map that sFID is of; None where the network tells none, and where statistics have none."""

    def __str__(self) -> str:
        count = self.gaussian.count
        number = "an unknown number of pictures" if count is None else f"{count:,} pictures"
        more = f", and {len(self.vectors_ND):,} of them" if self.apart else ""
        return f"{self.name}: {number} ({self.what}{more})"


def read_set(
    pictures: str | Path | Pictures,
    features: Features,
    *,
    keep: bool = True,
    captions: bool = False,
    title: str = "features",
) -> PictureSet:
    """Reads pictures, or the statistics of some. Raises `UserError` for neither, and for fewer than two pictures.

    With `keep` all vectors are kept, with `captions` it is found out how well these go with pictures.
    """
    if isinstance(pictures, Pictures):
        return _read(pictures, features, keep, captions, title)
    path, known = Path(pictures), None
    if path.suffix.lower() == ".npz" and path.is_file():
        names = array_names(path)
        if MEAN in names and COV in names:
            known = _statistics(path, features, set(names))
            if known is not None and not (keep and ARRAY in names):
                return known
    found = _read(open_pictures(path), features, keep, captions, title)
    if known is None:
        return found
    both = {"gaussian": known.gaussian, "spatial": known.spatial}
    return replace(found, what=STATISTICS, **both, noted=known.noted, apart=True)


def _read(pictures: Pictures, features: Features, keep: bool, captions: bool, title: str) -> PictureSet:
    moments, spatial, vectors, logits, cosines = Moments(), Moments(), [], [], []
    told: list[list[str]] = []

    def prepared(batches: list[Batch]):
        for batch in batches:
            told.append(batch.captions)
            yield batch.pictures

    batches = pictures.read(features.prepare, features.batch, title, captions)
    for i, read in enumerate(features.read(prepared(batches))):
        moments.add(read.vector_BD)
        if read.spatial_BS is not None:
            spatial.add(read.spatial_BS)
        if captions:
            cosines.append(_cosines(read.vector_BD, features.texts(told[i])))
            told[i] = []
        if keep:
            vectors.append(read.vector_BD)
        if keep and read.logits_BC is not None:
            logits.append(read.logits_BC)
    number = "1 picture" if moments.count == 1 else f"{moments.count} pictures"
    require(moments.count > 1, f"{pictures.path} has {number}: 2 at least are needed to compare sets")
    return PictureSet(
        str(pictures.path),
        pictures.what,
        moments.gaussian,
        np.concatenate(vectors) if vectors else None,
        logits_NC=np.concatenate(logits) if logits else None,
        cosine_N=np.concatenate(cosines) if cosines else None,
        spatial=spatial.gaussian if spatial.count else None,
    )


def _cosines(x_BD: Vectors, text_BD: Vectors) -> Float[np.ndarray, " b"]:
    """Of pictures' vectors with unit ones."""
    return np.einsum("bd,bd->b", x_BD, text_BD) / np.maximum(np.linalg.norm(x_BD, axis=1), 1e-12)


def write_statistics(path: str | Path, found: PictureSet, features: Features) -> None:
    """Writes an .npz with `mu` and `sigma`, float64, `mu_s` and `sigma_s` where there is such a map, and what they are
    of; whole or not at all."""
    path = Path(path)
    partial = path.with_name(f".{path.name}.partial")
    told = {COUNT: found.gaussian.count, FEATURES: str(features)}
    arrays = {MEAN: found.gaussian.mean_D, COV: found.gaussian.cov_DD}
    if found.spatial is not None:
        arrays |= {SPATIAL_MEAN: found.spatial.mean_D, SPATIAL_COV: found.spatial.cov_DD}
    with partial.open("wb") as file:
        np.savez_compressed(file, **arrays, **told)
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)


def _statistics(path: Path, features: Features, names: set[str]) -> PictureSet | None:
    """Those in a file of arrays so named, of a map too where it has those; of the ADM suite's features where it is its.
    None where they are of others, and there are pictures instead."""
    with stored_array(path, MEAN) as mean:
        if ARRAY in names and mean.shape != (features.width,):
            return None
    _check_shapes(path, (MEAN, COV), features.width, features.name)
    try:
        with np.load(path, allow_pickle=False) as file:
            told = {name: file[name].item() for name in (COUNT, FEATURES) if name in file and _is_one(path, name)}
            count, noted = told.get(COUNT), str(told.get(FEATURES, ""))
    except (MemoryError, UserError):
        raise
    except Exception as error:  # numpy and zipfile raise whatever they like over bytes that are not what they wrote
        raise UserError(f"{path} cannot be read as statistics (mu, sigma): {error}") from error
    counted = count is None or (type(count) is int and count > 1)
    require(counted, f"{path} cannot be read as statistics: {COUNT} is {count!r}, and pictures are 2 at least")
    require(
        SPATIAL_MEAN not in names or features.suite or noted != "",
        f"{path} has the ADM suite's statistics ({SPATIAL_MEAN}), of Inception's 2,048 features of pictures resized as "
        "TensorFlow 1 does: give its weights as --features, and --resizing torch-fidelity",
    )
    require(
        not noted or noted == str(features),
        f"{path} has statistics of other features, {noted}; these are {features}: give those as --features and "
        "--resizing, or make the statistics anew",
    )
    gaussian, of_map = _stored_gaussian(path, (MEAN, COV), count), None
    if features.spatial_width and {SPATIAL_MEAN, SPATIAL_COV} <= names:
        _check_shapes(path, (SPATIAL_MEAN, SPATIAL_COV), features.spatial_width, "those of sFID")
        of_map = _stored_gaussian(path, (SPATIAL_MEAN, SPATIAL_COV), count)
    return PictureSet(str(path), STATISTICS, gaussian, noted=noted, spatial=of_map)


def _check_shapes(path: Path, names: tuple[str, str], width: int, features: str) -> None:
    """Raises `UserError` where stored arrays are no mean and covariance of so many values; nothing of them is read."""
    mu, sigma = names
    with stored_array(path, mu) as mean, stored_array(path, sigma) as cov:
        require(
            (mean.shape, cov.shape) == ((width,), (width, width)),
            f"{path} has statistics {mu} {list(mean.shape)}, {sigma} {list(cov.shape)}, and {features} are {width} "
            "values: both must be of the same features",
        )
        numbers = mean.dtype.kind == cov.dtype.kind == "f"
        require(numbers, f"{path}: {mu} and {sigma} are {mean.dtype} and {cov.dtype}: floats are needed")


def _stored_gaussian(path: Path, names: tuple[str, str], count: int | None) -> Gaussian:
    """Raises `UserError` for what is no mean and covariance."""
    mu, sigma = names
    try:
        with np.load(path, allow_pickle=False) as file:
            mean_D, cov_DD = file[mu], file[sigma]
    except (MemoryError, UserError):
        raise
    except Exception as error:  # as above
        raise UserError(f"{path} cannot be read as statistics ({mu}, {sigma}): {error}") from error
    finite = bool(np.isfinite(mean_D).all() and np.isfinite(cov_DD).all())
    require(finite, f"{path}: {mu} or {sigma} are no finite numbers")
    mean_D, cov_DD = mean_D.astype(np.float64), cov_DD.astype(np.float64)
    largest = max(np.abs(mean_D).max(), np.abs(cov_DD).max())
    require(largest < LARGEST, f"{path}: {mu} or {sigma} has {largest:.1e}: no network's features are as large")
    symmetric = np.allclose(cov_DD, cov_DD.T, rtol=1e-5, atol=1e-8 * (1 + np.abs(cov_DD).max()))
    require(symmetric, f"{path}: {sigma} is no covariance, it is not symmetric")
    found = Gaussian(mean_D, (cov_DD + cov_DD.T) / 2, count)
    lowest, highest = found.spectrum[0][[0, -1]]
    require(
        lowest >= -ROUNDED * max(highest, 0.0),
        f"{path}: {sigma} is no covariance, it has variances below 0 (from {lowest:.3g} to {highest:.3g})",
    )
    return found


def _is_one(path: Path, name: str) -> bool:
    """Whether an array is one value of a few thousand bytes at most: what others ask for may be any size."""
    with stored_array(path, name) as stored:
        return stored.shape == () and stored.dtype.itemsize <= 2**12


class Figure(NamedTuple):
    """A distance, or a share, as it is told."""

    name: str
    value: float
    low: float | None
    high: float | None
    """Of its 95 % interval; None where there is none."""
    told: str
    """How it was found."""
    by: str
    """The features that it is of, with what tells its figures from others."""

    def __str__(self) -> str:
        interval = "" if self.low is None else f" [{self.low:.4f}, {self.high:.4f}]"
        return f"{self.name:<17}{self.value:>10.4f}{interval}  ({'; '.join(filter(None, (self.told, self.by)))})"


def compare(x: PictureSet, y: PictureSet, features: Features, infinity: bool = False) -> list[Figure]:
    """How far pictures are from a reference: all that can be told of what is known of both; `infinity`, which costs
    fifteen times Frechet's distance, where it is asked for.

    Intervals of shares (Wilson's) are of the pictures asked about, with the balls of the other set as they are. Raises
    `UserError` where the two are not of the same features.
    """
    by, prefix = features.label, "CLIP-" if features.clip else ""
    figures = [Figure(f"{prefix}FID", distances.frechet(x.gaussian, y.gaussian), None, None, "", by)]
    figures += _without_bias(x, y, prefix, by)
    if infinity and not _no_infinity(x):
        told = f"fit over {distances.POINTS} sizes, interval of the pictures alone"
        figures.append(Figure(f"{prefix}FID-infinity", *frechet_infinity(x.vectors_ND, y.gaussian), told, by))
    if x.spatial is not None and y.spatial is not None:
        sfid = distances.frechet(x.spatial, y.spatial)
        figures.append(Figure("sFID", sfid, None, None, "", features.spatial_label))
    if x.vectors_ND is None or y.vectors_ND is None:
        return figures + scores(x, features)
    kid = distances.kid(x.vectors_ND, y.vectors_ND)
    spread = f"{kid.subsets} subsets of {kid.size}, deviation {kid.std:.4f}" if kid.subsets > 1 else "whole sets"
    figures.append(Figure(f"{prefix}KID", kid.mean, None, None, spread, by))
    if min(len(x.vectors_ND), len(y.vectors_ND)) > max(NEAREST, INSIDE):
        found = neighbourhoods(x.vectors_ND, y.vectors_ND)
        for name, value in found._asdict().items():
            k, of = (NEAREST if name in ("precision", "recall") else INSIDE), (x if name == "precision" else y)
            count = len(of.vectors_ND)
            bounds = (None, None) if name == "density" else wilson(round(value * count), count)[1:]
            figures.append(Figure(name, value, *bounds, f"{k} neighbours", by))
    return figures + scores(x, features)


def _without_bias(x: PictureSet, y: PictureSet, prefix: str, by: str) -> list[Figure]:
    """Frechet's distance without bias, where the sets are large enough."""
    if x.vectors_ND is None or x.apart:
        return []
    given = y.vectors_ND is None or y.apart
    counted = [x] if given else [x, y]
    if min(each.gaussian.count for each in counted) < fewest(x.gaussian.width):
        return []
    who = "that of the pictures alone" if given else "jackknife over both sets"
    unbiased = frechet_unbiased(x.vectors_ND, y.gaussian if given else y.vectors_ND)
    return [Figure(f"{prefix}FID without bias", *unbiased, who, by)]


def _no_infinity(x: PictureSet) -> str:
    """Why there is no FID-infinity of a set; empty where there is."""
    if x.vectors_ND is None or x.apart:
        return "of statistics there is no FID-infinity: give the pictures"
    least = 2 * least_subset(x.gaussian.width)
    return "" if x.gaussian.count >= least else f"FID-infinity needs {least:,} pictures, twice its smallest subset"


def scores(x: PictureSet, features: Features) -> list[Figure]:
    """What is told of pictures without a reference: the Inception Score, and how well they go with their captions."""
    figures = []
    if x.logits_NC is not None and len(x.logits_NC) >= SPLITS:
        found = inception_score(x.logits_NC)
        told = f"{found.splits} splits, deviation {found.std:.4f}, logits without bias"
        figures.append(Figure("Inception Score", found.mean, None, None, told, features.label))
    if x.cosine_N is not None:
        for name, cosine_N in (
            ("CLIP cosine", x.cosine_N),
            ("CLIP score", 100 * np.maximum(x.cosine_N, 0)),
            ("CLIPScore", 2.5 * np.maximum(x.cosine_N, 0)),
        ):
            figures.append(Figure(name, *_normal(cosine_N), SCALES[name], features.label))
    return figures


SCALES = {
    "CLIP cosine": "of picture and caption",
    "CLIP score": "100 max(cosine, 0), as torchmetrics",
    "CLIPScore": "2.5 max(cosine, 0), as Hessel et al. 2021; captions as they are",
}
"""The three ways in which papers tell one thing."""


def _normal(values_N: Float[np.ndarray, " n"]) -> Interval:
    """The mean of many pictures, with Student's interval."""
    reach = stats.t.ppf(0.975, len(values_N) - 1) * stats.sem(values_N)
    mean = float(values_N.mean())
    return Interval(mean, float(mean - reach), float(mean + reach))


def remarks(x: PictureSet, y: PictureSet | None = None, infinity: bool = False) -> list[str]:
    """What whoever reads the figures should know; `infinity` is asked for."""
    found, width = [], x.gaussian.width
    if x.logits_NC is not None and len(x.logits_NC) < SPLITS:
        found.append(f"{x.name}: the Inception Score needs {SPLITS} pictures, one for each of its splits")
    if y is None:
        return found
    if infinity and _no_infinity(x):
        found.append(f"{x.name}: {_no_infinity(x)}")
    told = "FID is" if x.spatial is None or y.spatial is None else "FID, as sFID, is"
    for each in (x, y):
        if each.gaussian.deficient:
            found.append(
                f"{each.name}: {each.gaussian.count:,} pictures span fewer than the {width} dimensions of their "
                f"features: {told} much too high, and compares with that of as many pictures alone"
            )
        if each.what == STATISTICS and not each.noted:
            found.append(f"{each.name} does not tell of which features its statistics are: these are assumed")
        if each.vectors_ND is not None and len(each.vectors_ND) <= max(NEAREST, INSIDE):
            found.append(
                f"{each.name}: {len(each.vectors_ND)} pictures have no {INSIDE} neighbours, so there are no precision, "
                "recall, density and coverage"
            )
    return list(dict.fromkeys(found))
