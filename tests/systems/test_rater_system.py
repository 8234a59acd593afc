"""The rater as a system: the loop trains it on renders that a step makes; the command measures and writes it."""

import dataclasses
import signal
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from reimagen_jax import sharding
from reimagen_jax.cli import main
from reimagen_jax.commands import rater as rater_command
from reimagen_jax.config import Experiment, TrainConfig, differences, is_free, load_experiment, to_json
from reimagen_jax.data.entityworld import render_batch, sample_looks, sample_scenes
from reimagen_jax.errors import UserError
from reimagen_jax.evaluation.rater import Rater
from reimagen_jax.inference.model import Model
from reimagen_jax.inference.pipeline import Pipeline, Stage, check_chain
from reimagen_jax.preflight import programs
from reimagen_jax.reports import rater_card
from reimagen_jax.systems import kinds
from reimagen_jax.systems.rater import system as rater_system
from reimagen_jax.systems.rater.net import RaterNet
from reimagen_jax.systems.rater.rendering import average, draw_batch, soften
from reimagen_jax.systems.rater.settings import RaterConfig, RaterSampler, RaterSystemConfig, RenderData, Softening
from reimagen_jax.systems.rater.system import RaterBatch, RaterSystem
from reimagen_jax.systems.request import Request
from reimagen_jax.training import loop
from tests.tiny import TINY, random_params

SMALL = RaterConfig(resolution=16, look_widths=(8, 8, 8), look_hidden=16, scene_widths=(8, 8), scene_hidden=16)
CONFIG = Experiment(
    "tiny",
    RaterSystemConfig(SMALL),
    RenderData(batch_size=8),
    train=TrainConfig(num_steps=4, learning_rate=2e-3, warmup_steps=1, decay="constant", sample_every=0),
)


@pytest.fixture(scope="module")
def params():
    return jax.jit(RaterSystem(CONFIG).init)(jax.random.key(0))


def noise(n: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (n, 16, 16, 3), np.uint8)


def changed(config: Experiment, **train) -> Experiment:
    return dataclasses.replace(config, train=dataclasses.replace(config.train, **train))


def train(config: Experiment, workdir) -> loop.Outcome:
    """By the one loop, as `reimagen train` does."""
    feed = kinds.feed_of(config).settled()
    return loop.train(feed.config, workdir, kinds.system_of(config), feed.dataset(), data_fingerprint=feed.fingerprint)


# -- renders and the loss


def test_softening_leaves_out_what_it_should_and_stays_in_range(key):
    images = jnp.asarray(noise(16), jnp.float32) / 255.0
    softened = jax.jit(soften, static_argnums=2)
    none = softened(key, images, Softening(share=0.0))
    np.testing.assert_array_equal(none, images)
    half = softened(key, images, Softening(share=0.5, noise=0.0))
    changed = np.abs(np.asarray(half - images)).max(axis=(1, 2, 3)) > 1e-4
    assert 0 < changed.sum() < 16
    full = softened(key, images, Softening(share=1.0, noise=0.5))
    assert full.min() >= 0 and full.max() <= 1
    np.testing.assert_allclose(average(jnp.full((1, 5, 5, 3), 0.3)), 0.3, rtol=1e-6)


def test_values_for_other_categories_do_not_count(key, params):
    looks, scenes = sample_looks(key, 6), sample_scenes(key, 6)
    logits = RaterNet(SMALL).apply({"params": params}, jnp.asarray(noise(6), jnp.float32))
    loss_of_look = jax.grad(lambda look: rater_system.loss(logits._replace(look_BCPV=look), looks, scenes))
    gradient = jax.jit(loss_of_look)(logits.look_BCPV)
    reached = np.abs(np.asarray(gradient)).max(axis=(2, 3)) > 0
    np.testing.assert_array_equal(reached, np.asarray(looks)[:, :1] == np.arange(5))


def test_a_part_of_a_batch_has_its_own_renders_of_the_whole(key):
    plain = dataclasses.replace(CONFIG.system, softening=Softening(share=0.0))
    draw = jax.jit(lambda index_B: draw_batch(key, index_B, 8, plain))
    whole, part = draw(jnp.arange(8, dtype=jnp.int32)), draw(jnp.array([5, 2], jnp.int32))
    jax.tree.map(lambda all_of_it, some: np.testing.assert_allclose(all_of_it[np.array([5, 2])], some), whole, part)
    looks, scenes, images = whole
    assert len({look.tobytes() for look in np.asarray(looks)}) == 8
    np.testing.assert_allclose(images, render_batch(np.asarray(looks), scenes, 16), atol=1 / 255)
    np.testing.assert_allclose(np.round(np.asarray(images) * 255), np.asarray(images) * 255, atol=1e-3)


