"""Columns of Arrow to JSON values, a column at a time; a value that cannot be converted costs that value alone.

times             text in ISO 8601, of instants in UTC with +00:00, to the column's own precision, of any year
durations         text as Python spells a `timedelta`
decimals          text
bytes             the text that they spell in UTF-8 (strings come so from writers that do not annotate them)
lists, maps       lists; a map's are pairs
what is not finite, and years that Arrow cannot spell: null
"""

import datetime
import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from reimagen_jax.data.sources.fields import MAX_DEPTH

_FRACTION_OF_ZEROS = re.compile(r"\.0+$")
_CONTROLS = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]")
_PER_SECOND = {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}


@dataclass(frozen=True)
class Lost:
    """Stands for a value that cannot be converted."""

    reason: str


def to_json(array: Any) -> list[Any]:
    """The values of a `pyarrow.Array`: JSON, or `Lost`, which may also be in lists and objects."""
    try:
        return _convert(array, 0)
    except Exception as error:  # whatever Arrow raises, and types that JSON has nothing like: find the values at fault
        if len(array) == 1:
            return [Lost(" ".join(str(error).split())[:200] or type(error).__name__)]
    return [value for row in range(len(array)) for value in to_json(array.slice(row, 1))]


def settle(value: Any, reasons: list[str]) -> Any:
    """The value with null in the place of each `Lost`, whose reasons are added to `reasons`."""
    if isinstance(value, Lost):
        reasons.append(value.reason)
        return None
    if isinstance(value, list):
        return [settle(item, reasons) for item in value]
    if isinstance(value, dict):
        return {name: settle(item, reasons) for name, item in value.items()}
    return value


def text_of(data: bytes) -> str | Lost:
    """The text that bytes spell in UTF-8; binary data are no text, though they may be UTF-8 by chance."""
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        return Lost(f"binary, and not UTF-8: {error.reason} at byte {error.start}")
    return Lost("binary, with control characters") if _CONTROLS.search(text) else text


def pictures(array: Any, max_bytes: int) -> tuple[bool, list[list[tuple[bytes | int | None, str | None]]]]:
    """Whether the column holds lists, and of each row the pictures: their bytes and their paths.

    Bytes that are more than `max_bytes` are told by their number alone.
    """
    import pyarrow as pa

    array = _plain(array)
    if listed := _is_list(array.type):
        flat, spans = _parts(array)
    else:
        flat, spans = array, [(row, row + 1) for row in range(len(array))]
    flat = _plain(flat)
    if pa.types.is_struct(flat.type):
        names = [field.name for field in flat.type]
        data, paths = (flat.flatten()[names.index(n)] if n in names else None for n in ("bytes", "path"))
    else:
        data, paths = (flat, None) if _is_binary(flat.type) else (None, flat)
    datas = [None] * len(flat) if data is None else _bytes(data, max_bytes)
    texts = [None] * len(flat) if paths is None else [v if isinstance(v, str) and v else None for v in to_json(paths)]
    both = list(zip(datas, texts, strict=True))
    return listed, [[] if span is None else both[slice(*span)] for span in spans]


def _bytes(array: Any, max_bytes: int) -> list[bytes | int | None]:
    import pyarrow as pa
    import pyarrow.compute as pc

    array = _plain(array)
    if not _is_binary(array.type):
        return [None] * len(array)
    sizes = pc.binary_length(array.cast(pa.large_binary())).to_pylist()
    if all(size is None or size <= max_bytes for size in sizes):
        return array.to_pylist()
    return [s if s is None or s > max_bytes else array[row].as_py() for row, s in enumerate(sizes)]


def _convert(array: Any, depth: int) -> list[Any]:
    import pyarrow as pa

    array = _plain(array)
    kind, types = array.type, pa.types
    if depth > MAX_DEPTH:
        raise ValueError("nested too deeply")
    if _is_list(kind):
        flat, spans = _parts(array)
        values = _convert(flat, depth + 1)
        return [None if span is None else values[slice(*span)] for span in spans]
    if types.is_map(kind):
        keys, items, spans = _convert(array.keys, depth + 2), _convert(array.items, depth + 2), _spans(array)
        return [s if s is None else [[keys[i], items[i]] for i in range(*s)] for s in spans]
    if types.is_struct(kind):
        columns = {field.name: _convert(part, depth + 1) for field, part in zip(kind, array.flatten(), strict=True)}
        rows = zip(array.is_valid().to_pylist(), *columns.values(), strict=True)
        return [dict(zip(columns, row, strict=True)) if valid else None for valid, *row in rows]
    for fits, convert in _LEAVES:
        if fits(types, kind):
            return convert(array)
    raise TypeError(f"{kind} is not JSON")


