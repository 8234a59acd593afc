"""The TPU chips of Google Cloud and their slices: what a chip has, and the devices of a slice named like `v4:4x4x4`.

libtpu holds a compiler that needs no TPU: it describes the devices of a slice, a mesh is made of them, and programs
compile for it on any machine. Figures of the chips: docs.cloud.google.com/tpu/docs/{v4, v5e, v5p, v6e}; links of v4:
Jouppi et al. 2023 (TPU v4), section 2. Bandwidth is in decimal bytes a second, memory as the compiler counts it.
"""

import importlib.util
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from math import prod
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from reimagen_jax.errors import UserError

if TYPE_CHECKING:
    from jax.sharding import Mesh

GIB = 2**30


@dataclass(frozen=True)
class Chip:
    """One chip; where it has two cores (v4, v5p), both together, as JAX shows it on a pod."""

    name: str
    hbm: int
    """Bytes of memory."""
    flops: float
    """Peak of bfloat16 matrix products, FLOP/s."""
    hbm_bandwidth: float
    link_bandwidth: float
    """Of one link to a neighbour, in one direction."""
    dimensions: int
    """Of the torus: two links for each."""
    wraps_at: int
    """A side of a slice closes to a ring when it is a multiple of this many chips."""
    accelerator: str
    """Name of the accelerator type, before the number."""
    cores: int = 1
    """That the number in the accelerator type counts for a chip."""
    reserved: int = GIB // 4
    """Of the memory, for the system: the compiler refuses programs that need more than the rest."""

    def peak(self, kind: str) -> float:
        """Of products of this type: a TPU multiplies bfloat16, whatever the type at default precision."""
        del kind
        return self.flops


