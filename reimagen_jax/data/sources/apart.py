"""Runs what may end its process, such as a C++ library on a damaged file, in a process of its own; yields what it does.

A library that calls `abort` on bad input takes everything down with it; no `except` helps. So it works in a process of
its own, which reads ahead by one item, costs a third of a second to start and is used again for the next file. It ends
with this one, however this one ends: its pipe breaks.
"""

import atexit
import json
import os
import resource
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import suppress
from multiprocessing.connection import Connection, Pipe
from typing import Any

SILENCE = 300.0
"""Seconds without an answer after which the other process is given up."""
MAX_MEMORY = 2**33
"""Bytes of address space of the other process: what a damaged length asks for beyond is refused there."""
_START = (
    "import json, sys; sys.path[:] = json.loads(sys.argv[1]); "
    "from reimagen_jax.data.sources.apart import serve; serve(int(sys.argv[2]))"
)


class Broken(Exception):
    """The function raised, or its process died or fell silent; the message says which, on one line."""


def run(function: Callable[..., Iterator[Any]], *args: Any) -> Iterator[Any]:
    """Yields what `function(*args)` yields (a function of a module; all of it is pickled). Raises `Broken`."""
    worker = _take_idle() or _Worker()
    try:
        error = yield from worker.ask(function, args)
    except BaseException:
        worker.close()
        raise
    _idle.append(worker)
    if error is not None:
        raise Broken(error)


def one_line(error: Exception) -> str:
    """What an exception says, or its type where it says nothing."""
    return " ".join(str(error).split())[:500] or type(error).__name__


def serve(descriptor: int) -> None:
    """Answers requests until the pipe closes: the other process's whole life."""
    _limit(resource.RLIMIT_AS, MAX_MEMORY)
    _limit(resource.RLIMIT_CORE, 0)
    pipe = Connection(descriptor)
    try:
        while True:
            function, args = pipe.recv()
            try:
                for item in function(*args):
                    pipe.send((False, item))
                pipe.send((True, None))
            except (EOFError, ConnectionError):
                raise
            except Exception as error:  # whatever a foreign library raises
                pipe.send((True, one_line(error)))
    except (EOFError, ConnectionError):
        return


class _Worker:
    """The other process; what it says on its way out is kept."""

    def __init__(self) -> None:
        self._words = tempfile.TemporaryFile()  # noqa: SIM115 - closed with the process
        self._pipe, theirs = Pipe()
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-c", _START, json.dumps(sys.path), str(theirs.fileno())],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=self._words,
                stderr=self._words,
                process_group=0,  # Ctrl-C is for this process to handle
            )

    def ask(self, function: Callable[..., Iterator[Any]], args: tuple[Any, ...]) -> Iterator[Any]:
        """Yields the items; returns what the function raised, or `None`. Raises `Broken` where the process is lost."""
        try:
            self._pipe.send((function, args))
            while self._pipe.poll(SILENCE):
                done, item = self._pipe.recv()
                if done:
                    return item
                yield item
        except (EOFError, ConnectionError):
            raise Broken(self._last_words()) from None
        raise Broken(f"nothing came of reading it for {SILENCE:g} seconds")

    def alive(self) -> bool:
        return self._process.poll() is None

    def close(self) -> None:
        self._pipe.close()
        self._process.kill()
        self._process.wait()
        self._words.close()

    def _last_words(self) -> str:
        status = self._process.wait(10)
        self._words.seek(0)
        said = self._words.read().decode("utf-8", "backslashreplace").strip().splitlines() or ["nothing"]
        end = signal.Signals(-status).name if status < 0 else f"status {status}"
        return f"its reader ended with {end}, saying: {' '.join(said[-1].split())[:300]}"


_idle: list[_Worker] = []


def _take_idle() -> _Worker | None:
    while _idle:
        if (worker := _idle.pop()).alive():
            return worker
        worker.close()
    return None


@atexit.register
def close_idle() -> None:
    """Ends the processes that wait for further work."""
    while _idle:
        _idle.pop().close()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_idle.clear)  # whose they are not


def _limit(kind: int, most: int) -> None:
    _, hard = resource.getrlimit(kind)
    with suppress(ValueError):  # macOS knows the limits, and refuses some
        resource.setrlimit(kind, (most if hard == resource.RLIM_INFINITY else min(most, hard), hard))
