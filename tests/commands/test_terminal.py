"""No command passes on what steers a terminal: captions, keys, attributes and errors go through one helper."""

import json

import numpy as np
import pytest
from PIL import Image

from reimagen_jax.cli import main

STEERS = "a dog \x1b[2J\x1b]0;owned\x07 bell\nsecond line\x00 \x9b31m \u202e end"
SHOWN = r"a dog \x1b[2J\x1b]0;owned\x07 bell second line\x00 \x9b31m \u202e end"


def clean(*texts):
    """Asserts that nothing but lines of text is there."""
    for text in texts:
        assert not [c for c in text if (ord(c) < 32 and c != "\n") or 0x7F <= ord(c) < 0xA0 or c == "\u202e"]


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """Records and a knowledge base of one such caption, beside one whose picture is none."""
    folder = tmp_path_factory.mktemp("steering")
    source = folder / "source"
    source.mkdir()
    Image.fromarray(np.full((8, 8, 3), 90, np.uint8)).save(source / "a.png")
    rows = [{"file_name": "a.png", "text": STEERS, "kind": STEERS}]
    rows.append({"file_name": "\x1b[31mnone.png", "text": "a cat"})
    (source / "metadata.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    assert main(["prepare", "--source", str(source), "--out", str(folder / "records")]) == 0
    assert main(["index", str(folder / "records"), "--out", str(folder / "kb")]) == 0
    return folder


def test_prepare_and_index_and_search(base, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)  # a search leaves its sheet where it is asked
    assert main(["prepare", "--source", str(base / "source"), "--out", str(tmp_path / "records")]) == 0
    said = capsys.readouterr()
    clean(*said)
    assert r"\x1b[31mnone.png" in said.err
    assert main(["index", str(base / "kb"), "--stats"]) == 0
    said = capsys.readouterr()
    clean(*said)
    assert SHOWN in said.out
    for more in ([], ["--explain"]):
        assert main(["search", str(base / "kb"), "dog \x1b[2J", *more]) == 0
        said = capsys.readouterr()
        clean(*said)
        hit = next(line for line in said.out.splitlines() if "[a.png]" in line)
        assert hit.endswith(f"  {SHOWN}  [a.png]")
    assert main(["search", str(base / "kb"), "dog", "--json"]) == 0
    said = capsys.readouterr()
    clean(*said)
    assert json.loads(said.out)["text"] == STEERS


@pytest.mark.parametrize(
    "command",
    [
        ["prepare", "--source", "SOURCE", "--out", "OUT", "--strict"],
        ["search", "KB", "dog", "--where", "kind=\x1b[2J"],
        ["index", "KB", "--delete", "key\x1b[2J"],
        ["\x1b[2J"],
    ],
)
def test_errors(base, tmp_path, capsys, command):
    places = {"SOURCE": str(base / "source"), "KB": str(base / "kb"), "OUT": str(tmp_path / "out")}
    assert main([places.get(word, word) for word in command]) == 2
    said = capsys.readouterr()
    clean(*said)
    assert said.err.startswith("error: ") and r"\x1b" in said.err
