"""Published weights in safetensors files: one file, or a sharded set with its index, as Hugging Face writes them.

A `Checkpoint` is a mapping from names to arrays that reads nothing until asked, and then only what is asked for. `load`
fills a parameter tree from one: first all names and shapes are compared, then each parameter is read straight into the
devices' shards, cast on the way,

  ours[index] = theirs[index permuted back].transpose(axes)                                                        (1)

so that a host holds no more than one shard of one parameter besides what stays on its devices. PyTorch's pickles are
never opened.
"""

import hashlib
import json
import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import ml_dtypes
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict
from jax.sharding import Sharding
from safetensors import SafetensorError, safe_open

from reimagen_jax.errors import UserError
from reimagen_jax.files import read_json
from reimagen_jax.pretrained.finite import require_finite

STEMS = ("model", "diffusion_pytorch_model")
"""What transformers and diffusers call their weights."""
PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.msgpack", "*.h5")
FINGERPRINT_ROWS = 16
TILE = 128

Index = tuple[slice, ...]
Place = Callable[[str, tuple[int, ...]], Sharding]
"""From a parameter's path and shape to where it lies."""


@dataclass(frozen=True)
class Source:
    """Where a parameter comes from: a tensor there, its axes permuted as in (1)."""

    name: str
    axes: tuple[int, ...] | None = None
    """Of theirs, in our order; None leaves them."""
    aliases: tuple[str, ...] = ()
    """Names under which the same tensor may be stored instead, or as well (tied weights)."""

    def found(self, names: Mapping[str, Any]) -> str | None:
        """The name under which `names` has it, if any."""
        return next((name for name in (self.name, *self.aliases) if name in names), None)


KERNEL = (1, 0)
"""A linear layer's [out, in] as our [in, out]."""
CONVOLUTION = (2, 3, 1, 0)
"""OIHW as HWIO."""


TYPES = {
    "F64": np.float64,
    "F32": np.float32,
    "F16": np.float16,
    "BF16": ml_dtypes.bfloat16,
    "F8_E4M3": ml_dtypes.float8_e4m3fn,
    "F8_E5M2": ml_dtypes.float8_e5m2,
    "F8_E4M3FNUZ": ml_dtypes.float8_e4m3fnuz,
    "F8_E5M2FNUZ": ml_dtypes.float8_e5m2fnuz,
}
"""Types of weights. Others (I8, U8, F4, ...) are of quantised ones: numbers only together with their scales."""
LARGEST_HEADER = 2**25
"""Bytes; a header takes some 100 for a tensor."""


class File:
    """A safetensors file: 8 bytes with the header's length, the header (JSON: name -> type, shape, place), the numbers.

    Raises `UserError` in one line when it is truncated or damaged; nothing larger than the header is read for that.
    """

    def __init__(self, path: Path) -> None:
        self.path, header = path, {}
        try:
            header = _header(path)
            with safe_open(path, framework="numpy"):  # whether types, shapes and places agree, and fill the file
                pass
            self.tensors = {name: about for name, about in header.items() if name != "__metadata__"}
            self._bytes = np.memmap(path, np.uint8, mode="r") if self.tensors else np.zeros(0, np.uint8)
        except (OSError, SafetensorError, ValueError, RecursionError) as error:
            kinds = {name: about.get("dtype") for name, about in header.items() if isinstance(about, dict)}
            odd = "".join(f"{name} is of type {kind}: " for name, kind in kinds.items() if f"`{kind}`" in str(error))
            raise UserError(f"{path} cannot be read as safetensors, is it whole? ({odd}{error})") from error
        self._start = 8 + int.from_bytes(self._bytes[:8].tobytes(), "little")

    def read(self, name: str, index: Index = ()) -> np.ndarray:
        """A copy of the part `index` of a tensor. Raises `UserError` for a type that weights do not have."""
        about = self.tensors[name]
        if (dtype := TYPES.get(about["dtype"])) is None:
            raise UserError(f"{self.path}: {name} {_not_a_weight(about['dtype'])}")
        begin, end = (self._start + offset for offset in about["data_offsets"])
        return np.array(self._bytes[begin:end].view(dtype).reshape(about["shape"])[index])


def _header(path: Path) -> dict[str, dict[str, Any]]:
    """Raises `OSError`, `ValueError` or `RecursionError` when there is none."""
    with path.open("rb") as file:
        size, length = path.stat().st_size, int.from_bytes(file.read(8), "little")
        if size < 8 or length > size - 8:
            raise ValueError(f"its header is said to have {length:,} bytes, the file has {size:,}")
        if length > LARGEST_HEADER:
            raise ValueError(f"its header has {length:,} bytes, at most {LARGEST_HEADER:,} are read")
        header = json.loads(file.read(length), object_pairs_hook=_once)
    if not isinstance(header, dict):
        raise ValueError("its header is not a table")
    return header


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    table = dict(pairs)
    if len(table) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"{next(name for name in names if names.count(name) > 1)} stands there twice")
    return table


def _not_a_weight(dtype: str) -> str:
    return f"is of type {dtype}, but weights are read as {', '.join(TYPES)}: convert them to one of these first"


