"""`reimagen evaluate pictures`: a table for whatever records, gone on with after a stop; guidance chosen by it."""

import json
import shlex
from contextlib import closing

import grain
import jax.numpy as jnp
import pytest

from reimagen_jax.commands import evaluate
from reimagen_jax.commands.sampling_options import SamplingOptions, open_drawing
from reimagen_jax.errors import UserError
from reimagen_jax.inference.model import Model
from reimagen_jax.training.checkpoint import Checkpoints, settle
from reimagen_jax.training.state import TrainState


def run(model, world, out, options=""):
    given = f"--model {model} --records {world}/records --knowledge-base {world}/index --out {out} --limit 5 --steps 2"
    evaluate.main(["pictures", *shlex.split(f"{given} --batch-size 4 --features looks --shown 3 {options}")])


def results(out):
    return json.loads((out / "results.json").read_text())


def test_arms_are_judged_and_a_run_goes_on_where_it_was(model, world, tmp_path, capsys):
    run(model, world, tmp_path / "q", "--query-by entity --arms with")
    assert "5 prompts, 1 arms: 5 pictures to draw" in capsys.readouterr().out
    run(model, world, tmp_path / "q", "--query-by entity")
    out = capsys.readouterr().out
    assert "5 prompts, 3 arms: 10 pictures to draw" in out
    assert "judged by the entity: " in out and "judged by the category: " in out
    found = results(tmp_path / "q")
    assert found["complete"] and found["guidance"] is None
    assert list(dict.fromkeys(row["arm"] for row in found["rows"])) == ["true", "with", "without", "wrong"]
    groups = {row["group"] for row in found["rows"]}
    assert "all" in groups and groups & {"frequent", "rare", "unseen"}, "what EntityWorld tells of its entities"
    with_neighbours = next(row for row in found["rows"] if (row["arm"], row["group"]) == ("with", "all"))
    assert with_neighbours["prompts"] == 5 and all(0 <= x <= 1 for x in with_neighbours["entity"])
    assert found["judges"]["entity"]["space"] == "looks"
    assert found["command"].startswith("reimagen evaluate pictures --model")
    for name in ("results.md", "results.html", "results.png"):
        assert (tmp_path / "q" / name).stat().st_size > 500


def test_guidance_is_chosen_and_the_options_are_named(model, world, tmp_path, capsys):
    run(
        model,
        world,
        tmp_path,
        "--query-by entity --arms with --over eta=0,1 --over neighbour-weight=1,2 --best likeness",
    )
    out = capsys.readouterr().out
    found = results(tmp_path)
    assert len({row["arm"] for row in found["rows"]}) == 6
    assert found["guidance"]["by"] == "likeness" and f"take it: {found['guidance']['options']}" in out
    words = shlex.split(found["guidance"]["options"])
    assert words[::2] == ["--eta", "--neighbour-weight"] and words[1] in ("0", "1") and words[3] in ("1", "2")


def test_a_run_keeps_the_guidance_that_was_found_best_and_says_so_when_it_draws(model, world, tmp_path, capsys):
    weights = Model.open(model)
    (tmp_path / "run").mkdir()
    settle(tmp_path / "run", weights.config, "data", None)
    state = TrainState(step=jnp.int32(3), params=weights.params, ema=weights.params, opt_state=())
    with closing(Checkpoints(tmp_path / "run", keep=1)) as checkpoints:
        checkpoints.save(state, iter(grain.MapDataset.range(9).to_iter_dataset()))
    run(tmp_path / "run", world, tmp_path / "q", "--arms with --over neighbour-weight=1,5 --set-default")
    chosen = results(tmp_path / "q")["guidance"]["take"]
    assert "draws so from now on" in capsys.readouterr().out
    drawing = open_drawing(tmp_path / "run")
    assert drawing.config.system.sampler.neighbour_weight == chosen["neighbour_weight"] in (1, 5)
    assert f"neighbour weight {chosen['neighbour_weight']:g}, chosen at step 3" in capsys.readouterr().err
    given = SamplingOptions(neighbour_weight=7.0).settings(drawing.config.system.sampler)
    assert given.neighbour_weight == 7, "options go before"


def test_guidance_is_not_written_into_weights(model, world, tmp_path):
    with pytest.raises(UserError, match="holds weights, which stay as they are"):
        run(model, world, tmp_path / "q", "--over eta=0,1 --set-default")
    assert not (model / "guidance.json").exists()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ("--set-default", "--set-default writes down what --over chooses: give --over"),
        ("--over steps=4,8", "--over steps is no number of guidance: there are eta, text-weight, neighbour-weight"),
        ("--entity nothing", "--entity nothing: no record has such a field"),
        ("--rest nothing", "--rest nothing: no record has such a field"),
        ("--features encoder", "--features encoder: give --encoder DIR"),
        ("--entity none --rest none --over eta=0,1 --best entity", "--best entity is not measured"),
    ],
)
def test_what_cannot_be_measured_is_refused(model, world, tmp_path, options, said):
    with pytest.raises(UserError, match=said):
        run(model, world, tmp_path / "q", options)


def test_prompts_without_true_pictures_are_refused(model, tmp_path):
    with pytest.raises(UserError, match="give --records DIR"):
        evaluate.main(["pictures", "--model", str(model), "--prompt", "a cat", "--out", str(tmp_path / "q")])
    assert not (tmp_path / "q").exists()


def test_a_model_that_enlarges_is_refused_as_the_first(stages, world, tmp_path):
    with pytest.raises(UserError, match="enlarges images: give it to --cascade"):
        run(stages[0], world, tmp_path / "q")
