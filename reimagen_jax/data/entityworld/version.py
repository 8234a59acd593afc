"""Which EntityWorld this is: what was made of one is of use only where the world is the same."""

import hashlib
import json

from reimagen_jax.data.entityworld.looks import CATEGORIES, LOOK_PARAMETERS, PALETTE
from reimagen_jax.data.entityworld.render import FLOOR, OFFSETS, SIZES
from reimagen_jax.data.entityworld.scenes import SCENE_PARAMETERS


def world_version() -> str:
    """A checksum of what looks and scenes can be."""
    looks = [[category, [list(p) for p in LOOK_PARAMETERS[category]]] for category in CATEGORIES]
    tables = [looks, sorted(PALETTE.items()), [list(p) for p in SCENE_PARAMETERS], SIZES, OFFSETS, FLOOR]
    return hashlib.sha256(json.dumps(tables).encode()).hexdigest()[:12]
