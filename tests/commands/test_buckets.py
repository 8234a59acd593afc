"""From a bucket to a bucket: data are staged, a run is trained there, pictures and weights are made of it."""

import json
import os
import shutil
from pathlib import Path

import fsspec
import pytest

from reimagen_jax import cli, stores
from reimagen_jax.data.manifest import NAME
from reimagen_jax.data.staging import stage
from reimagen_jax.errors import UserError
from reimagen_jax.inference.model import CHOSEN, Chosen, Model
from reimagen_jax.retrieval.knowledge_base import KnowledgeBase
from reimagen_jax.retrieval.neighbours import build_triples
from reimagen_jax.retrieval.triples import Triples
from tests.emulators import KINDS, reached

pytestmark = pytest.mark.usefixtures("few_devices")


@pytest.fixture(scope="module", params=KINDS)
def bucket(request, tmp_path_factory):
    """The address of a bucket."""
    with reached(request.param, tmp_path_factory.mktemp("spool")) as address:
        yield address


@pytest.fixture(scope="module")
def data(world, tmp_path_factory):
    """Records, knowledge base and triples, side by side."""
    folder = tmp_path_factory.mktemp("data") / "world"
    shutil.copytree(world, folder)
    base = KnowledgeBase.open(folder / "index")
    build_triples(base.records, base, 2, folder / "triples")
    return folder


@pytest.fixture
def address(bucket, data, request):
    """Of the data in the bucket, for each test its own."""
    address = f"{bucket}/{request.node.originalname}/world"
    system, _ = fsspec.core.url_to_fs(address)
    system.put(f"{data}/", f"{address}/", recursive=True)
    return address


