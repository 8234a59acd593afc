"""SIGTERM and Ctrl-C as requests to stop at the end of a step, in one process or in all of a run's."""

import functools
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Int32


class StopRequest:
    """The signal that this process, or any, has received."""

    received: signal.Signals | None = None
    _asked: Int32[Array, ""] | None = None
    """What the processes said after the step before; still on its way, perhaps."""

    def agreed(self) -> bool:
        """Whether all processes stop after this step; each calls it once a step, when the step has been dispatched.

        They have to leave, and save, at the same one. One process decides at once. Several put the question behind
        the step on their devices and read the answer a step later, when it is there: no step waits for another.
        """
        if jax.process_count() == 1:
            return self.received is not None
        before, self._asked = self._asked, _largest()(self.received or 0)
        number = 0 if before is None else int(before)
        if number:
            self.received = signal.Signals(number)
        return number != 0


@functools.cache
def _largest() -> Callable[[int], Int32[Array, ""]]:
    """Makes the function that each process calls with its number and that returns the largest, without waiting."""
    mesh = Mesh(np.asarray(jax.devices()), ("device",))
    largest = jax.jit(jnp.max, out_shardings=NamedSharding(mesh, P()))

    def ask(number: int) -> Int32[Array, ""]:
        mine = np.full(jax.local_device_count(), number, np.int32)
        return largest(jax.make_array_from_process_local_data(NamedSharding(mesh, P("device")), mine))

    return ask


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
