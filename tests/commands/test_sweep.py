"""`reimagen sweep`: a report with curves where the rater applies, with a sentence where it does not."""

import json

import numpy as np
import pytest
from PIL import Image

from reimagen_jax import files
from reimagen_jax.cli import main
from reimagen_jax.evaluation.human.drawn import read_systems
from reimagen_jax.evaluation.store import Images
from tests.commands.test_sample import again


def asked(world, rater=None) -> list[str]:
    places = ["--records", f"{world}/records", "--knowledge-base", f"{world}/index", "--query-by", "entity"]
    return places + (["--rater", str(rater)] if rater else [])


def test_entityworld_records_are_rated_and_the_noted_command_draws_the_same_report(model, world, rater, tmp_path):
    args = [*asked(world, rater), "--limit", "3", "--num-images", "2", "--etas", "1", "0", ".5", "--steps", "2"]
    assert main(["sweep", "--model", str(model), "--out", str(tmp_path / "a"), *args]) == 0
    assert sorted(path.name for path in (tmp_path / "a").iterdir()) == [
        ".reimagen_jax",
        "images",
        "report.html",
        "report.png",
        "sweep.json",
    ]
    noted = json.loads((tmp_path / "a" / "sweep.json").read_text())
    assert noted["etas"] == [0.0, 0.5, 1.0] and noted["columns"][0] == "no neighbours"
    assert len(noted["curves"]["faithful"]["over_eta"]) == 3
    verdicts = noted["verdicts_prompt_seed_column"]["aligned"]
    assert (len(verdicts), len(verdicts[0]), len(verdicts[0][0])) == (3, 2, 4)
    keys = noted["images_prompt_seed_column"]
    assert (len(keys), len(keys[0]), len(keys[0][0])) == (3, 2, 4)
    stored = {path.stem for path in (tmp_path / "a" / "images").glob("*.png")}
    assert {key for seeds in keys for columns in seeds for key in columns} == stored
    none, *etas = read_systems([f"x={tmp_path / 'a'}"])
    assert [each.label for each in (none, *etas)] == ["x none", "x eta=0", "x eta=0.5", "x eta=1"]
    assert [path.stem for path in etas[1].prompts[noted["prompts"][1]["prompt"]].pictures] == [s[2] for s in keys[1]]
    for prompt in noted["prompts"]:
        entity = prompt["record"].split("-")[0]
        assert [hit["key"].split("-")[0] for hit in prompt["neighbours"]] == [entity] * 2, "asked for by its name"
    assert '<svg class="curves"' in (tmp_path / "a" / "report.html").read_text()

    assert main(again(noted["command"], tmp_path / "b")) == 0
    assert (tmp_path / "a" / "report.png").read_bytes() == (tmp_path / "b" / "report.png").read_bytes()
    for name in ("report.html", "sweep.json"):
        first, second = ((tmp_path / folder / name).read_text() for folder in "ab")
        assert first == second.replace(str(tmp_path / "b"), str(tmp_path / "a"))


class Killed(BaseException):
    """A process that ends in the midst."""


def test_a_killed_sweep_goes_on_where_it_was_and_more_values_draw_only_these(
    model, world, tmp_path, monkeypatch, capsys
):
    def run(out, *etas):
        line = [*asked(world), "--limit", "2", "--steps", "1", "--batch-size", "2", "--out", str(out), "--etas", *etas]
        return main(["sweep", "--model", str(model), *line])

    assert run(tmp_path / "calm", "0", "1") == 0
    stored, setter = [], Images.__setitem__

    def noted(self, key, image):
        if len(stored) == killed_at:
            raise Killed
        stored.append(key)
        setter(self, key, image)

    monkeypatch.setattr(Images, "__setitem__", noted)
    killed_at = 3
    with pytest.raises(Killed):
        run(tmp_path / "out", "0", "1")
    assert not (tmp_path / "out" / "report.html").exists()
    capsys.readouterr()
    first, killed_at = list(stored), None
    assert run(tmp_path / "out", "0", "1") == 0
    assert "6 images, 3 of them there already" in capsys.readouterr().out
    assert len(stored) == len(set(stored)) == 6 and stored[:3] == first
    for name in ("report.html", "sweep.json"):
        calm, resumed = ((tmp_path / folder / name).read_text() for folder in ("calm", "out"))
        assert resumed.replace(f"{tmp_path}/out", f"{tmp_path}/calm") == calm

    assert run(tmp_path / "out", "0", ".5", "1") == 0
    assert len(stored) == 8 and len(list((tmp_path / "out" / "images").iterdir())) == 8
    assert json.loads((tmp_path / "out" / "sweep.json").read_text())["etas"] == [0.0, 0.5, 1.0]


