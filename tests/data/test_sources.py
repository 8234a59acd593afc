"""Sources: what is good goes through, what is bad is named with its reason, filters choose."""

import csv
import json
import os
import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from reimagen_jax.data import images
from reimagen_jax.data.entityworld import World
from reimagen_jax.data.records import ImageText, Problem
from reimagen_jax.data.sources import FolderSource, Where, WorldSource
from reimagen_jax.data.sources import folder as folder_module
from reimagen_jax.errors import UserError
from tests.samples import encoded, picture, write_folder


def split(source):
    """The usable items and the problems of a source."""
    items = list(source.items())
    return [i for i in items if isinstance(i, ImageText)], [i for i in items if isinstance(i, Problem)]


class TestWhere:
    attributes = {  # noqa: RUF012
        "role": "train",
        "year": 2020,
        "flag": True,
        "nothing": None,
        "colours": ["red", "blue"],
        "scene": {"place": "sea"},
        "a.b": "dotted",
    }

    @pytest.mark.parametrize(
        ("conditions", "fits"),
        [
            ([], True),
            (["role=train"], True),
            (["role=Train"], False),
            (["role=reference", "role=train"], True),
            (["role=train", "year=2021"], False),
            (["role=train", "year=2020", "flag=true", "nothing=null"], True),
            (["colours=blue"], True),
            (["colours=green"], False),
            (["scene.place=sea"], True),
            (["scene.time=sea"], False),
            (["role.place=sea"], False),
            (["a.b=dotted"], True),
            (["absent=x"], False),
        ],
    )
    def test_conditions(self, conditions, fits):
        assert Where.parse(conditions)(self.attributes) is fits

    def test_value_may_hold_an_equals_sign(self):
        assert Where.parse(["sum=1+1=2"])({"sum": "1+1=2"})

    @pytest.mark.parametrize("bad", ["role", "=train", ""])
    def test_malformed(self, bad):
        with pytest.raises(UserError, match="FIELD=VALUE"):
            Where.parse([bad])