def fails(capsys, *args):
    capsys.readouterr()
    assert cli.main([str(arg) for arg in args]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1, error
    return error


def content(folder):
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_triples_bring_along_what_they_refer_to_and_are_copied_once(address, data, tmp_path, capsys):
    copy = stage(f"{address}/triples", tmp_path)
    assert copy == tmp_path / address.split("://")[1] / "triples"
    assert "copying" in capsys.readouterr().out
    ours, theirs = Triples.open(copy), Triples.open(data / "triples")
    assert ours.fingerprint == theirs.fingerprint and ours.records[0] == theirs.records[0]
    told = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    assert stage(f"{address}/triples", tmp_path) == copy
    assert capsys.readouterr().out == ""
    assert {path: path.stat().st_mtime_ns for path in copy.iterdir()} == {
        path: time for path, time in told.items() if path.parent == copy
    }


def test_what_was_interrupted_is_gone_on_with_and_what_differs_is_copied_again(address, tmp_path, monkeypatch):
    copied, copy = [], stores.copy

    def noting(source, target):
        copied.append(source.name)
        copy(source, target)

    monkeypatch.setattr(stores, "copy", noting)
    folder = stage(f"{address}/records", tmp_path)
    names = sorted(copied)
    changed, missing = names[:2]
    (folder / NAME).unlink()  # as where the copy is not whole yet
    (folder / missing).unlink()
    (folder / changed).write_bytes(bytes((folder / changed).stat().st_size))
    copied.clear()
    assert stage(f"{address}/records", tmp_path) == folder
    assert sorted(copied) == [changed, missing]


def test_a_file_that_is_not_what_the_manifest_says_is_refused(address, tmp_path):
    place = stores.place(address) / "records" / "dataset_info.json"
    place.write_text(place.read_text().replace("1", "2"))
    with pytest.raises(UserError, match=f"{place} does not have the checksum that its manifest notes"):
        stage(f"{address}/records", tmp_path)
    with pytest.raises(UserError, match=f"{address}/nothing holds nothing to copy"):
        stage(f"{address}/nothing", tmp_path)


@pytest.fixture(scope="module")
def trained(bucket, data, tmp_path_factory):
    """A run in the bucket, of data that are there, too: its address, what trained it, and from which folder."""
    folder, run, address = tmp_path_factory.mktemp("trained"), f"{bucket}/run", f"{bucket}/trained/world"
    system, _ = fsspec.core.url_to_fs(address)
    system.put(f"{data}/", f"{address}/", recursive=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        Path("tiny.py").write_text("from tests.tiny import TINY as config\n")
        words = ["train", str(folder / "tiny.py"), "--workdir", run, "--data.triples", f"{address}/triples"]
        words += ["--train.num-steps", "2"]
        assert cli.main(words) == 2, "data in a bucket are staged"
        words += ["--data.stage", "copies", "--train.sample-every", "2", "--train.sample-images", "2"]
        assert cli.main(words) == 0
    return run, words, folder


def test_a_run_is_trained_in_a_bucket_of_data_in_a_bucket_and_exported(bucket, trained, tmp_path):
    run, words, folder = trained
    place = stores.place(run)
    assert {path.name for path in place.iterdir()} == {
        "run.json",
        "checkpoints",
        "metrics.jsonl",
        "tensorboard",
        "samples",
    }
    assert (place / "samples" / "00000002.png").read_bytes().startswith(b"\x89PNG")
    assert json.loads((place / "run.json").read_text())["experiment"]["data"]["triples"] in words
    assert {path.name for path in folder.iterdir()} == {"tiny.py", "copies"}
    assert cli.main(["export", run, "--out", str(tmp_path / "weights")]) == 0
    system, _ = fsspec.core.url_to_fs(run)
    system.put(f"{tmp_path}/weights/", f"{bucket}/weights/", recursive=True)
    digests = [Model.open(each).digest for each in (f"{bucket}/weights", run, tmp_path / "weights")]
    assert len(set(digests)) == 1


@pytest.mark.parametrize("bucket", ["gs"], indirect=True)
def test_a_run_in_a_bucket_is_drawn_by_and_begun_from_and_keeps_its_guidance(
    bucket, trained, data, tmp_path, monkeypatch, capsys
):
    run, words, _ = trained
    place = stores.place(run)
    monkeypatch.chdir(tmp_path)
    assert "pass --data.stage DIR" in fails(capsys, *words[: words.index("--data.stage")])
    drawing = ["--prompt", "a red cat", "--num-images", "1", "--steps", "2"]
    assert cli.main(["sample", "--model", run, *drawing, "--out", "drawn"]) == 0
    (picture,) = [path for path in (tmp_path / "drawn").glob("*.png") if path.name != "grid.png"]
    assert "gs:/" not in str(picture)
    begun = [*words[:2], "--workdir", "begun", "--data.triples", str(data / "triples")]
    begun += ["--train.num-steps", "1", "--init.weights"]
    assert cli.main(["export", run, "--out", "weights"]) == 0
    assert cli.main(["sample", "--model", "weights", *drawing, "--out", "again"]) == 0
    system, _ = fsspec.core.url_to_fs(run)
    system.put("weights/", f"{bucket}/exported/", recursive=True)
    for weights in (run, f"{bucket}/exported"):
        assert cli.main([*begun, weights]) == 0
        assert json.loads((tmp_path / "begun" / "run.json").read_text())["history"][0]["changed"][0] == (
            f"starts from {weights}, SHA-256 {Model.open(weights).digest}"
        )
        shutil.rmtree(tmp_path / "begun")
    assert "holds no model" in fails(capsys, *begun[:2], "--workdir", "none", *begun[4:], f"{bucket}/nothing")

    Model.open(run).choose("measuring", eta=0.25)
    assert (place / CHOSEN).is_file()
    guided = Model.open(run)
    assert guided.config.system.sampler.eta == 0.25 and "chosen at step 2" in guided.facts()["guidance"]
    assert cli.main(["sample", "--model", run, *drawing, "--out", "guided"]) == 0
    assert json.loads((tmp_path / "guided" / "sample.json").read_text())["sampler"]["eta"] == 0.25
    Chosen.forget(place)
    assert Model.open(run).chosen is None
    assert f"{bucket}/drawn is an address" in fails(
        capsys, "sample", "--model", run, *drawing, "--out", f"{bucket}/drawn"
    )


@pytest.mark.parametrize(("kind", "module"), [("gs", "gcsfs"), ("s3", "s3fs")])
def test_without_the_extra_its_name_is_told(monkeypatch, capsys, tmp_path, kind, module):
    known = stores.importlib.util.find_spec
    monkeypatch.setattr(stores.importlib.util, "find_spec", lambda name: None if name == module else known(name))
    monkeypatch.chdir(tmp_path)
    error = fails(capsys, "export", f"{kind}://bucket/run", "--out", "m")
    assert f"pip install 'reimagen_jax[{stores.KINDS[kind].extra}]'" in error
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(
    ("said", "meant"),
    [
        ("gs:/bucket/run", "gs://bucket/run"),
        ("gs://bucket/run/", "gs://bucket/run"),
        ("s3:/bucket", "s3://bucket"),
    ],
)
def test_an_address_is_understood_also_as_a_path_has_it(said, meant):
    assert os.fspath(stores.place(said)) == meant
