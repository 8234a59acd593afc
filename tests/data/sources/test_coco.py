"""COCO's captions as they are published: records of them, what is left out, what is refused."""

import json

import pytest

from reimagen_jax.data.image_text import ImageText
from reimagen_jax.data.sources import Captions, CocoSource, Reading, Where, open_source
from reimagen_jax.errors import UserError
from tests.captioned import write_coco
from tests.samples import example


@pytest.fixture
def path(tmp_path):
    return write_coco(tmp_path / "coco", [example(seed, f"caption {seed}") for seed in range(4)])


def changed(path, **fields):
    path.write_text(json.dumps({**json.loads(path.read_text()), **fields}))


def test_each_caption_is_a_record_with_its_pictures_id(path):
    source = open_source(str(path))
    found = list(source.items())
    assert all(isinstance(item, ImageText) for item in found) and source.count() == len(found) == 8
    assert [item.key for item in found[::2]] == [f"COCO_val2014_{n:012d}.jpg" for n in range(100, 104)]
    assert [item.text for item in found[:3]] == ["caption 0", "caption 0 again", "caption 1"]
    assert found[2].attributes == {
        "image_id": 101,
        "license": 3,
        "coco_url": "http://images.org/COCO_val2014_000000000101.jpg",
    }
    assert found[2].image == example(1, "").image and source.name.startswith("coco captions_val2014 ")


def test_parts_and_first_captions_and_pictures_elsewhere(path, tmp_path):
    (path.parent.parent / "val2014").rename(tmp_path / "pictures")
    with pytest.raises(UserError, match=r"its pictures are neither in .*val2014 nor in .*val2014: give their folder"):
        CocoSource(path)
    reading = Reading(Where.parse(["image_id=102"]), captions=Captions(most=1), data_dir=tmp_path / "pictures")
    (found,) = open_source(str(path), reading).items()
    assert found.text == "caption 2"
    with pytest.raises(UserError, match="has no use for --split"):
        open_source(str(path), Reading(split="val"))


def test_what_is_bad_is_left_out_and_named(path):
    told = json.loads(path.read_text())
    images = [
        {**told["images"][0], "file_name": "../secret.jpg"},
        {"file_name": "COCO_val2014_000000000101.jpg"},
        {**told["images"][2], "id": 7},
        {**told["images"][3], "file_name": "gone.jpg"},
    ]
    changed(path, images=images)
    found = [str(item) for item in CocoSource(path).items()]
    for line, said in zip(found, ("path outside", "no file name", "empty caption", "missing file"), strict=True):
        assert said in line


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"images": None}, "has no list of images"),
        ({"annotations": [3]}, "has no list of annotations"),
        ({"annotations": [{"image_id": 100, "category_id": 3}]}, "annotation 0 has no image_id and caption"),
    ],
)
def test_a_file_of_something_else_is_refused(path, fields, said):
    changed(path, **fields)
    with pytest.raises(UserError, match=said):
        list(CocoSource(path).items())


def test_a_file_that_is_not_there_is_named(tmp_path):
    with pytest.raises(UserError, match=r"captions_val2014\.json not found"):
        CocoSource(tmp_path / "captions_val2014.json")
