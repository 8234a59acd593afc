"""Pictures as vectors in which alike ones are near, from what is at hand without downloads.

    pixels    their colours at 16 x 16
    edges     oriented gradients in 8 x 8 cells, each of unit length at most (Dalal and Triggs 2005)
    colours   how much there is of 4 x 4 x 4 colours (the square root)
    texture   how much there is of each step between neighbouring pixels, of each pattern of brighter and darker ones
              around a pixel (Ojala et al. 2002), of each brightness and saturation (square roots): how it is drawn
    unet      what the shipped model's attention reads of a neighbour: its encoder at t = 0, in 4 x 4 cells
    encoder   vectors of an encoder of one's own (`reimagen encode-train`)

All read 32 x 32 pixels but for the last. A space is one or several of them side by side, each reduced to its
principal components that vary, and whitened (1), as fitted to pictures of the records.
"""

import functools
from collections.abc import Callable, Mapping, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image
from sklearn.decomposition import PCA

from reimagen_jax.data import images
from reimagen_jax.encoders.dual import DualEncoder
from reimagen_jax.inference.model import SHIPPED, Model
from reimagen_jax.nets.unet import UNet
from reimagen_jax.progress import track
from reimagen_jax.systems import kinds
from reimagen_jax.systems.pixels import to_model

Pictures = UInt8[np.ndarray, "n r r 3"]
Vectors = Float[np.ndarray, "n d"]
SIDE = 32
SPACES: Mapping[str, tuple[str, ...]] = {
    "looks": ("pixels", "edges", "colours"),
    "surface": ("colours", "texture"),
    "unet": ("unet",),
    "all": ("pixels", "edges", "colours", "texture", "unet"),
    "encoder": ("encoder",),
}
"""Name -> features."""
COMPONENTS, LEAST_VARIANCE = 128, 1e-4
"""Of each kind of features: so many at most, and those alone that have this share of the variance."""
FITTED_TO = 4096
"""Pictures that the components are fitted to, at most."""
_BATCH = 128
_STEPS = np.array([0.002, 0.006, 0.012, 0.02, 0.035, 0.06, 0.1, 0.17, 0.28, 0.45])
_AROUND = ((-1, -1), (-1, 0), (-1, 1), (0, 1), (1, 1), (1, 0), (1, -1), (0, -1))
_BRIGHTER = 0.02