def test_the_batch_numbers_a_steps_renders_and_processes_share_it():
    feed = kinds.feed_of(CONFIG)
    whole = iter(feed.dataset())
    parts = [next(iter(feed.dataset(process_index=i, process_count=2))).index_B for i in range(2)]
    for _ in range(3):
        assert np.array_equal(next(whole).index_B, np.concatenate(parts))
    assert np.array_equal(np.concatenate(parts), np.arange(8)) and parts[0].dtype == np.int32


def test_training_is_adam_on_renders_of_the_steps_keys(tmp_path):
    """Written out: init from one half of the seed's key, step i from the i-th fold of the other."""
    config = changed(CONFIG, num_steps=3, decay="cosine", clip_norm=1e9, ema_decay=0.0)
    system = RaterSystem(config)
    key_init, key_steps = jax.random.split(jax.random.key(config.train.seed))
    params = jax.jit(system.init)(key_init)
    optimizer = optax.adam(optax.warmup_cosine_decay_schedule(0.0, 2e-3, 1, 3), b2=0.99)
    opt_state = optimizer.init(params)

    @jax.jit
    def step(params, opt_state, key):
        looks, scenes, images = draw_batch(key, jnp.arange(8, dtype=jnp.int32), 8, config.system)
        logits = lambda params: RaterNet(SMALL).apply({"params": params}, images, scenes.position, scenes.size)  # noqa: E731
        gradient = jax.grad(lambda params: rater_system.loss(logits(params), looks, scenes))(params)
        with jax.numpy_dtype_promotion("standard"):
            updates, opt_state = optimizer.update(gradient, opt_state, params)
        return optax.apply_updates(params, updates), opt_state

    for i in range(3):
        params, opt_state = step(params, opt_state, jax.random.fold_in(key_steps, i))
    trained = train(config, tmp_path / "run").state
    # Not the parameters: a bias before a norm does nothing, its gradient is rounding alone, which Adam makes large.
    read = jax.jit(lambda params: RaterNet(SMALL).apply({"params": params}, jnp.asarray(noise(6), jnp.float32) / 255.0))
    jax.tree.map(
        lambda ours, plain: np.testing.assert_allclose(ours, plain, rtol=1e-4, atol=1e-4),
        *(read(jax.device_get(of)) for of in (trained.params, params)),
    )
    jax.tree.map(np.testing.assert_array_equal, trained.ema, trained.params)


def test_it_trains_in_two_goes_as_in_one(tmp_path):
    train(CONFIG, tmp_path / "whole")
    train(changed(CONFIG, num_steps=2), tmp_path / "halves")
    train(CONFIG, tmp_path / "halves")
    models = [Model.open(tmp_path / folder) for folder in ("whole", "halves")]
    assert [model.step for model in models] == [4, 4] and models[0].digest == models[1].digest


@pytest.mark.parametrize("how", [{"accumulate": 2}, {"parallel": "pmap"}, {"fsdp": 2}])
def test_it_trains_however_the_step_is_spread(how, tmp_path):
    config = dataclasses.replace(CONFIG, data=RenderData(batch_size=16))
    outcome = train(changed(config, num_steps=2, **how), tmp_path / "run")
    assert outcome.step == 2 and all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(outcome.state.params))


# -- the contracts


def test_it_is_a_kind_whose_experiments_are_stored():
    assert kinds.from_json(to_json(CONFIG)) == CONFIG
    system = kinds.system_of(CONFIG)
    batch = next(iter(kinds.feed_of(CONFIG).dataset()))
    spec = system.batch_spec(8)
    assert isinstance(batch, RaterBatch) and (batch.index_B.shape, batch.index_B.dtype) == (
        spec.index_B.shape,
        spec.index_B.dtype,
    )
    assert kinds.feed_of(CONFIG).preview(batch) is None


def test_a_stage_reads_as_the_rater_does(params):
    rater, images = Rater(SMALL, params), noise(5)
    requests = [Request(start=image) for image in images]
    read = rater.read(images)
    expected = np.concatenate([part.reshape(5, -1) for part in read], axis=1)
    np.testing.assert_array_equal(Stage(CONFIG, params, batch_size=2).draw(requests), expected)
    logits = Stage(CONFIG, params, RaterSampler("logits"), batch_size=4).draw(requests)
    np.testing.assert_array_equal(logits[:, :5].argmax(axis=1), read.category_N)
    for bad in (Request("a dog"), Request(start=np.zeros((8, 8, 3), np.uint8))):
        with pytest.raises(UserError, match="tiny reads"):
            Stage(CONFIG, params).draw([bad])


