"""Parquet as `datasets` writes it: structs of bytes and paths, classes by name, lists of captions; damage by name."""

import datetime
import json
import os
import subprocess

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from reimagen_jax.data import images
from reimagen_jax.data.image_text import ImageText, Problem
from reimagen_jax.data.sources import Captions, ParquetSource, Place, Where, apart, parquet_rows
from reimagen_jax.errors import UserError
from tests.samples import encoded, picture

IMAGE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])


def hugging_face(features):
    """The schema's metadata that `datasets` writes."""
    return {b"huggingface": json.dumps({"info": {"features": features}}).encode()}


def write(path, columns, features=None, **options):
    table = pa.table(columns)
    if features:
        table = table.replace_schema_metadata(hugging_face(features))
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, path, **options)
    return path


def pictures(*seeds):
    return pa.array([{"bytes": encoded(picture(seed)), "path": f"{seed}.png"} for seed in seeds], IMAGE)


def split(source):
    items = list(source.items())
    return [i for i in items if isinstance(i, ImageText)], [i for i in items if isinstance(i, Problem)]


def test_as_datasets_writes_it(tmp_path):
    features = {"image": {"_type": "Image"}, "kind": {"_type": "ClassLabel", "names": ["cat", "dog"]}}
    columns = {"image": pictures(0, 1), "text": ["zero", " one "], "kind": [1, 0], "score": [0.5, float("nan")]}
    path = write(tmp_path / "data" / "train-00000-of-00001.parquet", columns, features)
    source = ParquetSource((path,))
    good, problems = split(source)
    assert problems == []
    assert source.count() == 2
    name = "train-00000-of-00001.parquet"
    assert good == [
        ImageText(f"{name}:0", encoded(picture(0)), "zero", {"kind": "dog", "score": 0.5}),
        ImageText(f"{name}:1", encoded(picture(1)), "one", {"kind": "cat", "score": None}),
    ]
    assert good[0].digest == images.digest(picture(0))


@pytest.mark.parametrize("kind", [pa.binary(), pa.large_binary()])
@pytest.mark.parametrize("name", ["image", "jpg", "anything"])
def test_plain_bytes(tmp_path, kind, name):
    path = write(tmp_path / "a.parquet", {name: pa.array([encoded(picture(0))], kind), "caption": ["a"]})
    assert [i.image for i in ParquetSource((path,)).items()] == [encoded(picture(0))]


def test_paths_inside_the_folder(tmp_path):
    (tmp_path / "images").mkdir()
    for n in range(3):
        (tmp_path / "images" / f"{n}.png").write_bytes(encoded(picture(n)))
    struct = pa.array([{"bytes": None, "path": p} for p in ("images/0.png", str(tmp_path / "images/1.png"))], IMAGE)
    good, problems = split(ParquetSource((write(tmp_path / "a.parquet", {"image": struct, "text": ["a", "b"]}),)))
    assert problems == []
    assert [i.image for i in good] == [encoded(picture(0)), encoded(picture(1))]
    plain = write(tmp_path / "metadata.parquet", {"file_name": ["images/2.png"], "text": ["c"]})
    assert [i.image for i in ParquetSource((plain,)).items()] == [encoded(picture(2))]
    struct = pa.array([{"bytes": None, "path": p} for p in ("0.png", str(tmp_path / "images" / "1.png"))], IMAGE)
    away = write(tmp_path / "elsewhere" / "a.parquet", {"image": struct, "text": ["a", "b"]})
    assert [i.text for i in ParquetSource((away,), pictures=tmp_path / "images").items()] == ["a", "b"]
    _, problems = split(ParquetSource((away,)))
    assert [p.reason for p in problems] == ["missing file", "path outside the folder"]
    assert "--data-dir" in problems[1].detail


