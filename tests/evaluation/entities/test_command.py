"""`reimagen evaluate entities`: tables, plots and pictures; goes on after a stop."""

import csv
import json
from dataclasses import replace

import pytest

from reimagen_jax.commands import evaluate
from reimagen_jax.errors import UserError
from reimagen_jax.evaluation.entities import store
from reimagen_jax.evaluation.entities.prompts import SOURCES
from reimagen_jax.evaluation.human.contents import about, references
from reimagen_jax.evaluation.human.drawn import common, read_systems
from reimagen_jax.inference.export import save_weights
from reimagen_jax.reports.keeping import keep
from tests import unclip
from tests.systems.test_unclip import random_params as unclip_params
from tests.tiny import TINY, TINY_SR, random_params
from tools import text_differences, variations


def run(base, model, out, *more: str) -> None:
    common = ("--model", str(model), "--knowledge-base", str(base.path), "--out", str(out), "--num-prompts", "4")
    evaluate.main(["entities", *common, "--splits", "unseen", "rare", *more])


def test_the_command_writes_tables_and_goes_on_after_a_stop(base, model, tmp_path, capsys, monkeypatch):
    out, options = tmp_path / "out", ("--conditions", "retrieval", "none", "--ks", "1", "--etas", "0", "1")
    evaluated = store.run_arm

    def interrupted(bench, arm, *where):
        if arm.source == "none":
            raise KeyboardInterrupt
        return evaluated(bench, arm, *where)

    monkeypatch.setattr(store, "run_arm", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run(base, model, out, *options)
    partly = json.loads((out / "results.json").read_text())
    assert not partly["complete"] and len(partly["rows"]) == 4
    monkeypatch.setattr(store, "run_arm", evaluated)
    capsys.readouterr()
    run(base, model, out, *options)
    printed = capsys.readouterr().out
    results = json.loads((out / "results.json").read_text())
    assert results["complete"] and len(results["rows"]) == 2 + 2 + 2 + 1 + 2
    assert results["rows"][:4] == partly["rows"]
    assert {tuple(entry["images"]) for entry in results["by_count"]} == {(0, 0), (1, 9)}
    assert "training images neighbours" in printed
    assert "5 conditions to draw, 20 images" in printed and "this takes about" in printed
    assert results["rater"]["faithful"][0] >= 0.9 and "fresh true renders" in printed
    assert results["world"]["num_entities"] == 40 and "reimagen evaluate entities" in results["command"]
    with (out / "results.csv").open() as file:
        table = list(csv.DictReader(file))
    assert [(r["split"], r["source"]) for r in table] == [(r["split"], r["source"]) for r in results["rows"]]
    assert all(float(r["rater_ceiling_faithfulness"]) >= 0.9 for r in table)
    assert all(
        {"both", "both_low", "both_high", "best_both", "best_both_low", "best_both_high"} <= r.keys() for r in table
    )
    assert "both" in next(line for line in printed.splitlines() if line.startswith("split"))
    for name in (
        "faithfulness.png",
        "alignment.png",
        "both.png",
        "count.png",
        "eta.png",
        "unseen.png",
        "rare.png",
        "parameters.csv",
        "prompts.json",
    ):
        assert (out / name).stat().st_size > 0


def test_with_four_images_of_a_prompt_the_papers_headline_is_printed_and_stored(base, model, tmp_path, capsys):
    run(base, model, tmp_path / "out", "--conditions", "retrieval", "--ks", "--etas", "--num-images", "4")
    printed = capsys.readouterr().out
    heading = next(line for line in printed.splitlines() if line.startswith("split"))
    assert heading.endswith("best of 4") and heading.split()[4:7] == ["faithful", "aligned", "both"]
    results = json.loads((tmp_path / "out" / "results.json").read_text())
    true = next(row for row in results["rows"] if row["source"] == "true renders")
    assert true["images_per_prompt"] == 4 and true["both"][0] >= 0.9 and true["best_both"][0] >= 0.9
    assert (tmp_path / "out" / "best.png").stat().st_size > 0


def test_the_command_takes_a_cascade_and_notes_every_stage(base, tmp_path):
    folders = [tmp_path / config.name for config in (TINY, TINY_SR)]
    for folder, config in zip(folders, (TINY, TINY_SR), strict=True):
        save_weights(folder, config, random_params(config))
    out = tmp_path / "out"
    common = ("--model", str(folders[0]), "--cascade", f"{folders[1]},k=0,steps=2", "--knowledge-base", str(base.path))
    rows = ("--conditions", "retrieval", "--splits", "unseen", "--ks", "--etas", "--num-prompts", "2")
    evaluate.main(["entities", *common, *rows, "--out", str(out)])
    results = json.loads((out / "results.json").read_text())
    assert results["complete"] and [stage["model"] for stage in results["cascade"]] == [TINY_SR.name]
    assert f"--cascade {folders[1]},steps=2," in results["command"] and ",k=0," in results["command"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--cascade", "{model},size=1"), "no setting of a stage"),
        (("--cascade", "{model}"), "base model: it enlarges nothing"),
        (("--eta", "1.5"), "--eta 1.5: at most 1"),
        (("--etas", "-0.1"), "--etas .*: at least 0"),
        (("--k", "0"), "at least 1"),
        (("--ks", "-1"), "--ks -1: at least 0"),
        (("--num-prompts", "0"), "at least 1"),
        (("--rater", "nowhere"), "holds no rater"),
        (("--knowledge-base", "nowhere"), "not found"),
        (("--conditions", "outside"), "give both or neither"),
        (("--conditions", "caption", "--outside", "nowhere"), "give both or neither"),
    ],
)
def test_bad_input_is_refused(base, model, tmp_path, options, message):
    with pytest.raises(UserError, match=message):
        run(base, model, tmp_path / "out", *(option.format(model=model) for option in options))
    assert not (tmp_path / "out").exists()


