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
    reading = Reading(Where.parse(["a=b"]), 32, Captions("text"), smaller="enlarged")
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
        assert source.smaller == "enlarged"
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


def test_hidden_files_and_folders_by_the_name_of_files_are_passed_over(tmp_path):
    """macOS's ._NAME, `datasets`' caches, and Spark's folders of parts, whose name ends as a file's."""
    for name in ("data/a", "data/._a", ".cache/b", "spark.parquet/part-0.snappy"):
        write_parquet(tmp_path / "p" / f"{name}.parquet")
    assert open_source(str(tmp_path / "p")).files == ("data/a.parquet", "spark.parquet/part-0.snappy.parquet")
    (tmp_path / "t").mkdir()
    for name in ("a.tar", "._a.tar"):
        write_shard(tmp_path / "t" / name, sample(0))
    assert open_source(str(tmp_path / "t")).files == ("a.tar",)


def test_files_behind_links_are_read_only_when_asked_or_named(tmp_path):
    """Hugging Face's cache is made of such links; a file that was named by hand was asked for."""
    away = write_parquet(tmp_path / "blobs" / "a.parquet")
    (tmp_path / "snapshot" / "data").mkdir(parents=True)
    link = tmp_path / "snapshot" / "data" / "train-00000-of-00001.parquet"
    link.symlink_to(away)
    with pytest.raises(UserError, match=r"train-00000-of-00001\.parquet is a symbolic link.*--follow-links"):
        open_source(str(tmp_path / "snapshot"))
    for spec, reading in ((tmp_path / "snapshot", Reading(follow_links=True)), (link, Reading())):
        assert [i.text for i in open_source(str(spec), reading).items()] == ["a"]
    write_shard(tmp_path / "b.tar", sample(0))
    (tmp_path / "t").mkdir()
    (tmp_path / "t" / "b.tar").symlink_to("../b.tar")
    with pytest.raises(UserError, match="--follow-links"):
        open_source(str(tmp_path / "t"))
    assert len(list(open_source(str(tmp_path / "t"), Reading(follow_links=True)).items())) == 1


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
        ("entityworld", Reading(follow_links=True), "no use for --follow-links"),
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
