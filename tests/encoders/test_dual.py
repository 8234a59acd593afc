"""The dual encoder: unit vectors that depend on one text or one image alone, kept whole on disk."""

import dataclasses
import hashlib
import json

import jax
import numpy as np
import pytest

from reimagen_jax.checked import identity
from reimagen_jax.data.manifest import write_manifest
from reimagen_jax.encoders import dual
from reimagen_jax.encoders.dual import DualConfig, DualEncoder
from reimagen_jax.encoders.joint import Joint
from reimagen_jax.encoders.settings import ImageTowerConfig, JointConfig, TextTowerConfig, Tower
from reimagen_jax.encoders.vectors import open_encoder
from reimagen_jax.errors import UserError

TINY = DualConfig(
    8, max_bytes=16, width=6, text_width=16, text_depth=1, head_width=8, channels=8, most_channels=8, groups=4
)
TOWER = Tower(16, 1, 2, 24)
CLIP = JointConfig(6, TextTowerConfig(TOWER, max_tokens=16), ImageTowerConfig(TOWER, 8, 4))
TEXTS = ["a red ball", "ein grüner Würfel", "赤いボール", "", "a very long caption that is cut after sixteen bytes"]


@pytest.fixture(scope="module")
def encoder():
    return DualEncoder(
        TINY, jax.jit(lambda key: dual.init(TINY, key))(jax.random.key(0)), {"measured": {"held_out": 7}}
    )


@pytest.fixture
def saved(encoder, tmp_path):
    encoder.save(tmp_path)
    return tmp_path


def noise(count, side=8):
    return np.random.default_rng(0).integers(0, 256, (count, side, side, 3), np.uint8)


def test_vectors_have_length_one(encoder):
    for vectors in (encoder.texts(TEXTS), encoder.images(noise(5))):
        assert vectors.shape == (5, encoder.width) and vectors.dtype == np.float32
        np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1.0, atol=1e-5)


def test_what_is_encoded_together_does_not_matter(encoder, monkeypatch):
    texts, images = encoder.texts(TEXTS), encoder.images(noise(40))  # 40 are more than the smaller batch
    for i in range(5):
        np.testing.assert_allclose(encoder.texts(TEXTS[i : i + 1])[0], texts[i], atol=1e-6)
        np.testing.assert_allclose(encoder.images(noise(40)[i : i + 1])[0], images[i], atol=1e-6)
    monkeypatch.setattr(dual, "BATCH", 16)
    np.testing.assert_allclose(encoder.images(noise(40)), images, atol=1e-6)
    assert encoder.texts([]).shape == encoder.images(noise(0)).shape == (0, encoder.width)


def test_different_inputs_have_different_vectors(encoder):
    for vectors in (encoder.texts(TEXTS), encoder.images(noise(5))):
        closeness = vectors @ vectors.T
        assert (closeness[~np.eye(5, dtype=bool)] < 1 - 1e-4).all()


def test_texts_are_cut(encoder):
    longer = TEXTS[-1] + " and whatever comes then"
    assert np.array_equal(encoder.texts([TEXTS[-1]]), encoder.texts([longer]))


def test_saved_and_opened_it_is_the_same(encoder, saved):
    again = open_encoder(saved)
    assert isinstance(again, DualEncoder)
    assert (again.config, again.fingerprint, again.facts) == (TINY, encoder.fingerprint, encoder.facts)
    assert np.array_equal(again.texts(TEXTS), encoder.texts(TEXTS))
    assert np.array_equal(again.images(noise(3)), encoder.images(noise(3)))


def test_the_fingerprint_tells_weights_and_network_apart(encoder):
    changed = jax.tree.map(lambda leaf: leaf, encoder.params)
    changed["text_tower"]["out"]["bias"] = changed["text_tower"]["out"]["bias"] + 1e-3
    shorter = dataclasses.replace(TINY, max_bytes=12)
    others = [dataclasses.replace(encoder, params=changed), DualEncoder(shorter, encoder.params)]
    assert len({each.fingerprint for each in (encoder, *others)}) == 3


@pytest.mark.parametrize(
    ("kind", "digest"),
    [
        ("dual", "6bfb544f5fd5"),
        ("clip", "7fa4790068de"),
        ("representation", "d8058aa82f91"),
        ("lpips", "7b97f3717cc4"),
    ],
)
def test_a_network_is_called_as_when_folders_of_it_were_first_written(kind, digest):
    """Where this fails, encoders that people have kept, and knowledge bases made by them, are refused as damaged: mark
    the setting that is new `LATER`."""
    assert hashlib.sha256(json.dumps(identity(dual.NETWORKS[kind]())).encode()).hexdigest()[:12] == digest


