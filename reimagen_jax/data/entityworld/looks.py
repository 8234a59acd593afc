"""Looks: what an entity is, as integers that only its images tell.

A look is (category, v_1 .. v_P): a category and one value index for each of its P = 8 parameters. An entity is its
index i in a world with seed s, and its look needs no table:
    (1) category(i) = i mod 5
    (2) number(i)   = permute(i div 5; s, category)  in [0, M),  M = the product of the category's value counts
    (3) v_1 .. v_P  = the mixed-radix digits of number(i)
`permute` is a seeded bijection (a Feistel network, walked until it lands below M; Black and Rogaway 2002, "Ciphers
with arbitrary finite domains"), so looks are distinct, and their values are spread evenly over any range of indices.
"""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np


class Parameter(NamedTuple):
    """One thing that can be told about an image: its name and the names of its values."""

    name: str
    values: tuple[str, ...]


CATEGORIES = ("dog", "food", "landmark", "bird", "character")

# sRGB. The colours that one parameter chooses from are far apart, also under every light of scenes.py.
PALETTE = {
    "red": (0.88, 0.16, 0.18),
    "orange": (0.98, 0.55, 0.10),
    "yellow": (1.00, 0.84, 0.22),
    "green": (0.22, 0.66, 0.27),
    "cyan": (0.35, 0.88, 0.92),
    "blue": (0.13, 0.44, 0.90),
    "purple": (0.60, 0.22, 0.72),
    "pink": (1.00, 0.55, 0.74),
    "white": (0.97, 0.96, 0.93),
    "brown": (0.47, 0.28, 0.15),
    "black": (0.13, 0.12, 0.16),
    "tan": (0.63, 0.39, 0.23),
    "peach": (1.00, 0.80, 0.62),
    "lime": (0.66, 0.86, 0.34),
    "lilac": (0.72, 0.62, 0.96),
}

# A pattern lies on a body, so the two choose from disjoint sets: the pattern always shows.
BODY = ("red", "yellow", "green", "blue", "purple", "white")
MARK = ("black", "pink", "cyan")

LOOK_PARAMETERS: dict[str, tuple[Parameter, ...]] = {
    "dog": (
        Parameter("coat", BODY),
        Parameter("pattern", ("spotted", "striped", "bibbed")),
        Parameter("pattern colour", MARK),
        Parameter("ears", ("pointed", "floppy", "round")),
        Parameter("ear colour", ("orange", "blue", "white", "brown")),
        Parameter("build", ("slender", "stout")),
        Parameter("tail", ("upright", "pompom", "bushy")),
        Parameter("collar", ("red", "yellow", "green", "blue")),
    ),
    "food": (
        Parameter("vessel", ("wrapper", "cone", "goblet")),
        Parameter("vessel colour", BODY),
        Parameter("pattern", ("dotted", "pinstriped", "banded")),
        Parameter("pattern colour", MARK),
        Parameter("filling", ("dome", "swirl", "scoops")),
        Parameter("filling colour", ("pink", "white", "brown", "lime", "lilac")),
        Parameter("topping", ("cherry", "wafer", "parasol")),
        Parameter("topping colour", ("red", "yellow", "green", "blue")),
    ),
    "landmark": (
        Parameter("wall", BODY),
        Parameter("tower", ("straight", "tapered", "flared")),
        Parameter("pattern", ("windowed", "banded", "columned")),
        Parameter("pattern colour", MARK),
        Parameter("roof", ("spire", "dome", "battlement", "pagoda")),
        Parameter("roof colour", ("red", "yellow", "green", "blue", "white")),
        Parameter("flanks", ("turrets", "steps", "domes")),
        Parameter("flank colour", ("orange", "purple", "white", "brown")),
    ),
    "bird": (
        Parameter("plumage", BODY),
        Parameter("wing colour", ("orange", "blue", "white", "brown")),
        Parameter("belly", ("pink", "lime", "white", "black")),
        Parameter("tail", ("fan", "long", "forked")),
        Parameter("crest", ("spike", "mohawk", "plume")),
        Parameter("crest colour", ("red", "yellow", "green", "purple")),
        Parameter("beak", ("conical", "curved", "broad")),
        Parameter("beak colour", ("orange", "black", "pink")),
    ),
    "character": (
        Parameter("skin", ("peach", "tan", "lime", "lilac")),
        Parameter("hat", ("pointed", "topper", "curls")),
        Parameter("hat colour", ("red", "yellow", "green", "blue", "white")),
        Parameter("shirt", BODY),
        Parameter("pattern", ("medallion", "hooped", "sash")),
        Parameter("pattern colour", MARK),
        Parameter("garment", ("trousers", "gown")),
        Parameter("garment colour", ("orange", "blue", "white", "brown")),
    ),
}

