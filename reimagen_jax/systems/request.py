"""What is asked of a system: a thing to draw, with its neighbours, and the image that it is drawn on.

Plain data of the host's: whoever looks neighbours up needs no JAX for it, which takes a second to import.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import numpy as np
import PIL.Image

from reimagen_jax.data import images
from reimagen_jax.data.records import ImageText
from reimagen_jax.errors import UserError


@dataclass(frozen=True)
class Neighbour:
    """One retrieved (or given) image with its caption."""

    image: np.ndarray = field(repr=False)
    """uint8 [R, R, 3]"""
    text: str
    score: float
    """Of the retriever; NaN where a person chose the neighbour."""
    key: str
    """Of the record, or the file name."""
    encoded: bytes = field(default=b"", repr=False)
    """The image file, from which stages of other resolutions decode their own; empty where there is none."""
    source: str = field(default="", repr=False)
    """Of the record: equal sources and keys mean the same record. Empty where there is none."""
    place: str = field(default="", repr=False)
    """The folder of the knowledge base, or the file, that it comes from; empty where nobody knows."""
    base: str = field(default="", repr=False)
    """Checksum of that knowledge base; empty for a file."""
    attributes: Mapping[str, Any] = field(default_factory=dict, repr=False)
    """Of the record: its licence and author among them, where its source tells."""
    weight: float = 1.0
    """How much of the attention it gets, beside the other neighbours: only ratios matter; 0 is as if it were not."""

    @classmethod
    def of(
        cls, record: ImageText, score: float, resolution: int, source: str = "", place: str = "", base: str = ""
    ) -> "Neighbour":
        """A record, decoded at `resolution`."""
        image = images.decode(record.image, resolution)
        return cls(image, record.text, score, record.key, record.image, source, place, base, record.attributes)

    def at(self, resolution: int) -> np.ndarray:
        """The image as uint8 [resolution, resolution, 3]. Raises `UserError` where only another size is at hand."""
        if self.image.shape[0] == resolution:
            return self.image
        if not self.encoded:
            raise UserError(f"neighbour {self.key} is at hand at {self.image.shape[0]} pixels only, not {resolution}")
        return _decoded(self.encoded, resolution)

    @property
    def side(self) -> int:
        """The smaller side of the image in its own size, in pixels."""
        return min(images.size(self.encoded)) if self.encoded else self.image.shape[0]


@lru_cache(maxsize=64)
def _decoded(encoded: bytes, resolution: int) -> np.ndarray:
    """Many images are drawn with the same neighbours."""
    return images.decode(encoded, resolution)


@dataclass(frozen=True)
class Edit:
    """An image to draw on, and how much of each of its pixels is drawn anew (diffusion/editing.py)."""

    image: np.ndarray = field(repr=False)
    """uint8 [S, S, 3], of any size."""
    mask: np.ndarray | None = field(default=None, repr=False)
    """uint8 [M, M], of any size: 0 is kept as it is, 255 drawn anew, greys between are less of `strength`. None: all is
    drawn anew."""
    strength: float = 1.0
    """How far towards noise an image is taken before it is drawn: above 0; at 1, nothing of it is left."""

    def image_at(self, resolution: int) -> np.ndarray:
        """The image as uint8 [resolution, resolution, 3], resized as all images."""
        return np.asarray(images.square(PIL.Image.fromarray(self.image), resolution))

    def mask_at(self, resolution: int) -> np.ndarray:
        """The mask as uint8 [resolution, resolution]: the largest of each pixel's area, so that a pixel is kept where
        all of it is to be kept, and 0 and 255 are not blurred."""
        if self.mask is None:
            return np.full((resolution, resolution), 255, np.uint8)
        mask, M = self.mask, len(self.mask)
        parts = [slice(i * M // resolution, -(-(i + 1) * M // resolution)) for i in range(resolution)]
        rows = np.stack([mask[part].max(axis=0) for part in parts])
        return np.stack([rows[:, part].max(axis=1) for part in parts], axis=1)


@dataclass(frozen=True)
class Request:
    """One thing to draw."""

    prompt: str = ""
    neighbours: tuple[Neighbour, ...] = ()
    """Best first."""
    index: int = 0
    """Of the image: with the seed it determines all its randomness."""
    guidance: Mapping[str, Any] = field(default_factory=dict)
    """Numbers of this request's own (`eta`, `text_weight`, ...), traced; what is not given is as in the settings."""
    start: np.ndarray | None = field(default=None, repr=False)
    """What the stage before has drawn, or is given in its place: [r, r, 3] for a super-resolution stage, uint8 or
    floats in [-1, 1]."""
    negative: str = ""
    """What guidance leads away from: the text where the prompt is dropped; empty where that is none."""
    edit: Edit | None = None
    """The image that is drawn on; None draws from noise alone."""
    references: tuple[Neighbour, ...] = ()
    """What the noise is searched for (SeedSelect): the image is to be like these. The network does not see them."""
    told: Mapping[str, Any] = field(default_factory=dict)
    """Numbers that its image tells besides, by their names."""
