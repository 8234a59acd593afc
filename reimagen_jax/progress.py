"""What long work tells meanwhile: bars, shown on a terminal, silent in a log file or a pipe; and lines between them."""

import contextlib
import sys
from collections.abc import Iterable, Iterator
from typing import TypeVar

from tqdm import tqdm

from reimagen_jax.terminal import printable

T = TypeVar("T")


def track(iterable: Iterable[T], total: int | None, what: str, unit: str = "it") -> Iterator[T]:
    """Yields from `iterable` behind a progress bar on stderr, or behind nothing where stderr is not a terminal.

    Without a title there is no bar: for a part of what has one.
    """
    shown = bool(what) and sys.stderr is not None and sys.stderr.isatty()
    return iter(tqdm(iterable, total=total, desc=printable(what), unit=unit, disable=not shown, dynamic_ncols=True))


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
