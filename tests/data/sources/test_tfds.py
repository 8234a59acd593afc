"""TFDS data sets: by name, from ArrayRecord and TFRecord, without TensorFlow; what TFDS writes or mocks is read."""

import struct
import sys

import numpy as np
import pytest
import tensorflow_datasets as tfds
from array_record.python import array_record_module
from PIL import Image
from tensorboardX.record_writer import RecordWriter
from tensorflow_datasets.core import naming
from tensorflow_datasets.core.features import image_feature
from tensorflow_datasets.testing import mocking

from reimagen_jax.data import images
from reimagen_jax.data.image_text import ImageText, Problem
from reimagen_jax.data.sources import Captions, TfdsSource, Where
from reimagen_jax.data.sources.tfrecord import TFRecordError, masked_crc, read_tfrecords
from reimagen_jax.errors import UserError
from tests.samples import encoded, picture

COCO = tfds.features.FeaturesDict(
    {
        "captions": tfds.features.Sequence({"id": np.int64, "text": np.str_}),
        "image": tfds.features.Image(encoding_format="jpeg"),
        "image/filename": tfds.features.Text(),
        "image/id": np.int64,
        "objects": tfds.features.Sequence(
            {
                "area": np.int64,
                "bbox": tfds.features.BBoxFeature(),
                "is_crowd": np.bool_,
                "label": tfds.features.ClassLabel(names=["cat", "dog"]),
            }
        ),
    }
)
"""The features of TFDS's coco_captions, with fewer classes."""


def split(source):
    items = list(source.items())
    return [i for i in items if isinstance(i, ImageText)], [i for i in items if isinstance(i, Problem)]


def coco_example(number: int) -> dict:
    return {
        "captions": [{"id": 10 * number + n, "text": f"caption {n} of {number}, ü"} for n in range(number + 1)],
        "image": encoded(picture(number), "JPEG"),
        "image/filename": f"{number}.jpg",
        "image/id": number,
        "objects": [
            {"area": 4, "bbox": tfds.features.BBox(0.0, 0.0, 0.5, 0.5), "is_crowd": True, "label": name}
            for name in ["dog", "cat"][:number]
        ],
    }


def write(folder, features, splits, file_format="array_record", name="coco_captions", shard=3):
    """A prepared data set as it lies in TFDS's folder, written by TFDS's own writer (or, TFRecord, by tensorboardX)."""
    folder = folder / name / "2014" / "1.1.0" if name == "coco_captions" else folder / name / "1.0.0"
    folder.mkdir(parents=True)
    identity = tfds.core.dataset_info.DatasetIdentity(
        name=name,
        version=tfds.core.Version(folder.name),
        data_dir=str(folder),
        module_name="somewhere",
        config_name="2014" if name == "coco_captions" else "",
    )
    info = tfds.core.DatasetInfo(builder=identity, features=features)
    if file_format == "array_record":
        writer = tfds.core.SequentialWriter(info, max_examples_per_shard=shard, file_format=file_format)
        writer.initialize_splits(list(splits))
        writer.add_examples({split: list(examples) for split, examples in splits.items()})
        writer.close_all()
        return folder
    infos = []
    for split_name, examples in splits.items():
        parts = [examples[start : start + shard] for start in range(0, len(examples), shard)]
        template = naming.ShardedFileTemplate(
            data_dir=str(folder), dataset_name=name, split=split_name, filetype_suffix="tfrecord"
        )
        for index, part in enumerate(parts):
            writer = RecordWriter(str(template.sharded_filepath(shard_index=index, num_shards=len(parts))))
            for example in part:
                writer.write(features.serialize_example(features.encode_example(example)))
            writer.close()
        lengths = [len(part) for part in parts]
        infos.append(
            tfds.core.SplitInfo(name=split_name, shard_lengths=lengths, num_bytes=0, filename_template=template)
        )
    info.set_file_format(file_format)
    info.set_splits(tfds.core.SplitDict(infos))
    info.write_to_directory(str(folder))
    return folder


@pytest.mark.parametrize("file_format", ["array_record", "tfrecord"])
def test_coco_captions_as_tfds_prepares_it(tmp_path, file_format):
    write(tmp_path, COCO, {"train": [coco_example(n) for n in range(4)], "val": [coco_example(5)]}, file_format)
    source = TfdsSource("coco_captions", data_dir=tmp_path)
    good, problems = split(source)
    assert problems == []
    assert (source.count(), len(good)) == (4, 1 + 2 + 3 + 4)
    assert source.name == "tfds coco_captions/2014/1.1.0 train"
    assert [i.text for i in good[1:3]] == ["caption 0 of 1, ü", "caption 1 of 1, ü"]
    assert good[1].image == encoded(picture(1), "JPEG")
    assert good[1].attributes == {
        "captions/id": [10, 11],
        "image/filename": "1.jpg",
        "image/id": 1,
        "objects/area": [4],
        "objects/is_crowd": [True],
        "objects/label": ["dog"],
    }
    assert [i.attributes["image/id"] for i in TfdsSource("coco_captions:1.1.0", "val", tmp_path).items()] == [5] * 6
    dogs = TfdsSource("coco_captions/2014", "train", tmp_path, Where.parse(["objects/label=cat"]), 4, Captions(most=1))
    assert [i.attributes["image/id"] for i in dogs.items()] == [2, 3]
    assert {images.load(i.image).size for i in dogs.items()} == {(4, 4)}


