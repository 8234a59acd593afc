"""Opening models: runs, weights and what comes with the package; what is no model is refused with a line."""

import dataclasses
import shutil
from contextlib import closing

import grain
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from reimagen_jax.errors import UserError
from reimagen_jax.inference.export import export, save_weights
from reimagen_jax.inference.model import SHIPPED_MODEL, Model, experiment_of
from reimagen_jax.pretrained.weights import WEIGHTS, fingerprint
from reimagen_jax.systems.reimagen.system import ReImagen
from reimagen_jax.systems.request import Request
from reimagen_jax.training.checkpoint import Checkpoints, settle
from reimagen_jax.training.state import TrainState
from tests.fake_encoder import FROZEN
from tests.tiny import TINY, changed, random_params


@pytest.fixture(scope="module")
def params():
    return random_params(TINY)


@pytest.fixture(scope="module")
def weights(params, tmp_path_factory):
    """A folder of weights."""
    folder = tmp_path_factory.mktemp("model") / "weights"
    save_weights(folder, TINY, params)
    return folder


@pytest.fixture(scope="module")
def run(params, tmp_path_factory):
    """A training run whose average is `params` times the step, at steps 2 and 4; its parameters are other ones."""
    folder = tmp_path_factory.mktemp("run")
    settle(folder, TINY, "data", None)
    position = iter(grain.MapDataset.range(9).to_iter_dataset())
    with closing(Checkpoints(folder, keep=3)) as checkpoints:
        for step in (2, 4):
            ema = jax.tree.map(lambda leaf, step=step: step * leaf, params)
            checkpoints.save(TrainState(step=jnp.int32(step), params=params, ema=ema, opt_state=()), position)
    return folder


def assert_equal(ours, theirs):
    jax.tree.map(np.testing.assert_array_equal, ours, theirs)


def test_weights_open_as_they_were_saved(weights, params):
    model = Model.open(weights)
    assert (model.path, model.config, model.step) == (weights, TINY, None)
    assert_equal(model.params, params)
    assert model.digest == fingerprint(params)[:16]
    assert model.facts() | {"checkpoint": "weights", "SHA-256": model.digest, "model": "tiny"} == model.facts()
    assert all(isinstance(leaf, jax.Array) for leaf in jax.tree.leaves(model.params))
    assert all(isinstance(leaf, np.ndarray) for leaf in jax.tree.leaves(Model.open(weights, on_host=True).params))


def test_a_run_draws_by_the_guidance_that_was_chosen_for_it_whoever_opens_it(run, weights, tmp_path):
    shutil.copytree(run, tmp_path / "run")
    Model.open(tmp_path / "run").choose("likeness of 9 records", eta=0.0, neighbour_weight=1.5)
    model = Model.open(tmp_path / "run")
    own = TINY.system.sampler
    assert model.config == changed(TINY, sampler=dataclasses.replace(own, eta=0.0, neighbour_weight=1.5)) != TINY
    told = "eta 0, neighbour weight 1.5, chosen at step 4 by likeness of 9 records"
    assert str(model.chosen) == told == model.facts()["guidance"]
    assert experiment_of(tmp_path / "run") == TINY, "the experiment is that of before"
    export(tmp_path / "out", model.config, model.params)
    assert Model.open(tmp_path / "out").config.system.sampler == model.config.system.sampler
    (tmp_path / "run" / "guidance.json").unlink()
    assert Model.open(tmp_path / "run").config == TINY and "guidance" not in Model.open(tmp_path / "run").facts()
    with pytest.raises(UserError, match="holds weights, which stay as they are"):
        Model.open(weights).choose("likeness", eta=0.0)


@pytest.mark.parametrize(
    ("written", "said"),
    [
        ('{"step": 4, "by": "eye", "eta": 2}', "eta"),
        ('{"step": 4, "by": "eye", "solver": "none"}', "solver"),
        ("[", "cannot be read as the guidance of a run"),
    ],
)
def test_guidance_that_makes_no_sense_is_refused(run, tmp_path, written, said):
    shutil.copytree(run, tmp_path / "run")
    (tmp_path / "run" / "guidance.json").write_text(written)
    with pytest.raises(UserError, match=f"guidance.json.*{said}"):
        Model.open(tmp_path / "run")


