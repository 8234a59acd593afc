"""Reads damaged, odd and hostile files with every reader there is, and tells which end in a traceback, or worse.

    python tools/fuzz.py --minutes 10
    python tools/fuzz.py --inputs 10000 --seed 3
    python tools/fuzz.py --targets parquet pictures --minutes 2
    python tools/fuzz.py --replay fuzz_findings/parquet-417.json

Small specimens of everything are written (specimens.py), then one file of them after another is changed (mutations.py)
and read as a command would read it (readers.py). An input may be read, or refused by a `UserError`, which the command
line prints in one line. A finding is whatever else: another exception, a process that dies, that takes longer than
--timeout or more than --memory, a control character on the terminal. Input number n of a target is the same for the
same --seed; a finding's file holds what was changed besides, and --replay reads that again.

Time is shared among the targets so that fast ones are asked more often, but slow ones not seldom (by the square root of
the seconds that an input takes). A seventh of the files is changed together with the manifest that lists it.
"""

import dataclasses
import hashlib
import importlib
import json
import random
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tyro
from tqdm import tqdm
from workers import OK, PLACES, REFUSED, Answer, Input, Limits, answers, changed_files, prepare_environment, read

KEPT = 3
"""Findings of one kind that are kept."""
PLACE_SHARE, REPAIRED_SHARE = 0.04, 0.5


@dataclass(frozen=True)
class Fuzz:
    """Read changed files with every reader, and report what neither reads nor refuses them."""

    minutes: float = 10.0
    """How long, where --inputs is not given."""
    inputs: int | None = None
    """So many inputs, shared evenly among the targets, instead of --minutes."""
    targets: tuple[str, ...] = ()
    """Readers, by the beginnings of their names (default: all). See --list."""
    seed: int = 0
    """Of the inputs."""
    workers: int = 2
    """Processes that read at once."""
    timeout: float = 30.0
    """Seconds after which an input counts as a hang."""
    memory: float = 2.0
    """GiB that a process may hold."""
    findings: Path = Path("fuzz_findings")
    """Folder for what is found; made when something is."""
    replay: Path | None = None
    """Read this finding again, in this process, and show what happens."""
    list: bool = False
    """Name the targets and end."""
    module: str = "readers"
    """Python module that has TARGETS, and `write_specimens`."""


@dataclass
class Tally:
    """What happened to a target's inputs."""

    inputs: int = 0
    ok: int = 0
    refused: int = 0
    findings: int = 0
    slowest: float = 0.0
    peak: int = 0
    """Bytes."""


class Fuzzer:
    """Makes inputs, and counts what becomes of them."""

    def __init__(self, args: Fuzz, module: Any, names: list[str], specimens: Path):
        self._args, self._module, self._specimens = args, module, specimens
        self.tallies = {name: Tally() for name in names}
        self.findings: dict[str, list[str]] = {}
        """Kind -> names of the files that are kept of it."""
        self.unread: list[str] = []
        """Targets that do not read their own specimens: of them nothing can be said."""
        self._next = dict.fromkeys(names, -1)
        """The number of each target's next input; -1 is the specimens as they are."""
        self._spent = dict.fromkeys(names, 0.0)
        self._began = time.monotonic()

    def give(self) -> Input | None:
        """The next input of the target that was given the least so far; None when all is done."""
        if self._share() >= 1:
            return None
        target = min(self._next, key=lambda name: (self._next[name] >= 0, self._cost(name)))
        number, self._next[target] = self._next[target], self._next[target] + 1
        self._spent[target] += 1e-3  # so that two workers do not both choose it
        return make_input(self._module, self._specimens, target, number, self._args.seed)

    def run(self, scratch: Path) -> None:
        """Until the time is up, or all inputs were read."""
        args = self._args
        limits = Limits(args.timeout, args.memory)
        with tqdm(total=100, unit="%", dynamic_ncols=True, disable=None) as bar:
            for answer in answers(args.module, self._specimens, scratch, self.give, limits, args.workers):
                self.count(answer)
                done = sum(tally.inputs for tally in self.tallies.values())
                found = sum(tally.findings for tally in self.tallies.values())
                bar.set_postfix_str(f"{done} inputs, {found} findings", refresh=False)
                bar.update(round(100 * min(1, self._share())) - bar.n)

    def count(self, answer: Answer) -> None:
        """Notes an answer; keeps the first findings of each kind."""
        given, tally = answer.given, self.tallies[answer.given.target]
        self._spent[given.target] += answer.seconds**0.5
        if given.number < 0:
            if answer.outcome != OK:
                self.unread.append(f"{given.target}: {answer.outcome}: {answer.said}")
            return
        tally.inputs += 1
        tally.slowest, tally.peak = max(tally.slowest, answer.seconds), max(tally.peak, answer.peak)
        tally.ok += answer.outcome == OK
        tally.refused += answer.outcome == REFUSED
        if answer.outcome in (OK, REFUSED):
            return
        tally.findings += 1
        files = self.findings.setdefault(f"{given.target}: {answer.kind}", [])
        files.append(f"{self._kept(answer)} ({answer.outcome})" if len(files) < KEPT else "")

    def _kept(self, answer: Answer) -> Path:
        self._args.findings.mkdir(parents=True, exist_ok=True)
        name = "".join(letter if letter.isalnum() else "_" for letter in answer.given.target)
        path = self._args.findings / f"{name}-{answer.given.number}.json"
        found = {"outcome": answer.outcome, "seed": self._args.seed, **answer.given.to_json(), "said": answer.said}
        path.write_text(json.dumps(found, indent=1), encoding="utf-8")
        return path

    def _share(self) -> float:
        """Of the time, or of the inputs."""
        if self._args.inputs is None:
            return (time.monotonic() - self._began) / (60 * self._args.minutes)
        return sum(self._next.values()) / self._args.inputs

    def _cost(self, name: str) -> float:
        return self._spent[name] if self._args.inputs is None else self._next[name]


