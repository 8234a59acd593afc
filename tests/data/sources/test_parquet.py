"""Parquet as `datasets` writes it: structs of bytes and paths, classes by name, lists of captions; damage by name."""

import datetime
import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from reimagen_jax.data import images
from reimagen_jax.data.image_text import ImageText, Problem
from reimagen_jax.data.sources import Captions, ParquetSource, Place, Where
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


def test_huge_row_groups_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("reimagen_jax.data.sources.parquet.MAX_GROUP_BYTES", 1000)
    columns = {"image": [b"\0" * 100_000], "text": ["bomb"]}
    bomb = write(tmp_path / "a.parquet", columns, compression="zstd")
    assert bomb.stat().st_size < 2000
    _, problems = split(ParquetSource((bomb,)))
    assert [(p.name, p.reason) for p in problems] == [("a.parquet", "damaged file")]


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
