"""cuDNN's fused attention without a GPU: the same function by XLA's code, and programs lowered for an NVIDIA GPU."""

import dataclasses
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax._src.cudnn import fused_attention_stablehlo as jax_fused
from jax.extend.core import jaxprs_in_params
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from reimagen_jax import sharding
from reimagen_jax.config import load_experiment
from reimagen_jax.nets import attention, transformer
from reimagen_jax.nets.attention import NeighbourAttention, SelfTextAttention, attend, present_first
from reimagen_jax.nets.settings import Level, Tower, UNetConfig
from reimagen_jax.nets.transformer import Block
from reimagen_jax.nets.unet import Condition, UNet
from reimagen_jax.systems import kinds
from tests.nets.draws import draw, draw_params

ROOT = Path(__file__).parents[2]
B, Q, M, H, D = 3, 6, 77, 2, 8
CONFIG = UNetConfig((Level(16, 1, self_attention=True),), head_width=8, groups=4, dtype="bfloat16")
CUDNN, XLA = (dataclasses.replace(CONFIG, attention=name) for name in ("cudnn", "xla"))
PRESETS = ["if_finetune_64", "if_finetune_256", "re_imagen_64", "re_imagen_64_small", "re_imagen_256", "re_imagen_1024"]


@pytest.fixture
def by_xla(monkeypatch):
    """The fused attention's padded keys and lengths, computed by XLA."""
    monkeypatch.setattr(attention, "FUSED", "xla")


def value_and_slopes(implementation, mask, bias=None, thrown=None):
    """What is attended to by random queries, and the gradients of all three; `thrown` images' results are not used."""
    told = draw(0, (B, Q, H, D), (B, M, H, D), (B, M, H, D))
    (cotangent,) = draw(1, (B, Q, H, D))

    @jax.jit
    def run(*told):
        out, pull_back = jax.vjp(lambda *told: attend(*told, mask, implementation, bias), *told)
        used = jnp.ones(B, bool) if thrown is None else ~thrown
        dropped = jnp.where(used[:, None, None, None], cotangent, jnp.zeros_like(cotangent))
        return out, pull_back(dropped)

    return run(*told)


@pytest.mark.parametrize("weighted", [False, True])
def test_padded_keys_and_lengths_are_the_masked_attention(by_xla, weighted):
    mask = jnp.arange(M)[None, :] < jnp.asarray([M, 1, 40])[:, None]
    bias = draw(2, (B, M))[0] if weighted else None
    for kept in (mask, None):
        ours, theirs = (value_and_slopes(name, kept, bias) for name in ("cudnn", "xla"))
        for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
            np.testing.assert_allclose(a, b, atol=2e-6)


@pytest.mark.parametrize("poison", [jnp.nan, jnp.inf])
def test_where_no_key_is_left_nothing_is_read_and_nothing_comes_back(by_xla, monkeypatch, poison):
    """Also where a kernel leaves what it likes in the gradients of keys that do not count."""
    mask = jnp.arange(M)[None, :] < jnp.asarray([M, 0, 40])[:, None]
    exact = value_and_slopes("xla", mask, thrown=~mask.any(axis=1))
    fused = jax.nn.dot_product_attention

    @jax.custom_vjp
    def kernel(query, key, value, length):
        return fused(query, key, value, key_value_seq_lengths=length)

    def backward(told, cotangent):
        *told, length = told
        slopes = jax.vjp(lambda *told: fused(*told, key_value_seq_lengths=length), *told)[1](cotangent)
        counts = (jnp.arange(told[1].shape[1])[None, :] < length[:, None])[:, :, None, None]
        return slopes[0], *(jnp.where(counts, slope, jnp.full_like(slope, poison)) for slope in slopes[1:]), None

    kernel.defvjp(lambda *told: (kernel(*told), told), backward)
    monkeypatch.setattr(
        jax.nn,
        "dot_product_attention",
        lambda q, k, v, *, key_value_seq_lengths, **_: kernel(q, k, v, key_value_seq_lengths),
    )
    out, slopes = value_and_slopes("cudnn", mask, thrown=~mask.any(axis=1))
    np.testing.assert_array_equal(out[1], jnp.zeros_like(out[1]))
    np.testing.assert_allclose(out[::2], exact[0][::2], atol=2e-6)
    for slope, wanted in zip(slopes, exact[1], strict=True):
        np.testing.assert_allclose(slope, wanted, atol=2e-6)


def test_those_present_come_first_otherwise_in_order():
    mask = jnp.asarray([[False, True, False, True], [False] * 4, [True] * 4])
    (told,) = draw(0, (3, 4, 2))
    packed, moved = present_first(mask, told)
    np.testing.assert_array_equal(packed, mask.sum(axis=1)[:, None] > np.arange(4)[None, :])
    np.testing.assert_array_equal(moved[0], told[0, jnp.asarray([1, 3, 0, 2])])
    np.testing.assert_array_equal(moved[1:], told[1:])