def test_it_reads_what_another_stage_of_a_pipeline_has_drawn(params):
    drawing, reading = Stage(TINY, random_params(TINY), batch_size=2), Stage(CONFIG, params, batch_size=2)
    image, told = Pipeline([drawing, reading], seed=3).draw([Request("a dog", index=i) for i in range(3)])
    np.testing.assert_array_equal(told, reading.draw([Request(start=each) for each in image]))
    wide = dataclasses.replace(CONFIG.system, network=dataclasses.replace(SMALL, resolution=32))
    for stages, message in (
        ((TINY, dataclasses.replace(CONFIG, system=wide)), "tiny, reads images of 32 pixels.*tiny, draws 16"),
        ((CONFIG, CONFIG), "reads images of 16 pixels.*draws none"),
        ((CONFIG, TINY), "is a base model"),
    ):
        with pytest.raises(UserError, match=message):
            check_chain(stages)


def test_preflight_compiles_its_programs():
    mesh = sharding.make_mesh()
    for program in (programs.train_program(CONFIG, mesh), programs.sampler_program(CONFIG, mesh, 16)):
        assert program.jitted.lower(*program.arguments).compile() is not None and program.model_flops > 0


# -- the command


def test_the_command_trains_measures_and_writes_a_rater_with_its_card(tmp_path, capsys):
    out = tmp_path / "rater"
    rater_command.main(["train", "--out", str(out), "--resolution", "16", "--num-steps", "40", "--num-images", "300"])
    rater = Rater.open(out)
    assert rater.metrics["parameters"]["time"][1] > 0.4  # by guessing: 0.25
    card = (out / "README.md").read_text()
    assert rater_card.table(rater.metrics) in card and "--num-steps 40" in card and str(tmp_path) not in card
    capsys.readouterr()
    rater_command.main(["check", "--rater", str(out), "--num-images", "300", "--seed", "1"])
    assert rater_card.table(rater.metrics) in capsys.readouterr().out  # the stored measurement, made again
    with pytest.raises(UserError, match="already exists"):
        rater_command.main(["train", "--out", str(out)])

    # What is trained already is measured and written again, by the same command or from the run.
    again = ["train", "--out", str(tmp_path / "again"), "--num-images", "300"]
    rater_command.main([*again, "--from-run", str(tmp_path / "rater.run")])
    assert Rater.open(tmp_path / "again").digest == rater.digest
    same = ["--resolution", "16", "--num-steps", "40", "--workdir", str(tmp_path / "rater.run"), "--overwrite"]
    capsys.readouterr()
    rater_command.main([*again, *same])
    assert Rater.open(tmp_path / "again").digest == rater.digest
    assert "holds a run of 40 steps, and so many are wanted" in capsys.readouterr().out
    with pytest.raises(UserError, match="--num-steps is about a training"):
        rater_command.main([*again, "--overwrite", "--from-run", str(tmp_path / "rater.run"), "--num-steps", "50"])


def test_a_run_of_the_command_may_be_made_longer():
    short, long = (rater_command.Train(Path("rater"), num_steps=n).experiment() for n in (60, 6000))
    changed = differences(short, long)
    assert changed and all(is_free(short, name) for name in changed)


def test_the_experiment_file_has_the_commands_settings(tmp_path):
    path = Path(__file__).parents[2] / "experiments" / "rater32.py"
    assert set(differences(rater_command.Train(Path("rater")).experiment(), load_experiment(path))) == {"name"}
    words = [str(path), "--network.resolution", "16", "--data.batch-size", "8", "--train.num-steps", "2"]
    assert main(["train", *words, "--workdir", str(tmp_path / "run")]) == 0
    assert Model.open(tmp_path / "run").config.system.network == RaterConfig(16)


def test_a_signal_ends_the_command_after_saving(tmp_path, monkeypatch):
    options = ["train", "--out", str(tmp_path / "rater"), "--resolution", "16", "--num-images", "64"]
    options += ["--num-steps", "4", "--batch-size", "8"]
    steps = []

    def interrupting(*arguments, advance=loop.parallel.make_advance):
        step = advance(*arguments)

        def counted(*of_step):
            steps.append(1)
            if len(steps) == 2:
                signal.raise_signal(signal.SIGTERM)
            return step(*of_step)

        return counted

    monkeypatch.setattr(loop.parallel, "make_advance", interrupting)
    with pytest.raises(SystemExit) as left:
        rater_command.main(options)
    assert left.value.code == 128 + signal.SIGTERM and not (tmp_path / "rater").exists()
    rater_command.main(options)
    assert len(steps) == 4 and Model.open(tmp_path / "rater.run").step == 4
    assert (tmp_path / "rater" / "rater.json").is_file()
