"""`reimagen prepare` from every kind of source, and what it says of problems and interruptions."""

import json
import os

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import tensorflow_datasets as tfds

from reimagen_jax import cli
from reimagen_jax.data import images
from reimagen_jax.data import records as records_module
from reimagen_jax.data.records import Records
from tests.data.sources.test_tfds import write as write_tfds
from tests.data.sources.test_webdataset import sample, write_shard
from tests.samples import encoded, picture, write_folder


def prepare(out, *args) -> int:
    return cli.main(["prepare", "--out", str(out), *map(str, args)])


def test_parquet(tmp_path):
    (tmp_path / "data").mkdir()
    for split in ("train", "test"):
        columns = {"image": [encoded(picture(0, (16, 16)))], "alt": [[f"{split} 1", f"{split} 2"]]}
        pq.write_table(pa.table(columns), tmp_path / "data" / f"{split}-00000-of-00001.parquet")
    options = ("--split", "test", "--caption", "alt", "--max-captions", 1, "--resolution", 8)
    assert prepare(tmp_path / "r", "--source", tmp_path / "data", *options) == 0
    records = Records.open(tmp_path / "r")
    assert records.texts() == ["test 1"]
    settings = {"where": [], "resolution": 8, "caption": "alt", "max_captions": 1, "image": None}
    assert records.manifest["settings"] == settings


def test_webdataset_by_a_pattern(tmp_path):
    for shard in range(3):
        write_shard(tmp_path / f"{shard:02d}.tar", sample(shard))
    assert prepare(tmp_path / "r", "--source", tmp_path / "{00..01}.tar") == 0
    assert Records.open(tmp_path / "r").texts() == ["caption 0", "caption 1"]


def test_tfds(tmp_path):
    features = {"image": tfds.features.Image(), "label": tfds.features.ClassLabel(names=["pug", "husky"])}
    examples = [{"image": encoded(picture(n)), "label": n} for n in (0, 1)]
    write_tfds(tmp_path / "tfds", tfds.features.FeaturesDict(features), {"train": examples}, name="some_dogs")
    options = ("--data-dir", tmp_path / "tfds", "--caption", "a photo of a {label}")
    assert prepare(tmp_path / "r", "--source", "tfds:some_dogs", *options) == 0
    assert Records.open(tmp_path / "r").texts() == ["a photo of a pug", "a photo of a husky"]


@pytest.mark.parametrize("strict", [False, True])
def test_a_truncated_shard_is_refused_by_name(tmp_path, capsys, strict):
    for shard in range(2):
        write_shard(tmp_path / f"{shard:02d}.tar", sample(shard))
    (tmp_path / "01.tar").write_bytes((tmp_path / "01.tar").read_bytes()[:700])
    status = prepare(tmp_path / "r", "--source", tmp_path / "*.tar", *(["--strict"] if strict else []))
    said = capsys.readouterr()
    assert status == (2 if strict else 0)
    assert "01.tar: damaged shard: it ends at byte 700, inside" in said.err
    assert (tmp_path / "r").exists() is not strict
    if not strict:
        assert "1 records" in said.out


def test_links_out_of_the_source_are_followed_when_asked(tmp_path, capsys):
    (tmp_path / "away.png").write_bytes(encoded(picture(0)))
    lines = [{"file_name": f"{n}.png", "text": f"{n}"} for n in range(2)]
    folder = write_folder(tmp_path / "f", lines, {"0.png": picture(1)})
    (folder / "1.png").symlink_to("../away.png")
    assert prepare(tmp_path / "r", "--source", folder) == 0
    assert "1.png: unreadable file: a symbolic link out of the folder; --follow-links" in capsys.readouterr().err
    assert prepare(tmp_path / "all", "--source", folder, "--follow-links") == 0
    assert Records.open(tmp_path / "all").texts() == ["0", "1"]
    assert Records.open(tmp_path / "all").manifest["settings"]["follow_links"] is True


