"""Bodies: the five body plans, look -> drawing.

A plan places shapes in the square [-1, 1] x [-1, 1], y up. Whatever the look, a body is about 2 high and at most 1.7
wide, so that the size and the place of an entity can be told without knowing it; every parameter changes an area of at
least 0.1, and nothing hides it. `pose` in [-1, 1] swings a limb a little.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from reimagen_jax.data.entityworld.looks import CATEGORIES, LOOK_PARAMETERS, PALETTE
from reimagen_jax.data.entityworld.shapes import INK, Parts, block, both, disc, limb, parts, stack, swing, variants

MAX_PARTS = 26
WHITE = PALETTE["white"]

# A plan asks for the index of a value, value("tail"), and for a colour, colour("coat"), by the parameter's name.
# Shapes are listed back to front; shapes with clip=True lie on the last outlined shape before them.


def dog(value: Callable, colour: Callable, pose: jax.Array) -> list[Parts]:
    """A sitting dog, seen from the front."""
    coat, ear_colour = colour("coat"), colour("ear colour")
    tails = variants(
        value("tail"),
        [limb(0.40, -0.56, 0.71, 0.06, 0.14, 0.14)],
        [limb(0.40, -0.66, 0.62, -0.56, 0.08, 0.08), disc(0.65, -0.48, 0.23)],
        [limb(0.30, -0.87, 0.74, -0.86, 0.12, 0.14)],
    )
    torso = variants(
        value("build"),
        [block(0.0, -0.50, 0.50, 0.44, 0.32, 0.20)],
        [block(0.0, -0.50, 0.50, 0.59, 0.50, 0.26)],
    )
    marks = variants(
        value("pattern"),
        [disc(-0.20, -0.34, 0.17), disc(0.19, -0.48, 0.17), disc(-0.19, -0.72, 0.17)],
        [block(0.0, -0.34, 0.10, 1.0), block(0.0, -0.68, 0.10, 1.0)],
        [block(0.0, -0.54, 0.33, 0.25, 0.25, 0.22)],
    )
    ears = variants(
        value("ears"),
        both(limb(0.30, 0.62, 0.52, 0.98, 0.22, 0.02)),
        both(limb(0.50, 0.72, 0.66, 0.16, 0.14, 0.19)),
        both(disc(0.44, 0.76, 0.24)),
    )
    return [
        parts(swing(tails, (0.4, -0.8), 0.10 * pose), coat),
        parts(torso, coat),
        parts(marks, colour("pattern colour"), ink=False, clip=True),
        parts(both(block(0.20, -0.92, 0.09, 0.16, 0.16, 0.09)), coat),
        parts([block(0.0, 0.44, 0.45, 0.52, 0.46, 0.40)], coat),
        parts(ears, ear_colour),
        parts([block(0.0, -0.05, 0.11, 0.40, 0.40, 0.10)], colour("collar")),
        parts([block(0.0, 0.24, 0.16, 0.25, 0.25, 0.16)], WHITE, ink=False),
        parts([*both(disc(0.22, 0.52, 0.085)), block(0.0, 0.33, 0.075, 0.11, 0.11, 0.075)], INK, ink=False),
        parts(both(limb(0.0, 0.16, 0.08, 0.19, 0.022, 0.022)), INK, ink=False),
        parts([disc(-0.19, 0.55, 0.03), disc(0.25, 0.55, 0.03)], WHITE, ink=False),
    ]


def food(value: Callable, colour: Callable, pose: jax.Array) -> list[Parts]:
    """A treat in a vessel, with a topping."""
    filling_colour, vessel_colour = colour("filling colour"), colour("vessel colour")
    stem = variants(value("vessel"), [], [], [block(0.0, -0.80, 0.14, 0.10), block(0.0, -0.93, 0.08, 0.42, 0.30, 0.06)])
    vessel = variants(
        value("vessel"),
        [block(0.0, -0.53, 0.47, 0.42, 0.64, 0.06)],
        [block(0.0, -0.53, 0.47, 0.06, 0.64, 0.05)],
        [block(0.0, -0.40, 0.34, 0.36, 0.66, 0.16)],
    )
    marks = variants(
        value("pattern"),
        [disc(-0.28, -0.28, 0.13), disc(0.28, -0.28, 0.13), disc(0.0, -0.46, 0.14)],
        [block(-0.28, -0.5, 0.6, 0.08), block(0.0, -0.5, 0.6, 0.08), block(0.28, -0.5, 0.6, 0.08)],
        [block(0.0, -0.36, 0.13, 1.0)],
    )
    filling = variants(
        value("filling"),
        [block(0.0, 0.15, 0.38, 0.74, 0.60, 0.34)],
        [
            block(0.0, -0.02, 0.17, 0.74, 0.68, 0.16),
            block(0.0, 0.23, 0.15, 0.52, 0.46, 0.14),
            block(0.0, 0.45, 0.14, 0.28, 0.22, 0.13),
        ],
        [disc(-0.40, 0.12, 0.34), disc(0.40, 0.12, 0.34), disc(0.0, 0.17, 0.33)],
    )
    topping = variants(
        value("topping"),
        [disc(0.0, 0.74, 0.25)],
        [limb(0.08, 0.34, 0.34, 0.94, 0.14, 0.14, 0.03)],
        [block(0.0, 0.50, 0.25, 0.045), block(0.0, 0.81, 0.19, 0.50, 0.04, 0.03)],
    )
    return [
        parts(stem, vessel_colour),
        parts(vessel, vessel_colour),
        parts(marks, colour("pattern colour"), ink=False, clip=True),
        parts(swing(topping, (0.0, 0.5), 0.09 * pose), colour("topping colour")),
        parts(filling, filling_colour),
    ]


def landmark(value: Callable, colour: Callable, pose: jax.Array) -> list[Parts]:
    """A tower between its flanks; stone has no pose."""
    del pose
    flanks = variants(
        value("flanks"),
        both(block(0.66, -0.55, 0.45, 0.16), block(0.66, 0.02, 0.16, 0.22, 0.02, 0.02)),
        [block(0.0, -0.87, 0.13, 0.84), block(0.0, -0.62, 0.13, 0.66)],
        both(disc(0.54, -0.52, 0.28), block(0.54, -0.78, 0.22, 0.28)),
    )
    tower = variants(
        value("tower"),
        [block(0.0, -0.33, 0.67, 0.34)],
        [block(0.0, -0.33, 0.67, 0.50, 0.22)],
        [block(0.0, -0.33, 0.67, 0.22, 0.48)],
    )
    marks = variants(
        value("pattern"),
        [disc(0.0, 0.06, 0.15), disc(0.0, -0.34, 0.15)],
        [block(0.0, 0.06, 0.10, 1.0), block(0.0, -0.34, 0.10, 1.0)],
        both(block(0.14, -0.16, 0.42, 0.065)),
    )
    roof = variants(
        value("roof"),
        [block(0.0, 0.65, 0.33, 0.44, 0.03, 0.02)],
        [block(0.0, 0.92, 0.08, 0.06), block(0.0, 0.58, 0.29, 0.46, 0.36, 0.28)],
        [
            *both(block(0.38, 0.78, 0.20, 0.12)),
            block(0.0, 0.78, 0.20, 0.12),
            block(0.0, 0.49, 0.17, 0.50),
        ],
        [block(0.0, 0.44, 0.13, 0.70, 0.30), block(0.0, 0.64, 0.09, 0.24), block(0.0, 0.84, 0.14, 0.50, 0.06)],
    )
    return [
        parts(flanks, colour("flank colour")),
        parts(tower, colour("wall")),
        parts(marks, colour("pattern colour"), ink=False, clip=True),
        parts([block(0.0, -0.86, 0.14, 0.10, 0.10, 0.09)], INK, ink=False, clip=True),
        parts(roof, colour("roof colour")),
    ]


def bird(value: Callable, colour: Callable, pose: jax.Array) -> list[Parts]:
    """A standing bird that looks to the right."""
    plumage, wing_colour = colour("plumage"), colour("wing colour")
    tail = variants(
        value("tail"),
        [limb(-0.42, -0.34, -0.78, -0.04, 0.10, 0.32, 0.05)],
        [limb(-0.40, -0.52, -0.72, -0.90, 0.14, 0.14)],
        [limb(-0.45, -0.30, -0.74, 0.14, 0.10, 0.10), limb(-0.45, -0.42, -0.76, -0.52, 0.10, 0.10)],
    )
    crest = variants(
        value("crest"),
        [limb(0.14, 0.46, -0.34, 0.92, 0.27, 0.05)],
        [disc(-0.22, 0.55, 0.18), disc(-0.03, 0.77, 0.20), disc(0.26, 0.75, 0.19)],
        [limb(0.06, 0.55, 0.16, 0.80, 0.06, 0.06), disc(0.16, 0.78, 0.22)],
    )
    beak = variants(
        value("beak"),
        [limb(0.32, 0.24, 0.86, 0.22, 0.28, 0.02)],
        [limb(0.38, 0.28, 0.58, 0.26, 0.19, 0.16), limb(0.60, 0.24, 0.70, -0.10, 0.16, 0.06)],
        [limb(0.38, 0.24, 0.62, 0.22, 0.25, 0.22)],
    )
    legs = [limb(-0.24, -0.7, -0.24, -0.93, 0.07, 0.07), limb(0.06, -0.7, 0.06, -0.93, 0.07, 0.07)]
    wing = swing([limb(-0.10, -0.24, -0.52, -0.44, 0.24, 0.09)], (-0.1, -0.2), 0.12 * pose)
    return [
        parts(legs, PALETTE["orange"]),
        parts(tail, wing_colour),
        parts(crest, colour("crest colour")),
        parts([disc(0.06, 0.26, 0.36)], plumage),
        parts([limb(-0.24, -0.42, 0.02, -0.32, 0.38, 0.40)], plumage),
        parts([disc(0.16, -0.50, 0.36)], colour("belly"), ink=False, clip=True),
        parts([block(0.06, 0.06, 0.15, 0.30, 0.30, 0.14)], plumage, ink=False),  # joins head and body
        parts(wing, wing_colour),
        parts(beak, colour("beak colour")),
        parts([disc(0.05, 0.41, 0.13)], WHITE, ink=False),
        parts([disc(0.08, 0.41, 0.08)], INK, ink=False),
    ]


def character(value: Callable, colour: Callable, pose: jax.Array) -> list[Parts]:
    """A small person with a hat."""
    skin, shirt, hat_colour = colour("skin"), colour("shirt"), colour("hat colour")
    garment = variants(
        value("garment"),
        both(block(0.20, -0.70, 0.26, 0.15, 0.16, 0.04)),
        [block(0.0, -0.68, 0.28, 0.62, 0.32, 0.05)],
    )
    marks = variants(
        value("pattern"),
        [disc(0.0, -0.23, 0.22)],
        [block(0.0, -0.11, 0.085, 1.0), block(0.0, -0.42, 0.085, 1.0)],
        [limb(-0.4, 0.08, 0.4, -0.56, 0.12, 0.12)],
    )
    hat = variants(
        value("hat"),
        [block(0.0, 0.79, 0.21, 0.46, 0.04, 0.03)],
        [block(0.0, 0.80, 0.20, 0.30, 0.34, 0.03), block(0.0, 0.60, 0.08, 0.56, 0.56, 0.06)],
        [*both(disc(0.38, 0.56, 0.22), disc(0.24, 0.76, 0.22)), disc(0.0, 0.80, 0.20)],
    )
    arms = [limb(0.34, -0.06, 0.62, -0.36, 0.12, 0.12), disc(0.68, -0.43, 0.13)]
    left, right = swing(both(*arms)[2:], (-0.34, -0.06), 0.15 * pose), swing(arms, (0.34, -0.06), 0.15 * pose)
    return [
        parts(both(block(0.22, -0.93, 0.07, 0.20, 0.18, 0.06)), INK),
        parts(garment, colour("garment colour")),
        parts(jnp.stack([left[1], right[1]]), skin),
        parts(jnp.stack([left[0], right[0]]), shirt),
        parts([block(0.0, -0.24, 0.32, 0.38, 0.36, 0.12)], shirt),
        parts(marks, colour("pattern colour"), ink=False, clip=True),
        parts([block(0.0, 0.34, 0.34, 0.38, 0.38, 0.30)], skin),
        parts(hat, hat_colour),
        parts([*both(disc(0.15, 0.38, 0.07)), *both(limb(0.0, 0.15, 0.10, 0.19, 0.028, 0.028))], INK, ink=False),
        parts([disc(-0.13, 0.405, 0.024), disc(0.17, 0.405, 0.024)], WHITE, ink=False),
    ]


def _plan(name: str, draw: Callable) -> Callable[[jax.Array, jax.Array], Parts]:
    """Body plan as (value indices int [P], pose) -> Parts [MAX_PARTS]; parts ask for their values by name."""
    place = {parameter.name: i for i, parameter in enumerate(LOOK_PARAMETERS[name])}

    def plan(value_P: jax.Array, pose: jax.Array) -> Parts:
        def value(parameter: str) -> jax.Array:
            return value_P[place[parameter]]

        def colour(parameter: str) -> jax.Array:
            table = np.array([PALETTE[v] for v in LOOK_PARAMETERS[name][place[parameter]].values], np.float32)
            return jnp.asarray(table)[value(parameter)]

        return stack(draw(value, colour, pose), MAX_PARTS)

    return plan


_PLANS = [_plan(name, draw) for name, draw in zip(CATEGORIES, (dog, food, landmark, bird, character), strict=True)]


def body(look: jax.Array, pose: jax.Array) -> Parts:
    """Drawing of an entity: look int32 [1 + P], pose in [-1, 1] -> Parts [MAX_PARTS]."""
    return jax.lax.switch(look[0], _PLANS, look[1:], pose)
