"""SeedSelect: its losses, its gradient through any sampler, and what the search keeps.

Most samplers here are of a Gaussian whose best denoiser is known: x_0 is affine in x_T, so an image is found exactly.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from reimagen_jax.diffusion import guidance, sampler, schedule, solvers
from reimagen_jax.diffusion.settings import DiffusionConfig, SamplerConfig
from reimagen_jax.errors import UserError
from reimagen_jax.systems.seedselect import losses
from reimagen_jax.systems.seedselect.losses import Goal
from reimagen_jax.systems.seedselect.search import Objective, optimizer_of, search
from reimagen_jax.systems.seedselect.settings import CODE, OURS, PAPER, SeedSelectConfig
from tests.diffusion.test_diffusion import gaussian_denoiser

PROCESS = DiffusionConfig(logsnr_min=-6.0, logsnr_max=6.0)
GAUSSIAN = gaussian_denoiser(0.1, 0.4, PROCESS)
SHAPE = (4, 4, 3)
MATRIX = np.random.default_rng(0).normal(size=(48, 5)).astype(np.float32)
SOLVERS = ["ddim", "ddpm", "dpmpp_2m", "unipc", "heun"]


def bent(x, t_B, condition):
    """A prediction that depends on x in no simple way, and on the condition."""
    return jnp.tanh(1.3 * x + 2.0 * t_B[:, None, None, None] + condition)


def embed(params, image):
    return jnp.tanh(image.reshape(len(image), -1) @ params)


def sampling_of(solver="ddim", num_steps=6, denoise=GAUSSIAN, thresholding="none"):
    """(x_T, condition) -> what is sampled, with a key for each."""
    settings = SamplerConfig(solver=solver, num_steps=num_steps, thresholding=thresholding)

    def of(told):
        x_T, condition = told
        return sampler.Sampling(
            denoise,
            condition,
            x_T,
            sampler.image_keys(0, range(len(x_T))),
            schedule.times(num_steps, PROCESS),
            PROCESS,
            solvers.solver_of(settings, PROCESS),
            guidance.unguided,
            sampler.projection(settings),
        )

    return of


def made(B=2, of=None, **settings):
    """An objective and what it is called with: noises, what is told, a goal, the encoder's parameters."""
    rng = np.random.default_rng(1)
    x_T = jnp.asarray(rng.normal(size=(B, *SHAPE)), jnp.float32)
    image = jnp.asarray(rng.uniform(-0.9, 0.9, (B, *SHAPE)), jnp.float32)
    goal = Goal(embed(jnp.asarray(MATRIX), image), image, jnp.arange(B))
    objective = Objective(of or sampling_of(), embed, SeedSelectConfig(**settings))
    return objective, x_T, (x_T, jnp.full((B, 1, 1, 1), 0.1)), goal, jnp.asarray(MATRIX)


# --- the sampler ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("solver", SOLVERS)
def test_the_last_steps_end_where_sample_ends(solver):
    _, x_T, told, *_ = made()
    sampling = sampling_of(solver, denoise=bent)(told)
    whole = jax.jit(lambda: sampler.sample(*sampling))()
    steps = jax.jit(lambda: sampler.last_steps(sampling, 3))()
    assert steps.x.shape == steps.x0.shape == (3, *x_T.shape)
    np.testing.assert_allclose(steps.x[-1], whole, atol=1e-6)


# --- the gradient --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("solver", SOLVERS)
def test_both_loops_have_one_gradient_and_it_is_that_of_autodiff(solver):
    of = sampling_of(solver, denoise=bent)
    settings = {"step_weights": (0.5, 1.0), "seen": "x0", "low_pass": None, "norm": "chi"}
    objective, x_T, *rest = made(of=of, loop="scan", **settings)
    scores, gradient = objective(x_T, *rest)
    stepwise, same = made(of=of, loop="steps", **settings)[0](x_T, *rest)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), scores, stepwise)
    np.testing.assert_allclose(gradient, same, rtol=1e-4, atol=1e-5)

    def plain(x_T):
        steps = []
        state = sampler.begin(sampling := of((x_T, rest[0][1])))
        for visit in zip(*sampler.visits(sampling.times_T), strict=True):
            state, step = sampler.step_of(sampling)(state, visit)
            steps = [*steps, step][-2:]
        seen = jax.tree.map(lambda *leaves: jnp.stack(leaves), *steps)
        return losses.score(x_T, seen, *rest[1:2], embed, rest[2], objective.settings).loss_B.sum()

    np.testing.assert_allclose(gradient, jax.jit(jax.grad(plain))(x_T), rtol=1e-4, atol=1e-5)
    assert np.abs(gradient).max() > 1e-3


