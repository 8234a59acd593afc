"""Guidance: what every guide keeps at a weight of 1, plans that do not gamble, weights over time, rescaling."""

from fractions import Fraction
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from reimagen_jax.diffusion import guidance, sampler, schedule, solvers
from reimagen_jax.diffusion.settings import DiffusionConfig, SamplerConfig

C = 3
A, B = jnp.asarray([1.0, 0.5]), jnp.asarray([0.1, -0.2])
TEXTURE = jax.random.normal(jax.random.key(5), (2, 4, 4, C))


def toy(x, t_B, condition):
    """A denoiser of known parts that are not additive; its last C channels are a variance, which tells who asked."""
    a, b = (condition[name][:, None, None, None] for name in "ab")
    prediction = 0.1 * x + jnp.sin(x) * a + 2.0 * b * x**2 + a * b
    return jnp.concatenate([prediction, jnp.broadcast_to(10.0 * a + b, x.shape)], axis=-1)


def without(names, condition):
    return {name: jnp.zeros_like(part) if name in names else part for name, part in condition.items()}


def one_of(condition, first_B):
    return {"a": jnp.where(first_B, 0.0, condition["a"]), "b": jnp.where(first_B, condition["b"], 0.0)}


def mean(share, w_1, w_2, rescale=None):
    excess = guidance.shared(share, w_1, w_2)
    return guidance.mean(partial(without, "a"), partial(without, "b"), excess, rescale)


def guides(w_1, w_2, rescale=None):
    """Every guide, with its weights of the first and of the second part."""
    plan_BT = jnp.asarray([[True], [False]])
    return {
        "single": guidance.single(partial(without, "a"), w_1, rescale),
        "interleaved": guidance.interleaved(one_of, plan_BT, w_1, w_2, rescale),
        "joint": guidance.single(partial(without, "ab"), w_1, rescale),
        "compositional": guidance.compositional(partial(without, "a"), partial(without, "ab"), w_1, w_2, rescale),
        "mean": mean(0.3, w_1, w_2, rescale),
    }


def at(guide, t=0.5, a=A, b=B):
    """What a guide predicts of `TEXTURE`, and the variance that it hands on."""
    output = guide(toy, TEXTURE, jnp.full(2, t), {"a": a, "b": b}, jnp.int32(0))
    return np.asarray(output[..., :C]), np.asarray(output[..., C:])


KINDS = tuple(guides(1.0, 1.0))
PLAIN = at(guidance.unguided)


@pytest.mark.parametrize("kind", KINDS)
def test_weights_of_one_are_the_plain_conditional_prediction(kind):
    for rescale in (None, 0.7):
        np.testing.assert_allclose(at(guides(1.0, 1.0, rescale)[kind])[0], PLAIN[0], rtol=1e-6)
    assert np.abs(at(guides(3.0, 2.0)[kind])[0] - PLAIN[0]).max() > 0.1


@pytest.mark.parametrize("kind", KINDS)
def test_the_variance_is_that_of_the_full_condition(kind):
    np.testing.assert_array_equal(at(guides(3.0, 2.0, 0.7)[kind])[1], PLAIN[1])


def test_joint_is_equation_1_against_neither_part():
    none = at(guidance.unguided, a=0.0 * A, b=0.0 * B)[0]
    np.testing.assert_allclose(at(guides(3.0, 9.0)["joint"])[0], 3.0 * PLAIN[0] - 2.0 * none, rtol=1e-5, atol=1e-5)


def test_compositional_is_equation_3():
    second, none = (at(guidance.unguided, a=0.0 * A, b=b)[0] for b in (B, 0.0 * B))
    expected = none + 2.0 * (second - none) + 3.0 * (PLAIN[0] - second)
    np.testing.assert_allclose(at(guides(3.0, 2.0)["compositional"])[0], expected, rtol=1e-5, atol=1e-5)


