"""MoCo-v3: what its loss depends on, views, labels in their place, and that the one loop trains it."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from reimagen_jax.config import Experiment, GroupRate, TrainConfig, to_json
from reimagen_jax.data.records import write_records
from reimagen_jax.encoders.settings import RepresentationConfig
from reimagen_jax.encoders.towers import as_floats, unit
from reimagen_jax.errors import UserError
from reimagen_jax.nets.settings import Tower
from reimagen_jax.systems.kinds import feed_of, from_json, system_of
from reimagen_jax.systems.moco.augment import view
from reimagen_jax.systems.moco.settings import AugmentConfig, MocoConfig, MocoData
from reimagen_jax.systems.moco.system import Moco, MocoBatch
from reimagen_jax.systems.request import Request
from reimagen_jax.training.state import init_state
from reimagen_jax.training.step import make_optimizer, train_step
from tests.samples import example

NOTHING = AugmentConfig(
    crop=(1.0, 1.0), aspect=1.0, flip=0.0, jitter=0.0, grey=0.0, blur=(0.0, 0.0), solarise=(0.0, 0.0)
)
TINY = Experiment(
    "tiny",
    MocoConfig(
        RepresentationConfig(Tower(16, 1, 2, 24, "gelu", 1e-6), 8, 4, head_width=20, width=12), predictor_width=16
    ),
    MocoData(batch_size=8),
    train=TrainConfig(num_steps=2, warmup_steps=0, learning_rate=1e-3, log_every=1, sample_every=0),
)


def changed(config=TINY, data=None, **settings):
    system = dataclasses.replace(config.system, **settings)
    return dataclasses.replace(config, system=system, data=dataclasses.replace(config.data, **(data or {})))


BY_CLASS = changed(objective="supervised", classes=("a", "b", "c"), data={"class_by": "letter"})


@functools.cache
def made(config=TINY):
    system = system_of(config)
    return system, jax.jit(system.init)(jax.random.key(0)), jax.jit(system.loss)


def batch(count=8, seed=0):
    rng = np.random.default_rng(seed)
    return jax.tree.map(
        jnp.asarray, MocoBatch(rng.integers(0, 256, (count, 8, 8, 3), np.uint8), np.arange(count, dtype=np.int32) % 3)
    )


def records_of(folder, number=20):
    return write_records([example(i, f"thing {i}", letter="abc"[i % 3]) for i in range(number)], folder, source="test")


def test_nothing_is_differentiated_through_the_momentum_encoder_but_it_matters(key):
    system, params, loss = made()
    other = jax.tree.map(lambda p: p * 1.5 + 0.01, params)
    assert loss(params, batch(), key, ema=params)[0] != loss(params, batch(), key, ema=other)[0]
    gradient = jax.jit(jax.grad(lambda ema: system.loss(params, batch(), key, ema=ema)[0]))(other)
    assert all(not np.any(leaf) for leaf in jax.tree.leaves(gradient))
    gradient = jax.jit(jax.grad(lambda params: system.loss(params, batch(), key, ema=other)[0]))(params)
    assert all(np.any(leaf) for leaf in jax.tree.leaves({**gradient, "encoder": gradient["encoder"]["tower"]}))
    assert not any(np.any(leaf) for leaf in jax.tree.leaves(gradient["encoder"]["statistics"]))


def test_the_loss_of_one_direction_is_that_of_its_equation():
    system, *_ = made()
    q, k = (np.asarray(jax.random.normal(jax.random.key(i), (5, 12))) for i in range(2))
    q, k = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in (q, k))
    score = q @ k.T / 0.2
    expected = 2 * 0.2 * np.mean(np.log(np.exp(score).sum(axis=1)) - np.diag(score))
    loss, metrics = system.contrast(jnp.asarray(q), jnp.asarray(k))
    np.testing.assert_allclose(loss, expected, rtol=1e-5)
    assert metrics["right"] == np.mean(score.argmax(axis=1) == np.arange(5))
    loss, metrics = system.contrast(jnp.ones((5, 12)) / 12**0.5, jnp.ones((5, 12)) / 12**0.5)
    np.testing.assert_allclose(loss, 2 * 0.2 * np.log(5), rtol=1e-5)  # all alike: chance
    np.testing.assert_allclose(metrics["spread"], 0.0, atol=1e-3)


def test_the_loss_is_of_both_directions(key):
    """Without any change of an image, both views are one, so both directions are equal."""
    system, params, _ = made(changed(augment=NOTHING))
    x_BHWC = as_floats(batch().image_BHWC)
    p_BD = system.projected(params, x_BHWC)
    once, _ = system.contrast(unit(system.predicted(params, p_BD)), unit(p_BD))
    np.testing.assert_allclose(system.loss(params, batch(), key, ema=params)[0], 2 * once, rtol=1e-4)


def test_a_step_moves_everything_but_the_statistics_and_what_is_frozen(key):
    train = dataclasses.replace(TINY.train, rates=(GroupRate("^encoder/tower/patches/", 0.0),))
    system, _, _ = made()
    optimizer = make_optimizer(train)
    state = init_state(system, optimizer, key, train)
    after, metrics = jax.jit(train_step(system, optimizer, train))(state, batch(), key)
    moved = jax.tree.map(lambda a, b: bool(np.any(np.asarray(a) != np.asarray(b))), state.params, after.params)
    assert not any(jax.tree.leaves(moved["encoder"]["statistics"]))
    assert not any(jax.tree.leaves(moved["encoder"]["tower"].pop("patches")))
    assert all(jax.tree.leaves([moved["encoder"]["tower"], moved["encoder"]["head"], moved["predictor"]]))
    assert {"loss", "right", "spread", "learning_rate", "grad_norm"} == set(metrics)
    assert 1.0 < metrics["loss"] < 4.0


def test_by_labels_it_learns_a_classifier_of_the_heads_output(key):
    _, params, loss = made(BY_CLASS)
    assert set(params) == {"encoder", "classifier"} and params["classifier"]["kernel"].shape == (12, 3)
    value, metrics = loss(params, batch(), key, ema=params)
    assert 0.5 < value < 3.0 and set(metrics) == {"right"}
    other = batch()._replace(class_B=jnp.zeros(8, jnp.int32))
    assert loss(params, other, key, ema=params)[0] != value


def test_views_without_changes_are_the_image(key):
    x_BHWC = jax.random.uniform(key, (3, 8, 8, 3), minval=-1.0, maxval=1.0)
    np.testing.assert_allclose(view(key, x_BHWC, NOTHING, 0, 8), x_BHWC, atol=1e-5)
    assert view(key, x_BHWC, NOTHING, 1, 4).shape == (3, 4, 4, 3)


@pytest.mark.parametrize(
    "changes",
    [
        {"crop": (0.2, 0.5)},
        {"flip": 1.0},
        {"jitter": 1.0, "hue": 0.0},
        {"jitter": 1.0, "brightness": 0.0, "contrast": 0.0, "saturation": 0.0, "hue": 0.2},
        {"grey": 1.0},
        {"blur": (1.0, 1.0), "blur_sigma": (60.0, 60.0)},
        {"solarise": (1.0, 1.0)},
    ],
    ids=lambda changes: next(iter(changes)) + str(len(changes)),
)
def test_each_change_does_what_its_name_says(changes, key):
    x_BHWC = jax.random.uniform(key, (4, 8, 8, 3), minval=-1.0, maxval=1.0)
    seen = np.asarray(view(key, x_BHWC, dataclasses.replace(NOTHING, **changes), 1, 8))
    x = np.asarray(x_BHWC)
    assert seen.min() >= -1.0 - 1e-5 and seen.max() <= 1.0 + 1e-5
    assert np.abs(seen - x).max() > 0.1
    if "flip" in changes:
        np.testing.assert_allclose(seen, x[:, :, ::-1], atol=1e-5)
    if "grey" in changes:
        np.testing.assert_allclose(seen, np.broadcast_to(seen[..., :1], seen.shape), atol=1e-5)
        np.testing.assert_allclose(seen[..., 0], x @ [0.299, 0.587, 0.114], atol=1e-4)
    if "solarise" in changes:
        np.testing.assert_allclose(seen, np.where(x >= 0, -x, x), atol=1e-5)
    if "blur" in changes:
        assert seen.std() < 0.6 * x.std()
        np.testing.assert_allclose(seen.mean(), x.mean(), atol=0.1)
    if "jitter" in changes and changes["hue"]:
        grey = np.array([0.299, 0.587, 0.114], np.float32)
        calm = np.abs(seen).max(axis=-1) < 0.99  # what left the cube of colours was clipped
        np.testing.assert_allclose((seen @ grey)[calm], (x @ grey)[calm], atol=5e-3)
    if "crop" in changes:
        ramp = jnp.broadcast_to(jnp.linspace(-1.0, 1.0, 8)[None, None, :, None], (4, 8, 8, 3))
        cut = np.asarray(view(key, ramp, dataclasses.replace(NOTHING, **changes), 0, 8))
        spans = np.ptp(cut[:, 4, :, 0], axis=1) / 2
        assert np.all(spans < 0.8) and np.all(spans > 0.3), "a part of the image, enlarged"


def test_each_image_and_each_key_has_a_view_of_its_own(key):
    x_BHWC = jax.random.uniform(key, (1, 8, 8, 3), minval=-1.0, maxval=1.0)
    x_BHWC = jnp.tile(x_BHWC, (4, 1, 1, 1))
    one, other = (np.asarray(view(jax.random.key(i), x_BHWC, AugmentConfig(), 0, 8)) for i in range(2))
    assert np.ptp(one, axis=0).max() > 0.1 and np.abs(one - other).max() > 0.1


def test_its_feed_reads_images_and_their_classes_and_holds_some_out(tmp_path):
    records = records_of(tmp_path / "records")
    config = changed(BY_CLASS, classes=(), data={"records": str(records.path), "validation_share": 0.2})
    feed = feed_of(config).settled()
    assert feed.config.system.classes == ("a", "b", "c")
    first = next(iter(feed.dataset()))
    assert first.image_BHWC.shape == (8, 8, 8, 3) and first.class_B.dtype == np.int32
    (held,) = feed.held_out(4)
    seen = {image.tobytes(): label for image, label in zip(held.image_BHWC, held.class_B, strict=True)}
    assert len(seen) == 4
    steps = iter(feed.dataset())
    for _ in range(4):
        assert not any(image.tobytes() in seen for image in next(steps).image_BHWC)
    system = system_of(feed.config)
    assert jax.tree.map(lambda s: (s.shape, s.dtype), system.batch_spec(8)) == jax.tree.map(
        lambda x: (x.shape, x.dtype), first
    )
    assert from_json(to_json(feed.config)) == feed.config


def test_it_represents_images_that_requests_start_from(tmp_path):
    config = changed(data={"records": str(records_of(tmp_path / "records").path)})
    system, params, _ = made()
    feed, images = feed_of(config), np.asarray(batch(3).image_BHWC)
    requests = [Request("", start=image) for image in images]
    for request in requests:
        feed.check(request, system.settings)
    inputs = jax.tree.map(jnp.asarray, feed.collate(requests, system.settings))
    keys = jax.random.split(jax.random.key(0), 3)
    r_BD = np.asarray(system.sample(params, inputs, keys, system.settings))
    x_BHWC = as_floats(inputs.image_BHWC)
    np.testing.assert_allclose(r_BD, system.encoder.represent(params["encoder"], x_BHWC), atol=1e-5)
    features = system.sample(params, inputs, keys, dataclasses.replace(system.settings, of="features"))
    np.testing.assert_allclose(features, system.encoder.features(params["encoder"], x_BHWC), atol=1e-5)
    for wrong, said in ((None, "none is given"), (np.zeros((4, 4, 3), np.uint8), r"reads uint8 images \[8, 8, 3\]")):
        with pytest.raises(UserError, match=said):
            feed.check(Request("", start=wrong), system.settings)


@pytest.mark.parametrize(
    "config,said",
    [
        (TINY, "data.records is not set"),
        (changed(data={"batch_size": 64}), "too few for a batch of 64"),
        (dataclasses.replace(TINY, train=dataclasses.replace(TINY.train, accumulate=2)), "tells each image from all"),
        (changed(BY_CLASS, classes=("a", "b")), "classes lacks 'c'"),
        (changed(BY_CLASS, classes=(), data={"class_by": "colour"}), "no attribute 'colour'"),
    ],
    ids=["records", "few", "accumulate", "classes", "attribute"],
)
def test_a_feed_refuses_what_cannot_be_trained(config, said, tmp_path):
    if "not set" not in said:
        config = changed(config, data={"records": str(records_of(tmp_path / "records").path)})
    with pytest.raises(UserError, match=said):
        feed_of(config).settled()


@pytest.mark.parametrize(
    "make,said",
    [
        (lambda: changed(objective="supervised"), "classes are for"),
        (lambda: changed(data={"class_by": "letter"}), "classes are for"),
        (lambda: AugmentConfig(crop=(0.5, 0.2)), "augment.crop"),
        (lambda: AugmentConfig(hue=0.6), "augment.hue"),
    ],
    ids=["no-class", "class", "crop", "hue"],
)
def test_settings_that_contradict_each_other_are_refused(make, said):
    with pytest.raises(UserError, match=said):
        make()


def test_many_devices_see_one_batch(key):
    """BatchNorms and the loss are over the whole batch, however it is spread."""
    from jax.sharding import NamedSharding
    from jax.sharding import PartitionSpec as P

    from reimagen_jax import sharding

    system, params, loss = made()
    one, _ = loss(params, batch(), key, ema=params)
    mesh = sharding.make_mesh(1)
    spread = jax.device_put(batch(), NamedSharding(mesh, P("data")))
    everywhere = jax.device_put(params, NamedSharding(mesh, P()))
    many, _ = jax.jit(system.loss)(everywhere, spread, key, ema=everywhere)
    np.testing.assert_allclose(many, one, rtol=1e-4)
    assert isinstance(system, Moco)
