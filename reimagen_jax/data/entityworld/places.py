"""Places and times: backgrounds in muted colours, of few large shapes.

A place is a table of the same shapes that bodies are made of, in the frame [0, 1]^2; a time of day is a sky (a
gradient, a sun or a moon) and a light that multiplies the colours of everything under it.
"""

import jax
import jax.numpy as jnp
import numpy as np

from reimagen_jax.data.entityworld.scenes import SCENE_PARAMETERS
from reimagen_jax.data.entityworld.shapes import Parts, block, coverage, disc, parts

# shape, colour; painted in order. y = 0 is the bottom of the frame.
_SAND, _DUNE, _CACTUS = (0.90, 0.74, 0.47), (0.83, 0.64, 0.40), (0.45, 0.55, 0.38)
_BEACH, _SEA, _FOAM, _TRUNK, _PALM = (
    (0.93, 0.87, 0.72),
    (0.36, 0.62, 0.72),
    (0.85, 0.91, 0.91),
    (0.55, 0.45, 0.35),
    (0.42, 0.56, 0.42),
)
_MOSS, _FIR, _FAR_FIR = (0.36, 0.42, 0.28), (0.22, 0.36, 0.28), (0.36, 0.48, 0.40)
_GRASS, _HILL, _PETAL = (0.50, 0.73, 0.36), (0.64, 0.80, 0.48), (0.96, 0.90, 0.74)
_SNOW, _DRIFT, _FROST = (0.93, 0.95, 0.98), (0.82, 0.87, 0.93), (0.62, 0.71, 0.76)
_STREET, _KERB, _TOWER, _BLOCK = (0.46, 0.47, 0.50), (0.68, 0.67, 0.67), (0.60, 0.58, 0.62), (0.52, 0.51, 0.57)
_ROCK, _PEAK, _CAP, _SCREE = (0.58, 0.46, 0.45), (0.66, 0.55, 0.56), (0.94, 0.94, 0.96), (0.68, 0.53, 0.49)
_WATER, _WAVE, _BANK = (0.36, 0.60, 0.78), (0.55, 0.74, 0.86), (0.48, 0.58, 0.46)


def _ground(top: float) -> tuple[float, ...]:
    return block(0.5, top / 2 - 0.1, top / 2 + 0.1, 1.0)


def _peak(x: float, bottom: float, top: float, half_width: float) -> tuple[float, ...]:
    return block(x, (bottom + top) / 2, (top - bottom) / 2, half_width, 0.005)


PLACES = {
    "desert": [
        (block(0.15, 0.30, 0.22, 0.75, 0.35, 0.16), _DUNE),
        (block(0.95, 0.26, 0.20, 0.60, 0.25, 0.16), _DUNE),
        (_ground(0.30), _SAND),
        (block(0.07, 0.42, 0.18, 0.035, 0.035, 0.035), _CACTUS),
        (block(0.12, 0.46, 0.025, 0.06, 0.06, 0.025), _CACTUS),
        (block(0.16, 0.51, 0.07, 0.025, 0.025, 0.025), _CACTUS),
        (block(0.93, 0.40, 0.14, 0.03, 0.03, 0.03), _CACTUS),
    ],
    "beach": [
        (_ground(0.46), _SEA),
        (_ground(0.28), _FOAM),
        (_ground(0.24), _BEACH),
        (block(0.93, 0.46, 0.26, 0.025, 0.015), _TRUNK),
        (block(0.86, 0.72, 0.035, 0.12, 0.12, 0.03, 0.4), _PALM),
        (block(0.99, 0.72, 0.035, 0.12, 0.12, 0.03, -0.4), _PALM),
    ],
    "forest": [
        (_ground(0.56), _FAR_FIR),
        (_ground(0.28), _MOSS),
        (_peak(0.30, 0.24, 0.80, 0.17), _FAR_FIR),
        (_peak(0.70, 0.24, 0.84, 0.17), _FAR_FIR),
        (_peak(0.06, 0.20, 0.96, 0.17), _FIR),
        (_peak(0.95, 0.20, 0.92, 0.17), _FIR),
        (_peak(0.50, 0.26, 0.74, 0.13), _FIR),
    ],
    "meadow": [
        (block(0.80, 0.26, 0.22, 0.70, 0.35, 0.18), _HILL),
        (_ground(0.34), _GRASS),
        (disc(0.07, 0.26, 0.028), _PETAL),
        (disc(0.16, 0.10, 0.034), _PETAL),
        (disc(0.90, 0.22, 0.032), _PETAL),
        (disc(0.82, 0.06, 0.034), _PETAL),
        (disc(0.50, 0.28, 0.026), _PETAL),
    ],
    "snow": [
        (block(0.25, 0.28, 0.24, 0.60, 0.25, 0.18), _DRIFT),
        (_peak(0.08, 0.28, 0.66, 0.11), _FROST),
        (_peak(0.92, 0.28, 0.74, 0.12), _FROST),
        (_ground(0.34), _SNOW),
    ],
    "city": [
        (block(0.07, 0.50, 0.34, 0.10), _TOWER),
        (block(0.27, 0.42, 0.28, 0.08), _BLOCK),
        (block(0.50, 0.45, 0.38, 0.09), _TOWER),
        (block(0.72, 0.42, 0.25, 0.09), _BLOCK),
        (block(0.93, 0.50, 0.40, 0.10), _TOWER),
        (_ground(0.30), _KERB),
        (_ground(0.24), _STREET),
    ],
    "mountains": [
        (_peak(0.18, 0.20, 0.86, 0.42), _PEAK),
        (_peak(0.18, 0.67, 0.86, 0.12), _CAP),
        (_peak(0.84, 0.20, 0.78, 0.40), _ROCK),
        (_peak(0.84, 0.62, 0.78, 0.11), _CAP),
        (_ground(0.26), _SCREE),
    ],
    "lake": [
        (block(0.20, 0.44, 0.12, 0.45, 0.25, 0.10), _BANK),
        (block(0.90, 0.42, 0.10, 0.35, 0.20, 0.08), _BANK),
        (_ground(0.42), _WATER),
        (block(0.14, 0.30, 0.014, 0.12, 0.12, 0.014), _WAVE),
        (block(0.84, 0.24, 0.014, 0.13, 0.13, 0.014), _WAVE),
        (block(0.20, 0.12, 0.014, 0.13, 0.13, 0.014), _WAVE),
        (block(0.70, 0.05, 0.014, 0.13, 0.13, 0.014), _WAVE),
    ],
}

