"""What evaluations leave becomes a measurement that is kept, as their own writers write it; what is none is refused."""

import dataclasses
import json
import math
import os

import numpy as np
import pytest

from reimagen_jax.errors import UserError
from reimagen_jax.evaluation.entities.arms import Arm
from reimagen_jax.evaluation.entities.bench import Outcome
from reimagen_jax.evaluation.entities.tables import row
from reimagen_jax.evaluation.fewshot.bench import Row, Setting
from reimagen_jax.evaluation.human import results as human
from reimagen_jax.evaluation.sets import Figure
from reimagen_jax.evaluation.statistics import mean_ci, wilson
from reimagen_jax.files import write_json
from reimagen_jax.reports import fewshot, grid_results, results
from reimagen_jax.reports.keeping import READERS, keep, other_prompts, places
from reimagen_jax.reports.kept import markdown, read_kept, write_kept
from tests.reports import test_grid_report, test_report
from tests.tiny import TINY

HALF, MOST = wilson(5, 10), wilson(9, 10)
LOOK = str(mean_ci(np.full(10, 8 / 9)))
VERSIONS = {"reimagen_jax": "0.2.0", "device": "1 x cpu", "hardware": "2 CPU cores, a kind", "commit": "0a1b"}


def left(folder, command, told, name="results.json"):
    """A run's folder."""
    folder.mkdir()
    write_json(folder / name, {"command": f"reimagen {command}", "versions": VERSIONS, **told})
    return folder


def kept(folder, *more, title="A title"):
    """What is kept of it, by way of its file."""
    found = keep([str(folder), *more], title, "In a sentence.")
    write_kept(folder / "kept.json", found)
    assert read_kept(folder / "kept.json") == found
    return found


def arm(source, images=1, k=0):
    """A row of EntityDrawBench: of ten prompts, half of the images are faithful, all aligned."""
    half_NS = np.arange(10 * images).reshape(10, images) % 2 == 0
    all_NS = np.ones((10, images), bool)
    look_NSP, scene_NSA = (all_NS[..., None].repeat(parameters, 2) for parameters in (9, 4))
    look_NSP[..., 1] = False
    found_N, category_N = np.zeros(10), np.zeros(10, int)
    outcome = Outcome(
        half_NS, all_NS, look_NSP, scene_NSA, np.ones((10, 4), bool), ~all_NS, found_N, category_N, np.arange(10)
    )
    return row(Arm("unseen", source, k, 0.5 if k else 1.0), outcome)


def test_entities_with_all_that_the_run_recorded(tmp_path):
    rows = [arm("retrieval", k=2), arm("none")]
    told = {"rows": rows, "complete": True, "sampler": {"seed": "3"}}
    run = left(tmp_path / "run", "evaluate entities --model shipped", told)
    os.utime(run / "results.json", (1.75e9, 1.75e9))
    found = kept(run)
    assert found.labels == ("entities", "neighbours", "k", "eta")
    assert [column.name for column in found.columns] == ["faithful", "aligned", "both", "category and look"]
    assert markdown(found)[2:] == [
        f"| unseen | retrieval | 2 | 0.5 | {HALF} | {wilson(10, 10)} | {HALF} | {LOOK} |",
        f"| unseen | none |  |  | {HALF} | {wilson(10, 10)} | {HALF} | {LOOK} |",
    ]
    (made,) = found.made
    assert made.command == "reimagen evaluate entities --model shipped" and made.facts() == {
        "seed": "3",
        "hardware": "2 CPU cores, a kind",
        "commit": "0a1b",
        "version": "0.2.0",
        "date": "2025-06-15",
    }