@pytest.mark.parametrize("file_format", ["array_record", "tfrecord"])
@pytest.mark.parametrize(("part", "ids"), [("train[1:4]", [1, 2, 3]), ("train[4:]+val", [4, 9]), ("train[:20%]", [0])])
def test_parts_of_splits_and_going_on(tmp_path, file_format, part, ids):
    splits = {"train": [coco_example(n) for n in range(5)], "val": [coco_example(9)]}
    write(tmp_path, COCO, splits, file_format, shard=2)
    source = TfdsSource("coco_captions", part, tmp_path, captions=Captions(most=2))
    whole = list(source.read())
    assert list(dict.fromkeys(item.attributes["image/id"] for _, item in whole)) == ids
    for number, (place, _) in enumerate(whole):
        assert list(source.read(place)) == whole[number + 1 :]


def test_classes_become_captions_by_a_template(tmp_path):
    features = {"image": tfds.features.Image(), "label": tfds.features.ClassLabel(names=["pug", "husky"])}
    examples = [{"image": encoded(picture(n)), "label": n} for n in (1, 0)]
    write(tmp_path, tfds.features.FeaturesDict(features), {"test": examples}, name="some_dogs")
    source = TfdsSource("some_dogs", "test", tmp_path, captions=Captions("a photo of a {label}, a dog"))
    assert [i.text for i in source.items()] == ["a photo of a husky, a dog", "a photo of a pug, a dog"]
    assert [i.attributes for i in source.items()] == [{"label": "husky"}, {"label": "pug"}]
    assert [i.text for i in TfdsSource("some_dogs", "test", tmp_path, captions=Captions("label")).items()] == [
        "husky",
        "pug",
    ]
    with pytest.raises(UserError, match=r"no captions.*--caption.*label"):
        TfdsSource("some_dogs", "test", tmp_path)
    with pytest.raises(UserError, match=r"no field 'breed'.*label"):
        TfdsSource("some_dogs", "test", tmp_path, captions=Captions("a {breed}"))


def test_bad_examples_are_named_and_the_rest_goes_through(tmp_path):
    features = tfds.features.FeaturesDict({"image": tfds.features.Image(), "text": tfds.features.Text()})
    contents = [
        (encoded(picture(0)), "a"),
        (b"<html>", "b"),
        (b"", "c"),
        (encoded(picture(1)), b"\xff"),
        (encoded(picture(2)), " "),
    ]
    examples = [{"image": image, "text": text} for image, text in contents]
    write(tmp_path, features, {"train": [*examples, {"image": encoded(picture(3)), "text": "z"}]}, name="mixed")
    good, problems = split(TfdsSource("mixed", data_dir=tmp_path))
    assert [i.text for i in good] == ["a", "z"]
    reasons = ["not an image", "no picture", "bad example", "empty caption"]
    assert [(p.name, p.reason) for p in problems] == [(f"train:{n}", reason) for n, reason in enumerate(reasons, 1)]


@pytest.mark.parametrize("cut", [1, 6, 30, 400])
def test_a_truncated_tfrecord_is_refused_by_name(tmp_path, cut):
    folder = write(tmp_path, COCO, {"train": [coco_example(0) for n in range(5)]}, "tfrecord", shard=3)
    shard = folder / "coco_captions-train.tfrecord-00000-of-00002"
    shard.write_bytes(shard.read_bytes()[:-cut])
    source = TfdsSource("coco_captions", data_dir=tmp_path)
    found = [item for _, item in source.read()]
    problems = [item for item in found if isinstance(item, Problem)]
    assert [(p.name, p.reason) for p in problems] == [(f"train/{shard.name}", "damaged file")]
    assert "ends inside" in problems[0].detail
    assert len(found) == 5


def test_tfrecord_files_of_another_writer(tmp_path):
    contents = [b"", b"a", b"x" * 100_000]
    writer = RecordWriter(str(tmp_path / "f"))
    for content in contents:
        writer.write(content)
    writer.close()
    assert list(read_tfrecords(tmp_path / "f")) == contents
    data = bytearray((tmp_path / "f").read_bytes())
    for place in (2, 9, 17, 40, len(data) - 3):
        damaged = bytearray(data)
        damaged[place] ^= 4
        (tmp_path / "g").write_bytes(damaged)
        with pytest.raises(TFRecordError):
            list(read_tfrecords(tmp_path / "g"))


