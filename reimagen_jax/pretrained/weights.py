"""Our own parameters as files: safetensors, whose names are the paths in the parameter tree, joined by "/"."""

import hashlib
import json
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import ml_dtypes
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict
from safetensors.numpy import save_file

from reimagen_jax.errors import UserError
from reimagen_jax.pretrained.finite import all_finite, require_finite
from reimagen_jax.pretrained.safetensors_reader import Checkpoint

WEIGHTS = "weights.safetensors"


def save_params(path: str | Path, params: Any, dtype: np.dtype | type = np.float32) -> None:
    """Writes a parameter tree as one safetensors file, whole or not at all; floats are stored as `stored_dtype` says.

    Raises `UserError` naming a parameter that is not finite, or that `dtype` cannot hold.
    """
    path = Path(path)
    # safetensors writes the memory as it lies, a transposed array's too, so it has to lie in order.
    flat = {
        name: _stored(np.asarray(leaf), name, stored_dtype(np.ndim(leaf), dtype))
        for name, leaf in flatten_dict(params, sep="/").items()
    }
    partial = path.with_name(f".{path.name}.partial")
    save_file(flat, partial)
    partial.chmod(0o644)  # safetensors makes files private; an installed package is read by others
    partial.replace(path)


def stored_dtype(rank: int, dtype: np.dtype | type | str) -> np.dtype:
    """That of a parameter of this rank among weights that are stored as `dtype`.

    Of bfloat16, which has the range of float32 and few digits, vectors stay float32: they take no room.
    """
    dtype = jnp.dtype(dtype)
    return np.dtype(np.float32) if rank < 2 and dtype == ml_dtypes.bfloat16 else dtype


def _stored(array: np.ndarray, name: str, dtype: np.dtype | type) -> np.ndarray:
    with np.errstate(over="ignore"):
        stored = np.asarray(array, dtype, order="C")
    if not all_finite(stored):
        require_finite(array, name, "the weights cannot be stored")
        raise UserError(
            f"{name} holds {np.abs(array).max():g}, and {np.dtype(dtype).name} ends at {jnp.finfo(dtype).max:g}: store "
            "the weights as float32 (--dtype float32)"
        )
    return stored


def load_params(path: str | Path, expected: Any, *, on_host: bool = False) -> Any:
    """Reads a parameter tree as float32, to the default device or, `on_host`, as arrays of numpy. What is stored as
    bfloat16 is held as that: networks compute the same with it, in half the memory.

    `expected` is a tree of shapes (from `jax.eval_shape`). Raises `UserError` naming all missing, unknown and
    differently shaped parameters at once, and one that is not finite.
    """
    checkpoint = Checkpoint([Path(path)])
    shapes = {name: tuple(leaf.shape) for name, leaf in flatten_dict(expected, sep="/").items()}
    problems = [f"{name} is missing" for name in sorted(shapes.keys() - checkpoint.keys())]
    problems += [f"{name} is unknown" for name in sorted(checkpoint.keys() - shapes.keys())]
    problems += [
        f"{name} has shape {checkpoint.shape(name)}, not {shapes[name]}"
        for name in sorted(shapes.keys() & checkpoint.keys())
        if checkpoint.shape(name) != shapes[name]
    ]
    if problems:
        raise UserError(f"{path} does not fit the network: " + "; ".join(problems))
    # One after the other, so that a host never holds the file's copy of everything besides.
    asarray = np.asarray if on_host else jnp.asarray
    return unflatten_dict({name: asarray(_read(checkpoint, name, path)) for name in shapes}, sep="/")


def _read(checkpoint: Checkpoint, name: str, path: str | Path) -> np.ndarray:
    with np.errstate(over="ignore"):
        array = checkpoint[name]
        array = array if array.dtype == ml_dtypes.bfloat16 else array.astype(np.float32, copy=False)
    require_finite(array, name, path)
    return array


def same(params: Any, others: Any) -> bool:
    """Whether two trees are of one network: what both have of it is equal, but for the rounding to 16 bits of one."""
    theirs = flatten_dict(others, sep="/")
    pairs = [(leaf, theirs[name]) for name, leaf in flatten_dict(params, sep="/").items() if name in theirs]
    return bool(pairs) and all(np.shape(x) == np.shape(y) and _equal(x, y) for x, y in pairs)


def _equal(x: Any, y: Any) -> bool:
    x, y = np.asarray(x), np.asarray(y)
    if x.dtype == y.dtype:
        return np.array_equal(x, y)
    return np.allclose(x.astype(np.float32), y.astype(np.float32), rtol=2.0**-7, atol=1e-7)


def fingerprint(params: Any, about: Any = None) -> str:
    """SHA-256 (hex) of a parameter tree as float32, by names; and of what else, in JSON types, it belongs to."""
    content = hashlib.sha256(b"" if about is None else json.dumps(about).encode())
    for name, leaf in sorted(flatten_dict(params, sep="/").items()):
        content.update(name.encode() + np.asarray(leaf, np.float32).tobytes())
    return content.hexdigest()
