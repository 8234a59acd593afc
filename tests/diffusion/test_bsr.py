"""The BSR degradation: what its steps leave alone, in what order they come; and that JPEG is as Pillow has it."""

import dataclasses
import io
from collections import Counter

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from reimagen_jax.diffusion import bsr, degrade, jpeg
from reimagen_jax.diffusion.settings import SuperResolutionConfig
from reimagen_jax.errors import UserError

compressed = jax.jit(jpeg.compressed)
blurred = jax.jit(bsr.blurred, static_argnames="reach")
resizing_matrix = jax.jit(bsr.resizing_matrix, static_argnums=0)
CONFIG = SuperResolutionConfig(low_resolution=8, degradation="bsr")


@pytest.fixture(scope="module")
def images():
    """Six smooth ones of 32 pixels, in [-0.8, 0.8]."""
    small = jax.random.uniform(jax.random.key(0), (6, 5, 5, 3), minval=-0.8, maxval=0.8)
    return jnp.clip(jax.image.resize(small, (6, 32, 32, 3), "linear"), -0.8, 0.8)


@pytest.fixture(scope="module")
def degraded():
    """The one program of all tests: six images to 8 pixels."""
    return jax.jit(lambda images, key: degrade.degrade(images, 8, CONFIG, key))


def test_images_become_small_and_stay_images_in_whole_grey_levels(images, degraded):
    low = degraded(images, jax.random.key(1))
    assert low.shape == (6, 8, 8, 3) and low.dtype == jnp.float32
    levels = (np.asarray(low) + 1.0) * 127.5
    np.testing.assert_allclose(levels, np.round(levels), atol=1e-3)
    assert np.abs(low).max() <= 1.0
    away = np.abs(low - degrade.shrink(images, 8)).mean(axis=(1, 2, 3))
    assert (away > 0.004).all() and (away < 0.3).all()  # each was changed, and shows what it showed