@pytest.mark.parametrize("loop", ["scan", "steps"])
def test_memory_does_not_grow_with_the_number_of_steps_but_by_their_states(loop):
    def wide(x, t_B, condition):
        return jnp.tanh(jnp.tanh(x[..., None] * jnp.arange(1.0, 129.0).reshape(1, 1, 1, 1, -1)).mean(axis=-1))

    def memory(num_steps):
        objective, x_T, *rest = made(of=sampling_of(num_steps=num_steps, denoise=wide), loop=loop)
        objective(x_T, *rest)
        return objective.memory()

    few, many, state = memory(4), memory(24), 2 * 48 * 4
    assert few > 40 * state, "a step's activations are larger than its state"
    assert many - few <= (20 * 4 * state if loop == "scan" else 0)


def test_where_thresholding_cuts_the_gradient_passes_straight_or_not_at_all():
    """At values far beyond the range all is cut. What is drawn is the same either way: what `sample` draws."""

    def of(told):
        sampling = sampling_of(denoise=lambda x, t_B, condition: 3.0 * x + 5.0, thresholding="static")(told)
        return sampling._replace(process=dataclasses.replace(PROCESS, prediction="x0"))

    results = {}
    for clamp in ("straight_through", "exact"):
        objective, x_T, *rest = made(of=of, clamp=clamp)
        x_T = jnp.clip(x_T, -1.0, 1.0)
        scores, results[clamp] = objective(x_T, (x_T, rest[0][1]), *rest[1:])
        whole = jax.jit(lambda told: sampler.sample(*of(told)))((x_T, rest[0][1]))
        np.testing.assert_allclose(scores.image_BHWC, whole, atol=1e-6)
    assert np.abs(results["straight_through"]).max() > 0
    assert np.abs(results["exact"]).max() < 0.01 * np.abs(results["straight_through"]).max()


# --- the losses ----------------------------------------------------------------------------------------------------


def test_the_centroid_is_of_the_references_that_there_are():
    rng = np.random.default_rng(2)
    image = jnp.asarray(rng.uniform(-1, 1, (2, 3, *SHAPE)), jnp.float32)
    mask = jnp.asarray([[True, True, False], [True, True, True]])
    vector, mean = losses.goal(embed, jnp.asarray(MATRIX), image, mask)
    np.testing.assert_allclose(mean[0], image[0, :2].mean(axis=0), rtol=1e-6)
    np.testing.assert_allclose(vector[0], embed(jnp.asarray(MATRIX), image[0, :2]).mean(axis=0), rtol=1e-5)
    changed = losses.goal(embed, jnp.asarray(MATRIX), image.at[0, 2].set(9.0), mask)
    np.testing.assert_array_equal(changed[0], vector)


@pytest.mark.parametrize("distance", ["cosine", "euclidean"])
def test_contrast_tells_the_own_class_from_the_others(distance):
    settings = SeedSelectConfig(contrast=True, distance=distance)
    centroids = jnp.eye(3)
    goal = Goal(centroids, jnp.zeros((2, *SHAPE)), jnp.asarray([0, 2]))
    middle = jnp.ones((2, 3))
    np.testing.assert_allclose(losses.semantic(middle, goal, settings), np.log(3), rtol=1e-6)
    near = losses.semantic(centroids[jnp.asarray([0, 2])], goal, settings)
    far = losses.semantic(centroids[jnp.asarray([1, 0])], goal, settings)
    assert (near < np.log(3)).all() and (far > np.log(3)).all()
    hot = dataclasses.replace(settings, temperature=0.1)
    assert (losses.semantic(centroids[jnp.asarray([0, 2])], goal, hot) < near).all()
    order = jnp.asarray([2, 0, 1])
    other = Goal(centroids[order], goal.image_BHWC, jnp.asarray([1, 0]))
    np.testing.assert_allclose(losses.semantic(middle + centroids[:2], other, settings),
                               losses.semantic(middle + centroids[:2], goal, settings), rtol=1e-6)  # fmt: skip


def test_appearance_is_the_papers_distance_or_the_codes_mean_of_squares():
    x, y = jax.random.uniform(jax.random.key(0), (2, 2, *SHAPE))
    paper, code = (losses.appearance(x, y, each) for each in (PAPER, CODE))
    np.testing.assert_allclose(paper, np.linalg.norm((x - y).reshape(2, -1), axis=1), rtol=1e-6)
    np.testing.assert_allclose(code, paper**2 / 48, rtol=1e-6)


def test_a_low_pass_does_not_see_what_is_fine():
    fine = jnp.where((jnp.arange(16)[:, None] + jnp.arange(16)[None]) % 2 == 0, 1.0, -1.0)[None, :, :, None]
    fine, nothing = jnp.tile(fine, (1, 1, 1, 3)), jnp.zeros((1, 16, 16, 3))
    assert losses.appearance(fine, nothing, OURS)[0] < 0.01
    assert losses.appearance(fine, nothing, dataclasses.replace(OURS, low_pass=None))[0] == 1.0
    assert losses.appearance(nothing + 1.0, nothing, OURS)[0] == pytest.approx(1.0)


