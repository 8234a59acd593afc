"""The command line: the data's way from a folder to triples, and one clear line for whatever is wrong."""

import errno
import importlib
import inspect
import os
import re
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


def help_of(name, capsys):
    with pytest.raises(SystemExit):
        run(name, "--help")
    return capsys.readouterr().out


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
    assert sorted(triples.neighbours.tolist()[1]) == [3, 5], "which score the same"
    assert triples.scores[1, 0] == triples.scores[1, 1]
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
        (["prepare", "--out", "r", "--world.num-entities", "0"], "--world.num-entities 0"),
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


@pytest.mark.parametrize(
    "args",
    [
        "prepare --out gs://bucket/r",
        "prepare --out gs:/bucket/r",
        "prepare --source tfds:x --data-dir s3://bucket/data --out r",
        "index s3://bucket/r --out kb",
        "index r hdfs://host/more --out kb",
        "search abfs://container/kb words",
        "embed file:///r --text-embeddings e",
        "triples r --knowledge-base gs://kb --out t",
        "encode-train r --out gs://e",
        "distill --model hdfs://run --triples t --out m",
        "export hdfs://run --out m",
        "rater train --out gs://rater",
        "rater check --rater https://host/rater",
        "evaluate checkpoint gs://run",
        "evaluate faithfulness --model gs://run --knowledge-base kb --out o",
        "sample --model hdfs://run --prompt x --out o",
        "sample --model shipped --prompt gs://text --cascade gs://stage,steps=3 --out o",
        "sample --model shipped --prompt http://text --reference gs://image.png a --out o",
        "sweep --model shipped --prompt x --rater gs://rater --out o",
        "demo --out gs://demo",
    ],
)
def test_an_address_is_no_path_of_any_command(capsys, tmp_path, monkeypatch, args):
    monkeypatch.chdir(tmp_path)
    if args.startswith("evaluate"):
        command = re.search(r"^Commands:\n  ([a-z-]+) ", help_of("evaluate", capsys), re.MULTILINE).group(1)
        args = f"evaluate {command} --model gs://run --knowledge-base kb --out o"
    assert "is an address, not a folder or file of this machine" in fails(capsys, *args.split())
    assert list(tmp_path.iterdir()) == []


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


def alone(code, *, encoding="utf-8", **environment):
    """What a process of its own, started with this environment alone, leaves: status, output, errors."""
    kept = {name: os.environ[name] for name in ("PATH", "PYTHONPATH", "LD_LIBRARY_PATH") if name in os.environ}
    done = subprocess.run([sys.executable, "-c", code], env=kept | environment, capture_output=True, check=False)
    return done.returncode, done.stdout.decode(encoding), done.stderr.decode(encoding)


NO_HOME = """
import os, pwd, sys
def nobody(*_): raise KeyError("uid not found")
pwd.getpwuid = nobody  # as in a container started with -u 1234
os.environ.pop("HOME", None)
from reimagen_jax import cli
status = cli.main(["bogus"])
print(status, os.environ.get("JAX_COMPILATION_CACHE_DIR"))
"""


@pytest.mark.parametrize(
    ("environment", "cache"),
    [
        ({}, "None"),
        ({"XDG_CACHE_HOME": "/there"}, "/there/reimagen_jax"),
        ({"JAX_COMPILATION_CACHE_DIR": "/here", "XDG_CACHE_HOME": "/there"}, "/here"),
    ],
)
def test_no_home_is_needed(environment, cache):
    status, out, err = alone(NO_HOME, **environment)
    assert (status, out) == (0, f"2 {cache}\n"), err
    assert err.startswith("error: there is no command 'bogus'") and err.count("\n") == 1


def test_a_cache_that_cannot_be_written_is_no_error(tmp_path):
    (tmp_path / "file").touch()
    code = "from reimagen_jax import cli; cli._run = lambda *_: print(__import__('jax').numpy.ones(3).sum()); "
    code += "import sys; sys.exit(cli.main(['x']))"
    status, out, err = alone(code, JAX_PLATFORMS="cpu", JAX_COMPILATION_CACHE_DIR=str(tmp_path / "file" / "cache"))
    assert (status, out) == (0, "3.0\n"), err


@pytest.mark.parametrize("stream", ["stdout", "stderr"])
def test_what_a_terminal_cannot_show_is_replaced(stream):
    code = (
        f"import sys; from reimagen_jax import cli; cli._run = lambda *_: print('\u00e9t\u00e9', file=sys.{stream}); "
    )
    status, *streams = alone(code + "sys.exit(cli.main(['x']))", PYTHONIOENCODING="ascii", HOME="/")
    assert status == 0 and streams[stream == "stderr"] == "\\xe9t\\xe9\n"


@pytest.mark.parametrize(
    ("platform", "command"),
    [("cuda", "sample --model shipped --prompt x --out OUT"), ("nonsense", "rater check --num-images 8")],
)
def test_a_device_that_is_not_there_is_one_line(tmp_path, platform, command):
    args = command.replace("OUT", str(tmp_path / "out")).split()
    code = f"import sys; from reimagen_jax import cli; sys.exit(cli.main({args!r}))"
    status, out, err = alone(code, JAX_PLATFORMS=platform, HOME=str(tmp_path))
    assert status == 2 and out == ""
    last = err.splitlines()[-1]
    assert last.startswith(f"error: JAX finds no device for JAX_PLATFORMS={platform}") and "Traceback" not in err
    assert not (tmp_path / "out").exists()


def test_a_process_without_standard_output_is_no_error():
    code = "import os, sys; os.close(1); sys.stdout = None; from reimagen_jax import cli; sys.exit(cli.main(['x']))"
    status, _, err = alone(code, HOME="/")
    assert status == 2 and err.startswith("error: there is no command 'x'")


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
