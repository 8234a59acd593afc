"""What a compiled program needs of a chip, how fast it can be at best, and what to change where it does not fit.

  compute  = FLOPs / peak,   memory = traffic / HBM bandwidth,   network = sum over collectives of sent / links'     (1)
             (summed over the types that are multiplied, each at its own peak)
  bound    = max(compute, memory, network):  no step is faster, if all three overlap perfectly                       (2)
  MFU      <= model FLOPs / (chips x peak x bound)                                                                   (3)

FLOPs, traffic and sent are those of one chip, counted in the compiled program (hlo.py); model FLOPs do not know of
rematerialisation (flops.py). See Williams et al. 2009 (roofline).
"""

import re
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from math import prod
from typing import Any

import jax
from jax.sharding import Mesh

from reimagen_jax.config import Experiment
from reimagen_jax.errors import UserError
from reimagen_jax.preflight import attentions, hlo
from reimagen_jax.preflight.attentions import Attention
from reimagen_jax.preflight.chips import GIB
from reimagen_jax.preflight.gpus import PREALLOCATED, USABLE
from reimagen_jax.preflight.programs import Program, bytes_per_device
from reimagen_jax.preflight.topology import Topology

SMALL = 4096
"""Arrays of fewer elements between devices are not worth a word: losses, norms, statistics."""


@dataclass(frozen=True)
class Memory:
    """Bytes on one chip."""

    held: dict[str, int]
    """Parameters, optimizer, batch, ..., as shapes say, without padding."""
    arguments: int | None
    """All of that as it lies in memory; None where the compiler gave up."""
    temporaries: int | None
    """Activations, gradients, gathered parameters."""
    peak: int
    """All of it, with the program's own code and results that do not replace arguments."""
    available: int
    """Of the chip's memory, for programs."""

    @property
    def fits(self) -> bool:
        return self.peak <= self.available


@dataclass(frozen=True)
class Traffic:
    """Collectives of one kind for one purpose."""

    kind: str
    purpose: str
    """parameters, gradients, activations, or small (see `SMALL`)."""
    way: str
    """What it travels by, of GPUs: `by NVLink`, `between hosts`."""
    count: int
    """Operations a step, those in loops as often as they run."""
    sent: float
    """Bytes a chip sends."""
    seconds: float


@dataclass(frozen=True)
class Roofline:
    """Equations (1) to (3), in seconds."""

    compute: float
    memory: float
    network: float
    mfu: float
    """At most this share of the peak."""

    @property
    def bound(self) -> float:
        return max(self.compute, self.memory, self.network)  # (2)

    @property
    def limit(self) -> str:
        """Which of the three it is."""
        return max(("compute", "memory", "network"), key=lambda name: getattr(self, name))


@dataclass(frozen=True)
class Report:
    """Of one program on one slice of TPUs, or on hosts of GPUs. A "chip" here is a card, too."""

    experiment: str
    topology: str
    chips: int
    program: str
    settings: dict[str, Any]
    memory: Memory
    lower_seconds: float
    compile_seconds: float
    model_flops: float
    """Of all chips, a step."""
    flops: float | None = None
    """That one chip executes; None, with the rest, where the compiler gave up for want of memory."""
    hbm_traffic: float | None = None
    collectives: tuple[Traffic, ...] = ()
    activations: tuple[str, ...] = ()
    """Collectives that move activations: data parallelism needs none."""
    attentions: tuple[Attention, ...] = ()
    """What each became, on GPUs."""
    calls: Mapping[str, int] = field(default_factory=dict)
    """Of NVIDIA's libraries, a step."""
    roofline: Roofline | None = None
    notes: tuple[str, ...] = ()
    advice: tuple[str, ...] = ()
    word: str = "chip"
    """What a device is called."""

    @property
    def sound(self) -> bool:
        """Whether nothing but parameters, gradients and small numbers travels."""
        return not self.activations