def test_no_norm_is_as_probable_as_that_of_noise():
    r = jnp.linspace(1.0, 20.0, 400)
    values = losses.improbability(r, 48)
    assert float(r[values.argmin()]) == pytest.approx(47**0.5, abs=0.05)
    assert float(losses.improbability(jnp.asarray([47**0.5]), 48)[0]) == pytest.approx(0.0, abs=1e-4)


# --- the search ----------------------------------------------------------------------------------------------------


def test_an_image_is_found():
    settings = {"iterations": 200, "low_pass": None, "semantic_weight": 0.0, "norm": "free"}
    objective, x_T, told, goal, encoder = made(**settings)
    found = search(objective, x_T, told, goal, encoder)
    np.testing.assert_allclose(found.image_BHWC, goal.image_BHWC, atol=0.02)
    drawn = jax.jit(lambda x_T: sampler.sample(*sampling_of()((x_T, told[1]))))
    np.testing.assert_allclose(drawn(jnp.asarray(found.x_T)), found.image_BHWC, atol=1e-5)
    np.testing.assert_allclose(drawn(x_T), found.first_BHWC, atol=1e-5)


def test_the_best_iterate_is_kept_where_steps_are_too_long():
    objective, *told = made(iterations=12, learning_rate=3.0, norm="free")
    found = search(objective, *told)
    np.testing.assert_array_equal(found.best_B, np.argmin(found.loss_IB, axis=0))
    assert (found.best_B < 12).all()
    again, _ = objective(jnp.asarray(found.x_T), *told[1:])
    np.testing.assert_allclose(again.loss_B, found.loss_IB.min(axis=0), rtol=1e-5)


def test_a_noise_is_searched_alone_as_in_a_batch():
    objective, x_T, told, goal, encoder = made(B=3, iterations=5, patience=2, learning_rate=0.5)
    together = search(objective, x_T, told, goal, encoder)
    for b in range(3):
        alone = search(objective, x_T[b : b + 1], jax.tree.map(lambda leaf, b=b: leaf[b : b + 1], told),
                       Goal(goal.vector_CD[b : b + 1], goal.image_BHWC[b : b + 1], jnp.arange(1)), encoder)  # fmt: skip
        np.testing.assert_allclose(alone.x_T[0], together.x_T[b], rtol=1e-4, atol=1e-5)


def test_a_search_without_progress_ends_early():
    objective, *told = made(iterations=50, patience=3, learning_rate=30.0, norm="free")
    found = search(objective, *told)
    assert len(found.loss_IB) < 50
    for b, best in enumerate(found.best_B):
        assert np.isfinite(found.loss_IB[: best + 4, b]).all() and np.isnan(found.loss_IB[best + 4 :, b]).all()


@pytest.mark.parametrize(("norm", "holds"), [("sphere", 1e-4), ("chi", 0.5)])
def test_the_norm_of_noise_is_kept_by_choice(norm, holds):
    """The goal is an image far out, to which a free search goes."""
    settings = {"iterations": 40, "learning_rate": 0.3, "semantic_weight": 0.0, "low_pass": None, "norm_weight": 1.0}
    objective, x_T, told, goal, encoder = made(norm="free", **settings)
    goal = goal._replace(image_BHWC=10.0 * goal.image_BHWC)
    free = search(objective, x_T, told, goal, encoder).norm_IB[-1]
    assert (free > 48**0.5 + 2.0).all()
    kept = search(made(norm=norm, **settings)[0], x_T, told, goal, encoder).norm_IB[-1]
    limit = 48**0.5 if norm == "sphere" else free
    assert (np.abs(kept - limit) < holds).all() if norm == "sphere" else (kept < free - holds).all()


def test_the_learning_rate_drops_to_a_tenth():
    optimizer = optimizer_of(SeedSelectConfig(drop_at=3, optimizer="adamw", weight_decay=0.0))
    x, memory, moved = jnp.ones(1), optimizer.init(jnp.ones(1)), []
    for _ in range(5):
        with jax.numpy_dtype_promotion("standard"):  # optax mixes integers and floats
            change, memory = optimizer.update(jnp.ones(1), memory, x)
        moved.append(float(change[0]))
    np.testing.assert_allclose(moved, [-0.1, -0.1, -0.1, -0.01, -0.01], rtol=1e-4)


def test_losses_that_are_not_finite_are_refused():
    objective, x_T, told, goal, encoder = made()
    with pytest.raises(UserError, match="loss is not finite"):
        search(objective, x_T, told, goal._replace(image_BHWC=jnp.full_like(goal.image_BHWC, jnp.nan)), encoder)


def test_settings_that_do_not_fit_are_refused():
    with pytest.raises(UserError, match=r"step_weights are 3, but the sampler has 2 steps"):
        CODE.check_steps(2)
    CODE.check_steps(3)
    with pytest.raises(UserError, match="step_weights"):
        SeedSelectConfig(step_weights=())
    with pytest.raises(UserError, match="appearance_weight are 0"):
        SeedSelectConfig(step_weights=(0.0,), appearance_weight=0.0)
