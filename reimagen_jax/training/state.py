"""What a training step carries from one step to the next; restoring it continues training bit for bit."""

import math
from collections.abc import Collection, Sequence
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax.traverse_util import flatten_dict, unflatten_dict
from jaxtyping import Array, Int32, Key

from reimagen_jax.config import Experiment, TrainConfig
from reimagen_jax.errors import UserError, require
from reimagen_jax.files import listed
from reimagen_jax.systems.base import Params, System
from reimagen_jax.training import groups

Flat = dict[tuple[str, ...], Any]
"""A parameter tree by its paths."""


@flax.struct.dataclass
class TrainState:
    """Arrays only: functions and settings stay outside, so any two states of one experiment have one structure."""

    step: Int32[Array, ""]
    """Updates done so far, which is also the index of the next batch."""
    params: Params
    ema: Params
    """The average of the parameters that are trained; those that are frozen have no branch here."""
    opt_state: optax.OptState
    """Of the parameters that are trained."""

    @property
    def averaged(self) -> Params:
        """The averaged parameters, with the frozen ones: what samples are drawn with. In the state's own memory."""
        return groups.joined(self.params, self.ema)


def init_state(
    system: System, optimizer: optax.GradientTransformation, key: Key[Array, ""], config: TrainConfig | None = None
) -> TrainState:
    """The state before the first step: random parameters, their average equal to them. Pure.

    `config` says what is frozen, and how that is held: nothing without it.
    """
    params = system.init(key)
    free = params
    if config is not None:
        params = groups.held(params, config)
        free, _ = groups.split(params, config.rates)
    # The average is a copy: a step gives both away (donation), so they may not share memory.
    ema = jax.tree.map(jnp.copy, free)
    return TrainState(step=jnp.zeros((), jnp.int32), params=params, ema=ema, opt_state=optimizer.init(free))


def as_before(system: System, optimizer: optax.GradientTransformation, key: Key[Array, ""]) -> TrainState:
    """The state as checkpoints of earlier versions have it, with an average of what is frozen too."""
    return init_state(system, optimizer, key)


def from_before(state: TrainState, like: TrainState) -> TrainState:
    """A state `as_before` in the structure of `like`; what is frozen was equal to its average, so nothing is lost."""
    ema = flatten_dict(state.ema)
    return state.replace(
        ema=unflatten_dict({path: ema[path] for path in flatten_dict(like.ema)}),
        # The masks in the places of what is frozen are no leaves.
        opt_state=jax.tree.unflatten(jax.tree.structure(like.opt_state), jax.tree.leaves(state.opt_state)),
    )


def start_from(
    state: TrainState, params: Params, fresh: Sequence[str] = (), left_out: Sequence[str] = ()
) -> TrainState:
    """The state with `params` as parameters and as their average, placed as those of `state` are.

    A parameter that `params` lacks stays as in `state` if a name on its path begins with one of `fresh`; one that
    `state` lacks is not taken over if a name on its path begins with one of `left_out`. A table of positions
    (`POSITIONS`) may be of another length: rows that both have are those of `params`, so that texts which fit both are
    read alike; further ones stay as in `state` (rows stretched over the new length would change all that is known).
    Raises `UserError` naming parameters that differ in name or shape.
    """
    ours, theirs = flatten_dict(state.params), flatten_dict(params)
    made_anew, dropped = _named(ours.keys() - theirs.keys(), fresh), _named(theirs.keys() - ours.keys(), left_out)
    wrong = [
        "/".join(path)
        for path in sorted((ours.keys() | theirs.keys()) - made_anew - dropped)
        if _shape(ours, path) != _shape(theirs, path) and not _lengths(ours, theirs, path)
    ]
    if wrong:
        raise UserError(
            "the initial weights are those of another network: train that one, or start from nothing (--init.weights "
            f"''); they differ in {listed(wrong, NAMED)}"
        )

    def started(tree: Params) -> Params:
        leaves = flatten_dict(tree)
        return unflatten_dict(
            {path: leaf if path in made_anew else _placed(theirs[path], leaf) for path, leaf in leaves.items()}
        )

    return state.replace(params=started(state.params), ema=started(state.ema))


def check_frozen(ours: Params, theirs: Params, config: Experiment) -> None:
    """Raises `UserError` where a part of `ours` that is frozen (an encoder that a system holds beside its own) has no
    parameter in `theirs`, which the run starts from: it would stay random for good. `ours` may be shapes."""
    init = config.init
    frozen = flatten_dict(groups.split(ours, config.train.rates)[1]).keys()
    frozen -= _named(frozen, init.fresh)
    lost = sorted({path[0] for path in frozen} - {path[0] for path in frozen & flatten_dict(theirs).keys()})
    told = ", ".join(filter(None, (init.weights, *init.beside))) or "the weights that it starts from"
    require(
        not lost,
        f"{config.name} holds {' and '.join(lost)} frozen, which has no weights in {told}: give the folder that has "
        "them too, --init.beside DIR",
    )


def unlike(ours: Params, theirs: Params) -> list[str]:
    """In words, what `start_from` does not take over as it is: tables of positions that become longer or shorter, what
    begins anew, what is left out; `ours` may be shapes."""
    ours, theirs, lines = flatten_dict(ours), flatten_dict(theirs), []
    for path in sorted(ours.keys() & theirs.keys()):
        if lengths := _lengths(ours, theirs, path):
            wanted, known = lengths
            rest = f"{wanted - known} more begin anew" if known < wanted else f"{known - wanted} more are left out"
            lines.append(f"{'/'.join(path)}: the first {min(lengths)} positions are those of the weights, {rest}")
    for paths, of, what in (
        (ours.keys() - theirs.keys(), ours, "begin anew, which the weights lack"),
        (theirs.keys() - ours.keys(), theirs, "of the weights are left out"),
    ):
        if paths:
            modules = sorted({"/".join(path[:2]) for path in paths})
            count = sum(math.prod(of[path].shape) for path in paths)
            lines.append(f"{count:,} parameters {what}: {listed(modules, NAMED)}")
    return lines


NAMED = 8
"""Parameters or modules, at most, that a line names."""
POSITIONS = "position"
"""The name of a learned table of positions along a text, [..., length, width]."""


def _lengths(ours: Flat, theirs: Flat, path: tuple[str, ...]) -> tuple[int, int] | None:
    """The lengths of a table of positions, where nothing else is different."""
    a, b = _shape(ours, path), _shape(theirs, path)
    if path[-1] != POSITIONS or a is None or b is None or a == b or (*a[:-2], a[-1]) != (*b[:-2], b[-1]):
        return None
    return a[-2], b[-2]


def _placed(values: Any, like: Array) -> Array:
    """`values` in new memory of their own, each device (of this process or another) holding its part; where they are
    fewer than those of `like`, before the rest of these."""
    values = np.asarray(values)
    if values.shape == like.shape:
        return jax.make_array_from_callback(like.shape, like.sharding, lambda part: np.array(values[part], like.dtype))
    values = values[..., : like.shape[-2], :]
    begun = lambda rest: rest.at[..., : values.shape[-2], :].set(values.astype(rest.dtype))  # noqa: E731
    return jax.jit(begun, out_shardings=like.sharding)(like)


def _named(paths: Collection[tuple[str, ...]], beginnings: Sequence[str]) -> set[tuple[str, ...]]:
    """Those on which a name begins with one of these."""
    return {path for path in paths if any(name.startswith(tuple(beginnings)) for name in path)}


def _shape(leaves: Flat, path: tuple[str, ...]) -> tuple[int, ...] | None:
    return leaves[path].shape if path in leaves else None