class TestFolder:
    def test_good_items_go_through_in_order(self, tmp_path):
        names = [f"sub/{i}.png" for i in range(5)]
        lines = [{"file_name": n, "text": f" caption {n} ", "role": "train", "number": i} for i, n in enumerate(names)]
        folder = write_folder(tmp_path / "f", lines, {n: picture(i) for i, n in enumerate(names)})
        source = FolderSource(folder)
        good, problems = split(source)
        assert problems == []
        assert source.count() == 5
        for i, item in enumerate(good):
            data = (folder / names[i]).read_bytes()
            assert item == ImageText(names[i], data, f"caption {names[i]}", {"role": "train", "number": i})
            assert item.digest == images.digest(picture(i))

    def test_text_comes_before_caption(self, tmp_path):
        lines = [
            {"file_name": "a.png", "caption": "second", "text": "first"},
            {"file_name": "b.png", "caption": "only"},
        ]
        good, _ = split(FolderSource(write_folder(tmp_path / "f", lines, {"a.png": picture(0), "b.png": picture(1)})))
        assert [item.text for item in good] == ["first", "only"]
        assert [item.attributes for item in good] == [{}, {}]

    def test_every_bad_item_is_named_and_the_rest_goes_through(self, tmp_path):
        good_line = {"file_name": "good.png", "text": "good"}
        cases = [
            ('{"file_name": "good.png", "text": ', "metadata.jsonl:2", "bad JSON line"),
            ('["good.png", "text"]', "metadata.jsonl:3", "bad JSON line"),
            ('{"file_name": "good.png", "text": "x", "score": NaN}', "metadata.jsonl:4", "bad JSON line"),
            ("[" * 100_000, "metadata.jsonl:5", "bad JSON line"),
            ('{"file_name": "good.png", "text": "\\ud800"}', "metadata.jsonl:6", "bad JSON line"),
            ({"text": "no file"}, "metadata.jsonl:7", "no file name"),
            ({"file_name": 3, "text": "x"}, "metadata.jsonl:8", "no file name"),
            ({"file_name": "../good.png", "text": "x"}, "metadata.jsonl:9", "path outside the folder"),
            ({"file_name": "/etc/hostname", "text": "x"}, "metadata.jsonl:10", "path outside the folder"),
            ({"file_name": "a/../../x.png", "text": "x"}, "metadata.jsonl:11", "path outside the folder"),
            ({"file_name": "good.png\0", "text": "x"}, "metadata.jsonl:12", "path outside the folder"),
            ({"file_name": "gone.png", "text": "x"}, "gone.png", "missing file"),
            ({"file_name": "sub", "text": "x"}, "sub", "unreadable file"),
            ({"file_name": "n" * 5000, "text": "x"}, "n" * 5000, "unreadable file"),
            ({"file_name": "page.html", "text": "x"}, "page.html", "not an image"),
            ({"file_name": "empty.png", "text": "x"}, "empty.png", "not an image"),
            ({"file_name": "torn.png", "text": "x"}, "torn.png", "broken image"),
            ({"file_name": "huge.png", "text": "x"}, "huge.png", "oversized image"),
            ({"file_name": "good.png"}, "good.png", "empty caption"),
            ({"file_name": "good.png", "text": " \t"}, "good.png", "empty caption"),
            ({"file_name": "good.png", "text": None}, "good.png", "empty caption"),
            ({"file_name": "good.png", "caption": {"x": "y"}}, "good.png", "empty caption"),
            ({"file_name": "good.png", "caption": [[], " "]}, "good.png", "empty caption"),
            (good_line, "good.png", "duplicate"),
            ({"file_name": "copy.bmp", "text": "good"}, "copy.bmp", "duplicate"),
        ]
        pictures = {
            "good.png": picture(0),
            "last.png": picture(1),
            "copy.bmp": encoded(picture(0), "BMP"),
            "page.html": b"<html>",
            "empty.png": b"",
            "torn.png": encoded(picture(2, (64, 64)))[:-50],
            "huge.png": encoded(Image.new("1", (9000, 9000))),
            "sub/x.png": picture(3),
        }
        lines = [good_line, *(line for line, _, _ in cases), "", {"file_name": "last.png", "text": "last"}]
        good, problems = split(FolderSource(write_folder(tmp_path / "f", lines, pictures)))
        assert [item.key for item in good] == ["good.png", "last.png"]
        assert [(p.name, p.reason) for p in problems] == [(name, reason) for _, name, reason in cases]
        assert all(p.detail for p in problems)

    def test_bytes_that_are_not_utf8_spoil_one_line_only(self, tmp_path):
        folder = write_folder(tmp_path / "f", [], {"a.png": picture(0)})
        (folder / "metadata.jsonl").write_bytes(b'\xef\xbb\xbf{"file_name": "a.png", "text": "a"}\n{"text": "\xff"}\n')
        good, problems = split(FolderSource(folder))
        assert [item.key for item in good] == ["a.png"]
        assert [p.name for p in problems] == ["metadata.jsonl:2"]

    def test_several_captions_of_one_picture_are_several_records(self, tmp_path):
        lines = [{"file_name": "a.png", "text": text} for text in ("one", "two", "one", "three")]
        good, problems = split(FolderSource(write_folder(tmp_path / "f", lines, {"a.png": picture(0)})))
        assert [(item.key, item.text) for item in good] == [("a.png", "one"), ("a.png#2", "two"), ("a.png#3", "three")]
        assert [(p.name, p.reason) for p in problems] == [("a.png", "duplicate")]

    def test_oversized_files_are_not_even_read(self, tmp_path, monkeypatch):
        monkeypatch.setattr(images, "MAX_BYTES", 100)
        folder = write_folder(tmp_path / "f", [{"file_name": "a.png", "text": "a"}], {"a.png": picture(0, (64, 64))})
        monkeypatch.setattr(type(folder), "read_bytes", lambda path: pytest.fail(f"{path} was read"))
        assert [p.reason for p in split(FolderSource(folder))[1]] == ["oversized image"]

    def test_pipes_and_devices_are_not_waited_for(self, tmp_path):
        folder = write_folder(tmp_path / "f", [{"file_name": n, "text": "x"} for n in ("pipe", "zero")], {})
        os.mkfifo(folder / "pipe")
        (folder / "zero").symlink_to("/dev/zero")
        assert [p.reason for p in split(FolderSource(folder))[1]] == ["unreadable file", "unreadable file"]

    def test_an_endless_line_is_not_read_into_memory(self, tmp_path, monkeypatch):
        monkeypatch.setattr(folder_module, "MAX_TEXT_BYTES", 100)
        lines = [{"file_name": "a.png", "text": text} for text in ("x" * 1000, "good", "y" * 100)]
        good, problems = split(FolderSource(write_folder(tmp_path / "f", lines, {"a.png": picture(0)})))
        assert [i.text for i in good] == ["good"]
        assert [(p.name, p.reason) for p in problems] == [
            ("metadata.jsonl:1", "bad JSON line"),
            ("metadata.jsonl:3", "bad JSON line"),
        ]

    @pytest.mark.parametrize(("name", "kind"), [("a.png", "PNG"), ("a.jpg", "JPEG")])
    def test_resolution_shrinks_and_keeps_the_kind_of_encoding(self, tmp_path, name, kind):
        image = picture(0, (40, 20))
        folder = write_folder(tmp_path / "f", [{"file_name": name, "text": "a"}], {name: encoded(image, kind)})
        (item,), _ = split(FolderSource(folder, resolution=10))
        stored = images.load(item.image)
        assert (stored.size, stored.format) == ((10, 10), kind)
        decoded = images.decode((folder / name).read_bytes(), 10).astype(int)
        assert np.abs(np.asarray(stored).astype(int) - decoded).mean() <= (0 if kind == "PNG" else 8)
        assert item.digest == images.digest(images.load((folder / name).read_bytes()))

    def test_resolution_never_enlarges(self, tmp_path):
        folder = write_folder(tmp_path / "f", [{"file_name": "a.png", "text": "a"}], {"a.png": picture(0)})
        (item,), _ = split(FolderSource(folder, resolution=64))
        assert item.image == (folder / "a.png").read_bytes()

    def test_formats_that_records_do_not_hold_become_png(self, tmp_path):
        image = picture(0)
        lines = [{"file_name": name, "text": name} for name in ("a.bmp", "a.gif")]
        pictures = {"a.bmp": encoded(image, "BMP"), "a.gif": encoded(image.convert("P"), "GIF")}
        good, problems = split(FolderSource(write_folder(tmp_path / "f", lines, pictures)))
        assert problems == []
        assert [images.load(item.image).format for item in good] == ["PNG", "PNG"]

    def test_filter_chooses_before_reading(self, tmp_path):
        lines = [
            {"file_name": "a.png", "text": "a", "role": "train"},
            {"file_name": "absent.png", "text": "b", "role": "reference"},
        ]
        source = FolderSource(write_folder(tmp_path / "f", lines, {"a.png": picture(0)}), Where.parse(["role=train"]))
        good, problems = split(source)
        assert ([item.key for item in good], problems, source.count()) == (["a.png"], [], 1)

    @pytest.mark.parametrize(
        ("conditions", "said"),
        [
            (["rôle=train"], "caption_by, role"),
            (["role=test"], "role is one of train"),
            (["role=train", "caption_by=her"], "at once"),
        ],
    )
    def test_filter_that_fits_nothing_says_what_there_is(self, tmp_path, conditions, said):
        lines = [
            {"file_name": "a.png", "text": "a", "role": "train", "caption_by": "me"},
            {"file_name": "b.png", "text": "b", "role": "reference", "caption_by": "her"},
        ]
        source = FolderSource(write_folder(tmp_path / "f", lines, {}), Where.parse(conditions))
        with pytest.raises(UserError, match=said):
            source.count()

    def test_name_follows_the_metadata(self, tmp_path):
        line = {"file_name": "a.png", "text": "a"}
        here, there = (FolderSource(write_folder(tmp_path / d / "photos", [line], {})) for d in ("1", "2"))
        other = FolderSource(write_folder(tmp_path / "3" / "photos", [line, line], {}))
        assert here.name == there.name != other.name

    def test_what_is_no_source(self, tmp_path):
        with pytest.raises(UserError, match="not a folder"):
            FolderSource(tmp_path / "none")
        with pytest.raises(UserError, match=r"metadata\.jsonl"):
            FolderSource(tmp_path)

    @settings(max_examples=30, deadline=None)
    @given(st.recursive(st.none() | st.booleans() | st.floats() | st.text(max_size=5), st.lists, max_leaves=8))
    def test_any_json_line_is_an_entry_or_a_problem(self, value):
        lines = [json.dumps(value), json.dumps({"file_name": value, "text": "x"}), json.dumps({"text": value})]
        with tempfile.TemporaryDirectory() as folder:
            source = FolderSource(write_folder(Path(folder) / "f", lines, {}))
            assert [number for number, _ in source.entries(0, 0)] == [0, 1, 2]
            assert list(source.entries(0, 1)) == list(source.entries(0, 0))[1:]