# By time of day: sky above and at the horizon, light on the place and on the entity, colour of sun or moon, its centre.
_TIMES = {
    "morning": (
        (0.72, 0.80, 0.90),
        (0.99, 0.88, 0.78),
        (1.00, 0.93, 0.90),
        (1.00, 0.97, 0.95),
        (1.00, 0.96, 0.80),
        (0.12, 0.66),
    ),
    "noon": (
        (0.45, 0.70, 0.93),
        (0.74, 0.87, 0.96),
        (1.00, 1.00, 1.00),
        (1.00, 1.00, 1.00),
        (1.00, 0.95, 0.62),
        (0.88, 0.90),
    ),
    "evening": (
        (0.55, 0.42, 0.62),
        (0.96, 0.62, 0.42),
        (0.92, 0.74, 0.68),
        (1.00, 0.95, 0.91),
        (1.00, 0.74, 0.42),
        (0.88, 0.62),
    ),
    "night": (
        (0.10, 0.12, 0.26),
        (0.22, 0.26, 0.44),
        (0.58, 0.60, 0.78),
        (0.92, 0.94, 1.00),
        (0.95, 0.94, 0.84),
        (0.12, 0.88),
    ),
}
_STARS = ((0.30, 0.94), (0.62, 0.90), (0.82, 0.95), (0.94, 0.78), (0.46, 0.80), (0.06, 0.70))
_SUN_RADIUS, _STAR_RADIUS = 0.075, 0.012

_ORDER = {p.name: p.values for p in SCENE_PARAMETERS}
_NUM_SHAPES = max(len(shapes) for shapes in PLACES.values())
_SHAPES = np.zeros((len(PLACES), _NUM_SHAPES, 7), np.float32)
_COLOURS = np.zeros((len(PLACES), _NUM_SHAPES, 3), np.float32)
for _i, _name in enumerate(_ORDER["place"]):
    for _j, (_shape, _colour) in enumerate(PLACES[_name]):
        _SHAPES[_i, _j], _COLOURS[_i, _j] = _shape, _colour
_ABOVE, _HORIZON, _PLACE_LIGHT, _ENTITY_LIGHT, _SUN, _SUN_AT = (
    np.array(column, np.float32) for column in zip(*(_TIMES[t] for t in _ORDER["time"]), strict=True)
)
_NIGHT = _ORDER["time"].index("night")


def backdrop(place: jax.Array, time: jax.Array) -> Parts:
    """Drawing of a place in the light of a time of day, in the frame [0, 1]^2."""
    colour_N3 = jnp.asarray(_COLOURS)[place] * jnp.asarray(_PLACE_LIGHT)[time][None]
    return parts(jnp.asarray(_SHAPES)[place], colour_N3, ink=False)


def entity_light(time: jax.Array) -> jax.Array:
    """Factor [3] on the colours of an entity, 0.9 to 1."""
    return jnp.asarray(_ENTITY_LIGHT)[time]


def sky(time: jax.Array, x: jax.Array, y: jax.Array) -> jax.Array:
    """Sky with a sun, or a moon and stars: x, y [H, W] in [0, 1] -> [3, H, W]."""
    pixel = 1.0 / x.shape[0]
    height = jnp.clip((y - 0.35) / 0.65, 0.0, 1.0)[None]
    sky_3HW = jnp.asarray(_ABOVE)[time][:, None, None] * height + jnp.asarray(_HORIZON)[time][:, None, None] * (
        1 - height
    )
    sun_x, sun_y = jnp.asarray(_SUN_AT)[time]
    light = coverage(jnp.hypot(x - sun_x, y - sun_y) - _SUN_RADIUS, pixel)
    for star_x, star_y in _STARS:
        star = coverage(jnp.hypot(x - star_x, y - star_y) - _STAR_RADIUS, pixel) * 0.7
        light = jnp.maximum(light, jnp.where(time == _NIGHT, star, 0.0))
    return sky_3HW * (1.0 - light)[None] + jnp.asarray(_SUN)[time][:, None, None] * light[None]
