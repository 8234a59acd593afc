"""Shards of records: a TFDS data set in ArrayRecord files, written one after another, without TensorFlow.

TFDS's own `SequentialWriter` writes the same, but does not tell when a shard is complete; whoever writes here can go on
after the last complete one. The same records make the same bytes, in every process.
"""

import json
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, TypeVar

from pydantic import StringConstraints

from reimagen_jax import checked
from reimagen_jax.data.image_text import ImageText
from reimagen_jax.data.opened import Opened
from reimagen_jax.errors import UserError

T = TypeVar("T")

SPLIT = "records"
_OPTIONS = "group_size:1"
"""One record to a chunk, for random access."""
_READ_BATCH = 256
_READ_BYTES = 2**26
_FIRST_BATCH = 16


@dataclass(frozen=True)
class Shard:
    """A complete shard: its records, their bytes when serialised, and the bytes of the file."""

    records: int
    record_bytes: int
    file_bytes: int


@dataclass(frozen=True)
class _Split:
    """What is read of a split in TFDS's `dataset_info.json`."""

    name: str
    shardLengths: tuple[Annotated[str, StringConstraints(pattern=r"^[0-9]{1,12}$")], ...]


@dataclass(frozen=True)
class _Info:
    splits: tuple[_Split]


class ShardWriter:
    """Appends records to `folder`, after the shards that are complete there."""

    def __init__(self, folder: Path, records_per_shard: int, shards: Sequence[Shard] = ()):
        self.shards = list(shards)
        """The complete ones."""
        self._folder = folder
        self._limit = records_per_shard
        self._info = _dataset_info(folder)
        self._writer: Any = None
        self._records = self._bytes = 0

    def add(self, example: ImageText) -> bool:
        """Writes a record; true when it completes a shard."""
        if self._writer is None:
            self._writer = _array_record().ArrayRecordWriter(str(shard_path(self._folder, len(self.shards))), _OPTIONS)
        raw = _serialise(example)
        self._writer.write(raw)
        self._records += 1
        self._bytes += len(raw)
        if self._records == self._limit:
            self.close_shard()
        return self._writer is None

    def close_shard(self) -> None:
        """Completes the shard that is being written, if one is, down to the disk."""
        if self._writer is None:
            return
        self._writer.close()
        with shard_path(self._folder, len(self.shards)).open("rb") as file:
            os.fsync(file.fileno())
            self.shards.append(Shard(self._records, self._bytes, os.fstat(file.fileno()).st_size))
        self._writer, self._records, self._bytes = None, 0, 0

    def finish(self) -> None:
        """Completes the last shard and writes the two JSON files that TFDS reads."""
        self.close_shard()
        num_bytes = sum(shard.record_bytes for shard in self.shards)
        _set_split(self._info, self._folder, [shard.records for shard in self.shards], num_bytes)
        self._info.write_to_directory(str(self._folder))


def shard_path(folder: Path, index: int) -> Path:
    """Where a shard lies."""
    return Path(_template(folder).sharded_filepath(shard_index=index, num_shards=None))


def in_batches(
    count: int, most: int, fetch: Callable[[range], Sequence[T]], weigh: Callable[[T], int]
) -> Iterator[Sequence[T]]:
    """Fetches items 0 to `count` - 1 in order: at most so many at once as weigh 64 MiB, if the heaviest tells the next.

    Records may hold photographs of megabytes.
    """
    start, size = 0, min(_FIRST_BATCH, most)
    while start < count:
        batch = fetch(range(start, min(start + size, count)))
        yield batch
        start += len(batch)
        size = max(1, min(most, 2 * size, _READ_BYTES // max(1, *map(weigh, batch))))


def read_shard(folder: Path, index: int) -> Iterator[ImageText]:
    """Yields the records of a complete shard of a folder in the making. Raises `UserError` where it is damaged."""
    path = shard_path(folder, index)
    try:
        reader = _array_record().ArrayRecordReader(str(path))
        for batch in in_batches(reader.num_records(), _READ_BATCH, lambda ids: reader.read(ids.start, ids.stop), len):
            for raw in batch:
                yield from_features(parse(raw))
    except MemoryError:
        raise
    except Exception as error:  # of Riegeli, of protocol buffers, or of what they lead to
        raise UserError(
            f"{path} is damaged ({error}), so the interrupted work cannot go on: remove {folder.parent}"
        ) from error


def data_source(folder: Opened, count: int) -> Any:
    """The serialised records of a finished folder, through TFDS, by their numbers.

    TFDS is told what is in the shards; nothing that the folder's JSON files name is imported. Raises `UserError` where
    they do not have `count` records.
    """
    from tensorflow_datasets.core.data_sources import array_record
    from tensorflow_datasets.core.decode import DeserializeMethod

    (split,) = checked.read(folder / "dataset_info.json", _Info, "TFDS's description of records").splits
    lengths = [int(length) for length in split.shardLengths]
    if sum(lengths) != count:
        raise ValueError(f"shards of {sum(lengths)} records, not {count}")
    place = Path(os.fspath(folder / "."))
    info = _dataset_info(place)
    _set_split(info, place, lengths, 0)
    return array_record.ArrayRecordDataSource(info, SPLIT, deserialize_method=DeserializeMethod.RAW_BYTES)


def parse(raw: bytes) -> Any:
    """The stored features of a record, as the protocol buffer's map (TFDS can unpack it too, 15 times slower)."""
    from tensorflow_datasets.proto import tf_example_pb2

    return tf_example_pb2.Example.FromString(raw).features.feature


def string(features: Any, name: str) -> str:
    """A stored text."""
    return features[name].bytes_list.value[0].decode("utf-8")


def image_bytes(features: Any) -> int:
    """The size of a stored image."""
    return sum(map(len, features["image"].bytes_list.value))


def from_features(features: Any) -> ImageText:
    """A record from its stored features."""
    return ImageText(
        key=string(features, "key"),
        image=features["image"].bytes_list.value[0],
        text=string(features, "text"),
        attributes=json.loads(string(features, "attributes")),
        digest=string(features, "digest"),
    )


def _serialise(example: ImageText) -> bytes:
    """A record as TFDS stores it; protocol buffers order their maps anew in every process unless told not to."""
    from tensorflow_datasets.proto import tf_example_pb2

    attributes = json.dumps(example.attributes, ensure_ascii=False, allow_nan=False)
    proto = tf_example_pb2.Example()
    fields = {**vars(example), "attributes": attributes}
    del fields["mended"]
    for name, value in fields.items():
        proto.features.feature[name].bytes_list.value.append(value if isinstance(value, bytes) else value.encode())
    return proto.SerializeToString(deterministic=True)


def _array_record() -> Any:
    from array_record.python import array_record_module

    return array_record_module


def _template(folder: Path) -> Any:
    from tensorflow_datasets.core import naming

    return naming.ShardedFileTemplate(
        data_dir=str(folder),
        dataset_name="image_text",
        split=SPLIT,
        filetype_suffix="array_record",
        template="{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_INDEX}",
    )


def _set_split(info: Any, folder: Path, lengths: Sequence[int], num_bytes: int) -> None:
    import tensorflow_datasets as tfds

    split = tfds.core.SplitInfo(
        name=SPLIT, shard_lengths=list(lengths), num_bytes=num_bytes, filename_template=_template(folder)
    )
    info.set_file_format("array_record", override=True)
    info.set_splits(tfds.core.SplitDict([split]))


def _dataset_info(folder: Path) -> Any:
    import tensorflow_datasets as tfds

    text = tfds.features.Text()
    identity = tfds.core.dataset_info.DatasetIdentity(
        name="image_text",
        version=tfds.core.Version("1.0.0"),
        data_dir=str(folder),
        module_name="reimagen_jax.data.records",
    )
    return tfds.core.DatasetInfo(
        builder=identity,
        description="Image-text pairs written by `reimagen prepare`.",
        features=tfds.features.FeaturesDict(
            {
                "key": text,
                "image": tfds.features.Image(shape=(None, None, 3)),
                "text": text,
                "attributes": tfds.features.Text(doc="JSON"),
                "digest": tfds.features.Text(doc="checksum of the decoded pixels"),
            }
        ),
    )