def test_packing_moves_nothing_between_devices():
    mesh = sharding.make_mesh()
    split = sharding.batch_sharding(mesh)
    told = [jax.ShapeDtypeStruct((8, 4, *rest), dtype, sharding=split) for rest, dtype in (((), bool), ((6,), float))]
    slope = jax.grad(lambda told, mask: (present_first(mask, told)[1] ** 2).sum())
    text = jax.jit(slope, out_shardings=NamedSharding(mesh, P(("data", "fsdp")))).lower(told[1], told[0]).compile()
    assert mesh.size == 8
    assert not any(name in text.as_text() for name in ("all-gather", "all-reduce", "collective-permute", "all-to-all"))


MASKS = jnp.asarray(
    [[True, True, False, False], [False, True, False, True], [False] * 4, [True] * 4]
)  # a prefix, absent in the middle, none, all


@pytest.mark.parametrize("text_alone", [False, True])
def test_any_text_is_attended_to_alike(by_xla, key, text_alone):
    x, text = draw(0, (4, 4, 4, 16), (4, 4, 8))
    alike(key, lambda config: SelfTextAttention(config, 8, text_alone), x, text, MASKS)


@pytest.mark.parametrize("weighted", [False, True])
def test_any_neighbours_are_attended_to_alike(by_xla, key, weighted):
    f, features = draw(0, (4, 4, 4, 16), (16, 2, 2, 16))
    weight = jnp.asarray([[1.0, 3.0, 2.0, 0.5]] * 3 + [[0.0, 1.0, 0.25, 2.0]]) if weighted else None

    class Whole(NeighbourAttention):
        def run(self, f, features, mask, weight):
            return self(f, self.remember(features, 4), mask, weight)

    alike(key, lambda config: Whole(config, 16, 8), f, features, MASKS, weight, method=Whole.run)


def alike(key, module, x, told, mask, *rest, method=None):
    """Output and gradients with cuDNN's padding and packing are those with masks; all of them finite."""

    def run(config):
        def loss(params, x, told):
            out = module(config).apply({"params": params}, x, told, mask, *rest, method=method)
            return (out.astype(jnp.float32) ** 2).sum(), out

        with jax.numpy_dtype_promotion("standard"):  # jax's own attention relies on it in bfloat16
            params = draw_params(
                lambda: module(config).init(key, x, told, mask, *rest, method=method)["params"], seed=0
            )
            slopes, out = jax.jit(jax.grad(loss, argnums=(0, 1, 2), has_aux=True))(params, x, told)
        return jax.tree.leaves((out, slopes))

    for ours, theirs in zip(run(CUDNN), run(XLA), strict=True):
        ours, theirs = (np.asarray(each, np.float32) for each in (ours, theirs))
        np.testing.assert_allclose(ours, theirs, atol=0.02 * np.abs(theirs).max())


@pytest.fixture
def with_cudnn(monkeypatch):
    """What is lowered for an NVIDIA GPU is lowered for one with cuDNN 9.12, which need not be installed."""
    monkeypatch.setattr(jax_fused, "check_cudnn_version", lambda: 91200)


@pytest.mark.parametrize("name", PRESETS)
def test_every_attention_of_every_preset_is_cudnns_on_a_gpu(with_cudnn, name):
    config = load_experiment(ROOT / "experiments" / f"{name}.py")
    found = kinds.system_of(dataclasses.replace(config, system=config.system.for_platform("cuda"))).attentions
    assert found and all(each.choice.implementation == "cudnn" for each in found), found
    for each in {(each.queries, each.tokens): each for each in found}.values():
        calls = lowered(each)
        assert "__cudnn$fmhaSoftmax" in calls and "__cudnn$fmhaSoftmaxBackward" in calls
        assert "ScaleBias" not in calls  # lengths, no mask or bias of full size


def lowered(each):
    """The program of an attention and its gradient for an NVIDIA GPU; lowered only, so that no GPU is needed."""
    heads, half = 2, jnp.bfloat16
    query, key = (jax.ShapeDtypeStruct((2, n, heads, each.head_width), half) for n in (each.queries, each.tokens))

    def loss(query, key, value, mask):
        return attend(query, key, value, mask, "cudnn").astype(jnp.float32).sum()

    mask = jax.ShapeDtypeStruct((2, each.tokens), bool)
    step = jax.jit(jax.value_and_grad(loss, argnums=(0, 1, 2)))
    with jax.numpy_dtype_promotion("standard"):
        return step.trace(query, key, key, mask).lower(lowering_platforms=("cuda",)).as_text()


