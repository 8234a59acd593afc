"""The one place where keys of random numbers begin: their generator is named here, not left to the environment.

Under another generator (`JAX_DEFAULT_PRNG_IMPL=rbg`) an image would depend on what else is in its batch, and a run that
goes on would draw other numbers than the one it continues.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import jax
from jaxtyping import Array, Key

from reimagen_jax.checked import Seed, checked

GENERATOR = "threefry2x32"

# Which of threefry's two ways to fill an array: they give other numbers, and the environment may choose.
jax.config.update("jax_threefry_partitionable", True)


def key(seed: int) -> Key[Array, ""]:
    """A typed key. Raises `UserError` unless `seed` is from 0 to 2^32 - 1: other numbers would not stay apart."""
    return jax.random.key(checked(seed, Seed, "seed"), impl=GENERATOR)


@contextmanager
def same_numbers() -> Iterator[None]:
    """Sets the user's settings of JAX aside that change the numbers of a program traced within: how wide a float is
    where nobody says it (JAX_ENABLE_X64), how precise a product, how threefry fills an array. An image of a seed is one
    image."""
    with jax.enable_x64(False), jax.default_matmul_precision(None), jax.threefry_partitionable(True):
        yield