def test_entities_by_their_training_images(tmp_path):
    told = {"source": "none", "k": 0, "eta": 1.0, "prompts": 10, "faithfulness": HALF, "both": MOST}
    seen = [{"images": images, **told} for images in ([0, 0], [1, 9], [1000, None])]
    run = left(
        tmp_path / "run", "evaluate entities", {"rows": [arm("none")], "by_count": seen, "sampler": {"seed": "0"}}
    )
    found = keep([str(run)], "Seen", "Often.", by_count=True)
    assert [row.labels for row in found.rows] == [("0", "none"), ("1 to 9", "none"), ("1,000 and more", "none")]
    assert [column.name for column in found.columns] == ["faithful", "both", "prompts"]
    assert markdown(found)[2] == f"| 0 | none | {HALF} | {MOST} | 10 |"
    older = left(tmp_path / "older", "evaluate entities", {"rows": [arm("none")], "sampler": {"seed": "0"}})
    with pytest.raises(UserError, match="has no figures by training images"):
        keep([str(older)], "Seen", "Often.", by_count=True)


def test_several_images_of_a_prompt_have_their_best(tmp_path):
    run = left(tmp_path / "run", "evaluate entities", {"rows": [arm("none", 4)], "sampler": {"seed": "0"}})
    found = kept(run)
    assert [column.name for column in found.columns][-1] == "best of 4"
    assert found.rows[0].values["best of 4"] == pytest.approx(wilson(10, 10), abs=1e-5)


def test_runs_of_other_prompts_are_named(tmp_path):
    for name, asked in {"a": {"unseen": ["x"]}, "b": {"unseen": ["x"], "rare": ["y"]}, "c": {"unseen": ["z"]}}.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "prompts.json").write_text(json.dumps(asked))
    runs = [f"{name}={tmp_path / name}" for name in "abc"]
    assert other_prompts(runs) == runs[2:] and other_prompts([*runs[:2], f"d={tmp_path / 'd'}"]) == []


def test_several_runs_are_one_table_by_their_labels(tmp_path):
    for name in "ab":
        left(tmp_path / name, f"evaluate entities --out {name}", {"rows": [arm("none")], "sampler": {"seed": "0"}})
    found = keep([f"{name} own={tmp_path / name}" for name in "ab"], "Two", "Both.")
    assert [row.labels for row in found.rows] == [("a own", "unseen", "none"), ("b own", "unseen", "none")]
    assert [(made.rows, made.command[-1]) for made in found.made] == [("a own", "a"), ("b own", "b")]
    with pytest.raises(UserError, match="is not LABEL=RUN: of several runs each needs a label"):
        keep([str(tmp_path / "a"), f"b={tmp_path / 'b'}"], "Two", "")
    with pytest.raises(UserError, match="several rows are a, unseen, none"):
        keep([f"a={tmp_path / 'a'}"] * 2, "Two", "")
    other = left(tmp_path / "c", "sweep", {})
    with pytest.raises(UserError, match=r"is of `reimagen sweep`, .* of `reimagen evaluate entities`: keep each"):
        keep([f"a={tmp_path / 'a'}", f"c={other}"], "Two", "")


@pytest.mark.parametrize("shots", [1, None])
def test_few_shots_and_the_long_tail(tmp_path, shots):
    groups = {"all": HALF} if shots else {"all": HALF, "many": MOST, "few": HALF}
    rows = [
        Row(Setting("net", None, shots), name, 4, 2.0, groups, {} if name == "none" else {"all": (0.1, -0.1, 0.2)}, 3)
        for name in ("none", "classical")
    ]
    command = f"evaluate {'fewshot' if shots else 'longtail'} runs/records --seed 5"
    (tmp_path / "run").mkdir()
    fewshot.write(rows, {"command": f"reimagen {command}", "versions": {}, "complete": True}, tmp_path / "run")
    found = keep([str(tmp_path / "run")], "Few", "", hardware="a laptop")
    assert found.made[0].seed == 5 and found.made[0].hardware == "a laptop" and found.made[0].version is None
    assert found.labels == (("learner", "ways", "shots", "filled up with") if shots else ("learner", "filled up with"))
    assert markdown(found)[-1].startswith("| net | all | 1 | classical |" if shots else "| net | classical |")
    assert markdown(found)[-1].endswith("| 0.100 [-0.100, 0.200] |") and markdown(found)[2].endswith("|  |")
    names = [column.name for column in found.columns]
    assert names == ["accuracy", *([] if shots else ["of many", "of few"]), "difference to none"]