def test_checksum_of_the_standard():
    crc = (masked_crc(b"123456789") - 0xA282EAD8) & 0xFFFFFFFF
    assert (crc << 15 | crc >> 17) & 0xFFFFFFFF == 0xE3069283  # the check value of CRC-32C


def test_mocked_by_tfds(tmp_path, monkeypatch):
    """TFDS's own mocking: random examples by the features of the paper's data set, but its boxes, which it gets wrong.

    It encodes pictures with TensorFlow: here Pillow does. Sequences of one object get equal lengths, as TFDS demands.
    """
    pillow = lambda self, pixels: self._encode_pil_image(Image.fromarray(pixels))  # noqa: E731
    monkeypatch.setattr(image_feature._ImageEncoder, "_encode_image", pillow)
    features = tfds.features.FeaturesDict({name: COCO[name] for name in COCO if name != "objects"})
    folder = write(tmp_path, features, {"train": [{name: coco_example(0)[name] for name in features}] * 5}, shard=5)
    generator = mocking.SerializedRandomFakeGenerator(features, num_examples=5, constant_dynamic_shape=True)
    (shard,) = folder.glob("*array_record*")
    writer = array_record_module.ArrayRecordWriter(str(shard), "group_size:1")
    for raw in generator:
        writer.write(raw)
    writer.close()
    source = TfdsSource("coco_captions", data_dir=tmp_path)
    good, problems = split(source)
    assert (source.count(), problems, len(good)) == (5, [], 5 * 10)
    assert len({i.digest for i in good}) == 5
    assert all(
        images.load(i.image).format == "JPEG" and i.text and len(i.attributes["captions/id"]) == 10 for i in good
    )


def flip(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 0xFF
    path.write_bytes(data)


def after(record):
    """Cuts a TFRecord file after so many whole records."""

    def cut(path):
        kept = b""
        for raw in list(read_tfrecords(path))[:record]:
            kept += struct.pack("<Q", len(raw)) + struct.pack("<I", masked_crc(struct.pack("<Q", len(raw))))
            kept += raw + struct.pack("<I", masked_crc(raw))
        path.write_bytes(kept)

    return cut


POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"0" * 64 + b"\nsize 12345\n"
half = lambda path: path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])  # noqa: E731
empty = lambda path: path.write_bytes(b"")  # noqa: E731
missing = lambda path: path.unlink()  # noqa: E731
pointer = lambda path: path.write_bytes(POINTER)  # noqa: E731
twice = lambda path: path.write_bytes(2 * path.read_bytes())  # noqa: E731


@pytest.mark.parametrize(
    ("file_format", "damage", "left", "reason", "said"),
    [
        ("array_record", flip, 0, "damaged file", "it ends after 0 of 4 examples"),
        ("array_record", half, 0, "damaged file", "it ends after 0 of 4 examples"),
        ("array_record", empty, 0, "damaged file", "it ends after 0 of 4 examples"),
        ("array_record", missing, 0, "damaged file", "it is missing, with its 4 examples"),
        ("array_record", pointer, 0, "git-LFS pointer", "git lfs pull"),
        ("tfrecord", empty, 0, "damaged file", "it ends after 0 of 4 examples"),
        ("tfrecord", after(1), 1, "damaged file", "it ends after 1 of 4 examples"),
        ("tfrecord", half, 2, "damaged file", "after 2 of 4 examples"),
        ("tfrecord", missing, 0, "damaged file", "it is missing, with its 4 examples"),
        ("tfrecord", pointer, 0, "git-LFS pointer", "git lfs pull"),
        ("tfrecord", twice, 4, "damaged file", "it goes on after the 4 examples"),
    ],
)
def test_a_shard_is_compared_with_the_data_sets_own_list(tmp_path, file_format, damage, left, reason, said):
    folder = write(tmp_path, COCO, {"train": [coco_example(n) for n in range(8)]}, file_format, shard=4)
    shard = min(folder.glob("*record*"))
    damage(shard)
    source = TfdsSource("coco_captions", data_dir=tmp_path, captions=Captions(most=1))
    good, problems = split(source)
    assert [i.attributes["image/id"] for i in good] == [*range(left), 4, 5, 6, 7]
    assert [(p.name, p.reason) for p in problems] == [(f"train/{shard.name}", reason)]
    assert said in problems[0].detail
    whole = list(source.read())
    for number, (place, _) in enumerate(whole):
        assert list(source.read(place)) == whole[number + 1 :]


