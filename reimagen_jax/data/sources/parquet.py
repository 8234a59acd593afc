"""Parquet files as Hugging Face writes them: a column of pictures, one of captions, and others, which are attributes.

A picture is a struct {bytes, path} (what `datasets` writes; without bytes where paths alone were stored), plain bytes,
or a path. Paths lead into one folder: one that leads elsewhere is refused. The features that `datasets` notes in the
schema tell the column of pictures and the names of classes. Rows are read in batches of a few, whatever the size of the
row groups.
"""

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path, PurePosixPath
from typing import Any

from reimagen_jax.data.image_text import Problem
from reimagen_jax.data.sources.base import Entry, Source, checked, leads_outside
from reimagen_jax.data.sources.fields import Captions, attributes_of, is_unicode
from reimagen_jax.data.sources.folder import read_picture
from reimagen_jax.data.sources.shards import common_folder, fingerprint, relative_names
from reimagen_jax.data.sources.where import EVERYTHING, Where
from reimagen_jax.errors import UserError

IMAGE_COLUMNS = ("image", "img", "picture", "photo", "jpg", "png", "webp", "image_bytes")
PATH_COLUMNS = ("file_name", "image_path", "path")
"""Where paths of pictures are looked for when there is no column of pictures."""
MAX_GROUP_BYTES = 2**31
"""Largest uncompressed column of a row group that is read."""
_BATCH_BYTES = 2**24
_MAX_ROWS = 256


@dataclass(frozen=True)
class ParquetSource(Source):
    """Parquet files with a row for each picture. Raises `UserError` where no column can hold pictures."""

    paths: tuple[Path, ...]
    where: Where = EVERYTHING
    resolution: int | None = None
    captions: Captions = field(default_factory=Captions)
    image: str | None = None
    """Column of the pictures; found by its name or its type when `None`."""
    pictures: Path | None = None
    """Folder that paths of pictures lead into; the one that the Parquet file lies in when `None`."""

    def __post_init__(self) -> None:
        problems = []
        for path in self.paths:
            try:
                self._columns(_open(path).schema_arrow, path)
                return
            except _Damaged as error:
                problems.append(f"{path}: {error}")
        raise UserError(f"no Parquet file can be read: {problems[0]}")

    @cached_property
    def name(self) -> str:
        return f"parquet {common_folder(self.paths).name} {fingerprint(self.paths)}"

    @cached_property
    def files(self) -> tuple[str, ...]:
        return relative_names(self.paths)

    def count(self) -> int:
        """Rows of all readable files, by their footers."""
        return sum(_rows(path) for path in self.paths)

    def entries(self, file: int, start: int) -> Iterator[tuple[int, Entry | Problem]]:
        name, path = self.files[file], self.paths[file]
        try:
            parquet = _open(path)
            image, classes = self._columns(parquet.schema_arrow, path)
        except (_Damaged, UserError) as error:
            if not start:
                yield 0, Problem(name, "damaged file" if isinstance(error, _Damaged) else "no pictures", str(error))
            return
        with parquet:
            number = 0
            for group in range(parquet.num_row_groups):
                rows = parquet.metadata.row_group(group).num_rows
                if start < number + rows:
                    for row, fields in _read_group(parquet, group, max(0, start - number)):
                        if isinstance(fields, _Damaged):
                            detail = f"row group {group} from row {number + row} on: {fields}"
                            yield number + row, Problem(name, "damaged file", detail)
                        elif isinstance(fields, _BadText):
                            yield number + row, Problem(f"{name}:{number + row}", "bad text", str(fields))
                        else:
                            yield number + row, self._entry(file, number + row, fields, image, classes)
                number += rows

    def _columns(self, schema: Any, path: Path) -> tuple[str, dict[str, list[str]]]:
        """The column of pictures, and the class names of the columns that hold numbers of classes."""
        features = _hugging_face_features(schema)
        columns = {column.name: column.type for column in schema}
        image = self.image or _image_column(columns, features)
        if image not in columns:
            known = ", ".join(f"{name} ({kind})" for name, kind in columns.items())
            what = f"no column {self.image}" if self.image else "no column of pictures"
            raise UserError(f"{path} has {what}: name it with --image; its columns are {known}")
        names = {name: f["names"] for name, f in features.items() if f.get("_type") == "ClassLabel" and f.get("names")}
        return image, names

    def _entry(
        self, file: int, row: int, fields: dict[str, Any], image: str, classes: dict[str, list[str]]
    ) -> Entry | Problem:
        key = f"{self.files[file]}:{row}"
        picture = fields.pop(image, None)
        for name, names in classes.items():
            if isinstance(number := fields.get(name), int) and 0 <= number < len(names):
                fields[name] = names[number]
        fields = attributes_of(fields)
        if not is_unicode(fields):
            return Problem(key, "bad text", "half of a UTF-16 surrogate pair")
        texts, attributes = self.captions.split(fields)
        if not texts:
            return Problem(key, "empty caption", self.captions.why_none(fields, key))
        data, path = _picture(picture)
        if data is not None:
            return Entry(key, texts, attributes, partial(checked, data))
        if path is None:
            return Problem(key, "no picture", f"the column {image} is empty")
        folder = Path(os.path.abspath(self.pictures or self.paths[file].parent))
        if PurePosixPath(path).is_relative_to(folder):
            path = str(PurePosixPath(path).relative_to(folder))
        if leads_outside(path):
            detail = f"{path!r} is not in {folder}; --data-dir names another folder"
            return Problem(key, "path outside the folder", detail)
        return Entry(key, texts, attributes, partial(read_picture, folder / path, f"named in {key}"))