def write_csv(folder, rows, pictures):
    """A folder with `metadata.csv`, as Python's csv module writes it."""
    write_folder(folder, [], pictures)
    (folder / "metadata.jsonl").unlink()
    with (folder / "metadata.csv").open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows(rows)
    return folder


class TestCsv:
    header = ("file_name", "text", "role")

    def test_good_items_go_through_in_order(self, tmp_path):
        texts = ["plain", 'with "quotes", commas', "two\nlines", "größe 犬"]
        rows = [self.header, *((f"{n}.png", text, "train") for n, text in enumerate(texts)), []]
        source = FolderSource(write_csv(tmp_path / "f", rows, {f"{n}.png": picture(n) for n in range(4)}))
        good, problems = split(source)
        assert problems == []
        assert source.count() == 4
        assert [(i.key, i.text) for i in good] == [(f"{n}.png", text) for n, text in enumerate(texts)]
        assert {i.attributes["role"] for i in good} == {"train"}
        whole = list(source.read())
        for number, (place, _) in enumerate(whole):
            assert list(source.read(place)) == whole[number + 1 :]

    def test_every_bad_row_is_named_and_the_rest_goes_through(self, tmp_path):
        cases = [
            (b"short\n", "bad CSV row"),
            (b"a.png,x,y,z\n", "bad CSV row"),
            (b"a.png,\xff,train\n", "bad CSV row"),
            (b'a.png,"' + b"x" * 200_000 + b'",train\n', "bad CSV row"),
            (b",x,train\n", "no file name"),
            (b"../a.png,x,train\n", "path outside the folder"),
            (b"a.png, ,train\n", "empty caption"),
            (b"gone.png,x,train\n", "missing file"),
        ]
        folder = write_csv(tmp_path / "f", [self.header], {"a.png": picture(0)})
        with (folder / "metadata.csv").open("ab") as file:
            file.write(b"".join(line for line, _ in cases) + b"a.png,good,train\n")
        good, problems = split(FolderSource(folder))
        assert [i.text for i in good] == ["good"]
        assert [p.reason for p in problems] == [reason for _, reason in cases]

    def test_an_endless_line_is_not_read_into_memory(self, tmp_path, monkeypatch):
        monkeypatch.setattr(folder_module, "MAX_TEXT_BYTES", 100)
        folder = write_csv(tmp_path / "f", [self.header, ("a.png", "x" * 1000, "r"), ("a.png", "good", "r")], {})
        (folder / "a.png").write_bytes(encoded(picture(0)))
        good, problems = split(FolderSource(folder))
        assert ([i.text for i in good], [p.reason for p in problems]) == (["good"], ["bad CSV row"])

    @pytest.mark.parametrize("header", [b"", b"text,role\n", b"\xef\xbb\xbffile_name\x00"])
    def test_without_the_column_file_name(self, tmp_path, header):
        (tmp_path / "metadata.csv").write_bytes(header)
        with pytest.raises(UserError, match="file_name"):
            FolderSource(tmp_path)

    def test_two_lists_are_one_too_many(self, tmp_path):
        folder = write_csv(tmp_path / "f", [self.header], {})
        (folder / "metadata.jsonl").touch()
        with pytest.raises(UserError, match=r"both metadata\.jsonl and metadata\.csv"):
            FolderSource(folder)


