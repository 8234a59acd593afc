"""Render: (look, scene) -> image, a pure function of any resolution.

An image is a sky, a place in front of it, and the entity's body with a soft light rim, all painted by shapes.paint:
    (1) q = R(-rotation) (p - centre) / (size / 2)                 from the frame [0, 1]^2 to the body's [-1, 1]^2
    (2) image = body + (1 - opacity) * (rim over (place over sky))
Light multiplies colours: fully those of the place, at most a tenth those of the entity, so that its look stays legible.
"""

import functools
import operator

import jax
import jax.numpy as jnp
import numpy as np

from reimagen_jax.data.entityworld.bodies import body
from reimagen_jax.data.entityworld.places import backdrop, entity_light, sky
from reimagen_jax.data.entityworld.scenes import Scene
from reimagen_jax.data.entityworld.shapes import paint

SIZES = (0.56, 0.70, 0.86)  # of the frame, for small, medium, large
OFFSETS = (0.17, 0.14, 0.10)  # to the left or right, for small, medium, large: a large body stays in the frame
FLOOR = 0.065  # where bodies stand
RIM_WIDTH, RIM_OPACITY = 0.11, 0.55
MAX_SHIFT, MAX_SCALE, MAX_ROTATION, MAX_LIGHT = 0.02, 0.04, 5.0 * np.pi / 180.0, 0.06  # of the jitter
CHUNK = 128  # images at once, up to 64 x 64 pixels; fewer where they are larger


def render(look: jax.Array, scene: Scene, resolution: int) -> jax.Array:
    """Draw one entity in one scene.

    look int32 [1 + P], scene without batch axes, resolution 16 to 1024 (static) -> float32 [res, res, 3] in [0, 1].
    """
    shift_x, shift_y, scale, rotation, light, pose = scene.jitter
    centres = (jnp.arange(resolution, dtype=jnp.float32) + 0.5) / resolution
    x, y = jnp.meshgrid(centres, 1.0 - centres)

    sky_3HW = sky(scene.time, x, y)
    place_3HW, place_opacity, _ = paint(backdrop(scene.place, scene.time), x, y, 1.0 / resolution)
    frame_3HW = place_3HW + sky_3HW * (1.0 - place_opacity)[None]

    size = jnp.asarray(SIZES)[scene.size] * (1.0 + MAX_SCALE * scale)
    side = jnp.asarray(scene.position - 1, jnp.float32)  # -1 left, 0 centre, 1 right
    centre_x = 0.5 + side * jnp.asarray(OFFSETS)[scene.size] + MAX_SHIFT * shift_x
    centre_y = FLOOR + jnp.asarray(SIZES)[scene.size] / 2.0 + MAX_SHIFT * shift_y
    cos, sin = jnp.cos(MAX_ROTATION * rotation), jnp.sin(MAX_ROTATION * rotation)
    unit = 2.0 / size
    qx = (cos * (x - centre_x) + sin * (y - centre_y)) * unit  # (1)
    qy = (cos * (y - centre_y) - sin * (x - centre_x)) * unit
    pixel = unit / resolution

    drawing = body(look, pose)
    lit = drawing.replace(colour=drawing.colour * entity_light(scene.time)[None])
    body_3HW, opacity, outline = paint(lit, qx, qy, pixel)
    rim = RIM_OPACITY * jnp.clip(1.0 - outline / RIM_WIDTH, 0.0, 1.0)
    frame_3HW = frame_3HW * (1.0 - rim)[None] + rim[None]
    image_3HW = body_3HW + frame_3HW * (1.0 - opacity)[None]  # (2)
    return jnp.clip(jnp.moveaxis(image_3HW, 0, -1) * (1.0 + MAX_LIGHT * light), 0.0, 1.0)


@functools.partial(jax.jit, static_argnames="resolution")
def _render_chunk(looks: jax.Array, scenes: Scene, resolution: int) -> jax.Array:
    return jax.vmap(functools.partial(render, resolution=resolution))(looks, scenes)


def render_batch(looks: np.ndarray, scenes: Scene, resolution: int) -> np.ndarray:
    """Draw many: looks int [N, 1 + P], scenes with leaves [N, ...] -> float32 [N, res, res, 3] in [0, 1].

    Works in chunks of one fixed size, so it compiles once for each resolution whatever N is.
    """
    n = len(looks)
    chunk = max(1, min(CHUNK, CHUNK * 64 * 64 // resolution**2))
    images = np.empty((n, resolution, resolution, 3), np.float32)
    looks_and_scenes = jax.tree.map(np.asarray, (np.asarray(looks, np.int32), scenes))
    for start in range(0, n, chunk):
        rows = np.minimum(np.arange(start, start + chunk), n - 1)  # the last chunk repeats its last row
        some = jax.tree.map(operator.itemgetter(rows), looks_and_scenes)
        stop = min(start + chunk, n)
        images[start:stop] = np.asarray(_render_chunk(*some, resolution))[: stop - start]
    return images
