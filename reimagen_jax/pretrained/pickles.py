"""Weights in PyTorch's files (.pt, .pth, .pth.tar, .ckpt), read without running what is in them.

Such a file is a zip archive: a pickle, `data.pkl`, and the numbers of each storage beside it, uncompressed. Files from
before PyTorch 1.6, such as the weights of FID's network, are five pickles in a row (a mark, a version, the machine's
order of bytes, the content, the storages' names), then each storage's length and numbers.

A pickle is a program for a small stack machine whose instructions may call any function there is. Here it never gets to
Python's own machine: the one below knows the instructions that containers, texts, numbers and tensors need, and of what
may be called the names in `_KNOWN` alone, each a function of this file. Everything else is refused by its name.
Settings that were stored along (`argparse.Namespace`) become `Skipped`, with nothing of what they held.

Nothing is read of a tensor until it is asked for (`Tensor.read`); its place, size and steps are checked against its
storage before, and no tensor has more values than its storage, so that a file of some bytes cannot ask for memory
without end. A `PickleCheckpoint` is read like a `Checkpoint` of safetensors.
"""

import collections
import io
import math
import pickletools
import struct
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, BinaryIO

import ml_dtypes
import numpy as np

from reimagen_jax.errors import UserError, require
from reimagen_jax.pretrained.safetensors_reader import Index

LARGEST_PICKLE = 2**25
"""Bytes; a pickle takes some 200 for a tensor."""
MOST_INSTRUCTIONS = 2**22
"""Of a pickle; a tensor takes some 25. Each makes a value of some 70 bytes at most, however short it is itself."""
MOST_ARGUMENTS = 16
"""Of a call, which copies them; a tensor is made of seven."""
MOST_AXES = 64
LONGEST_NAME = 200
"""Of a storage; PyTorch's are numbers."""
OLD_MARK, OLD_VERSION = 0x1950A86A20F9469CFC6C, 1001
"""That files from before PyTorch 1.6 begin with."""

STORAGES: Mapping[str, tuple[str, Any]] = {
    "DoubleStorage": ("F64", np.float64),
    "FloatStorage": ("F32", np.float32),
    "HalfStorage": ("F16", np.float16),
    "BFloat16Storage": ("BF16", ml_dtypes.bfloat16),
    "LongStorage": ("I64", np.int64),
    "IntStorage": ("I32", np.int32),
    "ShortStorage": ("I16", np.int16),
    "CharStorage": ("I8", np.int8),
    "ByteStorage": ("U8", np.uint8),
    "BoolStorage": ("BOOL", np.bool_),
}
"""PyTorch's names of storages, to safetensors' names of types and to types."""


_DAMAGED = (ArithmeticError, EOFError, LookupError, OSError, RuntimeError, ValueError, struct.error, zlib.error)
_DAMAGED += (zipfile.BadZipFile,)
"""What zipfile raises of archives that are none, or not whole."""
_BOUNDED = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
"""Of these zipfile unpacks no more than is asked for; of others a few bytes may become any number."""


class Skipped:
    """In the place of settings of a training, which are not looked at."""


@dataclass(frozen=True)
class Storage:
    """Numbers of one type that lie in the archive."""

    path: Path
    member: str
    kind: str
    dtype: Any = field(repr=False)
    count: int

    def read(self) -> np.ndarray:
        """All of them. Raises `UserError` where the file has changed, or is damaged."""
        try:
            with zipfile.ZipFile(self.path) as archive:
                content = archive.read(self.member)  # its checksum is compared
            return np.frombuffer(content, self.dtype, self.count)
        except _DAMAGED as error:
            raise UserError(f"{self.path}: {self.member} cannot be read, is the file whole? ({error})") from error


@dataclass(frozen=True)
class OldStorage(Storage):
    """The same in a file from before PyTorch 1.6."""

    places: Mapping[str, int] = field(repr=False, compare=False)
    """Where the numbers of each begin, known once the whole file is looked through."""

    def read(self) -> np.ndarray:
        try:
            with self.path.open("rb") as file:
                file.seek(self.places[self.member])
                return np.frombuffer(file.read(self.count * np.dtype(self.dtype).itemsize), self.dtype, self.count)
        except _DAMAGED as error:
            raise UserError(f"{self.path}: {self.member} cannot be read, is the file whole? ({error})") from error


