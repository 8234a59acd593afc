"""`reimagen sweep`: a report with curves where the rater applies, with a sentence where it does not."""

import json

import numpy as np
import pytest
from PIL import Image

from reimagen_jax.cli import main
from tests.commands.test_sample import again


def asked(world, rater=None) -> list[str]:
    places = ["--records", f"{world}/records", "--knowledge-base", f"{world}/index", "--query-by", "entity"]
    return places + (["--rater", str(rater)] if rater else [])


def test_entityworld_records_are_rated_and_the_noted_command_draws_the_same_report(model, world, rater, tmp_path):
    args = [*asked(world, rater), "--limit", "3", "--num-images", "2", "--etas", "1", "0", ".5", "--steps", "2"]
    assert main(["sweep", "--model", str(model), "--out", str(tmp_path / "a"), *args]) == 0
    assert sorted(path.name for path in (tmp_path / "a").iterdir()) == [
        ".reimagen_jax",
        "report.html",
        "report.png",
        "sweep.json",
    ]
    noted = json.loads((tmp_path / "a" / "sweep.json").read_text())
    assert noted["etas"] == [0.0, 0.5, 1.0] and noted["columns"][0] == "no neighbours"
    assert len(noted["curves"]["faithful"]["over_eta"]) == 3
    verdicts = noted["verdicts_prompt_seed_column"]["aligned"]
    assert (len(verdicts), len(verdicts[0]), len(verdicts[0][0])) == (3, 2, 4)
    for prompt in noted["prompts"]:
        entity = prompt["record"].split("-")[0]
        assert [hit["key"].split("-")[0] for hit in prompt["neighbours"]] == [entity] * 2, "asked for by its name"
    assert '<svg class="curves"' in (tmp_path / "a" / "report.html").read_text()

    assert main(again(noted["command"], tmp_path / "b")) == 0
    assert (tmp_path / "a" / "report.png").read_bytes() == (tmp_path / "b" / "report.png").read_bytes()
    for name in ("report.html", "sweep.json"):
        first, second = ((tmp_path / folder / name).read_text() for folder in "ab")
        assert first == second.replace(str(tmp_path / "b"), str(tmp_path / "a"))


def test_prompts_of_ones_own_are_not_rated_and_the_report_says_why(model, world, tmp_path):
    args = ["--prompt", "a large dog in the snow", "--knowledge-base", f"{world}/index", "--etas", "0", "1"]
    assert main(["sweep", "--model", str(model), "--out", str(tmp_path / "out"), *args]) == 0
    page = (tmp_path / "out" / "report.html").read_text()
    assert "There are no curves" in page and "<svg" not in page
    assert "carry no EntityWorld look" in json.loads((tmp_path / "out" / "sweep.json").read_text())["unrated"]


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--prompt", "a dog"], "a sweep needs neighbours"),
        (["--prompt", "a dog", "--knowledge-base", "{world}/index", "--etas", "0.5", "2"], "--etas 2.0: at most 1"),
        (["--prompt", "a dog", "--knowledge-base", "{world}/index", "--etas"], "--etas is empty"),
        (["--prompt", "a dog", "--knowledge-base", "{world}/index", "--k", "0"], "--k 0"),
        (["--prompt", "xyzzy", "--knowledge-base", "{world}/index"], "no neighbours were found for any prompt"),
        (["--records", "{world}/records", "--knowledge-base", "{world}/index", "--rater", "{world}"], "holds no rater"),
    ],
)
def test_bad_input_is_refused_and_leaves_nothing(model, world, tmp_path, capsys, args, message):
    args = [arg.format(world=world) for arg in args]
    assert main(["sweep", "--model", str(model), "--out", str(tmp_path / "out"), *args]) == 2
    assert message in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


GRID = ["--over", "eta=0,1", "--over", "steps=1,2", "--batch-size", "8"]


def test_a_grid_is_drawn_rated_and_gone_on_with(model, world, rater, tmp_path, capsys):
    args = ["sweep", "--model", str(model), "--out", str(tmp_path / "a"), *asked(world, rater), "--limit", "2", *GRID]
    assert main(args) == 0
    said = capsys.readouterr().out
    assert "4 points, 8 images: 2 programs to compile" in said and "Best (faithful and aligned" in said
    noted = json.loads((tmp_path / "a" / "sweep.json").read_text())
    assert noted["axes"] == {"eta": [0.0, 1.0], "steps": [1, 2]} and noted["best"] in (1, 2, 3, 4)
    names = sorted(key for point in noted["points"] for keys in point["images_prompt_seed"] for key in keys)
    assert sorted(path.stem for path in (tmp_path / "a" / "images").glob("*.png")) == names and len(names) == 8
    assert (tmp_path / "a" / "sweep.csv").read_text().count("\n") == 5

    assert main([*args, "--show", "1", "--over", "neighbour-weight=3,1"]) == 0
    assert "16 images" in capsys.readouterr().out
    assert main(again(noted["command"], tmp_path / "a")) == 0, "the noted command goes on, and has nothing to draw"
    assert "8 of them there already: 0 programs" in capsys.readouterr().out
    after = json.loads((tmp_path / "a" / "sweep.json").read_text())
    assert after["points"] == noted["points"] and after["command"] == noted["command"]

    assert main([*args, "--overwrite"]) == 0
    assert len(list((tmp_path / "a" / "images").glob("*.png"))) == 8


