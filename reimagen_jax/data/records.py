"""Records: image-text pairs on disk with random access, through TFDS (ArrayRecord) and without TensorFlow.

A folder of records holds the shards and the two JSON files that `tfds.builder_from_directory` reads (split "records"),
a manifest, and `skipped.jsonl`, which names what the source held and the records do not.
"""

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from reimagen_jax.data import images
from reimagen_jax.data.manifest import read_manifest, verify_checksums, write_manifest
from reimagen_jax.data.parallel import ordered_map
from reimagen_jax.errors import UserError
from reimagen_jax.files import atomic_dir
from reimagen_jax.progress import track

KIND = "records"
SPLIT = "records"
RECORDS_PER_SHARD = 4096
_WRITE_BATCH = 256
_READ_BATCH = 2048


@dataclass(frozen=True)
class ImageText:
    """An image with its caption."""

    key: str
    """Names the record, uniquely within its source."""
    image: bytes
    """Encoded: PNG, JPEG or WebP."""
    text: str
    attributes: dict[str, Any] = field(default_factory=dict)
    """Whatever else the source tells (JSON types)."""
    digest: str = field(default="", compare=False)
    """Checksum of the pixels as they came (`images.digest`); `write_records` fills it in where it is empty."""


@dataclass(frozen=True)
class Problem:
    """An item of a source that does not become a record."""

    name: str
    reason: str
    """One of a few fixed phrases, for counting."""
    detail: str

    def __str__(self) -> str:
        return f"{self.name}: {self.reason}: {self.detail}"


def write_records(
    examples: Iterable[ImageText],
    out: str | Path,
    *,
    source: str,
    total: int | None = None,
    overwrite: bool = False,
    problems: Sequence[Problem] = (),
    settings: dict[str, Any] | None = None,
) -> "Records":
    """Writes `examples`, in their order, to the new folder `out` and opens it.

    `source` names where they come from: records of the same source and key are the same record. `problems` is read
    after the last example, so whoever yields the examples may append to it. `settings` is noted in the manifest.
    Raises `UserError` when there are no examples, on a key that occurs twice, on an image that cannot be decoded,
    and when `out` exists and `overwrite` is false.
    """
    with atomic_dir(out, overwrite=overwrite) as folder:
        content, keys = hashlib.sha256(), set()
        writer = _tfds_writer(folder)
        examples = track(ordered_map(_with_digest, examples), total, "records", "image")
        while batch := list(islice(examples, _WRITE_BATCH)):
            for example in batch:
                if example.key in keys:
                    raise UserError(f"two records have the key {example.key!r}: keys must be unique within a source")
                keys.add(example.key)
                content.update(_checksum(example))
            writer.add_examples({SPLIT: [_to_features(example) for example in batch]})
        writer.close_all()
        if not keys:
            raise UserError(f"nothing to write: {source} has nothing usable that fits the filter{_counted(problems)}")
        with (folder / "skipped.jsonl").open("w", encoding="utf-8") as file:
            for problem in problems:
                file.write(json.dumps(vars(problem), ensure_ascii=False) + "\n")
        fields = {
            "count": len(keys),
            "fingerprint": content.hexdigest()[:32],
            "source": source,
            "settings": settings or {},
            "skipped": dict(Counter(problem.reason for problem in problems)),
        }
        write_manifest(folder, KIND, fields)
    return Records.open(out)