@pytest.mark.parametrize("efficient", [False, True])
def test_the_attentions_of_a_network_are_those_that_it_has(with_cudnn, key, efficient):
    levels = (
        Level(16, 2, text_attention=True, head_width=16),
        Level(32, 1, self_attention=True, neighbour_attention=True),
    )
    config = dataclasses.replace(CUDNN, levels=levels, efficient=efficient, cond_width=8, patch=2)
    unet, zero = UNet(config), jnp.zeros(1)
    image, text, mask = jnp.zeros((1, 16, 16, 3)), jnp.zeros((1, 5, 8)), jnp.ones((1, 5), bool)

    def both(unet):
        memory = unet.encode_neighbours(image[:, None], text[:, None], mask[:, None])
        return unet(image, zero, Condition(text, mask, memory, jnp.ones((1, 1), bool)))

    found = set()

    def visit(jaxpr):
        for equation in jaxpr.eqns:
            if equation.primitive.name.startswith("dot_product_attention_fwd"):
                (_, Q, _, D), (_, M, *_) = (x.aval.shape for x in equation.invars[:2])
                found.add((Q, M, D))
            for inner in jaxprs_in_params(equation.params):
                visit(inner)

    with jax.numpy_dtype_promotion("standard"):
        visit(jax.make_jaxpr(lambda: unet.init(key, method=both))().jaxpr)
    listed = attention.attentions(config, 16, 5, 1)
    assert found == {(each.queries, -(-each.tokens // 64) * 64, each.head_width) for each in listed}
    assert {each.choice.implementation for each in listed} == {"cudnn"} and len(listed) == 3


TOWER = Tower(16, 2, 2, 32, "gelu")


def tower_outputs(wanted, mask, causal, dtype):
    """Tokens after a transformer's blocks, and their gradients."""
    tower, (x,) = dataclasses.replace(TOWER, attention=wanted), draw(0, (3, 7, 16))
    seen = jnp.tri(7, dtype=bool) if causal else None
    block = Block(tower, dtype, "float32")
    params = draw_params(lambda: block.init(jax.random.key(0), x, seen, mask)["params"], seed=0)

    def loss(params, x):
        out = block.apply({"params": params}, x, seen, mask)
        return jnp.where(mask[:, :, None] if mask is not None else True, out, 0.0).sum(), out

    with jax.numpy_dtype_promotion("standard"):
        return jax.tree.leaves(jax.jit(jax.grad(loss, argnums=(0, 1), has_aux=True))(params, x))


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("masked", [False, True])
def test_a_transformers_tokens_are_attended_to_alike(monkeypatch, masked, causal):
    """Padded to whole blocks, with masks as cuDNN is told of them, computed by XLA."""
    monkeypatch.setattr(transformer, "FUSED", "xla")
    mask = jnp.asarray([[True] * 7, [True] * 3 + [False] * 3 + [True], [True] + [False] * 6]) if masked else None
    calls, fused = [], transformer.fused_attention
    monkeypatch.setattr(transformer, "fused_attention", lambda *told: calls.append(told) or fused(*told))
    monkeypatch.setattr(
        transformer, "choose", lambda wanted, *_: attention.Choice("xla" if wanted == "cudnn" else "einsum", "")
    )
    ours, theirs = (tower_outputs(wanted, mask, causal, "float32") for wanted in ("cudnn", "einsum"))
    assert len(calls) > 0
    for a, b in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(a, b, atol=2e-5 * max(1.0, float(np.abs(b).max())))


@pytest.mark.parametrize("name", ["dalle2_prior", "dalle2_decoder", "rcg_mage_b", "rcg_moco_b"])
def test_transformers_of_every_preset_ask_for_cudnn_on_a_gpu(name):
    config = load_experiment(ROOT / "experiments" / f"{name}.py").system

    def towers(settings):
        if isinstance(settings, Tower):
            yield settings
        elif dataclasses.is_dataclass(settings):
            for field in dataclasses.fields(settings):
                yield from towers(getattr(settings, field.name))

    for platform, wanted in (("cuda", "cudnn"), ("tpu", "xla")):
        found = list(towers(config.for_platform(platform)))
        assert found and {tower.attention for tower in found} == {wanted}


@pytest.mark.parametrize("masked", [False, True])
def test_a_transformers_attention_is_cudnns_on_a_gpu(with_cudnn, masked):
    """Forward and backward, of an odd number of tokens."""
    tower = Tower(128, 1, 2, 64, attention="cudnn")
    block, x = Block(tower, "bfloat16", "float32"), jax.ShapeDtypeStruct((2, 77, 128), jnp.float32)
    mask = jax.ShapeDtypeStruct((2, 77), bool) if masked else None
    seen = jnp.tri(77, dtype=bool) if masked else None
    with jax.numpy_dtype_promotion("standard"):
        params = jax.eval_shape(lambda x: block.init(jax.random.key(0), x)["params"], x)
        loss = lambda params, x, mask: block.apply({"params": params}, x, seen, mask).sum()  # noqa: E731
        step = jax.jit(jax.value_and_grad(loss, argnums=(0, 1)))
        text = step.trace(params, x, mask).lower(lowering_platforms=("cuda",)).as_text()
    forward, backward = ("ScaleBias" if masked else "") + "Softmax", ("ScaleBias" if masked else "") + "SoftmaxBackward"
    assert f"__cudnn$fmha{forward}" in text and f"__cudnn$fmha{backward}" in text
