"""Degradations: what keeps the image's mean, what leaves it alone, and that crops stay aligned."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from reimagen_jax.diffusion import degrade
from reimagen_jax.diffusion.settings import SuperResolutionConfig
from reimagen_jax.systems.reimagen.batches import crop

PLAIN = SuperResolutionConfig(low_resolution=8, blur=0.0, shrinking=("area",))
BLURRED = dataclasses.replace(PLAIN, blur=1.0, blur_width=(0.3, 1.0))


@pytest.fixture
def images(key):
    return jax.random.uniform(key, (6, 32, 32, 3), minval=-1.0, maxval=1.0)


def test_shrinking_is_the_mean_over_the_area(images):
    blocks = np.asarray(images).reshape(6, 8, 4, 8, 4, 3).mean(axis=(2, 4))
    np.testing.assert_allclose(degrade.shrink(images, 8), blocks, atol=1e-6)


@pytest.mark.parametrize("filter", ["area", "linear", "cubic", "lanczos3"])
def test_a_flat_image_stays_flat(filter):
    flat = jnp.full((2, 32, 32, 3), 0.3)
    config = dataclasses.replace(BLURRED, shrinking=(filter,))
    np.testing.assert_allclose(degrade.degrade(flat, 8, config, jax.random.key(1)), 0.3, atol=1e-5)
    np.testing.assert_allclose(degrade.enlarge(degrade.shrink(flat, 8, filter), 32), 0.3, atol=1e-5)


@pytest.mark.parametrize("width", [0.3, 1.0, 5.0])
def test_blurring_keeps_every_image_mean_and_takes_detail(images, width):
    G = degrade.blur_matrix(32, width)
    np.testing.assert_allclose(G.sum(axis=0), 1.0, atol=1e-5)
    np.testing.assert_allclose(G.sum(axis=1), 1.0, atol=1e-5)
    blurred = jnp.einsum("ih,bhwc,jw->bijc", G, images, G)
    assert float(blurred.std()) < float(images.std())


def test_degraded_images_keep_their_mean_and_differ_from_plain_ones(images):
    low = degrade.degrade(images, 8, BLURRED, jax.random.key(1))
    np.testing.assert_allclose(low.mean(axis=(1, 2)), images.mean(axis=(1, 2)), atol=1e-6)
    change_B = jnp.abs(low - degrade.shrink(images, 8)).max(axis=(1, 2, 3))
    assert float(change_B.min()) > 1e-3


def test_without_degradations_it_is_plain_shrinking(images):
    low = degrade.degrade(images, 8, PLAIN, jax.random.key(1))
    np.testing.assert_allclose(low, degrade.shrink(images, 8), atol=1e-6)


def test_each_image_draws_its_own_blur_and_filter():
    """The same image 64 times: blurred or not, by three filters, each about as often as promised."""
    image = jax.random.uniform(jax.random.key(2), (1, 32, 32, 3), minval=-0.5, maxval=0.5)
    config = SuperResolutionConfig(low_resolution=8, blur=0.5)
    low = degrade.degrade(jnp.repeat(image, 300, axis=0), 8, config, jax.random.key(1))
    for filter in config.shrinking:
        plain = degrade.shrink(image, 8, filter)
        share = float((jnp.abs(low - plain).max(axis=(1, 2, 3)) < 1e-5).mean())
        assert abs(share - 1 / 6) < 0.07, filter
    assert float(jnp.abs(low).max()) <= 1.0


@pytest.mark.parametrize("schedule", ["cosine", "linear"])
def test_level_0_leaves_the_image_and_more_noise_comes_with_the_level(images, schedule):
    config = dataclasses.replace(PLAIN, aug_schedule=schedule)
    eps = jax.random.normal(jax.random.key(3), images.shape)
    np.testing.assert_array_equal(degrade.augment(images, jnp.zeros(6), eps, config), images)
    alpha, sigma = degrade.alpha_sigma(jnp.linspace(0.0, 1.0, 11), config)
    np.testing.assert_allclose(alpha**2 + sigma**2, 1.0, atol=1e-6)
    assert (jnp.diff(sigma) > 0).all() and float(alpha[-1]) < 0.01


def test_levels_are_uniform_in_their_range():
    levels = degrade.draw_levels(20_000, dataclasses.replace(PLAIN, aug_levels=(0.2, 0.6)), jax.random.key(0))
    counts, _ = np.histogram(levels, bins=4, range=(0.2, 0.6))
    np.testing.assert_allclose(counts / 20_000, 0.25, atol=0.015)
    np.testing.assert_array_equal(
        degrade.draw_levels(3, dataclasses.replace(PLAIN, aug_levels=(0.5, 0.5)), jax.random.key(0)), 0.5
    )


def test_the_low_resolution_image_of_a_crop_is_the_crop_of_the_low_resolution_image(images):
    corner_B2 = np.asarray([[0, 0], [4, 8], [16, 16], [8, 0], [12, 4], [0, 16]])
    of_crop = degrade.shrink(jnp.asarray(crop(np.asarray(images), corner_B2, 16)), 4)
    of_whole = crop(np.asarray(degrade.shrink(images, 8)), corner_B2 // 4, 4)
    np.testing.assert_allclose(of_crop, of_whole, atol=1e-6)


def test_aligned_corners_keep_corners_and_straight_lines():
    line = jnp.linspace(-1.0, 1.0, 5)
    x = (line[:, None] + 2.0 * line[None, :])[None, :, :, None]
    large = degrade.enlarge(x, 20, "linear_corners")
    fine = jnp.linspace(-1.0, 1.0, 20)
    np.testing.assert_allclose(large[0, :, :, 0], fine[:, None] + 2.0 * fine[None, :], atol=1e-5)
    np.testing.assert_allclose(degrade.corner_matrix(5, 20).sum(axis=1), 1.0, rtol=1e-6)
