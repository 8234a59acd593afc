"""Random parameters and inputs by NumPy: drawing them compiles nothing."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np


def draw_params(init: Callable[[], Any], seed: int) -> Any:
    """Parameters of the shapes that `init` makes, all random: also where training would start at zero or one."""
    rng = np.random.default_rng(seed)

    def draw(path: Any, leaf: jax.ShapeDtypeStruct) -> jax.Array:
        noise = rng.normal(size=leaf.shape)
        if leaf.ndim > 1:
            value = noise / np.sqrt(np.prod(leaf.shape[:-1]))
        else:
            value = 0.1 * noise + (1.0 if path[-1].key == "scale" else 0.0)
        return jnp.asarray(value, leaf.dtype)

    return jax.tree_util.tree_map_with_path(draw, jax.eval_shape(init))


def draw(seed: int, *shapes: tuple[int, ...]) -> list[jax.Array]:
    """Normal arrays of these shapes."""
    rng = np.random.default_rng(seed)
    return [jnp.asarray(rng.normal(size=shape), jnp.float32) for shape in shapes]
