"""Whether weights are numbers: one look at each, when they are read or written, and a message that names the parameter.

A NaN anywhere makes all that a network computes NaN, long after the file that it came from is forgotten.
"""

from typing import Any

import jax
import ml_dtypes
import numpy as np
from flax.traverse_util import flatten_dict

from reimagen_jax.errors import UserError

CHUNK = 2**16
"""Numbers looked at together: they stay in a processor's cache."""
_EXPONENT = 0x7F80
"""Of bfloat16: all of its bits are set in infinities and NaN. (NumPy's own test is ten times slower there.)"""


def all_finite(array: np.ndarray) -> bool:
    """Whether there is neither NaN nor infinity; arrays of whole numbers have none."""
    if array.dtype == ml_dtypes.bfloat16:
        bits = array.view(np.uint16).ravel()
        return all(((bits[i : i + CHUNK] & _EXPONENT) != _EXPONENT).all() for i in range(0, bits.size, CHUNK))
    flat = array.ravel()
    return all(np.isfinite(flat[i : i + CHUNK]).all() for i in range(0, flat.size, CHUNK))


def require_finite(array: np.ndarray, name: str, where: object) -> None:
    """Raises `UserError` naming the parameter and where it was read."""
    if not all_finite(array):
        number = int((~np.isfinite(array.astype(np.float32))).sum())
        raise UserError(
            f"{where}: {number:,} of the {array.size:,} numbers of {name} are not finite: the file is damaged, or the "
            "training that wrote it diverged"
        )


def require_finite_tree(params: Any, where: object) -> None:
    """The same for all parameters of a tree, wherever they lie; of those split over hosts, for this host's parts."""
    for name, leaf in flatten_dict(params, sep="/").items():
        parts = [part.data for part in leaf.addressable_shards] if isinstance(leaf, jax.Array) else [leaf]
        for part in parts if not isinstance(leaf, jax.Array) or not leaf.is_fully_replicated else parts[:1]:
            require_finite(np.asarray(part), name, where)
