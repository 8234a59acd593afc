"""Webdataset shards: samples go through in order, and what is hostile or damaged is refused by name."""

import io
import json
import tarfile

import pytest

from reimagen_jax.data import images
from reimagen_jax.data.image_text import ImageText, Problem
from reimagen_jax.data.sources import Captions, Place, WebdatasetSource, Where
from reimagen_jax.data.sources import webdataset as module
from tests.samples import encoded, picture


def jpeg(seed, size=(16, 16)):
    return encoded(picture(seed, size), "JPEG")


def write_shard(path, members):
    """A shard with (name, content) in this order; a content may also be a `TarInfo`'s settings."""
    with tarfile.open(path, "w") as out:
        for name, content in members:
            info = tarfile.TarInfo(name)
            if isinstance(content, dict):
                for field, value in content.items():
                    setattr(info, field, value)
                out.addfile(info)
            else:
                info.size = len(content)
                out.addfile(info, io.BytesIO(content))
    return path


def split(source):
    items = list(source.items())
    return [i for i in items if isinstance(i, ImageText)], [i for i in items if isinstance(i, Problem)]


def sample(number, caption=None):
    key = f"{number:05d}"
    return [(f"{key}.jpg", jpeg(number)), (f"{key}.txt", (caption or f"caption {number}").encode())]


def test_samples_of_several_shards_in_order(tmp_path):
    paths = tuple(write_shard(tmp_path / f"{s}.tar", [m for n in range(3) for m in sample(10 * s + n)]) for s in (0, 1))
    good, problems = split(WebdatasetSource(paths))
    assert problems == []
    assert [(item.key, item.text) for item in good] == [
        (f"{s}.tar:{10 * s + n:05d}", f"caption {10 * s + n}") for s in (0, 1) for n in range(3)
    ]
    assert good[4].image == jpeg(11)


def test_as_img2dataset_writes_it(tmp_path):
    fields = {"caption": "two\tdogs ", "url": "http://x", "width": 16, "similarity": float("nan"), "exif": "{}"}
    members = [
        ("000000001.jpg", jpeg(1)),
        ("000000001.json", json.dumps(fields).encode()),
        ("000000001.txt", b"two\tdogs"),
    ]
    (item,), problems = split(WebdatasetSource((write_shard(tmp_path / "a.tar", members),)))
    assert problems == []
    assert item.text == "two\tdogs"
    assert item.attributes == {"url": "http://x", "width": 16, "similarity": None, "exif": "{}"}


def test_captions_from_a_field_and_filter(tmp_path):
    members = []
    for n, style in enumerate(["oil", "ink"]):
        fields = {"alt": [f"first {n}", f"second {n}"], "style": style}
        members += [(f"d/{n}.v1.png", encoded(picture(n))), (f"d/{n}.json", json.dumps(fields).encode())]
    path = write_shard(tmp_path / "a.tar", [("d/", {"type": tarfile.DIRTYPE}), *members])
    source = WebdatasetSource((path,), Where.parse(["style=ink"]), captions=Captions("alt"), image="v1.png")
    good, problems = split(source)
    assert problems == []
    assert [(i.key, i.text) for i in good] == [("a.tar:d/1", "first 1"), ("a.tar:d/1#2", "second 1")]


def test_classes_fill_a_template(tmp_path):
    members = [("0.jpg", jpeg(0)), ("0.cls", b"7")]
    source = WebdatasetSource((write_shard(tmp_path / "a.tar", members),), captions=Captions("the digit {cls}"))
    assert [i.text for i in source.items()] == ["the digit 7"]


