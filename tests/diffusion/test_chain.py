"""The cosine chain: the schedule passes through its steps, the sampler visits them, and ends at the image itself."""

from itertools import pairwise

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from reimagen_jax.diffusion import degrade, objective, sampler, schedule, variance
from reimagen_jax.diffusion.settings import DiffusionConfig, SamplerConfig, SuperResolutionConfig
from reimagen_jax.diffusion.spacing import SECTIONS
from reimagen_jax.errors import UserError
from tests.diffusion.test_diffusion import gaussian_denoiser, plain, sample

T = 1000
CHAIN = DiffusionConfig(
    schedule="cosine_chain", prediction="x0", logsnr_min=-20.0, logsnr_max=30.0, learned_variance=True
)


def chain():
    """alpha^2 after each step, by the definition: the product of 1 - beta_n, in double precision."""
    f = np.cos(0.5 * np.pi * (np.arange(T + 1) / T + 0.008) / 1.008) ** 2
    return np.cumprod(1.0 - np.minimum(1.0 - f[1:] / f[:-1], 0.999))


def test_the_schedule_passes_through_the_chain():
    alpha, sigma = schedule.alpha_sigma(jnp.arange(T, dtype=jnp.float32) / T, CHAIN)
    np.testing.assert_allclose(np.asarray(alpha, np.float64) ** 2, chain(), rtol=1e-4)
    np.testing.assert_allclose(np.asarray(sigma, np.float64) ** 2, 1.0 - chain(), rtol=1e-4)
    clean_alpha, clean_sigma = schedule.alpha_sigma(jnp.float32(schedule.clean_time(CHAIN)), CHAIN)
    assert float(clean_alpha) == 1.0 and float(clean_sigma) < 1e-6
    assert np.all(np.diff(schedule.logsnr(jnp.linspace(-1 / T, 1.0, 5000), CHAIN)) <= 0)


def test_augmentation_levels_are_steps_of_the_chain():
    stage = SuperResolutionConfig(aug_schedule="cosine_chain")
    alpha, sigma = degrade.alpha_sigma(jnp.asarray([0.0, 0.25, 0.999]), stage)
    np.testing.assert_allclose(np.asarray(alpha) ** 2, chain()[[0, 250, 999]], rtol=1e-4)
    np.testing.assert_allclose(alpha**2 + sigma**2, 1.0, rtol=1e-6)


@pytest.mark.parametrize(("steps", "visited"), [(4, [999, 749, 499, 249]), (3, [999, 666, 332]), (1, [999])])
def test_the_sampler_visits_steps_of_the_chain(steps, visited):
    np.testing.assert_allclose(schedule.times(steps, CHAIN) * T, [*visited, -1], atol=1e-4)


SCALED_LINEAR = DiffusionConfig(schedule="scaled_linear", prediction="x0")


def test_scaled_linear_is_the_published_chain_at_its_steps_and_rises_between_them():
    alpha, sigma = schedule.alpha_sigma(jnp.arange(T, dtype=jnp.float32) / T, SCALED_LINEAR)
    expected = np.cumprod(1.0 - np.linspace(0.0015**0.5, 0.0195**0.5, T) ** 2)
    np.testing.assert_allclose(np.asarray(alpha, np.float64) ** 2, expected, rtol=1e-4)
    np.testing.assert_allclose(np.asarray(sigma, np.float64) ** 2, 1.0 - expected, rtol=1e-4)
    np.testing.assert_allclose(expected[[0, 1, 997, 999]], [0.9985, 0.996994, 1.480e-4, 1.423e-4], rtol=5e-4)
    assert np.all(np.diff(schedule.logsnr(jnp.linspace(-1 / T, 1.0, 5000), SCALED_LINEAR)) <= 0)
    clean_alpha, clean_sigma = schedule.alpha_sigma(jnp.float32(schedule.clean_time(SCALED_LINEAR)), SCALED_LINEAR)
    assert float(clean_alpha) == pytest.approx(1.0, abs=1e-6) and float(clean_sigma) < 1e-3


@pytest.mark.parametrize(("steps", "first", "second"), [(250, 997, 993), (20, 951, 901), (500, 999, 997)])
def test_ldm_steps_are_one_further_than_leading_ones_and_end_where_there_is_noise(steps, first, second):
    visited = np.asarray(schedule.times(steps, SCALED_LINEAR, "ldm"), np.float64) * T
    np.testing.assert_allclose(visited[[0, 1, -2, -1]], [first, second, 1, 0], atol=1e-4)
    assert len(visited) == steps + 1
    with pytest.raises(UserError, match="'ldm' visits 999 steps of a chain of 1000 at most"):
        schedule.times(T, SCALED_LINEAR, "ldm")


