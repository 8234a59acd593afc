"""Kills commands by SIGKILL, gives them again, and compares what they end in with what they end in undisturbed.

    python tools/kill.py
    python tools/kill.py --kills 40 --commands prepare index
    python tools/kill.py --replay "index append" rename 2

Each command runs on small specimens (specimens.py) in a folder of its own. It is killed just before each rename, and
just before removals, of files in that folder (Python's audit events tell of them: nothing of the program is patched),
and at random moments. Then:

  what was there before and is to be changed in place is whole, old or new, at the very moment of the kill;
  the same command, given again, ends with status 0, or says that its work was done;
  every file is as the undisturbed command leaves it, and there is no other: no partial folder, hidden or not.

Checkpoints are compared by the arrays that are restored. Files that two undisturbed runs write differently (times,
event logs) are compared by their names alone.
"""

import hashlib
import importlib
import multiprocessing as mp
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import tyro
from tqdm import tqdm
from workers import prepare_environment

POINTS = {"os.rename": "rename", "ctypes.dlsym": "rename", "os.remove": "removal", "os.rmdir": "removal"}
"""Audit events -> what is counted. `os.replace` and `Path.rename` are renames too."""
EXCHANGES = ("renameat2", "renamex_np")
"""The system's functions by which two folders change places: asked for by their names, just before."""
LOGS = ("tensorboard", "metrics.jsonl")
"""What a run that is killed and goes on writes more of."""
PATIENCE = 600
"""Seconds that a command may take."""


@dataclass(frozen=True)
class Kill:
    """Kill commands, give them again, compare the results."""

    kills: int = 100
    """In all: before every rename of every command, the others before removals and at random moments."""
    commands: tuple[str, ...] = ()
    """Commands, by the beginnings of their names (default: all)."""
    seed: int = 0
    """Of the random moments."""
    replay: tuple[str, str, float] | None = None
    """Command, point (rename, removal, time) and its number, or seconds: one kill, with all that is said of it."""
    list: bool = False
    """Name the commands and end."""
    module: str = "commands_to_kill"
    """Python module that has SCENARIOS, and `write_specimens`."""


@dataclass(frozen=True)
class Scenario:
    """A command, and what it finds."""

    line: str
    """Its words."""
    needs: tuple[str, ...]
    """Specimens; `FROM:TO` is put elsewhere."""
    in_place: tuple[str, ...] = ()
    """Folders that are there before, and have to be whole, old or new, whenever the command is killed."""


@dataclass(frozen=True)
class Point:
    """When to kill: before the rename or removal of this number, from 1, or after so many seconds."""

    kind: str
    number: float

    def __str__(self) -> str:
        return f"after {self.number:.2f} s" if self.kind == "time" else f"before {self.kind} {self.number:g}"


@dataclass
class Ran:
    """How a run ended."""

    status: int
    """-9 when it was killed."""
    said: str
    seconds: float
    points: dict[str, int]
    """Renames and removals that it came to."""


@dataclass
class Tally:
    """Of one command."""

    kills: dict[str, int] = field(default_factory=lambda: {"rename": 0, "removal": 0, "time": 0})
    late: int = 0
    """It had ended before."""
    faults: list[str] = field(default_factory=list)


class Killer:
    """Runs scenarios in processes of their own."""

    def __init__(self, module: str, scenarios: dict[str, Scenario], specimens: Path, scratch: Path):
        self._module, self._scenarios, self._specimens, self._scratch = module, scenarios, specimens, scratch
        os.environ["PYTHONPATH"] = os.pathsep.join([str(Path(__file__).parent), *filter(None, sys.path)])
        self._context = mp.get_context("forkserver")
        self._context.set_forkserver_preload([module])

    def fresh(self, name: str) -> Path:
        """A new folder with what the command finds. It always has the same name, which some results hold."""
        folder = self._scratch / "work"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        for need in self._scenarios[name].needs:
            source, _, target = need.partition(":")
            path = folder / (target or source)
            path.parent.mkdir(parents=True, exist_ok=True)
            (shutil.copytree if (self._specimens / source).is_dir() else shutil.copy2)(self._specimens / source, path)
        return folder

    def run(self, name: str, point: Point | None = None) -> Ran:
        """Runs the command, where the last one was; kills it at a point."""
        log, counts = self._scratch / "log", self._scratch / "counts"
        for path in (log, counts):
            path.unlink(missing_ok=True)
        given = (self._module, self._scenarios[name].line, self._scratch / "work", log, counts, point)
        process = self._context.Process(target=_run, args=given)
        began = time.monotonic()
        process.start()
        patience = point.number if point is not None and point.kind == "time" else PATIENCE
        process.join(patience)
        if process.is_alive():
            process.kill()
            process.join()
        seconds = time.monotonic() - began
        if seconds >= PATIENCE:
            raise SystemExit(f"{name} did not end in {PATIENCE} s")
        found = counts.read_text(encoding="ascii").split() if counts.is_file() else []
        points = {kind: found.count(kind) for kind in set(POINTS.values())}
        return Ran(process.exitcode, log.read_text("utf-8", "replace") if log.is_file() else "", seconds, points)

    def content(self, folder: Path) -> dict[str, str]:
        """All that is in a folder: paths -> digests; checkpoints by what is restored from them."""
        found: dict[str, str] = {}
        for path in sorted(folder.rglob("*")):
            name, parts = str(path.relative_to(folder)), path.relative_to(folder).parts
            log = next((i for i, part in enumerate(parts) if part in LOGS), None)
            if log is not None:
                found["/".join(parts[: log + 1])] = "a log"
            elif path.name == "checkpoints":
                found |= {f"{name}/{step}": content for step, content in self._restored(path.parent).items()}
            elif "checkpoints" not in parts:
                found[name] = "a folder" if path.is_dir() else hashlib.sha256(path.read_bytes()).hexdigest()
            elif path.parent.name == "checkpoints" and not path.name.isdigit():
                found[name] = "left over"
        return found

    def _restored(self, workdir: Path) -> dict[str, str]:
        ours, theirs = self._context.Pipe()
        process = self._context.Process(target=_restore, args=(theirs, self._module, workdir))
        process.start()
        theirs.close()
        try:
            return ours.recv()
        except EOFError:
            return {"latest": "not to be restored"}
        finally:
            process.join()