def test_what_was_killed_before_its_first_image_begins_again(model, world, tmp_path):
    out = tmp_path / "out"
    with files.made_by("reimagen sweep"):
        out.mkdir()
        files.mark(out, "sweep")
    line = ["sweep", "--model", str(model), *asked(world), "--limit", "1", "--steps", "1", "--out", str(out)]
    assert main([*line, "--etas", "1"]) == 0
    assert (out / "report.html").is_file()


def test_a_sweep_over_a_cascade_shows_what_its_last_stage_draws(model, stages, world, tmp_path, capsys):
    drawn = [*asked(world), "--limit", "1", "--steps", "1", "--cascade", f"{stages[0]},steps=1"]
    line = ["sweep", "--model", str(model), *drawn, "--out", str(tmp_path / "a")]
    assert main([*line, "--etas", "0", "1", "--handed-on", "bytes"]) == 0
    noted = json.loads((tmp_path / "a" / "sweep.json").read_text())
    assert [stage["sampler"]["num_steps"] for stage in noted["cascade"]] == [1]
    assert {Image.open(path).size for path in (tmp_path / "a" / "images").iterdir()} == {(32, 32)}
    assert len(noted["curves"]["faithful"]["over_eta"]) == 2, "the rater in the package reads 32 pixels"

    line[-1] = str(tmp_path / "b")
    over = ["--over", "eta=0,1", "--over", "stage2.aug-level=0.1,0.3", "--handed-on", "bytes"]
    assert main([*line, *over]) == 0
    assert "4 points, 4 images: 2 programs to compile" in capsys.readouterr().out
    grid = json.loads((tmp_path / "b" / "sweep.json").read_text())
    assert [point["later_stages"][0]["aug_level"] for point in grid["points"]] == [0.1, 0.3, 0.1, 0.3]
    keys = [point["images_prompt_seed"][0][0] for point in grid["points"]]
    of_stage = [np.asarray(Image.open(tmp_path / "b" / "images" / f"{key}.png")) for key in keys]
    assert np.any(of_stage[0] != of_stage[1]) and np.any(of_stage[0] != of_stage[2])

    assert main(again(grid["command"], tmp_path / "b")) == 0
    assert "4 of them there already: 0 programs" in capsys.readouterr().out
    sample = ["sample", "--model", str(model), *drawn, "--eta", "1", "--num-images", "1", "--out", str(tmp_path / "d")]
    sample[sample.index("--cascade") + 1] += ",aug-level=0.3"
    assert main(sample) == 0
    (picture,) = (tmp_path / "d").glob("000-*.png")
    np.testing.assert_array_equal(np.asarray(Image.open(picture)), of_stage[3])


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
        (["--over", "stage2.steps=1"], "--over, at stage2.steps 1: there is no stage 2 of a cascade: give its model"),
        (["--over", "stage2.words=a,b"], "--over 'stage2.words' is no axis: of stage 2 there are solver, steps"),
        (["--over", "stage2.aug-level=2", "--cascade", "{sr}"], "--over stage2.aug-level 2.0: at most 1"),
        (["--over", "stage2.steps=1,2", "--cascade", "{sr},steps=2"], "and --over stage2.steps=1,2: an axis has all"),
        (["--over", "eta=1", "--cascade", "{sr}", "{sr}"], "stage 3 of the cascade, tiny_sr, enlarges images of 16"),
        (["--over", "eta=1", "--model", "{sr}"], "is a super-resolution model, and a sweep has no image"),
    ],
)
def test_what_is_no_grid_is_refused_and_leaves_nothing(model, stages, world, tmp_path, capsys, args, message):
    args = ["--prompt", "a dog", *(arg.format(world=world, sr=stages[0]) for arg in args)]
    model = args.pop(args.index("--model") + 1) if "--model" in args else model
    args = [arg for arg in args if arg != "--model"]
    assert main(["sweep", "--model", str(model), "--out", str(tmp_path / "out"), *args]) == 2
    assert message.format(world=world) in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []
