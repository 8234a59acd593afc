"""Records: image-text pairs on disk with random access, through TFDS (ArrayRecord) and without TensorFlow.

A folder of records holds the shards and the two JSON files that `tfds.builder_from_directory` reads (split "records"),
a manifest, and `skipped.jsonl`, which names what the source held and the records do not. Here TFDS reads the shards by
a description of our own: what the JSON files say of classes to import is for others.
"""

import hashlib
import json
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from reimagen_jax.checked import Count, Natural
from reimagen_jax.data import images
from reimagen_jax.data.catalogue import Ledger
from reimagen_jax.data.image_text import ImageText, Problem
from reimagen_jax.data.manifest import Folder, Manifest, Text, follow, open_folder, write_manifest
from reimagen_jax.data.parallel import ordered_map
from reimagen_jax.data.shards import (
    Shard,
    ShardWriter,
    data_source,
    from_features,
    image_bytes,
    in_batches,
    parse,
    read_shard,
    string,
)
from reimagen_jax.errors import UserError
from reimagen_jax.files import atomic_dir
from reimagen_jax.progress import track

__all__ = ["Draft", "ImageText", "ImageTexts", "Problem", "Records", "open_linked", "write_records"]

KIND = "records"
RECORDS_PER_SHARD = 4096
SKIPPED = "skipped.jsonl"
_READ_BATCH = 2048
_DAMAGE = "write it again with `reimagen prepare`"


@dataclass(frozen=True)
class RecordsManifest(Manifest):
    """Of a folder of records."""

    count: Count
    fingerprint: Text
    source: Text
    settings: dict[str, Any]
    skipped: dict[str, Natural]
    mended: dict[str, Natural] = field(default_factory=dict)
    """Pictures that viewers show and decoders refuse, by what was amiss, where there are any."""


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
    with atomic_dir(out, kind=KIND, overwrite=overwrite) as folder:
        draft, keys, mended = Draft(folder), Ledger(), Counter()
        for example in track(ordered_map(_with_digest, examples), total, "records", "image"):
            if keys.setdefault(example.key, 1) is not None:
                raise UserError(f"two records have the key {example.key!r}: keys must be unique within a source")
            if example.mended:
                mended[example.mended] += 1
            draft.add(example)
        with (folder / SKIPPED).open("w", encoding="utf-8") as file:
            file.writelines(as_line(problem) for problem in problems)
        draft.finish(source, settings or {}, Counter(problem.reason for problem in problems), mended)
    return Records.open(out)


class Draft:
    """Records in the making: the shards of a folder, from the complete ones on, and the checksum of their content."""

    def __init__(self, folder: Path, shards: Sequence[Shard] = (), per_shard: int | None = None):
        self.writer = ShardWriter(folder, per_shard or RECORDS_PER_SHARD, shards)
        self._folder = folder
        self._content = hashlib.sha256()

    @property
    def count(self) -> int:
        """Records in complete shards."""
        return sum(shard.records for shard in self.writer.shards)

    def restore(self) -> Iterator[ImageText]:
        """Yields the records of the complete shards; all must be taken before anything is added."""
        for index in range(len(self.writer.shards)):
            for example in read_shard(self._folder, index):
                self._content.update(_checksum(example))
                yield example

    def add(self, example: ImageText) -> bool:
        """Writes a record, whose digest must be known; true when it completes a shard."""
        self._content.update(_checksum(example))
        return self.writer.add(example)

    def finish(
        self, source: str, settings: dict[str, Any], skipped: Mapping[str, int], mended: Mapping[str, int]
    ) -> None:
        """Writes what is left and the manifest. Raises `UserError` where there are no records."""
        self.writer.close_shard()
        if not self.writer.shards:
            counted = "".join(f"; {count} x {reason}" for reason, count in Counter(skipped).most_common())
            fits = " that fits " + " ".join(settings["where"]) if settings.get("where") else ""
            raise UserError(f"nothing to write: {source} has nothing usable{fits}{counted}")
        self.writer.finish()
        fields = {
            "count": self.count,
            "fingerprint": self._content.hexdigest()[:32],
            "source": source,
            "settings": settings,
            "skipped": dict(skipped),
        }
        if mended:
            fields["mended"] = dict(mended)
        write_manifest(self._folder, KIND, fields)


def as_line(problem: Problem) -> str:
    """A problem as a line of `skipped.jsonl`."""
    return json.dumps(vars(problem), ensure_ascii=False) + "\n"


