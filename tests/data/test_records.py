"""Records: what is written is read, in order; what is damaged or unknown is refused by name."""

import json
import sys

import numpy as np
import pytest
import tensorflow_datasets as tfds

from reimagen_jax.data import records as records_module
from reimagen_jax.data.records import ImageText, Problem, Records, write_records
from reimagen_jax.data.shards import in_batches
from reimagen_jax.errors import UserError
from tests.samples import encoded, example, picture, records_of


@pytest.fixture
def examples():
    return [example(i, f"Bild {i}, 犬 🐶", number=i, nested={"a": [1, None, True]}) for i in range(11)]


@pytest.fixture
def sharded(monkeypatch):
    monkeypatch.setattr(records_module, "RECORDS_PER_SHARD", 4)
    monkeypatch.setattr(records_module, "_READ_BATCH", 5)


def test_reads_what_was_written(tmp_path, examples, sharded):
    written = write_records(iter(examples), tmp_path / "r", source="test")
    read = Records.open(tmp_path / "r")
    assert len(read) == len(written) == 11
    assert list(read) == examples
    assert [read[i] for i in (0, 10, -1, 5)] == [examples[i] for i in (0, 10, 10, 5)]
    assert read.fetch(np.array([7, 2, 2])) == [examples[7], examples[2], examples[2]]
    assert read.fetch([]) == []
    assert read.texts() == [e.text for e in examples]
    assert read.keys() == [e.key for e in examples]
    assert len(set(read.digests())) == 11
    assert len(list((tmp_path / "r").glob("*array_record*"))) == 3
    read.verify()


def test_out_of_range(tmp_path, examples):
    records = write_records(examples, tmp_path / "r", source="test")
    for bad in (11, -12):
        with pytest.raises(IndexError):
            records[bad]
    for bad in ([0, 11], [-1]):
        with pytest.raises(IndexError):
            records.fetch(bad)


def test_tfds_reads_it_by_itself(tmp_path, examples):
    write_records(examples, tmp_path / "r", source="test")
    rows = tfds.builder_from_directory(str(tmp_path / "r")).as_data_source(split="records")
    assert len(rows) == 11
    np.testing.assert_array_equal(rows[3]["image"], np.asarray(picture(3)))
    assert rows[3]["text"].decode() == examples[3].text


def test_tensorflow_is_not_imported():
    assert "tensorflow" not in sys.modules


def test_fingerprint_tells_content_not_place(tmp_path, examples):
    def fingerprint(name, changed):
        return write_records(changed, tmp_path / name, source="test").fingerprint

    same = fingerprint("a", examples)
    assert fingerprint("b", examples) == same
    other = examples[0]
    changes = [
        examples[::-1],
        examples[:-1],
        [ImageText("other key", other.image, other.text, other.attributes), *examples[1:]],
        [ImageText(other.key, encoded(picture(99)), other.text, other.attributes), *examples[1:]],
        [ImageText(other.key, other.image, "other text", other.attributes), *examples[1:]],
        [ImageText(other.key, other.image, other.text, {"number": -1}), *examples[1:]],
    ]
    assert len({same, *(fingerprint(f"c{i}", change) for i, change in enumerate(changes))}) == 7


def test_manifest_counts_and_names_what_was_left_out(tmp_path, examples):
    problems = []

    def source():
        for e in examples:
            if e.key == "k4":
                problems.append(Problem("k4", "missing file", "gone"))
            else:
                yield e

    records = write_records(source(), tmp_path / "r", source="here", problems=problems, settings={"where": ["a=b"]})
    assert records.manifest["count"] == 10
    assert records.manifest["source"] == records.source == "here"
    assert records.manifest["skipped"] == {"missing file": 1}
    assert records.manifest["settings"] == {"where": ["a=b"]}
    lines = (tmp_path / "r" / "skipped.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in lines] == [{"name": "k4", "reason": "missing file", "detail": "gone"}]


def test_digest_of_the_source_is_kept(tmp_path):
    kept = ImageText("k", encoded(picture(0)), "text", digest="00ff")
    assert write_records([kept], tmp_path / "r", source="test").digests() == ["00ff"]


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ([], "nothing to write"),
        ([example(1, "a", key="same"), example(2, "b", key="same")], "'same'"),
        ([ImageText("torn", encoded(picture(0))[:-30], "a")], "'torn'.*broken image"),
    ],
)
def test_refused_input_leaves_nothing_behind(tmp_path, bad, message):
    with pytest.raises(UserError, match=message):
        write_records(bad, tmp_path / "r", source="test")
    assert list(tmp_path.iterdir()) == []


