"""Files as PyTorch writes them, written without it; and ones that it would never write."""

import io
import pickle
import zipfile
from pathlib import Path
from typing import Any

import numpy as np

KINDS = {"float32": "FloatStorage", "float16": "HalfStorage", "int64": "LongStorage"}


class Named:
    """A class or function, by its name."""

    def __init__(self, module: str, name: str):
        self.module, self.name = module, name

    def __call__(self, *_: Any):
        raise AssertionError("it is only to be written down")


class Call:
    """What is made by a call when it is read, and attributes that it is then given."""

    def __init__(self, module: str, name: str, *args: Any, attributes: Any = None):
        self.told = (Named(module, name), args, *([attributes] if attributes is not None else []))

    def __reduce__(self):
        return self.told


class Stored:
    """A storage beside the pickle."""

    def __init__(self, values: np.ndarray, key: str, count: int | None = None):
        self.values, self.key = values, key
        self.count = values.size if count is None else count

    @property
    def told(self):
        return ("storage", Named("torch", KINDS[self.values.dtype.name]), self.key, "cpu", self.count)


def tensor(stored: Stored, shape: Any, strides: Any, offset: Any = 0) -> Call:
    """As PyTorch stores a tensor."""
    hooks = Call("collections", "OrderedDict")
    return Call("torch._utils", "_rebuild_tensor_v2", stored, offset, shape, strides, False, hooks)


class _Writer(pickle._Pickler):
    def __init__(self, *args: Any, view: Any = ()):
        super().__init__(*args)
        self.view = view
        self.stored: dict[str, np.ndarray] = {}

    def persistent_id(self, obj: Any):
        if isinstance(obj, Stored):
            self.stored[obj.key] = obj.values
            return obj.told + self.view
        return None

    def save(self, obj: Any, save_persistent_id: bool = True):
        if isinstance(obj, Named):
            self.write(f"c{obj.module}\n{obj.name}\n".encode())
        else:
            super().save(obj, save_persistent_id)


def write(
    path: Path, content: Any, *, protocol: int = 2, compression: int = zipfile.ZIP_STORED, **extra: bytes
) -> Path:
    """Writes `content`; `extra` are further members, or others in the place of PyTorch's."""
    buffer = io.BytesIO()
    writer = _Writer(buffer, protocol)
    writer.dump(content)
    members = {"data.pkl": buffer.getvalue(), "version": b"3\n"}
    members |= {f"data/{key}": values.tobytes() for key, values in writer.stored.items()} | extra
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, data in members.items():
            archive.writestr(f"archive/{name}", data)
    return path


def write_old(path: Path, content: Any, view: Any = None, lengths: Any = None, **changes: Any) -> Path:
    """Writes `content` as before version 1.6; `changes` stand in the place of what is written around it."""
    buffer = io.BytesIO()
    writer = _Writer(buffer, 2, view=(view,))
    writer.dump(content)
    around = {
        "mark": 0x1950A86A20F9469CFC6C,
        "version": 1001,
        "system": {"protocol_version": 1001, "little_endian": True, "type_sizes": {"short": 2, "int": 4, "long": 4}},
        "content": None,
        "names": sorted(writer.stored),
    } | changes
    with path.open("wb") as file:
        for name, value in around.items():
            if name == "content":
                file.write(buffer.getvalue())
            else:
                _Writer(file, 2).dump(value)
        for key in sorted(writer.stored):
            values = writer.stored[key]
            file.write((lengths or {}).get(key, values.size).to_bytes(8, "little") + values.tobytes())
    return path


def weights(path: Path, arrays: dict[str, np.ndarray], **others: Any) -> Path:
    """A checkpoint with `state_dict`, and what else stands beside it."""
    table = {
        name: tensor(Stored(array, str(i)), array.shape, tuple(step // array.itemsize for step in array.strides))
        for i, (name, array) in enumerate(arrays.items())
    }
    return write(path, {"state_dict": table, **others})
