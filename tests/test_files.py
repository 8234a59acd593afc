"""Writing: what exists is whole."""

import os

import pytest

from reimagen_jax.errors import UserError
from reimagen_jax.files import MARK, atomic_dir, read_json, write_json, write_text


def names(folder):
    return sorted(path.name for path in folder.iterdir() if path.name != MARK)


def test_folder_appears_when_complete(tmp_path):
    with atomic_dir(tmp_path / "deep" / "out") as folder:
        (folder / "a").write_text("a")
        assert not (tmp_path / "deep" / "out").exists()
    assert names(tmp_path / "deep") == ["out"]
    assert names(tmp_path / "deep" / "out") == ["a"]


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_folder_does_not_appear_after_an_error(tmp_path, error):
    with pytest.raises(error), atomic_dir(tmp_path / "out") as folder:
        (folder / "a").write_text("a")
        raise error
    assert names(tmp_path) == []


def test_existing_folder_is_refused_at_once(tmp_path):
    (tmp_path / "out").mkdir()
    with pytest.raises(UserError, match="out already exists"), atomic_dir(tmp_path / "out"):
        pytest.fail("the block must not run")


def test_overwriting_replaces_all_or_nothing(tmp_path):
    with atomic_dir(tmp_path / "out") as folder:
        (folder / "old").write_text("old")
    with pytest.raises(RuntimeError), atomic_dir(tmp_path / "out", overwrite=True) as folder:
        raise RuntimeError
    assert names(tmp_path / "out") == ["old"]
    with atomic_dir(tmp_path / "out", overwrite=True) as folder:
        (folder / "new").write_text("new")
        assert names(tmp_path / "out") == ["old"]
    assert names(tmp_path / "out") == ["new"]
    assert names(tmp_path) == ["out"]


@pytest.mark.parametrize("theirs", ["folder", "file"])
def test_what_others_wrote_is_never_replaced(tmp_path, theirs):
    target = tmp_path / "out"
    if theirs == "folder":
        target.mkdir()
    (target / "thesis.tex" if theirs == "folder" else target).write_text("years of work")
    with (
        pytest.raises(UserError, match="not written by this program"),
        atomic_dir(target, overwrite=True),
    ):
        pytest.fail("the block must not run")
    assert (target / "thesis.tex" if theirs == "folder" else target).read_text() == "years of work"


def test_an_empty_folder_is_replaced_when_asked(tmp_path):
    (tmp_path / "out").mkdir()
    with atomic_dir(tmp_path / "out", overwrite=True) as folder:
        (folder / "new").write_text("new")
    assert names(tmp_path / "out") == ["new"]


def test_folder_has_the_usual_permissions(tmp_path):
    with atomic_dir(tmp_path / "out"):
        pass
    (tmp_path / "usual").mkdir()
    assert (tmp_path / "out").stat().st_mode == (tmp_path / "usual").stat().st_mode


def test_parent_that_is_a_file(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot write"), atomic_dir(tmp_path / "file" / "out"):
        pytest.fail("the block must not run")


def test_file_is_replaced_whole(tmp_path, monkeypatch):
    write_text(tmp_path / "f", "old")
    with monkeypatch.context() as patch:
        patch.setattr("pathlib.Path.replace", lambda *args: (_ for _ in ()).throw(OSError("no space left")))
        with pytest.raises(OSError, match="no space"):
            write_text(tmp_path / "f", "new")
    assert (tmp_path / "f").read_text() == "old"
    write_text(tmp_path / "f", "new, é 🐶")
    assert (tmp_path / "f").read_text(encoding="utf-8") == "new, é 🐶"


def test_json_comes_back(tmp_path):
    value = {"text": "é 🐶", "numbers": [1, 2.5, None, True], "nested": {"a": {}}}
    write_json(tmp_path / "v.json", value)
    assert read_json(tmp_path / "v.json", "a value") == value
    assert os.listdir(tmp_path) == ["v.json"]


def test_json_without_an_equivalent_is_refused(tmp_path):
    with pytest.raises(ValueError, match="JSON"):
        write_json(tmp_path / "v.json", float("nan"))
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("content", [b"{", b"\xff\xfe", b""])
def test_broken_json_names_file_and_purpose(tmp_path, content):
    (tmp_path / "v.json").write_bytes(content)
    with pytest.raises(UserError, match=r"v\.json cannot be read as the manifest"):
        read_json(tmp_path / "v.json", "the manifest")


def test_missing_json_names_file_and_purpose(tmp_path):
    with pytest.raises(UserError, match=r"v\.json not found: the manifest"):
        read_json(tmp_path / "v.json", "the manifest")