def _plain(array: Any) -> Any:
    """The array without dictionary, extension type, view of bytes or fixed size."""
    import pyarrow as pa

    if isinstance(array.type, pa.BaseExtensionType):
        return _plain(array.storage)
    if pa.types.is_dictionary(array.type):
        return _plain(array.dictionary_decode())
    if str(array.type) in ("string_view", "binary_view"):
        data = array.cast(pa.large_binary())
        return data.view(pa.large_string()) if str(array.type) == "string_view" else data
    if pa.types.is_fixed_size_list(array.type):
        return array.cast(pa.large_list(array.type.value_type))
    return array


def _is_list(kind: Any) -> bool:
    import pyarrow as pa

    return pa.types.is_list(kind) or pa.types.is_large_list(kind) or _is_list_view(kind)


def _is_list_view(kind: Any) -> bool:
    return str(kind).startswith(("list_view<", "large_list_view<"))


def _is_binary(kind: Any) -> bool:
    import pyarrow as pa

    return pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or pa.types.is_fixed_size_binary(kind)


def _parts(array: Any) -> tuple[Any, list[tuple[int, int] | None]]:
    """The elements of all lists in one array, and where those of each lie in it."""
    if _is_list_view(array.type):  # whose lists may lie in any order, and overlap
        ends = zip(array.offsets.to_pylist(), array.sizes.to_pylist(), array.is_valid().to_pylist(), strict=True)
        return array.values, [(offset, offset + size) if there else None for offset, size, there in ends]
    spans = _spans(array)
    first, last = array.offsets[0].as_py(), array.offsets[-1].as_py()
    return array.values.slice(first, last - first), [s and (s[0] - first, s[1] - first) for s in spans]


def _spans(array: Any) -> list[tuple[int, int] | None]:
    offsets, valid = array.offsets.to_pylist(), array.is_valid().to_pylist()
    return [span if there else None for there, span in zip(valid, pairwise(offsets), strict=True)]


def _texts(array: Any) -> list[Any]:
    import pyarrow as pa

    try:
        return array.to_pylist()
    except UnicodeDecodeError:
        return [data if data is None else _utf8(data) for data in array.cast(pa.large_binary()).to_pylist()]


def _utf8(data: bytes) -> str | Lost:
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        return Lost(str(error)[:200])


def _floats(array: Any) -> list[float | None]:
    return [value if value is not None and math.isfinite(value) else None for value in array.to_pylist()]


def _times(array: Any) -> list[Any]:
    """Arrow spells them "2024-01-02 03:04:05.000000", and "<value out of range: N>" what it cannot."""
    import pyarrow as pa

    zone = ""
    if pa.types.is_timestamp(array.type) and array.type.tz is not None:
        array, zone = array.cast(pa.timestamp(array.type.unit)), "+00:00"
    return [
        text and (None if text[0] == "<" else _FRACTION_OF_ZEROS.sub("", text.replace(" ", "T")) + zone)
        for text in array.cast(pa.string()).to_pylist()
    ]


def _durations(array: Any) -> list[Any]:
    import pyarrow as pa

    per_second = _PER_SECOND[array.type.unit]

    def spell(count: int) -> str | None:
        seconds, rest = divmod(count, per_second)
        try:
            return str(datetime.timedelta(seconds=seconds, microseconds=rest * 10**6 // per_second))
        except OverflowError:
            return None

    return [count if count is None else spell(count) for count in array.view(pa.int64()).to_pylist()]


_LEAVES: tuple[tuple[Callable[[Any, Any], bool], Callable[[Any], list[Any]]], ...] = (
    (lambda t, k: t.is_string(k) or t.is_large_string(k), _texts),
    (lambda t, k: t.is_null(k) or t.is_boolean(k) or t.is_integer(k), lambda array: array.to_pylist()),
    (lambda t, k: t.is_floating(k), _floats),
    (lambda t, k: t.is_decimal(k), lambda array: [v if v is None else str(v) for v in array.to_pylist()]),
    (lambda t, k: t.is_timestamp(k) or t.is_date(k) or t.is_time(k), _times),
    (lambda t, k: t.is_duration(k), _durations),
    (lambda t, k: _is_binary(k), lambda array: [v if v is None else text_of(v) for v in array.to_pylist()]),
)
"""Which types are which, and what becomes of their values."""
