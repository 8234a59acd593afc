"""Shapes: one signed-distance primitive, and how a stack of them is painted.

Everything drawn is a rounded trapezoid: a trapezoid of half height h whose half width runs from b (bottom) to t (top),
turned by an angle about its centre and grown by a radius r:
    (1) d(p) = sd_trapezoid(R(-angle) (p - centre); h, b, t) - r         (< 0 inside, in units of length)
Discs, limbs, boxes, triangles and domes are its special cases, so a drawing is a small table and one kernel paints
every drawing. Antialiasing is analytic, with w the width of a pixel:
    (2) coverage(d) = clip(1/2 - d / w, 0, 1)
which for a straight edge along the grid is the box filter, so a drawing averaged down agrees with it drawn small.
The distance to a trapezoid is after Inigo Quilez, "2D distance functions".
"""

import math

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

INK = (0.14, 0.11, 0.16)
INK_WIDTH = 0.045  # in units of the drawing
SHADE, SHADE_WIDTH = 0.13, 0.14  # parts darken by SHADE towards their edge


@struct.dataclass
class Parts:
    """A drawing: N shapes, painted in order.

    shape [N, 7]: x, y, angle, half height, half width at the bottom and at the top, radius; colour [N, 3];
    opacity, ink, clip [N] in [0, 1]: ink draws a line around the shape and makes it the host of what follows; clip
    keeps a shape inside the last host.
    """

    shape: jax.Array
    colour: jax.Array
    opacity: jax.Array
    ink: jax.Array
    clip: jax.Array


def block(x, y, half_height, bottom, top=None, radius=0.0, angle=0.0) -> tuple[float, ...]:
    """Rounded trapezoid within the given half height and half widths; `radius` rounds its corners."""
    top = bottom if top is None else top
    return x, y, angle, max(half_height - radius, 1e-3), max(bottom - radius, 0.0), max(top - radius, 0.0), radius


def disc(x, y, radius) -> tuple[float, ...]:
    """Disc of a radius."""
    return block(x, y, radius, radius, radius, radius)


def limb(x0, y0, x1, y1, start, end, radius=None) -> tuple[float, ...]:
    """Limb from one point to another, its half width running from `start` to `end`; round unless told."""
    radius = min(start, end) if radius is None else radius
    half_length = math.hypot(x1 - x0, y1 - y0) / 2
    angle = math.atan2(-(x1 - x0), y1 - y0)
    return block((x0 + x1) / 2, (y0 + y1) / 2, half_length + radius, start, end, radius, angle)


def both(*shapes: tuple[float, ...]) -> list[tuple[float, ...]]:
    """Shapes and their mirror images in x = 0."""
    return [*shapes, *((-x, y, -angle, *rest) for x, y, angle, *rest in shapes)]


def parts(shapes, colour, ink=True, clip=False) -> Parts:
    """Drawing of shapes [N, 7] in one colour [3] or one colour each [N, 3]; all-zero shapes are invisible."""
    shape_N7 = jnp.asarray(shapes, jnp.float32)
    n = shape_N7.shape[0]
    opacity_N = jnp.any(shape_N7 != 0.0, axis=1).astype(jnp.float32)
    colour_N3 = jnp.broadcast_to(jnp.asarray(colour, jnp.float32).reshape((-1, 3)), (n, 3))
    return Parts(shape_N7, colour_N3, opacity_N, jnp.full(n, float(ink)), jnp.full(n, float(clip)))


def variants(value: jax.Array, *choices) -> jax.Array:
    """Shapes [N, 7] of the chosen variant; shorter variants are filled up with invisible shapes."""
    table = np.zeros((len(choices), max(len(c) for c in choices), 7), np.float32)
    for row, choice in zip(table, choices, strict=True):
        row[: len(choice)] = np.reshape(choice, (-1, 7))
    return jnp.asarray(table)[value]


def swing(shapes, pivot: tuple[float, float], angle: jax.Array) -> jax.Array:
    """Turn shapes [N, 7] about a pivot by an angle in radians (anticlockwise)."""
    shape_N7 = jnp.asarray(shapes, jnp.float32)
    dx, dy = shape_N7[:, 0] - pivot[0], shape_N7[:, 1] - pivot[1]
    cos, sin = jnp.cos(angle), jnp.sin(angle)
    turned = jnp.stack([pivot[0] + cos * dx - sin * dy, pivot[1] + sin * dx + cos * dy, shape_N7[:, 2] + angle], axis=1)
    visible = jnp.any(shape_N7 != 0.0, axis=1, keepdims=True)
    return jnp.where(visible, jnp.concatenate([turned, shape_N7[:, 3:]], axis=1), 0.0)