def test_an_error_of_the_source_leaves_nothing_behind(tmp_path, examples):
    def source():
        yield from examples
        raise RuntimeError("disk on fire")

    with pytest.raises(RuntimeError, match="disk on fire"):
        write_records(source(), tmp_path / "r", source="test")
    assert list(tmp_path.iterdir()) == []


def test_existing_output_is_kept_unless_overwritten(tmp_path, examples):
    first = write_records(examples, tmp_path / "r", source="test")
    with pytest.raises(UserError, match="already exists"):
        write_records(examples[:2], tmp_path / "r", source="test")
    assert Records.open(tmp_path / "r").fingerprint == first.fingerprint
    assert len(write_records(examples[:2], tmp_path / "r", source="test", overwrite=True)) == 2


class TestRefusals:
    """Each message says what is wrong, where, and which command to run."""

    @pytest.fixture
    def folder(self, tmp_path):
        records_of(tmp_path / "r", ["a", "b"])
        return tmp_path / "r"

    def edit(self, folder, **fields):
        manifest = json.loads((folder / "manifest.json").read_text())
        (folder / "manifest.json").write_text(json.dumps(manifest | fields))

    def refuses(self, folder, *parts):
        with pytest.raises(UserError) as caught:
            Records.open(folder)
        for part in (str(folder), "reimagen prepare", *parts):
            assert part in str(caught.value)

    def test_missing(self, tmp_path):
        self.refuses(tmp_path / "nowhere", "not found")

    def test_no_manifest(self, folder):
        (folder / "manifest.json").unlink()
        self.refuses(folder, "manifest.json")

    def test_other_kind(self, folder):
        self.edit(folder, kind="triples")
        self.refuses(folder, "triples")

    def test_newer_version(self, folder):
        self.edit(folder, version=2)
        self.refuses(folder, "version 2")

    def test_missing_shard(self, folder):
        shard = next(folder.glob("*array_record*"))
        shard.unlink()
        self.refuses(folder, shard.name, "missing")

    def test_truncated_shard(self, folder):
        shard = next(folder.glob("*array_record*"))
        shard.write_bytes(shard.read_bytes()[:-1])
        self.refuses(folder, shard.name, "bytes")

    def test_manifest_that_is_not_json(self, folder):
        (folder / "manifest.json").write_text("{")
        with pytest.raises(UserError, match=r"manifest\.json"):
            Records.open(folder)

    def test_flipped_bit_is_found_by_verify(self, folder):
        shard = next(folder.glob("*array_record*"))
        content = bytearray(shard.read_bytes())
        content[len(content) // 2] ^= 1
        shard.write_bytes(content)
        with pytest.raises(UserError, match=shard.name):
            Records.open(folder).verify()


def test_large_records_are_read_a_few_at_a_time(monkeypatch):
    monkeypatch.setattr("reimagen_jax.data.shards._READ_BYTES", 100)
    asked = []

    def fetch(ids):
        asked.append(len(ids))
        return [1 if i < 500 else 30 for i in ids]

    found = [item for batch in in_batches(560, 256, fetch, lambda weight: weight) for item in batch]
    assert found == [1] * 500 + [30] * 60
    assert asked[:5] == [16, 32, 64, 100, 100] and asked[-2] == 3
    assert list(in_batches(0, 256, fetch, len)) == []