@dataclass(frozen=True)
class Compiled:
    """What the compiler made of a program, or said as it gave up for want of memory."""

    lower_seconds: float
    compile_seconds: float
    text: str = ""
    """The optimized program."""
    stats: Any = None
    """Bytes by what they are for, as JAX counts them."""
    refused: str = ""


def examine(program: Program, config: Experiment, where: Topology, mesh: Mesh) -> Report:
    """Compiles the program for the mesh and reads what came of it. Raises as `compiled` does."""
    return counted(compiled(program, config, where), program, config, where, mesh)


def compiled(program: Program, config: Experiment, where: Topology) -> Compiled:
    """The program as it would run there. Raises `UserError` for what cannot run there as it is set, and what the
    compiler raises, but for a lack of memory."""
    started = time.perf_counter()
    try:
        lowered = program.jitted.lower(*program.arguments)
    except NotImplementedError as refused:  # as `jax.nn.dot_product_attention` does
        raise UserError(
            f"{program.name} of {config.name} cannot run on {where.name} as it is set: {refused}"
        ) from refused
    lowered_at = time.perf_counter()
    try:
        done = lowered.compile()
    except jax.errors.JaxRuntimeError as refused:
        if "RESOURCE_EXHAUSTED" not in str(refused):
            raise
        return Compiled(lowered_at - started, time.perf_counter() - lowered_at, refused=str(refused))
    seconds = time.perf_counter() - lowered_at
    return Compiled(lowered_at - started, seconds, done.as_text(), done.memory_analysis())


def counted(made: Compiled, program: Program, config: Experiment, where: Topology, mesh: Mesh) -> Report:
    """What it needs of these devices: those that it was compiled for, or others that would run the same machine code.

    What was refused for want of memory says nothing of others.
    """
    held = {name: bytes_per_device(tree) for name, tree in program.held.items()}
    if made.refused:
        peak, available = refused_sizes(made.refused)
        memory = Memory(held, None, None, peak, available)
        found = {"notes": (made.refused.splitlines()[0],)}
    else:
        stats = made.stats
        peak = stats.argument_size_in_bytes + stats.output_size_in_bytes - stats.alias_size_in_bytes
        peak += stats.temp_size_in_bytes + stats.generated_code_size_in_bytes
        memory = Memory(
            held, stats.argument_size_in_bytes, stats.temp_size_in_bytes, peak, where.chip.hbm - where.chip.reserved
        )
        found = read_program(made.text, program, where, mesh)
        found["notes"] += _of_memory(memory, where)
    return Report(
        experiment=config.name,
        topology=where.name,
        chips=where.size,
        program=program.name,
        settings=_settings(program, config, mesh),
        memory=memory,
        model_flops=program.model_flops,
        advice=() if memory.fits else advice(program, config, where, memory),
        word=where.word,
        lower_seconds=made.lower_seconds,
        compile_seconds=made.compile_seconds,
        **found,
    )


def read_program(text: str, program: Program, where: Topology, mesh: Mesh) -> dict[str, Any]:
    """What the text of the optimized program says: fields of `Report`, from FLOPs to notes."""
    module = hlo.parse(text)
    found = hlo.collectives(module, mesh.size)
    known = tuple({_unordered(shape) for shape in program.state})
    traffic = _by_purpose(found, known, where, [where.place(device) for device in mesh.devices.flat])
    by_type, moved = hlo.flops_by_type(module), hlo.hbm_traffic(module)
    # As if all of it ran at the peak of bfloat16: what is multiplied more slowly counts as often more.
    at_peak = sum(flops * where.chip.flops / where.chip.peak(kind) for kind, flops in by_type.items())
    became = attentions.attentions(module) if where.platform == "cuda" else ()
    notes = _of_attentions(became)
    if module.unknown_loops:
        notes += (f"{module.unknown_loops} loops of unknown length are counted as if they ran once",)
    return {
        "flops": float(by_type.total()),
        "hbm_traffic": moved,
        "collectives": traffic,
        "activations": tuple(
            f"{c.kind} of {array.dtype}{list(sides)} x {c.runs}, {_short(c.source)}"
            for c in found
            for array, sides in zip(c.arrays, c.whole, strict=True)
            if purpose(c.kind, sides, known, c.source) == "activations"
        ),
        "attentions": became,
        "calls": attentions.library_calls(module),
        "roofline": roofline(where, at_peak, moved, sum(row.seconds for row in traffic), program.model_flops),
        "notes": notes,
    }


