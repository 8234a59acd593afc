"""From what was typed to the source: by what lies there; what is ambiguous or of no use is refused."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from reimagen_jax.data.entityworld import World
from reimagen_jax.data.sources import (
    Captions,
    FolderSource,
    ParquetSource,
    Reading,
    WebdatasetSource,
    Where,
    WorldSource,
    open_source,
)
from reimagen_jax.data.sources.choose import expand
from reimagen_jax.errors import UserError
from tests.data.sources.test_webdataset import sample, write_shard
from tests.samples import encoded, picture, write_folder


def write_parquet(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table({"image": [encoded(picture(0))], "text": [path.stem]}), path)
    return path


def test_each_kind_is_recognised(tmp_path):
    reading = Reading(Where.parse(["a=b"]), 32, Captions("text"))
    folder = write_folder(tmp_path / "f", [], {})
    write_shard(tmp_path / "t" / "0.tar" if (tmp_path / "t").mkdir() is None else tmp_path, sample(0))
    write_parquet(tmp_path / "p" / "data" / "0.parquet")
    for spec, kind in (
        (folder, FolderSource),
        (folder / "metadata.jsonl", FolderSource),
        (tmp_path / "t", WebdatasetSource),
        (tmp_path / "t" / "0.tar", WebdatasetSource),
        (tmp_path / "p", ParquetSource),
        (tmp_path / "p" / "data" / "0.parquet", ParquetSource),
    ):
        source = open_source(str(spec), reading)
        assert type(source) is kind
        assert (source.where, source.resolution, source.captions) == (reading.where, 32, reading.captions)
    assert open_source("entityworld", world=World(num_entities=5, num_images=40)).resolution == 64
    assert isinstance(open_source("entityworld", world=World(num_entities=5, num_images=40)), WorldSource)


def test_patterns(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("a-008.tar", "a-009.tar", "a-010.tar", "b-008.tar", "{x}.tar"):
        Path(name).touch()
    assert expand("a-{008..010}.tar") == [Path(f"a-{n}.tar") for n in ("008", "009", "010")]
    assert expand("{b,a}-{008..008}.tar") == [Path("b-008.tar"), Path("a-008.tar")]
    assert expand("a-*.tar") == expand("a-{008..010}.tar")
    assert expand("?-008.tar") == [Path("a-008.tar"), Path("b-008.tar")]
    assert expand("{x}.tar") is None
    assert expand("a-008.tar") is None
    for pattern, said in (("a-{008..011}.tar", r"a-011\.tar"), ("c-*.tar", "c-"), ("{0..9999}{0..9999}", "more than")):
        with pytest.raises(UserError, match=said):
            expand(pattern)


def test_splits_of_parquet_files(tmp_path):
    for name in ("data/train-00000-of-00002", "data/train-00001-of-00002", "data/test-00000-of-00001", "val/0000"):
        write_parquet(tmp_path / f"{name}.parquet")
    for split, number in (("train", 2), ("test", 1), ("val", 1), (None, 4)):
        assert len(open_source(str(tmp_path), Reading(split=split)).files) == number
    with pytest.raises(UserError, match=r"no split 'dev'.*test, train, val"):
        open_source(str(tmp_path), Reading(split="dev"))


@pytest.mark.parametrize(
    ("spec", "reading", "said"),
    [
        ("none", Reading(), "none is not a folder"),
        ("several", Reading(), r"several kinds of data.*metadata\.jsonl"),
        ("above", Reading(), "did you mean --source above/train"),
        ("empty", Reading(), r"no metadata\.jsonl.*file_name"),
        ("f.zip", Reading(), r"is \.zip"),
        ("mixed/*", Reading(), r"\.tar, \.zip"),
        ("folder", Reading(image="x"), "no use for --image"),
        ("folder", Reading(split="x"), "no use for --split"),
        ("folder", Reading(data_dir=Path("x")), "no use for --data-dir"),
        ("several/*.tar", Reading(split="x"), "no use for --split"),
        ("rows.parquet", Reading(split="x"), "no use for --split"),
        ("several/*.tar", Reading(data_dir=Path("x")), "no use for --data-dir"),
        ("entityworld", Reading(captions=Captions("x")), "no use for --caption"),
    ],
)
def test_refusals(tmp_path, monkeypatch, spec, reading, said):
    monkeypatch.chdir(tmp_path)
    write_folder(Path("folder"), [], {})
    write_folder(Path("several"), [], {})
    write_folder(Path("above/train"), [], {})
    write_parquet(Path("rows.parquet"))
    Path("empty").mkdir()
    Path("mixed").mkdir()
    for path in ("several/a.tar", "f.zip", "mixed/a.tar", "mixed/b.zip"):
        Path(path).touch()
    with pytest.raises(UserError, match=said):
        open_source(spec, reading)
