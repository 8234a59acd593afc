"""An ordered map over threads with a bounded look-ahead: for decoding, which leaves Python's lock while it works."""

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

A = TypeVar("A")
B = TypeVar("B")


def available_cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def ordered_map(function: Callable[[A], B], items: Iterable[A], *, ahead: int = 64) -> Iterator[B]:
    """Yields `function(item)` in the order of `items`, computed on all cores, at most `ahead` items in advance.

    An exception of `function` is raised in its item's turn. `items` is read in the calling thread.
    """
    with ThreadPoolExecutor(available_cores()) as pool:
        pending = deque()
        try:
            for item in items:
                pending.append(pool.submit(function, item))
                if len(pending) > ahead:
                    yield pending.popleft().result()
            while pending:
                yield pending.popleft().result()
        finally:
            for future in pending:
                future.cancel()
