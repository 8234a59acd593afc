"""Sets of pictures as vectors of named features, and how far two of them are apart (distances.py), told as it is.

A set is read once, in order: its mean and covariance are summed up as vectors come, and all vectors are kept where
distances need them (float32: 50,000 of 2,048 values are 400 MB). Statistics alone, an .npz with `mu` and `sigma` as
pytorch-fid and the ADM suite exchange them, give Frechet's distance and no other.
"""

import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, UInt8

from reimagen_jax.data.pictures import ARRAY, array_names, open_pictures, stored_array
from reimagen_jax.encoders import vectors
from reimagen_jax.errors import UserError, require
from reimagen_jax.evaluation import distances
from reimagen_jax.evaluation.distances import (
    INSIDE,
    NEAREST,
    Gaussian,
    Moments,
    Vectors,
    fewest,
    frechet_unbiased,
    neighbourhoods,
)
from reimagen_jax.evaluation.rater import SETTINGS, Rater
from reimagen_jax.evaluation.statistics import wilson

RATER, STATISTICS = "rater", "statistics"
MEAN, COV, COUNT, FEATURES = "mu", "sigma", "count", "features"
"""Of statistics; the first two are everybody's."""
BATCH = 256
RESIZING = "central square, averaged over areas on the way down, bicubic on the way up"


@dataclass(frozen=True, eq=False)
class Features:
    """A network that turns pictures into vectors."""

    name: str
    fingerprint: str
    resolution: int
    embed: Callable[[UInt8[np.ndarray, "n r r 3"]], Float[np.ndarray, "n d"]] = field(repr=False)

    def __str__(self) -> str:
        side = self.resolution
        return f"{self.name} ({self.fingerprint}), pictures at {side} x {side}: {RESIZING}"


def open_features(spec: str | Path) -> Features:
    """`rater`, the one that comes with the package, or a folder of a rater or of an encoder.

    Raises `UserError` where there is neither.
    """
    folder = None if str(spec) == RATER else Path(spec)
    if folder is None or (folder / SETTINGS).is_file():
        rater = Rater.open(folder)
        return Features("the rater's features", rater.digest, rater.config.resolution, rater.features)
    encoder = vectors.open_encoder(folder)
    require(encoder.resolution is not None, f"{folder} holds an encoder of texts alone: give one that reads pictures")
    return Features("vectors of the encoder", encoder.fingerprint, encoder.resolution, encoder.images)


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

    def __str__(self) -> str:
        count = self.gaussian.count
        number = "an unknown number of pictures" if count is None else f"{count:,} pictures"
        return f"{self.name}: {number} ({self.what})"


def read_set(path: str | Path, features: Features, *, keep: bool = True, title: str = "features") -> PictureSet:
    """Reads pictures, or the statistics of some. Raises `UserError` for neither, and for fewer than two pictures.

    With `keep` all vectors are kept.
    """
    path = Path(path)
    if path.suffix.lower() == ".npz" and path.is_file():
        names = array_names(path)
        if MEAN in names and COV in names and (found := _statistics(path, features, instead=ARRAY in names)):
            return found
    pictures, moments, kept = open_pictures(path), Moments(), []
    for batch in pictures.decoded(features.resolution, BATCH, title):
        vectors_BD = features.embed(batch)
        moments.add(vectors_BD)
        if keep:
            kept.append(vectors_BD)
    require(moments.count > 1, f"{path} has {moments.count} pictures: 2 at least are needed to compare sets")
    return PictureSet(str(path), pictures.what, moments.gaussian, np.concatenate(kept) if keep else None)


def write_statistics(path: str | Path, found: PictureSet, features: Features) -> None:
    """Writes an .npz with `mu` and `sigma`, float64, and what they are of; whole or not at all."""
    path = Path(path)
    partial = path.with_name(f".{path.name}.partial")
    told = {COUNT: found.gaussian.count, FEATURES: str(features)}
    with partial.open("wb") as file:
        np.savez_compressed(file, **{MEAN: found.gaussian.mean_D, COV: found.gaussian.cov_DD}, **told)
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)


