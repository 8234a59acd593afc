"""Flips single bits in every kind of file that the program writes, and says of each whether it is noticed.

    python tools/flip.py
    python tools/flip.py --targets records base --flips 256

Small specimens are written (specimens.py), in each of their files so many bits are flipped, one at a time and by seed,
and the folder is read as a command reads it (readers.py). Then it was

  refused     by a `UserError`;
  harmless    what was read is equal to what is read of the file as it was: the bit is in a remark, or in space;
  by verify   other content was read, but `reimagen verify` refuses the folder;
  SILENT      other content was read, and nothing says so: a fault;
  BROKEN      something else was raised, the process died or did not answer: a fault.

For the harmless ones the table says where the bits are: fields of JSON, or ranges of bytes.
"""

import importlib
import json
import random
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import tyro
from tqdm import tqdm
from workers import OK, REFUSED, Answer, Input, Limits, answers, changed_files, prepare_environment

FAULTS = ("SILENT", "BROKEN")
KINDS = ("refused", "harmless", "by verify", *FAULTS)


@dataclass(frozen=True)
class Flip:
    """Flip bits in files of this program, and tell what becomes of them."""

    flips: int = 64
    """In each file."""
    targets: tuple[str, ...] = ()
    """Readers, by the beginnings of their names (default: all whose files this program writes)."""
    seed: int = 0
    """Of the bits."""
    workers: int = 2
    """Processes that read at once."""
    timeout: float = 30.0
    """Seconds after which a reader counts as hanging."""
    module: str = "readers"
    """Python module that has TARGETS, VERIFIED and `write_specimens`."""


@dataclass
class Row:
    """Of one file."""

    target: str
    path: str
    size: int
    counts: dict[str, int] = field(default_factory=lambda: dict.fromkeys(KINDS, 0))
    harmless: list[int] = field(default_factory=list)
    """Bits."""
    faults: list[str] = field(default_factory=list)


