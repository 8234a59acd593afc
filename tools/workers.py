"""Readers asked in processes of their own, so that one that dies, hangs or eats all memory is an answer like any other.

A process reads one input after another; when it dies, or has to be ended, a new one takes its place. New ones are
forked from a server that has imported everything and started nothing, so that they cost a fraction of a second.
"""

import base64
import importlib
import io
import multiprocessing as mp
import os
import re
import shutil
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import redirect_stderr, redirect_stdout, suppress
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

OK, REFUSED = "ok", "refused"
READS = 400
"""Inputs after which a process is replaced, so that what it keeps is not taken for what one input needs."""
CHANGED = "CHANGED"
"""A file beside the specimens that names the first one that was changed, for readers of one file among many."""
INTERPRETERS_OWN = "AST constructor recursion depth mismatch"
"""What Python 3.11 says once in some ten thousand times when two threads parse at once (CPython issue 106905): NumPy
parses the head of a file, tyro the texts of options. The input is then read again."""
_POLL = 0.05
_IMPORTS = 20
"""Seconds that the first answer of a process may take besides: it compiles the search."""


@dataclass(frozen=True)
class Target:
    """A reader, the specimens that it reads, and which of their files are changed."""

    read: Callable[[Path], str]
    folders: tuple[str, ...]
    """Of the specimens; all are there, under their names."""
    changed: tuple[str, ...]
    """Patterns of paths."""
    ours: bool = True
    """Written by this program with checksums, so that it can tell a flipped bit; logs and others' files have none."""


@dataclass(frozen=True)
class Limits:
    """What a reader may take."""

    seconds: float = 30.0
    memory: float = 2.0
    """GiB that the process holds."""


@dataclass
class Input:
    """What a target reads: its specimens, of which some files are others."""

    target: str
    number: int = -1
    files: dict[str, bytes | str] = field(default_factory=dict)
    """Paths -> contents, or a text that says what stands there instead (`PLACES`)."""
    what: str = "unchanged"
    """What was done."""

    def to_json(self) -> dict[str, Any]:
        """To be stored."""
        files = {
            path: {"base64": base64.b64encode(content).decode()} if isinstance(content, bytes) else content
            for path, content in self.files.items()
        }
        return {"target": self.target, "number": self.number, "what": self.what, "files": files}

    @classmethod
    def from_json(cls, stored: dict[str, Any]) -> "Input":
        """The inverse."""
        files = {
            path: base64.b64decode(content["base64"]) if isinstance(content, dict) else content
            for path, content in stored["files"].items()
        }
        return cls(stored["target"], stored["number"], files, stored["what"])


@dataclass
class Answer:
    """What became of an input."""

    given: Input
    outcome: str
    """`OK`, `REFUSED`, or one line that says what else happened."""
    said: str
    """The digest of what was read; why it was refused; a traceback; what a process that died left in its log."""
    seconds: float
    peak: int
    """Bytes that the process held at most."""

    @property
    def kind(self) -> str:
        """The outcome without its details: equal kinds have one cause, mostly."""
        name, _, detail = self.outcome.partition(": ")
        return name if " at " in name or not detail else re.sub(r"'[^']*'|\d+", "_", self.outcome)[:80]


PLACES: dict[str, Callable[[Path], Any]] = {
    "nothing": lambda path: None,
    "a folder": Path.mkdir,
    "a link to nothing": lambda path: path.symlink_to("nowhere"),
    "a link to itself": lambda path: path.symlink_to(path.name),
}
"""What may stand in the place of a file. (A pipe is not among them: to wait for who writes to it is right.)"""


def answers(
    module: str, specimens: Path, scratch: Path, give: Callable[[], Input | None], limits: Limits, workers: int
) -> Iterator[Answer]:
    """Asks for inputs until there is none, and yields what becomes of each, in the order of the answers."""
    os.environ["PYTHONPATH"] = os.pathsep.join([str(Path(__file__).parent), *filter(None, sys.path)])
    context = mp.get_context("forkserver")
    context.set_forkserver_preload([module])
    asked = [_Worker(context, (module, specimens, scratch / f"reads{i}"), limits) for i in range(max(1, workers))]
    try:
        while True:
            for worker in asked:
                if worker.given is None and (given := give()) is not None:
                    worker.ask(given)
            busy = [worker for worker in asked if worker.given is not None]
            if not busy:
                return
            wait([worker.connection for worker in busy], _POLL)
            yield from filter(None, [worker.answer() for worker in busy])
    finally:
        for worker in asked:
            worker.stop()