def test_distances_are_a_row(tmp_path):
    figures = [Figure("FID", 12.3456789, None, None, "", "by"), Figure("precision", *HALF, "3 neighbours", "by")]
    told = {"figures": [figure._asdict() for figure in figures], "features": "the rater's features"}
    told |= {"pictures": {"path": "runs/drawn"}, "reference": {"path": "runs/held_out"}}
    run = left(tmp_path / "run", "evaluate fid runs/drawn runs/held_out", told)
    for given in (run, run / "results.json"):
        found = keep([str(given)], "FID", "")
        assert found.labels == ("pictures", "reference", "features")
        assert found.rows[0].labels == ("drawn", "held_out", "the rater's features")
        assert found.rows[0].values == {"FID": 12.3457, "precision": pytest.approx(HALF, abs=1e-5)}
        assert found.made[0].seed is None


def test_what_people_say(tmp_path):
    shares = {"photorealism": HALF, "faithfulness": MOST, "both": HALF}
    rows = tuple(human.Row("all", "all", system, 5, 10, shares) for system in ("with", "without"))
    told = {**human.as_json(human.Results(rows, (), ())), "seed": 7, "made_by": "reimagen_jax 0.1.0", "versions": {}}
    found = kept(left(tmp_path / "run", "rate results runs/rating", told))
    assert [row.labels for row in found.rows] == [("all", "with"), ("all", "without")]
    assert found.rows[0].values["faithfulness"] == pytest.approx(MOST, abs=1e-5)
    assert (found.made[0].seed, found.made[0].version) == (7, "0.1.0")


def test_a_sweep_over_eta_and_one_over_a_grid(tmp_path):
    told = results.as_json(test_report.report(), TINY)
    found = kept(left(tmp_path / "eta", "sweep", {**told, "command": "reimagen sweep"}, "sweep.json"))
    assert [row.labels for row in found.rows] == [("none", ""), *(("retrieved", eta) for eta in ("0", "0.5", "1"))]
    assert found.rows[2].values["faithful"] == pytest.approx(wilson(7, 10), abs=1e-5)
    report = test_grid_report.report(prompts=6, over=["eta=0,1", "steps=2,4"])
    told = grid_results.as_json(report, TINY) | {"command": "reimagen sweep --seed 0"}
    found = kept(left(tmp_path / "grid", "sweep", told, "sweep.json"))
    assert found.labels == ("eta", "steps") and len(found.rows) == 4
    assert set(found.rows[0].values) == {"faithful", "aligned", "both", "evaluations"}
    unrated = results.as_json(test_report.report(rated=False), TINY) | {"command": "reimagen sweep"}
    with pytest.raises(UserError, match="the sweep has no figures to keep: There are no curves"):
        kept(left(tmp_path / "unrated", "sweep", unrated, "sweep.json"))


