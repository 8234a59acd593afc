"""Where a training state and a batch lie on the devices: a mesh ("data", "fsdp") and rules on the parameter tree.

The batch is split over both axes; parameters, their average and the optimizer's moments over "fsdp" alone. Networks
know nothing of it: the rules speak of paths like `params/unet/dstack/stem/kernel`.
"""

import re
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from reimagen_jax.errors import UserError

Rules = Sequence[tuple[str, P]]

RULES: Rules = (
    # Vectors are small: gathering them costs more than keeping them everywhere.
    (r"/(bias|scale)$", P()),
    # So is a table of bytes. The gradient of a split one is a split scatter, for which the compiler may move the rows
    # that were looked up from device to device (in all-to-all) rather than sums: whatever the sizes make cheaper.
    (r"/embedding$", P()),
    # A convolution is split over its output channels; its spatial sides are 1 to 5 and hardly ever divide.
    (r"/kernel$", P("fsdp")),
)
"""The first rule whose pattern is found in a leaf's path holds; its spec is about the leaf's last axes."""

MIN_SIZE = 4096
"""Leaves with fewer elements are kept whole on every device."""


def make_mesh(fsdp: int = 1, devices: Sequence[jax.Device] | None = None) -> Mesh:
    """All devices as (data, fsdp). Raises `UserError` if `fsdp` does not divide their number."""
    devices = list(jax.devices() if devices is None else devices)
    if len(devices) % fsdp:
        raise UserError(f"train.fsdp {fsdp} does not divide the {len(devices)} devices: choose a divisor")
    # Linen's layers state no shardings of their own, so the axes have to be Auto, not make_mesh's default.
    return jax.make_mesh((len(devices) // fsdp, fsdp), ("data", "fsdp"), (AxisType.Auto,) * 2, devices=devices)


def host_mesh() -> Mesh | None:
    """One CPU as a mesh, for what stays in the host's memory; None where JAX may not use CPUs (JAX_PLATFORMS)."""
    try:
        return make_mesh(devices=jax.local_devices(backend="cpu")[:1])
    except RuntimeError:
        return None


def check_batch_size(batch_size: int, mesh: Mesh, accumulate: int = 1) -> None:
    """Raises `UserError` unless every device gets the same number of examples in every micro-batch."""
    shares = mesh.size * accumulate
    if batch_size % shares:
        cut = f" times train.accumulate {accumulate}" if accumulate > 1 else ""
        raise UserError(
            f"data.batch_size {batch_size} is not divisible by the {mesh.size} devices{cut}: "
            f"use {max(batch_size // shares, 1) * shares}, or fewer devices"
        )


def leaf_spec(path: str, shape: tuple[int, ...], mesh: Mesh, rules: Rules = RULES, min_size: int = MIN_SIZE) -> P:
    """The partition of one leaf: by the first rule that fits its path, else on its largest axis that divides."""
    fsdp = mesh.shape["fsdp"]
    if fsdp == 1 or int(np.prod(shape)) < min_size:
        return P()
    for pattern, spec in rules:
        if re.search(pattern, path):
            if not spec:
                return spec
            spec = P(*(None,) * (len(shape) - len(spec)), *spec)
            if all(name is None or size % mesh.shape[name] == 0 for name, size in zip(spec, shape, strict=True)):
                return spec
            break
    divisible = [axis for axis, size in enumerate(shape) if size % fsdp == 0]
    if not divisible:
        return P()
    largest = max(divisible, key=lambda axis: shape[axis])
    return P(*(("fsdp" if axis == largest else None) for axis in range(len(shape))))


def state_sharding(abstract: Any, mesh: Mesh, rules: Rules = RULES, min_size: int = MIN_SIZE) -> Any:
    """A tree of `NamedSharding` for a tree of shapes; moments of the optimizer lie as the parameters they belong to."""

    def place(path: Any, leaf: jax.ShapeDtypeStruct) -> NamedSharding:
        name = jax.tree_util.keystr(path, simple=True, separator="/")
        return NamedSharding(mesh, leaf_spec(name, leaf.shape, mesh, rules, min_size))

    return jax.tree_util.tree_map_with_path(place, abstract)


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """The first axis of a batch over all devices."""
    return NamedSharding(mesh, P(("data", "fsdp")))


def global_batch(local: Any, mesh: Mesh) -> Any:
    """One global array per leaf, from the examples that each process has read (process order is batch order)."""
    sharding = batch_sharding(mesh)
    return jax.tree.map(lambda leaf: jax.make_array_from_process_local_data(sharding, np.asarray(leaf)), local)