def make_input(module: Any, specimens: Path, target: str, number: int, seed: int) -> Input:
    """Input `number` of a target; -1 is the specimens as they are."""
    import mutations

    if number < 0:
        return Input(target)
    rng = random.Random(f"{seed} {target} {number}")
    paths = changed_files(module, specimens, target)
    path = rng.choice(paths)
    if rng.random() < PLACE_SHARE:
        place = rng.choice((*PLACES, "empty", "another file", "a pointer of git-lfs"))
        contents = {"empty": b"", "another file": (specimens / rng.choice(paths)).read_bytes()}
        contents["a pointer of git-lfs"] = mutations.LFS_POINTER
        return Input(target, number, {path: contents.get(place, place)}, f"{path}: {place}")
    others = [(specimens / rng.choice(paths)).read_bytes() for _ in range(2)]
    data, what = mutations.mutate(rng, path, (specimens / path).read_bytes(), others)
    files: dict[str, bytes | str] = {path: data}
    if rng.random() < REPAIRED_SHARE:
        files |= _manifest_of(specimens, path, data)
    return Input(target, number, files, f"{path}: {what}{', with its manifest' * (len(files) > 1)}")


def _manifest_of(specimens: Path, path: str, data: bytes) -> dict[str, bytes]:
    """The manifest beside a file with another content, as it would be had that been written."""
    manifest, name = (specimens / path).with_name("manifest.json"), Path(path).name
    if not manifest.is_file() or name == manifest.name:
        return {}
    told = json.loads(manifest.read_text(encoding="utf-8"))
    if name not in told.get("files", {}):
        return {}
    told["files"][name] = {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    return {str(manifest.relative_to(specimens)): json.dumps(told).encode()}


def table(tallies: dict[str, Tally]) -> Iterator[str]:
    """Lines of text."""
    width = max(map(len, tallies))
    yield f"{'target':<{width}}  inputs      ok  refused  findings  slowest  peak MiB"
    rows = [*tallies.items(), ("together", _sum(list(tallies.values())))]
    for name, t in rows:
        counts = f"{t.inputs:6}  {t.ok:6}  {t.refused:7}  {t.findings:8}"
        yield f"{name:<{width}}  {counts}  {t.slowest:5.1f} s  {t.peak / 2**20:8.0f}"


def _sum(tallies: list[Tally]) -> Tally:
    largest = ("slowest", "peak")
    fields = [item.name for item in dataclasses.fields(Tally)]
    return Tally(**{name: (max if name in largest else sum)(getattr(t, name) for t in tallies) for name in fields})


def main(args: Fuzz) -> int:
    """Runs, prints the table and the findings; status 0 when there is none."""
    prepare_environment()
    module = importlib.import_module(args.module)
    names = [name for name in module.TARGETS if not args.targets or name.startswith(args.targets)]
    if args.list or not names:
        print("\n".join(module.TARGETS))
        return 0 if args.list else 2
    with tempfile.TemporaryDirectory(prefix="reimagen_fuzz") as folder:
        specimens, scratch = Path(folder, "specimens"), Path(folder, "scratch")
        for path in (specimens, scratch):
            path.mkdir()
        module.write_specimens(specimens)
        if args.replay is not None:
            return replay(args.replay, module, specimens, scratch)
        fuzzer = Fuzzer(args, module, names, specimens)
        fuzzer.run(scratch)
    print("\n".join(table(fuzzer.tallies)))
    for line in fuzzer.unread:
        print(f"the specimens as they are cannot be read: {line}")
    for kind, files in fuzzer.findings.items():
        print("\n    ".join([f"{len(files)} x {kind}", *filter(None, files)]))
    return int(bool(fuzzer.findings or fuzzer.unread))


def replay(path: Path, module: Any, specimens: Path, scratch: Path) -> int:
    """Reads a finding again; status 0 when it is none any more."""
    stored = json.loads(path.read_text(encoding="utf-8"))
    given = Input.from_json(stored)
    print(f"{given.target} {given.number}: {given.what}\nthen: {stored['outcome']}", flush=True)
    outcome, said = read(module, specimens, given, scratch / "replay")
    print(f"now: {outcome}\n{said}")
    return int(outcome not in (OK, REFUSED))


if __name__ == "__main__":
    sys.exit(main(tyro.cli(Fuzz, description=__doc__)))