NUM_PARAMETERS = 8
VALUE_COUNTS = np.array([[len(p.values) for p in LOOK_PARAMETERS[c]] for c in CATEGORIES], np.int32)  # [category, P]
MAX_ENTITIES = len(CATEGORIES) * int(VALUE_COUNTS.astype(np.int64).prod(axis=1).min())


def mix(value: np.ndarray) -> np.ndarray:
    """Scramble uint64 [N] into uint64 [N] (the finaliser of SplitMix64; Steele et al. 2014)."""
    value = value + np.uint64(0x9E3779B97F4A7C15)
    value = (value ^ (value >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    value = (value ^ (value >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return value ^ (value >> np.uint64(31))


def permute(index: np.ndarray, size: int, *key: int) -> np.ndarray:
    """Send each index in [0, size) to its own place in [0, size), by a bijection that `key` chooses.

    index int64 [N] -> int64 [N]. Four Feistel rounds over the smallest even number of bits that holds `size`; a result
    outside the range goes through them again, which keeps the map a bijection of the range.
    """
    half_bits = max(1, math.ceil(math.log2(max(size, 2)) / 2))
    half_mask, shift = np.uint64((1 << half_bits) - 1), np.uint64(half_bits)
    seed = np.zeros(1, np.uint64)
    for word in key:
        seed = mix(seed ^ np.uint64(word))
    value = np.array(index, np.uint64)
    todo = np.ones(value.shape, bool)
    while todo.any():
        left, right = value[todo] >> shift, value[todo] & half_mask
        for turn in range(4):
            left, right = right, left ^ (mix(right ^ mix(seed + np.uint64(turn))) & half_mask)
        value[todo] = (left << shift) | right
        todo = value >= np.uint64(size)
    return value.astype(np.int64)


def looks_of(world_seed: int, index: np.ndarray) -> np.ndarray:
    """Looks of the entities with the given indices: int [N] in [0, MAX_ENTITIES) -> int32 [N, 1 + P]."""
    index = np.asarray(index, np.int64)
    if index.size and not 0 <= index.min() <= index.max() < MAX_ENTITIES:
        raise ValueError(f"entity indices must lie in 0 .. {MAX_ENTITIES - 1}, got {index.min()} .. {index.max()}")
    look = np.empty((len(index), 1 + NUM_PARAMETERS), np.int32)
    look[:, 0] = index % len(CATEGORIES)  # (1)
    for category, counts in enumerate(VALUE_COUNTS):
        mine = look[:, 0] == category
        number = permute(index[mine] // len(CATEGORIES), int(np.prod(counts)), world_seed, category)  # (2)
        look[mine, 1:] = np.stack(np.unravel_index(number, counts), axis=-1)  # (3)
    return look


def entity_looks(world_seed: int, count: int) -> np.ndarray:
    """Looks of the first `count` entities: int32 [count, 1 + P], all distinct."""
    return looks_of(world_seed, np.arange(count))


def entity_look(world_seed: int, index: int) -> np.ndarray:
    """Look of one entity: int32 [1 + P]."""
    return looks_of(world_seed, np.array([index]))[0]


def describe_look(look: np.ndarray) -> dict[str, str]:
    """Name every value of a look int [1 + P], for reports: {"category": "dog", "coat": "red", ...}."""
    category = CATEGORIES[int(look[0])]
    named = {p.name: p.values[int(value)] for p, value in zip(LOOK_PARAMETERS[category], look[1:], strict=True)}
    return {"category": category, **named}


def sample_looks(key: jax.Array, n: int) -> jax.Array:
    """Draw n looks, category and every value uniform and independent: int32 [n, 1 + P]."""
    key_category, key_value = jax.random.split(key)
    category_N = jax.random.randint(key_category, (n,), 0, len(CATEGORIES))
    value_NP = jax.random.randint(key_value, (n, NUM_PARAMETERS), 0, jnp.asarray(VALUE_COUNTS)[category_N])
    return jnp.concatenate([category_N[:, None], value_NP], axis=1)
