"""Our networks equal DeepFloyd IF's (as diffusers builds them) for equal weights, and so does a Re-Imagen's start."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from reimagen_jax.errors import UserError
from reimagen_jax.nets.attention import NeighbourAttention
from reimagen_jax.nets.unet import Condition, UNet
from reimagen_jax.systems.reimagen.deepfloyd import unet_config, unet_params
from tests.parity.deepfloyd import STAGE_1, STAGE_2, numpy_state, predict, random_model

B, L, R, D = 3, 5, 16, STAGE_1["encoder_hid_dim"]
TIMESTEPS, LEVELS = np.array([999, 412, 0]), np.array([0, 250, 731])
MASK = jnp.ones((B, L), bool)


def inputs(seed):
    rng = np.random.default_rng(seed)
    x, low_res = (rng.normal(size=(B, R, R, 3)).astype(np.float32) for _ in range(2))
    return x, low_res, rng.normal(size=(B, L, D)).astype(np.float32)


def relative_error(ours, theirs):
    return np.linalg.norm(np.asarray(ours, np.float64) - theirs) / np.linalg.norm(theirs)


def apply(config, params, x, t, condition):
    return jax.jit(UNet(config, channels=6).apply)({"params": params}, jnp.asarray(x), t, condition)


def times(timesteps):
    return jnp.asarray(timesteps / 1000.0, jnp.float32)


@pytest.fixture(scope="module")
def stage_1():
    model = random_model(STAGE_1, seed=1)
    config = unet_config(model.config)
    return model, config, unet_params(numpy_state(model), config)


def test_stage_1_equals_theirs(stage_1):
    model, config, params = stage_1
    x, _, text = inputs(0)
    theirs = predict(model, x, TIMESTEPS, text)
    ours = apply(config, params, x, times(TIMESTEPS), Condition(jnp.asarray(text), MASK))
    assert ours.shape == (B, R, R, 6)
    assert np.std(theirs) > 0.1
    assert relative_error(ours, theirs) < 1e-5


def test_stage_2_equals_theirs():
    model = random_model(STAGE_2, seed=2)
    config = unet_config(model.config)
    x, low_res, text = inputs(0)
    theirs = predict(model, np.concatenate([x, low_res], axis=-1), TIMESTEPS, text, LEVELS)
    condition = Condition(jnp.asarray(text), MASK, low_res_BHWC=jnp.asarray(low_res), aug_level_B=times(LEVELS))
    ours = apply(config, unet_params(numpy_state(model), config), x, times(TIMESTEPS), condition)
    assert np.std(theirs) > 0.1
    assert relative_error(ours, theirs) < 1e-5


def test_re_imagen_starts_as_the_network_it_is_made_from(stage_1):
    model, imagen_config, _ = stage_1
    lowest = dataclasses.replace(imagen_config.levels[-1], neighbour_attention=True)
    config = dataclasses.replace(imagen_config, levels=(*imagen_config.levels[:-1], lowest))
    unet = UNet(config, channels=6)
    x, nbr, text = map(jnp.asarray, inputs(0))

    def predict_with(unet, nbr_mask_BK):
        memory = unet.encode_neighbours(nbr[:, None], text[:, None], MASK[:, None])
        return unet(x, times(TIMESTEPS), Condition(text, MASK, memory, nbr_mask_BK))

    def fresh(attention, features):
        return attention(features, attention.remember(features, 1), jnp.ones((1, 1), bool))

    attention = NeighbourAttention(config, lowest.width, config.head_width)
    features = jnp.ones((1, 2, 2, lowest.width))
    attention_params = jax.jit(lambda key: attention.init(key, features, method=fresh))(jax.random.key(0))["params"]
    params = unet_params(numpy_state(model), config) | {"neighbour_attention_level1": attention_params}
    present = jnp.ones((B, 1), bool)
    whole = jax.eval_shape(lambda: unet.init(jax.random.key(0), present, method=predict_with)["params"])
    assert jax.tree.map(jnp.shape, params) == jax.tree.map(jnp.shape, whole)

    run = jax.jit(lambda params, mask: unet.apply({"params": params}, mask, method=predict_with))
    with_neighbours, without = run(params, present), run(params, ~present)
    np.testing.assert_array_equal(with_neighbours, without)
    assert relative_error(without, predict(model, np.asarray(x), TIMESTEPS, np.asarray(text))) < 1e-5
    # The neighbours are read: an output that is not zero any more makes them count.
    out = attention_params["out"] | {"kernel": jnp.ones_like(attention_params["out"]["kernel"])}
    trained = params | {"neighbour_attention_level1": attention_params | {"out": out}}
    assert relative_error(run(trained, present), without) > 1e-2


def test_all_that_does_not_fit_is_named_at_once(stage_1):
    model, config, _ = stage_1
    state = numpy_state(model)
    del state["mid_block.resnets.0.norm1.bias"], state["up_blocks.0.attentions.1.to_v.weight"]
    state["up_blocks.9.spare"] = np.zeros(3)
    state["conv_in.weight"] = state["conv_in.weight"][:, :2]
    with pytest.raises(UserError) as error:
        unet_params(state, config)
    for part in (
        "mid_block.resnets.0.norm1.bias is missing",
        "up_blocks.0.attentions.1.to_v.weight is missing",
        "up_blocks.9.spare is unexpected",
        "conv_in.weight has shape (3, 3, 2, 64)",
    ):
        assert part in str(error.value)


def test_a_network_that_is_not_ifs_is_refused():
    with pytest.raises(UserError, match="act_fn is 'silu'"):
        unet_config(STAGE_1 | {"act_fn": "silu"})
