"""The encoder of representations: positions, resizing, measured statistics of BatchNorms, a CLIP in its place."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from reimagen_jax.encoders.joint import Joint
from reimagen_jax.encoders.representation import (
    Representation,
    bicubic,
    normalised,
    positions,
    representation_of,
)
from reimagen_jax.encoders.settings import ImageTowerConfig, JointConfig, RepresentationConfig, TextTowerConfig
from reimagen_jax.errors import UserError
from reimagen_jax.nets.settings import Tower

SMALL = Tower(16, 2, 2, 24, "gelu", 1e-6)
PLAIN = RepresentationConfig(SMALL, 8, 4, head_width=20, width=12)
STEM = dataclasses.replace(PLAIN, stem=True)
BOTH = pytest.mark.parametrize("config", [PLAIN, STEM], ids=["plain", "stem"])


@functools.cache
def made(config):
    """An encoder with its parameters, statistics measured."""
    encoder = Representation(config)
    params = jax.jit(encoder.init)(jax.random.key(0))
    return encoder, encoder.measured(params, [pixels(16, seed=seed) for seed in range(3)])


def pixels(count, side=8, seed=0):
    return jax.random.uniform(jax.random.key(seed), (count, side, side, 3), minval=-1.0, maxval=1.0)


@BOTH
def test_a_representation_has_mean_0_and_the_deviation_1_of_its_own_values(config):
    encoder, params = made(config)
    r_BD = np.asarray(encoder.represent(params, pixels(5)))
    assert r_BD.shape == (5, encoder.width) == (5, 12) and r_BD.dtype == np.float32
    np.testing.assert_allclose(r_BD.mean(axis=1), 0.0, atol=1e-6)
    np.testing.assert_allclose(r_BD.std(axis=1, ddof=1), 1.0, rtol=1e-5)
    f_BD = np.asarray(encoder.features(params, pixels(5)))
    own = Representation(dataclasses.replace(config, projected=False))
    expected = (f_BD - f_BD.mean(axis=1, keepdims=True)) / f_BD.std(axis=1, ddof=1, keepdims=True)
    np.testing.assert_allclose(own.represent(params, pixels(5)), expected, atol=1e-5)
    assert own.width == 16


def test_a_constant_vector_becomes_zeros():
    np.testing.assert_array_equal(normalised(jnp.full((1, 4), 3.0)), np.zeros((1, 4)))


@BOTH
def test_an_image_is_represented_whatever_else_is_in_its_batch(config):
    encoder, params = made(config)
    together = np.asarray(encoder.represent(params, pixels(4)))
    alone = np.concatenate([encoder.represent(params, pixels(4)[i : i + 1]) for i in range(4)])
    np.testing.assert_allclose(together, alone, atol=1e-5)
    *_, told = encoder.training(params, pixels(4))
    _, a, _ = encoder.training(params, pixels(4))
    _, b, _ = encoder.training(params, pixels(4)[:3])
    assert np.abs(np.asarray(a)[:3] - np.asarray(b)).max() > 1e-3, "in training, a batch is normalised by its own"
    assert jax.tree.structure(told) == jax.tree.structure(params["statistics"])


@BOTH
def test_statistics_of_one_batch_are_that_batchs_and_in_drawing_it_is_normalised_by_them(config):
    encoder, params = made(config)
    x_BHWC = pixels(16, seed=7)
    params = encoder.measured(params, [x_BHWC])
    f_BD, p_BD, told = encoder.training(params, x_BHWC)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), told, params["statistics"])
    np.testing.assert_allclose(encoder.features(params, x_BHWC), f_BD, atol=1e-4)
    np.testing.assert_allclose(encoder.represent(params, x_BHWC), normalised(p_BD), atol=1e-3)
    np.testing.assert_allclose(np.asarray(p_BD).mean(axis=0), 0.0, atol=1e-5)


def test_statistics_of_the_first_norm_are_those_of_all_examples():
    encoder, params = made(PLAIN)
    batches = [pixels(8, seed=seed) * (0.2 + seed) for seed in range(3)]
    found = encoder.measured(params, batches)["statistics"]["head"]["norm0"]["bn"]
    f_ND = np.concatenate([encoder.features(params, x_BHWC) for x_BHWC in batches])
    hidden_ND = f_ND.astype(np.float64) @ np.asarray(params["head"]["dense0"]["kernel"], np.float64)
    np.testing.assert_allclose(found["mean"], hidden_ND.mean(axis=0), atol=1e-5)
    np.testing.assert_allclose(found["var"], hidden_ND.var(axis=0), rtol=1e-3, atol=1e-6)
    with pytest.raises(UserError, match="no images"):
        encoder.measured(params, [])


def test_positions_tell_the_row_first_then_the_column():
    table = positions(RepresentationConfig(Tower(8, 1, 2, 8), 12, 4))
    assert table.shape == (9, 8) and table.dtype == np.float32
    row, column = 2, 1
    sin, cos = np.sin, np.cos
    slow = 10_000**-0.5
    expected = [sin(row), sin(row * slow), cos(row), cos(row * slow)]
    expected += [sin(column), sin(column * slow), cos(column), cos(column * slow)]
    np.testing.assert_allclose(table[row * 3 + column], expected, atol=1e-6)


def test_patches_are_told_where_they_are():
    """The class token alone of a transformer is blind to their order, but for positions."""
    encoder, params = made(PLAIN)
    x_BHWC = pixels(1)
    moved = jnp.roll(x_BHWC, 4, axis=2)
    assert np.abs(np.asarray(encoder.features(params, x_BHWC) - encoder.features(params, moved))).max() > 1e-4


def test_resizing_keeps_what_is_linear_and_constant():
    ramp = jnp.broadcast_to(jnp.arange(12.0)[None, None, :, None], (1, 12, 12, 3))
    small = np.asarray(bicubic(ramp, 8))
    assert small.shape == (1, 8, 8, 3)
    np.testing.assert_allclose(bicubic(jnp.ones((1, 5, 7, 3)), 11), np.ones((1, 11, 11, 3)), atol=1e-6)
    np.testing.assert_array_equal(bicubic(ramp, 12), ramp)
    inner = small[0, 3, 2:-2, 0]
    assert np.all(np.diff(inner) > 1.0) and np.ptp(small[0, :, 4, 0]) < 1e-5


def test_images_of_another_size_are_resized_by_setting():
    encoder, params = made(PLAIN)
    smooth = Representation(dataclasses.replace(PLAIN, smoothed=True))
    x_BHWC = pixels(2, side=16)
    assert encoder.pixels(x_BHWC).shape == smooth.pixels(x_BHWC).shape == (2, 8, 8, 3)
    assert np.std(encoder.pixels(x_BHWC)) > 1.2 * np.std(smooth.pixels(x_BHWC))
    assert np.abs(np.asarray(encoder.represent(params, x_BHWC) - smooth.represent(params, x_BHWC))).max() > 1e-3
    mean, std = (np.array(each, np.float32) for each in (PLAIN.mean, PLAIN.std))
    np.testing.assert_allclose(encoder.pixels(jnp.full((1, 8, 8, 3), -1.0))[0, 0, 0], -mean / std, rtol=1e-6)


def test_a_clip_represents_images_by_its_vectors_normalised():
    tower = Tower(16, 1, 2, 24)
    config = JointConfig(12, TextTowerConfig(tower, max_tokens=8), ImageTowerConfig(tower, 8, 4))
    encoder = representation_of(config)
    params = encoder.init(jax.random.key(0))
    assert encoder.width == 12
    expected = normalised(Joint(config).images(params, pixels(3)))
    np.testing.assert_allclose(encoder.represent(params, pixels(3)), expected, atol=1e-6)
    assert isinstance(representation_of(PLAIN), Representation)
    with pytest.raises(UserError, match="no image tower"):
        representation_of(dataclasses.replace(config, image=None))


def test_it_reads_images_alone():
    encoder, params = made(PLAIN)
    np.testing.assert_allclose(jnp.linalg.norm(encoder.embed_images(params, pixels(3)), axis=1), 1.0, rtol=1e-5)
    with pytest.raises(UserError, match="reads images alone"):
        encoder.tokenizer()
    with pytest.raises(UserError, match="reads images alone"):
        encoder.embed_texts(params, None)


@pytest.mark.parametrize(
    "changes,said",
    [
        ({"tower": Tower(18, 1, 2, 8)}, "multiple of 4"),
        ({"patch": 3}, "does not divide"),
        ({"patch": 1, "stem": True}, "stem halves"),
        ({"std": (1.0, 0.0, 1.0)}, "more than 0"),
    ],
    ids=["width", "patch", "stem", "std"],
)
def test_settings_that_do_not_fit_are_refused(changes, said):
    with pytest.raises(UserError, match=said):
        dataclasses.replace(PLAIN, **changes)
