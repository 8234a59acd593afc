"""Validation: the loss of the averaged parameters on held-out examples, from the same noise whenever it is measured.

Noise and times are functions of a batch's number alone, not of the run or its step: the numbers of a run, and of runs
on the same data, differ by what was learned. Nothing of the training's own randomness or data is touched.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Key

from reimagen_jax import randomness, sharding
from reimagen_jax.config import TrainConfig
from reimagen_jax.systems.base import Batch, HoldsOut, Params, Sums, System, Watched
from reimagen_jax.training.loop import Watch
from reimagen_jax.training.parallel import Gathered

NAME = "validation"
_SEED = 0x8E1D


def validation(system: System, feed: Any, config: TrainConfig) -> Watch | None:
    """The watch of a training whose feed holds examples out; None where it does not, or none is wanted."""
    if not config.validate_every or not isinstance(feed, HoldsOut):
        return None
    batches = feed.held_out(config.validate_examples)
    return Watch(config.validate_every, measurement(system, batches, config.fsdp)) if batches else None


def measurement(system: System, batches: Sequence[Batch], fsdp: int = 1) -> Callable[[Params], Mapping[str, float]]:
    """Parameters -> means over all examples of what `system.measure` sums; for a system that is not `Watched`, the loss
    and what it says beside, averaged over the batches. One program, over the devices of a training.

    `batches` are this process's shares.
    """
    mesh = sharding.make_mesh(fsdp)
    gathered = Gathered(system, mesh)

    def measure(params: Params, batch: Batch, key: Key[Array, ""]) -> Sums:
        params = gathered.gather(params)
        if isinstance(system, Watched):
            return system.measure(params, batch, key)
        loss, further = system.loss(params, batch, key, ema=params)
        return {name: (value, jnp.float32(1)) for name, value in {"loss": loss, **further}.items()}

    program = jax.jit(measure, out_shardings=NamedSharding(mesh, P()))
    keys = jax.random.split(randomness.key(_SEED), len(batches))

    def means(params: Params) -> dict[str, float]:
        found = [
            program(params, sharding.global_batch(batch, mesh), key) for batch, key in zip(batches, keys, strict=True)
        ]
        totals = jax.tree.map(lambda *parts: sum(map(float, parts)), *jax.device_get(found))
        names = sorted(totals, key=lambda name: (name != "loss", name))
        return {f"{NAME}/{name}": total / number for name in names for total, number in [totals[name]] if number}

    return means
