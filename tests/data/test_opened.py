"""What was opened is one folder, whatever is put in its place later; what is damaged is refused when it is opened."""

import importlib
import json
import shutil
import sys

import numpy as np
import pytest

from reimagen_jax.data import records as records_module
from reimagen_jax.data.manifest import SMALL
from reimagen_jax.data.opened import Opened, load_array
from reimagen_jax.data.records import Records, write_records
from reimagen_jax.errors import UserError
from reimagen_jax.files import MARK
from tests.samples import example, records_of


def test_files_are_those_of_the_folder_that_was_opened(tmp_path):
    folder, other = tmp_path / "a", tmp_path / "b"
    for path, content in ((folder, 1), (other, 2)):
        path.mkdir()
        for name in ("held.npy", "not.npy"):
            np.save(path / name, np.full(3, content))
    opened = Opened(folder)
    opened.hold(["held.npy"])
    folder.rename(tmp_path / "old")
    other.rename(folder)
    assert opened.replaced
    for name in ("held.npy", "not.npy"):
        assert load_array(opened / name, mapped=True).tolist() == [1, 1, 1]
    shutil.rmtree(tmp_path / "old")
    assert load_array(opened / "held.npy").tolist() == [1, 1, 1]
    with pytest.raises(UserError, match=r"a was replaced since it was opened"), opened.reading("mend it"):
        load_array(opened / "not.npy")
    assert str(opened / "held.npy") == str(folder / "held.npy")


def test_records_that_were_replaced_are_not_mixed(tmp_path, monkeypatch):
    monkeypatch.setattr(records_module, "RECORDS_PER_SHARD", 4)
    records = records_of(tmp_path / "r", [f"old {i}" for i in range(10)])
    assert records[0].text == "old 0"  # one shard is open, the others are not
    write_records([example(i, f"new {i}") for i in range(10)], tmp_path / "r", source="test", overwrite=True)
    with pytest.raises(UserError, match=r"r was replaced since it was opened"):
        _ = records[9]
    assert Records.open(tmp_path / "r")[9].text == "new 9"


def test_opening_records_imports_nothing_that_they_name(tmp_path, monkeypatch):
    records_of(tmp_path / "r", ["a", "b"])
    (tmp_path / "evil.py").write_text("raise SystemExit('imported')\n")
    monkeypatch.syspath_prepend(tmp_path)
    importlib.invalidate_caches()
    features = json.loads((tmp_path / "r" / "features.json").read_text()) | {"pythonClassName": "evil.Thing"}
    info = json.loads((tmp_path / "r" / "dataset_info.json").read_text()) | {"moduleName": "evil"}
    for name, content in (("features.json", features), ("dataset_info.json", info)):
        (tmp_path / "r" / name).write_text(json.dumps(content))
    with pytest.raises(UserError, match=r"(features|dataset_info)\.json"):
        Records.open(tmp_path / "r")
    sign(tmp_path / "r")  # and where the manifest agrees
    assert Records.open(tmp_path / "r").texts() == ["a", "b"]
    assert "evil" not in sys.modules


@pytest.mark.parametrize("splits", [[], [{"name": "records", "shardLengths": ["7"]}], [{"name": "records"}], "x"])
def test_a_description_of_other_shards(tmp_path, splits):
    records_of(tmp_path / "r", ["a", "b"])
    (tmp_path / "r" / "dataset_info.json").write_text(json.dumps({"splits": splits}))
    sign(tmp_path / "r")
    with pytest.raises(UserError, match=r"r(/dataset_info\.json\.splits| is damaged)"):
        Records.open(tmp_path / "r").texts()


def test_flips_are_refused_at_opening_or_told_by_verify(tmp_path, monkeypatch):
    """64 bits in each file: of small files when they are opened, of large ones when they are verified."""
    records_of(tmp_path / "r", ["a", "b"])
    draw = np.random.default_rng(0)
    for limit in (SMALL, 0):
        monkeypatch.setattr("reimagen_jax.data.manifest.SMALL", limit)
        for path in sorted((tmp_path / "r").iterdir()):
            content = path.read_bytes()
            if not content or path.name == MARK:
                continue
            for bit in draw.integers(0, 8 * len(content), 64):
                changed = bytearray(content)
                changed[bit // 8] ^= 1 << (bit % 8)
                path.write_bytes(changed)
                with pytest.raises(UserError, match=r"/r"):
                    Records.open(tmp_path / "r").verify()
            path.write_bytes(content)
    Records.open(tmp_path / "r").verify()


@pytest.mark.parametrize(
    ("name", "value"),
    [("count", -1), ("count", "2"), ("fingerprint", 3), ("settings", []), ("files", {"../x": {}}), ("files", [1])],
)
def test_an_edited_manifest_names_file_and_field(tmp_path, name, value):
    records_of(tmp_path / "r", ["a", "b"])
    path = tmp_path / "r" / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {name: value}))
    with pytest.raises(UserError, match=rf"r is damaged: .*manifest\.json\.{name}.*reimagen prepare"):
        Records.open(tmp_path / "r")


def sign(folder):
    """Makes the manifest agree with the files."""
    manifest = json.loads((folder / "manifest.json").read_text())
    opened = Opened(folder)
    manifest["files"] = {
        name: {"bytes": opened.size(name), "sha256": opened.sha256(name)} for name in manifest["files"]
    }
    del manifest["checksum"]
    (folder / "manifest.json").write_text(json.dumps(manifest))


def test_a_damaged_array_raises_nothing_but_a_value_error(tmp_path):
    path = tmp_path / "a.npy"
    np.save(path, np.arange(12, dtype=np.int32).reshape(6, 2))
    whole, outcomes = path.read_bytes(), set()
    shapes = [b"(9%s, 2), " % (b"9" * n) for n in (5, 12, 18, 30)] + [b"(-6, 2), ", b"(6, 2, ), ", b"('6', 2), "]
    headers = [whole.replace(b"(6, 2), ", shape.ljust(40)[: len(shape)]) for shape in shapes]
    cut = [whole[:length] for length in (0, 5, 9, 40, 127, 130)]
    bytes_changed = [
        whole[:i] + bytes([value]) + whole[i + 1 :] for i in range(128) for value in (0, 10, 35, 40, 57, 255)
    ]
    for content in (*headers, *cut, *bytes_changed):
        path.write_bytes(content)
        for mapped in (False, True):
            try:
                load_array(path, mapped=mapped)
                outcomes.add("read")
            except ValueError:
                outcomes.add("refused")
    assert outcomes == {"read", "refused"}
