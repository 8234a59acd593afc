"""Programs that take turns, each in a process of its own, with the memory, threads and libraries that its users have.

A process says what it is in a line of JSON, then for each line that names an action, does it and says what it took
(`serve`). Who compares starts it and asks (`Served`). What a rival has running or keeps of the memory is not measured
with it, and on a shared machine neighbouring turns meet the same load: ratios are of these.
"""

import json
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TextIO

import numpy as np

Took = dict[str, float]
"""`seconds` by the clock; `cpu_seconds` of this process, `kernel_seconds` of these; `faults`: pages that the system
gave."""


def once(act: Callable[[], Any]) -> Took:
    """What one call takes; it has to wait for its own end."""
    clock, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_SELF)
    act()
    after, seconds = resource.getrusage(resource.RUSAGE_SELF), time.perf_counter() - clock
    kernel = after.ru_stime - before.ru_stime
    return {
        "seconds": seconds,
        "cpu_seconds": after.ru_utime - before.ru_utime + kernel,
        "kernel_seconds": kernel,
        "faults": after.ru_minflt - before.ru_minflt,
    }


def serve(
    facts: dict[str, Any],
    actions: Mapping[str, Callable[[], Any]],
    asked: TextIO = sys.stdin,
    said: TextIO = sys.stdout,
) -> None:
    """Does the actions that are asked for until nobody asks any more."""
    print(json.dumps(facts), file=said, flush=True)
    for line in asked:
        print(json.dumps(once(actions[line.strip()])), file=said, flush=True)


class Served:
    """A process that serves, and the `facts` it has said; it ends with the `with` block."""

    def __init__(self, command: Sequence[str]):
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.facts = self._said()

    def take(self, action: str) -> Took:
        """One turn.

        Raises:
            RuntimeError: the process has ended.
        """
        print(action, file=self.process.stdin, flush=True)
        return self._said()

    def _said(self) -> Any:
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError(f"{self.process.args} ended with status {self.process.wait()}")
        return json.loads(line)

    def __enter__(self) -> "Served":
        return self

    def __exit__(self, *_: object) -> None:
        with self.process:  # closes its input: it ends
            pass


def in_turn(all_of: Sequence[Served], action: str, rounds: int) -> list[list[Took]]:
    """What the action of each of them took in each round; a first round does not count."""
    taken = [[one.take(action) for one in all_of] for _ in range(rounds + 1)]
    return [list(one) for one in zip(*taken[1:], strict=True)]


def median(taken: Sequence[Took]) -> Took:
    """Of each number."""
    return {name: float(np.median([one[name] for one in taken])) for name in taken[0]}


def ratios(slow: Sequence[Took], fast: Sequence[Took]) -> dict[str, list[float]]:
    """slow / fast of neighbouring turns, by the clock and in CPU time: lower quartile, median, upper quartile."""
    return {
        name: [
            float(q) for q in np.percentile([s[name] / f[name] for s, f in zip(slow, fast, strict=True)], (25, 50, 75))
        ]
        for name in ("seconds", "cpu_seconds")
    }
