"""Degradations: what keeps the image's mean, what leaves it alone, and that crops stay aligned."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from reimagen_jax.diffusion import degrade, guidance, sampler, schedule, solvers
from reimagen_jax.diffusion.settings import DiffusionConfig, SamplerConfig, SuperResolutionConfig
from reimagen_jax.systems.examples import crop

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


def test_noise_at_every_call_is_the_rule_of_deepfloyds_own_code():
    """Its second stage noises the enlarged image inside of the network: at every step, each half of the doubled batch.

    Written again here, in double precision, with a network of one line; the random numbers are ours.
    """
    level, weight, T, visited = 0.25, 3.0, 1000, (999, 700, 350, 90)
    config = SuperResolutionConfig(aug_schedule="cosine_chain")
    process = DiffusionConfig(schedule="cosine_chain", prediction="eps", logsnr_min=-25.0, logsnr_max=25.0)
    settings = SamplerConfig(solver="ddpm", num_steps=4, times=tuple(step / T for step in visited))
    up, keys_B, aug_B = (
        jax.random.uniform(jax.random.key(0), (2, 4, 4, 3), minval=-1.0),
        sampler.image_keys(1, range(2)),
        sampler.image_keys(2, range(2)),
    )
    drawn = []

    def network(x, low, word):
        return 0.7 * x + 0.2 * low + 0.1 * word

    def noised(condition, eps):
        drawn.append(eps)
        return condition | {"low": degrade.augment(condition["low"], jnp.full(len(eps), level), eps, config)}

    x_T = sampler.initial_noise(keys_B, (4, 4, 3))
    with jax.disable_jit():
        ours = sampler.sample(
            lambda x, t_B, condition: network(x, condition["low"], condition["word"]),
            {"low": up, "word": jnp.ones((2, 1, 1, 1))},
            x_T,
            keys_B,
            schedule.times(4, process, settings.spacing, settings.times),
            process,
            solvers.solver_of(settings, process),
            degrade.anew(guidance.single(lambda c: c | {"word": jnp.zeros_like(c["word"])}, weight), noised, aug_B),
            sampler.projection(settings),
        )
    assert len(drawn) == 4 and drawn[0].shape == (4, 4, 4, 3)

    bar = np.cos((np.arange(T + 1) / T + 0.008) / 1.008 * np.pi / 2) ** 2
    kept = np.cumprod(1.0 - np.minimum(1.0 - bar[1:] / bar[:-1], 0.999))  # alpha bar
    x, up = np.asarray(x_T, np.float64), np.asarray(up, np.float64)
    aug = kept[int(level * T)]
    for i, (now, then) in enumerate(zip(kept[list(visited)], [*kept[list(visited[1:])], 1.0], strict=True)):
        low = np.sqrt(aug) * np.repeat(up, 2, axis=0) + np.sqrt(1.0 - aug) * np.asarray(drawn[i], np.float64)
        full, less = (network(x, low[half::2], 1.0 - half) for half in (0, 1))
        x_0 = np.clip((x - np.sqrt(1.0 - now) * (less + weight * (full - less))) / np.sqrt(now), -1.0, 1.0)
        beta = 1.0 - now / then
        mean = np.sqrt(then) * beta / (1.0 - now) * x_0 + np.sqrt(1.0 - beta) * (1.0 - then) / (1.0 - now) * x
        noise = jax.vmap(lambda key, i=i: jax.random.normal(jax.random.fold_in(key, i), (4, 4, 3)))(keys_B)
        x = mean + np.sqrt(beta * (1.0 - then) / (1.0 - now)) * np.asarray(noise, np.float64)
    np.testing.assert_allclose(ours, x, atol=1e-5)
