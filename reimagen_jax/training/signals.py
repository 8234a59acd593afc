"""SIGTERM and Ctrl-C as requests to stop at the end of a step, in one process or in all of a run's."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils


class StopRequest:
    """The signal that this process, or any, has received."""

    received: signal.Signals | None = None

    def agreed(self, may_wait: bool) -> bool:
        """Whether all processes stop at this step: they have to leave, and save, at the same one.

        One process decides at once. Several ask each other, which waits for the slowest: only where `may_wait`.
        """
        if jax.process_count() > 1 and may_wait:
            mine = np.int32(self.received or 0)
            number = int(np.max(multihost_utils.process_allgather(mine)))
            self.received = signal.Signals(number) if number else None
            return number != 0
        return jax.process_count() == 1 and self.received is not None


@contextmanager
def stop_requests() -> Iterator[StopRequest]:
    """Notes SIGTERM and SIGINT instead of dying of them; the second one finds things as they were before."""
    stop, previous = StopRequest(), {}

    def note(number: int, frame: Any) -> None:
        stop.received = signal.Signals(number)
        restore()

    def restore() -> None:
        for number, handler in previous.items():
            signal.signal(number, handler)

    # Python delivers signals to the main thread only; a loop in another one is stopped by whoever runs it.
    if threading.current_thread() is threading.main_thread():
        for number in (signal.SIGTERM, signal.SIGINT):
            previous[number] = signal.signal(number, note)
    try:
        yield stop
    finally:
        restore()
