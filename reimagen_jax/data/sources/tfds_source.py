"""Any TFDS data set by name, read without TensorFlow: its ArrayRecord or TFRecord files and its `features.json`.

A data set that lies in the TFDS folder is read as it is, whoever prepared it, without its program. Another is
downloaded and prepared by TFDS, as ArrayRecord. Some data sets' own programs need TensorFlow for that; then an error
says how to prepare them once where TensorFlow is. Of each example the encoded picture is taken, its captions, and as
attributes all numbers, texts and classes (by name), also in sequences, under TFDS's names, such as "captions/text".
"""

import difflib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np

from reimagen_jax.data.image_text import Problem
from reimagen_jax.data.sources import apart
from reimagen_jax.data.sources.base import Entry, Smaller, Source, Unreadable, checked
from reimagen_jax.data.sources.fields import TEXT_FIELDS, Captions, jsonable
from reimagen_jax.data.sources.files import leaves, require_file
from reimagen_jax.data.sources.tfrecord import TFRecordError, read_tfrecords
from reimagen_jax.data.sources.where import EVERYTHING, Where
from reimagen_jax.errors import UserError
from reimagen_jax.terminal import say

_BATCH = 16
_NESTED_TEXTS = ("captions/text", "captions/caption", "sentences/raw", "text/text")
"""Where captions are looked for in sequences, where there is no field of `TEXT_FIELDS` itself."""


