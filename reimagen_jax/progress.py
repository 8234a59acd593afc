"""What long work tells meanwhile: bars, shown on a terminal, silent in a log file or a pipe; and lines between them."""

import contextlib
import sys
import threading
from collections.abc import Iterable, Iterator
from typing import TypeVar

from tqdm import tqdm

from reimagen_jax.terminal import printable

T = TypeVar("T")
PATIENCE = 2.0
"""Seconds of waiting that need no word."""


def track(iterable: Iterable[T], total: int | None, what: str, unit: str = "it") -> Iterator[T]:
    """Yields from `iterable` behind a progress bar on stderr, or behind nothing where stderr is not a terminal.

    Without a title there is no bar: for a part of what has one.
    """
    shown = bool(what) and _watched()
    return iter(tqdm(iterable, total=total, desc=printable(what), unit=unit, disable=not shown, dynamic_ncols=True))


def _watched() -> bool:
    """Whether somebody sits before a terminal."""
    return sys.stderr is not None and sys.stderr.isatty()


def about_compiling(what: str, kept: str | None, seconds: float | None = None) -> str:
    """What is said before a program is compiled, which takes about so long unless it is `kept` in that folder."""
    minutes = 0 if seconds is None else round(seconds / 60)
    long = f"about {minutes} minutes" if minutes > 1 else "about a minute" if minutes else "less than a minute"
    first = "the first time takes a while" if seconds is None else f"{long} the first time"
    return f"compiling {what}: {first}, " + (f"kept for the next time in {kept}" if kept else "kept nowhere")


@contextlib.contextmanager
def compiling(what: str, kept: str | None) -> Iterator[None]:
    """Says on a terminal what one waits for, if one does: a program that was kept is there at once."""
    later = threading.Timer(PATIENCE, say, [about_compiling(what, kept)])
    later.daemon = True
    if _watched():
        later.start()
    try:
        yield
    finally:
        later.cancel()


def say(text: str) -> None:
    """One line on standard output that leaves a progress bar whole; work goes on where it cannot be told.

    What the stream has no characters for is written as `\\xe9`; a stream that is closed, gone or full takes no more.
    """
    stream = sys.stdout
    if stream is None:
        return
    encoding = getattr(stream, "encoding", None) or "utf-8"
    with contextlib.suppress(OSError):
        tqdm.write(printable(text).encode(encoding, errors="backslashreplace").decode(encoding), file=stream)
        stream.flush()
