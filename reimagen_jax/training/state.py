"""What a training step carries from one step to the next; restoring it continues training bit for bit."""

from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Int32, Key

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
