"""`reimagen evaluate fewshot` and `longtail`: rows in three files, kept; one more system; what is refused."""

import json
import shlex

import pytest

from reimagen_jax.commands import evaluate
from reimagen_jax.errors import UserError
from reimagen_jax.evaluation.fewshot import learners
from reimagen_jax.evaluation.fewshot.episodes import GROUPS
from tests.fewshot import means, write_squares

HOW = "--class-by colour --learners net --net-side 8 --net-steps 2 --queries 2 --variants 1"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_squares(tmp_path_factory.mktemp("fewshot"))


@pytest.fixture
def learned(monkeypatch):
    """Who learns the means of pixels in the network's place, and a note of each time."""
    noted = []
    monkeypatch.setattr(learners, "net", lambda steps: lambda *told: noted.append(steps) or means(*told))
    return noted


def run(command, *words):
    evaluate.main([command, *shlex.split(" ".join(map(str, words)))])


def test_rows_are_told_in_three_files_and_one_more_system_costs_its_own(folder, tmp_path, capsys, learned):
    few = f"{folder}/true {HOW} --out {tmp_path}/out --shots 1 2 --ways 2 all --episodes 3"
    run("fewshot", few)
    out = capsys.readouterr().out
    assert "net, 2-way 1-shot: 2 classes, 3 episodes" in out and "net, all-way 2-shot: 4 classes" in out
    found = json.loads((tmp_path / "out" / "results.json").read_text())
    assert found["complete"] and [row["arm"] for row in found["rows"]] == ["none", "classical"] * 4
    assert "evaluate fewshot" in found["command"] and found["classes"] == 4
    learned.clear()
    run("fewshot", f"{few} --made pure={folder}/pure")
    assert learned == [2] * 3 * 4, "episodes of the new rows alone"
    table = (tmp_path / "out" / "results.csv").read_text().splitlines()
    assert len(table) == 1 + 3 * 4 and table[3].startswith("net,2,1,pure,2,3,4.0,all,")
    page = (tmp_path / "out" / "results.md").read_text()
    assert page.count("| pure |") == 4 and "## net, all-way 1-shot" in page


def test_the_long_tail_tells_of_many_and_few(folder, tmp_path, capsys, learned):
    run("longtail", f"{folder}/true {HOW} --out {tmp_path}/out --most 4 --draws 2 --where split=test")
    rows = json.loads((tmp_path / "out" / "results.json").read_text())["rows"]
    assert [list(row["accuracy"]) for row in rows] == [["all", *GROUPS]] * 2
    assert "net, long tail: 4 classes, 2 draws" in capsys.readouterr().out
    with pytest.raises(UserError, match="0 classes have 8 records"):
        run("longtail", f"{folder}/true {HOW} --out {tmp_path}/other --most 8 --where split=test")


def test_the_probe_reads_features(folder, tmp_path, rater):
    words = f"{folder}/true --class-by colour --learners probe --features {rater} --shots 1 --ways 3 --episodes 4"
    run("fewshot", f"{words} --queries 2 --variants 1 --out {tmp_path}/out")
    found = json.loads((tmp_path / "out" / "results.json").read_text())
    assert "the rater's features" in found["learners"]["probe"]["features"] and len(found["rows"]) == 2


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("--ways 1", "--ways '1' is neither"),
        ("--ways some", "--ways 'some' is neither"),
        ("--made none=x", "--made none=x: there is a row none already"),
        ("--made classical=x", "a row classical already"),
        ("--made a", "--made 'a' is not LABEL=DIR"),
        ("--made a=HERE/pure a=HERE/pure", "there is a row a already"),
        ("--net-side 12", "--net-side 12 is no multiple of 8"),
        ("--ways 7", "7 classes with 5 records each and one more to ask about: there are 4"),
        ("--class-by shape", "0 classes by 'shape'"),
        ("--where split=none", "split"),
    ],
)
def test_bad_words_are_said(folder, tmp_path, words, said):
    words = f"{HOW} {words}".replace("HERE", str(folder))
    with pytest.raises(UserError, match=said):
        run("fewshot", f"{folder}/true --out {tmp_path}/out --episodes 1 {words}")
    assert not (tmp_path / "out").exists() or not (tmp_path / "out" / "results.json").exists()