@dataclass(frozen=True)
class TfdsSource(Source):
    """A split of a TFDS data set. Raises `UserError` where there is no such data set, split or field."""

    dataset: str
    """NAME, NAME/CONFIG or NAME/CONFIG:VERSION."""
    split: str = "train"
    """A split or a part of one, as TFDS spells them: train, train[:10%], train+validation."""
    data_dir: Path | None = None
    """TFDS's folder; its own default when `None`."""
    where: Where = EVERYTHING
    resolution: int | None = None
    captions: Captions = field(default_factory=Captions)
    image: str | None = None
    """Feature that is the picture; the one there is when `None`."""
    follow_links: bool = False
    """Follow symbolic links that lead out of the data set's folder."""
    smaller: Smaller = "kept"

    def __post_init__(self) -> None:
        try:
            _ = self._pieces
        except (ValueError, KeyError) as error:
            known = ", ".join(self._builder.info.splits)
            raise UserError(
                f"{self.dataset} has no split {self.split!r}: --split takes {known}, or [:10%] of one"
            ) from error
        _ = self._picture
        captions = self._captions
        for name in captions.places or filter(None, [captions.field]):
            if name not in self._fields:
                raise UserError(f"{self.dataset} has no field {name!r} for --caption: it has {', '.join(self._fields)}")
        if not captions.field and not self._fields.keys() & set(TEXT_FIELDS):
            raise UserError(
                f"{self.dataset} has no captions in a field of the usual name: name one with --caption, or write a "
                f"template such as 'a photo of a {{label}}'; its fields are {', '.join(self._fields)}"
            )

    @property
    def name(self) -> str:
        return f"tfds {self._builder.info.full_name} {self.split}"

    @cached_property
    def files(self) -> tuple[str, ...]:
        return tuple(piece.name for piece in self._pieces)

    def count(self) -> int:
        """Examples of the split."""
        return sum(piece.stop - piece.skip for piece in self._pieces)

    def entries(self, file: int, start: int) -> Iterator[tuple[int, Entry | Problem]]:
        piece = self._pieces[file]
        number = 0
        try:
            if not piece.path.exists():
                raise _Short(f"it is missing, with its {piece.examples} examples")
            require_file(piece.path)
            if not self.follow_links and leaves(piece.path, Path(self._builder.data_dir)):
                raise Unreadable("unreadable file", "a symbolic link out of the folder; --follow-links follows those")
            for number, raw in piece.read(start):
                if isinstance(raw, str):
                    yield number, Problem(piece.key(number), "bad example", f"{raw}; in {piece.name}")
                elif number >= start:
                    yield number, self._entry(piece.key(number), raw)
                number += 1
        except Unreadable as error:
            yield number, Problem(piece.name, error.reason, error.detail)
        except _Short as error:
            yield number, Problem(piece.name, "damaged file", f"{error}; fetch or prepare it again")
        except (TFRecordError, apart.Broken, OSError) as error:
            there = f"{piece.skip + number} of {piece.examples} examples"
            yield number, Problem(piece.name, "damaged file", f"{error}, after {there}; fetch or prepare it again")

    @cached_property
    def _builder(self) -> Any:
        return open_builder(self.dataset, self.data_dir)

    @cached_property
    def _pieces(self) -> list["_Piece"]:
        """The split in pieces, each of one shard. Raises `ValueError` or `KeyError` where there is no such split."""
        from tensorflow_datasets.core import file_adapters

        info, formats = self._builder.info, file_adapters.FileFormat
        known = info.available_file_formats()
        if not known & {formats.ARRAY_RECORD, formats.TFRECORD}:
            raise UserError(
                f"{self.dataset} lies in {self._builder.data_dir} as {', '.join(f.value for f in known)}: prepare it "
                f"again with `tfds build {self.dataset} --file_format=array_record`"
            )
        indexed = formats.ARRAY_RECORD in known
        chosen = formats.ARRAY_RECORD if indexed else formats.TFRECORD
        if info.file_format != chosen:
            info.set_file_format(chosen, override=True, override_if_initialized=True)
        pieces, before = [], 0
        for part in info.splits[self.split].file_instructions:
            stop, path = part.skip + part.take, Path(part.filename)
            keys = (self.split, before) if indexed else (f"{self.split}/{path.name}", 0)
            pieces.append(_Piece(path, self.split, keys, part.skip, stop, part.examples_in_shard, indexed))
            before += part.take
        return pieces

    @cached_property
    def _picture(self) -> str:
        """The feature that is the picture."""
        from tensorflow_datasets.core import features

        pictures = [
            name
            for name, feature, depth in _leaves(self._builder.info.features)
            if isinstance(feature, features.Image) and feature.np_dtype != np.float32 and depth == 0
        ]
        if (self.image or "image") in pictures:
            return self.image or "image"
        if self.image is None and len(pictures) == 1:
            return pictures[0]
        wrong = f"no picture in a field {self.image!r}" if self.image else "no field `image`"
        known = ", ".join(pictures) or "none"
        raise UserError(f"{self.dataset} has {wrong}: --image takes one of its fields of pictures, {known}")

    @cached_property
    def _fields(self) -> dict[str, Callable[[Any], Any]]:
        """The features that become captions and attributes: their names, and how each is read."""
        leaves = _leaves(self._builder.info.features)
        return {name: read for name, feature, depth in leaves if (read := _reader(feature, depth)) is not None}

    @cached_property
    def _captions(self) -> Captions:
        """How captions are found, with TFDS's names of nested fields among the usual ones."""
        if self.captions.field or any(name in self._fields for name in TEXT_FIELDS):
            return self.captions
        nested = next((name for name in _NESTED_TEXTS if name in self._fields), None)
        return self.captions if nested is None else replace(self.captions, field=nested)

    def _entry(self, key: str, raw: bytes) -> Entry | Problem:
        from google.protobuf.message import DecodeError
        from tensorflow_datasets.proto import tf_example_pb2

        try:
            stored = tf_example_pb2.Example.FromString(raw).features.feature
        except DecodeError as error:
            return Problem(key, "bad example", str(error))
        picture = stored[self._picture].bytes_list.value
        fields, lost = {}, {}
        for name, read in self._fields.items():
            if name in stored:
                try:
                    fields[name] = read(stored[name])
                except (ValueError, TypeError) as error:  # not UTF-8, or of another type than the features say
                    lost[name] = str(error)
        if not picture or not picture[0]:
            return Problem(key, "no picture", f"the field {self._picture} is empty")
        texts, attributes = self._captions.split(fields)
        if not texts:
            for name in lost.keys() & set(self._captions.sources):
                return Problem(key, "bad example", f"the field {name}: {lost[name]}")
            return Problem(key, "empty caption", self._captions.why_none(fields, key))
        return Entry(key, texts, attributes, partial(checked, picture[0]))


class _Short(Exception):
    """A shard with fewer or more examples than the data set's own list says."""


@dataclass(frozen=True)
class _Piece:
    """Some examples of one shard, `skip` to `stop` of the `examples` that it has by the data set's own list."""

    path: Path
    split: str
    keys: tuple[str, int]
    """What examples are named after, and the number of the first."""
    skip: int
    stop: int
    examples: int
    indexed: bool
    """ArrayRecord; else TFRecord."""

    @property
    def name(self) -> str:
        return f"{self.split}/{self.path.name}"

    def key(self, number: int) -> str:
        """Names an example."""
        prefix, first = self.keys
        return f"{prefix}:{first + number}"

    def read(self, start: int) -> Iterator[tuple[int, bytes | str]]:
        """Yields serialised examples with their numbers (some before `start` too), or what is wrong with one.

        Raises `_Short`, `TFRecordError` and `apart.Broken`.
        """
        if self.indexed:
            there = yield from self._read_indexed(start)
        else:
            there = 0
            for there, raw in enumerate(read_tfrecords(self.path), 1):
                if self.skip < there <= self.stop:
                    yield there - self.skip - 1, raw
                if there > self.stop and self.stop < self.examples:
                    return
        if there < self.stop:
            raise _Short(f"it ends after {there} of {self.examples} examples")
        if self.stop == self.examples < there:
            raise _Short(f"it goes on after the {self.examples} examples that the data set says it has")

    def _read_indexed(self, start: int) -> Iterator[tuple[int, bytes | str]]:
        there = 0
        for there, first, batch in apart.run(  # noqa: B007 - the last one counts
            read_array_record, str(self.path), self.skip, self.stop, start
        ):
            yield from enumerate(batch, first)
        return there


