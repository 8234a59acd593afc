"""The Efficient U-Net as a super-resolution stage, with neighbours: what may and may not change its prediction."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from reimagen_jax.nets.settings import Level, UNetConfig
from reimagen_jax.nets.unet import Condition, UNet
from tests.nets.draws import draw, draw_params

CONFIG = UNetConfig(
    (Level(8, 1), Level(16, 1, self_attention=True, neighbour_attention=True)),
    efficient=True,
    residual_scale=0.5**0.5,
    head_width=8,
    groups=4,
    cond_width=16,
    text_width=12,
    text_pooling="attention",
)
B, K, L, D, R = 2, 3, 5, 8, 16


@pytest.fixture(scope="module")
def stage():
    """`predict(**changes)` of a network with random weights and inputs, all of them traced; and the inputs."""
    unet = UNet(CONFIG)
    image, neighbours = (B, R, R, 3), (B, K, R, R, 3)
    x, low_res, text = draw(0, image, image, (B, L, D))
    nbr, nbr_low_res, nbr_text = draw(1, neighbours, neighbours, (B, K, L, D))
    inputs = {
        "x": x,
        "text": text,
        "text_mask": jnp.ones((B, L), bool),
        "low_res": low_res,
        "aug_level": jnp.full(B, 0.6),
        "nbr": nbr,
        "nbr_low_res": nbr_low_res,
        "nbr_text": nbr_text,
        "nbr_mask": jnp.ones((B, K), bool),
    }

    def forward(unet, x, text, text_mask, low_res, aug_level, nbr, nbr_low_res, nbr_text, nbr_mask):
        memory = unet.encode_neighbours(nbr, nbr_text, jnp.ones((B, K, L), bool), nbr_low_res)
        return unet(x, jnp.full(B, 0.5), Condition(text, text_mask, memory, nbr_mask, low_res, aug_level))

    params = draw_params(lambda: unet.init(jax.random.key(0), **inputs, method=forward)["params"], seed=2)
    predict = jax.jit(lambda **inputs: unet.apply({"params": params}, **inputs, method=forward))
    return lambda **changes: predict(**(inputs | changes)), inputs


def test_sides_halve_once_more_than_in_adms_shape():
    assert CONFIG.stride == 4 and dataclasses.replace(CONFIG, efficient=False).stride == 2


def test_prediction_has_the_size_of_x_and_examples_do_not_mix(stage):
    predict, inputs = stage
    first = predict()
    assert first.shape == (B, R, R, 3) and first.dtype == jnp.float32
    other = predict(x=inputs["x"].at[1].set(7.0), nbr=inputs["nbr"].at[1].set(0.3), low_res=inputs["low_res"] * 1.0)
    np.testing.assert_array_equal(other[0], first[0])
    assert not np.allclose(other[1], first[1], atol=1e-3)


@pytest.mark.parametrize("part", ["low_res", "aug_level", "nbr", "nbr_low_res", "nbr_text", "text"])
def test_every_part_of_the_condition_matters(stage, part):
    predict, inputs = stage
    assert not np.allclose(predict(), predict(**{part: inputs[part] * 0.5 + 0.1}), atol=1e-4)


def test_order_of_neighbours_changes_nothing(stage):
    predict, inputs = stage
    order = jnp.asarray([2, 0, 1])
    mask = jnp.asarray([[True, True, False], [True, False, True]])
    parts = {name: inputs[name][:, order] for name in ("nbr", "nbr_low_res", "nbr_text")}
    permuted = predict(**parts, nbr_mask=mask[:, order])
    np.testing.assert_allclose(permuted, predict(nbr_mask=mask), atol=2e-5)


def test_a_masked_neighbour_and_masked_text_weigh_nothing(stage):
    predict, inputs = stage
    mask = jnp.asarray([[True, False, True], [False, False, False]])
    nbr = inputs["nbr"].at[0, 1].set(9.0).at[1].set(-9.0)
    np.testing.assert_array_equal(predict(nbr_mask=mask, nbr=nbr), predict(nbr_mask=mask))
    text_mask = jnp.asarray([[True, False, True, True, False], [False] * 5])
    text = jnp.where(text_mask[..., None], inputs["text"], 9.0)
    np.testing.assert_array_equal(predict(text_mask=text_mask, text=text), predict(text_mask=text_mask))
    assert not np.allclose(predict(text_mask=text_mask)[1], predict()[1], atol=1e-3)


def test_low_resolution_comes_with_its_level():
    x, text = jnp.ones((1, R, R, 3)), jnp.ones((1, L, D))
    with pytest.raises(ValueError, match="aug_level_B both"):
        condition = Condition(text, jnp.ones((1, L), bool), low_res_BHWC=x)
        jax.eval_shape(lambda: UNet(CONFIG).init(jax.random.key(0), x, jnp.zeros(1), condition))