def test_a_damaged_record_of_an_indexed_shard_costs_that_example(tmp_path):
    """Incompressible pictures make long records; the end of the file, which tells their places, stays whole."""
    features = tfds.features.FeaturesDict({"image": tfds.features.Image(), "text": tfds.features.Text()})
    examples = [{"image": encoded(picture(n, (256, 256))), "text": f"{n}"} for n in range(4)]
    shard = min(write(tmp_path, features, {"train": examples}, name="large", shard=4).glob("*array_record*"))
    data = bytearray(shard.read_bytes())
    place = data.index(examples[1]["image"][1000:1020])
    data[place] ^= 0xFF
    shard.write_bytes(data)
    source = TfdsSource("large", data_dir=tmp_path)
    good, problems = split(source)
    assert [i.text for i in good] == ["0", "2", "3"]
    assert [(p.name, p.reason) for p in problems] == [("train:1", "bad example")]
    assert shard.name in problems[0].detail
    whole = list(source.read())
    for number, (place, _) in enumerate(whole):
        assert list(source.read(place)) == whole[number + 1 :]


def test_a_value_that_is_no_text_costs_that_value(tmp_path):
    features = tfds.features.FeaturesDict(
        {"image": tfds.features.Image(), "text": tfds.features.Text(), "by": tfds.features.Text()}
    )
    write(tmp_path, features, {"train": [{"image": encoded(picture(0)), "text": "a", "by": b"\xff"}]}, name="mixed")
    good, problems = split(TfdsSource("mixed", data_dir=tmp_path))
    assert ([(i.text, i.attributes) for i in good], problems) == ([("a", {})], [])


def test_shards_behind_links_are_read_only_when_asked(tmp_path):
    folder = write(tmp_path / "sets", COCO, {"train": [coco_example(n) for n in range(4)]}, shard=2)
    shard = min(folder.glob("*record*"))
    shard.rename(tmp_path / "elsewhere")
    shard.symlink_to(tmp_path / "elsewhere")
    good, problems = split(TfdsSource("coco_captions", data_dir=tmp_path / "sets", captions=Captions(most=1)))
    assert ([i.attributes["image/id"] for i in good], [p.reason for p in problems]) == ([2, 3], ["unreadable file"])
    assert "--follow-links" in problems[0].detail
    assert (
        len(list(TfdsSource("coco_captions", data_dir=tmp_path / "sets", follow_links=True).items())) == 1 + 2 + 3 + 4
    )


@pytest.mark.parametrize("name", ["dataset_info.json", "features.json"])
@pytest.mark.parametrize("content", [b"", b"{", POINTER, b"[" * 100_000, b'{"a": 1}'])
def test_damaged_descriptions_are_refused(tmp_path, name, content):
    folder = write(tmp_path, COCO, {"train": [coco_example(0)]})
    (folder / name).write_bytes(content)
    with pytest.raises(UserError, match="coco_captions"):
        TfdsSource("coco_captions", data_dir=tmp_path)


def test_what_is_not_there(tmp_path, capsys):
    write(tmp_path, COCO, {"train": [coco_example(0)], "val": [coco_example(1)]})
    with pytest.raises(UserError, match=r"no split 'test'.*train, val"):
        TfdsSource("coco_captions", "test", tmp_path)
    with pytest.raises(UserError, match=r"no picture in a field 'photo'.*image"):
        TfdsSource("coco_captions", "train", tmp_path, image="photo")
    with pytest.raises(UserError, match=r"no data set coco_caption.*did you mean coco_captions"):
        TfdsSource("coco_caption", "train", tmp_path)
    with pytest.raises(UserError, match=r"tfds build coco_captions.*--data-dir"):
        TfdsSource("coco_captions", "train", tmp_path / "elsewhere")


class TinyDogs(tfds.core.GeneratorBasedBuilder):
    """A data set with a program of its own, which TFDS prepares without TensorFlow."""

    VERSION = tfds.core.Version("1.0.0")

    def _info(self):
        features = tfds.features.FeaturesDict({"image": tfds.features.Image(), "text": tfds.features.Text()})
        return tfds.core.DatasetInfo(builder=self, features=features)

    def _split_generators(self, dl_manager):
        return {"train": self._generate_examples()}

    def _generate_examples(self):
        for n in range(3):
            yield n, {"image": encoded(picture(n)), "text": f"dog {n}"}


def test_what_is_not_prepared_is_prepared_by_tfds(tmp_path, capsys):
    good, problems = split(TfdsSource("tiny_dogs", data_dir=tmp_path))
    assert problems == []
    assert sorted(i.text for i in good) == ["dog 0", "dog 1", "dog 2"]
    assert "TFDS downloads and prepares it" in capsys.readouterr().err
    assert split(TfdsSource("tiny_dogs:1.0.0", data_dir=tmp_path))[0] == good
    assert "prepares" not in capsys.readouterr().err


def test_tensorflow_is_not_imported():
    assert "tensorflow" not in sys.modules
