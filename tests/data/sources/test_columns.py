"""Arrow to JSON by columns: every type of a Parquet file, slices of arrays, and values that cannot be converted."""

import datetime
import decimal
import json

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from reimagen_jax.data.sources.columns import Lost, pictures, settle, text_of, to_json

NANOSECONDS = 1700000000123456789


def raw(values, kind):
    return pa.array(values, pa.int32() if kind == pa.date32() else pa.int64()).view(kind)


def bad_text(kind):
    return pa.array([b"a", b"\xff", None, b"c"], pa.binary()).view(pa.string()).cast(kind, safe=False)


BAD = Lost("'utf-8' codec can't decode byte 0xff in position 0: invalid start byte")
CASES = [
    (pa.array([1, None, 2**63], pa.uint64()), [1, None, 2**63]),
    (pa.array([True, None]), [True, None]),
    (pa.nulls(2), [None, None]),
    (pa.array([0.5, float("nan"), float("inf"), None]), [0.5, None, None, None]),
    (pa.array([0.5, float("-inf")], pa.float16()), [0.5, None]),
    (pa.array([decimal.Decimal("1.10"), None], pa.decimal128(30, 2)), ["1.10", None]),
    (pa.array([decimal.Decimal("-1.10")], pa.decimal256(70, 2)), ["-1.10"]),
    (pa.array([NANOSECONDS, None], pa.timestamp("ns")), ["2023-11-14T22:13:20.123456789", None]),
    (pa.array([1700000000], pa.timestamp("s")), ["2023-11-14T22:13:20"]),
    (pa.array([1700000000500], pa.timestamp("ms", "Europe/Berlin")), ["2023-11-14T22:13:20.500+00:00"]),
    (pa.array([0], pa.timestamp("us", "Mars/Olympus")), ["1970-01-01T00:00:00+00:00"]),
    (pa.array([253402300800000000, 0], pa.timestamp("us")), ["10000-01-01T00:00:00", "1970-01-01T00:00:00"]),
    (raw([2**62, 0, None], pa.timestamp("s")), [None, "1970-01-01T00:00:00", None]),
    (raw([2**31 - 1, 3000000, 0], pa.date32()), [None, "10183-09-21", "1970-01-01"]),
    (raw([2**62, 86400000], pa.date64()), [None, "1970-01-02"]),
    (pa.array([datetime.time(1, 2, 3), datetime.time(1, 2, 3, 4)]), ["01:02:03", "01:02:03.000004"]),
    (raw([2**62, 5], pa.time64("ns")), [None, "00:00:00.000000005"]),
    (pa.array([90061000000001, None], pa.duration("ns")), ["1 day, 1:01:01", None]),
    (pa.array([90061], pa.duration("s")), ["1 day, 1:01:01"]),
    (raw([2**62, -1], pa.duration("s")), [None, "-1 day, 23:59:59"]),
    (pa.array(["a", "ü" * 20, None], pa.string_view()), ["a", "ü" * 20, None]),
    (pa.array(["a", None], pa.large_string()), ["a", None]),
    (pa.array(["a", "b", "a", None]).dictionary_encode(), ["a", "b", "a", None]),
    (pa.array([b"caf\xc3\xa9", None, b"two\nlines"], pa.binary()), ["café", None, "two\nlines"]),
    (pa.array([b"caf\xc3\xa9" * 9], pa.binary_view()), ["café" * 9]),
    (pa.array([b"ab"], pa.binary(2)), ["ab"]),
    (bad_text(pa.string()), ["a", BAD, None, "c"]),
    (bad_text(pa.large_string()), ["a", BAD, None, "c"]),
    (bad_text(pa.string_view()), ["a", BAD, None, "c"]),
    (pa.array([[1, 2], None, [], [3]], pa.list_(pa.int8())), [[1, 2], None, [], [3]]),
    (pa.array([[1, 2], None, [3, 4]], pa.list_(pa.int8(), 2)), [[1, 2], None, [3, 4]]),
    (pa.array([[1, 2], None, [3]], pa.list_view(pa.int8())), [[1, 2], None, [3]]),
    (pa.array([{"a": [{"b": "c"}]}, None, {"a": None}]), [{"a": [{"b": "c"}]}, None, {"a": None}]),
    (pa.array([[("k", 1)], None, []], pa.map_(pa.string(), pa.int8())), [[["k", 1]], None, []]),
    (pa.array([[b"good", b"\xff"]]), [["good", Lost("binary, and not UTF-8: invalid start byte at byte 0")]]),
]


@pytest.mark.parametrize(("array", "values"), CASES, ids=lambda c: str(c.type) if isinstance(c, pa.Array) else "")
def test_every_type(array, values):
    assert to_json(array) == values
    for start in range(len(array)):
        for length in range(len(array) - start + 1):
            assert to_json(array.slice(start, length)) == values[start : start + length]
    json.dumps(settle(to_json(array), []), allow_nan=False)


def test_a_type_that_json_has_nothing_like_is_lost_and_so_is_what_is_nested_without_end():
    intervals = pa.array([(1, 2, 3), None], pa.month_day_nano_interval())
    assert all(isinstance(value, Lost) for value in to_json(intervals))
    kind = pa.int8()
    for _ in range(200):
        kind = pa.list_(kind)
    assert to_json(pa.nulls(2, kind)) == [Lost("nested too deeply")] * 2


@given(st.binary())
def test_any_bytes_are_text_or_lost(data):
    found = text_of(data)
    assert isinstance(found, Lost) or found.encode() == data


@settings(max_examples=50, deadline=None)
@given(st.lists(st.none() | st.lists(st.none() | st.fixed_dictionaries({"a": st.none() | st.integers(0, 9)}))))
def test_lists_of_objects_are_as_arrow_itself_converts_them(rows):
    array = pa.array(rows, pa.list_(pa.struct([("a", pa.int8())])))
    assert to_json(array) == rows
    assert to_json(array[1:]) == rows[1:]


IMAGE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])


def test_pictures():
    one = {"bytes": b"\x89", "path": None}
    assert pictures(pa.array([one, None], IMAGE), 9) == (False, [[(b"\x89", None)], [(None, None)]])
    assert pictures(pa.array([b"x", None, b"y" * 10]), 9) == (False, [[(b"x", None)], [(None, None)], [(10, None)]])
    assert pictures(pa.array(["a", "", None]), 9) == (False, [[(None, "a")], [(None, None)], [(None, None)]])
    listed = pa.array([[one, {"bytes": None, "path": "p"}], [], None], pa.list_(IMAGE))
    assert pictures(listed, 9) == (True, [[(b"\x89", None), (None, "p")], [], []])
    assert pictures(listed[1:], 9) == (True, [[], []])
    assert pictures(pa.array([[b"x"], [b"y", None]], pa.large_list(pa.large_binary())), 9)[1][1] == [
        (b"y", None),
        (None, None),
    ]
    assert pictures(pa.array([1, 2]), 9) == (False, [[(None, None)]] * 2)