def flipped(data: bytes, bit: int) -> bytes:
    """Bit 0 is the lowest one of the first byte."""
    changed = bytearray(data)
    changed[bit // 8] ^= 1 << bit % 8
    return bytes(changed)


class Flipper:
    """Makes inputs, and sorts what becomes of them."""

    def __init__(self, args: Flip, module: Any, names: Sequence[str], specimens: Path):
        self._args, self._module, self._specimens = args, module, specimens
        self.rows = {
            (name, path): Row(name, path, (specimens / path).stat().st_size)
            for name in names
            for path in changed_files(module, specimens, name)
        }
        self._whole: dict[str, str] = {}
        """Target -> digest of what is read when nothing is flipped."""
        self._bits: dict[tuple[str, str], list[int]] = {}

    def run(self, scratch: Path) -> None:
        """Reads the specimens as they are, then flipped; what is read as something else, by the verifying reader."""
        names = list(dict.fromkeys(name for name, _ in self.rows))
        for answer in self._answers([Input(name) for name in names], scratch):
            if answer.outcome != OK:
                raise SystemExit(f"{answer.given.target} does not read its specimens: {answer.outcome}: {answer.said}")
            self._whole[answer.given.target] = answer.said
        again = [self._sort(answer) for answer in self._answers(list(self._inputs()), scratch)]
        suspects = {id(given): (name, given) for name, given in filter(None, again)}
        for answer in self._answers([given for _, given in suspects.values()], scratch):
            name, _ = suspects[id(answer.given)]
            self._judge(name, answer, "by verify" if answer.outcome == REFUSED else "SILENT")

    def _answers(self, inputs: list[Input], scratch: Path) -> Iterator[Answer]:
        limits, following = Limits(self._args.timeout), iter(inputs)
        found = answers(
            self._args.module, self._specimens, scratch, lambda: next(following, None), limits, self._args.workers
        )
        yield from tqdm(found, total=len(inputs), unit="flip", dynamic_ncols=True, disable=None)

    def _inputs(self) -> Iterator[Input]:
        for name, path in self.rows:
            data, rng = (self._specimens / path).read_bytes(), random.Random(f"{self._args.seed} {path}")
            bits = [rng.randrange(8 * len(data)) for _ in range(self._args.flips if data else 0)]
            self._bits[name, path] = bits
            for number, bit in enumerate(bits):
                yield Input(name, number, {path: flipped(data, bit)}, f"bit {bit} of {path}")

    def _sort(self, answer: Answer) -> tuple[str, Input] | None:
        """Notes an answer; what was read as something else goes to the verifying reader, if there is one."""
        given = answer.given
        if answer.outcome == OK and answer.said != self._whole[given.target]:
            verifying = self._module.VERIFIED.get(given.target)
            if verifying is not None:
                return given.target, Input(verifying, given.number, given.files, given.what)
            self._judge(given.target, answer, "SILENT")
        elif answer.outcome == OK:
            self._judge(given.target, answer, "harmless")
        else:
            self._judge(given.target, answer, "refused" if answer.outcome == REFUSED else "BROKEN")
        return None

    def _judge(self, name: str, answer: Answer, kind: str) -> None:
        path = next(iter(answer.given.files))
        row = self.rows[name, path]
        row.counts[kind] += 1
        if kind == "harmless":
            row.harmless.append(self._bits[name, path][answer.given.number])
        elif kind in FAULTS:
            row.faults.append(f"{kind} {name}: {answer.given.what}: {answer.outcome}")

    def where(self, row: Row) -> str:
        """Where a file's harmless bits are."""
        data = (self._specimens / row.path).read_bytes()
        if row.path.endswith(".json"):
            fields = sorted({_field(data, flipped(data, bit)) for bit in row.harmless})
            return ", ".join(fields[:6]) + ", ..." * (len(fields) > 6)
        places = sorted({bit // 8 for bit in row.harmless})
        return f"{len(places)} bytes in {places[0]}..{places[-1]}" if places else ""


def _field(before: bytes, after: bytes) -> str:
    """In which field of JSON two texts differ."""
    try:
        old, new, path = json.loads(before), json.loads(after), []
    except ValueError:
        return "what is no JSON"
    if old == new:
        return "spelling"
    while isinstance(old, dict) and isinstance(new, dict) and old.keys() == new.keys():
        key = next(key for key in old if old[key] != new[key])
        old, new, path = old[key], new[key], [*path, key]
    return ".".join(path[:3]) if path else "a field's name"


def table(flipper: Flipper) -> Iterator[str]:
    """Lines of text."""
    rows = list(flipper.rows.values())
    width = max(len(f"{row.target}: {row.path}") for row in rows)
    yield f"{'file':<{width}}    bytes  " + "  ".join(KINDS) + "  where harmless"
    for row in rows:
        counts = "  ".join(f"{row.counts[kind]:{len(kind)}}" for kind in KINDS)
        yield f"{f'{row.target}: {row.path}':<{width}} {row.size:8}  {counts}  {flipper.where(row)}"
    sums = "  ".join(f"{sum(row.counts[kind] for row in rows):{len(kind)}}" for kind in KINDS)
    yield f"{'together':<{width}} {sum(row.size for row in rows):8}  {sums}"


def main(args: Flip) -> int:
    """Runs, prints the table and the faults; status 0 when there is none."""
    prepare_environment()
    module = importlib.import_module(args.module)
    wanted = [name for name, target in module.TARGETS.items() if target.ours and name not in module.VERIFIED.values()]
    names = [name for name in wanted if not args.targets or name.startswith(args.targets)]
    with tempfile.TemporaryDirectory(prefix="reimagen_flip") as folder:
        specimens, scratch = Path(folder, "specimens"), Path(folder, "scratch")
        for path in (specimens, scratch):
            path.mkdir()
        module.write_specimens(specimens)
        flipper = Flipper(args, module, names, specimens)
        flipper.run(scratch)
        print("\n".join(table(flipper)))
    faults = [line for row in flipper.rows.values() for line in row.faults]
    print("\n".join(faults))
    return int(bool(faults))


if __name__ == "__main__":
    sys.exit(main(tyro.cli(Flip, description=__doc__)))