class TestLayouts:
    """The layouts of Re-Imagen's data that the folder's documentation shows."""

    def test_wiki_images(self, tmp_path):
        lines = [
            {
                "file_name": f"images/3005820{n}.jpg",
                "text": f"text {n}",
                "entity": name,
                "url": "x",
                "split": split_name,
            }
            for n, (name, split_name) in enumerate([("Chortai", "train"), ("Picarones", "val"), ("Chortai", "train")])
        ]
        pictures = {line["file_name"]: encoded(picture(n), "JPEG") for n, line in enumerate(lines)}
        folder = write_folder(tmp_path / "f", lines, pictures)
        good, problems = split(FolderSource(folder, Where.parse(["split=train"])))
        assert problems == []
        assert [(i.text, i.attributes["entity"]) for i in good] == [("text 0", "Chortai"), ("text 2", "Chortai")]

    def test_entity_draw_bench(self, tmp_path):
        line = {"entity": "Chortai", "category": "dogs", "split": "rare", "role": "reference"}
        lines = [{"file_name": f"images/dogs/chortai_{n}.jpg", "text": "a Chortai, a hound", **line} for n in range(2)]
        pictures = {item["file_name"]: encoded(picture(n), "JPEG") for n, item in enumerate(lines)}
        folder = write_folder(tmp_path / "f", lines, pictures)
        good, problems = split(FolderSource(folder, Where.parse(["category=dogs", "role=reference"])))
        assert (len(good), problems) == (2, [])
        assert good[0].attributes == line


