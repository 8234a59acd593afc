"""One failure told once: Orbax reads many arrays at a time, and what fails after the first says nothing new.

As soon as one read fails, Orbax closes its event loop and raises. Reads under way find the loop closed, for which
tensorstore's threads print a traceback each; tasks that failed, too, are printed by asyncio when they are collected.
"""

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

CLOSED = "Event loop is closed"
UNASKED = "exception was never retrieved"


@contextmanager
def told_once() -> Iterator[None]:
    """What the block raises is all that is said, also afterwards, when the reads left alone end."""
    before, logger = sys.unraisablehook, logging.getLogger("asyncio")

    def hook(unraisable: Any) -> None:
        if str(unraisable.exc_value) != CLOSED:
            before(unraisable)

    sys.unraisablehook = hook
    logger.addFilter(_asked_for)
    yield  # where it fails, both stay: nobody knows when the last read ends
    logger.removeFilter(_asked_for)
    sys.unraisablehook = before


def _asked_for(record: logging.LogRecord) -> bool:
    """Whether a message is not about a task of Orbax's that nobody waits for any more."""
    message = record.getMessage()
    return UNASKED not in message or "orbax" not in message
