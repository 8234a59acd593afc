"""A system that this house has never seen joins by its contracts: trained, resumed, drawn, handed on, preflighted."""

import dataclasses
import io
import json
import re
import tokenize
from pathlib import Path
from typing import ClassVar

import jax
import numpy as np
import pytest

import reimagen_jax
from reimagen_jax import cli, sharding
from reimagen_jax.commands import train as command
from reimagen_jax.config import SystemConfig, differences, without_local
from reimagen_jax.errors import UserError
from reimagen_jax.inference.export import CARD
from reimagen_jax.inference.model import Model, experiment_of
from reimagen_jax.inference.pipeline import Pipeline
from reimagen_jax.preflight import programs
from reimagen_jax.systems import kinds
from reimagen_jax.systems.request import Request
from reimagen_jax.training.loop import train
from tests.tenant import CLASSES, RINGS, Ring, RingConfig, RingData, RingFeed, RingSampler
from tests.tiny import TINY, TINY_SR
from tests.training.tiny_system import same

EXPERIMENT = "from tests.tenant import RINGS as config\n"
REQUESTS = [Request(CLASSES[i % 2], index=i) for i in range(40)]


def run(workdir, **settings):
    """Trains in process; any field of `TrainConfig` may be given."""
    config = dataclasses.replace(RINGS, train=dataclasses.replace(RINGS.train, **settings))
    feed = RingFeed(config)
    return train(config, workdir, Ring(config), feed.dataset(), data_fingerprint=feed.fingerprint)


def lines(workdir):
    return [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def experiment_file(tmp_path_factory):
    path = tmp_path_factory.mktemp("experiment") / "rings.py"
    path.write_text(EXPERIMENT)
    return path


@pytest.fixture(scope="module")
def trained(tmp_path_factory, experiment_file):
    """A run by the command line, with settings of the system, its data and its training overridden."""
    workdir = tmp_path_factory.mktemp("rings") / "run"
    options = "--train.num-steps 200 --train.log-every 100 --train.sample-every 100 --sampler.num-steps 20"
    options += " --class-drop 0.1 --data.examples 256"
    command.main([str(experiment_file), "--workdir", str(workdir), *options.split()])
    return workdir


@pytest.fixture(scope="module")
def model(trained):
    return Model.open(trained)


# --- trained -----------------------------------------------------------------------------------------------------


def test_4_steps_are_2_and_a_restart_and_2_bit_for_bit(tmp_path):
    whole = run(tmp_path / "whole", num_steps=4)
    run(tmp_path / "parts", num_steps=2)
    parts = run(tmp_path / "parts", num_steps=4)
    assert parts.step == 4 and same(parts.state, whole.state)


def test_the_loss_is_told_the_average(tmp_path):
    """Before the first update the average is the parameters; afterwards it lags behind."""
    run(tmp_path, num_steps=6, learning_rate=0.03)
    first, *others = lines(tmp_path)
    assert first["loss_of_average"] == first["loss"]
    assert all(line["loss_of_average"] != line["loss"] for line in others)


def test_sharded_over_fsdp_it_is_the_same(tmp_path):
    split, whole = run(tmp_path / "split", fsdp=4).state, run(tmp_path / "whole").state
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-4, atol=2e-6), split, whole)


def test_a_run_does_not_go_on_with_other_settings_of_the_system_but_with_another_sampler(trained, experiment_file):
    config = experiment_of(trained)
    assert differences(RINGS, config).keys() == {
        *("train.num_steps", "train.log_every", "train.sample_every"),
        *("sampler.num_steps", "class_drop", "data.examples"),
    }
    options = f"--workdir {trained} --train.num-steps 200 --data.examples 256 --sampler.weight 3"
    with pytest.raises(UserError, match=r"there != here\): class_drop: 0\.1 != 0\.2\. Use") as refused:
        command.main([str(experiment_file), *options.split()])
    assert "sampler" not in str(refused.value)
    command.main([str(experiment_file), *options.split(), "--class-drop", "0.1"])
    assert experiment_of(trained).system.sampler.weight == 3.0


def test_a_run_starts_from_another_s_weights(tmp_path, trained, experiment_file):
    options = f"--workdir {tmp_path / 'run'} --init.weights {trained} --train.num-steps 1 --train.learning-rate 0"
    command.main([str(experiment_file), *options.split()])
    ours, theirs = Model.open(tmp_path / "run").params, Model.open(trained).params
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), ours, theirs)


def test_what_it_does_not_do_it_says(experiment_file, tmp_path, trained, capsys):
    """One line, exit status 2."""
    for options, said in (
        (["--init.adopt", "--init.weights", str(trained)], "a circle does not take its network over from weights"),
        (["--train.parallel", "pmap", "--train.fsdp", "2"], "--train.fsdp 2, but --train.parallel 'pmap'"),
    ):
        status = cli.main(["train", str(experiment_file), "--workdir", str(tmp_path / "run"), *options])
        error = capsys.readouterr().err
        assert status == 2 and error.startswith("error: ") and error.count("\n") == 1 and said in error