@pytest.mark.parametrize("kind", ["tar", "parquet"])
def test_files_that_cannot_be_opened_or_were_not_fetched_cost_themselves(tmp_path, capsys, kind):
    pq.write_table(pa.table({"image": [encoded(picture(0))], "text": ["whole"]}), tmp_path / "0.parquet")
    write_shard(tmp_path / "0.tar", sample(0, "whole"))
    (tmp_path / f"1.{kind}").write_bytes(b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n")
    (tmp_path / f"2.{kind}").symlink_to("gone")
    (tmp_path / f"3.{kind}").mkdir()
    os.mkfifo(tmp_path / f"4.{kind}")
    assert prepare(tmp_path / "r", "--source", tmp_path / f"*.{kind}") == 0
    assert Records.open(tmp_path / "r").texts() == ["whole"]
    said = capsys.readouterr().err
    for name, reason in (
        ("1", "git-LFS pointer"),
        ("2", "unreadable file"),
        ("3", "unreadable file"),
        ("4", "unreadable file"),
    ):
        assert f"left out: {name}.{kind}: {reason}: " in said


def test_a_parquet_file_that_ends_its_reader_costs_that_file(tmp_path, capsys):
    """The footer's size statistics, with one more entry than there are levels: pyarrow 26 calls `abort`."""
    for n in range(3):
        columns = {"image": [encoded(picture(n))], "text": [f"{n}"]}
        pq.write_table(pa.table(columns), tmp_path / f"{n}.parquet")
    data = bytearray((tmp_path / "1.parquet").read_bytes())
    place = len(data) - 8 - int.from_bytes(data[-8:-4], "little") + 18
    data[place] = 0
    (tmp_path / "1.parquet").write_bytes(data)
    assert prepare(tmp_path / "r", "--source", tmp_path / "*.parquet") == 0
    texts = Records.open(tmp_path / "r").texts()
    assert (texts[0], texts[-1]) == ("0", "2")
    assert ("1.parquet: damaged file: " in capsys.readouterr().err) == (len(texts) == 2)


def test_stopped_and_taken_up_again(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(records_module, "RECORDS_PER_SHARD", 2)
    lines = [{"file_name": f"{n}.png", "text": f"{n}"} for n in range(5)]
    folder = write_folder(tmp_path / "f", lines, {f"{n}.png": picture(n) for n in range(5) if n != 3})
    assert prepare(tmp_path / "r", "--source", folder, "--strict") == 2
    said = capsys.readouterr()
    assert "the same command goes on from there" in said.out
    assert said.err.startswith("error: 3.png: missing file")
    assert prepare(tmp_path / "r", "--source", folder, "--resolution", 4) == 2
    assert "resolution was None, now 4" in capsys.readouterr().err
    assert prepare(tmp_path / "r", "--source", folder) == 0
    said = capsys.readouterr()
    assert "going on after 2 records written before" in said.out
    assert "4 records" in said.out
    assert Records.open(tmp_path / "r").texts() == ["0", "1", "2", "4"]
    assert json.loads((tmp_path / "r" / "skipped.jsonl").read_text())["name"] == "3.png"


def test_help_shows_percent_signs_as_they_are_typed(capsys):
    with pytest.raises(SystemExit):
        cli.main(["prepare", "--help"])
    said = capsys.readouterr().out
    assert "[:10%]" in said
    assert "%%" not in said


def test_pictures_smaller_than_asked_are_left_out_and_named_or_enlarged_by_choice_and_counted(tmp_path, capsys):
    lines = [{"file_name": f"{side}.png", "text": f"a picture of {side}"} for side in (40, 80)]
    pictures = {f"{side}.png": picture(0, (side, side)) for side in (40, 80)}
    folder = write_folder(tmp_path / "photos", lines, pictures)
    assert prepare(tmp_path / "r", "--source", folder, "--resolution", 64) == 0
    said = capsys.readouterr()
    assert "left out: 40.png: smaller than asked for: 40 pixels, not 64 (--enlarge enlarges it)" in said.err
    assert "1 records in" in said.out and "  1 x smaller than asked for\n" in said.out
    assert sides(tmp_path / "r") == {"80.png": 64}
    assert prepare(tmp_path / "both", "--source", folder, "--resolution", 64, "--enlarge") == 0
    said = capsys.readouterr()
    assert "2 records in" in said.out and "mended: 1 x smaller than asked for, enlarged" in said.out and said.err == ""
    assert sides(tmp_path / "both") == {"40.png": 64, "80.png": 64}
    assert prepare(tmp_path / "small", "--source", folder, "--resolution", 32) == 0
    assert "smaller than" not in capsys.readouterr().out
    assert prepare(tmp_path / "own", "--source", folder) == 0
    assert sides(tmp_path / "own") == {"40.png": 40, "80.png": 80}


def sides(folder):
    """The side of each record's picture."""
    return {record.key: min(images.load(record.image).size) for record in Records.open(folder)}


def test_where_all_pictures_are_too_small_it_is_said_what_to_do(tmp_path, capsys):
    folder = write_folder(tmp_path / "photos", [{"file_name": "a.png", "text": "a"}], {"a.png": picture(0, (8, 8))})
    assert prepare(tmp_path / "r", "--source", folder, "--resolution", 16) == 2
    said = capsys.readouterr().err
    assert "--enlarge enlarges it" in said and "has nothing usable; 1 x smaller than asked for" in said
    for options in (["--source", folder, "--enlarge"], ["--resolution", 32, "--enlarge"]):
        assert prepare(tmp_path / "r", *options) == 2
        assert "--enlarge is about images of a --source" in capsys.readouterr().err


def test_entityworld_too_small_to_be_read_is_refused(tmp_path, capsys):
    assert prepare(tmp_path / "r", "--resolution", 8) == 2
    assert "--resolution 8: EntityWorld is drawn at 16 pixels or more" in capsys.readouterr().err
    assert not (tmp_path / "r").exists()