def _restore(connection: Any, module: str, workdir: Path) -> None:
    connection.send(importlib.import_module(module).restored(workdir))


def _run(module: str, line: str, folder: Path, log: Path, counts: Path, point: Point | None) -> None:
    """In a process of its own: counts the points that a command comes to, and dies at one."""
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    tally = os.open(counts, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.chdir(folder)
    inside, reached = os.path.realpath(folder) + os.sep, dict.fromkeys(POINTS.values(), 0)

    def audit(event: str, args: tuple) -> None:
        if event not in POINTS or not _concerns(event, args, inside):
            return
        kind = POINTS[event]
        reached[kind] += 1
        if point is not None and (point.kind, point.number) == (kind, reached[kind]):
            os.kill(os.getpid(), signal.SIGKILL)
        os.write(tally, f"{kind}\n".encode())

    sys.addaudithook(audit)
    found = importlib.import_module(module)
    try:
        status = found.run(line.split())
    except SystemExit as end:
        status = end.code
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(int(status or 0))


def _concerns(event: str, args: tuple, inside: str) -> bool:
    """Whether an event happens to what lies in a folder; a name may be as seen from an open one."""
    if event == "ctypes.dlsym":
        return args[1] in EXCHANGES
    name, folder = os.fsdecode(args[0]), args[2 if event == "os.rename" else 1]
    place = os.readlink(f"/proc/self/fd/{folder}") if folder >= 0 else os.getcwd()
    return os.path.join(place, name).startswith(inside)


@dataclass
class Undisturbed:
    """What a command ends in when nothing happens to it."""

    before: dict[str, str]
    after: dict[str, str]
    volatile: set[str]
    """Paths whose contents two runs write differently."""
    ran: Ran


def undisturbed(killer: Killer, name: str) -> Undisturbed:
    """Runs a command twice."""
    first = None
    for _ in range(2):
        folder = killer.fresh(name)
        before = killer.content(folder)
        ran = killer.run(name)
        if ran.status:
            raise SystemExit(f"{name} ends with status {ran.status} although nothing happened to it: {ran.said[-500:]}")
        after = killer.content(folder)
        first = first or after
    volatile = {path for path in first.keys() | after.keys() if first.get(path) != after.get(path)}
    return Undisturbed(before, after, volatile, ran)


def kill(killer: Killer, name: str, scenario: Scenario, calm: Undisturbed, point: Point) -> tuple[str, bool]:
    """Kills once, gives the command again: what is wrong then (nothing: empty), and whether it was killed at all."""
    folder = killer.fresh(name)
    ran = killer.run(name, point)
    killed = ran.status == -signal.SIGKILL
    if not killed and ran.status:
        return f"it ended with status {ran.status} before it was killed: {ran.said[-300:]}", False
    found = killer.content(folder)
    for place in scenario.in_place:
        old, new, now = (_part(content, place) for content in (calm.before, calm.after, found))
        if not any(_same(now, whole, calm.volatile) for whole in (old, new)):
            return f"at once {place} is neither what it was nor what it is to be: {_difference(old, now)}", killed
    again = killer.run(name)
    found = killer.content(folder)
    if not _same(found, calm.after, calm.volatile):
        return f"again: status {again.status}, {_difference(calm.after, found)}; it said: {again.said[-300:]}", killed
    if again.status not in (0, 2):
        return f"again: status {again.status}: {again.said[-300:]}", killed
    return "", killed


def _part(content: dict[str, str], place: str) -> dict[str, str]:
    return {path: value for path, value in content.items() if path.split("/")[0] == place}


def _same(a: dict[str, str], b: dict[str, str], volatile: set[str]) -> bool:
    return a.keys() == b.keys() and all(a[path] == b[path] for path in a if path not in volatile)


def _difference(wanted: dict[str, str], found: dict[str, str]) -> str:
    lost, more = sorted(wanted.keys() - found.keys()), sorted(found.keys() - wanted.keys())
    other = [path for path in sorted(wanted.keys() & found.keys()) if wanted[path] != found[path]]
    told = {"missing": lost, "left over": more, "other": other}
    return "; ".join(f"{what}: {', '.join(paths[:4])}" for what, paths in told.items() if paths)


def plan(
    points: dict[str, dict[str, int]], seconds: dict[str, float], kills: int, seed: int
) -> list[tuple[str, Point]]:
    """Every rename; then, up to `kills`, removals and random moments of one command after another."""
    rng = random.Random(seed)
    chosen = [(name, Point("rename", n + 1)) for name, counts in points.items() for n in range(counts["rename"])]
    removals = [(name, Point("removal", n + 1)) for name, counts in points.items() for n in range(counts["removal"])]
    rest = max(0, kills - len(chosen))
    chosen += rng.sample(removals, min(len(removals), rest // 3))
    names = list(points)
    while len(chosen) < kills:
        name = names[len(chosen) % len(names)]
        chosen.append((name, Point("time", rng.uniform(0, seconds[name]))))
    return chosen


def table(tallies: dict[str, Tally], calm: dict[str, Undisturbed]) -> Iterator[str]:
    """Lines of text."""
    width = max(map(len, [*tallies, "together"]))
    yield f"{'command':<{width}}  renames  removals  at random  too late  faults  takes"
    rows = [(name, t.kills, t.late, len(t.faults), f"{calm[name].ran.seconds:.1f} s") for name, t in tallies.items()]
    sums = {kind: sum(row[1][kind] for row in rows) for kind in ("rename", "removal", "time")}
    rows.append(("together", sums, sum(row[2] for row in rows), sum(row[3] for row in rows), ""))
    for name, kills, late, faults, takes in rows:
        counts = f"{kills['rename']:7}  {kills['removal']:8}  {kills['time']:9}"
        yield f"{name:<{width}}  {counts}  {late:8}  {faults:6}  {takes}"


def main(args: Kill) -> int:
    """Runs, prints the table and the faults; status 0 when there is none."""
    prepare_environment()
    module = importlib.import_module(args.module)
    scenarios = {n: s for n, s in module.SCENARIOS.items() if not args.commands or n.startswith(args.commands)}
    if args.list or not scenarios:
        print("\n".join(f"{name}: reimagen {scenario.line}" for name, scenario in module.SCENARIOS.items()))
        return 0 if args.list else 2
    with tempfile.TemporaryDirectory(prefix="reimagen_kill") as folder:
        specimens, scratch = Path(folder, "specimens"), Path(folder, "scratch")
        for path in (specimens, scratch):
            path.mkdir()
        os.environ["JAX_COMPILATION_CACHE_DIR"] = str(Path(folder, "cache"))
        os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
        module.write_specimens(specimens)
        killer = Killer(args.module, module.SCENARIOS, specimens, scratch)
        if args.replay is not None:
            return replay(killer, module.SCENARIOS, *args.replay)
        calm = {name: undisturbed(killer, name) for name in tqdm(scenarios, "undisturbed", disable=None)}
        seconds = {name: found.ran.seconds for name, found in calm.items()}
        chosen = plan({name: found.ran.points for name, found in calm.items()}, seconds, args.kills, args.seed)
        tallies = {name: Tally() for name in scenarios}
        for name, point in tqdm(chosen, "kills", disable=None):
            wrong, killed = kill(killer, name, scenarios[name], calm[name], point)
            tallies[name].kills[point.kind] += 1
            tallies[name].late += not killed
            if wrong:
                tallies[name].faults.append(f"{name}, killed {point}: {wrong}")
    print("\n".join(table(tallies, calm)))
    for name, found in calm.items():
        if found.volatile:
            print(f"{name}: compared by name alone, two runs differ: {', '.join(sorted(found.volatile))}")
    for line in (line for tally in tallies.values() for line in tally.faults):
        print(line)
    return int(any(tally.faults for tally in tallies.values()))


def replay(killer: Killer, scenarios: dict[str, Scenario], name: str, kind: str, number: float) -> int:
    """One kill."""
    point = Point(kind, number)
    wrong, killed = kill(killer, name, scenarios[name], undisturbed(killer, name), point)
    print(f"{name}, {'killed' if killed else 'not killed'} {point}: {wrong or 'as if nothing had happened'}")
    return int(bool(wrong))


if __name__ == "__main__":
    sys.exit(main(tyro.cli(Kill, description=__doc__)))
