"""What is asked of Parquet's library, which ends its process on some damaged files: run by `apart.run` alone.

Rows come in batches of a few, whatever the size of the row groups: a group is streamed, so its size costs no memory.
"""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from reimagen_jax.data.sources.apart import one_line
from reimagen_jax.data.sources.columns import Lost, pictures, settle, to_json
from reimagen_jax.data.sources.fields import TEXT_FIELDS, is_unicode

IMAGE_COLUMNS = ("image", "images", "img", "picture", "photo", "jpg", "png", "webp", "image_bytes")
PATH_COLUMNS = ("file_name", "image_path", "path")
"""Where paths of pictures are looked for when there is no column of pictures."""
_BATCH_BYTES = 2**24


@dataclass(frozen=True)
class About:
    """What a file's footer tells."""

    rows: int
    columns: dict[str, str]
    """Names and types."""
    image: str | None
    """The column of pictures, by its features, its type or its name."""


@dataclass(frozen=True)
class Row:
    """A row: its pictures, and its other fields as JSON."""

    pictures: list[tuple[bytes | int | None, str | None]]
    """Bytes (their number where they are too many) and path of each; one, unless `listed`."""
    fields: dict[str, Any]
    lost: dict[str, str] = field(default_factory=dict)
    """Fields that could not be converted, whole or in part, and why."""
    listed: bool = False
    """The column of pictures holds lists."""


@dataclass(frozen=True)
class Break:
    """Stands for the rows from here to the end of a row group, which cannot be read."""

    detail: str


def about(path: str) -> Iterator[About]:
    """Yields one: what the file's footer tells."""
    with _open(path) as parquet:
        schema = parquet.schema_arrow
        columns = {column.name: str(column.type) for column in schema}
        yield About(parquet.metadata.num_rows, columns, _image_column(schema, _hugging_face_features(schema)))


def rows(path: str, image: str, start: int, max_rows: int, max_bytes: int) -> Iterator[tuple[int, list[Row | Break]]]:
    """Yields batches of consecutive rows, each with the number of its first; from the row group of row `start` on."""
    with _open(path) as parquet:
        classes = _class_names(_hugging_face_features(parquet.schema_arrow))
        first = 0
        for group in range(parquet.num_row_groups):
            end = first + parquet.metadata.row_group(group).num_rows
            if end < first:
                raise ValueError(f"a row group of {end - first} rows")
            if start < end:
                number = first
                try:
                    for batch in _batches(parquet, group, max_rows):
                        wanted = number + len(batch) > start
                        yield number, list(_rows_of(batch, image, classes, max_bytes)) if wanted else []
                        number += len(batch)
                    if number < end:
                        raise EOFError(f"it ends after {number - first} of {end - first} rows")
                except Exception as error:  # whatever Arrow raises; the next group may be whole
                    if number < end:
                        yield number, [Break(f"row group {group} from row {number} on: {one_line(error)}")]
            first = end
        if first != parquet.metadata.num_rows:
            yield first, [Break(f"it tells of {parquet.metadata.num_rows} rows, and its row groups of {first}")]


@contextmanager
def _open(path: str) -> Iterator[Any]:
    import pyarrow.parquet as pq

    # In nanoseconds, as they are read by default, the years of Spark's old timestamps wrap around.
    options = {"coerce_int96_timestamp_unit": "us"}
    with (
        open(path, "rb") as file,  # Arrow itself takes no name that is not UTF-8
        pq.ParquetFile(file, pre_buffer=False, buffer_size=2**20, **options) as parquet,
    ):
        yield parquet


def _batches(parquet: Any, group: int, max_rows: int) -> Iterator[Any]:
    about = parquet.metadata.row_group(group)
    size = sum(about.column(column).total_uncompressed_size for column in range(about.num_columns))
    most = max(1, min(max_rows, _BATCH_BYTES * about.num_rows // max(1, size)))
    return parquet.iter_batches(most, row_groups=[group], use_threads=False)


def _rows_of(batch: Any, image: str, classes: dict[str, list[str]], max_bytes: int) -> Iterator[Row]:
    names = batch.schema.names
    place = names.index(image)
    listed, shown = pictures(batch.column(place), max_bytes)
    columns = [[]] * len(names)
    for index, name in enumerate(names):
        if index != place:
            values = to_json(batch.column(index))
            columns[index] = [_named(value, classes[name]) for value in values] if name in classes else values
    for row in range(len(batch)):
        fields, lost = {}, {}
        for index, name in enumerate(names):
            if index != place:
                reasons: list[str] = []
                value = columns[index][row]
                settled = settle(value, reasons)
                if reasons:
                    lost[name] = reasons[0]
                if not isinstance(value, Lost):
                    fields[name] = settled
        yield Row(shown[row], fields, lost, listed)


def _named(value: Any, names: list[str]) -> Any:
    """The classes' names in the place of their numbers, also in lists."""
    if isinstance(value, list):
        return [_named(item, names) for item in value]
    known = isinstance(value, int) and not isinstance(value, bool) and 0 <= value < len(names)
    return names[value] if known else value


def _hugging_face_features(schema: Any) -> dict[str, dict[str, Any]]:
    """The features that `datasets` notes in the schema, a list's as its elements'; none of another program's file."""
    try:
        features = json.loads((schema.metadata or {})[b"huggingface"])["info"]["features"]
        found = {name: _element(feature) for name, feature in features.items()}
    except (KeyError, ValueError, TypeError, AttributeError, RecursionError):
        return {}
    return {name: feature for name, feature in found.items() if isinstance(feature, dict)}


def _element(feature: Any) -> Any:
    """What a list holds: [FEATURE], or {"_type": "Sequence" or "List", "feature": FEATURE}."""
    if isinstance(feature, list) and len(feature) == 1:
        return feature[0]
    if isinstance(feature, dict) and feature.get("_type") in ("Sequence", "List", "LargeList"):
        return feature.get("feature")
    return feature


def _class_names(features: dict[str, dict[str, Any]]) -> dict[str, list[str]]:
    """The names of the classes that columns hold the numbers of; none where the notes are not as they should be."""
    labels = {name: f.get("names") for name, f in features.items() if f.get("_type") == "ClassLabel"}
    return {
        column: names
        for column, names in labels.items()
        if isinstance(names, list) and all(isinstance(name, str) for name in names) and is_unicode(names)
    }


def _image_column(schema: Any, features: dict[str, dict[str, Any]]) -> str | None:
    import pyarrow as pa

    def element(kind: Any) -> Any:
        return element(kind.value_type) if hasattr(kind, "value_type") and not pa.types.is_map(kind) else kind

    columns = {column.name: element(column.type) for column in schema}
    declared = [name for name in columns if features.get(name, {}).get("_type") == "Image"]
    structs = [n for n, t in columns.items() if pa.types.is_struct(t) and t.get_field_index("bytes") >= 0]
    binary = [n for n, t in columns.items() if str(t).endswith(("binary", "binary_view")) and n not in TEXT_FIELDS]
    by_name = [name for name in (*IMAGE_COLUMNS, *PATH_COLUMNS) if name in columns]
    for candidates in (declared, structs, [n for n in by_name if n in binary], by_name):
        if candidates:
            return min(candidates, key=lambda name: (*IMAGE_COLUMNS, *PATH_COLUMNS, name).index(name))
    return binary[0] if len(binary) == 1 else None
