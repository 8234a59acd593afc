"""Devices that are not here, by name: slices of TPUs (chips.py) and hosts of NVIDIA GPUs (gpus.py)."""

from difflib import get_close_matches
from typing import TYPE_CHECKING

from reimagen_jax.errors import UserError
from reimagen_jax.preflight import chips, gpus

if TYPE_CHECKING:
    from jax.sharding import Mesh

Topology = chips.Slice | gpus.Hosts


def parse_topology(name: str) -> Topology:
    """`v4:4x4x4` (a slice of TPUs), `h100:8` or `h100:2x8` (cards, or hosts of cards).

    Raises `UserError` for what is neither, with the names that are meant, or all.
    """
    kind = name.partition(":")[0]
    if kind in chips.CHIPS:
        return chips.parse_slice(name)
    if kind in gpus.CARDS:
        return gpus.parse_hosts(name)
    known = (*chips.CHIPS, *gpus.CARDS)
    meant = [one for one in known if one.startswith(kind.lower())] if kind else []
    meant = meant or get_close_matches(kind.lower(), known, n=3)
    told = f"did you mean {' or '.join(meant)}?" if meant else f"there are TPUs: {', '.join(chips.CHIPS)}"
    if not meant:
        told += f"; and GPUs: {', '.join(gpus.CARDS)}"
    raise UserError(f"topology {name!r}: there is no chip {kind!r} here; {told}")


def prepare_environment(where: Topology) -> None:
    """Sets what the compiler reads when it starts. Raises `UserError` if it is not installed."""
    _module(where).prepare_environment(where)


def mesh(where: Topology, fsdp: int) -> "Mesh":
    """The devices as ("data", "fsdp"). Raises `UserError` if there are none such, or not for this `fsdp`."""
    return _module(where).mesh(where, fsdp)


def _module(where: Topology):
    return chips if isinstance(where, chips.Slice) else gpus
