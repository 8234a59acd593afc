"""Progress bars: shown on a terminal, silent in a log file or a pipe."""

import sys
from collections.abc import Iterable, Iterator
from typing import TypeVar

from tqdm import tqdm

from reimagen_jax.terminal import printable

T = TypeVar("T")


def track(iterable: Iterable[T], total: int | None, what: str, unit: str = "it") -> Iterator[T]:
    """Yields from `iterable` behind a progress bar on stderr, or behind nothing where stderr is not a terminal."""
    shown = {"desc": printable(what), "unit": unit, "dynamic_ncols": True, "disable": not sys.stderr.isatty()}
    return iter(tqdm(iterable, total=total, **shown))
