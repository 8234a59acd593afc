"""A queue for one device: jobs are done in order, tell of their steps, and can be cancelled between two."""

import asyncio
import itertools
import sys
import threading
import traceback
from collections import deque
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Literal

from reimagen_jax.errors import UserError, require
from reimagen_jax.inference.stepping import Tell

State = Literal["waiting", "running", "done", "failed", "cancelled"]
Work = Callable[[int, Tell], Any]
LONGEST = 20
"""Jobs that wait at most."""
KEPT = 1000
"""Events that a page which does not listen is behind at most; it asks for the state anew then."""


class Cancelled(Exception):
    """A person has changed their mind."""


@dataclass
class Job:
    """Something that the device does."""

    number: int
    title: str
    work: Work = field(repr=False)
    """Returns what is told of it when it is done, in JSON types; takes its number, and what to call after each step."""
    about: dict[str, Any] = field(default_factory=dict)
    state: State = "waiting"
    step: int = 0
    steps: int = 0
    """0: not known yet."""
    result: Any = None
    error: str = ""
    cancelled: threading.Event = field(default_factory=threading.Event, repr=False)

    def told(self) -> dict[str, Any]:
        """In JSON types."""
        names = ("number", "title", "about", "state", "step", "steps", "result", "error")
        return {name: getattr(self, name) for name in names}


class Device:
    """The queue, and the one thread that works."""

    def __init__(self) -> None:
        self._numbers, self._waiting, self.running = itertools.count(1), deque[Job](), None
        self._lock, self._more, self._ended = threading.Lock(), threading.Condition(), False
        self._listeners: dict[asyncio.Queue, asyncio.AbstractEventLoop] = {}
        self._thread = threading.Thread(target=self._work, name="device", daemon=True)
        self._thread.start()

    def add(self, title: str, work: Work, **about: Any) -> Job:
        """Puts a job at the end. Raises `UserError` where too many wait."""
        with self._more:
            require(len(self._waiting) < LONGEST, f"{LONGEST} drawings wait already: let some end, or cancel them")
            job = Job(next(self._numbers), title, work, about)
            self._waiting.append(job)
            self._more.notify()
        self._tell(job)
        return job

    def cancel(self, number: int) -> None:
        """Ends a job, which may run. Raises `UserError` where there is none of the number."""
        with self._more:
            found = next((job for job in self.jobs if job.number == number), None)
            require(found is not None, "that is done already")
            found.cancelled.set()
            waited = found in self._waiting
            if waited:
                self._waiting.remove(found)
                found.state = "cancelled"
        if waited:
            self._tell(found)

    @property
    def jobs(self) -> list[Job]:
        """That which runs, and those that wait, in order."""
        return [job for job in (self.running, *self._waiting) if job is not None]

    def close(self) -> None:
        """Ends what runs after its step, and the thread."""
        with self._more:
            self._ended = True
            for job in self.jobs:
                job.cancelled.set()
            self._waiting.clear()
            self._more.notify()
        self._thread.join(10)

    async def events(self) -> AsyncIterator[dict[str, Any]]:
        """What happens from now on."""
        queue: asyncio.Queue = asyncio.Queue(KEPT)
        with self._lock:
            self._listeners[queue] = asyncio.get_running_loop()
        try:
            yield {"jobs": [job.told() for job in self.jobs]}
            while True:
                yield await queue.get()
        finally:
            with self._lock:
                self._listeners.pop(queue, None)

    def _tell(self, job: Job) -> None:
        event = {"job": job.told(), "waiting": [each.number for each in list(self._waiting)]}
        with self._lock:
            listeners = list(self._listeners.items())
        for queue, loop in listeners:
            with suppress(RuntimeError):  # the loop is closed: nobody listens
                loop.call_soon_threadsafe(_put, queue, event)

    def _work(self) -> None:
        while True:
            with self._more:
                self._more.wait_for(lambda: self._waiting or self._ended)
                if self._ended:
                    return
                self.running = self._waiting.popleft()
                self.running.state = "running"
            self._do(self.running)
            with self._more:
                done, self.running = self.running, None
            self._tell(done)

    def _do(self, job: Job) -> None:
        def tell(step: int, steps: int) -> None:
            if job.cancelled.is_set():
                raise Cancelled
            job.step, job.steps = step, steps
            self._tell(job)

        self._tell(job)
        try:
            job.result = job.work(job.number, tell)
            job.state = "done"
        except Cancelled:
            job.state = "cancelled"
        except UserError as error:
            job.state, job.error = "failed", " ".join(error.wrong.split())
        except Exception as error:
            traceback.print_exception(error, file=sys.stderr)
            job.state, job.error = "failed", "a fault of this program: the terminal that it was started in says more"


def _put(queue: asyncio.Queue, event: dict[str, Any]) -> None:
    if queue.full():
        queue.get_nowait()
    queue.put_nowait(event)
