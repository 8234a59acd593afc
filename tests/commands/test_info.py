"""`reimagen info`: what it says is so, also where there is no device and where something is missing."""

import importlib.metadata
import json
import os
import platform
import subprocess
import sys

import jax
import pytest

from reimagen_jax.cli import main
from reimagen_jax.commands import info

REQUIRES = {
    info.PACKAGE: [
        "numpy>=2.0",
        'numpy>=2; extra == "there"',
        'nowhere>=3; extra == "absent"',
        "x[y]>1; extra == 'deep'",
    ],
    "x": ["numpy; extra == 'z'", "nowhere<2; extra == 'y'"],
}


def test_json_and_text_say_the_same(capsys):
    assert main(["info", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["versions"]["Python"] == platform.python_version()
    assert found["versions"]["jax"] == importlib.metadata.version("jax")
    assert len(found["devices"]) == jax.local_device_count()
    assert {each["platform"] for each in found["devices"]} == {"cpu"}
    assert 0 < found["memory"]["available_GiB"] <= found["memory"]["total_GiB"]
    assert main(["info"]) == 0
    text = capsys.readouterr().out
    for part in (found["versions"]["flax"], found["devices"][0]["kind"], *(c["folder"] for c in found["caches"])):
        assert part in text


def test_caches_are_measured(tmp_path, monkeypatch):
    (tmp_path / "programs" / "deep").mkdir(parents=True)
    for name in ("programs/one", "programs/deep/two"):
        (tmp_path / name).write_bytes(b"12345")
    monkeypatch.setattr(info.runtime, "cache", lambda: str(tmp_path / "programs"))
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "nothing"))
    compiled, _, data = info.caches()
    assert (compiled["exists"], compiled["files"], compiled["bytes"]) == (True, 2, 10)
    assert (data["folder"], data["exists"], data["files"]) == (str(tmp_path / "nothing"), False, 0)
    monkeypatch.setattr(info.runtime, "cache", lambda: None)
    assert info.caches()[0]["folder"] is None


@pytest.mark.parametrize(("extra", "missing"), [("there", []), ("absent", ["nowhere>=3"]), ("deep", ["x[y]>1"])])
def test_extras_are_missing_where_any_of_their_packages_is(monkeypatch, extra, missing):
    """Those of a package's own extras among them."""
    versions = {info.PACKAGE: "1", "numpy": "2", "x": "3"}
    monkeypatch.setattr(info, "version_of", versions.get)
    monkeypatch.setattr(importlib.metadata, "requires", REQUIRES.get)
    asked = info._required(info.PACKAGE, extra)
    assert [each for each in asked if not info._installed(each)] == missing


def test_what_is_missing_comes_with_the_line_that_installs_it(monkeypatch):
    really = info.version_of
    monkeypatch.setattr(info, "version_of", lambda name: None if name == "faiss-cpu" else really(name))
    (missing,) = info.extras()["faiss"]["missing"]
    assert missing.startswith("faiss-cpu>=")
    found = {"versions": {}, "devices": [], "memory": {"total_GiB": None, "processors": 1}, "caches": []}
    text = "\n".join(info.lines(found | {"extras": info.extras()}))
    assert f"faiss: missing, pip install '{missing}'" in text


def test_a_device_that_is_not_there_is_said_and_no_error(tmp_path):
    environment = {**os.environ, "JAX_PLATFORMS": "nonsense", "HOME": str(tmp_path)}
    run = [sys.executable, "-m", "reimagen_jax", "info"]
    done = subprocess.run(run, env=environment, capture_output=True, text=True, check=True)
    assert "device      none: JAX finds no device for JAX_PLATFORMS=nonsense" in done.stdout
