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

Note = Bool[Array, " b"]
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

    checked = checkify.checkify(program, errors=checkify.user_checks)

    def noting(*inputs: Any) -> tuple[Note, Array]:
        error, samples = checked(*inputs)
        # checkify numbers what it checks, anew in every trace of a process. The numbers stay outside: a program that
        # returned them would never be found in the compilation cache by the next trace of the same.
        told = jax.tree.leaves(error)  # of the one check: whether it failed, its number, and what it tells
        return told[0] & told[2] if told else jnp.zeros(len(samples), bool), samples

    return noting


def broken(note: Note) -> Bool[np.ndarray, " b"]:
    """Which samples are not finite; waits for them."""
    return np.asarray(jax.device_get(note))
