"""What networks are told besides texts: a vector beside the time, tokens beside the text; and networks without text."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from reimagen_jax.nets.layers import ResBlock
from reimagen_jax.nets.settings import Level, UNetConfig
from reimagen_jax.nets.unet import Condition, UNet, predict, read
from tests.nets.draws import draw, draw_params

DECODER = UNetConfig(
    (Level(8, 1), Level(16, 1, self_attention=True)),
    head_width=8,
    groups=4,
    cond_width=16,
    text_norm="none",
    text_pooling="none",
)
UPSAMPLER = dataclasses.replace(DECODER, levels=(Level(8, 1), Level(16, 1)), time="add", aug_level=False)
B, L, M, D, R = 2, 5, 3, 12, 8
T = jnp.full(B, 0.5)


def params_of(config, condition):
    x = jnp.zeros((B, R, R, 3))
    return draw_params(lambda: UNet(config).init(jax.random.key(0), x, T, condition)["params"], seed=1)


@pytest.fixture(scope="module")
def decoder():
    """A prediction by a network that is told a text, a vector and tokens, and what it is told."""
    x, text, vector, extra = draw(0, (B, R, R, 3), (B, L, D), (B, 16), (B, M, D))
    told = Condition(text, jnp.ones((B, L), bool), embedding_BD=vector, extra_BMD=extra)
    params = params_of(DECODER, told)
    run = jax.jit(lambda condition: predict(UNet(DECODER), params, x, T, condition))
    return run, told, params


def test_a_vector_of_zeros_adds_nothing_and_any_other_counts(decoder):
    run, told, _ = decoder
    none, zeros = run(told.replace(embedding_BD=None)), run(told.replace(embedding_BD=jnp.zeros((B, 16))))
    np.testing.assert_array_equal(none, zeros)
    assert np.abs(run(told) - none).max() > 1e-2


def test_the_order_of_extra_tokens_changes_nothing_but_their_values_do(decoder):
    run, told, _ = decoder
    np.testing.assert_allclose(run(told.replace(extra_BMD=told.extra_BMD[:, ::-1])), run(told), atol=1e-5)
    assert np.abs(run(told.replace(extra_BMD=told.extra_BMD[:, :, ::-1])) - run(told)).max() > 1e-2


@pytest.mark.parametrize("extra", [True, False])
def test_a_text_of_which_nothing_is_left_is_none(decoder, extra):
    """Its tokens count neither in attention nor, as nothing is pooled, anywhere else; extra tokens stay."""
    run, told, _ = decoder
    told = told if extra else told.replace(extra_BMD=None)
    masked, without = told.replace(text_mask_BL=jnp.zeros((B, L), bool)), told.replace(text_BLD=None, text_mask_BL=None)
    np.testing.assert_allclose(run(masked), run(without), atol=1e-5)
    assert np.abs(run(told) - run(without)).max() > 1e-2


def test_extra_tokens_are_read_once_with_the_text(decoder):
    run, told, params = decoder
    for condition in (told, told.replace(text_BLD=None, text_mask_BL=None)):
        once = condition.replace(told=read(UNet(DECODER), params, condition))
        np.testing.assert_allclose(run(once), run(condition), atol=1e-5)
        other = once.replace(extra_BMD=jnp.zeros_like(told.extra_BMD))  # nobody looks at them any more
        np.testing.assert_allclose(run(other), run(condition), atol=1e-5)
    assert read(UNet(DECODER), params, Condition()) == {}


def test_a_network_that_looks_at_no_token_remembers_none(decoder):
    """It may be told of a vector alone."""
    config = dataclasses.replace(DECODER, levels=UPSAMPLER.levels)
    assert read(UNet(config), params_of(config, decoder[1]), decoder[1]) == {}


def test_a_network_without_text_has_no_parameters_for_one():
    x, low_res = draw(0, *[(B, R, R, 3)] * 2)
    condition = Condition(low_res_BHWC=low_res)
    params = params_of(UPSAMPLER, condition)
    assert params["conditioning"].keys() == {"time1", "time2"}
    assert {name for stack in ("dstack", "ustack") for name in params[stack] if "attention" in name} == set()
    run = jax.jit(lambda low_res: UNet(UPSAMPLER).apply({"params": params}, x, T, Condition(low_res_BHWC=low_res)))
    assert np.abs(run(low_res) - run(-low_res)).max() > 1e-2
    attending = params_of(DECODER, Condition())
    assert attending["dstack"]["level1_attention0"].keys() == {"norm", "qkv", "out"}


@pytest.mark.parametrize(("config", "given"), [(UPSAMPLER, True), (DECODER, False)])
def test_a_network_is_told_an_augmentation_level_where_it_has_one(config, given):
    level_B = jnp.zeros(B) if given else None
    with pytest.raises(ValueError, match=r"unet\.aug_level"):
        params_of(config, Condition(low_res_BHWC=jnp.zeros((B, R, R, 3)), aug_level_B=level_B))


def test_a_block_adds_its_condition_before_the_second_norm():
    """A shift alike within each group of channels is lost to a norm of groups; scale and shift come after it."""
    x, cond = draw(0, (B, R, R, 8), (B, 16))
    changes = {}
    for time in ("add", "scale_shift"):
        block = ResBlock(dataclasses.replace(DECODER, time=time), 8)
        params = draw_params(lambda block=block: block.init(jax.random.key(0), x, cond)["params"], seed=0)
        kernel = params["cond"]["kernel"]
        assert kernel.shape == (16, 8 if time == "add" else 16)
        grouped = kernel[:, ::2].repeat(2, axis=1)
        params |= {"cond": params["cond"] | {"kernel": grouped}}
        out, other = (block.apply({"params": params}, x, told) for told in (cond, 0.5 * cond))
        changes[time] = np.abs(out - other).max()
    assert changes["add"] < 1e-4 < 1e-2 < changes["scale_shift"]