def test_scaled_linear_is_trained_at_whole_steps_each_equally_often():
    seen = []

    def denoise(x, t, condition):
        seen.append(t)
        return x

    objective.diffusion_loss(denoise, jnp.zeros((2 * T, 3)), None, jax.random.key(0), SCALED_LINEAR)
    steps = np.asarray(seen[0], np.float64) * T
    np.testing.assert_allclose(steps, np.round(steps), atol=1e-3)
    assert np.bincount(np.round(steps).astype(int), minlength=T).tolist() == pytest.approx([2] * T, abs=1)


@pytest.mark.parametrize(("steps", "visited"), [(4, [750, 500, 250, 0]), (3, [666, 333, 0]), (1, [0])])
def test_leading_steps_are_those_of_diffusers(steps, visited):
    np.testing.assert_allclose(schedule.times(steps, CHAIN, "leading") * T, [*visited, -1], atol=1e-4)


@pytest.mark.parametrize(
    "process",
    [
        CHAIN,
        DiffusionConfig(schedule="cosine_chain", variance_steps=40),
        DiffusionConfig(schedule="scaled_linear", logsnr_shift=-2.0),
    ],
)
def test_every_number_of_steps_begins_at_the_noisy_end_and_ends_at_the_image(process):
    T = process.variance_steps
    for n in range(1, T + 1):
        visited = np.asarray(schedule.times(n, process), np.float64) * T
        assert visited[0] == pytest.approx(T - 1) and visited[-1] == pytest.approx(-1) and len(visited) == n + 1
        assert np.diff(visited).max() < -0.99 and np.ptp(np.diff(visited)) < 1.01
    assert float(schedule.alpha_sigma(schedule.times(1, process)[0], process)[0]) < 0.02
    np.testing.assert_array_equal(schedule.times(T, process), schedule.times(T, process, "leading"))


@pytest.mark.parametrize("spacing", ["even", "trailing", "linspace", "karras", "logsnr"])
@pytest.mark.parametrize("schedule_name", ["cosine", "linear", "cosine_chain", "scaled_linear"])
def test_a_spacing_falls_from_the_noisy_end_to_the_image_for_every_number_of_steps(schedule_name, spacing):
    process = DiffusionConfig(schedule=schedule_name, logsnr_shift=-2.0)
    if spacing in ("trailing", "linspace") and not process.chain:
        with pytest.raises(UserError, match=f"sampler.spacing '{spacing}' is about a chain"):
            schedule.times(3, process, spacing)
        return
    for n in (*range(1, 9), 50, 999, 1000):
        visited = np.asarray(schedule.times(n, process, spacing))
        assert visited[0] == np.float32(process.first_time) and visited[-1] == np.float32(process.clean_time)
        assert len(visited) == n + 1 and np.all(np.diff(visited) < 0.0)


@pytest.mark.parametrize("schedule_name", ["cosine", "linear", "cosine_chain", "scaled_linear"])
def test_karras_and_logsnr_part_the_noise_equally(schedule_name):
    process = CHAIN if schedule_name == "cosine_chain" else DiffusionConfig(schedule=schedule_name)
    ends = slice(0, None) if schedule_name == "cosine" else slice(0, -1)  # where the image lies beyond the last
    for spacing, power in (("karras", -0.5 / 7.0), ("logsnr", None)):
        half = 0.5 * np.asarray(schedule.logsnr(schedule.times(9, process, spacing), process), np.float64)[ends]
        falls = np.diff(half if power is None else np.exp(2.0 * power * half))
        np.testing.assert_allclose(falls, falls.mean(), rtol=0.02)


@pytest.mark.parametrize("name", SECTIONS)
def test_respacings_are_of_the_whole_chain_and_refuse_others(name):
    n = sum(SECTIONS[name])
    visited = np.rint(np.asarray(schedule.times(n, CHAIN, name)) * T)
    assert visited[0] == T - 1 and visited[-2] == 0 and visited[-1] == -1 and np.all(np.diff(visited) < 0)
    with pytest.raises(UserError, match=f"'{name}' has {n} steps, but sampler.num_steps is 7: set it to {n}"):
        SamplerConfig(spacing=name, num_steps=7).check_process(CHAIN)
    short = DiffusionConfig(schedule="cosine_chain", variance_steps=n)
    with pytest.raises(UserError, match=f"longer chains than the model's, of {n} steps"):
        SamplerConfig(spacing=name, num_steps=n).check_process(short)


def test_ddim_strides_are_whole_numbers():
    np.testing.assert_array_equal(np.rint(schedule.times(50, CHAIN, "ddim") * T), [*range(980, -1, -20), -1])
    assert float(schedule.times(27, CHAIN, "ddim")[0]) == pytest.approx(26 * 38 / T)
    with pytest.raises(UserError, match=r"chain of 1000 steps: set sampler\.num_steps to 50"):
        SamplerConfig(spacing="ddim", num_steps=51).check_process(CHAIN)