def test_lists_and_objects_of_captions(tmp_path):
    columns = {
        "image": pictures(0, 1),
        "captions": [["a", "b", "a", ""], ["c"]],
        "sentences": [[{"text": "s", "id": 1}], [{"text": "t", "id": 2}, {"text": "u", "id": 3}]],
    }
    path = write(tmp_path / "a.parquet", columns)
    assert [(i.key, i.text) for i in ParquetSource((path,)).items()] == [
        ("a.parquet:0", "a"),
        ("a.parquet:0#2", "b"),
        ("a.parquet:1", "c"),
    ]
    assert [i.text for i in ParquetSource((path,), captions=Captions("sentences")).items()] == ["s", "t", "u"]
    assert [i.text for i in ParquetSource((path,), captions=Captions(most=1)).items()] == ["a", "c"]


def test_attributes_are_json(tmp_path):
    columns = {
        "image": pictures(0),
        "text": ["a"],
        "when": [datetime.datetime(2024, 1, 2, 3, 4, 5)],
        "other": pa.array([b"\0"], pa.binary()),
        "nested": [{"a": [1, 2], "b": None}],
        "tags": pa.array([[("k", 1)]], pa.map_(pa.string(), pa.int32())),
    }
    (item,) = ParquetSource((write(tmp_path / "a.parquet", columns),)).items()
    assert item.attributes == {"when": "2024-01-02T03:04:05", "nested": {"a": [1, 2], "b": None}, "tags": [["k", 1]]}


def test_every_bad_row_is_named_and_the_rest_goes_through(tmp_path, monkeypatch):
    monkeypatch.setattr(images, "MAX_BYTES", 100_000)
    (tmp_path / "secret.png").write_bytes(encoded(picture(9)))
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "folder.png").mkdir()
    rows = [
        (encoded(picture(0)), None, "good", None),
        (None, None, "x", "no picture"),
        (b"", None, "x", "not an image"),
        (None, "../secret.png", "x", "path outside the folder"),
        (None, str(tmp_path / "secret.png"), "x", "path outside the folder"),
        (None, "gone.png", "x", "missing file"),
        (None, "folder.png", "x", "unreadable file"),
        (encoded(picture(2))[:-30], None, "x", "broken image"),
        (encoded(picture(1, (300, 300))), None, "x", "oversized image"),
        (encoded(picture(0, (1, 1)).resize((9000, 9000))), None, "x", "oversized image"),
        (encoded(picture(3)), None, " ", "empty caption"),
        (encoded(picture(3)), None, None, "empty caption"),
        (encoded(picture(0)), None, "good", "duplicate"),
        (encoded(picture(4)), None, "last", None),
    ]
    struct = pa.array([{"bytes": data, "path": path} for data, path, _, _ in rows], IMAGE)
    path = write(tmp_path / "in" / "a.parquet", {"image": struct, "text": [row[2] for row in rows]})
    good, problems = split(ParquetSource((path,)))
    assert [item.text for item in good] == ["good", "last"]
    expected = [(f"a.parquet:{n}", row[3]) for n, row in enumerate(rows) if row[3]]
    assert [(p.name, p.reason) for p in problems] == expected
    assert all(p.detail for p in problems)


def test_text_that_is_not_utf8_spoils_one_row_only(tmp_path):
    text = pa.Array.from_buffers(pa.string(), 3, pa.array([b"a", b"\xff", b"c"], pa.binary()).buffers())
    good, problems = split(ParquetSource((write(tmp_path / "a.parquet", {"image": pictures(0, 1, 2), "text": text}),)))
    assert [i.text for i in good] == ["a", "c"]
    assert [(p.name, p.reason) for p in problems] == [("a.parquet:1", "bad text")]


