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
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from reimagen_jax.data.image_text import Problem
from reimagen_jax.data.sources.base import Entry, Source, checked
from reimagen_jax.data.sources.fields import TEXT_FIELDS, Captions, jsonable
from reimagen_jax.data.sources.tfrecord import TFRecordError, read_tfrecords
from reimagen_jax.data.sources.where import EVERYTHING, Where
from reimagen_jax.errors import UserError
from reimagen_jax.terminal import say

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
        return tuple(name for name, _, _ in self._pieces)

    def count(self) -> int:
        """Examples of the split."""
        return sum(length for _, length, _ in self._pieces)

    def entries(self, file: int, start: int) -> Iterator[tuple[int, Entry | Problem]]:
        name, _, read = self._pieces[file]
        number = start
        try:
            for number, raw in enumerate(read(start), start):
                yield number, self._entry(f"{name}:{number}", raw)
                number += 1
        except TFRecordError as error:
            yield number, Problem(name, "damaged file", f"{error}; fetch or prepare it again")

    @cached_property
    def _builder(self) -> Any:
        return open_builder(self.dataset, self.data_dir)

    @cached_property
    def _pieces(self) -> list[tuple[str, int, Any]]:
        """The split in pieces: name, number of examples, and a function from a start to the serialised examples.

        Raises `ValueError` or `KeyError` where there is no such split.
        """
        from tensorflow_datasets.core import decode, file_adapters

        builder, formats = self._builder, self._builder.info.available_file_formats()
        if file_adapters.FileFormat.ARRAY_RECORD in formats:
            data = builder.as_data_source(split=self.split, deserialize_method=decode.DeserializeMethod.RAW_BYTES)
            return [(self.split, len(data), partial(_from_array_record, data))]
        if file_adapters.FileFormat.TFRECORD not in formats:
            raise UserError(
                f"{self.dataset} lies in {builder.data_dir} as {', '.join(f.value for f in formats)}: prepare it again "
                f"with `tfds build {self.dataset} --file_format=array_record`"
            )
        pieces = []
        for part in builder.info.splits[self.split].file_instructions:
            stop = part.examples_in_shard if part.take == -1 else part.skip + part.take
            path = Path(part.filename)
            pieces.append(
                (f"{self.split}/{path.name}", stop - part.skip, partial(_from_tfrecord, path, part.skip, stop))
            )
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
            picture = stored[self._picture].bytes_list.value
            fields = {name: read(stored[name]) for name, read in self._fields.items() if name in stored}
        except (DecodeError, UnicodeDecodeError) as error:
            return Problem(key, "bad example", str(error))
        if not picture or not picture[0]:
            return Problem(key, "no picture", f"the field {self._picture} is empty")
        texts, attributes = self._captions.split(fields)
        if not texts:
            return Problem(key, "empty caption", self._captions.why_none(fields, key))
        return Entry(key, texts, attributes, partial(checked, picture[0]))


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
    except (ValueError, OSError) as error:
        raise UserError(f"the TFDS data set {dataset} cannot be opened: {_one_line(error)}") from error
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
            f"TFDS cannot prepare {dataset} here: {_one_line(error)}; prepare it where TensorFlow is installed, with "
            f"`tfds build {dataset}`, and point --data-dir at the folder: then it is read without TensorFlow"
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


def _from_array_record(data: Any, start: int) -> Iterator[bytes]:
    for index in range(start, len(data)):
        yield data[index]


def _from_tfrecord(path: Path, skip: int, stop: int, start: int) -> Iterator[bytes]:
    yield from islice(read_tfrecords(path), skip + start, stop)


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:500] or type(error).__name__