def test_times_are_listed_as_they_are_and_the_image_follows():
    listed = (0.999, 0.5, 0.0)
    settings = SamplerConfig(times=listed, num_steps=3)
    settings.check_process(CHAIN)
    visited = schedule.times(3, CHAIN, settings.spacing, settings.times)
    np.testing.assert_array_equal(visited, np.asarray([*listed, -1 / T], np.float32))
    for said, times, others in (
        ("0.7 after 0.7: times fall", (0.7, 0.7), {}),
        ("0.9 after 0.2: times fall", (0.5, 0.2, 0.9), {}),
        ("lists 2, but sampler.num_steps is 25: set it to 2", (0.5, 0.2), {"num_steps": 25}),
        ("leave sampler.spacing 'karras' out", (0.5, 0.2), {"spacing": "karras"}),
        (r"sampler.times.*at most 1", (1.5, 0.2), {}),
        (r"sampler.times.*at least 0", (0.5, -0.2), {}),
    ):
        with pytest.raises(UserError, match=said):
            SamplerConfig(**{"times": times, "num_steps": len(times)} | others)
    with pytest.raises(UserError, match=r"begins at 1\.0, but the model's noisiest time is 0\.999"):
        SamplerConfig(times=(1.0, 0.5), num_steps=2).check_process(CHAIN)
    with pytest.raises(UserError, match=r"ends at 0\.0, where the image is"):
        SamplerConfig(times=(1.0, 0.0), num_steps=2).check_process(DiffusionConfig())
    SamplerConfig(times=(1.0, 0.0), num_steps=2).check_process(DiffusionConfig(schedule="linear"))


def test_more_steps_of_the_chain_draw_no_worse():
    mean, std = 0.5, 0.1
    process = DiffusionConfig(schedule="cosine_chain", prediction="x0")
    errors = []
    for n in (1, 5, 25, 150, 334, 501, 1000):
        settings = SamplerConfig(num_steps=n, thresholding="none")
        denoise = gaussian_denoiser(mean, std, process)
        x = np.asarray(sample(denoise, plain(64), sampler.image_keys(0, range(64)), process, settings, (8, 8, 1)))
        assert abs(x.mean() - mean) < 0.005
        errors.append(abs(x.std() / std - 1.0))
    assert errors[-1] < 0.02 and all(more <= fewer + 0.002 for fewer, more in pairwise(errors))


def test_more_steps_than_the_chain_has_are_refused():
    with pytest.raises(UserError, match="num_steps is 1001, but the model's chain has 1000"):
        schedule.times(1001, CHAIN)


def test_other_schedules_visit_equal_steps_down_to_zero():
    np.testing.assert_array_equal(schedule.times(4, DiffusionConfig()), jnp.linspace(1.0, 0.0, 5))


@pytest.mark.parametrize("said", [-1.0, 1.0])
def test_the_last_step_adds_no_noise_whatever_the_variance(said):
    """The image that is drawn is the one that the last step predicts."""

    def denoise(x, t_B, condition):
        image = jnp.broadcast_to(jnp.asarray([0.3, -0.2, 0.9]), x.shape)
        return jnp.concatenate([image, jnp.full_like(x, said)], axis=-1)

    settings = SamplerConfig(solver="ddpm", num_steps=3, thresholding="none")
    x = sample(denoise, plain(1), sampler.image_keys(0, [0]), CHAIN, settings, shape=(4, 4, 3), eta=1.0)
    np.testing.assert_allclose(x, np.broadcast_to([0.3, -0.2, 0.9], x.shape), atol=1e-5)


def test_dynamic_thresholding_has_a_limit_where_one_is_set():
    x0 = jnp.asarray([0.0, 0.5, 3.0, -4.0]).reshape(1, 2, 2, 1)

    def projected(**limit):
        settings = SamplerConfig(thresholding="dynamic", percentile=1.0, **limit)
        return sampler.projection(settings)(x0, x0, jnp.float32(0.5))

    np.testing.assert_allclose(projected(), x0 / 4.0)
    limited = projected(threshold_limit=1.5)
    np.testing.assert_allclose(limited.ravel(), [0.0, 1 / 3, 1.0, -1.0], rtol=1e-6)
    with pytest.raises(UserError, match=r"threshold_limit is 0\.5: at least 1"):
        SamplerConfig(threshold_limit=0.5)


def test_the_variational_term_is_finite_over_the_whole_chain():
    t_B = jnp.asarray([0.0, 0.0005, 0.001, 0.5, 0.999, 1.0])
    x = jnp.linspace(-1.0, 1.0, 6 * 4 * 4 * 3).reshape(6, 4, 4, 3)
    for fraction in (0.0, 0.5, 1.0):
        bits = variance.variational_bits(0.5 * x, jnp.full_like(x, fraction), x, 0.9 * x, t_B, CHAIN)
        assert np.isfinite(bits).all()
