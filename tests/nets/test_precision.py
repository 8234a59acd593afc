"""bfloat16 and rematerialisation: what they change (rounding, memory) and what not (parameters, values, gradients)."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from reimagen_jax.nets.settings import Level, UNetConfig
from reimagen_jax.nets.unet import Condition, UNet
from tests.nets.draws import draw, draw_params

CONFIG = UNetConfig(
    (Level(8, 1, self_attention=True, neighbour_attention=True),),
    efficient=True,
    head_width=4,
    groups=4,
    cond_width=16,
    text_width=8,
)
B, L, D, R = 2, 4, 8, 4


def inputs():
    return draw(0, (B, R, R, 3), (B, 1, R, R, 3), (B, L, D))


def forward(unet, x, nbr, text):
    mask = jnp.ones((B, L), bool)
    memory = unet.encode_neighbours(nbr, text[:, None], mask[:, None])
    return unet(x, jnp.full(B, 0.5), Condition(text, mask, memory, jnp.ones((B, 1), bool)))


@pytest.fixture(scope="module")
def params():
    return draw_params(lambda: UNet(CONFIG).init(jax.random.key(0), *inputs(), method=forward)["params"], seed=1)


def loss(config, params):
    out = UNet(config).apply({"params": params}, *inputs(), method=forward)
    return jnp.square(out).mean(), out


def value_and_gradient(config, params):
    (_, out), gradient = jax.jit(jax.value_and_grad(lambda p: loss(config, p), has_aux=True))(params)
    return out, gradient


def primitives(jaxpr):
    """(name, operand dtypes) of every operation, those of inner programs included."""
    for equation in jaxpr.eqns:
        yield equation.primitive.name, [v.aval.dtype for v in equation.invars if hasattr(v.aval, "dtype")]
        for value in equation.params.values():
            for inner in value if isinstance(value, tuple | list) else [value]:
                inner = getattr(inner, "jaxpr", inner)
                if hasattr(inner, "eqns"):
                    yield from primitives(inner)


@pytest.fixture(scope="module")
def plain(params):
    return value_and_gradient(CONFIG, params)


@pytest.mark.parametrize("remat", ["blocks", "matmuls"])
def test_rematerialisation_changes_neither_values_nor_gradients(params, plain, remat):
    out, gradient = value_and_gradient(dataclasses.replace(CONFIG, remat=remat), params)
    np.testing.assert_allclose(out, plain[0], atol=1e-5)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), gradient, plain[1])


def test_rematerialisation_saves_what_it_says(params):
    def saved(remat):
        config = dataclasses.replace(CONFIG, remat=remat)
        _, pullback = jax.eval_shape(lambda p: jax.vjp(lambda p: loss(config, p)[0], p), params)
        return sum(leaf.size for leaf in jax.tree.leaves(pullback))

    assert saved("blocks") < saved("matmuls") < saved("none")


def test_bfloat16_is_close_and_leaves_parameters_and_output_float32(params, plain):
    out, gradient = value_and_gradient(dataclasses.replace(CONFIG, dtype="bfloat16"), params)
    assert out.dtype == jnp.float32 and all(g.dtype == jnp.float32 for g in jax.tree.leaves(gradient))
    assert 1e-5 < np.linalg.norm(out - plain[0]) / np.linalg.norm(plain[0]) < 2e-2
    ours, theirs = (jnp.concatenate([g.ravel() for g in jax.tree.leaves(tree)]) for tree in (gradient, plain[1]))
    assert jnp.vdot(ours, theirs) / jnp.linalg.norm(ours) / jnp.linalg.norm(theirs) > 0.995


def test_norms_and_softmax_stay_float32_and_products_do_not(params):
    config = dataclasses.replace(CONFIG, dtype="bfloat16")
    found = list(primitives(jax.make_jaxpr(lambda p: loss(config, p)[0])(params).jaxpr))
    sensitive = [dtypes for name, dtypes in found if name in ("rsqrt", "exp", "reduce_sum", "reduce_max")]
    assert sensitive and all(jnp.bfloat16 not in dtypes for dtypes in sensitive)
    convolutions = [dtypes for name, dtypes in found if name == "conv_general_dilated"]
    in_half = [dtypes for dtypes in convolutions if all(dtype == jnp.bfloat16 for dtype in dtypes)]
    assert len(in_half) == len(convolutions) - 1  # all but the last, which makes the prediction
