"""What a compiled program does, read from the text of its optimized HLO: matrix products, memory traffic, collectives.

XLA's own cost analysis counts the body of a loop once, and is silent about collectives. Here every computation counts
as often as it runs:
  runs(entry) = 1,   runs(body) = sum over the loops with this body of runs(where the loop stands) x trip count   (1)

  FLOPs(convolution) = 2 x batch x features out x features in of a group x pairs of each spatial axis               (2)
     (pairs: output position and kernel position that meet an element: neither padding nor the zeros of a dilation)
  FLOPs(dot)         = 2 x elements of the result x elements summed over                                           (3)
  traffic            = what operations outside fusions read and write in main memory, with the padding of tiles    (4)
  FLOPs(attention)   = 2 x queries x keys x width of all heads x its products: 2 forward, 5 backward                (5)

On NVIDIA GPUs, products, convolutions and fused attention are calls of cuBLAS and cuDNN, which say the same of
themselves: (2), (3), and (5), where the scores are computed again to go backward. Memory that a call asks for as a
scratchpad is no traffic.
"""

import functools
import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from math import prod

BYTES = {"pred": 1, "s4": 0.5, "u4": 0.5} | {f"{kind}{bits}": bits / 8 for kind in "suf" for bits in (8, 16, 32, 64)}
BYTES |= {"bf16": 2, "c64": 8, "c128": 16, "f8e4m3fn": 1, "f8e5m2": 1, "token": 0, "opaque": 0}

COLLECTIVES = ("all-reduce", "all-gather", "reduce-scatter", "all-to-all", "ragged-all-to-all", "collective-permute")

_SHAPE = re.compile(r"(\w+)\[([\d,]*)\](?:\{([\d,]*)(?::((?:T\([\d,*]+\)|\([\d,]+\)|[A-Z]\w*\([^)]*\))*))?\})?")
_NAME = re.compile(r"%([\w.\-]+)")
_LINE = re.compile(r"\s+(ROOT )?%([\w.\-]+) = ")
_CALLED = re.compile(r"(calls|body|condition|to_apply|branch_computations|called_computations)=(\{[^}]*\}|%[\w.\-]+)")
_TRIPS = re.compile(r'"known_trip_count":\{"n":"(\d+)"')


