"""The rater: straightening undoes place and size, verdicts follow the readings, and the shipped one is fit for use."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from reimagen_jax.data.entityworld import (
    NUM_PARAMETERS,
    SCENE_PARAMETERS,
    Scene,
    render_batch,
    sample_looks,
    sample_scenes,
)
from reimagen_jax.errors import UserError
from reimagen_jax.evaluation import rater_check
from reimagen_jax.evaluation.rater import SETTINGS, Rater, Readings
from reimagen_jax.pretrained.weights import WEIGHTS
from reimagen_jax.reports import rater_card
from reimagen_jax.systems.rater import net as rater_net
from reimagen_jax.systems.rater.net import LOOK_COUNTS, NEVER, SCENE_COUNTS, SCENE_NAMES, RaterConfig, RaterNet

SMALL = RaterConfig(resolution=16, look_widths=(8, 8, 8), look_hidden=16, scene_widths=(8, 8), scene_hidden=16)


@pytest.fixture(scope="module")
def small() -> Rater:
    params = jax.jit(RaterNet(SMALL).init)(jax.random.key(0), jnp.zeros((1, 16, 16, 3)))["params"]
    return Rater.rounded(SMALL, params)


@jax.jit
def logits_of(params, images, *position_and_size):
    return RaterNet(SMALL).apply({"params": params}, images, *position_and_size)


def drawn(n: int, seed: int = 0) -> tuple[np.ndarray, Scene]:
    key_look, key_scene = jax.random.split(jax.random.key(seed))
    return np.array(sample_looks(key_look, n)), jax.tree.map(np.array, sample_scenes(key_scene, n))


def noise(n: int, size: int = 16) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (n, size, size, 3), np.uint8)


def perfect(looks: np.ndarray, scenes: Scene) -> Readings:
    """What a rater without faults reads; the values for other categories are none of its business."""
    look_NCP = np.full((len(looks), len(LOOK_COUNTS), NUM_PARAMETERS), -1)
    look_NCP[np.arange(len(looks)), looks[:, 0]] = looks[:, 1:]
    return Readings(looks[:, 0], look_NCP, np.stack([getattr(scenes, name) for name in SCENE_NAMES], axis=1))


# -- the network


@pytest.mark.parametrize(
    ("pixels", "cells", "low", "high"), [(32, 32, 0.1, 0.7), (32, 16, 0.0, 1.0), (64, 32, -0.1, 1.1)]
)
def test_resampling_keeps_constants_and_straight_lines(pixels, cells, low, high):
    weights = rater_net.resampling(pixels, cells, low, high)
    np.testing.assert_allclose(weights.sum(axis=1), 1, atol=1e-6)
    assert weights.min() >= 0
    ramp = (np.arange(pixels) + 0.5) / pixels
    expected = low + (np.arange(cells) + 0.5) * (high - low) / cells
    inside = (expected > ramp[1]) & (expected < ramp[-2]) & ((high - low) / cells <= 1 / pixels)
    np.testing.assert_allclose((weights @ ramp)[inside], expected[inside], atol=1e-6)
    np.testing.assert_allclose(rater_net.resampling(32, 32, 0.0, 1.0), np.eye(32), atol=1e-6)


def test_straightening_undoes_position_and_size():
    look = np.array(sample_looks(jax.random.key(3), 1))
    positions, sizes = (x.ravel().astype(np.int32) for x in np.meshgrid(range(3), range(3)))
    nothing = np.zeros(9, np.int32)
    scenes = Scene(nothing, positions, sizes, nothing, np.zeros((9, 6), np.float32))
    images = render_batch(np.repeat(look, 9, axis=0), scenes, 64)
    straight = np.asarray(rater_net.straighten(jnp.asarray(images), jnp.asarray(positions), jnp.asarray(sizes)))
    body = straight[:, 6:26, 9:23]  # what surrounds the body depends on where it stands
    assert np.abs(body - body.mean(axis=0)).mean() < 0.3 * np.abs(images - images.mean(axis=0)).mean()
    assert np.abs(straight[:, :, 14:18] - straight[:1, :, 14:18]).mean() < 0.02


def test_only_values_that_exist_can_be_read(small):
    logits = logits_of(small.params, jnp.asarray(noise(6), jnp.float32))
    for found, counts in ((logits.look_BCPV, LOOK_COUNTS), (logits.scene_BAV, SCENE_COUNTS)):
        exists = np.broadcast_to(np.arange(found.shape[-1]) < counts[..., None], found.shape)
        assert np.all(np.asarray(found)[~exists] == NEVER) and np.all(np.asarray(found)[exists] > NEVER / 2)


def test_the_body_is_straightened_by_what_was_read(small):
    images = jnp.asarray(noise(6), jnp.float32)
    read = logits_of(small.params, images)
    position, size = (read.scene_BAV.argmax(-1)[:, SCENE_NAMES.index(name)] for name in ("position", "size"))
    told = logits_of(small.params, images, position, size)
    elsewhere = logits_of(small.params, images, (position + 1) % 3, size)
    np.testing.assert_allclose(read.look_BCPV, told.look_BCPV, rtol=1e-5, atol=1e-6)
    assert np.abs(np.asarray(read.look_BCPV - elsewhere.look_BCPV)).max() > 1e-3


def test_settings_that_do_not_fit_are_refused():
    with pytest.raises(UserError, match=r"network\.resolution is 8: at least 16"):
        RaterConfig(resolution=8)
    with pytest.raises(UserError, match="12 is not a multiple"):
        RaterConfig(look_widths=(12, 8, 8))


# -- verdicts


def test_verdicts_follow_the_readings(small, monkeypatch):
    looks, scenes = drawn(60)
    told = np.ones((60, 4), bool)
    truth = perfect(looks, scenes)
    monkeypatch.setattr(Rater, "read", lambda self, images: truth)

    def rate(looks=looks, scenes=scenes, told=told):
        return small.rate(noise(60), looks, vars(scenes), told)

    right = rate()
    assert right.faithful.all() and right.aligned.all() and right.look_right.all() and right.scene_right.all()

    changed = rater_check.one_changed(looks, jax.random.key(1))
    assert not rate(looks=changed).faithful.any()
    np.testing.assert_array_equal(rate(looks=changed).look_right, changed == looks)

    other = looks.copy()
    other[:, 0] = (other[:, 0] + 1) % 5
    assert not rate(looks=other).faithful.any()

    for a, parameter in enumerate(SCENE_PARAMETERS):
        value = (getattr(scenes, parameter.name) + 1) % len(parameter.values)
        moved, silent = dataclasses.replace(scenes, **{parameter.name: value}), told.copy()
        silent[:, a] = False
        assert not rate(scenes=moved).aligned.any() and rate(scenes=moved).faithful.all()
        assert rate(scenes=moved, told=silent).aligned.all()
        assert not rate(scenes=moved, told=silent).scene_right[:, a].any()


def test_images_are_read_one_by_one(small):
    images = noise(150)  # more than a batch
    whole, part = small.read(images), small.read(images[137:140])
    for one, some in zip(part, whole, strict=True):
        np.testing.assert_array_equal(one, some[137:140])
    assert [len(x) for x in small.read(images[:0])] == [0, 0, 0]


def test_one_changed_changes_one_parameter_to_another_of_its_values():
    looks, _ = drawn(500)
    changed = rater_check.one_changed(looks, jax.random.key(0))
    assert np.all((changed != looks).sum(axis=1) == 1) and np.all(changed[:, 0] == looks[:, 0])
    assert np.all((changed[:, 1:] >= 0) & (changed[:, 1:] < LOOK_COUNTS[looks[:, 0]]))


def test_accuracy_of_a_parameter_is_over_the_images_that_have_it():
    category_N, told_NA = np.array([0, 0, 1]), np.array([[True] * 4, [True, False, True, True], [True] * 4])
    look_right_NL, scene_right_NA = np.ones((3, 9), bool), np.ones((3, 4), bool)
    look_right_NL[0, 1] = False  # the coat of the first dog
    scene_right_NA[1, 1] = False  # a position that is not told
    found = rater_check.accuracies(category_N, look_right_NL, scene_right_NA, told_NA)
    assert found["dog.coat"].mean == 0.5 and found["food.vessel"].mean == 1 and found["position"].mean == 1
    assert "bird.plumage" not in found
    images = rater_check.accuracies(category_N, look_right_NL[:, None], scene_right_NA[:, None], told_NA)
    assert images == found


# -- files


def test_a_saved_rater_is_the_same(small, tmp_path):
    shares = {"faithful": [0.9, 0.8, 1.0], "aligned": [0.8, 0.7, 0.9], "parameters": {"dog.coat": [0.9, 0.8, 1.0]}}
    small.metrics = {**shares, "num_images": 10, "seed": 1, "softened": shares}
    small.save(tmp_path)
    again = Rater.open(tmp_path)
    assert again.config == small.config and again.metrics == small.metrics and again.digest == small.digest
    assert again.ceilings == (0.9, 0.8)
    for ours, theirs in zip(small.read(noise(8)), again.read(noise(8)), strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_what_cannot_be_used_is_refused(small, tmp_path):
    with pytest.raises(UserError, match="holds no rater"):
        Rater.open(tmp_path)
    with pytest.raises(UserError, match="reads images of 16 x 16 pixels, not 32 x 32"):
        small.read(noise(1, 32))
    with pytest.raises(UserError, match="not been measured"):
        _ = Rater(SMALL, small.params).ceilings
    small.save(tmp_path)
    stored = json.loads((tmp_path / SETTINGS).read_text())
    for field, value in (("world", "another"), ("format", 99)):
        (tmp_path / SETTINGS).write_text(json.dumps({**stored, field: value}))
        with pytest.raises(UserError, match=f"{value}.*reimagen rater train"):
            Rater.open(tmp_path)
    odd = [
        ([], r"rater\.json is"),
        ({**stored, "format": "1"}, r"rater\.json\.format is '1'"),
        ({**stored, "network": {**stored["network"], "groups": "8"}}, r"rater\.json\.network\.groups is '8'"),
        ({**stored, "network": {**stored["network"], "wings": 2}}, r"rater\.json\.network\.wings is no setting"),
        ({**stored, "metrics": {"faithful": 0.9}}, r"rater\.json\.metrics\.faithful is 0\.9"),
        ({name: value for name, value in stored.items() if name != "world"}, r"rater\.json\.world is missing"),
    ]
    for content, says in odd:
        (tmp_path / SETTINGS).write_text(json.dumps(content))
        with pytest.raises(UserError, match=says):
            Rater.open(tmp_path)
    (tmp_path / SETTINGS).write_text(json.dumps(stored))
    (tmp_path / WEIGHTS).write_bytes(b"broken")
    with pytest.raises(UserError, match="safetensors"):
        Rater.open(tmp_path)


def test_weights_that_are_not_those_measured_are_refused(small, tmp_path):
    small.save(tmp_path)
    weights = bytearray((tmp_path / WEIGHTS).read_bytes())
    weights[-1] ^= 1
    (tmp_path / WEIGHTS).write_bytes(bytes(weights))
    with pytest.raises(UserError, match="is damaged: its network is not the one that was measured"):
        Rater.open(tmp_path)


# -- the rater in the package


def test_the_shipped_rater_is_fit_for_use():
    rater = Rater.open()
    assert rater_check.shortfalls(rater.metrics) == [] and rater.metrics["num_images"] >= 4096
    again = rater_check.measure(rater, num_images=1024, seed=99)
    assert again["faithful"][0] >= 0.9 and again["aligned"][0] >= 0.9 and again["deceived"][0] <= 0.01
    assert again["faithful"][2] >= rater.metrics["faithful"][1]  # the intervals of both measurements meet
    assert "fit for use" in rater_card.verdict(rater.metrics)
    assert f"{rater.metrics['faithful'][0]:.4f}" in rater_card.table(rater.metrics)


def test_what_no_image_has_shown_has_no_share():
    metrics = Rater.open().metrics
    parameters = {name: share for name, share in metrics["parameters"].items() if not name.startswith("dog")}
    told = rater_card.table({**metrics, "parameters": parameters}).splitlines()
    assert any(line.split()[:1] == ["dog"] and "coat -" in line for line in told)


def test_shortfalls_name_what_is_wrong():
    metrics = {"parameters": {"dog.coat": [0.98, 0.97, 0.99], "place": [1.0, 0.99, 1.0]}, "faithful": [0.85, 0.8, 0.9]}
    accuracy, ceiling = rater_check.shortfalls(metrics)
    assert "dog.coat" in accuracy and "1 parameters" in accuracy and "0.8500" in ceiling


def test_what_was_measured_is_not_what_somebody_has_made_of_it(small, tmp_path):
    shares = {"faithful": [0.9, 0.8, 1.0], "aligned": [0.8, 0.7, 0.9], "parameters": {"dog.coat": [0.9, 0.8, 1.0]}}
    small.metrics = shares
    small.save(tmp_path)
    text = (tmp_path / SETTINGS).read_text()
    (tmp_path / SETTINGS).write_text(text.replace("0.9", "0.99"))
    with pytest.raises(UserError, match=r"rater\.json is not as it was written"):
        Rater.open(tmp_path)
    unsigned = {name: value for name, value in json.loads(text).items() if name != "checksum"}
    (tmp_path / SETTINGS).write_text(json.dumps(unsigned))  # as versions before have written it
    assert Rater.open(tmp_path).metrics == shares
