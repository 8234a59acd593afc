"""The programs of an experiment, as shapes: its training step and its sampler over a mesh, ready to compile.

Nothing is computed and no weight exists: the devices of the mesh may be those of a pod that is elsewhere.
"""

import dataclasses
import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from reimagen_jax.config import Experiment
from reimagen_jax.data.batch import Batch, abstract_texts
from reimagen_jax.pods import flops
from reimagen_jax.systems.reimagen import ReImagen
from reimagen_jax.training import sharding
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


def for_accelerators(config: Experiment) -> Experiment:
    """The experiment as it runs on a pod: what it decides by the device that traces it is decided for a TPU."""
    if config.unet.attention != "auto":
        return config
    return dataclasses.replace(config, unet=dataclasses.replace(config.unet, attention="xla"))


def abstract_batch(config: Experiment, batch_size: int, where: NamedSharding | None = None) -> Batch:
    """The shapes of a training batch."""
    B, K, R = batch_size, config.data.num_neighbours, config.train_resolution
    texts = functools.partial(abstract_texts, config.text, **({} if where is None else {"sharding": where}))
    array = functools.partial(jax.ShapeDtypeStruct, sharding=where)
    return Batch(
        image_BHWC=array((B, R, R, 3), jnp.uint8),
        tokens_BL=texts(B),
        nbr_image_BKHWC=array((B, K, R, R, 3), jnp.uint8),
        nbr_tokens_BKL=texts(B, K),
        nbr_mask_BK=array((B, K), jnp.bool_),
    )


def train_program(config: Experiment, mesh: Mesh) -> Program:
    """The step that `reimagen train` takes. Raises `UserError` if the devices do not divide the (micro-)batch."""
    sharding.check_batch_size(config.data.batch_size, mesh, config.train.accumulate)
    system, optimizer = ReImagen(config), make_optimizer(config.train)
    abstract = sharding.abstract_state(lambda: init_state(system, optimizer, jax.random.key(0)), mesh)
    step = train_step(sharding.Gathered(system, mesh), optimizer, config.train)
    batch = abstract_batch(config, config.data.batch_size, sharding.batch_sharding(mesh))
    key = jax.eval_shape(lambda: jax.random.key(0))
    one = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct((1, *leaf.shape[1:]), leaf.dtype), batch)
    forward = flops.count(system.loss, abstract.params, one, key)
    return Program(
        name="train",
        jitted=sharding.jit_step(step, abstract, mesh),
        arguments=(abstract, batch, key),
        held={
            "parameters": abstract.params,
            "averaged parameters": abstract.ema,
            "optimizer": abstract.opt_state,
            "batch": batch,
        },
        state=state_shapes((abstract.params, abstract.opt_state)),
        images=config.data.batch_size,
        model_flops=flops.TRAINING * forward * config.data.batch_size,
    )


def sampler_program(config: Experiment, mesh: Mesh, images: int) -> Program:
    """Drawing `images` with the experiment's settings: they are shared by the devices, the parameters whole on each."""
    sharding.check_batch_size(images, mesh)
    system, whole, split = ReImagen(config), NamedSharding(mesh, P()), sharding.batch_sharding(mesh)
    params = jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=whole),
        jax.eval_shape(lambda: system.init(jax.random.key(0))),
    )

    def draw(params: Any, *inputs: Any) -> jax.Array:
        return system.sample(params, *inputs[:5], config.sampler, *inputs[5:])

    def inputs(images: int, where: NamedSharding | None) -> tuple[Any, ...]:
        batch = abstract_batch(dataclasses.replace(config, super_resolution=None), images, where)
        array = functools.partial(jax.ShapeDtypeStruct, sharding=where)
        keys = jax.eval_shape(lambda: jax.random.split(jax.random.key(0), images))
        numbers = (array((images,), jnp.float32),) * 3
        low_res = ()
        if config.super_resolution is not None:
            side = config.super_resolution.low_resolution
            low_res = (array((images, side, side, 3), jnp.uint8),)
        neighbours = (batch.nbr_image_BKHWC, batch.nbr_tokens_BKL, batch.nbr_mask_BK)
        return batch.tokens_BL, *neighbours, array(keys.shape, keys.dtype), *numbers, *low_res

    of_mesh = inputs(images, split)
    return Program(
        name="sampler",
        jitted=jax.jit(draw, in_shardings=(whole, *(split for _ in of_mesh)), out_shardings=split),
        arguments=(params, *of_mesh),
        held={"parameters": params, "batch": of_mesh},
        state=state_shapes(params),
        images=images,
        model_flops=images * flops.count(draw, params, *inputs(1, None)),
    )


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
