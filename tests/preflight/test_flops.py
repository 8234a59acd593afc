"""Counted FLOPs are the multiplications that really happen: those of ones with ones, summed up."""

import jax
import jax.numpy as jnp
import pytest
from jax import lax

from reimagen_jax.preflight import flops, hlo

NHWC = ("NHWC", "HWIO", "NHWC")


def ones(*sides):
    return jnp.ones(sides, jnp.float32)


CONVOLUTIONS = {
    "padded": {"window_strides": (1, 1), "padding": "SAME"},
    "strided": {"window_strides": (2, 2), "padding": ((1, 0), (0, 1))},
    "of an image with gaps": {"window_strides": (1, 1), "padding": ((2, 2), (2, 2)), "lhs_dilation": (2, 3)},
    "of a kernel with gaps": {"window_strides": (1, 2), "padding": "VALID", "rhs_dilation": (2, 1)},
}


@pytest.mark.parametrize("how", CONVOLUTIONS.values(), ids=CONVOLUTIONS)
def test_convolutions(how):
    def convolve(x, w):
        return lax.conv_general_dilated(x, w, dimension_numbers=NHWC, **how)

    x, w = ones(2, 9, 8, 3), ones(3, 2, 3, 5)
    really = 2 * convolve(x, w).sum()  # every product of two ones that is added up, and its addition
    assert flops.count(convolve, x, w) == really
    assert hlo.matrix_flops(hlo.parse(jax.jit(convolve).lower(x, w).compile().as_text())) == really


def test_matrix_products_with_batches():
    def product(a, b):
        return jnp.einsum("bqhd,bmhd->bhqm", a, b)

    a, b = ones(2, 5, 3, 4), ones(2, 7, 3, 4)
    really = 2 * product(a, b).sum()
    assert flops.count(product, a, b) == really
    assert hlo.matrix_flops(hlo.parse(jax.jit(product).lower(a, b).compile().as_text())) == really


def test_gradients_cost_twice_the_function():
    def loss(w, x):
        return (jnp.tanh(x @ w) ** 2).sum()

    w, x = ones(16, 8), ones(4, 16)
    forward = flops.count(loss, w, x)
    assert flops.count(jax.grad(loss, (0, 1)), w, x) == flops.TRAINING * forward


def test_only_what_learns_has_a_gradient():
    def loss(params, x, wrap=jax.checkpoint):
        early, late = params["early"], params["late"]
        h = wrap(lambda w, x: jnp.tanh(x @ w))(early, x)
        h, _ = lax.scan(lambda h, _: (jnp.tanh(h @ late), None), h, None, length=3)
        return (lax.stop_gradient(h) @ early).sum() + (h**2).sum()

    params, x = {"early": ones(16, 16), "late": ones(16, 16)}, ones(4, 16)
    once = 2 * 4 * 16 * 16

    def training(*names):
        return flops.training(loss, {name: name in names for name in params}, params, x) // once

    assert flops.count(loss, params, x) == 5 * once == training() * once
    assert training("early") == 5 + 1 + 3 + 1  # its own two products, and back through the loop's three
    assert training("late") == 5 + 2 * 3  # a loop's rounds are alike: what enters the first counts as if it hung on it
    assert training("early", "late") == 5 + 1 + 2 * 3 + 1
    for name in params:  # as autodiff does it where nothing is computed again
        grad = jax.grad(lambda one, name=name: loss(params | {name: one}, x, wrap=lambda function: function))
        assert flops.count(grad, params[name]) == training(name) * once


def test_loops_branches_and_rematerialisation():
    w = ones(4, 4)

    def step(x, _):
        return x @ w, None

    once = flops.count(lambda x: x @ w, w)
    assert flops.count(lambda x: lax.scan(step, x, None, length=7)[0], w) == 7 * once
    assert flops.count(jax.checkpoint(lambda x: x @ w), w) == once
    assert flops.count(lambda x: lax.cond(x[0, 0] > 0, lambda x: x @ w @ w, lambda x: x, x), w) == 2 * once
    assert flops.count(jax.vmap(lambda x: x @ w), ones(3, 4, 4)) == 3 * once


def test_a_loop_of_unknown_length_is_refused():
    w = ones(4, 4)
    with pytest.raises(ValueError, match="unknown length"):
        flops.count(lambda x: lax.while_loop(lambda x: x[0, 0] < 9, lambda x: x @ w, x), w)
    # One without matrix products is nobody's concern.
    assert flops.count(lambda x: lax.while_loop(lambda x: x < 9, lambda x: x + 1, x), jnp.float32(0)) == 0
