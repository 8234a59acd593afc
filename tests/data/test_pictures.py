"""Pictures alone: the same wherever they lie, in order, no contact sheets among them; what cannot be used is named."""

import io
import json
import tarfile
import zipfile

import numpy as np
import pytest

from reimagen_jax.data import pictures as module
from reimagen_jax.data.image_text import ImageText
from reimagen_jax.data.images import MAX_BYTES
from reimagen_jax.data.pictures import open_pictures
from reimagen_jax.data.records import write_records
from reimagen_jax.errors import UserError
from tests.samples import encoded, picture

NAMES = ("a/0.png", "a/1.png", "b.png", "c.png", "d.png")
PICTURES = [picture(seed, (12, 16)) for seed in range(5)]
FILES = {name: encoded(each) for name, each in zip(NAMES, PICTURES, strict=True)}
OTHERS = {"._a.png": b"of a Mac", "notes.txt": b"none", ".hidden.png": b"none"}
SQUARES = np.stack([np.asarray(each)[2:14] for each in PICTURES])


def folder(path, files=FILES):
    for name, data in {**files, **OTHERS}.items():
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_bytes(data)
    (path / ".cache").mkdir()
    (path / ".cache" / "0.png").write_bytes(b"none")
    return path


def tar(path, files=FILES):
    with tarfile.open(path, "w") as archive:
        for name, data in {**files, **OTHERS}.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return path


def zipped(path, files=FILES):
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in {**files, **OTHERS}.items():
            archive.writestr(name, data)
    return path


def records(path):
    return write_records([ImageText(name, data, "") for name, data in FILES.items()], path, source="test").path


def array(path):
    np.savez_compressed(path, other=np.zeros(3), arr_0=np.stack([np.asarray(each) for each in PICTURES]))
    return path


def everything(path, side=12, batch=2):
    return [each.copy() for each in open_pictures(path).decoded(side, batch, "")]


PLACES = {"folder": folder, "p.tar": tar, "p.zip": zipped, "records": records, "p.npz": array}


@pytest.mark.parametrize("name", PLACES)
def test_the_same_pictures_come_from_everywhere(tmp_path, name):
    path = PLACES[name](tmp_path / name)
    found = everything(path)
    assert [len(each) for each in found] == [2, 2, 1] and found[0].dtype == np.uint8
    np.testing.assert_array_equal(np.concatenate(found), SQUARES)
    assert open_pictures(path).count in (5, None)
    halves = np.concatenate(everything(path, side=6))
    means = SQUARES.reshape(5, 6, 2, 6, 2, 3).mean(axis=(2, 4))
    assert np.abs(halves - means).max() <= 1, "averaged over areas"


def test_of_drawn_images_those_that_are_told_of_are_taken(tmp_path):
    path = folder(tmp_path / "drawn", {"0.png": FILES["b.png"], "1.png": FILES["c.png"], "grid.png": FILES["d.png"]})
    (path / "sample.json").write_text(json.dumps({"images": [{"file": "1.png"}, {"file": "0.png"}]}))
    np.testing.assert_array_equal(np.concatenate(everything(path)), SQUARES[[3, 2]])
    for broken in ({"images": [{"file": "../b.png"}]}, {"images": [1]}, {"images": [{"file": 3}]}, {"images": {}}):
        (path / "sample.json").write_text(json.dumps(broken))
        with pytest.raises(UserError):
            open_pictures(path)


@pytest.mark.parametrize("name", ["folder", "p.tar", "p.zip"])
def test_a_picture_that_is_broken_is_named(tmp_path, name):
    path = PLACES[name](tmp_path / name, FILES | {"b.png": FILES["b.png"][:60]})
    with pytest.raises(UserError, match=r"b\.png: broken image"):
        everything(path)


def test_where_there_is_none_it_is_said(tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "file.txt").write_text("none")
    with zipfile.ZipFile(tmp_path / "none.zip", "w"):
        pass
    for name, said in {
        "gone": "not found",
        "empty": "holds no pictures",
        "file.txt": "is no set of pictures",
        "none.zip": "holds no pictures",
    }.items():
        with pytest.raises(UserError, match=said):
            open_pictures(tmp_path / name)
    (tmp_path / "empty" / "manifest.json").write_text('{"kind": "knowledge base"}')
    with pytest.raises(UserError, match="holds a knowledge base and no pictures"):
        open_pictures(tmp_path / "empty")


def test_archives_that_are_not_whole_are_refused(tmp_path, monkeypatch):
    for name, make in (("p.tar", tar), ("p.zip", zipped)):
        path = make(tmp_path / name)
        path.write_bytes(path.read_bytes()[:1500])
        with pytest.raises(UserError, match=r"is no whole \.tar|cannot be read as a \.zip"):
            everything(path)
    monkeypatch.setattr(module.images, "MAX_BYTES", 100)
    for name, make in (("q.tar", tar), ("q.zip", zipped)):
        with pytest.raises(UserError, match=r"0\.png has"):
            everything(make(tmp_path / name))
    assert MAX_BYTES > 100


@pytest.mark.parametrize(
    "stored",
    [
        np.zeros((2, 4, 4, 3), np.float32),
        np.zeros((2, 4, 4), np.uint8),
        np.zeros((0, 4, 4, 3), np.uint8),
        np.asfortranarray(np.zeros((2, 4, 5, 3), np.uint8)),
        np.array([None]),
    ],
    ids=lambda array: f"{array.dtype}{array.shape}",
)
def test_arrays_that_are_no_pictures_are_refused(tmp_path, stored):
    np.savez(tmp_path / "p.npz", arr_0=stored)
    with pytest.raises(UserError, match="pictures are uint8"):
        open_pictures(tmp_path / "p.npz")


def test_an_array_that_tells_of_more_than_it_has_asks_for_no_memory(tmp_path):
    header = io.BytesIO()
    told = {"descr": "|u1", "fortran_order": False, "shape": (10**9, 4, 4, 3)}
    np.lib.format.write_array_header_1_0(header, told)
    with zipfile.ZipFile(tmp_path / "p.npz", "w") as archive:
        archive.writestr("arr_0.npy", header.getvalue() + bytes(48 * 3 + 5))
    with pytest.raises(UserError, match="ends after 3 of 1000000000 pictures"):
        everything(tmp_path / "p.npz")
    (tmp_path / "q.npz").write_bytes(b"PK nothing")
    with pytest.raises(UserError, match=r"cannot be read as a \.zip"):
        open_pictures(tmp_path / "q.npz")