class _Damaged(Exception):
    """A file, or a part of one, that Parquet's library cannot read."""


class _BadText(Exception):
    """A row with a text that is not UTF-8."""


def _open(path: Path) -> Any:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        return pq.ParquetFile(path, memory_map=False, pre_buffer=False, buffer_size=2**20)
    except (pa.ArrowException, OSError, ValueError) as error:
        raise _Damaged(_one_line(error)) from error


def _rows(path: Path) -> int:
    try:
        with _open(path) as parquet:
            return parquet.metadata.num_rows
    except _Damaged:
        return 0


def _read_group(parquet: Any, group: int, skip: int) -> Iterator[tuple[int, dict[str, Any] | _Damaged | _BadText]]:
    """Yields the rows of a row group from `skip` on with their numbers; an exception where the group breaks off."""
    import pyarrow as pa

    about = parquet.metadata.row_group(group)
    sizes = [about.column(column).total_uncompressed_size for column in range(about.num_columns)]
    if max(sizes) > MAX_GROUP_BYTES:
        yield skip, _Damaged(f"a column of {max(sizes)} bytes, the limit is {MAX_GROUP_BYTES}")
        return
    rows = max(1, min(_MAX_ROWS, _BATCH_BYTES * about.num_rows // max(1, sum(sizes))))
    first = 0
    try:
        for batch in parquet.iter_batches(rows, row_groups=[group], use_threads=False):
            begin = min(max(0, skip - first), len(batch))
            yield from enumerate(_to_fields(batch.slice(begin)), first + begin)
            first += len(batch)
    except (pa.ArrowException, OSError, ValueError) as error:
        yield max(first, skip), _Damaged(_one_line(error))


def _to_fields(batch: Any) -> Iterator[dict[str, Any] | _BadText]:
    """The rows of a batch; where one holds what is not UTF-8, the others still go through."""
    try:
        yield from batch.to_pylist()
    except UnicodeDecodeError:
        for row in range(len(batch)):
            try:
                yield from batch.slice(row, 1).to_pylist()
            except UnicodeDecodeError as error:
                yield _BadText(str(error))


def _hugging_face_features(schema: Any) -> dict[str, dict[str, Any]]:
    """The features that `datasets` notes in the schema; none where another program wrote the file."""
    try:
        features = json.loads((schema.metadata or {})[b"huggingface"])["info"]["features"]
        return {name: feature for name, feature in features.items() if isinstance(feature, dict)}
    except (KeyError, ValueError, TypeError, AttributeError):
        return {}


def _image_column(columns: dict[str, Any], features: dict[str, dict[str, Any]]) -> str | None:
    import pyarrow as pa

    declared = [name for name in columns if features.get(name, {}).get("_type") == "Image"]
    structs = [n for n, t in columns.items() if pa.types.is_struct(t) and t.get_field_index("bytes") >= 0]
    binary = [n for n, t in columns.items() if pa.types.is_binary(t) or pa.types.is_large_binary(t)]
    by_name = [name for name in (*IMAGE_COLUMNS, *PATH_COLUMNS) if name in columns]
    for candidates in (declared, structs, [n for n in by_name if n in binary], by_name):
        if candidates:
            return min(candidates, key=lambda name: (*IMAGE_COLUMNS, *PATH_COLUMNS, name).index(name))
    return binary[0] if len(binary) == 1 else None


def _picture(value: Any) -> tuple[bytes | None, str | None]:
    """Bytes or path of a picture, or neither."""
    if isinstance(value, dict):
        data, path = value.get("bytes"), value.get("path")
        return (data if isinstance(data, bytes) else None), (path if isinstance(path, str) and path else None)
    return (value if isinstance(value, bytes) else None), (value if isinstance(value, str) and value else None)


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__