class _Worker:
    """A process that reads, and what it is at."""

    def __init__(self, context: Any, what: tuple[str, Path, Path], limits: Limits):
        self._context, self._what, self._limits = context, what, limits
        self._log = what[2].with_suffix(".log")
        self.given: Input | None = None
        self._start()

    def _start(self) -> None:
        self.connection, theirs = self._context.Pipe()
        given = (theirs, *self._what, self._log, 0.9 * self._limits.seconds)
        self._process = self._context.Process(target=_work, args=given, daemon=True)
        self._process.start()
        theirs.close()
        self._done = 0

    def stop(self) -> None:
        """Ends the process."""
        self.connection.close()
        self._process.join(1)
        if self._process.is_alive():
            self._process.kill()
            self._process.join()

    def ask(self, given: Input) -> None:
        if self._done >= READS:
            self._replace()
        self.given, self._began, self._peak = given, time.monotonic(), 0
        self.connection.send(given)

    def answer(self) -> Answer | None:
        """The answer, where there is one or will not be one."""
        taken = time.monotonic() - self._began
        if self.connection.poll():
            try:
                outcome, said, taken, peak = self.connection.recv()
            except (EOFError, ConnectionResetError):
                self._process.join(5)
                code = self._process.exitcode or 0
                name = signal.Signals(-code).name if code < 0 else f"status {code}"
                return self._ended(f"the process ended: {name}", taken)
            if peak <= self._limits.memory * 2**30:
                self._done += 1
                return self._answered(outcome, said, taken, peak)
            self._peak = peak
        self._peak = max(self._peak, memory(self._process.pid, "VmRSS:"))
        if self._peak > self._limits.memory * 2**30:
            return self._ended(f"more than {self._limits.memory:g} GiB of memory", taken)
        if taken > self._limits.seconds + _IMPORTS * (not self._done):
            return self._ended(f"no answer in {self._limits.seconds:g} s", taken)
        return None

    def _answered(self, outcome: str, said: str, seconds: float, peak: int) -> Answer:
        given, self.given = self.given, None
        return Answer(given, outcome, said, seconds, peak)

    def _ended(self, outcome: str, seconds: float) -> Answer:
        with suppress(OSError):
            said = self._log.read_bytes()[-4000:].decode("utf-8", "replace")
        self._replace()
        return self._answered(outcome, said, seconds, self._peak)

    def _replace(self) -> None:
        self._process.kill()
        self.stop()
        self._start()


def _work(connection: Connection, module: str, specimens: Path, scratch: Path, log: Path, seconds: float) -> None:
    """What a process does: reads what it is given, and answers."""
    import faulthandler

    # What libraries write in C++, and the stack of a reader that dies or takes too long.
    descriptor = os.open(log, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    faulthandler.enable(2)
    targets = importlib.import_module(module)
    while True:
        try:
            given = connection.recv()
        except EOFError:
            return
        os.ftruncate(2, 0)
        with suppress(OSError):  # where the peak cannot be reset, it is that of the process so far
            Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
        faulthandler.dump_traceback_later(seconds, file=2)
        began = time.perf_counter()
        outcome, said = read(targets, specimens, given, scratch)
        if INTERPRETERS_OWN in outcome:  # two threads that parsed at once: nothing of the input's
            outcome, said = read(targets, specimens, given, scratch)
        taken = time.perf_counter() - began
        faulthandler.cancel_dump_traceback_later()
        connection.send((outcome, said, taken, memory(os.getpid(), "VmHWM:")))


def read(module: Any, specimens: Path, given: Input, scratch: Path) -> tuple[str, str]:
    """Reads an input in this process: the outcome, and what the reader said of it."""
    from reimagen_jax import cli
    from reimagen_jax.errors import UserError

    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir(parents=True)
    _put(module, specimens, given, scratch)
    out = io.StringIO()
    try:
        with redirect_stdout(out), redirect_stderr(out):
            return OK, module.TARGETS[given.target].read(scratch)
    except UserError as error:
        return REFUSED, str(error)[:500]
    except OSError as error:
        if error.errno in cli.MENDABLE:  # of which the command line tells in one line, too
            return REFUSED, str(error)[:500]
        return _summary(error), traceback.format_exc()[-6000:]
    except Exception as error:
        return _summary(error), traceback.format_exc()[-6000:]


def _put(module: Any, specimens: Path, given: Input, folder: Path) -> None:
    """Writes the target's specimens, with the input's files among them, into an empty folder."""
    for name in module.TARGETS[given.target].folders:
        shutil.copytree(specimens / name, folder / name, copy_function=shutil.copyfile)
    for name, content in given.files.items():
        path = folder / name
        path.unlink(missing_ok=True)
        if isinstance(content, bytes):
            path.write_bytes(content)
        else:
            PLACES[content](path)
    if given.files:
        (folder / CHANGED).write_text(next(iter(given.files)), encoding="utf-8")


def _summary(error: BaseException) -> str:
    """An exception with the innermost place in the program that it passed."""
    inner = [frame for frame in traceback.extract_tb(error.__traceback__) if "reimagen_jax" in frame.filename]
    where = f" at {Path(inner[-1].filename).name}:{inner[-1].lineno}" if inner else ""
    text = " ".join(str(error).split())[:160]
    return f"{type(error).__name__}{where}: {text}"


def memory(process: int, line: str) -> int:
    """Bytes: the most that a process held (VmHWM:) or what it holds now (VmRSS:); 0 where that is not told."""
    try:
        status = Path(f"/proc/{process}/status").read_text(encoding="ascii")
    except OSError:
        return 0
    return next((1024 * int(row.split()[1]) for row in status.splitlines() if row.startswith(line)), 0)


def changed_files(module: Any, specimens: Path, target: str) -> list[str]:
    """Paths of the specimens that are changed for a target, in order."""
    found = module.TARGETS[target]
    paths = [path.relative_to(specimens) for name in found.folders for path in sorted((specimens / name).rglob("*"))]
    return [str(path) for path in paths if (specimens / path).is_file() and _fits(path, found.changed)]


def _fits(path: Path, patterns: tuple[str, ...]) -> bool:
    """Whether a path, or a folder that it lies in, is meant."""
    return any(place.match(pattern) for pattern in patterns for place in (path, *path.parents))


def prepare_environment() -> None:
    """What has to be set before JAX starts: readers are asked on a CPU."""
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    sys.path.insert(0, str(Path(__file__).parent))
    from reimagen_jax import runtime

    runtime.configure(keep=False)
