"""Resumable folders: what was noted survives, what was not is gone, and nobody else writes in between."""

import subprocess
import sys

import pytest

from reimagen_jax.data.unfinished import place_of, resumable_dir
from reimagen_jax.errors import UserError

STOP = RuntimeError("stop")


def stop(target, identity, state=None, error=STOP, **options):
    with pytest.raises(type(error)), resumable_dir(target, identity, **options) as unfinished:
        (unfinished.folder / "file").write_text("written")
        if state is not None:
            unfinished.note(state)
        raise error


def test_complete(tmp_path):
    target = tmp_path / "out"
    with resumable_dir(target, {"a": 1}) as unfinished:
        assert unfinished.state is None
        (unfinished.folder / "file").write_text("x")
        unfinished.note({"n": 1})
        assert not target.exists()
    assert (target / "file").read_text() == "x"
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_without_a_note_nothing_is_kept(tmp_path):
    stop(tmp_path / "out", {"a": 1})
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("error", [RuntimeError("x"), KeyboardInterrupt(), UserError("x")])
def test_what_was_noted_is_yielded_again(tmp_path, error):
    target = tmp_path / "out"
    stop(target, {"a": 1}, {"n": 7}, error)
    assert not target.exists()
    assert place_of(target).exists()
    with resumable_dir(target, {"a": 1}) as unfinished:
        assert unfinished.state == {"n": 7}
        assert (unfinished.folder / "file").read_text() == "written"
    assert (target / "file").exists()
    assert not place_of(target).exists()


def test_another_identity_is_refused_with_the_difference_or_thrown_away(tmp_path):
    target = tmp_path / "out"
    stop(target, {"settings": {"size": 1}}, {"n": 7})
    with (
        pytest.raises(UserError, match=r"settings\.size was 1, now 2.*--overwrite"),
        resumable_dir(target, {"settings": {"size": 2}}),
    ):
        pass
    with resumable_dir(target, {"settings": {"size": 2}}, overwrite=True) as unfinished:
        assert unfinished.state is None
        assert list(unfinished.folder.iterdir()) == []


def test_existing_output_stays_until_the_new_one_is_complete(tmp_path):
    target = tmp_path / "out"
    with resumable_dir(target, {"a": 1}) as unfinished:
        (unfinished.folder / "old").touch()
    with pytest.raises(UserError, match="already exists"), resumable_dir(target, {"a": 1}):
        pass
    stop(target, {"a": 2}, {"n": 1}, overwrite=True)
    assert (target / "old").exists()
    with resumable_dir(target, {"a": 2}, overwrite=True) as unfinished:
        assert unfinished.state == {"n": 1}
    assert sorted(path.name for path in target.iterdir()) == [".reimagen_jax", "file"]
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_a_foreign_folder_is_never_replaced(tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine").touch()
    with (
        pytest.raises(UserError, match="not written by this program"),
        resumable_dir(tmp_path / "out", {}, overwrite=True),
    ):
        pass


def test_only_one_process_writes(tmp_path):
    code = (
        "import sys; from reimagen_jax.data.unfinished import resumable_dir\n"
        "with resumable_dir(sys.argv[1], {}) as u:\n u.note({}); print('in', flush=True); sys.stdin.read()"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "out")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdout.readline() == b"in\n"
        with pytest.raises(UserError, match="another process"), resumable_dir(tmp_path / "out", {}):
            pass
        other.kill()
    with resumable_dir(tmp_path / "out", {}) as unfinished:
        assert unfinished.state == {}


def test_what_stands_in_the_place_of_the_notes_goes(tmp_path):
    target = tmp_path / "out"
    (place_of(target) / "progress.json").mkdir(parents=True)
    with resumable_dir(target, {}) as unfinished:
        assert unfinished.state is None
    assert target.is_dir() and not place_of(target).exists()