@dataclass(frozen=True)
class Tensor:
    """A view of a storage: what PyTorch stored as a tensor."""

    storage: Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]

    def __post_init__(self) -> None:
        """Raises `UserError` where it would reach out of its storage, or have more values than that."""
        whole = [self.offset, *self.shape, *self.strides]
        good = all(type(number) is int and 0 <= number < 2**62 for number in whole)
        good = good and len(self.shape) == len(self.strides) <= MOST_AXES and self.offset <= self.storage.count
        told = self.shape if good else "unknown"  # of other values it may be endless to tell
        if good and 0 in self.shape:
            good = math.prod(n for n in self.shape if n) < 2**48  # as many as numpy can count
        elif good:
            last = self.offset + sum((n - 1) * step for n, step in zip(self.shape, self.strides, strict=True))
            good = last < self.storage.count and math.prod(self.shape) <= self.storage.count
        require(
            good,
            f"{self.storage.path}: a tensor of shape {told} does not lie in its storage, {self.storage.member} "
            f"of {self.storage.count} values: the file is damaged",
        )

    @property
    def kind(self) -> str:
        """Its type as safetensors calls it: F32, I64, ..."""
        return self.storage.kind

    def read(self, index: Index = ()) -> np.ndarray:
        """A copy of the part `index` of it."""
        numbers = self.storage.read()[self.offset :]
        if 0 in self.shape:
            return np.zeros(self.shape, self.storage.dtype)[index]
        # Along an axis of one value no step is taken, whatever the file tells of it.
        steps = [step * numbers.itemsize if n > 1 else 0 for n, step in zip(self.shape, self.strides, strict=True)]
        return np.array(np.lib.stride_tricks.as_strided(numbers, self.shape, steps, writeable=False)[index])

    def rows(self, begin: int, end: int) -> "Tensor":
        """The part from one place of the first axis to another."""
        require(0 <= begin <= end <= self.shape[0], f"a tensor of shape {self.shape} has no rows {begin} to {end}")
        return replace(
            self, offset=self.offset + begin * self.strides[0], shape=(end - begin, *self.shape[1:]),
        )  # fmt: skip

    def squeezed(self) -> "Tensor":
        """Without the axes of length 1."""
        kept = [i for i, n in enumerate(self.shape) if n != 1]
        return replace(self, shape=tuple(self.shape[i] for i in kept), strides=tuple(self.strides[i] for i in kept))


class PickleCheckpoint(Mapping[str, np.ndarray]):
    """Tensors under their names, read when asked for, as a `Checkpoint` of safetensors is."""

    def __init__(self, path: Path, tensors: Mapping[str, Tensor]) -> None:
        self.files, self.tensors = {path.name: path}, dict(tensors)

    def __getitem__(self, name: str) -> np.ndarray:
        return self.read(name)

    def __contains__(self, name: object) -> bool:
        return name in self.tensors

    def __iter__(self) -> Iterator[str]:
        return iter(self.tensors)

    def __len__(self) -> int:
        return len(self.tensors)

    def shape(self, name: str) -> tuple[int, ...]:
        """Nothing is read for it."""
        return self.tensors[name].shape

    def dtype(self, name: str) -> str:
        """As safetensors calls it: F32, BF16, ..."""
        return self.tensors[name].kind

    def read(self, name: str, index: Index = ()) -> np.ndarray:
        """The part `index` of a tensor."""
        return self.tensors[name].read(index)


def state_dict(path: str | Path, *, under: tuple[str, ...] = ("state_dict", "model"), prefix: str = "") -> dict:
    """The tensors of a file by name: those under the first of the keys `under` that it has, or at its top; of these the
    ones whose names begin with `prefix`, without it. Raises `UserError` where there are none."""
    path = Path(path)
    content = load(path)
    content = next((content[key] for key in under if isinstance(content, dict) and key in content), content)
    require(isinstance(content, dict), f"{path} holds no table of tensors: is it the file of a network's weights?")
    named = {name: value for name, value in content.items() if isinstance(name, str) and isinstance(value, Tensor)}
    found = {name.removeprefix(prefix): tensor for name, tensor in named.items() if name.startswith(prefix)}
    some = ", ".join([name[:80] for name in named or content if isinstance(name, str)][:3])
    require(bool(found), f"{path} holds no tensors called {prefix}...: it has {some or 'nothing'}")
    return found


