"""`reimagen sweep`: a report with curves where the rater applies, with a sentence where it does not."""

import json

import pytest

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
