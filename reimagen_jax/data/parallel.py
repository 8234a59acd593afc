"""An ordered map over threads with a bounded look-ahead: for decoding, which leaves Python's lock while it works."""

import math
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from threading import Condition
from typing import TypeVar

A = TypeVar("A")
B = TypeVar("B")


AHEAD_BYTES = 2**28
"""What results may weigh that wait for their turn."""


def available_cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class Budget:
    """So many bytes, that threads share; who needs more than there are gets all of them, alone."""

    def __init__(self, size: int):
        self._size = size
        self._used = 0
        self._changed = Condition()

    @contextmanager
    def hold(self, size: int) -> Iterator[None]:
        """Waits until so many bytes are free, and takes them for the block; not to be nested."""
        size = min(size, self._size)
        with self._changed:
            self._changed.wait_for(lambda: self._used + size <= self._size)
            self._used += size
        try:
            yield
        finally:
            with self._changed:
                self._used -= size
                self._changed.notify_all()


def ordered_map(
    function: Callable[[A], B],
    items: Iterable[A],
    *,
    ahead: int = 64,
    weigh: Callable[[B], int] = lambda result: 0,
) -> Iterator[B]:
    """Yields `function(item)` in the order of `items`, computed on all cores, at most `ahead` items in advance.

    No item but the next is begun while the results that wait for their turn weigh more than `AHEAD_BYTES`. An exception
    of `function` is raised in its item's turn. `items` is read in the calling thread.
    """
    changed, waiting, turn = Condition(), 0, 0

    def work(number: int, item: A) -> tuple[B, int]:
        nonlocal waiting
        with changed:
            changed.wait_for(lambda: waiting <= AHEAD_BYTES or number <= turn)
        result = function(item)
        with changed:
            waiting += (weight := weigh(result))
        return result, weight

    def take(future: Future[tuple[B, int]]) -> B:
        nonlocal waiting, turn
        result, weight = future.result()
        with changed:
            waiting, turn = waiting - weight, turn + 1
            changed.notify_all()
        return result

    with ThreadPoolExecutor(available_cores()) as pool:
        pending = deque()
        try:
            for number, item in enumerate(items):
                pending.append(pool.submit(work, number, item))
                if len(pending) > ahead:
                    yield take(pending.popleft())
            while pending:
                yield take(pending.popleft())
        finally:
            for future in pending:
                future.cancel()
            with changed:  # those that have begun to wait
                turn = math.inf
                changed.notify_all()