@pytest.mark.parametrize("spoil", [lambda d: d[:-10], lambda d: d[: len(d) // 2], lambda d: b"", lambda d: b"PAR1"])
def test_truncated_files_are_refused_by_name(tmp_path, spoil):
    paths = [write(tmp_path / f"{n}.parquet", {"image": pictures(n), "text": [f"{n}"]}) for n in range(3)]
    paths[1].write_bytes(spoil(paths[1].read_bytes()))
    source = ParquetSource(tuple(paths))
    good, problems = split(source)
    assert [i.text for i in good] == ["0", "2"]
    assert [(p.name, p.reason) for p in problems] == [("1.parquet", "damaged file")]
    assert source.count() == 2


def test_a_damaged_row_group_is_refused_and_the_others_read(tmp_path):
    columns = {"image": pictures(*range(9)), "text": [f"{n}" for n in range(9)]}
    path = write(tmp_path / "a.parquet", columns, row_group_size=3, compression="zstd", write_page_checksum=True)
    column = pq.ParquetFile(path).metadata.row_group(1).column(0)
    data = bytearray(path.read_bytes())
    place = column.dictionary_page_offset or column.data_page_offset
    data[place : place + column.total_compressed_size] = bytes(column.total_compressed_size)
    path.write_bytes(data)
    good, problems = split(ParquetSource((path,)))
    assert [i.text for i in good] == ["0", "1", "2", "6", "7", "8"]
    assert [(p.name, p.reason) for p in problems] == [("a.parquet", "damaged file")]
    assert "row group 1" in problems[0].detail


def test_a_row_group_is_streamed_whatever_its_size(tmp_path):
    """Of 48 MB in one group, the process that reads it never holds more than some batches of 16 MB."""
    pad = bytes(2**20)
    columns = {"image": [encoded(picture(n)) + pad for n in range(48)], "text": [f"{n}" for n in range(48)]}
    path = write(tmp_path / "a.parquet", columns, compression="zstd", use_dictionary=False, row_group_size=10**6)
    assert pq.ParquetFile(path).num_row_groups == 1
    batches = [rows for _, rows in parquet_rows.rows(str(path), "image", 0, 256, images.MAX_BYTES)]
    assert max(map(len, batches)) <= 16
    assert [i.text for i in ParquetSource((path,)).items()] == columns["text"]


def test_a_bomb_is_an_oversized_picture(tmp_path, monkeypatch):
    monkeypatch.setattr(images, "MAX_BYTES", 100_000)
    columns = {"image": [b"\0" * 10_000_000, encoded(picture(0))], "text": ["bomb", "b"]}
    bomb = write(tmp_path / "a.parquet", columns, compression="zstd")
    assert bomb.stat().st_size < 5000
    good, problems = split(ParquetSource((bomb,)))
    assert [i.text for i in good] == ["b"]
    assert [(p.name, p.reason) for p in problems] == [("a.parquet:0", "oversized image")]


def footer(data):
    """Where a file's footer begins."""
    return len(data) - 8 - int.from_bytes(data[-8:-4], "little")


def test_a_footer_that_ends_the_process_costs_its_file(tmp_path):
    """Some of these bytes make the library call `abort` (pyarrow 26: in the size statistics)."""
    columns = {"image": pictures(0, 1), "text": ["0", "1"]}
    path = write(tmp_path / "a.parquet", columns)
    whole = write(tmp_path / "b.parquet", {"image": pictures(2), "text": ["last"]})
    data = path.read_bytes()
    ended = 0
    for place in range(footer(data), footer(data) + 24):
        for value in (0, data[place] ^ 0x40):
            path.write_bytes(data[:place] + bytes([value]) + data[place + 1 :])
            source = ParquetSource((path, whole))
            good, problems = split(source)
            assert good[-1].text == "last"
            assert len(good) == 3 or problems
            assert source.count() >= 1
            ended += any("SIGABRT" in problem.detail for problem in problems)
    assert ended <= 20


def test_rows_that_the_footer_tells_of_and_the_groups_lack_are_a_problem(tmp_path):
    path = write(tmp_path / "a.parquet", {"image": pictures(0, 1), "text": ["0", "1"]})
    data = path.read_bytes()
    told = []
    for place in range(footer(data), len(data) - 9):
        for other in (b"\x08", b"\x07", b"\x00"):
            if data[place : place + 2] == b"\x16\x04":  # a number of 64 bits that is 2: becomes 4, -4 and 0
                path.write_bytes(data[:place] + b"\x16" + other + data[place + 2 :])
                good, problems = split(ParquetSource((path,)))
                assert len(good) == 2 or problems
                told += [problem.detail for problem in problems]
    assert any("it tells of 4 rows, and its row groups of 2" in detail for detail in told)
    assert any("it ends after 2 of 4 rows" in detail for detail in told)
    assert any("a row group of -4 rows" in detail for detail in told)


def test_one_process_reads_all_files(tmp_path, monkeypatch):
    paths = [write(tmp_path / f"{n}.parquet", {"image": pictures(n), "text": [f"{n}"]}) for n in range(5)]
    apart.close_idle()
    started, start = [], subprocess.Popen
    monkeypatch.setattr(subprocess, "Popen", lambda *args, **options: started.append(1) or start(*args, **options))
    good, _ = split(ParquetSource(tuple(paths)))
    assert (len(good), len(started)) == (5, 1)


@pytest.mark.parametrize(
    "feature",
    [
        {"_type": "ClassLabel", "names": "cat"},
        {"_type": "ClassLabel", "names": {"0": "cat"}},
        {"_type": "ClassLabel", "names": [0, 1]},
        {"_type": "ClassLabel", "names": 2},
        {"_type": "ClassLabel", "names": ["\ud800", "dog"]},
        {"_type": "ClassLabel", "names": []},
        {"_type": "ClassLabel"},
        {"_type": ["ClassLabel"], "names": ["cat", "dog"]},
        "ClassLabel",
        None,
        [],
    ],
)
def test_notes_of_classes_that_are_not_as_they_should_be_leave_the_numbers(tmp_path, feature):
    columns = {"image": pictures(0), "text": ["a"], "kind": [1]}
    path = write(tmp_path / "a.parquet", columns, {"image": {"_type": "Image"}, "kind": feature})
    (item,) = ParquetSource((path,)).items()
    assert item.attributes == {"kind": 1}


@pytest.mark.parametrize("notes", [b"", b"[]", b"[" * 100_000, b'{"info": []}', b'{"info": {"features": 3}}', b"\xff"])
def test_other_notes_are_passed_over(tmp_path, notes):
    table = pa.table({"image": pictures(0), "text": ["a"]}).replace_schema_metadata({b"huggingface": notes})
    pq.write_table(table, tmp_path / "a.parquet")
    assert [i.text for i in ParquetSource((tmp_path / "a.parquet",)).items()] == ["a"]


def test_classes_by_name_also_in_lists_and_numbers_beyond_them(tmp_path):
    label = {"_type": "ClassLabel", "names": ["cat", "dog"]}
    columns = {"image": pictures(0, 1), "text": ["a", "b"], "kind": [1, 7], "kinds": [[0, 1], None]}
    features = {"kind": label, "kinds": {"_type": "Sequence", "feature": label}}
    good, _ = split(ParquetSource((write(tmp_path / "a.parquet", columns, features),)))
    assert [i.attributes for i in good] == [
        {"kind": "dog", "kinds": ["cat", "dog"]},
        {"kind": 7, "kinds": None},
    ]


def test_times_of_every_kind_cost_no_row(tmp_path):
    """pandas writes nanoseconds; what cannot be spelt is null, and the other values of its row and column stay."""
    columns = {
        "image": pictures(0, 1),
        "text": ["a", "b"],
        "crawled": pa.array([1700000000123456789, None], pa.timestamp("ns")),
        "took": pa.array([1500, 2**62], pa.duration("ms")),
        "year_10000": pa.array([253402300800000000, 2**63 - 1], pa.timestamp("us")),
        "day": pa.array([0, 2**31 - 1], pa.int32()).view(pa.date32()),
    }
    good, problems = split(ParquetSource((write(tmp_path / "a.parquet", columns),)))
    assert problems == []
    assert [i.attributes for i in good] == [
        {
            "crawled": "2023-11-14T22:13:20.123456789",
            "took": "0:00:01.500000",
            "year_10000": "10000-01-01T00:00:00",
            "day": "1970-01-01",
        },
        {"crawled": None, "took": None, "year_10000": None, "day": None},
    ]


def test_times_of_spark_keep_their_year(tmp_path):
    """Spark's old form (INT96) is of nanoseconds, which do not reach beyond the year 2262 in Arrow's."""
    columns = {"image": pictures(0), "text": ["a"], "t": pa.array([32503680000000001], pa.timestamp("us"))}
    path = write(tmp_path / "a.parquet", columns, use_deprecated_int96_timestamps=True, store_schema=False)
    (item,) = ParquetSource((path,)).items()
    assert item.attributes == {"t": "3000-01-01T00:00:00.000001"}


def test_captions_in_binary_columns(tmp_path):
    """Writers that do not annotate texts store them as bytes, of captions and of names of files alike."""
    (tmp_path / "b.png").write_bytes(encoded(picture(1)))
    columns = {
        "image": pictures(0, 0, 0),
        "text": [b"a cat", "café".encode(), b"caf\xe9"],
        "label": [b"x", b"y", b"z"],
        "hash": [b"\x00\x01", b"\xff", b"ok"],
    }
    good, problems = split(ParquetSource((write(tmp_path / "a.parquet", columns),)))
    assert [(i.text, i.attributes) for i in good] == [("a cat", {"label": "x"}), ("café", {"label": "y"})]
    assert [(p.name, p.reason) for p in problems] == [("a.parquet:2", "bad text")]
    assert "the column text: binary, and not UTF-8" in problems[0].detail
    listed = {"image": [encoded(picture(n)) for n in (0, 1)], "captions": [[b"a", b"b"], [b"\xff", b"c"]]}
    good, problems = split(ParquetSource((write(tmp_path / "c.parquet", listed),)))
    assert ([i.text for i in good], problems) == (["a", "b", "c"], [])
    plain = write(tmp_path / "d.parquet", {"file_name": [b"b.png"], "text": [b"b"]})
    assert [i.image for i in ParquetSource((plain,)).items()] == [encoded(picture(1))]
    named = write(tmp_path / "e.parquet", {"image": pictures(0), "alt": [b"\xff"]})
    (problem,) = ParquetSource((named,), captions=Captions("alt")).items()
    assert problem.reason == "bad text"


@pytest.mark.parametrize(
    "kind", [pa.string(), pa.large_string(), pa.string_view(), pa.dictionary(pa.int8(), pa.string())]
)
def test_captions_of_every_type_of_text(tmp_path, kind):
    columns = {"image": pictures(0, 1), "text": pa.array(["a", "b"]).cast(kind), "by": pa.array(["x", None]).cast(kind)}
    good, problems = split(ParquetSource((write(tmp_path / "a.parquet", columns),)))
    assert ([(i.text, i.attributes) for i in good], problems) == ([("a", {"by": "x"}), ("b", {"by": None})], [])


def test_lists_of_pictures_are_a_record_each(tmp_path, monkeypatch):
    monkeypatch.setattr("reimagen_jax.data.sources.parquet._MAX_ROWS", 2)
    shown = [[0, 1], [], None, [2], [3, None, 4]]
    lists = pa.array(
        [s and [{"bytes": n if n is None else encoded(picture(n)), "path": None} for n in s] for s in shown],
        pa.list_(IMAGE),
    )
    path = write(tmp_path / "a.parquet", {"images": lists, "captions": [[f"{n}", f"{n}b"] for n in range(5)]})
    source = ParquetSource((path,))
    good, problems = split(source)
    keys = [f"a.parquet:{row}:{n}" for row, n in ((0, 0), (0, 1), (3, 0), (4, 0), (4, 2))]
    assert [(i.key, i.text) for i in good] == [
        (key + again, key.split(":")[1] + b) for key in keys for again, b in (("", ""), ("#2", "b"))
    ]
    assert [(p.name, p.reason) for p in problems] == [
        ("a.parquet:1", "no picture"),
        ("a.parquet:2", "no picture"),
        ("a.parquet:4:1", "no picture"),
    ]
    whole = list(source.read())
    for number, (place, _) in enumerate(whole):
        assert list(source.read(place)) == whole[number + 1 :]


def test_files_that_cannot_be_opened_are_not_called_damaged(tmp_path):
    whole = write(tmp_path / "0.parquet", {"image": pictures(0), "text": ["0"]})
    (tmp_path / "1.parquet").mkdir()
    pointer = tmp_path / "2.parquet"
    pointer.write_bytes(b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n")
    link = tmp_path / "3.parquet"
    link.symlink_to(tmp_path / "gone")
    good, problems = split(ParquetSource((whole, tmp_path / "1.parquet", pointer, link)))
    assert [i.text for i in good] == ["0"]
    assert [(p.name, p.reason) for p in problems] == [
        ("1.parquet", "unreadable file"),
        ("2.parquet", "git-LFS pointer"),
        ("3.parquet", "unreadable file"),
    ]
    assert "git lfs pull" in problems[1].detail
    with pytest.raises(UserError, match="git lfs pull"):
        ParquetSource((pointer,))


def test_a_name_that_is_not_utf8(tmp_path):
    path = write(tmp_path / "a.parquet", {"image": pictures(0), "text": ["a"]})
    odd = path.rename(tmp_path / os.fsdecode(b"\xff.parquet"))
    assert [i.key for i in ParquetSource((odd,)).items()] == ["\\xff.parquet:0"]


def test_pictures_behind_links_are_read_only_when_asked(tmp_path):
    (tmp_path / "secret.png").write_bytes(encoded(picture(0)))
    path = write(tmp_path / "in" / "a.parquet", {"file_name": ["link.png"], "text": ["a"]})
    (tmp_path / "in" / "link.png").symlink_to("../secret.png")
    (problem,) = ParquetSource((path,)).items()
    assert (problem.reason, "--follow-links" in problem.detail) == ("unreadable file", True)
    assert [i.text for i in ParquetSource((path,), follow_links=True).items()] == ["a"]


def test_reading_goes_on_at_any_place(tmp_path, monkeypatch):
    monkeypatch.setattr("reimagen_jax.data.sources.parquet._MAX_ROWS", 2)
    captions = [[f"{n}", f"{n}b"] if n % 2 else [f"{n}"] for n in range(7)]
    paths = [
        write(tmp_path / f"{f}.parquet", {"image": pictures(*range(7)), "captions": captions}, row_group_size=3)
        for f in "ab"
    ]
    source = ParquetSource((*paths,))
    whole = list(source.read())
    assert len(whole) == 20
    for number, (place, _) in enumerate(whole):
        assert list(source.read(place)) == whole[number + 1 :]
    assert Place(0, 1, 1) in [place for place, _ in whole]


def test_filter_that_fits_nothing_says_what_there_is(tmp_path):
    path = write(tmp_path / "a.parquet", {"image": pictures(0, 1), "text": ["a", "b"], "kind": ["cat", "dog"]})
    assert [i.text for i in ParquetSource((path,), Where.parse(["kind=dog"])).items()] == ["b"]
    with pytest.raises(UserError, match="kind is one of cat, dog"):
        list(ParquetSource((path,), Where.parse(["kind=cow"])).items())


@pytest.mark.parametrize(
    ("columns", "image", "said"),
    [
        ({"a": ["x"], "text": ["y"]}, None, "no column of pictures.*--image.*a .string"),
        ({"a": [b"x"], "b": [b"y"]}, None, "no column of pictures"),
        ({"image": [b"x"]}, "photo", "no column photo"),
    ],
)
def test_no_pictures(tmp_path, columns, image, said):
    with pytest.raises(UserError, match=said):
        ParquetSource((write(tmp_path / "a.parquet", columns),), image=image)


def test_nothing_readable(tmp_path):
    (tmp_path / "a.parquet").write_bytes(b"no")
    with pytest.raises(UserError, match=r"a\.parquet"):
        ParquetSource((tmp_path / "a.parquet",))