def test_every_bad_sample_is_named_and_the_rest_goes_through(tmp_path, monkeypatch):
    monkeypatch.setattr(images, "MAX_BYTES", 100_000)
    monkeypatch.setattr(module, "MAX_TEXT_BYTES", 1000)
    cases = [
        ("path outside the shard", [("../../evil.jpg", jpeg(1)), ("../../evil.txt", b"x")]),
        ("path outside the shard", [("/etc/evil.jpg", jpeg(1)), ("/etc/evil.txt", b"x")]),
        ("path outside the shard", [("c:\\evil.jpg", jpeg(1)), ("c:\\evil.txt", b"x")]),
        ("not a file", [("link.jpg", {"type": tarfile.SYMTYPE, "linkname": "/etc/passwd"}), ("link.txt", b"x")]),
        ("not a file", [("hard.jpg", {"type": tarfile.LNKTYPE, "linkname": "00000.jpg"}), ("hard.txt", b"x")]),
        ("not a file", [("pipe.jpg", {"type": tarfile.FIFOTYPE}), ("pipe.txt", b"x")]),
        ("repeated file", [("twice.jpg", jpeg(1)), ("twice.jpg", jpeg(2)), ("twice.txt", b"x")]),
        ("no sample", [(f"many.{n}", b"x") for n in range(70)]),
        ("no picture", [("alone.txt", b"x")]),
        ("empty caption", [("mute.jpg", jpeg(1))]),
        ("empty caption", [("blank.jpg", jpeg(1)), ("blank.txt", b" \n")]),
        ("bad text", [("latin.jpg", jpeg(1)), ("latin.txt", b"caf\xe9")]),
        ("bad text", [("torn.jpg", jpeg(1)), ("torn.json", b'{"text": ')]),
        ("bad text", [("list.jpg", jpeg(1)), ("list.json", b"[]")]),
        ("bad text", [("deep.jpg", jpeg(1)), ("deep.json", b"[" * 900)]),
        ("bad text", [("long.jpg", jpeg(1)), ("long.txt", b"x" * 1001)]),
        ("bad text", [("half.jpg", jpeg(1)), ("half.json", b'{"text": "\\ud800"}')]),
        ("not an image", [("page.jpg", b"<html>"), ("page.txt", b"x")]),
        ("broken image", [("cut.jpg", jpeg(1, (64, 64))[:-200]), ("cut.txt", b"x")]),
        ("oversized image", [("large.png", encoded(picture(1, (300, 300)))), ("large.txt", b"x")]),
        ("oversized image", [("bomb.png", encoded(picture(0, (1, 1)).resize((9000, 9000)))), ("bomb.txt", b"x")]),
        ("duplicate", [("again.jpg", jpeg(0)), ("again.txt", b"caption 0")]),
    ]
    members = [*sample(0), *(member for _, group in cases for member in group), *sample(1)]
    good, problems = split(WebdatasetSource((write_shard(tmp_path / "a.tar", members),)))
    assert [item.key for item in good] == ["a.tar:00000", "a.tar:00001"]
    keys = [group[0][0].rpartition("/")[0] + "/" * ("/" in group[0][0]) for _, group in cases]
    names = [group[0][0].rpartition("/")[2].partition(".")[0] for _, group in cases]
    assert [(p.name, p.reason) for p in problems] == [
        (f"a.tar:{key}{name}", reason) for key, name, (reason, _) in zip(keys, names, cases, strict=True)
    ]
    assert all(p.detail for p in problems)


@pytest.mark.parametrize("folder", ["", "train/", "train\\"])
def test_what_macos_adds_to_archives_parts_no_sample(tmp_path, folder):
    attributes = bytes.fromhex("00051607000200004d6163204f532058") + bytes(100)
    members = [(".DS_Store", b"x"), (f"{folder}.DS_Store", b"x")]
    for name, content in (member for n in range(3) for member in sample(n)):
        members += [(f"{folder}._{name}", attributes), (f"{folder}{name}", content)]
    good, problems = split(WebdatasetSource((write_shard(tmp_path / "a.tar", members),)))
    assert problems == []
    assert [(i.key, i.text) for i in good] == [(f"a.tar:{folder}0000{n}", f"caption {n}") for n in range(3)]


def test_folders_as_windows_spells_them(tmp_path):
    members = [("v1.0\\a.jpg", jpeg(1)), ("v1.0\\a.txt", b"a"), ("v1.0\\b.jpg", jpeg(2)), ("v1.0\\b.txt", b"b")]
    outside = [("..\\c.jpg", jpeg(3)), ("..\\c.txt", b"c")]
    good, problems = split(WebdatasetSource((write_shard(tmp_path / "a.tar", [*members, *outside]),)))
    assert [(i.key, i.text) for i in good] == [("a.tar:v1.0\\a", "a"), ("a.tar:v1.0\\b", "b")]
    assert [p.reason for p in problems] == ["path outside the shard"]