def _statistics(path: Path, features: Features, instead: bool) -> PictureSet | None:
    """Those in a file. None where they are of other features, and there are pictures `instead`."""
    width = _width(features)
    with stored_array(path, MEAN) as mean, stored_array(path, COV) as cov:
        if instead and mean.shape != (width,):
            return None
        require(
            (mean.shape, cov.shape) == ((width,), (width, width)),
            f"{path} has statistics mu {list(mean.shape)}, sigma {list(cov.shape)}, and {features.name} are {width} "
            "values: both must be of the same features",
        )
        numbers = mean.dtype.kind == cov.dtype.kind == "f"
        require(numbers, f"{path}: mu and sigma are {mean.dtype} and {cov.dtype}, no finite numbers")
    try:
        with np.load(path, allow_pickle=False) as file:
            told = {name: file[name].item() for name in (COUNT, FEATURES) if name in file and _is_one(path, name)}
            mean_D, cov_DD = file[MEAN], file[COV]
            count, noted = (int(told[COUNT]) if COUNT in told else None), str(told.get(FEATURES, ""))
    except (MemoryError, UserError):
        raise
    except Exception as error:  # numpy and zipfile raise whatever they like over bytes that are not what they wrote
        raise UserError(f"{path} cannot be read as statistics (mu, sigma): {error}") from error
    require(bool(np.isfinite(mean_D).all() and np.isfinite(cov_DD).all()), f"{path}: mu or sigma are no finite numbers")
    mean_D, cov_DD = mean_D.astype(np.float64), cov_DD.astype(np.float64)
    symmetric = np.allclose(cov_DD, cov_DD.T, rtol=1e-5, atol=1e-8 * (1 + np.abs(cov_DD).max()))
    require(symmetric, f"{path}: sigma is no covariance, it is not symmetric")
    require(
        not noted or noted == str(features),
        f"{path} has statistics of other features, {noted}: give them as --features, or make the statistics anew",
    )
    return PictureSet(str(path), STATISTICS, Gaussian(mean_D, (cov_DD + cov_DD.T) / 2, count), noted=noted)


def _is_one(path: Path, name: str) -> bool:
    """Whether an array is one value of a few thousand bytes at most: what others ask for may be any size."""
    with stored_array(path, name) as stored:
        return stored.shape == () and stored.dtype.itemsize <= 2**12


def _width(features: Features) -> int:
    side = features.resolution
    return features.embed(np.zeros((1, side, side, 3), np.uint8)).shape[1]


class Figure(NamedTuple):
    """A distance, or a share, as it is told."""

    name: str
    value: float
    low: float | None
    high: float | None
    """Of its 95 % interval; None where there is none."""
    told: str
    """How it was found."""

    def __str__(self) -> str:
        interval = "" if self.low is None else f" [{self.low:.4f}, {self.high:.4f}]"
        return f"{self.name:<17}{self.value:>10.4f}{interval}" + (f"  ({self.told})" if self.told else "")


def compare(x: PictureSet, y: PictureSet) -> list[Figure]:
    """How far pictures are from a reference: all that can be told of what is known of both.

    Intervals of shares (Wilson's) are of the pictures asked about, with the balls of the other set as they are. Raises
    `UserError` where the two are not of the same features.
    """
    figures = [Figure("FID", distances.frechet(x.gaussian, y.gaussian), None, None, "")]
    if x.vectors_ND is None:
        return figures
    told = [each for each in (x, y) if each.vectors_ND is not None]
    if min(each.gaussian.count for each in told) >= fewest(x.gaussian.width):
        of = y.gaussian if y.vectors_ND is None else y.vectors_ND
        who = "that of the pictures alone" if y.vectors_ND is None else "jackknife over both sets"
        figures.append(Figure("FID without bias", *frechet_unbiased(x.vectors_ND, of), who))
    if y.vectors_ND is None:
        return figures
    kid = distances.kid(x.vectors_ND, y.vectors_ND)
    spread = f"{kid.subsets} subsets of {kid.size}, deviation {kid.std:.4f}" if kid.subsets > 1 else "whole sets"
    figures.append(Figure("KID", kid.mean, None, None, spread))
    if min(x.gaussian.count, y.gaussian.count) > max(NEAREST, INSIDE):
        found = neighbourhoods(x.vectors_ND, y.vectors_ND)
        for name, value in found._asdict().items():
            k, of = (NEAREST if name in ("precision", "recall") else INSIDE), (x if name == "precision" else y)
            count = of.gaussian.count
            bounds = (None, None) if name == "density" else wilson(round(value * count), count)[1:]
            figures.append(Figure(name, value, *bounds, f"{k} neighbours"))
    return figures


def remarks(x: PictureSet, y: PictureSet) -> list[str]:
    """What whoever reads the figures should know."""
    found, width = [], x.gaussian.width
    for each in (x, y):
        if each.gaussian.deficient:
            found.append(
                f"{each.name}: {each.gaussian.count:,} pictures span fewer than the {width} dimensions of their "
                "features: FID is much too high, and compares with that of as many pictures alone"
            )
        if each.what == STATISTICS and not each.noted:
            found.append(f"{each.name} does not tell of which features its statistics are: these are assumed")
    return list(dict.fromkeys(found))
