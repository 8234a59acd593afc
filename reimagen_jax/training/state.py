"""What a training step carries from one step to the next; restoring it continues training bit for bit."""

from collections.abc import Sequence
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import optax
from flax.traverse_util import flatten_dict, unflatten_dict
from jaxtyping import Array, Int32, Key

from reimagen_jax.errors import UserError

Params = Any
"""A pytree of arrays; dictionaries all the way down for Linen."""


@flax.struct.dataclass
class TrainState:
    """Arrays only: functions and settings stay outside, so any two states of one experiment have one structure."""

    step: Int32[Array, ""]
    """Updates done so far, which is also the index of the next batch."""
    params: Params
    ema: Params
    """The averaged parameters: what samples are drawn with."""
    opt_state: optax.OptState


def init_state(system: Any, optimizer: optax.GradientTransformation, key: Key[Array, ""]) -> TrainState:
    """The state before the first step: random parameters, their average equal to them. Pure."""
    params = system.init(key)
    # The average is a copy: a step gives both away (donation), so they may not share memory.
    ema = jax.tree.map(jnp.copy, params)
    return TrainState(step=jnp.zeros((), jnp.int32), params=params, ema=ema, opt_state=optimizer.init(params))


def start_from(state: TrainState, params: Params, fresh: Sequence[str] = ()) -> TrainState:
    """The state with `params` as parameters and as their average, placed as those of `state` are.

    A parameter that `params` lacks stays as in `state` if a name on its path begins with one of `fresh`.
    Raises `UserError` naming the parameters that differ in name or shape.
    """
    ours, theirs = (flatten_dict(tree) for tree in (state.params, params))
    made_anew = {path: leaf for path, leaf in ours.items() if any(name.startswith(tuple(fresh)) for name in path)}
    theirs = made_anew | theirs
    wrong = [
        "/".join(path) for path in sorted(ours.keys() | theirs.keys()) if _shape(ours, path) != _shape(theirs, path)
    ]
    if wrong:
        raise UserError(f"the initial weights are those of another network, they differ in {', '.join(wrong)}")

    params = unflatten_dict(theirs)

    def placed() -> Params:  # two copies: parameters and average are updated in place, each in its own memory
        return jax.tree.map(lambda old, new: jax.device_put(jnp.array(new), old.sharding), state.params, params)

    return state.replace(params=placed(), ema=placed())


def _shape(leaves: dict[tuple[str, ...], Any], path: tuple[str, ...]) -> tuple[int, ...] | None:
    return leaves[path].shape if path in leaves else None