def load(path: str | Path) -> Any:
    """What a file holds, its tensors as `Tensor`. Raises `UserError` when it is missing, damaged, or names anything
    that is not allowed."""
    path = Path(path)
    require(path.is_file(), f"{path} not found: name a file of PyTorch's (.pth.tar, .pth, .pt, .ckpt)")
    if not zipfile.is_zipfile(path):
        return _old(path)
    try:
        with zipfile.ZipFile(path) as archive:
            members = {info.filename: info for info in archive.infolist()}
            require(len(members) == len(archive.infolist()), f"{path}: two of its members have one name")
            names = [name for name in members if name.count("/") == 1 and name.endswith("/data.pkl")]
            require(len(names) == 1, f"{path} holds {len(names)} pickles called data.pkl: PyTorch writes one")
            name = names[0]
            require(
                members[name].file_size <= LARGEST_PICKLE,
                f"{path}: its pickle has {members[name].file_size:,} bytes, at most {LARGEST_PICKLE:,} are read",
            )
            folder = name.removesuffix("data.pkl")
            order = f"{folder}byteorder"
            packed = [each for each in (name, order) if each in members and members[each].compress_type not in _BOUNDED]
            require(not packed, f"{path}: {', '.join(packed)} is compressed in a way that PyTorch does not write")
            if order in members:
                with archive.open(order) as file:
                    little = file.read(16).strip() == b"little"
                require(little, f"{path}: its numbers begin with their highest byte, which is not read")
            program = archive.read(name)
    except _DAMAGED as error:
        raise UserError(f"{path} cannot be read, is it whole? ({error})") from error
    return _Machine(path, folder, members).run(program)


def _old(path: Path) -> Any:
    """What a file from before PyTorch 1.6 holds."""
    with path.open("rb") as file:
        head = io.BytesIO(file.read(LARGEST_PICKLE))
    machine = _OldMachine(path)
    try:
        mark = _Machine(path).run(head)
    except UserError:
        mark = None
    require(
        mark == OLD_MARK, f"{path} is no file of PyTorch's: neither a zip archive nor what it wrote before version 1.6"
    )
    version, system = _Machine(path).run(head), _Machine(path).run(head)
    told = version if type(version) is int and version < 2**32 else "unknown"  # of others it may be endless to tell
    require(version == OLD_VERSION, f"{path} is of version {told}, not {OLD_VERSION}: save it again")
    little = isinstance(system, dict) and system.get("little_endian") is True
    require(little, f"{path}: its numbers begin with their highest byte, which is not read")
    content, names = machine.run(head), _Machine(path).run(head)
    machine.find(names, head.tell())
    return content


class _Name:
    """Of something that a pickle may call."""

    def __init__(self, name: str, call: Callable[..., Any]) -> None:
        self.name, self.call = name, call