@pytest.mark.parametrize("on_host", [False, True])
def test_parameters_that_are_not_finite_are_refused_by_name(params, tmp_path, on_host):
    bad = jax.tree.map(np.array, params)
    bad["unet"]["ustack"]["out"]["bias"][1] = np.nan
    settle(tmp_path, TINY, "data", None)
    position = iter(grain.MapDataset.range(9).to_iter_dataset())
    with closing(Checkpoints(tmp_path, keep=3)) as checkpoints:
        for step, ema in ((2, params), (4, bad)):
            checkpoints.save(TrainState(step=jnp.int32(step), params=params, ema=ema, opt_state=()), position)
    with pytest.raises(UserError, match=r"step 4: 1 of the 12 numbers of unet/ustack/out/bias are not finite"):
        Model.open(tmp_path, on_host=on_host)
    assert_equal(Model.open(tmp_path, step=2, on_host=on_host).params, params)
    folder = tmp_path / "weights"
    save_weights(folder, TINY, params)
    tensors = load_file(folder / WEIGHTS)
    tensors["unet/ustack/out/bias"][0] = np.inf
    save_file(tensors, folder / WEIGHTS)
    with pytest.raises(UserError, match=r"weights\.safetensors: 1 of the 12 numbers of unet/ustack/out/bias are not"):
        Model.open(folder, on_host=on_host)


def test_saved_weights_draw_the_same_image(weights, params):
    once = Model.open(weights).stage(batch_size=1).draw([Request("a thing", index=3)])
    again = Model(weights, TINY, params, None).stage(batch_size=1).draw([Request("a thing", index=3)])
    np.testing.assert_array_equal(once, again)


def test_a_run_opens_as_the_average_of_its_last_checkpoint_or_of_a_step(run, params):
    last, second = Model.open(run), Model.open(run, step=2, on_host=True)
    assert (last.config, last.step, second.step) == (TINY, 4, 2)
    assert_equal(last.params, jax.tree.map(lambda leaf: 4 * leaf, params))
    assert_equal(second.params, jax.tree.map(lambda leaf: np.asarray(2 * leaf), params))
    assert all(isinstance(leaf, np.ndarray) for leaf in jax.tree.leaves(second.params))
    assert last.facts()["checkpoint"] == "step 4" and last.digest != second.digest


def test_shipped_is_the_model_in_the_package():
    model = Model.open("shipped", on_host=True)
    assert (model.path, model.config.name) == (SHIPPED_MODEL, "entityworld32")
    assert experiment_of("shipped") == model.config == Model.open(SHIPPED_MODEL, on_host=True).config


def test_a_text_encoder_is_where_it_is_said_to_be_or_refused(weights, tmp_path):
    with pytest.raises(UserError, match="--text-encoder t5: this model has a text encoder of its own"):
        Model.open(weights, text_encoder="t5")
    config = changed(TINY, text=dataclasses.replace(TINY.system.text, frozen=FROZEN))
    shapes = jax.eval_shape(ReImagen(config).init, jax.random.key(0))
    save_weights(tmp_path / "frozen", config, jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), shapes))
    assert Model.open(tmp_path / "frozen").config == config
    frozen = Model.open(tmp_path / "frozen", text_encoder="t5").config.system.text.frozen
    assert frozen == dataclasses.replace(FROZEN, encoder="t5")


def test_what_is_no_model_is_refused_by_name(weights, run, params, tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_text("")
    (tmp_path / "young").mkdir()
    settle(tmp_path / "young", TINY, "data", None)
    bare = shutil.copytree(weights, tmp_path / "bare")
    (bare / WEIGHTS).unlink()
    broken = shutil.copytree(weights, tmp_path / "broken")
    (broken / "experiment.json").write_text("{")
    other = shutil.copytree(weights, tmp_path / "other")
    wide = dataclasses.replace(TINY.system.text, width=24)
    save_weights(other, changed(TINY, text=wide), params)
    for name, said in {
        "none": "none not found: give the folder of a training run .* or `shipped`",
        "file": "file is a file: give the folder",
        "empty": "empty holds no model, .*: give the folder of a training run",
        "young": "young holds no checkpoint yet",
        "bare": rf"bare/{WEIGHTS}",
        "broken": r"broken/experiment\.json cannot be read as a model's settings",
        "other": r"does not fit the network: .*text/.* has shape",
    }.items():
        with pytest.raises(UserError, match=said):
            Model.open(tmp_path / name)
    for part in (run / "run.json", run / "checkpoints", run / "checkpoints" / "4" / "state", weights / WEIGHTS):
        whole = weights if part.is_relative_to(weights) else run
        with pytest.raises(UserError, match=rf"{part} is a part of the model in {whole}: give that folder"):
            Model.open(part)
    with pytest.raises(UserError, match="no checkpoint of step 3: there are 2, 4"):
        Model.open(run, step=3)
    with pytest.raises(UserError, match="holds weights, not the checkpoints of a run: there is no step 4"):
        Model.open(weights, step=4)
