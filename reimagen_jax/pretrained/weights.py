"""Our own weights as files: safetensors for the parameters, JSON for the experiment that they belong to.

A folder of weights holds `weights.safetensors` (names are the paths in the parameter tree, joined by "/"),
`experiment.json` and, by custom, a `README.md` (the model card). Nothing is ever unpickled.
"""

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict
from safetensors.numpy import save_file

from reimagen_jax.config import Experiment, from_json, to_json
from reimagen_jax.errors import UserError
from reimagen_jax.files import write_text
from reimagen_jax.pretrained.safetensors_reader import Checkpoint

WEIGHTS, EXPERIMENT = "weights.safetensors", "experiment.json"


def save_params(path: str | Path, params: Any, dtype: np.dtype | type = np.float32) -> None:
    """Writes a parameter tree as one safetensors file, whole or not at all; floats are stored as `dtype`."""
    path = Path(path)
    # safetensors writes the memory as it lies, a transposed array's too, so it has to lie in order.
    flat = {name: np.asarray(leaf, dtype, order="C") for name, leaf in flatten_dict(params, sep="/").items()}
    partial = path.with_name(f".{path.name}.partial")
    save_file(flat, partial)
    partial.chmod(0o644)  # safetensors makes files private; an installed package is read by others
    partial.replace(path)


def load_params(path: str | Path, expected: Any, *, on_host: bool = False) -> Any:
    """Reads a parameter tree as float32, to the default device or, `on_host`, as arrays of numpy.

    `expected` is a tree of shapes (from `jax.eval_shape`). Raises `UserError` naming all missing, unknown and
    differently shaped parameters at once.
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
    return unflatten_dict({name: asarray(checkpoint[name], dtype=np.float32) for name in shapes}, sep="/")


def save_weights(folder: str | Path, config: Experiment, params: Any, dtype: np.dtype | type = np.float32) -> None:
    """Writes a folder of weights."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    save_params(folder / WEIGHTS, params, dtype)
    write_text(folder / EXPERIMENT, to_json(config))


def load_weights(folder: str | Path, *, on_host: bool = False) -> tuple[Experiment, Any]:
    """Reads a folder of weights: the experiment and its parameters (see `load_params`)."""
    from reimagen_jax.systems.reimagen import ReImagen

    folder = Path(folder)
    if not (folder / EXPERIMENT).is_file():
        raise UserError(f"{folder} holds no {EXPERIMENT}: it is not a folder of weights")
    config = from_json((folder / EXPERIMENT).read_text(encoding="utf-8"))
    expected = jax.eval_shape(ReImagen(config).init, jax.random.key(0))
    return config, load_params(folder / WEIGHTS, expected, on_host=on_host)
