"""A small untrained encoder of images and texts: what noise is searched by, and what vectors are made with."""

import functools
from pathlib import Path

import jax

from reimagen_jax.encoders import dual
from reimagen_jax.encoders.settings import DualConfig

TINY_DUAL = DualConfig(resolution=8, max_bytes=16, width=8)


@functools.cache
def tiny_dual() -> dual.DualEncoder:
    """The same one each time."""
    return dual.DualEncoder(TINY_DUAL, dual.init(TINY_DUAL, jax.random.key(0)))


def tiny_dual_in(folder: Path) -> Path:
    """Saved into a new folder."""
    folder.mkdir()
    tiny_dual().save(folder)
    return folder