class _Machine:
    """Python's stack machine of pickles, without all that could run code."""

    def __init__(self, path: Path, folder: str = "", members: Mapping[str, zipfile.ZipInfo] | None = None) -> None:
        self.path, self.folder, self.members = path, folder, members or {}
        self.stack: list[Any] = []
        self.marks: list[int] = []
        """How much lay on the stack when each was set."""
        self.memo: dict[int, Any] = {}

    def run(self, program: bytes | BinaryIO) -> Any:
        """What a pickle makes, which is read to its end and no further. Raises `UserError` on what is damaged, or not
        allowed."""
        try:
            for number, (instruction, argument, _) in enumerate(pickletools.genops(program)):
                require(number < MOST_INSTRUCTIONS, f"{self.path}: its pickle is too long to be one of weights")
                if instruction.name == "STOP":
                    return self.stack.pop()
                self.step(instruction.name, argument)
        except UserError:
            raise
        # A pickle that is not one fails in as many ways as there are instructions.
        except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError, UnicodeError) as error:
            raise UserError(
                f"{self.path}: its pickle is damaged ({type(error).__name__}: {str(error)[:200]})"
            ) from error
        raise UserError(f"{self.path}: its pickle has no end")

    def step(self, name: str, argument: Any) -> None:
        """One instruction."""
        stack = self.stack
        match name:
            case "PROTO" | "FRAME":
                pass
            case "MARK":
                self.marks.append(len(stack))
            case "EMPTY_DICT" | "EMPTY_LIST" | "EMPTY_TUPLE":
                stack.append({"EMPTY_DICT": dict, "EMPTY_LIST": list, "EMPTY_TUPLE": tuple}[name]())
            case "NONE" | "NEWTRUE" | "NEWFALSE":
                stack.append({"NONE": None, "NEWTRUE": True, "NEWFALSE": False}[name])
            case _ if name in _PLAIN:
                stack.append(argument)
            case "TUPLE":
                stack.append(tuple(self.marked()))
            case "TUPLE1" | "TUPLE2" | "TUPLE3":
                number = int(name[-1])
                values = tuple(stack[-number:])
                require(len(values) == number, f"{self.path}: its pickle is damaged (too few values)")
                del stack[-number:]
                stack.append(values)
            case "APPEND" | "APPENDS":
                values = self.marked() if name == "APPENDS" else [stack.pop()]
                self.top(list).extend(values)
            case "SETITEM" | "SETITEMS":
                values = self.marked() if name == "SETITEMS" else [stack.pop(-2), stack.pop()]
                for key, value in zip(values[::2], values[1::2], strict=True):
                    # Others could take without end to be hashed.
                    require(
                        key is None or isinstance(key, str | int | float),
                        f"{self.path}: a table's key is a {type(key).__name__}: only texts and numbers are read",
                    )
                    self.top(dict)[key] = value
            case "PUT" | "BINPUT" | "LONG_BINPUT":
                self.memo[int(argument)] = stack[-1]
            case "MEMOIZE":
                self.memo[len(self.memo)] = stack[-1]
            case "GET" | "BINGET" | "LONG_BINGET":
                stack.append(self.memo[int(argument)])
            case "POP":
                (self.marks if self.marks[-1:] == [len(stack)] else stack).pop()
            case "GLOBAL":
                stack.append(self.named(*argument.split(" ", 1)))
            case "STACK_GLOBAL":
                stack.append(self.named(stack.pop(-2), stack.pop()))
            case "BINPERSID":
                stack.append(self.storage(stack.pop()))
            case "REDUCE" | "NEWOBJ":
                arguments, called = stack.pop(), stack.pop()
                if not isinstance(called, _Name) or not isinstance(arguments, tuple):
                    raise ValueError("what is called is no function")
                if len(arguments) > MOST_ARGUMENTS:
                    raise ValueError(f"{called.name} is called with {len(arguments)} values")
                stack.append(called.call(*arguments))
            case "BUILD":  # attributes of tables (versions of modules), or of what is skipped
                stack.pop()
                if not isinstance(stack[-1], dict | Skipped):
                    raise ValueError(f"a {type(stack[-1]).__name__} has no attributes")
            case _:
                raise UserError(f"{self.path}: its pickle has the instruction {name}, which weights do not need")

    def marked(self) -> list[Any]:
        """Takes what lies above the last mark, and the mark."""
        place = self.marks.pop()
        if place > len(self.stack):
            raise ValueError("what lay below a mark was taken")
        values = self.stack[place:]
        del self.stack[place:]
        return values

    def top(self, kind: type) -> Any:
        """The container that lies on top."""
        if not isinstance(self.stack[-1], kind):
            raise ValueError(f"a {type(self.stack[-1]).__name__} is no {kind.__name__}")
        return self.stack[-1]

    def named(self, module: Any, name: Any) -> _Name:
        """What may be called by this name."""
        if not isinstance(module, str) or not isinstance(name, str):
            raise ValueError("a name is no text")
        whole = f"{module}.{name}"
        if module == "torch" and name in STORAGES:
            return _Name(name, _not_called)
        require(
            whole in _KNOWN,
            f"{self.path} would run {whole[:200]} when it is read: only tensors, tables and lists are, nothing was run",
        )
        return _Name(whole, _KNOWN[whole])

    def storage(self, told: Any) -> Storage:
        """The storage that a tensor refers to."""
        label, dtype, key, count = self.told(*told)
        member = f"{self.folder}data/{key}"
        info = self.members.get(member)
        require(info is not None, f"{self.path} lacks {member}: it is not whole")
        good = type(count) is int and info.compress_type == zipfile.ZIP_STORED
        require(
            good and count >= 0 and count * np.dtype(dtype).itemsize <= info.file_size,
            f"{self.path}: {member} has {info.file_size:,} bytes, too few for its {label} values, or is compressed",
        )
        return Storage(self.path, member, label, dtype, count)

    def told(self, word: Any, kind: Any, key: Any, _: Any, count: Any) -> tuple[str, Any, str, Any]:
        """What is told of a storage: its type in safetensors' words and as one, its name, its length."""
        known = isinstance(kind, _Name) and kind.name in STORAGES
        if word != "storage" or not known or not isinstance(key, str) or len(key) > LONGEST_NAME:
            raise ValueError("a tensor refers to no storage")
        return *STORAGES[kind.name], key, count


