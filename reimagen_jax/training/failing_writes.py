"""One line for what cannot be written, be it a full disk, a folder of somebody else's, or a bucket."""

import errno
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import PurePath

from reimagen_jax import stores
from reimagen_jax.errors import UserError

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


@contextmanager
def writing(path: PurePath) -> Iterator[None]:
    """Turns a failure to write (a full disk, above all) into one line; what was there before stays whole."""
    try:
        with stores.told(path):
            yield
    except (OSError, ValueError) as error:  # tensorstore reports what the system refuses as ValueError, in words
        number = _system_error(error)
        if number is None:
            raise
        advice = "make room there" if number in FULL else "choose a folder you may write to"
        raise UserError(
            f"{path} cannot be written ({reason(error)}): {advice}, then run the same command again"
        ) from error


def _system_error(error: Exception) -> int | None:
    """The number of the system's error that an exception tells of, also in words only; None for any other."""
    if isinstance(error, OSError) and error.errno is not None:
        return error.errno
    return next((number for number in errno.errorcode if os.strerror(number) in str(error)), None)


def reason(error: Exception) -> str:
    """The first line of an error's text, or its name; of a long one its beginning and end, where the system speaks.

    After the system's words tensorstore may put more, as `[name='value']`: of an array that cannot be created, its
    whole specification. Which of many writes fails first is chance, so that is left out.
    """
    text = (str(error).strip() or type(error).__name__).splitlines()[0]
    text = re.sub(r" \[\w[\w ]*='.*", "", text)
    return text if len(text) <= 300 else f"{text[:120]} ... {text[-180:]}"
