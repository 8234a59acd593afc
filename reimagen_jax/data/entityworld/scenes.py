"""Scenes: what only the text tells, and how captions word it.

A scene is a place, a position, a size and a time of day, drawn independently of the look, and a jitter that no caption
tells. A caption is a template filled with one wording for each attribute; it always tells the name and the category,
and of the four attributes all (85 %) or all but one. It never sees the look.
"""

import jax
import numpy as np
from flax import struct

from reimagen_jax.data.entityworld.looks import Parameter

SCENE_PARAMETERS = (
    Parameter("place", ("desert", "beach", "forest", "meadow", "snow", "city", "mountains", "lake")),
    Parameter("position", ("left", "centre", "right")),
    Parameter("size", ("small", "medium", "large")),
    Parameter("time", ("morning", "noon", "evening", "night")),
)

JITTER = ("right", "up", "scale", "rotation", "light", "pose")
TELL_ALL = 0.85
MAX_CAPTION_BYTES = 80

WORDINGS = {
    "place": {
        "desert": ("in the desert", "among dunes", "on desert sand"),
        "beach": ("on the beach", "by the sea", "at the seaside"),
        "forest": ("in the forest", "in the woods", "among the trees"),
        "meadow": ("in a meadow", "on the grass", "in a field"),
        "snow": ("in the snow", "on a snowy plain", "in deep snow"),
        "city": ("in the city", "in town", "on a city street"),
        "mountains": ("in the mountains", "below the peaks", "in the hills"),
        "lake": ("on the lake", "on the water", "at the lake"),
    },
    "position": {
        "left": ("on the left", "at left", "to the left"),
        "centre": ("in the centre", "centred", "in the middle"),
        "right": ("on the right", "at right", "to the right"),
    },
    "size": {
        "small": ("a small", "a little", "a tiny"),
        "medium": ("a medium", "a mid-sized", "a middle-sized"),
        "large": ("a large", "a big", "a huge"),
    },
    "time": {
        "morning": ("in the morning", "at dawn", "at sunrise"),
        "noon": ("at noon", "at midday", "by day"),
        "evening": ("in the evening", "at sunset", "at dusk"),
        "night": ("at night", "by night", "by moonlight"),
    },
}

# Attributes not told leave an empty string; spaces and commas are tidied afterwards. The last needs a size.
TEMPLATES = (
    "{size} {name} ({category}) {position}, {place} {time}",
    "{size} {category} {name} {position}, {place} {time}",
    "{place} {time}: {size} {name} ({category}) {position}",
    "{time}, {size} {name} ({category}) {position} {place}",
    "{name} the {category}, {size} one {position}, {place} {time}",
)


@struct.dataclass
class Scene:
    """One scene, or a batch of them: int32 value indices of SCENE_PARAMETERS, and jitter [..., J] in [-1, 1]."""

    place: jax.Array
    position: jax.Array
    size: jax.Array
    time: jax.Array
    jitter: jax.Array


def sample_scenes(key: jax.Array, n: int) -> Scene:
    """Draw n scenes, every attribute uniform and independent."""
    *keys, key_jitter = jax.random.split(key, len(SCENE_PARAMETERS) + 1)
    drawn = {p.name: jax.random.randint(k, (n,), 0, len(p.values)) for p, k in zip(SCENE_PARAMETERS, keys, strict=True)}
    return Scene(**drawn, jitter=jax.random.uniform(key_jitter, (n, len(JITTER)), minval=-1.0, maxval=1.0))


def draw_scene(rng: np.random.Generator) -> Scene:
    """Draw one scene on the host, every attribute uniform and independent."""
    drawn = {p.name: np.int32(rng.integers(len(p.values))) for p in SCENE_PARAMETERS}
    return Scene(**drawn, jitter=rng.uniform(-1.0, 1.0, len(JITTER)).astype(np.float32))


def describe_scene(scene: Scene) -> dict[str, str]:
    """Name every value of one scene: {"place": "desert", ...}."""
    return {p.name: p.values[int(getattr(scene, p.name))] for p in SCENE_PARAMETERS}


def caption(rng: np.random.Generator, name: str, category: str, scene: Scene) -> tuple[str, tuple[str, ...]]:
    """Word a scene: the text (ASCII, at most MAX_CAPTION_BYTES) and the names of the attributes that it tells."""
    values = describe_scene(scene)
    silent = None if rng.random() < TELL_ALL else str(rng.choice(list(values)))
    told = tuple(attribute for attribute in values if attribute != silent)
    while True:  # a few combinations of long wordings are too long: draw again
        words = {a: str(rng.choice(WORDINGS[a][values[a]])) if a in told else "" for a in values}
        words["size"] = words["size"] or "a"
        template = str(rng.choice(TEMPLATES if "size" in told else TEMPLATES[:-1]))
        text = _tidy(template.format(name=name, category=category, **words))
        if len(text) <= MAX_CAPTION_BYTES:
            return text, told


def _tidy(text: str) -> str:
    """Close the gaps that attributes not told have left."""
    text = " ".join(text.split())
    for gap, closed in ((" ,", ","), (" :", ":"), (",,", ","), (", :", ":")):
        text = text.replace(gap, closed)
    return text.strip(" ,:")