class Checkpoint(Mapping[str, np.ndarray]):
    """The tensors of one or several safetensors files under their names; `checkpoint[name]` reads one whole tensor.

    Raises `UserError` naming the file when one is missing, truncated or damaged, and when two hold the same tensor.
    """

    def __init__(self, files: Sequence[Path]) -> None:
        self.files = {file.name: File(file) for file in files}
        self._file_of: dict[str, str] = {}
        for file, content in self.files.items():
            for name in content.tensors:
                if name in self._file_of:
                    raise UserError(f"{name} stands in both {self._file_of[name]} and {file}: one of them is stray")
                self._file_of[name] = file

    def __getitem__(self, name: str) -> np.ndarray:
        return self.read(name)

    def __contains__(self, name: object) -> bool:
        return name in self._file_of  # a mapping's own way to find out is to read the tensor

    def __iter__(self) -> Iterator[str]:
        return iter(self._file_of)

    def __len__(self) -> int:
        return len(self._file_of)

    def shape(self, name: str) -> tuple[int, ...]:
        """Read off the header."""
        return tuple(self._about(name)["shape"])

    def dtype(self, name: str) -> str:
        """As safetensors calls it: F32, BF16, ..."""
        return self._about(name)["dtype"]

    def read(self, name: str, index: Index = ()) -> np.ndarray:
        """The part `index` of a tensor, nothing else of it being read. Raises `UserError` for a type of no weights."""
        return self.files[self._file_of[name]].read(name, index)

    def _about(self, name: str) -> dict[str, Any]:
        return self.files[self._file_of[name]].tensors[name]


def open_checkpoint(path: str | Path) -> Checkpoint:
    """Opens a safetensors file, an index of several, or a folder that holds either.

    In a folder, `model.safetensors` or `diffusion_pytorch_model.safetensors` (or their index) is taken; a variant such
    as `model.fp16.safetensors` only if there is no plain one. Raises `UserError` when there is none, when there are
    several variants, and when there are only pickles.
    """
    path = Path(path)
    if path.is_dir():
        path = _weights_in(path)
    if path.suffix != ".json":
        return Checkpoint([path])
    index = read_json(path, "an index of safetensors files")
    index = index.get("weight_map") if isinstance(index, dict) else None
    if not isinstance(index, dict) or not index or not all(isinstance(file, str) for file in index.values()):
        raise UserError(f"{path} has no weight_map from names to files: it is not an index of safetensors files")
    files = sorted(set(index.values()))
    for file in files:
        if Path(file).name != file or not file.endswith(".safetensors"):
            raise UserError(f"{path} points to {file!r}: only safetensors files beside it are read")
    if missing := [file for file in files if not (path.parent / file).is_file()]:
        raise UserError(f"{path.parent} lacks {', '.join(missing)}, which {path.name} names: download them again")
    # What the files hold counts: published indexes list tied tensors that are in no file, and leave out others.
    return Checkpoint([path.parent / file for file in files])


def _weights_in(folder: Path) -> Path:
    for stem in STEMS:
        for plain in (folder / f"{stem}.safetensors", folder / f"{stem}.safetensors.index.json"):
            if plain.is_file():
                return plain
        part = re.compile(rf"{stem}\.[\w-]+-\d{{5}}-of-\d{{5}}\.safetensors")
        # transformers and diffusers, and diffusers before 0.28
        indexes = (f"{stem}.safetensors.index.*.json", f"{stem}.*.safetensors.index.json")
        variants = sorted(file for pattern in indexes for file in folder.glob(pattern))
        variants += sorted(file for file in folder.glob(f"{stem}.*.safetensors") if not part.fullmatch(file.name))
        if len(variants) > 1:
            listed = ", ".join(file.name for file in variants)
            raise UserError(f"{folder} holds several variants ({listed}): leave the one that is meant there")
        if variants:
            return variants[0]
    if pickles := [file.name for pattern in PICKLES for file in sorted(folder.glob(pattern))]:
        raise UserError(
            f"{folder} holds no safetensors file, only {pickles[0]}, of a format that may run code when read: "
            "save it as safetensors once (in PyTorch, `from_pretrained(...).save_pretrained(...)` does)"
        )
    if shards := sorted(file.name for file in folder.glob("*-of-*.safetensors")):
        raise UserError(
            f"{folder} holds {shards[0]}, but no index of such files: download model.safetensors.index.json"
        )
    raise UserError(f"{folder} holds no model.safetensors and no model.safetensors.index.json")


def load(
    checkpoint: Checkpoint,
    expected: Any,
    source_of: Callable[[str], Source],
    *,
    ignore: Sequence[str] = (),
    place: Place | None = None,
) -> Any:
    """A parameter tree read from `checkpoint`.

    `expected` is a tree of `jax.ShapeDtypeStruct` (from `jax.eval_shape`), whose dtypes the result has; `source_of`
    tells a path's source, `ignore` holds patterns of names that may be there without being used; `place` says where a
    parameter lies (default: on the first device). Raises `UserError` naming all missing, unknown and differently
    shaped tensors at once, before anything is read.
    """
    leaves = flatten_dict(expected, sep="/")
    sources = {path: source_of(path) for path in leaves}
    check(checkpoint, {path: tuple(leaf.shape) for path, leaf in leaves.items()}, sources, ignore)
    place = place or (lambda *_: jax.sharding.SingleDeviceSharding(jax.local_devices()[0]))
    params = {
        path: _read(checkpoint, sources[path], leaf, place(path, tuple(leaf.shape))) for path, leaf in leaves.items()
    }
    return unflatten_dict(params, sep="/")