def _of_memory(memory: Memory, where: Topology) -> tuple[str, ...]:
    """What JAX has to be told, lest it take less of a GPU's memory than the program needs."""
    if where.platform != "cuda" or not PREALLOCATED * where.chip.hbm < memory.peak <= memory.available:
        return ()
    return (f"JAX takes {PREALLOCATED:.0%} of the memory by itself: set XLA_PYTHON_CLIENT_MEM_FRACTION={USABLE}",)


def _of_attentions(found: Sequence[Attention]) -> tuple[str, ...]:
    slow = [one for one in found if not one.fused]
    if not slow:
        return ()
    places, all_places = (sum(len(one.places) for one in some) for some in (slow, found))
    largest = max(slow, key=lambda one: one.score_bytes)
    return (
        f"{places} of {all_places} attentions are not cuDNN's but XLA's, with their scores in memory: "
        f"up to {largest.score_bytes / GIB:.2f} GiB each ({largest.queries} queries, {largest.keys} keys)",
    )


def roofline(where: Topology, flops: float, hbm_traffic: float, network_seconds: float, model_flops: float) -> Roofline:
    """(1) to (3) from what one chip does, at the peak of bfloat16, and the model's FLOPs over all chips."""
    chip = where.chip
    compute, memory = flops / chip.flops, hbm_traffic / chip.hbm_bandwidth  # (1)
    bound = max(compute, memory, network_seconds)  # (2)
    mfu = model_flops / (where.size * chip.flops * bound) if bound else 0.0  # (3)
    return Roofline(compute, memory, network_seconds, mfu)


def purpose(kind: str, sides: Sequence[int], state: Sequence[Sequence[int]], source: str = "") -> str:
    """What an array between devices is: parameters, gradients, small, or activations, which is all that is left.

    Told by its sides: those of a leaf of the state, or of a device's share of it, in any order; the same with one side
    padded; a strip of it, passed on to the next device when shares are padded. Outside of the loss and its gradient
    (`source` says so), where only the optimizer is, the number of elements is enough. Compilers for GPUs join small
    gradients of many layers in one flat array (`source` has them all, parted by colons).
    """
    if prod(sides) < SMALL:
        return "small"
    ours, leaves = _unordered(sides), [_unordered(shape) for shape in state]
    alike = ours in leaves or any(_padded_or_strip(kind, ours, leaf) for leaf in leaves)
    alike |= bool(source) and "jvp(" not in source and prod(ours) in map(prod, leaves)
    alike |= len(ours) == 1 and ":" in source
    if alike:
        return "gradients" if kind in ("all-reduce", "reduce-scatter") else "parameters"
    return "activations"


def _short(source: str) -> str:
    return source if len(source) <= 200 else f"{source[:200]} ..."


def _unordered(sides: Sequence[int]) -> tuple[int, ...]:
    """Transposing an array, or adding axes of length 1, does not make it another."""
    return tuple(sorted(side for side in sides if side > 1))


def _padded_or_strip(kind: str, ours: tuple[int, ...], leaf: tuple[int, ...]) -> bool:
    """Whether one side alone differs: longer by at most an eighth, or, passed on to a neighbour, less than a tile."""
    (our_rest, leaf_rest) = Counter(ours) - Counter(leaf), Counter(leaf) - Counter(ours)
    if our_rest.total() != 1 or leaf_rest.total() != 1:
        return False
    (x,), (y,) = our_rest, leaf_rest
    return x < min(y, 128) if kind == "collective-permute" else y < x <= y * 9 / 8


