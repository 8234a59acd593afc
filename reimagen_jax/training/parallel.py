"""A training step over devices: the state split by the rules of sharding.py, its parameters gathered for the loss."""

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import optax
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Float, Int32, Key

from reimagen_jax.config import TrainConfig
from reimagen_jax.errors import require
from reimagen_jax.nets import layers
from reimagen_jax.sharding import batch_sharding, global_batch, state_sharding
from reimagen_jax.systems.base import Metrics, Params, System
from reimagen_jax.training.state import TrainState
from reimagen_jax.training.step import Step, loss_at, train_step


def abstract_state(init: Callable[[], TrainState], mesh: Mesh) -> TrainState:
    """The shapes, dtypes and places of the state that `init` makes; nothing is computed."""
    abstract = jax.eval_shape(init)
    return jax.tree.map(
        lambda leaf, where: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=where),
        abstract,
        state_sharding(abstract, mesh),
    )


def sharded_init(init: Callable[[], TrainState], abstract: TrainState) -> TrainState:
    """The state, each device computing its own part: no device ever holds the whole of it."""
    return jax.jit(init, out_shardings=jax.tree.map(lambda leaf: leaf.sharding, abstract))()


@dataclass(frozen=True)
class Gathered:
    """A system whose loss sees whole parameters, gathered from "fsdp" for the step; between steps they are split.

    Left to itself, the compiler carries a kernel's sharding over to activations and moves those between devices; so it
    moves parameters and gradients alone (all-gather, and all-reduce or reduce-scatter), and the batch stays put. When
    it gathers a parameter, and how long it keeps it, is the compiler's choice. Gradients are split as the parameters
    are, as soon as they are made: no device needs to hold them all.
    """

    system: System
    mesh: Mesh

    def init(self, key: Key[Array, ""]) -> Params:
        return self.system.init(key)

    def loss(self, params: Params, batch: Any, key: Key[Array, ""], *, ema: Params) -> tuple[Float[Array, ""], Metrics]:
        return self._whole(self.system.loss, params, batch, key, ema)

    def loss_at(
        self, params: Params, batch: Any, key: Key[Array, ""], step: Int32[Array, ""], *, ema: Params
    ) -> tuple[Float[Array, ""], Metrics]:
        """Of a system that asks for the step, or of one that does not."""
        return self._whole(functools.partial(loss_at, self.system, step=step), params, batch, key, ema)

    def _whole(
        self, loss: Callable[..., Any], params: Params, batch: Any, key: Key[Array, ""], ema: Params
    ) -> tuple[Float[Array, ""], Metrics]:
        params, ema = self.gather(params), self.gather(ema)
        if self.mesh.shape["fsdp"] == 1:  # no gradient is split, and the batch stays put by itself
            return loss(params, batch, key, ema=ema)
        with layers.batch_lies(batch_sharding(self.mesh)):
            return loss(params, batch, key, ema=ema)

    def gather(self, params: Params) -> Params:
        """Whole parameters of those that are split."""
        place, whole = jax.lax.with_sharding_constraint, NamedSharding(self.mesh, P())

        def gathered(parameter: Array, split: NamedSharding) -> Array:
            gather = jax.custom_vjp(lambda parameter: place(parameter, whole))
            # Without a rule of its own, the gradient of a gathered parameter would be wanted whole on every device too.
            gather.defvjp(lambda parameter: (place(parameter, whole), None), lambda _, grad: (place(grad, split),))
            return gather(parameter)

        # One by one: what is frozen is not differentiated along with the others.
        return jax.tree.map(gathered, params, state_sharding({"params": params}, self.mesh)["params"])


def jit_step(step: Step, abstract: TrainState, mesh: Mesh) -> Step:
    """The step over sharded global arrays. The state given in is given away (donated): only the result remains."""
    where = jax.tree.map(lambda leaf: leaf.sharding, abstract)
    whole = NamedSharding(mesh, P())
    return jax.jit(
        step,
        in_shardings=(where, batch_sharding(mesh), whole),
        out_shardings=(where, whole),
        donate_argnums=0,
    )


def pmap_step(step: Step, axis_name: str) -> Step:
    """The older form of data parallelism: state whole on every device, the batch's first axis mapped over them.

    `step` is `train_step(..., axis_name=axis_name)`; batch leaves are `[devices, examples of a device, ...]`. The state
    and the metrics come back whole. `jit_step` does all of this and shards parameters too; this is for code that stands
    on `jax.pmap`.
    """
    return jax.pmap(step, axis_name=axis_name, in_axes=(None, 0, None), out_axes=None)


def make_advance(
    system: System, optimizer: optax.GradientTransformation, config: TrainConfig, abstract: TrainState, mesh: Mesh
) -> Step:
    """The step as `config.parallel` asks for it, from this process's share of a batch (numpy leaves).

    With "pmap" devices draw random numbers of their own, so a step equals that of "jit" where the loss draws none, and
    otherwise in distribution. Raises `UserError` for several processes there.
    """
    if config.parallel == "jit":
        step = jit_step(train_step(Gathered(system, mesh), optimizer, config), abstract, mesh)
        return lambda state, local, key: step(state, global_batch(local, mesh), key)
    require(jax.process_count() == 1, "train.parallel 'pmap' serves one process: leave it at 'jit'")
    mapped = pmap_step(train_step(system, optimizer, config, axis_name="devices"), "devices")
    where, whole = jax.tree.map(lambda leaf: leaf.sharding, abstract), NamedSharding(mesh, P())

    def advance(state: TrainState, local: Any, key: Key[Array, ""]) -> tuple[TrainState, Metrics]:
        cut = jax.tree.map(lambda leaf: leaf.reshape(mesh.size, -1, *leaf.shape[1:]), local)
        return jax.device_put(mapped(state, cut, key), (where, whole))

    return advance