def read_array_record(path: str, skip: int, stop: int, start: int) -> Iterator[tuple[int, int, list[bytes | str]]]:
    """Yields records `skip` to `stop` of an ArrayRecord file, from about `start` of these on; run by `apart.run` alone.

    In batches: how many records the file has, the number of the first, and the records (or what is wrong with one).
    """
    from array_record.python import array_record_module

    reader = array_record_module.ArrayRecordReader(path)
    there = reader.num_records()
    yield there, 0, []
    # Batches lie the same wherever reading begins, so what ends this process does so at the same place again.
    for first in range(skip + start // _BATCH * _BATCH, min(stop, there), _BATCH):
        last = min(first + _BATCH, stop, there)
        try:
            yield there, first - skip, reader.read(first, last)
        except Exception:  # whatever the library raises: find the records at fault
            yield there, first - skip, [_read_one(reader, index) for index in range(first, last)]


def _read_one(reader: Any, index: int) -> bytes | str:
    try:
        return reader.read([index])[0]
    except Exception as error:
        return f"it cannot be read: {apart.one_line(error)}"


def open_builder(dataset: str, data_dir: Path | None) -> Any:
    """Opens a data set that TFDS has prepared, or else has TFDS download and prepare it.

    Raises `UserError` where there is no such data set, or where it cannot be prepared here.
    """
    from tensorflow_datasets.core import load, read_only_builder, registered

    folder = None if data_dir is None else str(data_dir)
    try:
        return read_only_builder.builder_from_files(dataset, data_dir=folder)
    except registered.DatasetNotFoundError:
        pass  # not prepared yet
    except Exception as error:  # whatever damaged or odd JSON files make TFDS raise
        raise UserError(f"the TFDS data set {dataset} cannot be opened: {apart.one_line(error)}") from error
    try:
        builder = load.builder(dataset, data_dir=folder, file_format="array_record")
        say(f"{dataset} is not in {builder.data_dir} yet: TFDS downloads and prepares it", error=True)
        builder.download_and_prepare()
    except registered.DatasetNotFoundError as error:
        near = difflib.get_close_matches(
            dataset.partition("/")[0].partition(":")[0], load.list_builders(with_community_datasets=False), n=1
        )
        hint = f"did you mean {near[0]}?" if near else f"and nothing of that name lies in {folder or 'its folder'}"
        raise UserError(f"TFDS has no data set {dataset}: {hint}") from error
    except Exception as error:  # whatever the data set's own program and the network raise
        raise UserError(
            f"TFDS cannot prepare {dataset} here: {apart.one_line(error)}; prepare it where TensorFlow is installed, "
            f"with `tfds build {dataset}`, and point --data-dir at the folder: then it is read without TensorFlow"
        ) from error
    return builder


def _leaves(feature: Any, name: str = "", depth: int = 0) -> Iterator[tuple[str, Any, int]]:
    """The features that hold no others: their names when stored, and how many sequences they stand in."""
    from tensorflow_datasets.core import features

    if isinstance(feature, features.FeaturesDict):
        for key, inner in feature.items():
            yield from _leaves(inner, f"{name}/{key}" if name else key, depth)
    elif isinstance(feature, features.Sequence):
        yield from _leaves(feature.feature, name, depth + 1)
    else:
        yield name, feature, depth


def _reader(feature: Any, depth: int) -> Callable[[Any], Any] | None:
    """Stored values -> JSON, for texts, classes, numbers and lists of them; `None` for any other feature."""
    from tensorflow_datasets.core import features

    shape = feature.get_serialized_info().shape
    if not isinstance(feature, features.Tensor) or shape != feature.get_tensor_info().shape or depth + len(shape) > 1:
        return None
    convert = _converter(feature)
    one = depth + len(shape) == 0

    def read(stored: Any) -> Any:
        kind = stored.WhichOneof("kind")
        values = [convert(value) for value in getattr(stored, kind).value] if kind else []
        return (values[0] if values else None) if one else values

    return read


def _converter(feature: Any) -> Callable[[Any], Any]:
    from tensorflow_datasets.core import features

    if isinstance(feature, features.ClassLabel):
        return lambda number: feature.int2str(number) if 0 <= number < (feature.num_classes or 0) else None
    if feature.np_dtype == np.bool_:
        return bool
    return lambda value: value.decode("utf-8") if isinstance(value, bytes) else jsonable(value)
