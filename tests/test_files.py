"""Writing: what exists is whole."""

import os
import signal
import subprocess
import sys
import threading
import types
from pathlib import Path

import pytest

from reimagen_jax import files, stores
from reimagen_jax.errors import UserError
from reimagen_jax.files import MARK, atomic_dir, growing_dir, kind_of, read_json, recover, write_json, write_text
from reimagen_jax.paths import in_bucket


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


# ---- killed, replaced, written by two at once


KILLED = """
import os, pathlib, shutil, signal, sys
from reimagen_jax import files, stores

def killed(*args, **kwargs):
    os.kill(os.getpid(), signal.SIGKILL)

{patch}
with files.atomic_dir(sys.argv[1], overwrite=True) as folder:
    (folder / "new").write_text("new")
    {inside}
"""
NO_EXCHANGE = "files._exchange = lambda a, b: False"
SECOND_RENAME = """
rename = pathlib.Path.rename
pathlib.Path.rename = lambda self, to: rename(self, to) if not self.name.endswith(".partial") else killed()
"""


def killed_writing(target, patch="", inside="pass"):
    code = KILLED.format(patch=patch, inside=inside)
    done = subprocess.run([sys.executable, "-c", code, str(target)], check=False)
    assert done.returncode == -signal.SIGKILL


@pytest.mark.parametrize(
    ("patch", "inside", "survivor"),
    [
        ("", "killed()", "old"),
        ("files.put_in_place = killed", "pass", "old"),
        ("files._exchange = killed", "pass", "old"),
        ("shutil.rmtree = killed", "pass", "new"),
        (NO_EXCHANGE + SECOND_RENAME, "pass", "old"),
        (NO_EXCHANGE + "\nshutil.rmtree = killed", "pass", "new"),
    ],
)
def test_killed_anywhere_one_of_the_two_is_there_and_the_rest_is_swept(tmp_path, patch, inside, survivor):
    target = tmp_path / "out"
    with atomic_dir(target, kind="records") as folder:
        (folder / "old").write_text("old")
    killed_writing(target, patch, inside)
    recover(target)  # what every reader does
    assert names(target) == [survivor]
    assert len(names(tmp_path)) > 1, "something was left behind"
    with atomic_dir(tmp_path / "another"):  # whoever writes there next
        pass
    assert names(tmp_path) == ["another", "out"]
    with atomic_dir(target, kind="records", overwrite=True) as folder:
        (folder / "newer").write_text("newer")
    assert names(target) == ["newer"]
    assert names(tmp_path) == ["another", "out"]


def test_what_a_living_process_writes_is_not_swept(tmp_path):
    with atomic_dir(tmp_path / "a") as first:
        with atomic_dir(tmp_path / "b"):
            assert first.is_dir()
        (first / "file").write_text("still here")
    assert names(tmp_path / "a") == ["file"]


def test_what_only_looks_like_a_rest_is_not_swept(tmp_path):
    (tmp_path / ".mine.abcdefgh.partial").mkdir()
    (tmp_path / ".mine.abcdefgh.partial" / "thesis.tex").write_text("years of work")
    with atomic_dir(tmp_path / "mine"):
        pass
    assert (tmp_path / ".mine.abcdefgh.partial" / "thesis.tex").is_file()


def test_two_that_write_one_folder(tmp_path):
    with atomic_dir(tmp_path / "out") as folder:
        (folder / "first").touch()
        said = rf"another process \(number {os.getpid()}\) is writing .*out"
        with pytest.raises(UserError, match=said), atomic_dir(tmp_path / "out"):
            pytest.fail("the block must not run")
    with pytest.raises(UserError, match="already exists"), atomic_dir(tmp_path / "out"):
        pytest.fail("the block must not run")
    assert names(tmp_path / "out") == ["first"]


def test_one_waits_for_the_other(tmp_path, monkeypatch):
    order, ready, said = [], threading.Event(), []
    monkeypatch.setattr(sys, "stderr", types.SimpleNamespace(write=said.append, flush=lambda: None))

    def second():
        ready.wait(10)
        with atomic_dir(tmp_path / "out", overwrite=True, wait=True):
            order.append("second")

    thread = threading.Thread(target=second)
    thread.start()
    with atomic_dir(tmp_path / "out"):
        ready.set()
        while "waiting for it" not in "".join(said):  # (capsys loses what is printed while it is read)
            assert thread.is_alive()
        order.append("first")
    thread.join(10)
    assert order == ["first", "second"]
    assert names(tmp_path) == ["out"]


def test_a_link_stays_and_what_it_leads_to_is_replaced(tmp_path):
    (tmp_path / "disk").mkdir()
    with atomic_dir(tmp_path / "disk" / "real"):
        pass
    (tmp_path / "link").symlink_to("disk/real")
    with atomic_dir(tmp_path / "link", overwrite=True) as folder:
        (folder / "new").touch()
    assert (tmp_path / "link").is_symlink()
    assert names(tmp_path / "disk" / "real") == ["new"]
    assert names(tmp_path / "disk") == ["real"]


@pytest.mark.parametrize(
    ("theirs", "sign"), [("records", ""), ("records", "manifest.json"), ("images", "sample.json"), ("run", "run.json")]
)
def test_a_folder_of_another_kind_is_not_replaced(tmp_path, theirs, sign):
    """The mark tells, or in folders of older versions their files."""
    with atomic_dir(tmp_path / "out", kind="" if sign else theirs) as folder:
        if sign:
            write_json(folder / sign, {"kind": theirs})
    assert kind_of(tmp_path / "out") == theirs
    with (
        pytest.raises(UserError, match=f"out holds (a )?{theirs}, not a knowledge base, so it is kept"),
        atomic_dir(tmp_path / "out", kind="knowledge base", overwrite=True),
    ):
        pytest.fail("the block must not run")
    with atomic_dir(tmp_path / "out", kind=theirs, overwrite=True):
        pass