def test_ways_of_search_are_compared_and_another_base_is_another_row(base, outside, model, tmp_path, capsys):
    ways = ("dense", "hybrid", "untold", "outside")
    options = ("--conditions", *ways, "--splits", "unseen", "--ks", "--etas", "--steps", "2", "--num-prompts", "2")
    run(base, model, tmp_path / "out", *options, "--outside", str(outside.path))
    found = json.loads((tmp_path / "out" / "results.json").read_text())
    rows = {row["source"]: row for row in found["rows"]}
    assert set(rows) == {*ways, "true renders"}
    assert rows["outside"]["found"] == 0 and rows["untold"]["found"] == 1
    before = len(list((tmp_path / "out" / "rows").glob("*.json")))
    run(base, model, tmp_path / "out", *options, "--outside", str(base.path))
    assert len(list((tmp_path / "out" / "rows").glob("*.json"))) == before + 1


def test_sources_of_the_command_are_those_there_are():
    assert set(evaluate.Source.__args__) == set(SOURCES)


def test_unclip_is_compared_in_the_conditions_that_it_can_draw(base, tmp_path, capsys):
    decoder = unclip.changed(unclip.DECODER, resolution=32)
    for name, config in (("prior", unclip.PRIOR), ("decoder", decoder)):
        save_weights(tmp_path / name, config, unclip_params(config))
    few = ("--knowledge-base", str(base.path), "--splits", "unseen", "--num-prompts", "2", "--steps", "2")
    of_decoder = ("--model", f"{tmp_path}/decoder")
    of_prior = ("--model", f"{tmp_path}/prior", "--cascade", f"{tmp_path}/decoder,steps=2")
    told = {
        "neighbours": (of_decoder, ("--conditions", "retrieval", "none", "own", "--k", "2", "--ks", "0", "1")),
        "text": (of_decoder, ("--embedding", "text", "--conditions", "retrieval", "none")),
        "prior": (of_prior, ("--conditions", "none")),
    }
    rows = {}
    for name, (model, options) in told.items():
        evaluate.main(["entities", *few, *model, *options, "--out", f"{tmp_path}/of_{name}"])
        results = json.loads((tmp_path / f"of_{name}" / "results.json").read_text())
        rows[name] = [(row["source"], row["k"]) for row in results["rows"]]
        assert results["complete"] and (tmp_path / f"of_{name}" / "unseen.png").stat().st_size > 0
    assert rows["neighbours"] == [("true renders", 0), ("retrieval", 2), ("own", 2), ("retrieval", 1)]
    assert rows["text"] == rows["prior"] == [("true renders", 0), ("none", 0)]
    said = capsys.readouterr().err
    assert "decoder draws from neighbours: none left out" in said
    assert "decoder sees no neighbours: retrieval left out" in said
    for model, options, message in (
        (of_decoder, ("--eta", "0.5"), "no steps of two kinds"),
        (of_prior, ("--conditions", "retrieval"), "nothing is left"),
    ):
        with pytest.raises(UserError, match=message):
            evaluate.main(["entities", *few, *model, *options, "--out", f"{tmp_path}/refused"])
    table = keep([f"{name}={tmp_path}/of_{name}" for name in told], "unCLIP", "")
    first, second = (" ".join(row.labels) for row in table.rows[:2])
    assert first.startswith("neighbours unseen true renders") and second.startswith("neighbours unseen retrieval 2")
    assert len(table.rows) == 4 + 2 + 2 and all("category and look" in row.values for row in table.rows)