@dataclass(frozen=True)
class Shape:
    """An array in the program: its type, sides, and how it lies in memory."""

    dtype: str
    dims: tuple[int, ...]
    minor_to_major: tuple[int, ...] = ()
    tile: tuple[int, ...] = ()
    space: int = 0
    """Memory space: 0 is the device's main memory (HBM); TPUs number their on-chip memories from 1."""

    @property
    def bytes(self) -> float:
        """Without padding."""
        return prod(self.dims) * BYTES[self.dtype]

    @property
    def hbm_bytes(self) -> float:
        """What it takes of main memory, tiles padded; 0 for an array that is elsewhere."""
        if self.space:
            return 0.0
        dims = list(self.dims)
        for axis, step in zip(self.minor_to_major, reversed(self.tile), strict=False):
            dims[axis] = -(-dims[axis] // step) * step
        return prod(dims) * BYTES[self.dtype]


def parse_shapes(text: str) -> tuple[Shape, ...]:
    """The arrays of a type: one, or those of a tuple in their order."""
    found = []
    for dtype, dims, order, layout in _SHAPE.findall(text):
        tile = re.search(r"T\(([\d,]+)\)", layout)
        space = re.search(r"S\((\d+)\)", layout)
        found.append(
            Shape(dtype, _ints(dims), _ints(order), _ints(tile[1]) if tile else (), int(space[1]) if space else 0)
        )
    return tuple(found)


def _ints(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.split(",") if part)


@dataclass(frozen=True)
class Instruction:
    """One line of a computation."""

    name: str
    opcode: str
    shapes: tuple[Shape, ...]
    operands: tuple[str, ...]
    attributes: str
    """Everything after the operands: windows, groups, metadata."""
    literal: str = ""
    """The text between the parentheses, where it names no operands (a parameter's number)."""
    root: bool = False

    @property
    def called(self) -> dict[str, tuple[str, ...]]:
        """Computations it calls, by role: body, condition, calls, to_apply, branch_computations.

        The function of a reduction is left out: it works on single numbers and is part of the operation itself.
        """
        return {
            role: tuple(_NAME.findall(names))
            for role, names in _CALLED.findall(self.attributes)
            if role != "to_apply" or self.opcode == "call"
        }

    @property
    def target(self) -> str:
        """What a custom call calls; "" for other operations."""
        found = re.search(r'custom_call_target="([^"]*)"', self.attributes) if self.opcode == "custom-call" else None
        return found[1] if found else ""

    @property
    def source(self) -> str:
        """Where in the model it comes from, as JAX has written it there."""
        found = re.search(r'op_name="([^"]*)"', self.attributes)
        return found[1] if found else ""


@dataclass
class Module:
    """A program: computations by name, and how often each runs."""

    computations: dict[str, dict[str, Instruction]]
    entry: str
    runs: Counter = field(default_factory=Counter)
    fused: set[str] = field(default_factory=set)
    """Computations inside a fusion: what passes between their operations never reaches memory."""
    unknown_loops: int = 0
    """Loops of which the trip count is not written; they are taken to run once."""

    def instructions(self, fused: bool) -> Iterator[tuple[str, dict[str, Instruction], Instruction, int]]:
        """(its computation's name, that, it, how often it runs) for all that run; those in fusions only if `fused`."""
        for name, times in self.runs.items():
            if times and (fused or name not in self.fused):
                for instruction in self.computations[name].values():
                    yield name, self.computations[name], instruction, times


def parse(text: str) -> Module:
    """The text of `compiled.as_text()`. Raises `ValueError` if it has no entry computation."""
    computations, entry, current = {}, "", None
    for line in text.splitlines():
        if line.startswith(("%", "ENTRY")) and line.endswith("{"):
            name = _NAME.search(line)[1]
            current = computations[name] = {}
            entry = name if line.startswith("ENTRY") else entry
        elif line.startswith("}"):
            current = None
        elif current is not None and (head := _LINE.match(line)):
            instruction = _instruction(head, line)
            current[instruction.name] = instruction
    if not entry:
        raise ValueError("not the text of an HLO module: it has no ENTRY computation")
    module = Module(computations, entry)
    _count_runs(module)
    return module


def _instruction(head: re.Match, line: str) -> Instruction:
    kind_end = _closing(line, head.end()) if line[head.end()] == "(" else line.index(" ", head.end())
    opening = line.index("(", kind_end)
    closing = _closing(line, opening)
    inside = line[opening + 1 : closing - 1]
    return Instruction(
        name=head[2],
        opcode=line[kind_end:opening].strip(),
        shapes=parse_shapes(line[head.end() : kind_end]),
        operands=tuple(_NAME.findall(inside)),
        attributes=line[closing:],
        literal=inside if "%" not in inside else "",
        root=bool(head[1]),
    )


def _closing(line: str, opening: int) -> int:
    """The place after the parenthesis that closes the one at `opening`."""
    depth = 0
    for place in range(opening, len(line)):
        depth += {"(": 1, ")": -1}.get(line[place], 0)
        if depth == 0:
            return place + 1
    raise ValueError(f"unbalanced parentheses in {line[:200]!r}")


def _count_runs(module: Module) -> None:
    """Equation (1), callers before the called: HLO has no recursion."""
    order, seen = [], set()

    def visit(name: str) -> None:
        if name not in seen:
            seen.add(name)
            for instruction in module.computations[name].values():
                for names in instruction.called.values():
                    for called in names:
                        visit(called)
            order.append(name)

    visit(module.entry)
    module.runs[module.entry] = 1
    for name in reversed(order):
        for instruction in module.computations[name].values():
            for role, names in instruction.called.items():
                times = module.runs[name]
                if role in ("body", "condition"):
                    trips = _trip_count(module, instruction)
                    module.unknown_loops += role == "body" and trips is None
                    times *= 1 if trips is None else trips
                for called in names:
                    module.runs[called] += times
                    if instruction.opcode == "fusion" or name in module.fused:
                        module.fused.add(called)


def _trip_count(module: Module, loop: Instruction) -> int | None:
    """As XLA has written it there; else by the condition of JAX's loops, which count from 0: `counter < constant`."""
    if written := _TRIPS.search(loop.attributes):
        return int(written[1])
    condition = list(module.computations[loop.called["condition"][0]].values())
    inner = [y for x in condition for name in x.called.get("calls", ()) for y in module.computations[name].values()]
    compared = [x for x in (*condition, *inner) if x.opcode == "compare"]
    limits = {x.literal for x in (*condition, *inner) if x.opcode == "constant" and x.shapes[0].dtype == "s32"}
    if len(compared) == len(limits) == 1 and "direction=LT" in compared[0].attributes:
        return int(limits.pop())
    return None


def matrix_flops(module: Module) -> float:
    """(2), (3) and (5) over the whole program, of one device."""
    return float(flops_by_type(module).total())


def flops_by_type(module: Module) -> Counter[str]:
    """(2), (3) and (5) by the type that is multiplied: bf16, f32, or "f32 highest", where no precision may be lost."""
    found: Counter[str] = Counter()
    for _, computation, x, times in module.instructions(fused=True):
        if count := _counter(x):
            found[_multiplied(computation, x)] += times * count(computation, x)
    return found


def _counter(x: Instruction) -> Callable[[dict[str, Instruction], Instruction], int] | None:
    if x.opcode == "dot" or x.target.startswith("__cublas$"):
        return _dot_flops
    if x.opcode == "convolution" or x.target.startswith("__cudnn$conv"):
        return _convolution_flops
    return _attention_flops if x.target.startswith(FUSED_ATTENTION) else None


def _multiplied(computation: dict[str, Instruction], x: Instruction) -> str:
    kind = computation[x.operands[0]].shapes[0].dtype
    precise = re.search(r'operand_precision"?[=:][{\["]+highest', x.attributes, re.IGNORECASE)
    return f"{kind} highest" if precise and kind == "f32" else kind


def _dot_flops(computation: dict[str, Instruction], x: Instruction) -> int:
    left = computation[x.operands[0]].shapes[0]
    written = r'lhs_contracting_dim(?:ension)?s"?[=:][{\[]([\d,"]*)'  # of the operation; in JSON, of cuBLAS's call
    summed = _ints(re.search(written, x.attributes)[1].replace('"', ""))
    return 2 * prod(x.shapes[0].dims) * prod(left.dims[axis] for axis in summed)  # (3)


FUSED_ATTENTION = "__cudnn$fmha"


def scores(x: Instruction) -> tuple[int, ...]:
    """(batch, heads, queries, keys) of cuDNN's attention, which it never writes down."""
    return _ints(
        re.search(r'"intermediate_tensor_shape".*?"dimensions":\s*\[([^\]]*)', x.attributes)[1].replace('"', "")
    )


def _attention_flops(computation: dict[str, Instruction], x: Instruction) -> int:
    products = 5 if "Backward" in x.target else 2
    return 2 * products * prod(scores(x)) * computation[x.operands[0]].shapes[0].dims[-1]  # (5)


def _convolved(computation: dict[str, Instruction], x: Instruction) -> tuple[Shape, Shape, Shape]:
    """Image, kernel and result of the convolution, of which cuDNN computes the gradients by calls of their own."""
    (first, second), result = (computation[name].shapes[0] for name in x.operands[:2]), x.shapes[0]
    if "BackwardFilter" in x.target:
        return first, result, second
    return (result, second, first) if "BackwardInput" in x.target else (first, second, result)


def _convolution_flops(computation: dict[str, Instruction], x: Instruction) -> int:
    left, right, out = _convolved(computation, x)
    left_axes, right_axes, out_axes = re.search(r"dim_labels=(\w+)_(\w+)->(\w+)", x.attributes).groups()
    window = dict(re.findall(r"(\w+)=(\S+?)[,}\s]", (re.search(r"window=\{[^}]*\}", x.attributes) or [" "])[0]))
    sizes = {axis: out.dims[out_axes.index(axis)] for axis in out_axes}
    groups = re.search(r"batch_group_count=(\d+)", x.attributes)
    pairs = 1
    for i, axis in enumerate(sorted(filter(str.isdigit, out_axes))):

        def of_axis(name: str, default: str, i: int = i) -> str:
            return window[name].split("x")[i] if name in window else default

        low, high = (int(part) for part in of_axis("pad", "0_0").split("_"))
        del high  # the output's size, which is known, says how far the window goes
        pairs *= meeting_pairs(
            left.dims[left_axes.index(axis)],
            sizes[axis],
            right.dims[right_axes.index(axis)],
            int(of_axis("stride", "1")),
            low,
            int(of_axis("lhs_dilate", "1")),
            int(of_axis("rhs_dilate", "1")),
        )
    features_in = right.dims[right_axes.index("i")]
    return 2 * sizes["b"] * sizes["f"] * features_in * pairs // (int(groups[1]) if groups else 1)  # (2)


@functools.cache
def meeting_pairs(size: int, out: int, kernel: int, stride: int, low: int, dilate: int, kernel_dilate: int) -> int:
    """Pairs (output position, kernel position) of one axis that meet an element of the input: see (2).

    `low` is the padding before the first element, `dilate` the distance between elements, `kernel_dilate` that between
    the kernel's.
    """
    last = (size - 1) * dilate
    return sum(
        0 <= place <= last and place % dilate == 0
        for o in range(out)
        for place in range(o * stride - low, o * stride - low + kernel * kernel_dilate, kernel_dilate)
    )


FREE = (
    *("parameter", "constant", "tuple", "get-tuple-element", "bitcast", "while", "conditional", "call", "after-all"),
    *("iota", "partition-id", "replica-id", "add-dependency", "opt-barrier", "async-start", "async-update"),
)
"""Operations that move nothing themselves."""

SLICES = ("dynamic-slice", "slice", "gather")


def hbm_traffic(module: Module) -> float:
    """(4) in bytes, of one device."""
    return float(sum(times * _traffic(module, c, x) for _, c, x, times in module.instructions(fused=False)))


def _traffic(module: Module, computation: dict[str, Instruction], x: Instruction) -> float:
    if x.opcode in FREE or x.opcode.endswith("-done") or 'custom_call_target="AllocateBuffer"' in x.attributes:
        return 0.0
    if x.opcode.endswith("-start") and x.opcode.removesuffix("-start") not in COLLECTIVES:
        return _moved(x)
    operands = [computation[name] for name in x.operands if name in computation]
    read = [sum(shape.hbm_bytes for shape in operand.shapes) for operand in operands]
    written = sum(shape.hbm_bytes for shape in _results(x))
    if x.opcode in SLICES:
        return written + min(written, read[0]) + sum(read[1:])
    if x.opcode == "dynamic-update-slice":
        return 2 * read[1]
    if x.opcode == "fusion":
        return _fusion_traffic(module.computations[x.called["calls"][0]], read, written)
    return written + sum(read)


def _results(x: Instruction) -> Sequence[Shape]:
    """Without the scratchpad of a library's call, which comes last: bytes in a row."""
    calls, last = x.opcode in ("custom-call", "fusion") and len(x.shapes) > 1, x.shapes[-1:]
    scratchpad = calls and last[0].dtype in ("s8", "u8") and len(last[0].dims) == 1
    return x.shapes[:-1] if scratchpad else x.shapes


def _moved(x: Instruction) -> float:
    """Of a copy or slice that runs beside the program: its shapes are source, destination (of what is moved), a flag.

    A copy lists the destination first, a slice the source: what is moved is the smaller of the two.
    """
    moved = min(prod(shape.dims) * BYTES[shape.dtype] for shape in x.shapes[:2])
    return sum(moved for shape in x.shapes[:2] if shape.space == 0)


def _fusion_traffic(fused: dict[str, Instruction], read: Sequence[float], written: float) -> float:
    """Of a parameter that is only sliced, the slices are read; a result that is an update in place is written there."""
    users: dict[str, list[Instruction]] = {}
    for x in fused.values():
        for name in x.operands:
            users.setdefault(name, []).append(x)
    total, in_place = 0.0, {}
    for x in fused.values():
        if x.opcode == "dynamic-update-slice":
            in_place[x.operands[0]] = fused[x.operands[1]].shapes[0].bytes
            written -= x.shapes[0].hbm_bytes if x.root else 0.0
    for x in fused.values():
        if x.opcode != "parameter":
            continue
        whole, uses = read[int(x.literal)], users.get(x.name, [])
        if x.name in in_place:
            total += in_place[x.name] if whole else 0.0
        elif uses and all(use.opcode in SLICES and use.operands[0] == x.name for use in uses):
            total += min(whole, sum(use.shapes[0].bytes for use in uses))
        else:
            total += whole
    return total + max(written, 0.0)


@dataclass(frozen=True)
class Collective:
    """One operation between devices; XLA bundles several arrays in one."""

    kind: str
    arrays: tuple[Shape, ...]
    """What a device holds of each before; of an all-gather, the part it gives."""
    axes: tuple[int | None, ...]
    """The axis along which an all-gather puts them together; None for other kinds."""
    group: tuple[int, ...]
    """Positions in the mesh of the devices of one group (the first)."""
    runs: int
    source: str

    @property
    def whole(self) -> tuple[tuple[int, ...], ...]:
        """The sides of each array where it is biggest: after an all-gather, before a reduce-scatter."""
        n = len(self.group)
        return tuple(
            tuple(side * (n if i == axis else 1) for i, side in enumerate(array.dims))
            for array, axis in zip(self.arrays, self.axes, strict=True)
        )

    @property
    def sent(self) -> float:
        """Bytes that a device sends in all runs, on rings: an all-reduce is a reduce-scatter and an all-gather."""
        n, held = len(self.group), sum(array.bytes for array in self.arrays)
        factor = {"all-gather": n - 1, "all-reduce": 2 * (n - 1) / n, "collective-permute": 1}
        return self.runs * held * factor.get(self.kind, (n - 1) / n)


def collectives(module: Module, num_devices: int) -> list[Collective]:
    """All operations between devices, with how often they run; groups of one device are none."""
    found = []
    for name, computation, x, times in module.instructions(fused=True):
        kind, group = x.opcode.removesuffix("-start"), _group(x.attributes, num_devices)
        if kind not in COLLECTIVES or len(group) == 1:
            continue
        if name.startswith("all-reduce-scatter"):
            kind = "reduce-scatter"  # what TPUs make of it: an all-reduce and a slice of its result, in one fusion
        arrays = tuple(shape for operand in x.operands for shape in computation[operand].shapes)
        axis = re.search(r"[, ]dimensions=\{(\d+)\}", x.attributes) if kind == "all-gather" else None
        axes = (int(axis[1]) if axis else None,) * len(arrays)
        found.append(Collective(kind, arrays, axes, group, times, x.source))
    return found


def _group(attributes: str, num_devices: int) -> tuple[int, ...]:
    """The first group, in any of the forms in which XLA writes them."""
    if found := re.search(r"source_target_pairs=\{\{(\d+),(\d+)\}", attributes):
        return int(found[1]), int(found[2])
    if found := re.search(r"replica_groups=\{\{([\d,]+)\}", attributes):
        return _ints(found[1])
    if found := re.search(rf"replica_groups=\[(\d+),(\d+)\]<={_IOTA}", attributes):
        return _iota(found[3], found[4])[: int(found[2])]
    ids = rf"(?:, device_ids=\((?:{_IOTA}|([\d,]+))\))?"
    if found := re.search(rf"replica_groups=mesh\[([^\]]*)\]{ids} \{{([^}}]*)\}}", attributes):
        sides = {name: int(side) for name, side in re.findall(r"'(\w+)'=(\d+)", found[1])}
        devices = _iota(found[2], found[3]) if found[2] else _ints(found[4] or "") or range(prod(sides.values()))
        along = re.findall(r"'(\w+)'", found[5])
        order = sorted(range(len(sides)), key=lambda axis: list(sides)[axis] in along)
        size = prod(sides[name] for name in along)
        return tuple(devices[i] for i in _listed(tuple(sides.values()), order)[:size])
    return tuple(range(num_devices))


_IOTA = r"\[([\d,]+)\](?:T\(([\d,]+)\))?"


def _iota(sides: str, order: str | None) -> tuple[int, ...]:
    """`[2,4]T(1,0)`: 0, 1, 2, ... as a 2 x 4 array, transposed."""
    box = _ints(sides)
    return _listed(box, _ints(order or "") or range(len(box)))


def _listed(sides: Sequence[int], order: Sequence[int]) -> tuple[int, ...]:
    """0, 1, 2, ... in a box of these sides, read after its axes are put in this order."""
    strides = [prod(sides[axis + 1 :]) for axis in range(len(sides))]
    numbers = [0]
    for axis in order:
        numbers = [number + step * strides[axis] for number in numbers for step in range(sides[axis])]
    return tuple(numbers)
