"""The step's properties: schedule, clipping, weight decay, averaging, and what its randomness depends on."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from reimagen_jax.config import TrainConfig
from reimagen_jax.errors import UserError
from reimagen_jax.training.state import init_state
from reimagen_jax.training.step import ema_decay, make_memory, make_optimizer, make_schedule, train_step
from tests.training.tiny_system import Regression, dataset, experiment, same


def run(config, system, steps, batches=None, key=None):
    """The states after each step, the first included, and the metrics."""
    optimizer = make_optimizer(config)
    step = jax.jit(train_step(system, optimizer, config))
    states, metrics = [init_state(system, optimizer, jax.random.key(0))], []
    batches = iter(dataset()) if batches is None else iter(batches)
    for _ in range(steps):
        state, values = step(states[-1], next(batches), jax.random.key(7) if key is None else key)
        states.append(state)
        metrics.append(values)
    return states, metrics


@pytest.mark.parametrize(
    ("decay", "expected"),
    [
        ("cosine", {0: 0.0, 5: 0.5, 10: 1.0, 60: 0.5, 110: 0.0, 500: 0.0}),
        ("tail", {0: 0.0, 5: 0.5, 10: 1.0, 88: 1.0, 99: 0.5, 110: 0.0, 500: 0.0}),
        ("constant", {0: 0.0, 5: 0.5, 10: 1.0, 60: 1.0, 110: 1.0}),
    ],
)
def test_learning_rate_warms_up_from_zero_then_decays(decay, expected):
    config = TrainConfig(num_steps=110, warmup_steps=10, learning_rate=2e-3, decay=decay)
    schedule = make_schedule(config)
    for step, share in expected.items():
        assert float(schedule(jnp.int32(step))) == pytest.approx(2e-3 * share, abs=1e-9)


def test_without_warm_up_the_first_step_has_the_full_rate():
    schedule = make_schedule(TrainConfig(num_steps=100, warmup_steps=0, learning_rate=1e-3))
    assert float(schedule(jnp.int32(0))) == pytest.approx(1e-3)


def test_a_warm_up_longer_than_the_run_stays_finite_and_below_the_maximum():
    schedule = make_schedule(TrainConfig(num_steps=10, warmup_steps=500, learning_rate=1e-3))
    rates = np.array([schedule(jnp.int32(n)) for n in range(11)])
    np.testing.assert_allclose(rates, 1e-3 * np.arange(11) / 500, rtol=1e-5)


@pytest.mark.parametrize("decay", ["constant", "cosine", "tail"])
@pytest.mark.parametrize(("steps", "warmup"), [(110, 10), (100, 0), (100, 90), (10, 500), (7, 2), (1, 0)])
def test_rates_of_many_steps_at_once_are_equations_1_and_2(decay, steps, warmup):
    """Also where the warm-up reaches into the tail, or beyond the end."""
    n = np.arange(2 * steps + 2)
    progress = np.clip((n - warmup) / max(steps - warmup, 1), 0.0, 1.0)
    d = {
        "constant": np.ones(len(n)),
        "cosine": (1.0 + np.cos(np.pi * progress)) / 2.0,
        "tail": np.clip((steps - n) / (0.2 * steps), 0.0, 1.0),
    }[decay]
    expected = 2e-3 * np.minimum(1.0, n / warmup if warmup else 1.0) * d
    config = TrainConfig(num_steps=steps, warmup_steps=warmup, learning_rate=2e-3, decay=decay)
    rates = make_schedule(config)(n.astype(np.int32))
    assert rates.dtype == jnp.float32 and rates.shape == n.shape
    np.testing.assert_allclose(rates, expected, rtol=1e-5, atol=1e-9)
    each = [jax.jit(make_schedule(config))(jnp.int32(step)) for step in n[:3]]
    np.testing.assert_allclose(rates[:3], each, rtol=1e-6)


def test_the_optimizer_follows_the_schedule_that_is_logged():
    """Adam moves a parameter with a constant gradient by exactly the learning rate."""
    config = TrainConfig(num_steps=20, warmup_steps=4, learning_rate=1e-2, clip_norm=1e9)
    optimizer, schedule = make_optimizer(config), make_schedule(config)
    params = {"w": jnp.zeros(3)}
    state, gradient = optimizer.init(params), {"w": jnp.ones(3)}
    for n in range(20):
        with jax.numpy_dtype_promotion("standard"):
            update, state = optimizer.update(gradient, state, params)
        np.testing.assert_allclose(update["w"], -schedule(jnp.int32(n)) * jnp.ones(3), rtol=1e-4, atol=1e-9)


@pytest.mark.parametrize("scale", [0.1, 1.0, 100.0])
def test_the_gradient_is_clipped_by_its_global_norm(scale):
    """The first moment after one step is (1 - b1) times the clipped gradient, over all parameters at once."""
    config = TrainConfig(warmup_steps=0, clip_norm=2.0)
    gradient = {"a": scale * jnp.array([[3.0, 0.0]]), "b": scale * jnp.array([4.0])}
    optimizer = make_optimizer(config)
    with jax.numpy_dtype_promotion("standard"):
        _, state = optimizer.update(gradient, optimizer.init(gradient), gradient)
    clipped = optax.tree.scale(1 / 0.1, optax.tree.get(state, "mu"))
    expected = optax.tree.scale(min(1.0, 2.0 / (5.0 * scale)), gradient)
    for name in gradient:
        np.testing.assert_allclose(clipped[name], expected[name], rtol=1e-5)


def test_without_a_limit_nothing_is_clipped_and_a_checkpoint_fits_both():
    config = TrainConfig(warmup_steps=0, clip_norm=None)
    gradient = {"a": jnp.array([[3e6, 0.0]])}
    optimizer = make_optimizer(config)
    with jax.numpy_dtype_promotion("standard"):
        _, state = optimizer.update(gradient, optimizer.init(gradient), gradient)
    np.testing.assert_allclose(optax.tree.get(state, "mu")["a"], 0.1 * gradient["a"], rtol=1e-6)
    clipping = make_optimizer(replace(config, clip_norm=1.0)).init(gradient)
    assert jax.tree.structure(state) == jax.tree.structure(clipping)


def test_the_logged_gradient_norm_is_before_clipping():
    config = experiment(clip_norm=1e-3).train
    states, metrics = run(config, Regression(), 1)
    batch, key = next(iter(dataset())), jax.random.fold_in(jax.random.key(7), 0)
    gradient = jax.grad(lambda p: Regression().loss(p, batch, key)[0])(states[0].params)
    assert float(metrics[0]["grad_norm"]) == pytest.approx(float(optax.tree.norm(gradient)), rel=1e-5)
    assert float(metrics[0]["grad_norm"]) > 1.0


@pytest.mark.parametrize("optimizer", ["adamw", "adafactor"])
def test_weight_decay_shrinks_matrices_and_leaves_vectors(optimizer):
    config = TrainConfig(optimizer=optimizer, warmup_steps=0, learning_rate=0.1, decay="constant", weight_decay=0.5)
    optimizer = make_optimizer(config)
    params = {"kernel": jnp.ones((2, 2)), "bias": jnp.ones(2)}
    zero = jax.tree.map(jnp.zeros_like, params)
    with jax.numpy_dtype_promotion("standard"):
        updates, _ = optimizer.update(zero, optimizer.init(params), params)
    np.testing.assert_allclose(updates["kernel"], -0.05 * jnp.ones((2, 2)), rtol=1e-6)
    np.testing.assert_array_equal(updates["bias"], jnp.zeros(2))


@pytest.mark.parametrize("epsilon", [1e-8, 0.5])
def test_epsilon_is_added_to_what_adamws_updates_are_divided_by(epsilon):
    """Its first moments are the gradient and its square: an update is g / (|g| + epsilon)."""
    config = TrainConfig(warmup_steps=0, learning_rate=1.0, decay="constant", clip_norm=None, epsilon=epsilon)
    optimizer, g = make_optimizer(config), jnp.array([-2.0, 0.5, 0.01])
    params = {"bias": jnp.zeros(3)}
    with jax.numpy_dtype_promotion("standard"):
        updates, _ = optimizer.update({"bias": g}, optimizer.init(params), params)
    np.testing.assert_allclose(updates["bias"], -g / (jnp.abs(g) + epsilon), rtol=1e-5)


def adafactor_by_hand(gradients, decay_rate=0.8):
    """Shazeer and Stern 2018, algorithm 4 without relative step sizes, for one matrix: its updates."""
    row, column = np.zeros(gradients[0].shape[0]), np.zeros(gradients[0].shape[1])
    for n, gradient in enumerate(gradients, start=1):
        memory, square = 1.0 - n**-decay_rate, np.square(gradient, dtype=np.float64) + 1e-30
        row = memory * row + (1 - memory) * square.mean(axis=1)
        column = memory * column + (1 - memory) * square.mean(axis=0)
        update = gradient / np.sqrt(np.outer(row, column) / row.mean())
        yield update / max(1.0, np.sqrt(np.mean(update**2)))


def test_adafactor_is_its_algorithm_at_the_schedules_rate():
    config = TrainConfig(optimizer="adafactor", num_steps=20, warmup_steps=2, learning_rate=1e-2, clip_norm=1e9)
    optimizer, schedule, rng = make_optimizer(config), make_schedule(config), np.random.default_rng(0)
    params = {"kernel": jnp.zeros((128, 160))}
    gradients = [rng.standard_normal((128, 160), dtype=np.float32) * (1.0 + n) for n in range(4)]
    state = optimizer.init(params)
    for n, expected in enumerate(adafactor_by_hand(gradients)):
        with jax.numpy_dtype_promotion("standard"):
            update, state = optimizer.update({"kernel": jnp.asarray(gradients[n])}, state, params)
        np.testing.assert_allclose(update["kernel"], -schedule(jnp.int32(n)) * expected, rtol=1e-4, atol=1e-9)


@pytest.mark.parametrize(("size", "scale"), [(0.02, 0.02), (0.0, 1e-3)])
def test_adafactors_relative_rate_is_the_rate_times_the_parameters_size(size, scale):
    """A layer that starts at zero moves a thousandth of the rate a step: in 200,000 steps at 1e-4 by 0.02 at most."""
    config = TrainConfig(optimizer="adafactor", warmup_steps=0, learning_rate=1e-4, decay="constant", clip_norm=None)
    params = {"kernel": jnp.full((128, 160), size)}
    gradient = {"kernel": jax.random.normal(jax.random.key(0), (128, 160))}
    updates = {}
    for relative in (False, True):
        optimizer = make_optimizer(replace(config, multiply_by_parameter_scale=relative))
        with jax.numpy_dtype_promotion("standard"):
            update, _ = optimizer.update(gradient, optimizer.init(params), params)
        updates[relative] = update["kernel"]
    assert float(jnp.sqrt(jnp.mean(updates[False] ** 2))) == pytest.approx(1e-4, rel=0.05)
    np.testing.assert_allclose(updates[True], scale * updates[False], rtol=1e-5)


def test_relative_rates_are_adafactors_alone():
    with pytest.raises(UserError, match=r"multiply_by_parameter_scale is Adafactor's.*'adamw'"):
        TrainConfig(multiply_by_parameter_scale=True)


def test_adafactor_keeps_a_row_and_a_column_for_a_matrix():
    params = {"kernel": jnp.zeros((3, 3, 256, 512))}
    sizes = {
        name: sum(leaf.size for leaf in jax.tree.leaves(make_optimizer(TrainConfig(optimizer=name)).init(params)))
        for name in ("adamw", "adafactor")
    }
    assert sizes["adamw"] > 2 * params["kernel"].size
    assert sizes["adafactor"] < 9 * (256 + 512) + 10


def test_the_average_follows_its_formula():
    states, _ = run(experiment(ema_decay=0.3, num_steps=6).train, Regression(), 6)
    expected = states[0].params
    for n, state in enumerate(states[1:]):
        a = min(0.3, (1 + n) / (10 + n))
        expected = jax.tree.map(lambda old, new, a=a: a * old + (1 - a) * new, expected, state.params)
        jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-5, atol=1e-7), state.ema, expected)


def test_the_averages_memory_grows_to_its_limit():
    decays = [float(ema_decay(jnp.int32(n), 0.999)) for n in (0, 90, 10_000)]
    assert decays == pytest.approx([0.1, 91 / 100, 0.999])


def test_the_averages_memory_grows_to_one_along_a_cosine():
    config = TrainConfig(num_steps=8, ema_decay=0.9, ema_growth="cosine")
    expected = [1 - 0.1 * (1 + np.cos(np.pi * n / 8)) / 2 for n in range(9)]
    np.testing.assert_allclose(make_memory(config)(np.arange(9, dtype=np.int32)), expected, atol=1e-6)
    states, _ = run(replace(experiment(num_steps=8).train, ema_decay=0.9, ema_growth="cosine"), Regression(), 8)
    average = states[0].params
    for a, state in zip(expected, states[1:], strict=False):
        average = jax.tree.map(lambda old, new, a=a: a * old + (1 - a) * new, average, state.params)
        jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-5, atol=1e-6), state.ema, average)


class Setting(Regression):
    """Its loss is nothing before the third update."""

    def loss_at(self, params, batch, key, step, *, ema):
        loss, metrics = self.loss(params, batch, key, ema=ema)
        return jnp.where(step < 2, 0.0, loss), metrics


def test_a_loss_may_depend_on_the_step():
    config = replace(experiment(num_steps=4).train, weight_decay=0.0)
    states, metrics = run(config, Setting(), 4)
    assert same(states[0].params, states[2].params) and not same(states[2].params, states[3].params)
    assert [float(each["loss"]) > 0 for each in metrics] == [False, False, True, True]


def test_the_step_counts_and_reduces_the_loss():
    states, metrics = run(experiment(num_steps=60).train, Regression(), 60)
    assert [int(state.step) for state in states] == list(range(61))
    losses = [float(m["loss"]) for m in metrics]
    assert np.mean(losses[-10:]) < 0.8 * np.mean(losses[:10])


def test_the_same_step_draws_the_same_noise_and_another_step_other_noise():
    config, system = experiment().train, Regression(noise=1.0)
    batch = next(iter(dataset()))
    optimizer = make_optimizer(config)
    step, state = jax.jit(train_step(system, optimizer, config)), init_state(system, optimizer, jax.random.key(0))
    loss = [float(step(replace(state, step=jnp.int32(n)), batch, jax.random.key(7))[1]["loss"]) for n in (0, 0, 1)]
    assert loss[0] == loss[1] != loss[2]


def test_a_state_has_one_structure_however_it_was_made():
    """Nothing but arrays is in it, so a checkpoint of one process fits the state of another."""
    config = experiment().train
    first, second = (init_state(Regression(), make_optimizer(config), jax.random.key(0)) for _ in range(2))
    assert same(first, second)
    assert all(isinstance(leaf, jax.Array) for leaf in jax.tree.leaves(first))