def test_without_the_second_part_compositional_is_joint_whatever_its_weight():
    joint = at(guides(3.0, 1.0)["joint"], b=0.0 * B)[0]
    for w_2 in (0.0, 1.0, 7.0):
        np.testing.assert_allclose(at(guides(3.0, w_2)["compositional"], b=0.0 * B)[0], joint, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("share", [0.0, 0.25, 0.5, 1.0])
def test_the_mean_is_that_of_interleaved_steps(share):
    def interleaved(first):
        return at(guidance.interleaved(one_of, jnp.full((2, 1), first), 3.0, 2.0))[0]

    expected = share * interleaved(True) + (1.0 - share) * interleaved(False)
    np.testing.assert_allclose(at(mean(share, 3.0, 2.0))[0], expected, rtol=1e-5, atol=1e-5)


def test_a_network_that_is_told_is_asked_once_for_what_others_are_asked_for_thrice():
    """By plans, too: a step of one kind is the mean with the share 1 or 0."""
    seen = []

    def learned(x, t_B, condition):
        seen.append(len(x))
        g_B2 = condition.pop("g")
        full, second, first = (
            toy(x, t_B, each) for each in (condition, without("a", condition), without("b", condition))
        )
        g_1, g_2 = (g_B2[:, j, None, None, None] for j in range(2))
        return full + g_1 * (full - second) + g_2 * (full - first)

    def drawn(excess):
        guide = guidance.told(lambda condition, g_B2: {**condition, "g": g_B2}, excess)
        return guide(learned, TEXTURE, jnp.full(2, 0.5), {"a": A, "b": B}, jnp.int32(0))[..., :C]

    share_B, w_1, w_2 = jnp.asarray([0.2, 0.9]), jnp.asarray([3.0, 1.5]), 2.0
    told = drawn(guidance.shared(share_B, w_1, w_2))
    np.testing.assert_allclose(told, at(mean(share_B, w_1, w_2))[0], rtol=1e-5, atol=1e-5)
    told = drawn(guidance.planned(jnp.asarray([[True], [False]]), w_1, w_2))
    np.testing.assert_allclose(told, at(guides(w_1, w_2)["interleaved"])[0], rtol=1e-5, atol=1e-5)
    assert seen == [2, 2]


def test_evaluations_are_one_call_of_as_many_samples_as_the_guide_says():
    seen = []

    def counted(x, t_B, condition):
        seen.append(len(x))
        assert len(t_B) == len(condition["a"]) == len(x)
        return toy(x, t_B, condition)

    for guide in guides(3.0, 2.0).values():
        guide(counted, TEXTURE, jnp.full(2, 0.5), {"a": A, "b": B}, jnp.int32(0))
    assert seen == [4, 4, 4, 6, 6]


# --- plans -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("num_steps", [1, 2, 3, 5, 7, 12, 25, 95, 250])
def test_stratified_steps_are_exactly_as_many_as_eta_says_and_evenly_spread(num_steps):
    """Of each kind: between two of them lie floor or ceil of the others a piece, and at the ends no more than that."""
    etas = [Fraction(i, 100) for i in range(101)] + [Fraction(i, num_steps) for i in range(num_steps + 1)]
    plans = np.asarray(jax.jit(jax.vmap(lambda eta: guidance.stratify(eta, num_steps)))(np.float32(etas)))
    for eta, plan in zip(etas, plans, strict=True):
        assert plan.sum() == round(eta * num_steps), eta
        for kind in (plan, ~plan):
            where, count = np.flatnonzero(kind), kind.sum()
            if count:
                assert set(np.diff(where)) <= {num_steps // count, -(-num_steps // count)}, eta
                assert max(where[0], num_steps - 1 - where[-1]) <= -(-num_steps // count) / 2, eta


def test_stratified_steps_of_the_longest_chain_are_counted_right():
    plan = np.asarray(jax.jit(lambda eta: guidance.stratify(eta, 100_000))(0.3))
    assert plan.sum() == 30_000 and set(np.diff(np.flatnonzero(plan))) == {3, 4}


def test_plans_of_any_eta_are_one_program():
    traced = []

    @jax.jit
    def plan(eta):
        traced.append(eta)
        return guidance.stratify(eta, 8)

    assert [int(plan(eta).sum()) for eta in (0.0, 0.25, 0.5, 1.0)] == [0, 2, 4, 8]
    assert len(traced) == 1


# --- weights over time -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_outside_of_the_interval_nothing_is_guided_and_within_all_is_as_without_one(kind):
    limited = guides(*(guidance.within(weight, 0.3, 0.6) for weight in (3.0, 2.0)))[kind]
    for t in (0.0, 0.29, 0.61, 1.0):
        np.testing.assert_array_equal(at(limited, t)[0], at(guides(1.0, 1.0)[kind], t)[0])
    for t in (0.3, 0.45, 0.6):
        np.testing.assert_array_equal(at(limited, t)[0], at(guides(3.0, 2.0)[kind], t)[0])


def test_each_sample_has_an_interval_of_its_own_that_is_traced():
    weight = jax.jit(lambda low_B, high_B: guidance.within(5.0, low_B, high_B)(jnp.full(3, 0.5)))
    np.testing.assert_array_equal(
        weight(jnp.asarray([0.0, 0.6, 0.5]), jnp.asarray([0.4, 1.0, 0.5])), np.float32([1.0, 1.0, 5.0])
    )


def test_the_steps_of_a_sampler_that_are_guided_are_those_whose_times_lie_within():
    """Edges are times of the sampler here, which float32 may have a bit beside what is written."""
    process, said = DiffusionConfig(), []
    times_T = schedule.times(10, process)

    def guide(denoise, x, t_B, condition, i):
        jax.debug.callback(lambda i, w: said.append((int(i), float(w[0]))), i, guidance.within(4.0, 0.3, 0.7)(t_B))
        return x

    x_T = jnp.ones((1, 2))
    project = sampler.projection(SamplerConfig())
    keys_B = sampler.image_keys(0, [0])
    ddim = solvers.ddim(process)
    jax.block_until_ready(sampler.sample(toy, None, x_T, keys_B, times_T, process, ddim, guide, project))
    jax.effects_barrier()
    assert [i for i, weight in sorted(said) if weight == 4.0] == [3, 4, 5, 6, 7]


@pytest.mark.parametrize("how", ["linear", "cosine"])
def test_scheduled_weights_rise_as_noise_falls_and_have_the_mean_of_constant_ones(how):
    t_B = jnp.linspace(1.0, 0.0, 1001)
    weight_B = np.asarray(guidance.over_time(3.0, how)(t_B))
    np.testing.assert_allclose([weight_B[0], weight_B.mean(), weight_B[-1]], [1.0, 3.0, 5.0], rtol=1e-5)
    assert np.all(np.diff(weight_B) > -1e-6)
    assert guidance.over_time(3.0, "constant") == 3.0
    np.testing.assert_array_equal(guidance.over_time(1.0, how)(t_B), np.ones(1001, np.float32))


# --- rescaling ---------------------------------------------------------------------------------------------------


def stds(x):
    return np.asarray(x).std(axis=(1, 2, 3))


@pytest.mark.parametrize("kind", KINDS)
def test_a_rescaled_prediction_has_the_standard_deviation_of_the_plain_one(kind):
    guided = at(guides(5.0, 4.0)[kind])[0]
    assert np.abs(stds(guided) / stds(PLAIN[0]) - 1.0).min() > 0.05
    np.testing.assert_allclose(stds(at(guides(5.0, 4.0, 1.0)[kind])[0]), stds(PLAIN[0]), rtol=1e-5)
    np.testing.assert_allclose(at(guides(5.0, 4.0, 0.0)[kind])[0], guided, rtol=1e-6)
    halfway = 0.5 * (stds(guided) + stds(PLAIN[0]))
    np.testing.assert_allclose(stds(at(guides(5.0, 4.0, 0.5)[kind])[0]), halfway, rtol=1e-5)


def test_each_sample_is_rescaled_by_itself_and_a_flat_one_stays_finite():
    guided, full = TEXTURE * jnp.asarray([3.0, 0.0])[:, None, None, None], TEXTURE
    share_B = jnp.asarray([1.0, 1.0])
    out = np.asarray(guidance.rescaled(guided, full, share_B))
    np.testing.assert_allclose(out[0], TEXTURE[0], rtol=1e-5)
    np.testing.assert_array_equal(out[1], np.zeros_like(out[1]))
    np.testing.assert_array_equal(guidance.rescaled(guided[:1], full[:1], share_B[:1])[0], out[0])