def _by_purpose(
    found: Sequence[hlo.Collective], state: Sequence[Sequence[int]], where: Topology, places: Sequence[Sequence[int]]
) -> tuple[Traffic, ...]:
    rows: dict[tuple[str, str, str], list[float]] = {}
    for c in found:
        group = [places[i] for i in c.group]
        bandwidth, way = where.bandwidth(group), where.way(group)
        total = sum(array.bytes for array in c.arrays) or 1
        purposes = [purpose(c.kind, sides, state, c.source) for sides in c.whole]
        for i, (array, what) in enumerate(zip(c.arrays, purposes, strict=True)):
            row = rows.setdefault((c.kind, what, way), [0, 0.0, 0.0])
            # A bundle of arrays is one operation, of each purpose in it.
            row[0] += c.runs if what not in purposes[:i] else 0
            sent = c.sent * array.bytes / total
            row[1] += sent
            row[2] += sent / bandwidth
    return tuple(Traffic(*name, int(count), *rest) for name, (count, *rest) in sorted(rows.items()))


def refused_sizes(message: str) -> tuple[int, int]:
    """(needed, available) in bytes, from the compiler's message. Raises `ValueError` if it names none."""
    size = r"\(?([\d.]+)([KMGT])\)?"
    forms = (rf"required for .*? {size} exceeds available HBM {size}", rf"Used {size} of {size} hbm")
    for form in forms:
        if found := re.search(form, message):
            unit = dict(zip("KMGT", (2**10, 2**20, 2**30, 2**40), strict=True))
            return int(float(found[1]) * unit[found[2]]), int(float(found[3]) * unit[found[4]])
    raise ValueError(f"no sizes in the compiler's message: {message[:500]}")


IN_ORDER = "--xla_gpu_enable_latency_hiding_scheduler=false"
"""On several cards XLA's scheduler takes what memory there is to hide the network: what is rematerialised is computed
early, that of many blocks at once. Measured: 13.2 GiB of temporaries with it, 5.5 without, of four blocks of DALL-E 2's
prior, 128 images a card."""


def advice(program: Program, config: Experiment, where: Topology, memory: Memory) -> tuple[str, ...]:
    """What to change so that it fits, the cheapest first."""
    lacking = memory.peak - memory.available
    state = sum(size for name, size in memory.held.items() if name != "batch")
    if program.name == "sampler":
        fewer = program.images // 2 // where.size * where.size
        return (f"--sample-images {fewer}" if fewer else f"a {where.word} with {lacking / GIB:.1f} GiB more memory",)
    train, lines = config.train, []
    lines += config.system.savings()
    if where.platform == "cuda" and where.size > 1:
        lines.append(f"XLA_FLAGS={IN_ORDER}: not begun early, to hide the network behind it, is what takes memory")
    spared, larger = state - state * train.fsdp // where.size, [n for n in where.axis_sizes if n > train.fsdp]
    if larger and (spared > lacking / 2 or state > memory.available / 2):
        choices = ", or ".join(map(str, larger))
        lines.append(f"--train.fsdp {choices}: the state takes {state / GIB:.1f} GiB a {where.word}")
    share = config.data.batch_size // (where.size * train.accumulate)
    if share > 1:
        lines.append(f"--train.accumulate {2 * train.accumulate}: a micro-batch has {share} images a {where.word} now")
    if train.optimizer == "adamw":
        lines.append("--train.optimizer adafactor: no moments of the parameters' size")
    if share == 1 and config.data.batch_size > where.size:
        lines.append(f"--data.batch-size {config.data.batch_size // 2}")
    return tuple(lines) or (f"a {where.word} with {lacking / GIB:.1f} GiB more memory, or more {where.word}s",)


def _settings(program: Program, config: Experiment, mesh: Mesh) -> dict[str, Any]:
    common = {"images": program.images}
    if program.name == "sampler":
        return common | config.system.facts(config.data)
    return common | {
        "data": mesh.shape["data"],
        "fsdp": mesh.shape["fsdp"],
        "accumulate": config.train.accumulate,
        "optimizer": config.train.optimizer,
        **config.system.facts(config.data),
    }


