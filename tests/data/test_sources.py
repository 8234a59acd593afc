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
from reimagen_jax.data.preparing import prepare_records
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

    @pytest.mark.parametrize(
        ("line", "said"),
        [
            ('{"file_name": "a.png", "text": "x", "v": 1e999}', "Out of range"),
            ('{"file_name": "a.png", "text": "x", "v": [{"w": -1e999}]}', "Out of range"),
            ('{"file_name": "a.png", "text": "x", "v": -Infinity}', "Out of range"),
            ('{"file_name": "a.png", "text": "x", "v": ' + "9" * 5000 + "}", "4300"),
            ('{"file_name": "a.png", "text": "x", "v": ' + "[" * 900 + "]" * 900 + "}", "nested too deeply"),
            ('{"file_name": "a.png", "text": "x", "v": ' + '{"a":' * 70 + "1" + "}" * 70 + "}", "nested too deeply"),
            ('{"file_name": "a.png", "text": "x", "v": ' + "[" * 100_000 + "]" * 100_000 + "}", "nested too deeply"),
            ('{"file_name": "a.png", "text": "x", "text": "y"}', "'text' is there twice"),
            ('{"file_name": "a.png", "text": "x", "\\udc00": 1}', "surrogate"),
            ("\0" * 20, "Expecting value"),
        ],
    )
    def test_json_that_records_cannot_hold_costs_its_line(self, tmp_path, line, said):
        good_line = {"file_name": "a.png", "text": "good", "deep": [[[{"a": [1e300]}]]]}
        folder = write_folder(tmp_path / "f", [line, good_line], {"a.png": picture(0)})
        records = prepare_records(FolderSource(folder), tmp_path / "r")
        assert records.texts() == ["good"]
        (problem,) = [json.loads(line) for line in (tmp_path / "r" / "skipped.jsonl").read_text().splitlines()]
        assert (problem["name"], problem["reason"]) == ("metadata.jsonl:1", "bad JSON line")
        assert said in problem["detail"]

    def test_a_field_twice_with_one_value_is_one_field(self, tmp_path):
        line = '{"file_name": "a.png", "text": "x", "text": "x"}'
        assert [i.text for i in FolderSource(write_folder(tmp_path / "f", [line], {"a.png": picture(0)})).items()] == [
            "x"
        ]

    @pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be"])
    def test_utf16_as_windows_writes_it(self, tmp_path, encoding, monkeypatch):
        lines = [{"file_name": "a.png", "text": text} for text in ("größe 犬 😀", "犬" * 300)]
        folder = write_folder(tmp_path / "f", lines, {"a.png": picture(0)})
        text = (folder / "metadata.jsonl").read_text("utf-8").replace("\n", "\r\n")
        text = text.encode().decode("unicode_escape").encode("utf-16", "surrogatepass").decode("utf-16")
        mark = "" if encoding == "utf-16" else "\ufeff"
        (folder / "metadata.jsonl").write_bytes((mark + text).encode(encoding))
        monkeypatch.setattr(folder_module, "MAX_TEXT_BYTES", 200)
        good, problems = split(FolderSource(folder))
        assert [i.text for i in good] == ["größe 犬 😀"]
        assert [(p.name, p.reason) for p in problems] == [("metadata.jsonl:2", "bad JSON line")]

    @pytest.mark.parametrize(
        ("there", "named", "key"),
        [
            ("img/a.png", "img\\a.png", "img/a.png"),
            ("img/in/a.png", "img\\in/a.png", "img/in/a.png"),
            ("caf\u00e9.png", "cafe\u0301.png", None),
            ("cafe\u0301.png", "caf\u00e9.png", None),
            ("e\u0301te\u0301/\u00e4.png", "\u00e9t\u00e9/\u00e4.png", None),
            ("e\u0301/\u00e4.png", "\u00e9\\a\u0308.png", "\u00e9/a\u0308.png"),
            ("\ud55c.png", "\u1112\u1161\u11ab.png", None),
            ("a\\b.png", "a\\b.png", "a/b.png"),
        ],
    )
    def test_names_as_other_systems_spell_them(self, tmp_path, there, named, key):
        line = {"file_name": named, "text": "a"}
        good, problems = split(FolderSource(write_folder(tmp_path / "f", [line], {there: picture(0)})))
        assert ([i.key for i in good], problems) == ([key or named], [])

    def test_of_two_spellings_that_are_both_there_each_is_itself(self, tmp_path):
        names = ["caf\u00e9.png", "cafe\u0301.png"]
        lines = [{"file_name": name, "text": "a"} for name in names]
        folder = write_folder(tmp_path / "f", lines, {name: picture(n) for n, name in enumerate(names)})
        assert [i.image for i in FolderSource(folder).items()] == [encoded(picture(0)), encoded(picture(1))]

    @pytest.mark.parametrize(
        "name", ["..\\a.png", "\\a.png", "c:\\a.png", "C:a.png", "b\\..\\..\\a.png", "\\\\host\\a.png"]
    )
    def test_paths_that_lead_outside_on_windows_do_so_here(self, tmp_path, name):
        (tmp_path / "a.png").write_bytes(encoded(picture(0)))
        folder = write_folder(tmp_path / "f", [{"file_name": name, "text": "a"}], {"b/c.png": picture(0)})
        assert [i.reason for i in FolderSource(folder).items()] == ["path outside the folder"]

    def test_links_out_of_the_folder_are_followed_only_when_asked(self, tmp_path):
        (tmp_path / "secret").mkdir()
        (tmp_path / "secret" / "s.png").write_bytes(encoded(picture(0)))
        names = ["link.png", "in/s.png", "chain.png", "inner.png", "gone.png"]
        lines = [{"file_name": name, "text": name} for name in names]
        folder = write_folder(tmp_path / "f", lines, {"a.png": picture(1)})
        (folder / "link.png").symlink_to(tmp_path / "secret" / "s.png")
        (folder / "in").symlink_to("../secret")
        (folder / "chain.png").symlink_to("link.png")
        (folder / "inner.png").symlink_to("a.png")
        (folder / "gone.png").symlink_to("nowhere.png")
        (tmp_path / "g").symlink_to("f")  # the folder itself is named by the user, however it is reached
        for path in (folder, tmp_path / "g"):
            good, problems = split(FolderSource(path))
            assert [i.text for i in good] == ["inner.png"]
            assert [p.reason for p in problems] == ["unreadable file"] * 3 + ["missing file"]
            assert all("--follow-links" in p.detail for p in problems[:3])
        good, problems = split(FolderSource(folder, follow_links=True))
        assert [i.text for i in good] == names[:4]
        assert [p.reason for p in problems] == ["missing file"]

    def test_metadata_behind_a_link_is_read_only_when_asked(self, tmp_path):
        folder = write_folder(tmp_path / "f", [{"file_name": "a.png", "text": "a"}], {"a.png": picture(0)})
        (folder / "metadata.jsonl").rename(tmp_path / "list")
        (folder / "metadata.jsonl").symlink_to(tmp_path / "list")
        with pytest.raises(UserError, match="--follow-links"):
            FolderSource(folder)
        assert [i.text for i in FolderSource(folder, follow_links=True).items()] == ["a"]

    def test_what_git_lfs_did_not_fetch_is_named_as_that(self, tmp_path):
        pointer = b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n"
        folder = write_folder(tmp_path / "f", [{"file_name": "a.png", "text": "a"}], {"a.png": pointer})
        (problem,) = FolderSource(folder).items()
        assert (problem.reason, "git lfs pull" in problem.detail) == ("git-LFS pointer", True)
        for name in ("metadata.jsonl", "metadata.csv"):
            (tmp_path / name).mkdir()
            (tmp_path / name / name).write_bytes(pointer)
            with pytest.raises(UserError, match="git lfs pull"):
                FolderSource(tmp_path / name)

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

    def test_smaller_pictures_are_left_out_or_enlarged_where_that_is_said(self, tmp_path):
        lines = [{"file_name": name, "text": name} for name in ("small.png", "wide.png", "large.png")]
        sizes = {"small.png": (8, 8), "wide.png": (40, 15), "large.png": (20, 24)}
        folder = write_folder(tmp_path / "f", lines, {name: picture(0, size) for name, size in sizes.items()})
        good, problems = split(FolderSource(folder, resolution=16, smaller="left out"))
        assert [item.text for item in good] == ["large.png"]
        assert [(p.name, p.reason) for p in problems] == [
            ("small.png", "smaller than asked for"),
            ("wide.png", "smaller than asked for"),
        ]
        good, problems = split(FolderSource(folder, resolution=16, smaller="enlarged"))
        assert problems == [] and [images.load(item.image).size for item in good] == [(16, 16)] * 3
        assert [item.mended for item in good] == ["smaller than asked for, enlarged"] * 2 + [""]
        small = images.decode((folder / "small.png").read_bytes(), 16)
        np.testing.assert_array_equal(images.decode(good[0].image), small)
        assert split(FolderSource(folder, smaller="left out"))[1] == [], "nothing is asked for"

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

    @pytest.mark.parametrize(
        ("rows", "texts", "bad"),
        [
            (['a.png,"a 5 foot board', "b.png,a bird", "c.png,a cat"], ["a bird", "a cat"], [2]),
            (["a.png,a board", 'b.png,"a 5 foot bird', "c.png,a cat"], ["a board", "a cat"], [3]),
            (["a.png,a board", "b.png,a bird", 'c.png,"a cat'], ["a board", "a bird"], [4]),
            (['a.png,"a 5 foot board', 'b.png,"a bird"', "c.png,a cat"], ["a bird", "a cat"], [2]),
            (['a.png,"a 5 foot board', "b.png,a bird", 'c.png,"a cat'], ["a bird"], [2, 4]),
            (['a.png,"a 5 foot board', 'b.png,a bird of 6"', "c.png,a cat"], ['a bird of 6"', "a cat"], [2]),
            (['a.png,"a 5 foot board', "b.png,a bird", 'c.png,a 6"" cat'], ["a bird", 'a 6"" cat'], [2]),
            (['a.png,"a "5 foot" board', "b.png,a bird", "c.png,a cat"], ["a bird", "a cat"], [2]),
            (['"a.png,a board', "b.png,a bird", "c.png,a cat"], ["a bird", "a cat"], [2]),
            (
                ['a.png,"two', 'lines"', "b.png,a bird", 'c.png,"one ""quoted"", one"'],
                ["two\nlines", "a bird", 'one "quoted", one'],
                [],
            ),
            (['a.png,"b', 'c",x,y', "b.png,a bird", "c.png,a cat"], ["a bird", "a cat"], [2, 3]),
        ],
    )
    @pytest.mark.parametrize("end", ["\n", "\r\n"])
    def test_a_quote_that_is_not_closed_costs_its_row(self, tmp_path, rows, texts, bad, end):
        folder = write_csv(tmp_path / "f", [], {f"{n}.png": picture(ord(n)) for n in "abc"})
        (folder / "metadata.csv").write_bytes((end.join(["file_name,text", *rows]) + end).encode())
        source = FolderSource(folder)
        good, problems = split(source)
        assert [i.text for i in good] == [text.replace("\n", end) for text in texts]
        assert [p.name for p in problems] == [f"metadata.csv:{line}" for line in bad]
        assert {p.reason for p in problems} <= {"bad CSV row"}
        whole = list(source.read())
        for number, (place, _) in enumerate(whole):
            assert list(source.read(place)) == whole[number + 1 :]

    def test_many_quotes_that_are_not_closed_are_soon_passed(self, tmp_path):
        folder = write_csv(tmp_path / "f", [], {"a.png": picture(0)})
        rows = [f'a.png,"{n}' if n % 100 == 0 else f"a.png,{n}" for n in range(20_000)]
        (folder / "metadata.csv").write_text("\n".join(["file_name,text", *rows]))
        found = [entry for _, entry in FolderSource(folder).entries(0, 0)]
        assert len(found) == 20_000
        assert sum(isinstance(entry, Problem) for entry in found) == 200

    @pytest.mark.parametrize("encoding", ["latin-1", "cp1252", "utf-8", "utf-8-sig", "utf-16"])
    def test_a_header_in_any_usual_encoding(self, tmp_path, encoding):
        folder = write_csv(tmp_path / "f", [], {"a.png": picture(0)})
        (folder / "metadata.csv").write_bytes("file_name,text,größe\r\na.png,cat,1\r\n".encode(encoding))
        records = prepare_records(FolderSource(folder), tmp_path / "r")
        assert [r.attributes for r in records] == [{"größe": "1"}]

    def test_names_of_columns(self, tmp_path):
        folder = write_csv(tmp_path / "f", [], {"a.png": picture(0)})
        (folder / "metadata.csv").write_bytes(b"\n\nfile_name,text,\x81\x80,,\na.png,cat,1,,\n")
        (item,) = FolderSource(folder).items()
        assert item.attributes == {"\x81\x80": "1", "": ""}
        (folder / "metadata.csv").write_text("file_name,text,text\na.png,cat,dog\n")
        with pytest.raises(UserError, match="'text' twice"):
            FolderSource(folder)

    def test_zeros_and_long_lines_inside_quotations(self, tmp_path, monkeypatch):
        monkeypatch.setattr(folder_module, "MAX_TEXT_BYTES", 100)
        folder = write_csv(tmp_path / "f", [], {"a.png": picture(0)})
        rows = [b'a.png,"two', b"x" * 1000, b'lines"', b"\0" * 50, b"a\0.png,x", b"a.png,good"]
        (folder / "metadata.csv").write_bytes(b"\n".join([b"file_name,text", *rows]))
        good, problems = split(FolderSource(folder))
        assert [i.text for i in good] == ["good"]
        assert [p.name for p in problems] == [f"metadata.csv:{line}" for line in (2, 3, 4, 5, 6)]

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