def test_what_varies_not_at_all_keeps_all(base, tmp_path):
    """A decoder that has learned nothing gives pictures back by its code; noise alone, at 1, shows something else."""
    config = replace(unclip.DECODER, system=replace(unclip.DECODER.system, resolution=32))
    save_weights(tmp_path / "decoder", config, unclip_params(config))
    few = {"num_images": 3, "stochasticity": (1.0,), "steps": 60, "batch_size": 3}
    lines = variations.run(variations.Variations(tmp_path / "decoder", base.records.path, **few))
    kept, varied = ([cell.split()[0] for cell in line.split("|")[2:-1]] for line in lines[-2:])
    assert lines[0].startswith("3 pictures of unseen entities, 60 steps; given back within 0.")
    assert len(kept) == len(varied) == 6 and set(kept) == {"1.000"} and varied != kept
    with pytest.raises(UserError, match="no entities of the split 'nowhere'"):
        variations.run(variations.Variations(tmp_path / "decoder", base.records.path, split="nowhere", **few))
    told = {"num_prompts": 3, "shares": (0.0, 0.3), "steps": 60, "batch_size": 3}
    lines = text_differences.run(text_differences.TextDifferences(tmp_path / "decoder", base.path, **told))
    still, moved = ([cell.split()[0] for cell in line.split("|")[2:-1]] for line in lines[-2:])
    assert len(still) == len(moved) == 8 and still[0] == still[3] == "1.000"  # the reference, whatever the prompt says


def test_every_picture_is_kept_for_people_to_rate(base, model, tmp_path, capsys):
    options = ("--conditions", "none", "wrong", "own", "--ks", "--etas", "--k", "1", "--num-images", "2")
    out = tmp_path / "out"
    run(base, model, out, *options)
    assert not (out / "pictures").exists()
    run(base, model, out, *options, "--pictures")
    assert sorted(path.name for path in (out / "pictures").iterdir()) == ["none", "own-k1-eta0.5", "wrong-k1-eta0.5"]
    kept = {path: path.stat().st_mtime_ns for path in (out / "pictures").glob("*/*.png")}
    assert len(kept) == 3 * 2 * 4 * 2
    run(base, model, out, *options, "--pictures")
    assert {path: path.stat().st_mtime_ns for path in kept} == kept, "what is there is not drawn again"
    systems = read_systems([f"all={out}"])
    assert [system.label for system in systems] == ["all own-k1-eta0.5", "all none", "all wrong-k1-eta0.5"]
    texts = common(systems, only=False)
    prompts = json.loads((out / "prompts.json").read_text())
    assert set(texts) == {each["text"] for some in prompts.values() for each in some}
    told = about(systems, texts, {})
    assert [each["frequency"] for each in told.values()] == ["infrequent"] * 8
    shown = references(systems, texts, "", (), 4)
    entities = {each["text"]: each["entity"] for some in prompts.values() for each in some}
    assert all(entities[text] in caption for text, some in shown.items() for _, caption in some)
    assert all(len(some) == 1 for some in shown.values())
    assert not any(each.references for each in systems[-1].prompts.values()), "a wrong entity's are no references"