@dataclass(frozen=True, eq=False)
class Records:
    """A folder of records: a sequence of `ImageText` with random access; safe to read from several threads."""

    path: Path
    manifest: dict[str, Any]

    @classmethod
    def open(cls, path: str | Path) -> "Records":
        """Opens a folder of records. Raises `UserError` on what is missing, damaged, or of an unknown version."""
        return cls(Path(path), read_manifest(path, KIND))

    @property
    def fingerprint(self) -> str:
        """Checksum of all records, in order: keys, images, texts, attributes."""
        return self.manifest["fingerprint"]

    @property
    def source(self) -> str:
        """Where the records come from."""
        return self.manifest["source"]

    def __len__(self) -> int:
        return self.manifest["count"]

    def __getitem__(self, index: int) -> ImageText:
        return self.fetch([range(len(self))[index]])[0]

    def __iter__(self) -> Iterator[ImageText]:
        for start in range(0, len(self), _READ_BATCH):
            yield from self.fetch(range(start, min(start + _READ_BATCH, len(self))))

    def fetch(self, ids: Iterable[int]) -> list[ImageText]:
        """Reads many records at once: far faster than one by one."""
        return [_from_features(features) for features in self._features(ids)]

    def keys(self) -> list[str]:
        """All keys, in order; read once."""
        return self._columns[0]

    def texts(self) -> list[str]:
        """All captions, in order; read once."""
        return self._columns[1]

    def digests(self) -> list[str]:
        """Checksums of all images' pixels, in order; read once."""
        return self._columns[2]

    def verify(self) -> None:
        """Compares the checksums of all files. Raises `UserError` naming the first that is damaged."""
        verify_checksums(self.path, self.manifest)

    @cached_property
    def _columns(self) -> tuple[list[str], list[str], list[str]]:
        columns = ([], [], [])
        for start in range(0, len(self), _READ_BATCH):
            for features in self._features(range(start, min(start + _READ_BATCH, len(self)))):
                for column, name in zip(columns, ("key", "text", "digest"), strict=True):
                    column.append(_string(features, name))
        return columns

    @cached_property
    def _shards(self) -> Any:
        tfds = _tfds()
        raw = tfds.decode.DeserializeMethod.RAW_BYTES
        return tfds.builder_from_directory(str(self.path)).as_data_source(split=SPLIT, deserialize_method=raw)

    def _features(self, ids: Iterable[int]) -> list[Any]:
        """The stored features of records, as the protocol buffer's map (TFDS can unpack it too, 15 times slower)."""
        from tensorflow_datasets.proto import tf_example_pb2

        ids = np.asarray(list(ids), np.int64)
        if ids.size == 0:
            return []
        if ids.min() < 0 or ids.max() >= len(self):
            raise IndexError(f"record {ids.min() if ids.min() < 0 else ids.max()} of {len(self)} in {self.path}")
        parse = tf_example_pb2.Example.FromString
        return [parse(raw).features.feature for raw in self._shards.__getitems__(ids.tolist())]


def _tfds() -> Any:
    import tensorflow_datasets as tfds

    return tfds


def _tfds_writer(folder: Path) -> Any:
    """TFDS's streaming writer: a shard at a time in memory, and the order of the source (a builder would shuffle)."""
    tfds = _tfds()
    text = tfds.features.Text()
    identity = tfds.core.dataset_info.DatasetIdentity(
        name="image_text", version=tfds.core.Version("1.0.0"), data_dir=str(folder), module_name=__name__
    )
    info = tfds.core.DatasetInfo(
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
    writer = tfds.core.SequentialWriter(info, max_examples_per_shard=RECORDS_PER_SHARD, file_format="array_record")
    writer.initialize_splits([SPLIT])
    return writer


def _with_digest(example: ImageText) -> ImageText:
    try:
        return example if example.digest else replace(example, digest=images.digest(images.load(example.image)))
    except images.ImageError as error:
        raise UserError(f"record {example.key!r}: {error}") from error


def _to_features(example: ImageText) -> dict[str, Any]:
    return {**vars(example), "attributes": json.dumps(example.attributes, ensure_ascii=False, allow_nan=False)}


def _string(features: Any, name: str) -> str:
    return features[name].bytes_list.value[0].decode("utf-8")


def _from_features(features: Any) -> ImageText:
    return ImageText(
        key=_string(features, "key"),
        image=features["image"].bytes_list.value[0],
        text=_string(features, "text"),
        attributes=json.loads(_string(features, "attributes")),
        digest=_string(features, "digest"),
    )


def _checksum(example: ImageText) -> bytes:
    attributes = json.dumps(example.attributes, sort_keys=True, allow_nan=False)
    parts = (example.key.encode(), example.image, example.text.encode(), attributes.encode())
    return b"".join(hashlib.sha256(part).digest() for part in parts)


def _counted(problems: Sequence[Problem]) -> str:
    counts = Counter(problem.reason for problem in problems)
    return "".join(f"; {count} x {reason}" for reason, count in counts.most_common())
