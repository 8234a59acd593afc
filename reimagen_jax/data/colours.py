"""Colour profiles to sRGB, which all pictures are taken for: by littleCMS, as viewers do it.

A profile that says sRGB in its own words (most do) changes nothing, nor does one that is damaged or that belongs to
pictures of another kind. Reference: ICC.1:2022; the intent is perceptual, littleCMS's default.
"""

import io
from functools import lru_cache

import numpy as np
from PIL import Image, ImageCms

_SPACES = {"RGB": "RGB ", "L": "GRAY", "CMYK": "CMYK"}
"""Pillow's modes, and what profiles that fit them say of their colour space."""
_SRGB = ImageCms.createProfile("sRGB")
_NOISE = 2
"""Levels of 255 by which profiles of sRGB differ from each other."""
_MAX_BYTES = 2**22
"""Of a profile; those of presses have some 2 MB."""


def to_srgb(profile: bytes | None, mode: str) -> ImageCms.ImageCmsTransform | None:
    """From the colours of pictures of a mode (L, RGB, CMYK) to sRGB, as RGB; `None` where they are to stay."""
    if not isinstance(profile, bytes) or len(profile) > _MAX_BYTES:
        return None
    return _transform(profile, mode)


@lru_cache(maxsize=16)
def _transform(profile: bytes, mode: str) -> ImageCms.ImageCmsTransform | None:
    try:
        source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        if source.profile.xcolor_space != _SPACES[mode]:
            return None
        transform = ImageCms.buildTransform(source, _SRGB, mode, "RGB")
        return None if _is_srgb(transform, mode) else transform
    except Exception:  # of whatever kind littleCMS's binding has for a damaged profile
        return None


def _is_srgb(transform: ImageCms.ImageCmsTransform, mode: str) -> bool:
    """Tried on all greys, or on a grid of colours."""
    level = np.arange(0, 256, {"L": 1, "RGB": 15, "CMYK": 85}[mode], dtype=np.uint8)
    grid = np.stack(np.meshgrid(*[level] * len(mode)), axis=-1).reshape(1, -1, len(mode))
    image = Image.fromarray(grid[..., 0] if mode == "L" else grid, mode=None if mode != "CMYK" else "CMYK")
    moved = np.asarray(transform.apply(image), int) - np.asarray(image.convert("RGB"), int)
    return bool(abs(moved).max() <= _NOISE)