def check(
    checkpoint: Checkpoint,
    shapes: Mapping[str, tuple[int, ...]],
    sources: Mapping[str, Source],
    ignore: Sequence[str] = (),
) -> None:
    """Raises `UserError` unless `checkpoint` has these tensors, in these shapes and as weights.

    Others are passed over where they are ignored, or stand outside of all modules that are read (a decoder's, say).
    Inside of these they mean another network: one layer more, a bias, adapters, scales of quantised weights.
    """
    problems, used = [], set()
    for path, source in sources.items():
        used |= {source.name, *source.aliases}
        if (name := source.found(checkpoint)) is None:
            problems.append(f"{source.name} is missing")
        elif _permuted(theirs := checkpoint.shape(name), source.axes) != shapes[path]:
            problems.append(f"{name} has shape {theirs}, not {_permuted_back(shapes[path], source.axes)}")
        elif checkpoint.dtype(name) not in TYPES:
            problems.append(f"{name} {_not_a_weight(checkpoint.dtype(name))}")
    unknown = [name for name in checkpoint if name not in used and not any(re.search(p, name) for p in ignore)]
    modules = {name.partition(".")[0] for name in used}
    # Names that nothing is known about may be what is missed, under another name.
    problems += [f"{name} is unknown" for name in unknown if problems or name.partition(".")[0] in modules]
    if problems:
        files = ", ".join(checkpoint.files)
        raise UserError(f"the weights in {files} do not fit the network: " + "; ".join(sorted(problems)))


def _read(checkpoint: Checkpoint, source: Source, leaf: jax.ShapeDtypeStruct, where: Sharding) -> jax.Array:
    """Equation (1), shard by shard; a shard that several devices hold is read once."""
    name = source.found(checkpoint)
    held: dict[Any, np.ndarray] = {}

    def shard(index: Index) -> np.ndarray:
        bounds = tuple(part.indices(size)[:2] for part, size in zip(index, leaf.shape, strict=True))
        if bounds not in held:
            ours = tuple(slice(*bound) for bound in bounds)
            array = checkpoint.read(name, _permuted_back(ours, source.axes))
            array = array if source.axes is None else array.transpose(source.axes)
            with np.errstate(over="ignore"):  # what is too large is refused by name
                held[bounds] = _laid_out(array, leaf.dtype)
            require_finite(held[bounds], name, ", ".join(checkpoint.files))
        return held[bounds]

    # Waiting keeps the next parameter's host copy from being made while this one's is still on its way.
    return jax.block_until_ready(jax.make_array_from_callback(leaf.shape, where, shard))


def _laid_out(array: np.ndarray, dtype: np.dtype) -> np.ndarray:
    """The array in `dtype`, its last axis contiguous."""
    if array.ndim != 2 or array.flags.c_contiguous:
        return np.asarray(array, dtype, order="C")
    # Tile by tile, a large matrix is transposed in less than half the time.
    out, n = np.empty(array.shape, dtype), TILE
    for i in range(0, len(array), n):
        for j in range(0, array.shape[1], n):
            out[i : i + n, j : j + n] = array[i : i + n, j : j + n]
    return out


def _permuted(theirs: tuple, axes: tuple[int, ...] | None) -> tuple:
    """Entries per axis of theirs, in our order."""
    return theirs if axes is None or len(axes) != len(theirs) else tuple(theirs[axis] for axis in axes)


def _permuted_back(ours: tuple, axes: tuple[int, ...] | None) -> tuple:
    """Entries per axis of ours, in their order."""
    return ours if axes is None else tuple(ours[axes.index(axis)] for axis in range(len(axes)))


def fingerprint(checkpoint: Checkpoint, names: Sequence[str]) -> str:
    """A digest of the named tensors: names, types, shapes, and up to 16 rows of each, evenly spread.

    It does not depend on how the tensors are spread over files. Training changes every row that it reaches, so a digest
    of some tells two sets of weights apart, and takes seconds where 40 GB would take minutes.
    """
    digest = hashlib.sha256()
    for name in sorted(names):
        shape = checkpoint.shape(name)
        digest.update(f"{name} {checkpoint.dtype(name)} {shape}\n".encode())
        if math.prod(shape) == 0:
            continue
        length = shape[0] if shape else 1
        rows = np.unique(np.linspace(0, length - 1, min(length, FINGERPRINT_ROWS)).astype(int)).tolist()
        whole = len(shape) < 2
        for part in [()] if whole else [(slice(row, row + 1),) for row in rows]:
            digest.update(np.ascontiguousarray(checkpoint.read(name, part)).tobytes())
    return digest.hexdigest()