WORLD = World(num_entities=10, num_images=60)


@pytest.fixture(scope="module")
def everything():
    return list(WorldSource(WORLD, resolution=16).items())


class TestWorld:
    @pytest.mark.parametrize("conditions", [["role=train"], ["role=reference", "split=unseen"], ["split=rare"]])
    def test_filter_equals_choosing_afterwards(self, everything, conditions):
        where = Where.parse(conditions)
        source = WorldSource(WORLD, where, 16)
        kept = list(source.items())
        assert kept == [item for item in everything if where(item.attributes)]
        assert 0 < len(kept) == source.count()

    def test_any_attribute_can_filter(self, everything):
        name = everything[0].attributes["entity"]
        kept = list(WorldSource(WORLD, Where.parse([f"entity={name}"]), 16).items())
        assert kept == [item for item in everything if item.attributes["entity"] == name]

    def test_keys_are_unique_and_pictures_have_the_resolution(self, everything):
        assert len({item.key for item in everything}) == len(everything) == len(WORLD)
        assert {images.load(item.image).size for item in everything} == {(16, 16)}

    @pytest.mark.parametrize("condition", ["role=test", "split=common"])
    def test_unknown_role_or_split(self, condition):
        with pytest.raises(UserError, match=condition):
            WorldSource(WORLD, Where.parse([condition]))
