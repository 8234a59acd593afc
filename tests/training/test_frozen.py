"""What is frozen is held once, in the precision that is asked for: no average, no moments, no gradient."""

import dataclasses
import functools
from contextlib import closing

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.extend.core import jaxprs_in_params

from reimagen_jax import sharding
from reimagen_jax.config import GroupRate, TrainConfig
from reimagen_jax.errors import UserError
from reimagen_jax.systems.reimagen.system import ReImagen
from reimagen_jax.training import groups, parallel
from reimagen_jax.training.checkpoint import Checkpoints, load_ema
from reimagen_jax.training.loop import train
from reimagen_jax.training.state import as_before, init_state
from reimagen_jax.training.step import make_optimizer, train_step
from tests.tiny import TINY, changed
from tests.training.tiny_system import Regression, dataset, experiment, same


class Careful(Regression):
    """Computes in float32, whatever its parameters are held in."""

    def loss(self, params, batch, key, *, ema=None):
        assert jax.tree.structure(ema) == jax.tree.structure(params), "the average is told whole"
        return super().loss(jax.tree.map(lambda p: p.astype(jnp.float32), params), batch, key)


FREE = 128 + 128 * 33
"""Numbers in the output's kernel and in the table."""
FROZEN = 32 * 128
"""Numbers in the hidden layer's kernel; its bias, 128 more, is a vector."""
RATES = (GroupRate("hidden", 0.0),)


def config(**settings):
    return experiment(num_steps=4, rates=RATES, **settings)


def nbytes(tree):
    return sum(leaf.nbytes for leaf in jax.tree.leaves(tree))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("optimizer", ["adamw", "adafactor"])
def test_the_state_holds_what_is_frozen_once(dtype, optimizer):
    settings = config(frozen_dtype=dtype, optimizer=optimizer).train
    state = init_state(Careful(), make_optimizer(settings), jax.random.key(0), settings)
    width = jnp.dtype(dtype).itemsize
    assert nbytes(state.params) == 4 * FREE + width * FROZEN + 4 * 128
    assert nbytes(state.ema) == 4 * FREE
    moments = 2 * 4 * FREE if optimizer == "adamw" else 4 * FREE  # at most: a row and a column for larger matrices
    assert nbytes(state.opt_state) < moments + 100
    assert state.averaged["hidden"]["kernel"].dtype == dtype
    assert jax.tree.structure(state.averaged) == jax.tree.structure(state.params)


@pytest.mark.parametrize("accumulate", [1, 2])
def test_no_gradient_of_what_is_frozen_is_computed(accumulate):
    """Nothing of the hidden kernel's shape is made by a step but what holds it."""
    settings = config(accumulate=accumulate, frozen_dtype="bfloat16", clip_norm=None).train
    optimizer, mesh = make_optimizer(settings), sharding.make_mesh(1, jax.devices()[:1])
    state = jax.eval_shape(functools.partial(init_state, Careful(), optimizer, jax.random.key(0), settings))
    batch = jax.eval_shape(lambda: next(iter(dataset(lazy=True))))
    step = train_step(parallel.Gathered(Careful(), mesh), optimizer, settings)
    text = str(jax.make_jaxpr(step)(state, batch, jax.random.key(0)))
    assert "bf16[32,128]" in text
    made = [line for line in text.splitlines() if ":f32[32,128]" in line.split(" = ")[0] and "jit" not in line]
    assert made and all("convert_element_type" in line or "sharding_constraint" in line for line in made), made
    assert "f32[128,33]" in text  # as the gradient of the table is


def test_a_step_moves_the_others_as_if_nothing_were_held_less_precisely():
    """From equal numbers, held in float32 or in bfloat16, which has them exactly."""
    ends = []
    for dtype in ("float32", "bfloat16"):
        settings = config(frozen_dtype=dtype).train
        optimizer = make_optimizer(settings)
        state = init_state(Careful(), optimizer, jax.random.key(0), settings)
        rounded = jax.tree.map(lambda p: p.astype(jnp.bfloat16).astype(p.dtype), state.params["hidden"])
        state = state.replace(params=state.params | {"hidden": rounded})
        step, data = jax.jit(train_step(Careful(), optimizer, settings)), iter(dataset())
        for _ in range(2):
            state, _ = step(state, next(data), jax.random.key(7))
        assert same(state.params["hidden"], rounded)
        ends.append((groups.split(state.params, RATES)[0], state.ema, state.opt_state))
    assert same(*ends)


