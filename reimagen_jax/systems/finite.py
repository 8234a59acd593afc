"""Samples that are not finite, told from those that are: bytes cannot say it, NaN would be a black picture.

Where floats become images, `mark` notes which samples are not finite; a program made by `watched` returns the note
beside its samples, as a few bits more (jax's checkify: no program of its own, no further round trip). Elsewhere the
mark is nothing.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import checkify
from jaxtyping import Array, Bool

CAUSES = (
    "such are drawn by weights of a training that diverged, weights too large for float16, or guidance weights far too "
    "large for the model"
)
"""What may be wrong where samples are not finite."""

Note = Any
"""Which samples are not finite, on the device."""


def mark(samples: Array) -> None:
    """Notes which samples of a batch, its first axis, are not finite."""
    bad_B = ~jnp.isfinite(samples).reshape(len(samples), -1).all(axis=1)
    checkify.debug_check(~bad_B.any(), "samples are not finite: {bad_B}", bad_B=bad_B)


def watched(sample: Callable[..., Array]) -> Callable[..., tuple[Note, Array]]:
    """`sample` with the note of what it marks; vectors, which are floats, are marked here."""

    def program(*inputs: Any) -> Array:
        samples = sample(*inputs)
        if jnp.issubdtype(samples.dtype, jnp.floating):
            mark(samples)
        return samples

    return checkify.checkify(program, errors=checkify.user_checks)


def broken(note: Note, batch: int) -> Bool[np.ndarray, " b"]:
    """Which samples of a batch of so many are not finite; waits for them."""
    failure = jax.device_get(note).get_exception()
    return np.zeros(batch, bool) if failure is None else np.asarray(failure.kwargs["bad_B"])
