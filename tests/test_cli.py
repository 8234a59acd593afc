"""The command line: the data's way from a folder to triples, and one clear line for whatever is wrong."""

import errno
import importlib
import inspect
import os
import subprocess
import sys

import pytest

from reimagen_jax import __version__, cli
from reimagen_jax.data.records import Records
from reimagen_jax.retrieval.triples import Triples
from tests.samples import picture, write_folder


@pytest.fixture
def photos(tmp_path):
    lines = [
        {
            "file_name": f"{i}.png",
            "text": f"{'cat' if i % 2 else 'dog'} number {i}",
            "role": "train" if i < 4 else "test",
        }
        for i in range(6)
    ]
    lines.insert(2, {"file_name": "lost.png", "text": "lost", "role": "train"})
    return write_folder(tmp_path / "photos", lines, {f"{i}.png": picture(i) for i in range(6)})


def run(*args):
    return cli.main([str(arg) for arg in args])


def fails(capsys, *args):
    """Runs a command that must fail; returns its one line."""
    assert run(*args) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert error.count("\n") == 1
    return error


def test_folder_to_triples(photos, tmp_path, capsys):
    assert run("prepare", "--source", photos, "--out", tmp_path / "train", "--where", "role=train") == 0
    said = capsys.readouterr()
    assert "4 records" in said.out
    assert "1 x missing file" in said.out
    assert "lost.png" in said.err
    assert run("prepare", "--source", photos, "--out", tmp_path / "all", "--resolution", 4) == 0
    assert run("index", tmp_path / "all", "--out", tmp_path / "kb") == 0
    assert run("triples", tmp_path / "train", "--knowledge-base", tmp_path / "kb", "--out", tmp_path / "t") == 0
    triples = Triples.open(tmp_path / "t")
    assert [record.attributes["role"] for record in triples.records] == ["train"] * 4
    assert triples.neighbours.tolist()[1] == [3, 5]
    # Shrunk, the pictures differ from the training records'; they are the same records all the same.
    assert triples.manifest["excluded"]["the record itself"] == 4


def test_several_conditions(photos, tmp_path):
    assert (
        run("prepare", "--source", photos, "--out", tmp_path / "r", "--where", "role=train", "--where", "role=test")
        == 0
    )
    assert len(Records.open(tmp_path / "r")) == 6


def test_strict_stops_at_the_first(photos, tmp_path, capsys):
    error = fails(capsys, "prepare", "--source", photos, "--out", tmp_path / "r", "--strict")
    assert "lost.png: missing file" in error
    assert sorted(path.name for path in tmp_path.iterdir()) == ["photos"]


def test_many_problems_are_summed_up(tmp_path, capsys):
    lines = [{"file_name": f"lost{i}.png", "text": "x"} for i in range(30)] + [{"file_name": "a.png", "text": "a"}]
    photos = write_folder(tmp_path / "p", lines, {"a.png": picture(0)})
    assert run("prepare", "--source", photos, "--out", tmp_path / "r") == 0
    said = capsys.readouterr()
    assert len(said.err.splitlines()) == 21
    assert "10 more" in said.err
    assert len((tmp_path / "r" / "skipped.jsonl").read_text().splitlines()) == 30


