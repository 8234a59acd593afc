"""NVIDIA GPUs and hosts of them: what a card has (gpus.toml), and the devices of hosts named like `h100:8`, `h100:2x8`.

XLA's compiler for GPUs needs none: told what a card is (its target configuration), it describes the devices of any
number of hosts, a mesh is made of them, and programs compile for it on any machine. cuDNN and cuBLAS are asked, but
only what they would do; which of their algorithms is fastest is not tried out, which takes a card.
"""

import importlib.util
import os
import re
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources
from typing import TYPE_CHECKING, Any, ClassVar

from reimagen_jax.errors import UserError

if TYPE_CHECKING:
    from jax.sharding import Mesh

PLUGINS = ("jax_plugins.xla_cuda13", "jax_plugins.xla_cuda12")
"""Modules of JAX's compiler for NVIDIA GPUs."""
INSTALL = "python -m venv cuda && cuda/bin/pip install '.[cuda]'"
"""An environment of its own, 4.4 GB, in which this runs by `cuda/bin/python`."""
XLA_FLAGS = "--xla_gpu_autotune_level=0 --xla_gpu_enable_triton_gemm=false --xla_backend_optimization_level=0"
"""Autotuning wants a card, and Triton's products fail without it; cuBLAS has them then. Machine code that never runs
need not be fast: optimizing it, a quarter of the time, changes neither the program's operations nor its memory."""
USABLE = 0.95
"""Of the memory: CUDA, cuDNN, cuBLAS and NCCL keep the rest, about 1 GiB."""
PREALLOCATED = 0.75
"""Of the memory, what JAX takes for programs when nothing else is said."""


@dataclass(frozen=True)
class Card:
    """One GPU. Units are bytes, bytes/s and FLOP/s; gpus.toml says what is what, and where it is from."""

    name: str
    product: str
    capability: str
    sms: int
    clock_ghz: float
    l2: int
    hbm: int
    """Bytes of memory, be it HBM or not."""
    hbm_bandwidth: float
    flops: float
    """Peak of bfloat16 matrix products, accumulated in float32."""
    tf32_flops: float
    f32_flops: float
    link: str
    link_bandwidth: float
    hosts: str
    hosts_bandwidth: float
    sources: tuple[str, ...]
    threads: int
    cores: int
    shared: int
    """Bytes of shared memory of a multiprocessor."""

    @property
    def reserved(self) -> int:
        """Of the memory, what programs do not get."""
        return self.hbm - int(self.hbm * USABLE)

    def peak(self, kind: str) -> float:
        """Of products of this type, as `hlo.flops_by_type` calls it: float32 at default precision runs as TF32."""
        return {"f32": self.tf32_flops, "f32 highest": self.f32_flops, "f64": self.f32_flops}.get(kind, self.flops)

    @property
    def target_config(self) -> str:
        """XLA's `GpuTargetConfigProto`, as text."""
        major, minor = self.capability.split(".")
        return f"""
gpu_device_info {{
  threads_per_block_limit: 1024 threads_per_warp: 32 threads_per_core_limit: {self.threads}
  shared_memory_per_block: {48 * 1024} shared_memory_per_core: {self.shared}
  shared_memory_per_block_optin: {self.shared - 1024}
  core_count: {self.sms} fpus_per_core: {self.cores} clock_rate_ghz: {self.clock_ghz}
  block_dim_limit_x: 2147483647 block_dim_limit_y: 65535 block_dim_limit_z: 65535
  memory_bandwidth: {int(self.hbm_bandwidth)} l2_cache_size: {self.l2} device_memory_size: {self.hbm}
  cuda_compute_capability {{ major: {major} minor: {minor} }}
  registers_per_core_limit: 65536 registers_per_block_limit: 65536
}}
platform_name: "CUDA" dnn_version_info {{ major: 9 minor: 12 }} runtime_version {{ major: 13 }}
device_description_str: "{self.product}"
"""


def _card(name: str, told: dict[str, Any], capability: dict[str, int]) -> Card:
    GB, T, KIB, MIB = 1e9, 1e12, 2**10, 2**20
    return Card(
        name=name,
        product=told["product"],
        capability=told["capability"],
        sms=told["sms"],
        clock_ghz=told["clock_ghz"],
        l2=told["l2_mib"] * MIB,
        hbm=told["memory"],
        hbm_bandwidth=told["memory_gbs"] * GB,
        flops=told["bf16"] * T,
        tf32_flops=told["tf32"] * T,
        f32_flops=told["f32"] * T,
        link=told["link"],
        link_bandwidth=told["link_gbs"] * GB,
        hosts=told["hosts"],
        hosts_bandwidth=told["hosts_gbs"] * GB,
        sources=tuple(told["sources"]),
        threads=capability["threads"],
        cores=capability["cores"],
        shared=capability["shared_kib"] * KIB,
    )


def _cards() -> dict[str, Card]:
    told = tomllib.loads((resources.files(__package__) / "gpus.toml").read_text())
    return {name: _card(name, card, told["capability"][card["capability"]]) for name, card in told["card"].items()}