# --- drawn -------------------------------------------------------------------------------------------------------


def test_an_opened_run_draws_the_rings_it_is_asked_for(model):
    x_ND = model.stage(RingSampler(num_steps=20, weight=2.0), batch_size=16).draw(REQUESTS)
    assert x_ND.shape == (40, 2) and x_ND.dtype == np.float32
    inner, outer = (np.median(np.linalg.norm(x_ND[c::2], axis=1)) for c in range(2))
    assert outer > 2.0 * inner


def test_a_pipeline_compiles_once_and_a_sample_does_not_depend_on_its_batch(model):
    stage = model.stage(RingSampler(num_steps=4), batch_size=16)
    pipeline = Pipeline([stage], seed=3)
    (all_ND,) = pipeline.draw(REQUESTS)
    np.testing.assert_allclose(pipeline(REQUESTS[5:8]), all_ND[5:8], atol=1e-6)
    stronger = pipeline([dataclasses.replace(request, guidance={"weight": 4.0}) for request in REQUESTS])
    assert not np.allclose(stronger, all_ND, atol=1e-3)
    assert stage.compilations == 1
    assert pipeline([]).shape == (0, 2)


def test_a_request_that_it_cannot_serve_and_a_pipeline_that_does_not_chain_are_refused(model):
    with pytest.raises(UserError, match="'middle' is no ring: there are inner, outer"):
        model.stage().draw([Request("middle")])
    with pytest.raises(UserError, match=r"stage 2 of the cascade, rings, is a circle: it draws from no other stage"):
        Pipeline([model.stage(), model.stage()])
    with pytest.raises(UserError, match="the stage before it, rings, draws None"):
        TINY_SR.system.check_follows(model.config, "stage 2")


# --- handed on ---------------------------------------------------------------------------------------------------


def test_an_exported_model_is_the_same_model(model, trained, tmp_path):
    assert cli.main(["export", str(trained), "--out", str(tmp_path / "out")]) == 0
    again = Model.open(tmp_path / "out")
    assert again.config == without_local(experiment_of(trained))
    assert again.digest == model.digest and again.step is None and model.step == 200
    np.testing.assert_array_equal(*(each.stage(batch_size=8).draw(REQUESTS[:8]) for each in (again, model)))
    assert "| Points | in the plane, on 2 rings |" in (tmp_path / "out" / CARD).read_text()


def test_its_json_names_its_kind(trained):
    stored = json.loads((trained / "run.json").read_text())["experiment"]
    assert stored["system"]["kind"] == "circle" and isinstance(kinds.from_dict(stored).system, RingConfig)


# --- preflighted -------------------------------------------------------------------------------------------------


def test_its_programs_lower_for_a_mesh():
    mesh = sharding.make_mesh(4)
    step, drawing = programs.train_program(RINGS, mesh), programs.sampler_program(RINGS, mesh, images=16)
    for program in (step, drawing):
        assert program.jitted.lower(*program.arguments).compile().as_text()
        assert program.model_flops > 0 and program.held["batch"] is not None
    assert step.images == 64 and drawing.images == 16


# --- nothing here knows the first tenant -------------------------------------------------------------------------

PACKAGE = Path(reimagen_jax.__file__).parent
COMMON = [
    PACKAGE / "config.py",
    *(p for f in ("training", "diffusion", "preflight") for p in (PACKAGE / f).rglob("*.py")),
]


@pytest.mark.parametrize("path", COMMON, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_what_serves_every_system_names_nothing_of_re_imagen(path):
    """Identifiers: comments and texts may speak of it."""
    tokens = tokenize.generate_tokens(io.StringIO(path.read_text(encoding="utf-8")).readline)
    names = {token.string for token in tokens if token.type == tokenize.NAME}
    assert not {name for name in names if re.search(r"re_?imagen(?!_jax)|\bnbr_|neighbour", name, re.IGNORECASE)}


def test_data_of_another_class_are_refused():
    with pytest.raises(UserError, match="the data of rings, a circle, are RingData, not TriplesConfig"):
        dataclasses.replace(RINGS, data=TINY.data)
    assert dataclasses.replace(RINGS, data=None).data == RingData()


def test_two_systems_do_not_share_a_name():
    kinds.register(kinds._kinds["circle"])  # as when an experiment file is run again

    class Other(RingConfig):
        pass

    with pytest.raises(UserError, match="kind 'circle' is known already"):
        kinds.register(kinds.Kind(Other, "nowhere:system", "nowhere:feed"))


def test_a_setting_is_not_named_as_a_part_of_every_experiment():
    @dataclasses.dataclass(frozen=True)
    class Clash(SystemConfig):
        kind: ClassVar[str] = "clash"
        train: int = 0

    with pytest.raises(UserError, match="train is a part of every experiment: name the setting otherwise"):
        kinds.register(kinds.Kind(Clash, "nowhere:system", "nowhere:feed"))
