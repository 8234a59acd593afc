"""A training that is watched is the training that it was; what it is watched by is the same noise each time."""

import json
from dataclasses import dataclass, replace
from itertools import islice

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from reimagen_jax import sharding
from reimagen_jax.config import Experiment
from reimagen_jax.data import images
from reimagen_jax.errors import UserError
from reimagen_jax.inference.examples import held_out
from reimagen_jax.retrieval.asking import BELOW
from reimagen_jax.retrieval.knowledge_base import KnowledgeBase
from reimagen_jax.retrieval.neighbours import Rules, build_triples
from reimagen_jax.systems.reimagen.feed import ReImagenFeed
from reimagen_jax.systems.reimagen.settings import TriplesConfig
from reimagen_jax.systems.reimagen.system import ReImagen
from reimagen_jax.training.loop import train
from reimagen_jax.training.state import init_state
from reimagen_jax.training.step import make_optimizer
from reimagen_jax.training.validation import measurement, validation
from tests.samples import records_of
from tests.tiny import TINY, TINY_CROPS, changed, random_params
from tests.training.tiny_system import Regression, RegressionFeed, dataset, experiment, same


@dataclass(frozen=True)
class Keeping(RegressionFeed):
    """The feed of the regression, holding three batches out."""

    def held_out(self, number, process_index=None, process_count=None):
        return list(islice(iter(dataset(self.config.data.batch_size)), number // self.config.data.batch_size))


def run(workdir, watched, **settings):
    config = experiment(validate_examples=48, decay="constant", **settings)
    watch = validation(Regression(), Keeping(config), config.train)
    return train(config, workdir, Regression(), dataset(), watches=[watch] if watched else [])


def told(workdir):
    lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    return [line for line in lines if "validation/loss" in line]


def test_a_watched_training_is_bit_for_bit_that_of_before_and_goes_on_as_watched(tmp_path, capsys):
    plain = run(tmp_path / "plain", False, num_steps=4, validate_every=1)
    whole = run(tmp_path / "whole", True, num_steps=4, validate_every=1)
    assert same(plain.state, whole.state)
    assert [line["step"] for line in told(tmp_path / "whole")] == [1, 2, 3, 4] and not told(tmp_path / "plain")
    losses = [line["validation/loss"] for line in told(tmp_path / "whole")]
    assert len(set(losses)) == 4
    assert f"step 4/4  validation: loss {losses[3]:.4g}, absolute error " in capsys.readouterr().out
    run(tmp_path / "parts", True, num_steps=2, validate_every=1)
    assert same(run(tmp_path / "parts", True, num_steps=4, validate_every=1).state, plain.state)
    assert told(tmp_path / "parts") == told(tmp_path / "whole")


@pytest.mark.parametrize(("every", "steps"), [(0, []), (3, [3, 4]), (4, [4]), (9, [4])])
def test_it_is_measured_as_often_as_asked_and_at_the_end(tmp_path, every, steps):
    config = experiment(validate_every=every)
    watch = validation(Regression(), Keeping(config), config.train)
    train(config, tmp_path, Regression(), dataset(), watches=[watch] if watch else [])
    assert [line["step"] for line in told(tmp_path)] == steps
    assert validation(Regression(), RegressionFeed(config), config.train) is None, "nothing is held out"


def test_the_numbers_are_functions_of_the_parameters_whatever_devices_there_are():
    config = experiment(fsdp=4)
    params = init_state(Regression(), make_optimizer(config.train), jax.random.key(0)).params
    batches = Keeping(config).held_out(48)
    first, again = (measurement(Regression(), batches)(params) for _ in range(2))
    assert first == again
    split = jax.device_put(params, sharding.state_sharding(params, sharding.make_mesh(4)))
    assert measurement(Regression(), batches, 4)(split) == pytest.approx(first, rel=1e-6)
    other = measurement(Regression(), batches)(jax.tree.map(lambda leaf: leaf * 1.1, params))
    assert other["validation/loss"] != first["validation/loss"]


@pytest.fixture(scope="module")
def triples(tmp_path_factory):
    folder = tmp_path_factory.mktemp("held")
    records = records_of(folder / "r", [f"number {i} of all" for i in range(20)])
    others = records_of(folder / "other", [f"number {i} of all" for i in range(6)], source="other", first_seed=50)
    base = KnowledgeBase.build(records, folder / "kb")
    return [build_triples(each, base, 2, folder / f"t{i}") for i, each in enumerate((records, others))]


def config_of(triples, **data) -> Experiment:
    settings = {"batch_size": 4, "num_neighbours": 2, "threads": 2, "triples": str(triples[0].path)} | data
    return replace(changed(TINY, resolution=8), data=TriplesConfig(**settings))


@pytest.mark.parametrize("system", [TINY, TINY_CROPS], ids=["base", "crops"])
def test_the_loss_is_that_of_training_where_nothing_is_dropped(system, key):
    config = changed(system, text_drop=0.0, neighbour_drop=0.0)
    model, params = ReImagen(config), random_params(config)
    draw = np.random.default_rng(0)
    batch = jax.tree.map(
        lambda leaf: draw.integers(1, 2 if leaf.dtype == bool else 100, leaf.shape).astype(leaf.dtype),
        model.batch_spec(8),
    )
    loss_key = jax.random.split(key, 3)[2]  # of the three that training's loss makes of its own
    sums = jax.jit(model.measure)(params, batch, loss_key)
    means = {name: float(total / number) for name, (total, number) in sums.items()}
    bare = batch.replace(nbr_mask_BK=np.zeros_like(batch.nbr_mask_BK))
    without = jax.jit(model.measure)(params, bare, loss_key)
    if batch.nbr_mask_BK.shape[1]:
        assert means["loss"] == pytest.approx(float(jax.jit(model.loss)(params, batch, key)[0]), rel=1e-5)
        assert means["loss"] != means["loss_without_neighbours"]
        assert means["neighbours_gain"] == pytest.approx(means["loss_without_neighbours"] - means["loss"], abs=1e-6)
        np.testing.assert_allclose(without["loss"], sums["loss_without_neighbours"], rtol=1e-5)
        np.testing.assert_allclose(without["neighbours_gain"][0], 0.0, atol=1e-6)
    else:
        assert "neighbours_gain" not in means
    parts = [sums[name] for name in sums if name.startswith("loss/t_")]
    assert len(parts) == 4 and [float(number) for _, number in parts] == [2.0] * 4
    assert sum(float(total) for total, _ in parts) == pytest.approx(float(sums["loss"][0]), rel=1e-5)


def test_a_share_is_held_out_and_never_trained_on(triples):
    config = config_of(triples, validation_share=0.3)
    feed = ReImagenFeed(config)
    batches = feed.held_out(100)
    assert [len(batch.image_BHWC) for batch in batches] == [4]  # six of them, whole batches
    pictures = [images.decode(record.image, 8).tobytes() for record in triples[0].records]
    held = {pictures.index(image.tobytes()) for batch in feed.held_out(100) for image in batch.image_BHWC}
    learned = [pictures.index(i.tobytes()) for b in islice(iter(feed.dataset()), 14) for i in b.image_BHWC]
    assert len(set(learned)) == 14 and not held & set(learned)
    assert not ReImagenFeed(config_of(triples)).held_out(100)


def test_processes_share_what_is_held_out_and_it_is_the_same_again(triples):
    feed = ReImagenFeed(config_of(triples, validation=str(triples[1].path)))
    (whole,) = feed.held_out(4)
    halves = [feed.held_out(4, index, 2)[0] for index in range(2)]
    assert same(whole, jax.tree.map(lambda *parts: np.concatenate(parts), *halves))
    assert same(whole, feed.held_out(4)[0])
    assert whole.nbr_mask_BK.all(), "all neighbours are shown"
    few = held_out(feed, 3)
    assert same(few, jax.tree.map(lambda leaf: leaf[:3], whole))


def test_what_the_floor_left_out_is_kept_for_the_eye_and_changes_no_number(tmp_path, key):
    """It lies in the places of missing neighbours, masked."""
    texts = ["a red fox", "a red fox", "a blue whale", "a red hen"]
    records = records_of(tmp_path / "r", texts)
    base = KnowledgeBase.build(records, tmp_path / "kb")
    made = build_triples(records, base, 2, tmp_path / "t", Rules(floor=0.7, near_duplicates=0.0))
    assert made.manifest["excluded"][BELOW]
    config = config_of([made], validation=str(made.path), num_neighbours=2)
    (found,) = ReImagenFeed(config).held_out(4)
    pictures = [images.decode(record.image, 8) for record in records]
    place = {image.tobytes(): i for i, image in enumerate(pictures)}
    rows = {place[image.tobytes()]: b for b, image in enumerate(found.image_BHWC)}
    assert found.nbr_mask_BK[rows[0]].tolist() == [True, False]
    np.testing.assert_array_equal(found.nbr_image_BKHWC[rows[0]], [pictures[1], pictures[3]])
    assert not found.nbr_mask_BK[rows[3]].any()
    np.testing.assert_array_equal(found.nbr_image_BKHWC[rows[3]], pictures[:2])
    preview = ReImagenFeed(config).preview(found)
    np.testing.assert_array_equal(preview.left_out["neighbour 2"][rows[0]], pictures[3])
    assert preview.shown["neighbour 2"][rows[0]] is None and preview.left_out["neighbour 1"][rows[0]] is None

    hidden = found.nbr_mask_BK[..., None, None, None]
    bare = found.replace(
        nbr_image_BKHWC=found.nbr_image_BKHWC * hidden,
        nbr_tokens_BKL=found.nbr_tokens_BKL * found.nbr_mask_BK[..., None],
    )
    measure, params = jax.jit(ReImagen(config).measure), random_params(config)
    assert same(measure(params, found, key), measure(params, bare, key))


def test_held_out_records_that_are_trained_on_are_told_of(triples, capsys):
    ReImagenFeed(config_of(triples, validation=str(triples[0].path))).held_out(4)
    assert "but 20 of its records are trained on" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("data", "said"),
    [
        ({"validation": "a", "validation_share": 0.5}, "both say what is held out"),
        ({"validation_share": 1.0}, "validation_share"),
    ],
)
def test_contradictions_are_refused(triples, data, said):
    with pytest.raises(UserError, match=said):
        config_of(triples, **data)


def test_a_share_of_nothing_is_refused(triples):
    with pytest.raises(UserError, match="holds 0 of them out"):
        ReImagenFeed(config_of(triples, validation_share=0.01)).dataset()


def test_losses_by_time_are_those_of_times_that_training_visits_equally_often(key):
    """With a loss that tells its time."""
    from reimagen_jax.diffusion import objective
    from reimagen_jax.diffusion.settings import DiffusionConfig

    process = DiffusionConfig(prediction="x0", time_exponent=0.5)
    x0 = jnp.zeros((64, 2, 2, 1))
    loss_B = objective.diffusion_loss(
        lambda x, t_B, condition: jnp.broadcast_to(t_B[:, None, None, None], x.shape), x0, None, key, process
    )
    found = objective.by_time(jnp.sqrt(loss_B), key, process)
    assert list(found) == ["t_0.00-0.50", "t_0.50-0.71", "t_0.71-0.87", "t_0.87-1.00"]
    for name, (total, number) in found.items():
        low, high = map(float, name.removeprefix("t_").split("-"))
        assert float(number) == 16 and low < float(total / number) < high