class Spaces:
    """Feature spaces, fitted to pictures as they are asked for."""

    def __init__(self, pictures: Pictures, encoder: DualEncoder | None = None) -> None:
        self.pictures = pictures
        self.encoder = encoder
        self._own: dict[str, Vectors] = {}
        self._reduce: dict[str, Callable[[Vectors], Vectors]] = {}

    @property
    def names(self) -> tuple[str, ...]:
        """Those that there are."""
        return tuple(name for name, parts in SPACES.items() if self.encoder is not None or "encoder" not in parts)

    def own(self, space: str) -> Vectors:
        """The vectors of the pictures that it was fitted to."""
        for part in SPACES[space]:
            self._fit(part)
        return np.concatenate([self._own[part] for part in SPACES[space]], axis=1)

    def __call__(self, space: str, pictures: Pictures) -> Vectors:
        """The vectors of other pictures."""
        for part in SPACES[space]:
            self._fit(part)
        found = [self._reduce[part](self._features(part, pictures)) for part in SPACES[space]]
        return np.concatenate(found, axis=1)

    def _fit(self, part: str) -> None:
        if part in self._own:
            return
        raw_ND = self._features(part, self.pictures)
        some_ND = raw_ND[:: -(-len(raw_ND) // FITTED_TO)]
        components = max(1, min(COMPONENTS, raw_ND.shape[1], len(some_ND) // 4))
        pca = PCA(components, whiten=True, svd_solver="randomized", random_state=0).fit(some_ND)  # (1)
        # What hardly varies here, whitened, would be huge in other pictures: a colour that none of these has.
        kept = max(1, int((pca.explained_variance_ratio_ >= LEAST_VARIANCE).sum()))
        self._reduce[part] = lambda raw_ND: pca.transform(raw_ND)[:, :kept].astype(np.float32)
        self._own[part] = self._reduce[part](raw_ND)

    def _features(self, part: str, pictures: Pictures) -> Vectors:
        if part == "encoder":
            return self.encoder.images(resized(pictures, self.encoder.resolution))
        return FEATURES[part](resized(pictures, SIDE))


def resized(pictures: Pictures, side: int) -> Pictures:
    """Area-averaged on the way down, bicubic on the way up."""
    if pictures.shape[1] == side:
        return pictures
    return np.stack([np.asarray(images.square(Image.fromarray(picture), side)) for picture in pictures])


def pixels(pictures: Pictures, side: int = 16) -> Vectors:
    """Colours in 0..1."""
    return resized(pictures, side).reshape(len(pictures), -1).astype(np.float32) / np.float32(255)


def edges(pictures: Pictures, cells: int = 8, angles: int = 9) -> Vectors:
    """For each cell, how strongly brightness changes in each direction."""
    grey = pictures.astype(np.float32).mean(axis=-1) / np.float32(255)
    down, right = np.zeros_like(grey), np.zeros_like(grey)
    down[:, 1:-1], right[:, :, 1:-1] = grey[:, 2:] - grey[:, :-2], grey[:, :, 2:] - grey[:, :, :-2]
    angle = np.minimum((np.arctan2(down, right) % np.pi / np.pi * angles).astype(int), angles - 1)
    strength = np.eye(angles, dtype=np.float32)[angle] * np.hypot(down, right)[..., None]
    step = SIDE // cells
    summed = strength.reshape(len(pictures), cells, step, cells, step, angles).sum(axis=(2, 4))
    return (summed / np.sqrt((summed**2).sum(axis=-1, keepdims=True) + np.float32(0.01))).reshape(len(pictures), -1)


def colours(pictures: Pictures, levels: int = 4) -> Vectors:
    """Square roots of shares."""
    place = (pictures // (256 // levels)).astype(np.int64) @ np.array([levels**2, levels, 1])
    counts = np.stack([np.bincount(each.ravel(), minlength=levels**3) for each in place])
    return np.sqrt(counts / place[0].size).astype(np.float32)


def texture(pictures: Pictures) -> Vectors:
    """Square roots of numbers of pixels."""
    image = pictures.astype(np.float32) / np.float32(255)
    grey = image.mean(axis=-1)
    found = [
        _histogram(np.abs(np.diff(layer, order, axis=axis)), _STEPS)
        for layer in (grey[..., None], image)
        for order in (1, 2)
        for axis in (1, 2)
    ]
    middle, code = grey[:, 1:-1, 1:-1], np.zeros((len(grey), SIDE - 2, SIDE - 2), np.int64)
    for bit, (y, x) in enumerate(_AROUND):
        around = grey[:, 1 + y : SIDE - 1 + y, 1 + x : SIDE - 1 + x]
        code |= (around > middle + _BRIGHTER).astype(np.int64) << bit
    levels = np.arange(1, 256) - 0.5
    found += [_histogram(code, levels)]
    found += [_histogram(each, np.linspace(0, 1, 17)[1:-1]) for each in (grey, image.max(-1) - image.min(-1))]
    return np.sqrt(np.concatenate(found, axis=1) / np.float32(SIDE**2)).astype(np.float32)


def _histogram(values: np.ndarray, bounds: np.ndarray) -> np.ndarray:
    places = np.digitize(values.reshape(len(values), -1), bounds)
    return np.stack([np.bincount(each, minlength=len(bounds) + 1) for each in places])


def unet(pictures: Pictures) -> Vectors:
    """The values of the shipped model's attention to neighbours, of all its levels."""
    program, params = _unet()
    found = []
    for first in track(range(0, len(pictures), _BATCH), -(-len(pictures) // _BATCH), "features", "batch"):
        some = pictures[first : first + _BATCH]
        padded = np.concatenate([some, np.zeros((_BATCH - len(some), *some.shape[1:]), np.uint8)])
        found.append(np.asarray(program(params, padded))[: len(some)])
    return np.concatenate(found)


FEATURES: Mapping[str, Callable[[Pictures], Vectors]] = {
    "pixels": pixels,
    "edges": edges,
    "colours": colours,
    "texture": texture,
    "unet": unet,
}


@functools.cache
def _unet() -> tuple[Callable, dict]:
    """The program, and its parameters."""
    model = Model.open(SHIPPED, on_host=True)
    system = kinds.system_of(model.config)

    def program(params: dict, pictures: jax.Array) -> jax.Array:
        B, width = len(pictures), system.model.text.width
        text = jnp.zeros((B, 1, 1, width), jnp.float32), jnp.zeros((B, 1, 1), bool)
        memory = system.unet.apply(
            {"params": params}, to_model(pictures)[:, None], *text, method=UNet.encode_neighbours
        )
        return jnp.concatenate([_cells(memory[level].value_BKMHD) for level in sorted(memory)], axis=1)

    return jax.jit(program), model.params["unet"]


def _cells(value_BKMHD: jax.Array, cells: int = 4) -> jax.Array:
    """Means over the cells of a square map: [B, cells^2 H D]."""
    B, _, M = value_BKMHD.shape[:3]
    side = round(M**0.5)
    maps = value_BKMHD.reshape(B, cells, side // cells, cells, side // cells, -1)
    return maps.mean(axis=(2, 4)).reshape(B, -1)


def labels(values: Sequence[str | None]) -> tuple[np.ndarray, list[str]]:
    """Numbers of values, and the values; those that are None have the number -1."""
    names = sorted({value for value in values if value is not None})
    number = {name: i for i, name in enumerate(names)} | {None: -1}
    return np.array([number[value] for value in values], np.int64), names
