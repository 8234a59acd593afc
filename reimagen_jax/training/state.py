"""What a training step carries from one step to the next; restoring it continues training bit for bit."""

from collections.abc import Sequence
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax.traverse_util import flatten_dict, unflatten_dict
from jaxtyping import Array, Int32, Key

from reimagen_jax.errors import UserError
from reimagen_jax.systems.base import Params, System


@flax.struct.dataclass
class TrainState:
    """Arrays only: functions and settings stay outside, so any two states of one experiment have one structure."""

    step: Int32[Array, ""]
    """Updates done so far, which is also the index of the next batch."""
    params: Params
    ema: Params
    """The averaged parameters: what samples are drawn with."""
    opt_state: optax.OptState


def init_state(system: System, optimizer: optax.GradientTransformation, key: Key[Array, ""]) -> TrainState:
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
    ours, theirs = flatten_dict(state.params), flatten_dict(params)
    made_anew = {path for path in ours.keys() - theirs.keys() if any(name.startswith(tuple(fresh)) for name in path)}
    wrong = [
        "/".join(path)
        for path in sorted((ours.keys() | theirs.keys()) - made_anew)
        if _shape(ours, path) != _shape(theirs, path)
    ]
    if wrong:
        raise UserError(f"the initial weights are those of another network, they differ in {', '.join(wrong)}")

    def started(tree: Params) -> Params:
        leaves = flatten_dict(tree)
        return unflatten_dict(
            {path: leaf if path in made_anew else _placed(theirs[path], leaf) for path, leaf in leaves.items()}
        )

    return state.replace(params=started(state.params), ema=started(state.ema))


def _placed(values: Any, like: Array) -> Array:
    """`values` in new memory of their own, each device (of this process or another) holding its part."""
    values = np.asarray(values)
    return jax.make_array_from_callback(like.shape, like.sharding, lambda part: np.array(values[part], like.dtype))


def _shape(leaves: dict[tuple[str, ...], Any], path: tuple[str, ...]) -> tuple[int, ...] | None:
    return leaves[path].shape if path in leaves else None
