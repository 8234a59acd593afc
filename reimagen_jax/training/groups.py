"""Groups of parameters with a learning rate of their own, among them those that are frozen.

A group is a pattern of paths (`unet/dstack/stem/kernel`) and a factor on the learning rate; a parameter belongs to the
first group whose pattern is found in its path, and has the factor 1 where none is. With the factor 0 a parameter is
frozen: it is held once, as `train.frozen_dtype` says, without gradient, moments, decay and average.
"""

import re
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax.traverse_util import flatten_dict, unflatten_dict

from reimagen_jax.config import GroupRate, TrainConfig
from reimagen_jax.errors import UserError
from reimagen_jax.systems.base import Params


def factors(params: Params, rates: Sequence[GroupRate]) -> Any:
    """A tree of numbers: what each parameter's learning rate is multiplied by."""
    return jax.tree_util.tree_map_with_path(lambda path, _: _factor(_name(path), rates), params)


def trained(params: Params, rates: Sequence[GroupRate]) -> Any:
    """A tree of flags: false for the parameters that are frozen."""
    return jax.tree.map(lambda factor: factor > 0, factors(params, rates))


def split(params: Params, rates: Sequence[GroupRate]) -> tuple[Params, Params]:
    """The parameters that are trained, and those that are frozen: each without the other's branches."""
    flat = flatten_dict(params)
    free = {path: leaf for path, leaf in flat.items() if _factor("/".join(path), rates) > 0}
    return unflatten_dict(free), unflatten_dict({path: leaf for path, leaf in flat.items() if path not in free})


def joined(params: Params, others: Params) -> Params:
    """One tree of both; where both have a parameter, that of `others`."""
    return unflatten_dict(flatten_dict(params) | flatten_dict(others))


def held(params: Params, config: TrainConfig) -> Params:
    """The parameters in the precision that they are held in: matrices and kernels that are frozen in
    `config.frozen_dtype`. Vectors stay as they are: norms compute with them in float32, and they take no room."""
    dtype = jnp.dtype(config.frozen_dtype)
    return jax.tree.map(
        lambda p, free: p if free or p.ndim < 2 else p.astype(dtype), params, trained(params, config.rates)
    )


def scaled(descend: optax.GradientTransformation, rates: Sequence[GroupRate]) -> optax.GradientTransformation:
    """The optimizer with these groups; without any it is `descend` itself, whose state older checkpoints hold."""
    if not rates:
        return descend
    if any(rate.factor == 0 for rate in rates):  # of older checkpoints, which had masks in the frozen ones' places
        descend = optax.masked(descend, lambda params: trained(params, rates))
    scale = optax.stateless(
        lambda updates, params: jax.tree.map(lambda u, factor: factor * u, updates, factors(params, rates))
    )
    return optax.chain(descend, scale)


def check(params: Params, rates: Sequence[GroupRate]) -> None:
    """Raises `UserError` for a pattern that no path has, and when all parameters are frozen."""
    names = [_name(path) for path, _ in jax.tree_util.tree_leaves_with_path(params)]
    if lost := [rate.where for rate in rates if not any(re.search(rate.where, name) for name in names)]:
        raise UserError(f"train.rates: {', '.join(map(repr, lost))} is in no parameter's path, such as {names[0]}")
    if not any(_factor(name, rates) > 0 for name in names):
        raise UserError("train.rates freezes every parameter: nothing is left to be trained")


def _factor(name: str, rates: Sequence[GroupRate]) -> float:
    return next((rate.factor for rate in rates if re.search(rate.where, name)), 1.0)


def _name(path: Any) -> str:
    return jax.tree_util.keystr(path, simple=True, separator="/")