def test_the_command_for_the_best_draws_with_its_settings(model, world, rater, tmp_path):
    args = [*asked(world, rater), "--limit", "2", "--over", "eta=0,1", "seed=1,2", "k=1,2", "--steps", "1"]
    assert main(["sweep", "--model", str(model), "--out", str(tmp_path / "a"), *args]) == 0
    noted = json.loads((tmp_path / "a" / "sweep.json").read_text())
    assert main(again(noted["cheapest_command"], tmp_path / "b")) == 0
    point, drawn = noted["points"][noted["cheapest"] - 1], json.loads((tmp_path / "b" / "sample.json").read_text())
    assert (drawn["seed"], drawn["sampler"]["num_steps"]) == (point["values"]["seed"], 1)
    for name, (keys,) in zip(drawn["images"], point["images_prompt_seed"], strict=True):
        assert name["eta"] == point["values"]["eta"] and len(name["neighbours"]) == point["values"]["k"]
        one, other = (
            np.asarray(Image.open(path))
            for path in (tmp_path / "b" / name["file"], tmp_path / "a" / "images" / f"{keys}.png")
        )
        assert np.abs(one.astype(int) - other.astype(int)).max() <= 1, "the room for neighbours may differ"


def test_prompts_of_the_benchmark_are_asked_for_by_name_and_rated(model, world, rater, tmp_path):
    args = ["--world-prompts", "3", "--split", "frequent", "--knowledge-base", f"{world}/index", "--rater", str(rater)]
    args += ["--over", "eta=0,1", "--steps", "1", "--best", "faithful"]
    assert main(["sweep", "--model", str(model), "--out", str(tmp_path / "a"), *args]) == 0
    noted = json.loads((tmp_path / "a" / "sweep.json").read_text())
    assert noted["rated_prompts"] == [True] * 3 and noted["measure"] == "faithful"
    prompts = [json.loads(line) for line in (tmp_path / "a" / "prompts.jsonl").read_text().splitlines()]
    assert [prompt["text"] for prompt in prompts] == [prompt["prompt"] for prompt in noted["prompts"]]
    assert all(prompt["entity"] in prompt["text"] for prompt in prompts)
    again_by_file = ["--prompts", str(tmp_path / "a" / "prompts.jsonl"), "--query-by", "entity", *args[4:]]
    assert main(["sweep", "--model", str(model), "--out", str(tmp_path / "b"), *again_by_file]) == 0
    other = json.loads((tmp_path / "b" / "sweep.json").read_text())
    assert [point["images_prompt_seed"] for point in other["points"]] == [
        p["images_prompt_seed"] for p in noted["points"]
    ]
    assert other["rated_prompts"] == [True] * 3


def test_a_grid_of_ones_own_prompts_needs_no_neighbours_and_is_a_sheet(model, tmp_path, capsys):
    args = ["--prompt", "a large dog", "--over", "words=dog,red cat", "steps=1"]
    assert main(["sweep", "--model", str(model), "--out", str(tmp_path / "a"), *args]) == 0
    page = (tmp_path / "a" / "report.html").read_text()
    assert "There are no curves" in page and "“red cat”" in page and "<svg" not in page
    assert "Best" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--over", "eta=2"], "--over eta 2.0: at most 1"),
        (["--over", "etas=1"], "--over 'etas' is no axis"),
        (["--over", "eta=1", "--over", "eta=0"], "--over eta is given twice"),
        (["--over", "eta=1", "--etas", "0", "1"], "--etas and --over are both given"),
        (["--over", "steps=1,2", "--steps", "3"], "--steps 3 and --over steps=1,2"),
        (["--over", "method=dense"], "--over method=dense asks a --knowledge-base"),
        (["--over", "k=0,1"], "--over k=0,1 asks for neighbours"),
        (["--over", "words=fox,cat"], "'fox', the first value, is not in the prompt"),
        (["--over", "spacing=leading"], "at spacing leading: sampler.spacing is 'leading'"),
        (["--over", "checkpoint=5"], "--over checkpoint 5: "),
        (["--over", "checkpoint={world}"], "--over checkpoint {world}: "),
        (["--over", "eta=1", "--world-prompts", "2"], "--prompt and --world-prompts are both given"),
        (["--over", "eta=1", "--split", "rare"], "--split is about --world-prompts"),
        (["--over", "eta=1", "--devices", "99"], "--devices 99: this machine has 8"),
        (["--best", "both", "--knowledge-base", "{world}/index"], "--best is about a grid"),
    ],
)
def test_what_is_no_grid_is_refused_and_leaves_nothing(model, world, tmp_path, capsys, args, message):
    args = ["--prompt", "a dog", *(arg.format(world=world) for arg in args)]
    assert main(["sweep", "--model", str(model), "--out", str(tmp_path / "out"), *args]) == 2
    assert message.format(world=world) in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []
