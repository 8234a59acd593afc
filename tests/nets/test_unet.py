"""The network: what neighbours and text may and may not change."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from reimagen_jax.nets.attention import NeighbourAttention
from reimagen_jax.nets.layers import fold, unfold
from reimagen_jax.nets.settings import Level, UNetConfig
from reimagen_jax.nets.unet import Condition, UNet
from tests.nets.draws import draw, draw_params

CONFIG = UNetConfig(
    (Level(8, 1), Level(16, 1, self_attention=True, neighbour_attention=True)),
    patch=2,
    head_width=8,
    groups=4,
    cond_width=16,
)
B, K, L, D, R = 2, 3, 5, 8, 16


@pytest.fixture(scope="module")
def setting():
    """A network with random weights (also where training would start at zero) and a full set of inputs."""
    unet = UNet(CONFIG)
    x, nbr, text, nbr_text = draw(0, (B, R, R, 3), (B, K, R, R, 3), (B, L, D), (B, K, L, D))
    text_mask, nbr_text_mask = jnp.ones((B, L), bool), jnp.ones((B, K, L), bool)

    def both(unet):
        memory = unet.encode_neighbours(nbr, nbr_text, nbr_text_mask)
        return unet(x, jnp.full(B, 0.5), Condition(text, text_mask, memory, jnp.ones((B, K), bool)))

    params = draw_params(lambda: unet.init(jax.random.key(0), method=both)["params"], seed=1)

    def remember(params, nbr, nbr_text=nbr_text):
        return unet.apply({"params": params}, nbr, nbr_text, nbr_text_mask, method=UNet.encode_neighbours)

    @jax.jit
    def predict(params, x, t, text, text_mask, nbr, nbr_text, nbr_mask, nbr_weight=None):
        condition = Condition(text, text_mask, remember(params, nbr, nbr_text), nbr_mask, nbr_weight_BK=nbr_weight)
        return unet.apply({"params": params}, x, t, condition)

    args = (params, x, jnp.full(B, 0.5), text, text_mask, nbr, nbr_text, jnp.ones((B, K), bool))
    return unet, predict, args


def without(args, **changes):
    names = ("params", "x", "t", "text", "text_mask", "nbr", "nbr_text", "nbr_mask")
    return tuple(changes.get(name, value) for name, value in zip(names, args, strict=True))


def by_formula(params):
    """Parameters that depend on nothing but their order, shape and kind: no random generator, no initialiser."""

    def fill(i, path, leaf):
        wave = np.sin(1.0 + i + 0.7 * np.arange(leaf.size)).reshape(leaf.shape)
        scale = jax.tree_util.keystr(path).endswith("['scale']")
        return jnp.asarray(1.0 + 0.2 * wave if scale else 0.3 * wave, jnp.float32)

    leaves, structure = jax.tree_util.tree_flatten_with_path(params)
    return jax.tree.unflatten(structure, [fill(i, *item) for i, item in enumerate(leaves)])


def test_the_first_networks_stay_what_they_were(setting):
    # Measured when the shipped weights were trained: newer settings, left alone, must not change older networks.
    _, predict, args = setting
    x, text, nbr, nbr_text = (
        np.cos(0.3 * i + 0.11 * np.arange(a.size)).reshape(a.shape).astype(np.float32)
        for i, a in enumerate((args[1], args[3], args[5], args[6]))
    )
    out = predict(*without(args, params=by_formula(args[0]), x=x, text=text, nbr=nbr, nbr_text=nbr_text))
    assert len(jax.tree.leaves(args[0])) == 179
    np.testing.assert_allclose(out[0, 3, 5], [-0.5580905, -0.0077662, 0.5462108], atol=2e-5)
    np.testing.assert_allclose(
        [out.mean(), out.std(), jnp.abs(out[1]).max()], [-0.0441051, 0.5016958, 1.4017215], atol=2e-5
    )


def test_fold_and_unfold_are_inverse(key):
    x = jax.random.normal(key, (2, 8, 12, 3))
    np.testing.assert_array_equal(unfold(fold(x, 2), 2), x)


def test_order_of_neighbours_changes_nothing(setting):
    _, predict, args = setting
    order = jnp.asarray([2, 0, 1])
    mask = jnp.asarray([[True, True, False], [True, False, True]])
    first = predict(*without(args, nbr_mask=mask))
    permuted = without(args, nbr=args[5][:, order], nbr_text=args[6][:, order], nbr_mask=mask[:, order])
    np.testing.assert_allclose(predict(*permuted), first, atol=2e-5)


def test_a_masked_neighbour_has_no_value_and_no_gradient(setting):
    _, predict, args = setting
    mask = jnp.asarray([[True, False, True], [False, False, False]])
    gradient = jax.grad(lambda nbr: predict(*without(args, nbr=nbr, nbr_mask=mask)).sum())(args[5])
    assert jnp.all(gradient[0, 1] == 0) and jnp.all(gradient[1] == 0)
    assert jnp.any(gradient[0, 0] != 0) and jnp.any(gradient[0, 2] != 0)


def test_neighbours_weights_mix_them(setting):
    """Alike they are as without, by ratio alone; 0 is masked exactly; 2 is twice the same neighbour."""
    _, predict, args = setting
    plain = predict(*args)
    np.testing.assert_array_equal(predict(*args, jnp.ones((B, K))), plain)
    np.testing.assert_allclose(predict(*args, jnp.full((B, K), 0.3)), plain, atol=1e-5)
    weight = jnp.asarray([[1.0, 0.0, 1.0], [0.0, 0.0, 0.0]])
    np.testing.assert_array_equal(predict(*args, weight), predict(*without(args, nbr_mask=weight > 0)))
    twice = without(args, nbr=args[5].at[:, 2].set(args[5][:, 0]), nbr_text=args[6].at[:, 2].set(args[6][:, 0]))
    by_weight = predict(*args, jnp.asarray([[2.0, 1.0, 0.0]] * B))
    np.testing.assert_allclose(by_weight, predict(*twice), atol=1e-5)
    assert not np.allclose(by_weight, plain, atol=1e-3)


def test_no_neighbour_left_is_the_network_without_neighbours(setting):
    unet, predict, args = setting
    masked = predict(*without(args, nbr_mask=jnp.zeros((B, K), bool)))
    imagen = jax.jit(unet.apply)({"params": args[0]}, args[1], args[2], Condition(args[3], args[4]))
    np.testing.assert_allclose(masked, imagen, atol=1e-5)
    assert not np.allclose(predict(*args), imagen, atol=1e-3)


def test_masked_text_does_not_matter_and_its_absence_does(setting):
    _, predict, args = setting
    mask = args[4].at[:, 3:].set(False)
    other = args[3].at[:, 3:].set(7.0)
    np.testing.assert_array_equal(
        predict(*without(args, text_mask=mask)), predict(*without(args, text_mask=mask, text=other))
    )
    none = jnp.zeros_like(mask)
    np.testing.assert_array_equal(
        predict(*without(args, text_mask=none)), predict(*without(args, text_mask=none, text=other))
    )
    assert not np.allclose(predict(*args), predict(*without(args, text_mask=none)), atol=1e-3)


def test_neighbours_speak_through_image_and_caption_alike(setting):
    _, predict, args = setting
    assert not np.allclose(predict(*args), predict(*without(args, nbr=args[5] + 0.5)), atol=1e-3)
    assert not np.allclose(predict(*args), predict(*without(args, nbr_text=args[6][:, :, ::-1] * 2.0)), atol=1e-4)


def test_examples_of_a_batch_do_not_mix(setting):
    _, predict, args = setting
    gradient = jax.grad(lambda x, nbr: predict(*without(args, x=x, nbr=nbr))[0].sum(), argnums=(0, 1))(args[1], args[5])
    assert all(jnp.all(g[1] == 0) and jnp.any(g[0] != 0) for g in gradient)


def test_neighbour_attention_starts_as_the_identity(key):
    attention = NeighbourAttention(CONFIG, 16, 8)
    f, nbr = draw(2, (B, 4, 4, 16), (B * K, 4, 4, 16))

    def both(attention, f, nbr):
        return attention(f, attention.remember(nbr, K), jnp.ones((B, K), bool))

    out, _ = attention.init_with_output(key, f, nbr, method=both)
    np.testing.assert_array_equal(out, f)