def to_dict(report: Report) -> dict[str, Any]:
    """All of it for JSON, with what follows from it."""
    whole = asdict(report) | {"fits": report.memory.fits, "sound": report.sound}
    if report.roofline is not None:
        whole["roofline"] |= {"bound": report.roofline.bound, "limit": report.roofline.limit}
    return whole


def table(report: Report) -> str:
    """The report to read."""
    memory, roof, word = report.memory, report.roofline, report.word
    settings = ", ".join(f"{name} {value}" for name, value in report.settings.items())
    lines = [f"{report.experiment}, {report.program}, on {report.topology} ({report.chips} {word}s): {settings}", ""]
    rows = [(name, _gib(size)) for name, size in memory.held.items()]
    if memory.temporaries is not None:
        rows.append(("activations and other temporaries", _gib(memory.temporaries)))
    share = f"{memory.peak / memory.available:.0%} of {memory.available / GIB:.2f}"
    rows.append(("needed in all", f"{_gib(memory.peak)}   {share}: {'fits' if memory.fits else 'DOES NOT FIT'}"))
    lines += _rows(f"memory a {word}, GiB", rows)
    if roof is not None:
        rows = [(f"{row.kind} of {row.purpose} {row.way}".strip(), _collective(row)) for row in report.collectives]
        rows = rows or [("none", "")]
        lines += _rows(f"sent by a {word}, GiB", rows)
        images = report.settings["images"]
        rows = [
            ("model FLOPs an image", f"{report.model_flops / images / 1e12:9.3f} TFLOP"),
            (f"FLOPs a {word} executes", f"{report.flops / 1e12:9.3f} TFLOP"),
            (f"memory traffic of a {word}", f"{_gib(report.hbm_traffic)} GiB"),
            ("time of compute", f"{1e3 * roof.compute:9.2f} ms"),
            ("time of memory", f"{1e3 * roof.memory:9.2f} ms"),
            ("time of the network", f"{1e3 * roof.network:9.2f} ms"),
            ("fastest possible", f"{1e3 * roof.bound:9.2f} ms ({roof.limit}), {images / roof.bound:,.0f} images/s"),
            ("MFU at most", f"{roof.mfu:9.1%}"),
        ]
        lines += _rows("roofline", rows)
        if report.attentions:
            lines += _rows("attention", [(_size(one), _became(one)) for one in report.attentions])
        if report.calls:
            lines += _rows("calls of libraries, a step", [(name, f"{n:6d}") for name, n in report.calls.items()])
        travels = f"ACTIVATIONS TRAVEL BETWEEN {word.upper()}S:"
        verdict = f"no activation travels between {word}s" if report.sound else travels
        lines += [verdict, *(f"  {line}" for line in report.activations[:20])]
    lines += [f"lowered in {report.lower_seconds:.0f} s, compiled in {report.compile_seconds:.0f} s", *report.notes]
    if report.advice:
        lines += ["to make it fit, one or more of:", *(f"  {line}" for line in report.advice)]
    return "\n".join(lines)


def _gib(size: float) -> str:
    return f"{size / GIB:9.3f}"


def _size(one: Attention) -> str:
    return f"{one.queries} queries, {one.keys} keys, at {len(one.places)} place{'s' if len(one.places) > 1 else ''}"


def _became(one: Attention) -> str:
    calls = ", ".join(f"{name} x {n}" for name, n in one.calls.items())
    return f"cuDNN's: {calls}" if one.fused else f"XLA's: {calls}; scores of {one.score_bytes / GIB:.3f} GiB in memory"


def _collective(row: Traffic) -> str:
    return f"{_gib(row.sent)}   {row.count:6d} operations, {1e3 * row.seconds:8.2f} ms"


def _rows(title: str, rows: Sequence[tuple[str, str]]) -> list[str]:
    width = max(len(name) for name, _ in rows)
    return [title, *(f"  {name:<{width}}  {value}" for name, value in rows), ""]