def test_entityworld(tmp_path):
    world = ["--world.num-entities", 10, "--world.num-images", 60, "--world.seed", 3, "--resolution", 16]
    assert run("prepare", "--out", tmp_path / "r", "--where", "role=train", *world) == 0
    records = Records.open(tmp_path / "r")
    assert len(records) == 60
    assert records.manifest["settings"]["world"]["seed"] == 3
    assert records.source == "entityworld seed=3"


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["preprae"], "did you mean `prepare`"),
        (["xyz"], "the commands are prepare, "),
        (["prepare", "--out", "r", "--source", "nowhere"], "nowhere is not a folder"),
        (["prepare", "--out", "r", "--where", "role"], "FIELD=VALUE"),
        (["prepare", "--out", "r", "--resolution", "0"], "--resolution 0"),
        (["prepare", "--out", "r", "--world.num-entities", "0"], "num_entities"),
        (["index", "nowhere", "--out", "kb"], "nowhere not found"),
        (["index", "nowhere", "--out", "kb", "--b", "2"], "--b 2"),
        (["triples", "nowhere", "--knowledge-base", "kb", "--out", "t"], "nowhere not found"),
        (["triples", "nowhere", "--knowledge-base", "kb", "--out", "t", "--num-neighbours", "0"], "--num-neighbours 0"),
    ],
)
def test_bad_input_is_one_line_and_status_2(capsys, tmp_path, monkeypatch, args, said):
    monkeypatch.chdir(tmp_path)
    assert said in fails(capsys, *args)
    assert list(tmp_path.iterdir()) == []


def test_existing_output_is_not_touched(photos, tmp_path, capsys):
    (tmp_path / "r").mkdir()
    assert "--overwrite" in fails(capsys, "prepare", "--source", photos, "--out", tmp_path / "r")


@pytest.mark.parametrize("args", [["prepare", "--outt", "x"], ["index"], ["triples", "--out"]])
def test_unknown_or_missing_options(capsys, args):
    with pytest.raises(SystemExit) as caught:
        run(*args)
    assert caught.value.code == 2
    assert f"reimagen {args[0]}" in capsys.readouterr().err


def test_ctrl_c(photos, tmp_path, capsys, monkeypatch):
    def interrupted(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr("reimagen_jax.data.sources.FolderSource.entries", interrupted)
    assert run("prepare", "--source", photos, "--out", tmp_path / "r") == 130
    assert capsys.readouterr().err == "error: interrupted\n"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["photos"]


@pytest.mark.parametrize(("number", "status"), [(errno.ENOSPC, 2), (errno.EACCES, 2), (errno.EBADF, None)])
def test_full_disks_are_the_users_and_other_errors_are_bugs(photos, tmp_path, capsys, monkeypatch, number, status):
    def refused(*args, **kwargs):
        raise OSError(number, os.strerror(number), "shard")

    monkeypatch.setattr("reimagen_jax.data.records.write_manifest", refused)
    args = ("prepare", "--source", photos, "--out", tmp_path / "r", "--where", "role=test")
    if status is None:
        with pytest.raises(OSError, match="shard"):
            run(*args)
    else:
        assert os.strerror(number) in fails(capsys, *args)
    assert not (tmp_path / "r").exists()


def test_overview_and_version(capsys):
    assert run("--help") == 0
    overview = capsys.readouterr().out
    assert all(f"\n  {name} " in overview for name in cli.COMMANDS)
    assert run() == 2
    assert run("--version") == 0
    assert __version__ in capsys.readouterr().out


@pytest.mark.parametrize("name", cli.COMMANDS)
def test_every_command_exists_and_explains_itself(name, capsys):
    module, _, attribute = cli.COMMANDS[name][0].partition(":")
    command = getattr(importlib.import_module(f"reimagen_jax.commands.{module}"), attribute)
    assert not inspect.isclass(command) or callable(command.run)
    with pytest.raises(SystemExit) as caught:
        run(name, "--help")
    assert caught.value.code in (0, None)
    assert f"usage: reimagen {name}" in capsys.readouterr().out


def test_help_is_quick_to_import():
    code = (
        "import reimagen_jax.cli, sys; sys.exit(bool({'jax', 'tensorflow_datasets', 'matplotlib'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_reader_that_goes_away_is_no_error():
    """As in `reimagen --help | head -0`: no traceback, the status that shells know."""
    code = (
        "import sys; from reimagen_jax import cli; cli._run = lambda *_: print('x' * 2**20); sys.exit(cli.main(['x']))"
    )
    done = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    done.stdout.close()
    assert done.stderr.read() == b""
    assert done.wait() == 141
