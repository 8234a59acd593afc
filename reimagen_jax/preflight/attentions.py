"""What each attention of a network became in a program for NVIDIA GPUs, read from its text: cuDNN's, or XLA's.

cuDNN's attention is one call (`__cudnn$fmha...`) that never writes its scores down. What it does not take (float32,
wide heads) falls back to two products, of cuBLAS, with queries x keys scores between them in memory.
"""

import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import groupby

from reimagen_jax.preflight import hlo

PRODUCTS = ("BTNH,BSNH->BNTS", "BNTS,BSNH->BTNH", "nqd,nmd->nqm", "nqm,nmd->nqd")
"""Of queries and keys, and of weights and values, as `jax.nn.dot_product_attention` and `nets.attention.attend` name
them."""
STRUCTURE = re.compile(r"jit\(|vmap\(|.*->|(checkpoint|rematted_computation|remat2?|while|body|cond|closed_call)$")
"""Parts of a name that tell of a program's structure, not of a place in the network."""


@dataclass(frozen=True)
class Attention:
    """Attentions of one size that became the same."""

    queries: int
    keys: int
    """With those that only pad."""
    fused: bool
    """By cuDNN; else their scores lie in memory."""
    calls: Mapping[str, int]
    """What is called how often a step, forward and backward."""
    places: tuple[str, ...]
    """In the network."""
    score_bytes: float
    """That the scores of one of them, the largest, take in float32; 0 for cuDNN's."""


def attentions(module: hlo.Module) -> tuple[Attention, ...]:
    """All that the program has, the largest first."""
    sizes: dict[str, tuple[int, int, bool, float]] = {}
    softmaxes: dict[str, tuple[int, int, bool, float]] = {}
    calls: dict[str, Counter[str]] = {}
    for _, _, x, times in module.instructions(fused=True):
        where = place(x.source)
        if x.target.startswith(hlo.FUSED_ATTENTION):
            sizes[where] = (*hlo.scores(x)[-2:], True, 0.0)
            calls.setdefault(where, Counter())[x.target] += times
        elif (x.opcode == "dot" or x.target) and any(product in x.source for product in PRODUCTS):
            calls.setdefault(where, Counter())[x.target or "dot"] += times
        elif x.opcode == "exponential" and "jit(silu)" not in x.source and len(x.shapes[0].dims) > 2:
            softmaxes[where] = (*x.shapes[0].dims[-2:], False, x.shapes[0].bytes)
    sizes |= {where: softmaxes[where] for where in calls if where not in sizes and where in softmaxes}
    alike: dict[tuple[int, int, bool], list[str]] = {}
    for where, size in sizes.items():
        alike.setdefault(size[:3], []).append(where)
    return tuple(
        Attention(
            *size,
            calls=dict(sum((calls[one] for one in places), Counter())),
            places=tuple(places),
            score_bytes=max(sizes[one][3] for one in places),
        )
        for size, places in sorted(alike.items(), reverse=True)
    )


def place(source: str) -> str:
    """`jit(step)/transpose(jvp(UNet))/ustack/level1_attention0/dot_general` is at `UNet/ustack/level1_attention0`."""
    *parts, _ = source.split("/") if "/" in source else (source, "")
    named = (re.sub(r"^(?:transpose\(|jvp\()*(.*?)\)*$", r"\1", part) for part in parts if not STRUCTURE.match(part))
    # What is computed again names its network twice.
    return "/".join(part for part, _ in groupby(part for part in named if part))


def library_calls(module: hlo.Module) -> dict[str, int]:
    """How often a step calls each function of cuBLAS and cuDNN."""
    found: Counter[str] = Counter()
    for _, _, x, times in module.instructions(fused=True):
        if x.target.startswith(("__cublas", "__cudnn")):
            found[x.target] += times
    return dict(sorted(found.items()))