class _OldMachine(_Machine):
    """Of the content of a file from before PyTorch 1.6."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.storages: dict[str, OldStorage] = {}
        self.places: dict[str, int] = {}

    def storage(self, told: Any) -> Storage:
        *told, view = told
        if view is not None:
            raise ValueError("a storage is a part of another one")
        label, dtype, key, count = self.told(*told)
        if type(count) is not int or count < 0:
            raise ValueError("a storage has no length")
        found = OldStorage(self.path, key, label, dtype, count, self.places)
        if self.storages.setdefault(key, found) != found:
            raise ValueError("two storages have one name")
        return found

    def find(self, names: Any, start: int) -> None:
        """Notes where the storages of these names lie, one after another from `start` on. Raises `UserError` unless
        these are all, and whole."""
        known = isinstance(names, list) and all(isinstance(name, str) for name in names)
        known = known and sorted(names) == sorted(self.storages)
        require(known, f"{self.path} is damaged: it does not hold the storages that its tensors lie in")
        size = self.path.stat().st_size
        with self.path.open("rb") as file:
            for name in names:
                storage = self.storages[name]
                file.seek(start)
                length, start = int.from_bytes(file.read(8), "little"), start + 8
                self.places[name] = start
                start += length * np.dtype(storage.dtype).itemsize
                require(
                    length == storage.count and start <= size,
                    f"{self.path}: storage {name[:40]} is not whole: fetch the file again",
                )


_PLAIN = frozenset(
    (
        *("BININT", "BININT1", "BININT2", "INT", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT"),
        *("UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8", "STRING", "BINSTRING", "SHORT_BINSTRING"),
    )
)
"""Instructions that put a number or a text on the stack."""


def _tensor(storage: Any, offset: Any, shape: Any, strides: Any, *_: Any) -> Tensor:
    if not (isinstance(storage, Storage) and isinstance(shape, tuple) and isinstance(strides, tuple)):
        raise ValueError("a tensor has no storage, shape or strides")
    return Tensor(storage, offset, shape, strides)


def _table(*items: Any) -> dict[Any, Any]:
    if items not in ((), ([],)):
        raise ValueError("a table begins with items")
    return collections.OrderedDict()


def _parameter(tensor: Any, *_: Any) -> Any:
    if not isinstance(tensor, Tensor):
        raise ValueError("a parameter is no tensor")
    return tensor


def _shape(sizes: Any = ()) -> tuple[Any, ...]:
    if not isinstance(sizes, tuple | list):
        raise ValueError("a shape is no tuple")
    if len(sizes) > MOST_AXES:
        raise ValueError(f"a shape has {len(sizes)} axes")
    return tuple(sizes)


def _not_called(*_: Any) -> Any:
    raise ValueError("a storage is made by a call")


_KNOWN: Mapping[str, Callable[..., Any]] = {
    "torch._utils._rebuild_tensor_v2": _tensor,
    "torch._utils._rebuild_parameter": _parameter,
    "torch.Size": _shape,
    "collections.OrderedDict": _table,
    "argparse.Namespace": lambda *_: Skipped(),
}