def test_seedselect_and_pictures(tmp_path):
    told = {"split": "rare", "drawn by": "plain", "prompts": 10, "faithfulness": HALF, "alignment": MOST}
    told |= {"look right": HALF, "seconds": 0.25, "MiB": 9.0}
    found = kept(left(tmp_path / "seeds", "evaluate seedselect", {"rows": [told], "sampler": {"seed": "0"}}))
    assert found.rows[0].labels == ("rare", "plain") and found.rows[0].values["temporaries, MiB"] == 9.0
    assert "both" not in found.rows[0].values
    found = kept(left(tmp_path / "answers", "evaluate answers", {"rows": [told | {"both": MOST}], "seed": 3}))
    assert found.rows[0].values["both"] == pytest.approx(MOST, abs=1e-5) and found.made[0].seed == 3
    told = {"arm": "with", "group": "all", "prompts": 10, "entity": HALF, "KID": MOST, "FID": 3.25, "rest": None}
    judges = {"entity": {"field": "product"}, "rest": {"field": "style"}}
    found = kept(left(tmp_path / "pictures", "evaluate pictures", {"rows": [told], "judges": judges}))
    assert [(column.name, column.unit) for column in found.columns] == [
        ("product", "share of pictures"),
        ("KID", "KID"),
        ("FID", "FID"),
        ("style", "share of pictures"),
    ]
    assert set(found.rows[0].values) == {"product", "KID", "FID"}


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ({}, "does not tell the command that it is from"),
        ([], "does not tell the command that it is from"),
        (
            {"command": "reimagen evaluate people"},
            "is of `reimagen evaluate people`: what can be kept is of",
        ),
        ({"command": "reimagen sweeping"}, "is of `reimagen sweeping`: what can be kept"),
        ({"command": "reimagen evaluate entities", "complete": False}, "is not complete: give the command again"),
        ({"command": "reimagen evaluate entities"}, "is not as `reimagen evaluate entities` leaves it .*'rows'"),
        ({"command": "reimagen sweep", "etas": []}, "is not as `reimagen sweep` leaves it"),
    ],
)
def test_what_cannot_be_kept_is_refused(tmp_path, content, said):
    (tmp_path / "results.json").write_text(json.dumps(content))
    with pytest.raises(UserError, match=f"results.json {said}"):
        keep([str(tmp_path)], "A title", "")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"value": math.inf}, "FID is inf, no finite number"),
        ({"value": "x"}, "FID is 'x', no finite number"),
        ({"value": True}, "FID is True, no finite number"),
        ({"value": 10**400}, "too large"),
        ({"value": 1e300}, "FID.* is 1e.300: at most"),
        ({"low": 2.0, "high": 3.0}, "1.5 is not within 2.0 to 3.0"),
        ({"name": 3}, r"columns\[0\]\.name is 3: a text is needed"),
        ({"figures": []}, "there are no columns"),
        ({"figures": [{}]}, "is not as `reimagen evaluate fid` leaves it"),
        ({"twice": True}, "two figures have one name"),
        ({"features": 3}, r"rows\[0\]\.labels.* is 3: a text is needed"),
        ({"seed": -1}, r"made\[0\]\.seed is -1"),
        ({"seed": 1.7}, r"made\[0\]\.seed is 1.7: a whole number"),
        ({"versions": {"hardware": 3}}, r"made\[0\]\.hardware is 3: a text"),
    ],
)
def test_figures_that_are_none_are_refused(tmp_path, change, said):
    figure = {"name": "FID", "value": 1.5, "low": None, "high": None, "told": "", "by": "r"}
    figure |= {name: value for name, value in change.items() if name in figure}
    told = {"features": "f", "pictures": {"path": "a"}, "figures": [figure] * (2 if "twice" in change else 1)}
    told |= {name: value for name, value in change.items() if name not in figure}
    (tmp_path / "f.json").write_text(json.dumps({"command": "reimagen evaluate fid a b", **told}))
    with pytest.raises(UserError, match=said):
        keep([str(tmp_path / "f.json")], "A title", "")


def test_what_is_no_run_is_refused(tmp_path):
    with pytest.raises(UserError, match="no run is given"):
        keep([], "A title", "")
    with pytest.raises(UserError, match=r"has neither results\.json nor sweep.json"):
        keep([str(tmp_path)], "A title", "")
    with pytest.raises(UserError, match="nowhere not found: the results of an evaluation"):
        keep([str(tmp_path / "nowhere")], "A title", "")
    with pytest.raises(UserError, match="there are no figures"):
        keep([str(left(tmp_path / "run", "evaluate fewshot", {"rows": []}))], "A title", "")


def test_places_of_a_machine_are_found_and_those_of_here_shortened(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    command = f"rate results {tmp_path}/runs/rating --about=/home/somebody/x --out ~/out 1/2"
    rows = (human.Row("all", "all", "with", 1, 1, {"both": HALF}),)
    left(tmp_path / "run", command, human.as_json(human.Results(rows, (), ())))
    (made,) = keep(["run"], "A title", "").made
    assert made.command == "reimagen rate results runs/rating --about=/home/somebody/x --out ~/out 1/2"
    assert places(made) == ["--about=/home/somebody/x", "~/out"]
    assert places(dataclasses.replace(made, command="rate 'results /home/x")) == ["/home/x"], "a quote without its end"


def test_every_reader_is_of_a_command():
    from tests.commands.test_usage import LEAVES

    assert READERS.keys() <= LEAVES.keys()