def test_sizes_and_fields_that_records_cannot_hold(tmp_path):
    cases = {
        "big.json": b'{"text": "a", "v": 1e999, "w": [-1e999, NaN]}',
        "deep.json": b'{"text": "a", "v": ' + b"[" * 500 + b"]" * 500 + b"}",
        "twice.json": b'{"text": "a", "text": "b"}',
        "digits.json": b'{"text": "a", "v": ' + b"9" * 5000 + b"}",
    }
    members = [m for n, (name, data) in enumerate(cases.items()) for m in ((f"{name[:-5]}.jpg", jpeg(n)), (name, data))]
    good, problems = split(WebdatasetSource((write_shard(tmp_path / "a.tar", [*members, *sample(9)]),)))
    assert [i.attributes for i in good] == [{"v": None, "w": [None, None]}, {}]
    assert [(p.name, p.reason) for p in problems] == [(f"a.tar:{n}", "bad text") for n in ("deep", "twice", "digits")]


def test_what_git_lfs_did_not_fetch_is_named_as_that(tmp_path):
    pointer = b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n"
    (tmp_path / "b.tar").write_bytes(pointer)
    inside = [("x.jpg", pointer), ("x.txt", b"x")]
    paths = (write_shard(tmp_path / "a.tar", [*sample(0), *inside]), tmp_path / "b.tar")
    good, problems = split(WebdatasetSource(paths))
    assert [i.text for i in good] == ["caption 0"]
    assert [(p.name, p.reason) for p in problems] == [("a.tar:x", "git-LFS pointer"), ("b.tar", "git-LFS pointer")]
    assert all("git lfs pull" in p.detail for p in problems)


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda data: data[:3000], "ends at byte 3000"),
        (lambda data: data.rstrip(b"\0"), "ends at byte"),
        (lambda data: b"", "ends at byte 0"),
        (lambda data: b"x" * 5000, "no number"),
        (lambda data: data[:1024] + b"x" * 600 + data[1624:], "no header"),
    ],
)
def test_damaged_shards_are_refused_as_a_whole_and_by_name(tmp_path, spoil, said):
    paths = [write_shard(tmp_path / f"{n}.tar", [m for i in range(4) for m in sample(4 * n + i)]) for n in range(3)]
    data = paths[1].read_bytes()
    paths[1].write_bytes(spoil(data))
    good, problems = split(WebdatasetSource(tuple(paths)))
    assert {item.key.partition(":")[0] for item in good} == {"0.tar", "2.tar"}
    assert [(p.name, p.reason) for p in problems] == [("1.tar", "damaged shard")]
    assert said in problems[0].detail


def test_compressed_and_missing_shards(tmp_path):
    with tarfile.open(tmp_path / "a.tar", "w:gz") as out:
        out.addfile(tarfile.TarInfo("x.jpg"))
    write_shard(tmp_path / "b.tar", sample(0))
    source = WebdatasetSource((tmp_path / "a.tar", tmp_path / "b.tar"))
    (tmp_path / "c.tar").mkdir()
    _, problems = split(source)
    assert [(p.name, p.reason) for p in problems] == [("a.tar", "compressed shard")]
    assert "gzip" in problems[0].detail
    _, problems = split(WebdatasetSource((tmp_path / "c.tar", tmp_path / "b.tar")))
    assert [(p.name, p.reason) for p in problems] == [("c.tar", "unreadable file")]


def test_reading_goes_on_at_any_place(tmp_path):
    shards = [[*sample(0), ("bad.txt", b"x"), *sample(1)], [*sample(2), *sample(3)]]
    paths = [write_shard(tmp_path / f"{n}.tar", members) for n, members in enumerate(shards)]
    (tmp_path / "0b.tar").write_bytes(b"cut")
    source = WebdatasetSource((paths[0], tmp_path / "0b.tar", paths[1]))
    whole = list(source.read())
    assert len(whole) == 6
    assert whole[0][0] == Place(0, 1)
    for number, (place, _) in enumerate(whole):
        assert list(source.read(place)) == whole[number + 1 :]


def test_name_follows_the_content_not_the_place(tmp_path):
    names = []
    for place, content in (("1", sample(0)), ("2", sample(0)), ("3", sample(1))):
        (tmp_path / place / "set").mkdir(parents=True)
        names.append(WebdatasetSource((write_shard(tmp_path / place / "set" / "a.tar", content),)).name)
    assert names[0] == names[1] != names[2]
