"""Blocks and attentions one by one: how they start, what is masked, and that implementations agree."""

import dataclasses
from types import SimpleNamespace

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from reimagen_jax.nets.attention import SelfTextAttention, attend, choose, text_group_norm
from reimagen_jax.nets.layers import ResBlock
from reimagen_jax.nets.settings import Level, UNetConfig
from tests.nets.draws import draw, draw_params

CONFIG = UNetConfig((Level(8, 1, self_attention=True),), head_width=4, groups=4, cond_width=16)
B, L, D, R = 2, 4, 8, 4


@pytest.mark.parametrize("scale", [1.0, 0.5**0.5])
def test_a_block_starts_as_its_scaled_input(key, scale):
    block = ResBlock(dataclasses.replace(CONFIG, residual_scale=scale), 8)
    x, cond = draw(0, (B, R, R, 8), (B, 16))
    out, _ = block.init_with_output(key, x, cond)
    np.testing.assert_array_equal(out, x * jnp.float32(scale))


@pytest.mark.parametrize("text_alone", [False, True])
def test_an_attention_starts_as_the_identity(key, text_alone):
    x, text = draw(0, (B, R, R, 8), (B, L, D))
    out, _ = SelfTextAttention(CONFIG, 4, text_alone).init_with_output(key, x, text, jnp.ones((B, L), bool))
    np.testing.assert_array_equal(out, x)


def test_attention_to_text_alone_reads_the_text_and_is_silent_without(key):
    attention = SelfTextAttention(CONFIG, 4, text_alone=True)
    x, text = draw(0, (B, R, R, 8), (B, L, D))
    mask = jnp.asarray([[True] * L, [False] * L])
    params = draw_params(lambda: attention.init(key, x, text, mask)["params"], seed=0)
    assert params.keys() == {"norm", "text_norm", "query", "text_kv", "out"}  # no keys and values of pixels
    out, other = (attention.apply({"params": params}, x, words, mask) for words in (text, text[:, :, ::-1]))
    np.testing.assert_array_equal(out[1], x[1])
    assert not np.allclose(out[0], other[0], atol=1e-2)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("implementation", ["einsum", "mapped", "xla"])
def test_a_masked_token_weighs_exactly_nothing(implementation, dtype):
    query, key, value = (x.astype(dtype) for x in draw(0, *[(B, 6, 2, 4)] * 3))
    mask = jnp.asarray([[True, False, True, True, False, False], [False, False, False, False, False, True]])
    visible = mask[..., None, None]

    @jax.jit
    def run(query, key, value):
        out, pullback = jax.vjp(lambda *kv: attend(query, *kv, mask, implementation), key, value)
        return out, pullback(jnp.ones_like(out))

    with jax.numpy_dtype_promotion("standard"):  # jax's own attention relies on it in bfloat16
        out, gradient = run(query, key, value)
        other, _ = run(query, jnp.where(visible, key, 50.0), jnp.where(visible, value, 1e30))
    assert out.dtype == query.dtype
    np.testing.assert_array_equal(other, out)
    assert all(jnp.all(jnp.where(visible, 0.0, g.astype(jnp.float32)) == 0) for g in gradient)
    only = np.broadcast_to(np.asarray(value, np.float32)[1, 5], (6, 2, 4))  # one token left: its value
    np.testing.assert_allclose(np.asarray(out, np.float32)[1], only, rtol=1e-2)


def test_implementations_agree():
    query, key, value = draw(0, *[(B, 6, 2, 4)] * 3)
    mask = jnp.asarray([[True, False, True, True, False, False], [False, False, True, False, False, True]])
    for chosen in (None, mask):
        plain = attend(query, key, value, chosen, "einsum")
        for other in ("mapped", "xla"):
            np.testing.assert_allclose(attend(query, key, value, chosen, other), plain, atol=1e-6)


@pytest.mark.parametrize("implementation", ["einsum", "mapped", "xla"])
def test_a_bias_of_log_w_is_a_token_w_times(implementation):
    query, key, value = draw(0, *[(B, 6, 2, 4)] * 3)
    plain = attend(query, key, value, None, implementation)
    same = attend(query, key, value, None, implementation, jnp.zeros((B, 6)))
    np.testing.assert_array_equal(same, plain)
    thrice = attend(
        query, *(jnp.concatenate([x, x[:, :1], x[:, :1]], axis=1) for x in (key, value)), None, implementation
    )
    bias = jnp.zeros((B, 6)).at[:, 0].set(jnp.log(3.0))
    np.testing.assert_allclose(attend(query, key, value, None, implementation, bias), thrice, atol=1e-6)


def chosen(config, *sizes):
    choice = choose(config.attention, config.dtype, *sizes)
    assert choice.reason
    return choice.implementation


def test_auto_takes_what_the_device_is_good_at(monkeypatch):
    half = dataclasses.replace(CONFIG, dtype="bfloat16")
    assert chosen(CONFIG, 64, 64, 64) == chosen(half, 64, 64, 64) == "einsum"  # this CPU
    assert chosen(CONFIG, 256, 512, 48) == "mapped"  # many scores
    assert chosen(dataclasses.replace(CONFIG, attention="xla"), 64, 64, 64) == "xla"

    def on(backend, capability=None):
        device = SimpleNamespace() if capability is None else SimpleNamespace(compute_capability=capability)
        monkeypatch.setattr(jax, "default_backend", lambda: backend)
        monkeypatch.setattr(jax, "devices", lambda: [device])

    on("tpu")
    assert chosen(half, 64, 64, 64) == "xla"
    on("gpu", "9.0")
    assert chosen(half, 64, 96, 64) == "cudnn"
    assert chosen(CONFIG, 64, 96, 64) == "xla"  # float32
    assert chosen(half, 64, 77, 64) == "cudnn"  # keys are padded, queries are not
    assert chosen(half, 81, 96, 64) == "xla"  # odd
    assert chosen(half, 64, 96, 256) == "xla"  # wide heads
    for old in ("7.5", "gfx90a"):
        on("gpu", old)
        assert chosen(half, 64, 96, 64) == "xla"


def test_group_norm_of_text_leaves_masked_tokens_out(key):
    class Norm(nn.Module):
        @nn.compact
        def __call__(self, text, mask):
            return text_group_norm(CONFIG, "norm", text, mask)

    (text,) = draw(0, (B, L, D))
    mask = jnp.asarray([[True, True, False, False], [False] * 4])
    out, _ = Norm().init_with_output(key, text, mask)
    alone, _ = Norm().init_with_output(key, text[:, :2], mask[:, :2])
    np.testing.assert_allclose(out[0, :2], alone[0], atol=1e-6)
    assert jnp.all(jnp.isfinite(out))
