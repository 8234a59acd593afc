"""`reimagen report`: the page of kept results, a run that is kept, tables that are written and checked."""

import json
import re
import shutil

import pytest

from reimagen_jax import cli, runtime
from reimagen_jax.commands import report
from reimagen_jax.files import write_json
from reimagen_jax.inference import provenance
from reimagen_jax.reports.kept import BEGIN, END, read_kept
from tests.reports.test_kept import KEPT

RUN = {
    "command": "reimagen rate results runs/rating",
    "made_by": "reimagen_jax 0.2.0",
    "seed": 0,
    "rows": [{"by": "all", "group": "all", "system": "ours", "prompts": 8, "ratings": 8, "both": [0.5, 0.2, 0.8]}],
}


@pytest.fixture
def results(tmp_path):
    """A folder of two measurements."""
    (tmp_path / "results").mkdir()
    for name in ("entities_eta", "entities_best_of_4"):
        shutil.copy(KEPT / f"{name}.json", tmp_path / "results")
    return tmp_path / "results"


def run(*words):
    return cli.main(["report", *map(str, words)])


def refused(capsys, *words):
    assert run(*words) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and error.count("\n") == 1
    return error


def test_a_page_of_a_folder(results, tmp_path, capsys):
    assert run(results, "--out", tmp_path / "page") == 0
    assert "2 measurements" in capsys.readouterr().out
    written = {path.name for path in (tmp_path / "page").iterdir()}
    assert written >= {"results.html", "results.md", "entities_eta.png", "entities_best_of_4-2.png"}
    assert "already exists: pass --overwrite" in refused(capsys, "page", results, "--out", tmp_path / "page")
    assert "no folder not found: give a folder" in refused(capsys, "no folder/", "--out", tmp_path / "other")
    (tmp_path / "empty").mkdir()
    assert "holds no measurements" in refused(capsys, tmp_path / "empty", "--out", tmp_path / "other")
    assert not (tmp_path / "other").exists()


def test_a_run_is_kept(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_json(tmp_path / "results.json", RUN | {"command": "reimagen rate results /home/somebody/rating"})
    words = ("--title", "A title", "--measured", "Eight prompts.", "--hardware", "none", "--out", "kept/rated.json")
    assert run("keep", ".", *words) == 0
    said = capsys.readouterr()
    assert (
        "| all | ours | 0.500 [0.200, 0.800] |" in said.out
        and "name places of this machine: /home/somebody" in said.err
    )
    found = read_kept(tmp_path / "kept" / "rated.json")
    assert (found.title, found.measured, found.made[0].hardware) == ("A title", "Eight prompts.", "none")
    assert "already exists: pass --overwrite" in refused(capsys, "keep", ".", *words)
    write_json(tmp_path / "results.json", RUN)
    assert run("keep", ".", *words, "--overwrite") == 0
    assert capsys.readouterr().err == ""
    assert "are files NAME.json" in refused(capsys, "keep", ".", "--title", "x", "--out", "kept/rated.txt")


def test_tables_are_written_and_checked(results, tmp_path, capsys):
    page, other = tmp_path / "page.md", tmp_path / "other.md"
    page.write_text(f"{BEGIN}entities_eta eta=0 -->\n{END}\n")
    other.write_text("No tables.\n")
    assert run("tables", page, other, "--results", results, "--check") == report.DIFFERS
    said = capsys.readouterr()
    assert "page.md differs from the results:" in said.err and "+| 0 | 0.738 [0.681, 0.788]" in said.err
    assert "other.md: 0 tables" in said.out and len(page.read_text().splitlines()) == 2, "nothing is written"
    assert run("tables", page, other, "--results", results) == 0
    assert "page.md: 1 table, written anew" in capsys.readouterr().out
    assert run("tables", page, "--results", results, "--check") == 0
    told = json.loads((results / "entities_eta.json").read_text())
    told["rows"][0]["values"]["faithful"] = 0.5
    (results / "entities_eta.json").write_text(json.dumps(told))
    assert run("tables", page, "--results", results, "--check") == report.DIFFERS
    said = capsys.readouterr().err
    assert "-| 0 | 0.738" in said and "+| 0 | 0.500 |" in said
    page.write_bytes(page.read_bytes().replace(b"\n", b"\r\n"))
    assert run("tables", page, "--results", results) == 0
    lines = page.read_bytes().split(b"\n")
    assert b"0.500" in page.read_bytes() and all(line.endswith(b"\r") for line in lines[:-1]), "Windows' lines stay"
    before = page.read_text()
    other.write_text(f"{BEGIN}nothing -->\n{END}\n")
    assert "other.md, <!-- results: nothing -->: there are no results" in refused(
        capsys, "tables", page, other, "--results", results
    )
    assert page.read_text() == before, "all pages are written, or none"
    assert "cannot be read as a Markdown page" in refused(capsys, "tables", tmp_path, "--results", results)


def test_what_is_not_the_command_is_said(capsys):
    with pytest.raises(SystemExit):
        run("tabels", "x")
    assert "did you mean `reimagen report tables`?" in capsys.readouterr().err


def test_runs_record_what_they_ran_on():
    told = provenance.versions()
    assert re.match(r"[1-9]\d* CPU cores, \S", told["hardware"]) and told.get("commit") == runtime.commit()