def stack(drawings: list[Parts], size: int | None = None) -> Parts:
    """Drawings one upon another, filled up with invisible shapes to `size`."""
    whole = jax.tree.map(lambda *leaves: jnp.concatenate(leaves), *drawings)
    extra = 0 if size is None else size - whole.opacity.shape[0]
    if extra < 0:
        raise ValueError(f"a drawing of {whole.opacity.shape[0]} shapes does not fit into {size}")
    return jax.tree.map(lambda leaf: jnp.pad(leaf, [(0, extra)] + [(0, 0)] * (leaf.ndim - 1)), whole)


def distance(shape: jax.Array, x: jax.Array, y: jax.Array) -> jax.Array:
    """Signed distance (1) of points x, y [H, W] to one shape [7]: [H, W]."""
    centre_x, centre_y, angle, half_height, bottom, top, radius = shape
    cos, sin = jnp.cos(angle), jnp.sin(angle)
    u = jnp.abs(cos * (x - centre_x) + sin * (y - centre_y))  # mirror symmetry: one half is enough
    v = cos * (y - centre_y) - sin * (x - centre_x)
    # The nearer of the two horizontal sides.
    side_u = jnp.maximum(u - jnp.where(v < 0.0, bottom, top), 0.0)
    side_v = jnp.abs(v) - half_height
    # The slanted side runs from (bottom, -half_height) by (slope_u, slope_v).
    slope_u, slope_v = top - bottom, 2.0 * half_height
    along = (u - bottom) * slope_u + (v + half_height) * slope_v
    along = jnp.clip(along / jnp.maximum(slope_u * slope_u + slope_v * slope_v, 1e-9), 0.0, 1.0)  # invisible: all zero
    slant_u = u - bottom - along * slope_u
    slant_v = v + half_height - along * slope_v
    nearest = jnp.sqrt(jnp.minimum(side_u * side_u + side_v * side_v, slant_u * slant_u + slant_v * slant_v))
    inside = (slant_u < 0.0) & (side_v < 0.0)
    return jnp.where(inside, -nearest, nearest) - radius


def coverage(distance_HW: jax.Array, pixel: jax.Array) -> jax.Array:
    """Share of a pixel that lies inside, by equation (2)."""
    return jnp.clip(0.5 - distance_HW / pixel, 0.0, 1.0)


def paint(drawing: Parts, x: jax.Array, y: jax.Array, pixel: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Paint a drawing on glass.

    x, y [H, W] in units of the drawing, `pixel` the width of a pixel in them -> colour premultiplied by opacity
    [3, H, W], opacity [H, W], and the distance to the drawing's outline [H, W].
    """
    far = jnp.full(x.shape, 1e3, jnp.float32)
    ink_3 = jnp.asarray(INK, jnp.float32)

    def one(state, part):
        colour_3HW, opacity_HW, host_HW, outline_HW = state
        d = distance(part.shape, x, y)
        d = jnp.where(part.clip > 0.0, jnp.maximum(d, host_HW), d)
        is_host = part.ink * part.opacity > 0.0
        line = coverage(d - INK_WIDTH, pixel) * part.ink * part.opacity
        fill = coverage(d, pixel) * part.opacity
        shade = 1.0 - SHADE * part.ink * jnp.clip(1.0 + d / SHADE_WIDTH, 0.0, 1.0)
        through = (1.0 - line) * (1.0 - fill)
        ink_HW, tint_HW = line * (1.0 - fill), fill * shade
        colour_3HW = (
            colour_3HW * through[None]
            + ink_3[:, None, None] * ink_HW[None]
            + part.colour[:, None, None] * tint_HW[None]
        )
        opacity_HW = 1.0 - (1.0 - opacity_HW) * through
        host_HW = jnp.where(is_host, d, host_HW)
        outline_HW = jnp.where(part.opacity > 0.0, jnp.minimum(outline_HW, d), outline_HW)
        return (colour_3HW, opacity_HW, host_HW, outline_HW), None

    empty = (jnp.zeros((3, *x.shape), jnp.float32), jnp.zeros(x.shape, jnp.float32), far, far)
    (colour_3HW, opacity_HW, _, outline_HW), _ = jax.lax.scan(one, empty, drawing)
    return colour_3HW, opacity_HW, outline_HW