def test_files_of_others_are_kept(tmp_path):
    target = tmp_path / "out"
    with atomic_dir(target, kind="records") as folder:
        (folder / "deep").mkdir()
        (folder / "deep" / "ours").touch()
    (target / "deep" / "theirs").touch()
    said = r"out holds deep/theirs, which it was not written with, so it is kept"
    with pytest.raises(UserError, match=said), atomic_dir(target, kind="records", overwrite=True):
        pytest.fail("the block must not run")
    (target / "deep" / "theirs").unlink()
    with atomic_dir(target, kind="records", overwrite=True):
        pass
    assert names(target) == []


def test_a_mark_that_was_being_written_when_its_process_died_leaves_no_trace(tmp_path):
    targets = tmp_path / "calm", tmp_path / "killed"
    for target in targets:
        with growing_dir(target, kind="images"):
            (target / "first").touch()
    (tmp_path / "killed" / f".{MARK}.partial").write_text("half")
    for target in targets:
        with growing_dir(target, kind="images"):
            pass
    calm, killed = ((target / MARK).read_text() for target in targets)
    assert calm == killed and names(targets[0]) == names(targets[1]) == ["first"]


def test_what_grows_notes_what_it_is_written_with_and_leaves_the_rest_alone(tmp_path):
    target = tmp_path / "out"

    def grow(name):
        with growing_dir(target, kind="images"):
            (target / name).touch()

    grow("first")
    (target / "theirs").touch()
    grow("second")
    assert names(target) == ["first", "second", "theirs"]
    assert files.foreign(target) == ["theirs"]
    with pytest.raises(UserError, match="holds theirs, which"), atomic_dir(target, kind="images", overwrite=True):
        pytest.fail("the block must not run")
    (target / "theirs").unlink()
    with atomic_dir(target, kind="images", overwrite=True):
        pass


def test_what_grows_and_is_killed_goes_on_and_can_be_replaced(tmp_path):
    code = (
        "import os, sys; from pathlib import Path; from reimagen_jax.files import growing_dir; out = Path(sys.argv[1])"
    )
    code += "\nwith growing_dir(out, kind='images'): (out / 'first').touch(); os.kill(os.getpid(), 9)"
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path / "out")], check=False)
    assert done.returncode == -signal.SIGKILL
    with growing_dir(tmp_path / "out", kind="images"):
        pass
    assert files.foreign(tmp_path / "out") == []
    with atomic_dir(tmp_path / "out", kind="images", overwrite=True):
        pass


def test_what_is_resumed_begins_goes_on_and_is_replaced(tmp_path):
    def works(*names, overwrite=False):
        with files.resumed_dir(tmp_path / "out", kind="work", begun="first", overwrite=overwrite) as folder:
            for name in names:
                (folder / name).write_text(name)

    (tmp_path / "out").mkdir()
    files.mark(tmp_path / "out", "work")  # as where it was killed before anything was done
    works("first")
    (tmp_path / "out" / ".second.partial").write_text("half")
    works("second")
    assert sorted(os.listdir(tmp_path / "out")) == [files.MARK, "first", "second"]
    works("other", overwrite=True)
    assert sorted(os.listdir(tmp_path / "out")) == [files.MARK, "other"]
    with pytest.raises(UserError, match="out already exists: pass --overwrite"):
        works("first")
    (tmp_path / "out" / "other").unlink()
    (tmp_path / "out" / files.MARK).unlink()
    (tmp_path / "out").rmdir()
    (tmp_path / "out").write_text("a file")
    with pytest.raises(UserError, match="out already exists"):
        works("first")
    assert (tmp_path / "out").read_text() == "a file"


def test_only_the_same_command_replaces_and_goes_on(tmp_path):
    target = tmp_path / "out"
    with files.made_by("reimagen sample"), atomic_dir(target, kind="images"):
        pass
    with files.made_by("reimagen edit image"):
        said = "out was made by `reimagen sample`, not by `reimagen edit image`, so it is kept"
        with pytest.raises(UserError, match=said), atomic_dir(target, kind="images", overwrite=True):
            pytest.fail("the block must not run")
        with pytest.raises(UserError, match=said), growing_dir(target, kind="images"):
            pytest.fail("the block must not run")
    with atomic_dir(target, kind="images", overwrite=True):  # from Python, whose kind alone is known
        pass
    with files.made_by("reimagen sample"), atomic_dir(target, kind="images", overwrite=True):
        pass


def test_a_mark_of_an_older_version_is_read(tmp_path):
    target = tmp_path / "out"
    target.mkdir()
    (target / MARK).write_text(
        "Written by reimagen_jax, which may replace this folder when asked to overwrite.\nIt holds records.\n"
    )
    (target / "old").touch()
    assert kind_of(target) == "records" and files.foreign(target) == []
    with atomic_dir(target, kind="records", overwrite=True):
        pass
    assert names(target) == []


def test_a_failed_exchange_falls_back_to_renames(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "_exchange", lambda a, b: False)
    test_overwriting_replaces_all_or_nothing(tmp_path)


@pytest.mark.parametrize(
    ("path", "there"),
    [
        ("gs://bucket/run", True),
        (Path("s3://bucket/run/a b"), True),
        ("s3:/bucket", True),
        ("file:///run", False),
        ("gs:", False),
        ("runs/gs://bucket", False),
        ("/runs/s3", False),
    ],
)
def test_what_is_in_a_bucket_is_told_by_its_address(path, there):
    assert in_bucket(path) == there
    assert (stores.kind(path) is not None) == there