CARDS = _cards()


@dataclass(frozen=True)
class Hosts:
    """Cards in one host, or in several that are alike."""

    chip: Card
    hosts: int
    cards: int
    """In each host."""

    platform: ClassVar[str] = "cuda"
    word: ClassVar[str] = "GPU"

    @property
    def size(self) -> int:
        """Cards in all."""
        return self.hosts * self.cards

    @property
    def name(self) -> str:
        """As `parse_hosts` takes it: `h100:8`, `h100:2x8`."""
        return f"{self.chip.name}:{f'{self.hosts}x' if self.hosts > 1 else ''}{self.cards}"

    def alike(self, other: object) -> bool:
        """Whether the other has as many cards, placed alike, that run the same machine code: a program compiled for
        the one is that of the other, but for what the compiler guesses from a card's size (their memory differs by
        0.3 % and their traffic by 1 % in what was compiled for both, see experiments/DEVICES.md)."""
        return isinstance(other, Hosts) and (self.hosts, self.cards, self.chip.capability) == (
            other.hosts,
            other.cards,
            other.chip.capability,
        )

    @property
    def axis_sizes(self) -> tuple[int, ...]:
        """What an axis of a mesh can be long: any divisor."""
        return tuple(n for n in range(1, self.size + 1) if self.size % n == 0)

    def place(self, device: Any) -> tuple[int, int]:
        """(host, place in it); devices are numbered host by host."""
        return divmod(device.id, self.cards)

    def way(self, places: Sequence[Sequence[int]]) -> str:
        """What a group talks by: `by NVLink`, `by PCIe`, `between hosts`."""
        return "between hosts" if len(_hosts(places)) > 1 else f"by {self.chip.link.split()[0]}"

    def bandwidth(self, places: Sequence[Sequence[int]]) -> float:
        """What a card can send a second, at best, to the others of its group, whose places are given.

        Within a host, its link. Rings through several hosts leave each by the network of all the group's cards there:
        they are as fast as that together, or as the link, whichever is slower.
        """
        hosts = _hosts(places)
        if len(hosts) == 1:
            return self.chip.link_bandwidth
        return min(self.chip.link_bandwidth, self.chip.hosts_bandwidth * len(places) / len(hosts))


def _hosts(places: Sequence[Sequence[int]]) -> set[int]:
    return {place[0] for place in places}


def parse_hosts(name: str) -> Hosts:
    """`h100:8`, `h100:2x8` (two hosts of eight). Raises `UserError` for a card that is not known, or for no number."""
    found = re.fullmatch(r"([\w\-]+):(?:(\d+)x)?(\d+)", name)
    if not found or not int(found[2] or 1) or not int(found[3]):
        raise UserError(
            f"topology {name!r} is not of the form CARD:CARDS or CARD:HOSTSxCARDS, such as h100:8 or h100:2x8"
        )
    if found[1] not in CARDS:
        raise UserError(f"topology {name!r}: there is no card {found[1]!r} here, only {', '.join(CARDS)}")
    return Hosts(CARDS[found[1]], int(found[2] or 1), int(found[3]))


def prepare_environment(where: Hosts) -> None:
    """Sets what JAX and XLA read when they start: no GPU has to be here.

    Call it before `jax` is used. Raises `UserError` if the compiler is not installed.
    """
    del where  # what is compiled for is told with each program
    if not any(_installed(plugin) for plugin in PLUGINS):
        raise UserError(
            "the compiler for NVIDIA GPUs is not installed; it wants an environment of its own (4.4 GB): "
            f"{INSTALL}, then this command with cuda/bin/python"
        )
    os.environ["JAX_PLATFORMS"] = ""  # "cpu" would leave the compiler out
    os.environ["JAX_SKIP_CUDA_CONSTRAINTS_CHECK"] = "1"  # which loads cuPTI, and that a driver
    os.environ["XLA_PYTHON_CLIENT_PREALLOCATE"] = "false"  # should there be a GPU, it is not for this
    os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {XLA_FLAGS}".strip()
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")


def _installed(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:  # not even its parent
        return False


def mesh(where: Hosts, fsdp: int) -> "Mesh":
    """The cards as ("data", "fsdp"), those of a host side by side. Raises `UserError` unless `fsdp` divides them."""
    from reimagen_jax.sharding import make_mesh

    return make_mesh(fsdp, devices(where))


def devices(where: Hosts) -> list:
    """The cards as devices for a mesh; nothing can run on them. Call `prepare_environment` first."""
    import jax
    from jax.experimental import topologies

    if jax.config.jax_platforms:  # as it was when JAX was imported
        jax.config.update("jax_platforms", None)
    # NVLink does not leave a host: each is a partition of its own.
    described = topologies.get_topology_desc(
        platform="cuda",
        topology_name="",
        target_config=where.chip.target_config,
        topology=f"{where.hosts}x1x{where.cards}",
    )
    return list(described.devices)