def test_a_later_setting_counts_where_it_is_not_as_by_default():
    other = dataclasses.replace(
        CLIP, text=dataclasses.replace(CLIP.text, tower=dataclasses.replace(TOWER, attention="xla"))
    )
    assert "attention" not in identity(CLIP)["text"]["tower"]
    assert identity(other)["text"]["tower"]["attention"] == "xla"
    assert (
        str(other)
        == str(CLIP)
        == (
            "JointConfig(width=6, text=TextTowerConfig(tower=Tower(width=16, depth=1, heads=2, mlp_width=24, "
            "activation='quick_gelu', epsilon=1e-05), vocabulary=258, max_tokens=16), image=ImageTowerConfig("
            "tower=Tower(width=16, depth=1, heads=2, mlp_width=24, activation='quick_gelu', epsilon=1e-05), "
            "resolution=8, patch=4), "
            "tokens='bytes', tokenizer='', fingerprint='', end=257, normalised=True, dtype='float32')"
        )
    )


@pytest.mark.parametrize("images", [noise(2, side=16), noise(2).astype(np.float32), noise(2)[..., :1]])
def test_images_it_cannot_read(encoder, images):
    with pytest.raises(UserError, match=r"reads uint8 images \[N, 8, 8, 3\]"):
        encoder.images(images)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"resolution": 24}, "power of two"),
        ({"resolution": 4}, "power of two from 8"),
        ({"max_bytes": 15}, "max_bytes 15"),
        ({"channels": 6}, "6 channels are not a multiple of network.groups"),
        ({"width": 0}, "at least 1"),
    ],
)
def test_settings_that_contradict_each_other(changes, message):
    with pytest.raises(UserError, match=message):
        dataclasses.replace(TINY, **changes)


def test_one_halving_for_every_doubling_of_the_side():
    assert DualConfig(32).image_channels == (32, 64, 128)
    assert DualConfig(128).image_channels == (32, 64, 128, 128, 128)


# -- a CLIP


@pytest.fixture(scope="module")
def of_clip():
    return DualEncoder(CLIP, jax.jit(Joint(CLIP).init)(jax.random.key(0)), {"measured": {"held_out": 7}})


def test_a_clip_is_kept_and_opened_as_small_towers_are(of_clip, encoder, tmp_path):
    of_clip.save(tmp_path)
    again = open_encoder(tmp_path)
    assert (again.config, again.fingerprint, again.facts) == (CLIP, of_clip.fingerprint, of_clip.facts)
    assert (again.width, again.resolution) == (6, 8) and again.fingerprint.split()[0] == "clip"
    for method, inputs in (("texts", TEXTS), ("images", noise(3))):
        vectors = getattr(again, method)(inputs)
        assert np.array_equal(vectors, getattr(of_clip, method)(inputs)) and vectors.dtype == np.float32
        np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1.0, atol=1e-5)
    with pytest.raises(UserError, match=r"reads uint8 images \[N, 8, 8, 3\]"):
        of_clip.images(noise(2, side=16))
    elsewhere = DualEncoder(dataclasses.replace(CLIP, tokenizer="/elsewhere"), of_clip.params)
    assert elsewhere.fingerprint == of_clip.fingerprint  # where a tokenizer lies changes no vector
    manifest = json.loads((tmp_path / "manifest.json").read_text())
    (tmp_path / "manifest.json").write_text(json.dumps({**manifest, "encoder": "triplet"}))
    with pytest.raises(UserError, match=r"of a kind that is not known here, only dual, clip"):
        open_encoder(tmp_path)


@pytest.mark.parametrize("towers", ["small", "clip"])
def test_the_image_tower_is_a_function_of_images_of_any_size(encoder, of_clip, towers):
    chosen = {"small": encoder, "clip": of_clip}[towers]
    function, images = chosen.image_function(), noise(2)
    x = jax.numpy.asarray(images.astype(np.float32) / 127.5 - 1.0)
    np.testing.assert_allclose(function(function.params, x), chosen.images(images), atol=1e-5)
    large = x.repeat(2, axis=1).repeat(2, axis=2)
    gradient = jax.grad(lambda x: function(function.params, x)[:, 0].sum())(large)
    assert gradient.shape == large.shape and np.isfinite(gradient).all() and (gradient != 0).any()


# -- folders


def test_weights_of_another_encoder_are_refused(encoder, saved):
    other = jax.tree.map(lambda leaf: leaf + 1.0, encoder.params)
    dual.save_params(saved / dual.WEIGHTS, other)
    with pytest.raises(UserError, match="checksum"):
        open_encoder(saved)


def test_damaged_and_foreign_folders(saved, tmp_path_factory):
    (saved / dual.WEIGHTS).write_bytes(b"")
    with pytest.raises(UserError, match=r"damaged.*reimagen encode-train"):
        open_encoder(saved)
    empty = tmp_path_factory.mktemp("empty")
    for folder in (empty, empty / "missing"):
        with pytest.raises(UserError, match=r"no encoder.*reimagen encode-train"):
            open_encoder(folder)
    (empty / "config.json").write_text(json.dumps({"model_type": "bert"}))
    with pytest.raises(UserError, match="holds a bert"):
        open_encoder(empty)
    write_manifest(empty, "records", {})
    with pytest.raises(UserError, match="holds records, not an encoder"):
        open_encoder(empty)
