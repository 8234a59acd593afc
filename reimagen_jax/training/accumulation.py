"""The gradient of a batch in parts, one after the other, so that only one part's activations are in memory.

  g = 1/A sum_m grad L(theta; part m, key m)                                                                     (1)

Part m has the examples m, m + A, m + 2 A, ... of the batch: where a batch is split over devices in consecutive blocks,
each device's share of every part is its own, and no example travels. The parts are of equal size, so (1) is the
gradient of the whole batch's mean loss. The sum has the parameters' precision (float32) and lies on the devices as the
parts' gradients do (parallel.Gathered: as the parameters).
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from reimagen_jax.systems.base import Params

Loss = Callable[[Params, Any, Key[Array, ""]], tuple[Float[Array, ""], dict[str, Array]]]


def cut(batch: Any, parts: int) -> Any:
    """Leaves [B, ...] as [parts, B / parts, ...]. Raises `ValueError` if `parts` does not divide B."""

    def leaf_in_parts(leaf: Array) -> Array:
        if leaf.shape[0] % parts:
            raise ValueError(f"a batch of {leaf.shape[0]} cannot be cut into {parts} equal parts")
        return jnp.moveaxis(leaf.reshape(leaf.shape[0] // parts, parts, *leaf.shape[1:]), 1, 0)

    return jax.tree.map(leaf_in_parts, batch)


def value_and_grad(
    loss: Loss, params: Params, batch: Any, key: Key[Array, ""], parts: int
) -> tuple[tuple[Float[Array, ""], dict[str, Array]], Params]:
    """((loss, metrics), gradient) of a batch by (1); loss and metrics are means over the parts.

    Part m draws from `fold_in(key, m)`; a batch in one part from `key`.
    """
    of_part = jax.value_and_grad(loss, has_aux=True)
    if parts == 1:
        return of_part(params, batch, key)
    of_part = jax.jit(of_part)  # so that it is traced once for both forms of the loop

    def add(total: Params, part: tuple[Array, Any]) -> tuple[Params, Any]:
        m, micro_batch = part
        values, gradient = of_part(params, micro_batch, jax.random.fold_in(key, m))
        return jax.tree.map(jnp.add, total, gradient), values

    def loop(unroll: bool) -> tuple[Params, Any]:
        numbered = (jnp.arange(parts), cut(batch, parts))
        return jax.lax.scan(add, jax.tree.map(jnp.zeros_like, params), numbered, unroll=unroll)

    # On CPUs the gradient of a convolution runs some 15 times slower inside a loop of XLA's than outside of one.
    total, values = jax.lax.platform_dependent(cpu=lambda: loop(unroll=True), default=lambda: loop(unroll=False))
    return jax.tree.map(lambda x: x.mean(axis=0), values), jax.tree.map(lambda x: x / parts, total)
