"""Groups of parameters: their own rates; frozen ones do not move, cost no moments, and leave the others' path alone."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from reimagen_jax.config import GroupRate, TrainConfig
from reimagen_jax.errors import UserError
from reimagen_jax.training import groups
from reimagen_jax.training.state import init_state
from reimagen_jax.training.step import make_optimizer, train_step
from tests.training.tiny_system import Regression, dataset, same

SYSTEM = Regression(noise=0.0)
SETTINGS = {"num_steps": 8, "warmup_steps": 0, "learning_rate": 1e-2, "decay": "constant", "clip_norm": 1e9}


def run(steps=2, **train):
    """The states before the first step and after the last, and the first step's metrics."""
    config = TrainConfig(**SETTINGS | train)
    optimizer = make_optimizer(config)
    step, batches = jax.jit(train_step(SYSTEM, optimizer, config)), iter(dataset())
    before = state = init_state(SYSTEM, optimizer, jax.random.key(0), config)
    first = None
    for _ in range(steps):
        state, metrics = step(state, next(batches), jax.random.key(7))
        first = metrics if first is None else first
    return before, state, first


def test_the_first_group_that_fits_holds():
    params = {"unet": {"new": jnp.zeros(1), "old": jnp.zeros(1)}, "text": jnp.zeros(1)}
    rates = (GroupRate("unet/new", 2.0), GroupRate("unet", 0.0), GroupRate("new", 3.0))
    assert groups.factors(params, rates) == {"unet": {"new": 2.0, "old": 0.0}, "text": 1.0}
    assert groups.trained(params, rates) == {"unet": {"new": True, "old": False}, "text": True}


@pytest.mark.parametrize("optimizer", ["adamw", "adafactor"])
def test_frozen_parameters_stay_and_the_others_move_as_without_them(optimizer):
    plain_before, plain, plain_metrics = run(steps=1, optimizer=optimizer, weight_decay=0.1)
    rates = (GroupRate("hidden", 0.0),)
    before, after, metrics = run(steps=1, optimizer=optimizer, weight_decay=0.1, rates=rates)
    assert same(before.params, plain_before.params)
    for tree in (after.params, after.averaged):
        assert same(tree["hidden"], before.params["hidden"])
    assert not same(after.params["out"], before.params["out"])
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-7), after.params["out"], plain.params["out"]
    )
    assert float(metrics["grad_norm"]) < float(plain_metrics["grad_norm"]), "the frozen ones have no gradient"
    held = sum(leaf.size for leaf in jax.tree.leaves(after.opt_state))
    assert held < sum(leaf.size for leaf in jax.tree.leaves(plain.opt_state)), "and no moments"


def test_a_factor_scales_the_step_of_its_group_alone():
    before, plain, _ = run(steps=1)
    _, slower, _ = run(steps=1, rates=(GroupRate("^out", 0.25),))

    def moved(state, name):
        return np.concatenate(
            [
                np.ravel(a - b)
                for a, b in zip(*map(jax.tree.leaves, (state.params[name], before.params[name])), strict=True)
            ]
        )

    np.testing.assert_allclose(moved(slower, "out"), 0.25 * moved(plain, "out"), rtol=1e-3)
    np.testing.assert_allclose(moved(slower, "hidden"), moved(plain, "hidden"), rtol=1e-5, atol=1e-9)


def test_without_groups_the_optimizers_state_is_what_it_was():
    """Checkpoints of runs without groups hold this state."""
    state = init_state(SYSTEM, make_optimizer(TrainConfig(**SETTINGS)), jax.random.key(0))
    assert [type(part).__name__ for part in state.opt_state] == ["EmptyState", "tuple"]
    inside = [type(part).__name__ for part in state.opt_state[1]]
    assert inside == ["ScaleByAdamState", "MaskedState", "ScaleByScheduleState"]


def test_groups_without_parameters_and_parameters_without_training_are_refused():
    params = SYSTEM.init(jax.random.key(0))
    with pytest.raises(UserError, match=r"'neighbour' is in no parameter's path, such as hidden/bias"):
        groups.check(params, (GroupRate("hidden", 1.0), GroupRate("neighbour", 2.0)))
    with pytest.raises(UserError, match="freezes every parameter"):
        groups.check(params, (GroupRate(".", 0.0),))
    with pytest.raises(UserError, match="not a regular expression"):
        GroupRate("(", 1.0)
    with pytest.raises(UserError, match="-1"):
        GroupRate("out", -1.0)
