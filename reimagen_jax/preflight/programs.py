"""The programs of an experiment, as shapes: its training step and its sampler over a mesh, ready to compile.

Nothing is computed and no weight exists: the devices of the mesh may be those of a pod that is elsewhere.
"""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from reimagen_jax import randomness, sharding
from reimagen_jax.config import Experiment
from reimagen_jax.preflight import flops
from reimagen_jax.pretrained import weights
from reimagen_jax.systems import kinds
from reimagen_jax.training import groups, parallel
from reimagen_jax.training.state import init_state
from reimagen_jax.training.step import make_optimizer, train_step


@dataclass(frozen=True)
class Program:
    """A function with the shapes and places of its arguments."""

    name: str
    jitted: Any
    """What `jax.jit` returned."""
    arguments: tuple[Any, ...]
    held: dict[str, Any]
    """What the arguments are, by name: trees of shapes."""
    state: tuple[tuple[int, ...], ...]
    """Sides of every parameter and of what the optimizer keeps, whole and as a device holds it."""
    images: int
    """Drawn, or trained on."""
    model_flops: float
    """Of all devices; see flops.py."""


def for_platform(config: Experiment, platform: str) -> Experiment:
    """The experiment as it runs on a "tpu" or on "cuda": what it decides by the device that traces it is settled."""
    return dataclasses.replace(config, system=config.system.for_platform(platform))


def train_program(config: Experiment, mesh: Mesh) -> Program:
    """The step that `reimagen train` takes. Raises `UserError` if the devices do not divide the (micro-)batch."""
    sharding.check_batch_size(config.data.batch_size, mesh, config.train.accumulate)
    system, optimizer = kinds.system_of(config), make_optimizer(config.train)
    abstract = parallel.abstract_state(lambda: init_state(system, optimizer, randomness.key(0), config.train), mesh)
    step = train_step(parallel.Gathered(system, mesh), optimizer, config.train)
    batch = placed(system.batch_spec(config.data.batch_size), sharding.batch_sharding(mesh))
    key = jax.eval_shape(lambda: randomness.key(0))

    def loss(params: Any, ema: Any, batch: Any, key: Any) -> Any:
        return system.loss(params, batch, key, ema=ema)

    learned = groups.trained(abstract.params, config.train.rates)
    an_image = flops.training(loss, learned, abstract.params, abstract.averaged, system.batch_spec(1), key)
    return Program(
        name="train",
        jitted=parallel.jit_step(step, abstract, mesh),
        arguments=(abstract, batch, key),
        held={
            "parameters": abstract.params,
            "averaged parameters": abstract.ema,
            "optimizer": abstract.opt_state,
            "batch": batch,
        },
        state=state_shapes((abstract.params, abstract.opt_state)),
        images=config.data.batch_size,
        model_flops=an_image * config.data.batch_size,
    )


def sampler_program(config: Experiment, mesh: Mesh, images: int, stored: str = "float32") -> Program:
    """Drawing `images` with the experiment's settings, as what it trains is opened: they are shared by the devices, the
    parameters whole on each, held as weights are that are stored as this dtype."""
    config = dataclasses.replace(config, system=config.system.opened)
    sharding.check_batch_size(images, mesh)
    system, whole, split = kinds.system_of(config), NamedSharding(mesh, P()), sharding.batch_sharding(mesh)
    params = jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, weights.stored_dtype(leaf.ndim, stored), sharding=whole),
        jax.eval_shape(lambda: system.init(randomness.key(0))),
    )

    def draw(params: Any, inputs: Any, keys: Any) -> jax.Array:
        return system.sample(params, inputs, keys, system.settings)

    def told(images: int) -> tuple[Any, Any]:
        keys = jax.eval_shape(lambda: jax.random.split(randomness.key(0), images))
        return system.inputs_spec(images, system.settings), keys

    of_mesh = placed(told(images), split)
    return Program(
        name="sampler",
        jitted=jax.jit(draw, in_shardings=(whole, split, split), out_shardings=split),
        arguments=(params, *of_mesh),
        held={"parameters": params, "batch": of_mesh},
        state=state_shapes(params),
        images=images,
        model_flops=images * flops.count(draw, params, *told(1)),
    )


def placed(spec: Any, where: NamedSharding) -> Any:
    """A tree of shapes with a place."""
    return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=where), spec)


def state_shapes(tree: Any) -> tuple[tuple[int, ...], ...]:
    """The sides of every leaf, whole and as one device holds it."""
    leaves = jax.tree.leaves(tree)
    return tuple({leaf.shape for leaf in leaves} | {leaf.sharding.shard_shape(leaf.shape) for leaf in leaves})


def bytes_per_device(tree: Any) -> int:
    """What one device holds of a tree of shapes with places, without the padding of tiles."""
    return sum(_bytes(leaf, leaf.sharding.shard_shape(leaf.shape)) for leaf in jax.tree.leaves(tree))


def _bytes(leaf: jax.ShapeDtypeStruct, shape: Sequence[int]) -> int:
    size = 1
    for side in shape:
        size *= side
    # Keys are made of two 32-bit words.
    return size * (8 if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key) else leaf.dtype.itemsize)