def test_the_key_decides_and_each_image_draws_its_own(images, degraded):
    same = jnp.repeat(images[:1], 6, axis=0)
    first, again, other = (degraded(same, jax.random.key(seed)) for seed in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    for a, b in [(0, 1), (1, 2), (4, 5)]:
        assert np.abs(first[a] - first[b]).max() > 0.01
    assert np.abs(first - other).max(axis=(1, 2, 3)).min() > 0.01


def test_a_flat_image_keeps_its_colour_but_for_noise(degraded):
    flat = jnp.broadcast_to(jnp.array([0.3, -0.2, 0.6]), (6, 32, 32, 3))
    low = np.asarray(degraded(flat, jax.random.key(3)))
    np.testing.assert_allclose(low.mean(axis=(1, 2)), flat.mean(axis=(1, 2)), atol=0.02)
    assert low.std(axis=(1, 2)).max() < 0.04


def test_the_final_resizing_comes_last_of_the_two_and_all_such_orders_are_as_likely():
    u = jax.random.uniform(jax.random.key(0), (12_000, bsr.STEPS))
    counts = Counter(map(tuple, np.asarray(jax.jit(jax.vmap(bsr.random_order))(u)).tolist()))
    assert all(sorted(order) == [0, 1, 2, 3, 4] and order.index(1) < order.index(2) for order in counts)
    assert len(counts) == 60
    np.testing.assert_allclose(np.array(list(counts.values())) / 200, 1.0, atol=0.3)


@pytest.mark.parametrize("filter", [0, 1, 2, 3])
def test_rows_of_weights_sum_to_1_and_see_only_what_is_there(filter):
    for n, m in [(32, 8), (32, 13), (20, 20), (5, 8)]:
        S = np.asarray(resizing_matrix(32, jnp.float32(n), jnp.float32(m), jnp.int32(filter), 2.0))
        np.testing.assert_allclose(S.sum(axis=1), 1.0, atol=1e-5)
        assert (S[:, n:] == 0).all() and (S[m:] == S[m - 1]).all()
        np.testing.assert_allclose(S[:m, :n], S[:m, :n][::-1, ::-1], atol=1e-5)  # centres stay in place


@pytest.mark.parametrize("filter", [0, 1, 2])
def test_no_resizing_is_the_identity_and_area_is_the_mean(images, filter):
    S = resizing_matrix(32, jnp.float32(32), jnp.float32(32), jnp.int32(filter), 1.0)
    np.testing.assert_allclose(S, np.eye(32), atol=1e-5)
    halves = bsr.resized(images[0], jnp.float32(32), jnp.float32(8), jnp.int32(2))[:8, :8]
    np.testing.assert_allclose(halves, degrade.shrink(images[:1], 8)[0], atol=1e-5)


def test_no_width_blurs_nothing_and_a_blur_is_a_gaussian_of_its_covariance(images):
    np.testing.assert_allclose(blurred(images[0], jnp.zeros((2, 2)), reach=7), images[0], atol=1e-6)
    point = jnp.zeros((32, 32, 3)).at[16, 16].set(1.0)
    C = jnp.array([[2.0, 0.8], [0.8, 1.2]])
    spread = np.asarray(blurred(point, C, reach=7))[..., 0]
    place = np.stack(np.mgrid[-16:16, -16:16])
    np.testing.assert_allclose(spread.sum(), 1.0, atol=1e-5)
    np.testing.assert_allclose(np.einsum("hw,ahw,bhw->ab", spread, place, place), C, atol=0.01)


def test_covariances_are_those_of_gaussians_within_their_bounds():
    u = jax.random.uniform(jax.random.key(0), (500, bsr.NUMBERS))
    eigenvalues = np.linalg.eigvalsh(jax.jit(jax.vmap(bsr.covariance, (None, 0)))(jnp.float32(4.0), u))
    assert (eigenvalues >= 0).all() and 1.8 < eigenvalues.max() <= 2.0
    assert 0.3 < (np.ptp(eigenvalues, axis=1) < 1e-5).mean() < 0.7  # a half is isotropic


def test_noise_is_of_two_grey_levels_at_most_and_of_three_kinds():
    u = jax.random.uniform(jax.random.key(0), (400, bsr.NUMBERS))
    eps = jax.random.normal(jax.random.key(1), (24, 24, 3))
    noise = np.asarray(jax.jit(jax.vmap(bsr.noise, (None, 0)))(eps, u)) * 127.5
    assert 1.7 < noise.std(axis=(1, 2)).max() < 2.3
    same = np.abs(noise - noise[..., :1]).max(axis=(1, 2, 3)) < 1e-4
    assert 0.3 < same.mean() < 0.5


def _as_pillow(x: np.ndarray, quality: int) -> np.ndarray:
    buffer = io.BytesIO()
    Image.fromarray(x).save(buffer, "JPEG", quality=quality)
    return np.asarray(Image.open(buffer))


@pytest.mark.parametrize("quality", [10, 30, 50, 80, 95, 100])
def test_jpeg_shows_what_pillow_shows(quality):
    noise = np.random.default_rng(0).integers(0, 256, (12, 16, 3), np.uint8)
    x = np.asarray(Image.fromarray(noise).resize((96, 64), Image.Resampling.BICUBIC))
    floats = jnp.asarray(x, jnp.float32) / 127.5 - 1.0
    ours = np.round((np.asarray(compressed(floats, jnp.float32(quality))) + 1.0) * 127.5)
    theirs = _as_pillow(x, quality).astype(float)
    assert np.abs(ours - theirs).mean() < 1.0
    if quality < 100:  # that is little beside what JPEG does
        assert np.abs(ours - theirs).mean() < 0.2 * np.abs(x - theirs).mean()


def test_jpeg_at_its_best_keeps_a_grey_image_and_at_its_worst_little():
    grey = jnp.repeat(jax.random.uniform(jax.random.key(0), (32, 32, 1), minval=-1.0), 3, axis=2)
    best, worst = (compressed(grey, jnp.float32(quality)) for quality in (100, 1))
    assert np.abs(best - grey).max() < 2.5 / 127.5
    assert np.abs(worst - grey).mean() > 0.2


def test_settings_of_the_other_degradation_are_refused_beside_it():
    for name, value in [("shrinking", ("area",)), ("blur", 0.0), ("blur_width", (0.1, 0.2))]:
        with pytest.raises(UserError, match=rf"super_resolution\.{name} .*'bsr' draws its own"):
            dataclasses.replace(CONFIG, **{name: value})