CHIPS = {
    chip.name: chip
    for chip in (
        # 275 TFLOP/s, 32 GiB at 1,200 GB/s, six links of 50 GB/s each way.
        Chip("v4", 32 * GIB, 275e12, 1200e9, 50e9, 3, 4, "v4", 2, reserved=GIB * 5 // 4),
        # 197 TFLOP/s, 16 GB at 819 GB/s, four ports, 400 GB/s in both directions together.
        Chip("v5e", 16 * GIB, 197e12, 819e9, 50e9, 2, 16, "v5litepod"),
        # 459 TFLOP/s, 95 GiB at 2,765 GB/s, 3D torus, 1,200 GB/s in both directions together.
        Chip("v5p", 95 * GIB, 459e12, 2765e9, 100e9, 3, 4, "v5p", 2),
        # 918 TFLOP/s, 32 GB at 1,638 GB/s, four ports, 800 GB/s in both directions together.
        Chip("v6e", 32 * GIB, 918e12, 1638e9, 100e9, 2, 16, "v6e", reserved=GIB * 3 // 4),
    )
}


@dataclass(frozen=True)
class Slice:
    """Chips in a box, each connected to its neighbours."""

    chip: Chip
    sides: tuple[int, ...]

    platform: ClassVar[str] = "tpu"
    word: ClassVar[str] = "chip"

    @property
    def size(self) -> int:
        """Chips."""
        return prod(self.sides)

    @property
    def name(self) -> str:
        """As `parse_slice` takes it: `v4:4x4x4`."""
        return f"{self.chip.name}:{'x'.join(map(str, self.sides))}"

    @property
    def accelerator_type(self) -> str:
        """As `gcloud` takes it: `v4-128` for 64 chips of two cores."""
        return f"{self.chip.accelerator}-{self.size * self.chip.cores}"

    @property
    def axis_sizes(self) -> tuple[int, ...]:
        """What an axis of a mesh can be long: JAX lays it along whole sides of the box."""
        subsets = (chosen for n in range(len(self.sides) + 1) for chosen in combinations(self.sides, n))
        return tuple(sorted({prod(chosen) for chosen in subsets}))

    def place(self, device: Any) -> Sequence[int]:
        """Its coordinates in the box; other devices than TPUs have none, and are taken to fill it in order."""
        return getattr(device, "coords", None) or np.unravel_index(device.id, self.sides)

    def way(self, coordinates: Sequence[Sequence[int]]) -> str:
        """What a group talks by: there is one kind of links."""
        del coordinates
        return ""

    def bandwidth(self, coordinates: Sequence[Sequence[int]]) -> float:
        """What a chip can send a second, at best, to the others of its group, whose places in the box are given.

        A group of which the members differ in a side's coordinate uses the links along that side: both when the group
        fills the side and the side closes to a ring, else one.
        """
        links = 0
        for i, side in enumerate(self.sides):
            places = {place[i] for place in coordinates}
            if len(places) > 1:
                closed = side % self.chip.wraps_at == 0 and len(places) == side
                links += 2 if closed else 1
        return max(links, 1) * self.chip.link_bandwidth


def parse_slice(name: str) -> Slice:
    """`v4:4x4x4`, `v5e:8x8`. Raises `UserError` for a chip that is not known or sides that it does not have."""
    found = re.fullmatch(r"(\w+):(\d+(?:x\d+)*)", name)
    if not found:
        raise UserError(f"topology {name!r} is not of the form CHIP:SIDES, such as v4:4x4x4 or v5e:8x8")
    chip, sides = found[1], tuple(map(int, found[2].split("x")))
    if chip not in CHIPS:
        raise UserError(f"topology {name!r}: there is no chip {chip!r} here, only {', '.join(CHIPS)}")
    if len(sides) != CHIPS[chip].dimensions or not all(sides):
        example = {2: "4x4", 3: "2x2x1"}[CHIPS[chip].dimensions]
        raise UserError(f"topology {name!r}: a slice of {chip} has {CHIPS[chip].dimensions} sides, such as {example}")
    return Slice(CHIPS[chip], sides)


def prepare_environment(where: Slice) -> None:
    """Sets what libtpu reads when it starts: no TPU is here, and which kind to compile for.

    Call it before `jax` is imported. Raises `UserError` if libtpu is not installed.
    """
    if importlib.util.find_spec("libtpu") is None:
        raise UserError('the TPU compiler (libtpu) is not installed: pip install "jax[tpu]"')
    os.environ["JAX_PLATFORMS"] = "cpu"
    os.environ["TPU_SKIP_MDS_QUERY"] = "1"
    os.environ["ALLOW_MULTIPLE_LIBTPU_LOAD"] = "1"  # the lock is for TPUs, and there is none to be fought over
    os.environ["TPU_ACCELERATOR_TYPE"] = where.accelerator_type
    os.environ.setdefault("TPU_WORKER_HOSTNAMES", "localhost")
    os.environ.setdefault("TPU_STDERR_LOG_LEVEL", "3")
    os.environ.setdefault("TPU_MIN_LOG_LEVEL", "3")


def mesh(where: Slice, fsdp: int) -> "Mesh":
    """The slice's chips as ("data", "fsdp"). Raises `UserError` if there is no such slice, or not for this `fsdp`."""
    from reimagen_jax.sharding import make_mesh

    try:
        return make_mesh(fsdp, devices(where))
    except NotImplementedError:
        sizes = ", ".join(map(str, where.axis_sizes))
        raise UserError(f"train.fsdp {fsdp} is no product of sides of {where.name}: choose one of {sizes}") from None


def devices(where: Slice) -> list:
    """The slice's devices, one a chip, for a mesh; nothing can run on them. Call `prepare_environment` first.

    Raises `UserError` if there is no such slice.
    """
    import jax
    from jax.experimental import topologies

    settings = {}
    if where.chip.name == "v4":
        settings["chip_config_name"] = "megacore"  # both cores as one device, as on a pod
    if where.size < 4:
        settings["chips_per_host_bounds"] = (*where.sides, 1)[:3]  # by default, a host has 2 x 2 chips
    try:
        found = topologies.get_topology_desc(platform="tpu", topology_name=where.name, **settings).devices
    except jax.errors.JaxRuntimeError as error:
        reason = str(error).strip().splitlines()[0]
        raise UserError(f"topology {where.name}: the compiler knows no such slice ({reason})") from error
    if len(found) != where.size:
        raise UserError(f"topology {where.name}: {len(found)} devices for {where.size} chips")
    return list(found)
