"""`reimagen rate`: what is given, refused and gone on with; results and export, also while people rate."""

import csv
import json
import sqlite3

import pytest

from reimagen_jax import cli
from reimagen_jax.commands import rate
from reimagen_jax.commands.serving_options import ServingOptions
from reimagen_jax.errors import UserError
from reimagen_jax.evaluation.human.store import FILE, Ratings, Verdict
from reimagen_jax.evaluation.human.study import Study
from tests.human import PROMPTS, base_of, draw


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    root = tmp_path_factory.mktemp("drawn")
    base = base_of(root)
    about = [{"category": "pets", "split": split} for split in ("frequent", "rare", "unseen")]
    draw(root / "with", 1, base=base, about=about)
    draw(root / "without", 2, about=about)
    return root


@pytest.fixture
def served(monkeypatch):
    """What is served: nothing here; each call is noted."""
    calls = []
    monkeypatch.setattr(ServingOptions, "serve", lambda self, make: calls.append(make("token")))
    return calls


def run(*args):
    return cli.main(["rate", *map(str, args)])


def given(folders):
    return [f"{name}={folders / name}" for name in ("with", "without")]


def refused(capsys, *args):
    assert run(*args) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("error: ")
    return error


def rate_all(folder, name):
    with Ratings.open(Study.open(folder)) as ratings:
        rater = ratings.join(name)
        while shown := ratings.next(rater):
            ratings.rate(rater, shown.place, Verdict(1 - shown.task.system, 1, 0))


def test_what_is_rated_is_copied_and_gone_on_with(folders, tmp_path, capsys, served):
    out = tmp_path / "rating"
    assert run(*given(folders), "--out", out) == 0
    said = capsys.readouterr()
    assert "6 tasks: 3 prompts, 2 systems (with, without), 4 pictures of each, the best of 4 is rated" in said.out
    study = Study.open(out)
    assert [prompt.frequency for prompt in study.prompts] == ["frequent", "infrequent", "infrequent"]
    assert all(len(prompt.references) == 2 for prompt in study.prompts)
    rate_all(out, "Ann")
    assert run("--out", out) == 0
    assert "Ann: 6 of 6 rated" in capsys.readouterr().out
    assert run("serve", *given(folders), "--out", out) == 0, "the same contents are gone on with"
    assert len(served) == 3
    error = refused(capsys, *given(folders), "--out", out, "--best-of", "1")
    assert "best of: 4 then, 1 now" in error
    assert run("serve", "--out", tmp_path / "nowhere") == 2
    assert cli.main(["verify", str(out)]) == 0
    assert "6 tasks, all checksums, and 6 ratings as they should be" in capsys.readouterr().out


def test_prompts_that_do_not_match_are_refused_or_said(folders, tmp_path, capsys, served):
    draw(tmp_path / "fewer", 3, PROMPTS[:2])
    both = [*given(folders), f"fewer={tmp_path / 'fewer'}"]
    error = refused(capsys, *both, "--out", tmp_path / "out")
    assert "fewer lacks 1 of 3 prompts, such as 'a jay on a twig'" in error and "--only-common" in error
    assert not (tmp_path / "out").exists()
    assert run(*both, "--out", tmp_path / "out", "--only-common") == 0
    said = capsys.readouterr()
    assert "fewer lacks 1 of 3 prompts" in said.err and "2 prompts, 3 systems" in said.out


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--best-of", "0"], "--best-of"),
        (["--best-of", "10"], "--best-of"),
        (["--prompts-each", "0"], "--prompts-each"),
        (["--references-of", "x"], "the systems are with, without"),
        (["--about", "nowhere.jsonl"], "nowhere.jsonl"),
    ],
)
def test_bad_options_are_one_line(folders, tmp_path, capsys, served, more, said):
    assert said in refused(capsys, *given(folders), "--out", tmp_path / "out", *more)
    assert served == [] and not (tmp_path / "out").exists()


def test_what_is_not_the_command_is_said(capsys):
    with pytest.raises(SystemExit):
        run("exprt", "x")
    assert "did you mean `reimagen rate export`?" in capsys.readouterr().err


def test_results_and_export(folders, tmp_path, capsys, served):
    out = tmp_path / "rating"
    assert run(*given(folders), "--out", out) == 0
    assert "nobody has rated anything" in refused(capsys, "results", out)
    for name in ("Ann", "Bob"):
        rate_all(out, name)
    with Ratings.open(Study.open(out)):  # as while people rate
        assert run("results", out, "--out", tmp_path / "results") == 0
        assert run("export", out, "--out", tmp_path / "ratings.csv") == 0
        assert run("export", out, "--out", tmp_path / "ratings.json") == 0
    said = capsys.readouterr().out
    assert "photorealism, with - without: 1.000" in said and "Krippendorff's alpha 1.000" in said
    told = json.loads((tmp_path / "results" / "results.json").read_text())
    assert told["systems"] == ["with", "without"] and len(told["rows"]) == 2 * (1 + 1 + 2)
    with (tmp_path / "ratings.csv").open(newline="") as file:
        lines = list(csv.DictReader(file))
    assert len(lines) == 12 and {line["system"] for line in lines if line["photorealism"] == "1"} == {"with"}
    assert json.loads((tmp_path / "ratings.json").read_text())[0]["rater"] == "Ann"
    assert "already exists" in refused(capsys, "export", out, "--out", tmp_path / "ratings.csv")
    assert run("export", out, "--out", tmp_path / "ratings.csv", "--overwrite") == 0
    assert "--overwrite" in refused(capsys, "results", out, "--out", tmp_path / "results")
    assert run("results", out, "--out", tmp_path / "results", "--overwrite") == 0
    assert ".csv or .json" in refused(capsys, "export", out, "--out", tmp_path / "ratings.xlsx")
    assert "not found" in refused(capsys, "results", tmp_path / "nowhere")


def test_results_open_the_ratings_once_and_begin_none(folders, tmp_path, capsys, served, monkeypatch):
    out, opened = tmp_path / "rating", []
    assert run(*given(folders), "--out", out) == 0
    file = out / FILE
    file.unlink()
    assert "nobody has rated anything" in refused(capsys, "results", out) and not file.exists()
    rate_all(out, "Ann")
    of_a_study = Ratings.open
    monkeypatch.setattr(Ratings, "open", lambda study: opened.append(of_a_study(study)) or opened[-1])
    for command in (["results", out], ["export", out, "--out", tmp_path / "ratings.csv"]):
        assert run(*command) == 0
        (ratings,) = opened
        with pytest.raises(sqlite3.ProgrammingError, match="closed"):
            len(ratings)
        opened.clear()


def test_ratings_are_not_overwritten_by_what_is_not_theirs(folders, tmp_path):
    with pytest.raises(UserError, match="not there to go on with"):
        rate.Serve(tmp_path / "x").study()