def test_a_run_goes_on_and_is_opened_as_it_was(tmp_path):
    settings = config(frozen_dtype="bfloat16", decay="constant")
    shorter = dataclasses.replace(settings, train=dataclasses.replace(settings.train, num_steps=2))
    whole = train(settings, tmp_path / "whole", Careful(), dataset())
    first = train(shorter, tmp_path / "parts", Careful(), dataset())
    step, params = load_ema(tmp_path / "parts")
    assert step == 2 and same(params, first.state.averaged)
    assert params["hidden"]["kernel"].dtype == jnp.bfloat16 and not same(params["out"], first.state.params["out"])
    on_host = load_ema(tmp_path / "parts", on_host=True)[1]
    assert same(on_host, params) and all(isinstance(leaf, np.ndarray) for leaf in jax.tree.leaves(on_host))
    gone_on = train(settings, tmp_path / "parts", Careful(), dataset())
    assert same(gone_on.state, whole.state)


@pytest.mark.parametrize("optimizer", ["adamw", "adafactor"])
def test_a_checkpoint_with_an_average_of_what_is_frozen_goes_on(tmp_path, optimizer):
    """As earlier versions wrote them: the same state, and the same parameters to draw with."""
    settings = config(optimizer=optimizer).train
    system, made, key = Careful(), make_optimizer(settings), jax.random.key(0)
    mesh = sharding.make_mesh(1, jax.devices()[:1])
    now, before = (
        functools.partial(init, system, made, key, *rest) for init, rest in ((init_state, (settings,)), (as_before, ()))
    )
    old = before()
    assert nbytes(old.ema) == nbytes(old.params)
    abstract = parallel.abstract_state(now, mesh)
    data = iter(dataset())
    with closing(Checkpoints(tmp_path, keep=1)) as checkpoints:
        checkpoints.save(old, data)
        checkpoints.wait()
        state = checkpoints.restore(0, abstract, data, lambda: parallel.abstract_state(before, mesh))
    assert same(state, now())
    assert same(state.averaged, old.ema)


def test_another_precision_of_what_is_frozen_is_another_run(tmp_path):
    train(config(), tmp_path, Careful(), dataset())
    with pytest.raises(UserError, match="frozen_dtype"):
        train(config(frozen_dtype="bfloat16"), tmp_path, Careful(), dataset())


def computed(function, *args):
    """What a function computes: every operation with the types of its arguments, but for conversions of types."""

    def visit(jaxpr):
        for equation in jaxpr.eqns:
            inner = list(jaxprs_in_params(equation.params))
            if not inner and equation.primitive.name != "convert_element_type":
                yield equation.primitive.name, *(each.aval.str_short() for each in equation.invars)
            for each in inner:
                yield from visit(each)

    return list(visit(jax.make_jaxpr(function)(*args).jaxpr))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_networks_compute_as_ever_with_what_is_held_in_bfloat16(dtype):
    """A Re-Imagen of which all is frozen but the attention over neighbours: training, and drawing."""
    config = changed(TINY, unet=dataclasses.replace(TINY.system.unet, dtype=dtype))
    rates = (GroupRate("neighbour_attention", 1.0), GroupRate(".", 0.0))
    system, key = ReImagen(config), jax.random.key(0)
    whole = jax.eval_shape(system.init, key)
    held = jax.eval_shape(lambda: groups.held(system.init(key), TrainConfig(rates=rates, frozen_dtype="bfloat16")))
    assert {leaf.dtype for leaf in jax.tree.leaves(held)} == {jnp.dtype("float32"), jnp.dtype("bfloat16")}
    batch, inputs = system.batch_spec(2), system.inputs_spec(2, system.settings)
    keys = jax.eval_shape(lambda: jax.random.split(key, 2))

    def draw(params, inputs, keys):
        return system.sample(params, inputs, keys, system.settings)

    for function, *rest in ((system.loss, batch, key), (draw, inputs, keys)):
        ours, exact = (computed(function, params, *rest) for params in (held, whole))
        assert len(exact) > 100 and ours == exact
