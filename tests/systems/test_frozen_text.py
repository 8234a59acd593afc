"""Text by a frozen encoder: embeddings pass as they are; a dropped text is masked, or is the empty one."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest

from reimagen_jax.encoders.settings import FrozenTextConfig
from reimagen_jax.encoders.texts import Embedded
from reimagen_jax.errors import UserError
from reimagen_jax.systems.reimagen.condition import Batch, drop
from reimagen_jax.systems.reimagen.system import ReImagen
from tests.tiny import TINY, changed

B, K, L, D = 2, 2, 5, 12


def config(padding, **system):
    frozen = FrozenTextConfig(width=D, max_tokens=L, padding=padding)
    return changed(TINY, text=replace(TINY.system.text, frozen=frozen), **system)


def embedded(*lead, seed=0):
    rng = np.random.default_rng(seed)
    mask_BL = np.arange(L) < rng.integers(1, L + 1, (*lead, 1))
    return Embedded(jnp.asarray(rng.normal(size=(*lead, L, D)).astype(ml_dtypes.bfloat16)), jnp.asarray(mask_BL))


def batch(num_neighbours=K):
    rng = np.random.default_rng(1)
    leads = (B,), (B, num_neighbours)
    image, nbr = (jnp.asarray(rng.integers(0, 256, (*lead, 16, 16, 3), np.uint8)) for lead in leads)
    texts = embedded(B), embedded(B, num_neighbours, seed=2)
    return Batch(image, texts[0], nbr, texts[1], jnp.ones((B, num_neighbours), bool))


def test_a_frozen_encoder_has_no_parameters_but_the_empty_text():
    params = {
        padding: jax.eval_shape(ReImagen(config(padding)).init, jax.random.key(0)) for padding in ("masked", "kept")
    }
    assert params["masked"].keys() == {"unet"}
    assert jax.tree.map(jnp.shape, params["kept"]["text"]) == {"empty_LD": (L, D)}
    assert jax.tree.map(jnp.shape, params["kept"]["unet"]) == jax.tree.map(jnp.shape, params["masked"]["unet"])


def test_a_dropped_text_is_the_empty_one_where_padding_counts():
    system = ReImagen(config("kept"))
    empty_LD = jax.random.normal(jax.random.key(3), (L, D))
    condition = system.condition({"text": {"empty_LD": empty_LD}}, batch(num_neighbours=0))
    dropped = drop(condition, text_B=jnp.asarray([True, False]), neighbours_B=jnp.zeros(B, bool))
    np.testing.assert_array_equal(dropped.text_BLD[0], empty_LD)
    np.testing.assert_array_equal(dropped.text_BLD[1], condition.text_BLD[1])
    np.testing.assert_array_equal(dropped.text_mask_BL, condition.text_mask_BL)
    assert condition.text_BLD.dtype == jnp.float32


def test_a_dropped_text_has_no_token_where_padding_is_masked():
    condition = ReImagen(config("masked")).condition({}, batch(num_neighbours=0))
    dropped = drop(condition, text_B=jnp.asarray([True, False]), neighbours_B=jnp.zeros(B, bool))
    assert not dropped.text_mask_BL[0].any()
    np.testing.assert_array_equal(dropped.text_mask_BL[1], embedded(B).mask_BL[1])
    np.testing.assert_array_equal(dropped.text_BLD, condition.text_BLD)


def test_it_trains_and_the_empty_text_learns_with_it():
    system = ReImagen(config("kept", text_drop=0.5))

    @jax.jit
    def gradient(key):
        params = jax.tree.map(lambda p: p + 0.05, system.init(key))
        return jax.value_and_grad(lambda p: system.loss(p, batch(), jax.random.key(0))[0])(params)

    loss, grads = gradient(jax.random.key(1))
    assert np.isfinite(loss)
    assert np.any(grads["text"]["empty_LD"])


def test_tokens_for_embeddings_and_embeddings_for_tokens_are_refused():
    with pytest.raises(UserError, match="takes texts as embeddings"):
        ReImagen(config("masked")).condition({}, batch().replace(tokens_BL=jnp.zeros((B, 32), jnp.int32)))
    with pytest.raises(UserError, match="takes texts as tokens"):
        ReImagen(TINY).condition({}, batch())