class ImageTexts(ABC):
    """A sequence of image-text pairs with random access: a folder of records, or a collection of several."""

    path: Path
    manifest: dict[str, Any]

    @property
    @abstractmethod
    def fingerprint(self) -> str:
        """Checksum of all records, in order."""

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def fetch(self, ids: Iterable[int]) -> list[ImageText]:
        """Reads many records at once: far faster than one by one."""

    @abstractmethod
    def keys(self) -> list[str]:
        """All keys, in order; those of one source are different from each other."""

    @abstractmethod
    def texts(self) -> list[str]:
        """All captions, in order."""

    @abstractmethod
    def digests(self) -> list[str]:
        """Checksums of all images' pixels, in order."""

    @abstractmethod
    def sources(self) -> list[str]:
        """Each record's source: records of the same source and key are the same record."""

    @abstractmethod
    def verify(self) -> None:
        """Compares the checksums of all files. Raises `UserError` naming the first that is damaged."""

    def __getitem__(self, index: int) -> ImageText:
        return self.fetch([range(len(self))[index]])[0]

    def __iter__(self) -> Iterator[ImageText]:
        for batch in in_batches(len(self), _READ_BATCH, self.fetch, lambda record: len(record.image)):
            yield from batch


@dataclass(frozen=True, eq=False)
class Records(ImageTexts):
    """A folder of records; safe to read from several threads."""

    path: Path
    manifest: dict[str, Any]
    folder: Folder | None = field(default=None, repr=False, kw_only=True)
    """Where they are read from; only what stands for records has none."""

    @classmethod
    def open(cls, path: str | Path) -> "Records":
        """Opens a folder of records. Raises `UserError` on what is missing, damaged, or of an unknown version."""
        folder = open_folder(path, KIND, RecordsManifest)
        return cls(folder.path, folder.manifest, folder=folder)

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

    def fetch(self, ids: Iterable[int]) -> list[ImageText]:
        features = self._features(ids)
        with self.folder.opened.reading(_DAMAGE):
            return [from_features(each) for each in features]

    def keys(self) -> list[str]:
        return self._columns[0]

    def texts(self) -> list[str]:
        return self._columns[1]

    def digests(self) -> list[str]:
        return self._columns[2]

    def sources(self) -> list[str]:
        return [self.source] * len(self)

    def verify(self) -> None:
        self.folder.verify()

    @cached_property
    def _columns(self) -> tuple[list[str], list[str], list[str]]:
        """Keys, texts and digests; read once."""
        columns = ([], [], [])
        for some in in_batches(len(self), _READ_BATCH, self._features, image_bytes):
            with self.folder.opened.reading(_DAMAGE):
                for column, name in zip(columns, ("key", "text", "digest"), strict=True):
                    column.extend(string(features, name) for features in some)
        return columns

    @cached_property
    def _shards(self) -> Any:
        return data_source(self.folder.opened, len(self))

    def _features(self, ids: Iterable[int]) -> list[Any]:
        """The stored features of records."""
        ids = np.asarray(list(ids), np.int64)
        if ids.size == 0:
            return []
        if ids.min() < 0 or ids.max() >= len(self):
            raise IndexError(f"record {ids.min() if ids.min() < 0 else ids.max()} of {len(self)} in {self.path}")
        with self.folder.opened.reading(_DAMAGE):
            return [parse(raw) for raw in self._shards.__getitems__(ids.tolist())]


def open_linked(folder: str | Path, relative: str, expected: str, command: str) -> Records:
    """Opens the records that `folder` refers to. Raises `UserError` when they are gone or others (fingerprint)."""
    path = follow(folder, relative)
    if not path.is_dir():
        raise UserError(f"{folder} refers to records in {path}, which are gone: run `{command}` again")
    records = Records.open(path)
    if records.fingerprint != expected:
        raise UserError(f"{folder} was made from other records than {path} holds now: run `{command}` again")
    return records


def _with_digest(example: ImageText) -> ImageText:
    if example.digest:
        return example
    try:
        with images.room(example.image):
            image = images.load(example.image)
            data, mended = image.info.get("encoded", example.image), image.info.get("mended", "")
            return replace(example, image=data, digest=images.digest(image), mended=mended)
    except images.ImageError as error:
        raise UserError(f"record {example.key!r}: {error}") from error


def _checksum(example: ImageText) -> bytes:
    attributes = json.dumps(example.attributes, sort_keys=True, allow_nan=False)
    parts = (example.key.encode(), example.image, example.text.encode(), attributes.encode())
    return b"".join(hashlib.sha256(part).digest() for part in parts)
