"""A tokenizer that learns by features and against a discriminator: gradients, their balance, its start, what stays."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from reimagen_jax import sharding
from reimagen_jax.config import GroupRate, to_json
from reimagen_jax.encoders.perceptual import distance_of
from reimagen_jax.encoders.settings import LpipsConfig
from reimagen_jax.errors import UserError
from reimagen_jax.nets.patchgan import PatchGAN
from reimagen_jax.nets.settings import PatchGANConfig, VGGConfig
from reimagen_jax.preflight import programs
from reimagen_jax.systems import kinds
from reimagen_jax.systems.kinds import from_json
from reimagen_jax.systems.mage import losses
from reimagen_jax.systems.mage.settings import AdversarialConfig, PerceptualConfig
from reimagen_jax.systems.moco.settings import MocoConfig
from reimagen_jax.systems.rater.settings import RaterSystemConfig
from reimagen_jax.systems.unclip.arrays import ImageBatch
from reimagen_jax.training.state import init_state
from reimagen_jax.training.step import make_optimizer, train_step
from tests.mage import VQ, flags
from tests.rcg import ENCODER
from tests.unclip import CLIP, changed, neighbour

NETWORK = PatchGANConfig(width=4, depth=1, groups=2)
AGAINST = AdversarialConfig(weight=0.5, start=2, network=NETWORK)
LPIPS = LpipsConfig(VGGConfig((4, 6), (1, 2)), resolution=8)
FULL = changed(VQ, adversarial=AGAINST, perceptual=PerceptualConfig(0.7, LPIPS))
BATCH = ImageBatch(jnp.asarray(np.stack([neighbour(i).image for i in range(4)])))
KEY, LATE, EARLY = jax.random.key(0), jnp.int32(2), jnp.int32(1)


def params_of(config):
    shapes = jax.eval_shape(kinds.system_of(config).init, KEY)
    rng = np.random.default_rng(0)
    return jax.tree.map(lambda leaf: jnp.asarray(0.3 * rng.standard_normal(leaf.shape), leaf.dtype), shapes)


@pytest.fixture(scope="module")
def params():
    return params_of(FULL)


def gradient(system, params, step):
    of = jax.value_and_grad(lambda p: system.loss_at(p, BATCH, KEY, step), has_aux=True)
    return jax.jit(of)(params)


def close(ours, expected):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-3, atol=2e-6), ours, expected)


def test_it_is_off_by_default_and_comes_back_from_json():
    assert set(jax.eval_shape(kinds.system_of(VQ).init, KEY)) == {"vq"}
    for config in (FULL, changed(FULL, perceptual=PerceptualConfig(1.0, ENCODER))):
        assert from_json(to_json(config)) == config


def test_one_backward_pass_is_that_of_two_losses_and_their_balance_that_of_the_last_layer(params):
    system, model = kinds.system_of(FULL), FULL.system
    (loss, metrics), ours = gradient(system, params, LATE)

    @jax.jit
    def written_out(params):
        def like(p):
            told = system.told(p, BATCH.image_BHWC)
            return system.weighed(system.likeness(p, told.image_BHWC, told.again_BHWC))

        def fooled(p):
            return losses.fooling("hinge", system.judged(params["discriminator"], system.told(p, BATCH.image_BHWC)[1]))

        def telling(p):
            true, again = system.told(params, BATCH.image_BHWC)[:2]
            return losses.telling("hinge", *(system.judged(p["discriminator"], each) for each in (true, again)))

        one, other, codes = (jax.grad(each)(params) for each in (
            like, fooled, lambda p: system.weighed(system.codes(system.told(p, BATCH.image_BHWC)))))  # fmt: skip
        sizes = [jnp.linalg.norm(each["vq"]["decoder"]["conv_out"]["kernel"]) for each in (one, other)]
        weight = model.adversarial.weight * jnp.minimum(sizes[0] / (sizes[1] + 1e-4), 1e4)
        grads = jax.tree.map(lambda a, b, c: a + weight * b + c, one["vq"], other["vq"], codes["vq"])
        value = like(params) + weight * fooled(params) + telling(params)
        value += system.weighed(system.codes(system.told(params, BATCH.image_BHWC)))
        return value, weight, grads, jax.grad(telling)(params)["discriminator"]

    value, weight, of_vq, of_discriminator = written_out(params)
    assert float(loss) == pytest.approx(float(value), rel=1e-4)
    assert float(metrics["adversarial_weight"]) == pytest.approx(float(weight), rel=1e-3) and weight > 1e-3
    close(ours["vq"], of_vq)
    close(ours["discriminator"], of_discriminator)
    assert not any(np.any(leaf) for leaf in jax.tree.leaves(ours["perceptual"]))


def test_before_it_sets_in_a_tokenizer_learns_as_without_it(params):
    without = changed(FULL, adversarial=AdversarialConfig())
    (loss, metrics), ours = gradient(kinds.system_of(FULL), params, EARLY)
    alone = {name: part for name, part in params.items() if name != "discriminator"}
    (expected, _), plain = gradient(kinds.system_of(without), alone, EARLY)
    assert float(loss) == pytest.approx(float(expected), rel=1e-5) and metrics["adversarial_weight"] == 0
    close(ours["vq"], plain["vq"])
    assert not any(np.any(leaf) for leaf in jax.tree.leaves(ours["discriminator"]))


@pytest.mark.parametrize("kind", ["hinge", "nonsaturating"])
def test_losses_are_equations_1_and_2(kind):
    true, again = (np.random.default_rng(i).normal(size=(2, 3, 3)).astype(np.float32) for i in range(2))
    if kind == "hinge":
        fool, tell = -again.mean(), np.maximum(1 - true, 0).mean() + np.maximum(1 + again, 0).mean()
    else:
        fool, tell = np.log1p(np.exp(-again)).mean(), np.log1p(np.exp(-true)).mean() + np.log1p(np.exp(again)).mean()
    assert float(losses.fooling(kind, jnp.asarray(again))) == pytest.approx(fool, rel=1e-5)
    assert float(losses.telling(kind, jnp.asarray(true), jnp.asarray(again))) == pytest.approx(tell / 2, rel=1e-5)


def test_a_discriminator_learns_to_tell_and_what_is_measured_leaves_it_out():
    """Against a tokenizer that does not learn, by the loop's step."""
    frozen = (GroupRate("^(vq|perceptual)/", 0.0),)
    how = replace(FULL.train, num_steps=40, learning_rate=2e-2, beta1=0.5, rates=frozen)
    config = replace(
        changed(FULL, adversarial=replace(AGAINST, start=0, adaptive=False, loss="nonsaturating")), train=how
    )
    system, optimizer = kinds.system_of(config), make_optimizer(how)
    state = jax.jit(lambda key: init_state(system, optimizer, key, how))(KEY)
    step, told = jax.jit(train_step(system, optimizer, how)), []
    for _ in range(40):
        state, metrics = step(state, ImageBatch(flags()), KEY)
        told.append(float(metrics["telling"]))
    assert np.mean(told[-5:]) < 0.7 * told[0]
    measured = jax.jit(system.measure)(state.params, ImageBatch(flags()), KEY)
    plain = kinds.system_of(changed(config, adversarial=AdversarialConfig()))
    alone = {name: part for name, part in state.params.items() if name != "discriminator"}
    expected = jax.jit(plain.measure)(alone, ImageBatch(flags()), KEY)
    assert measured.keys() == expected.keys() and "perceptual" in measured
    assert float(measured["loss"][0]) == pytest.approx(float(expected["loss"][0]), rel=1e-5)


def test_a_discriminator_halves_the_sides_as_often_as_it_says():
    net = PatchGAN(PatchGANConfig(width=4, depth=3, groups=2))
    shapes = jax.eval_shape(net.init, KEY, jnp.zeros((1, 32, 16, 3)))
    assert jax.eval_shape(net.apply, shapes, jnp.zeros((2, 32, 16, 3))).shape == (2, 4, 2)
    assert "batch_stats" not in shapes


@pytest.mark.parametrize("config", [LPIPS, ENCODER, CLIP], ids=("lpips", "representation", "clip"))
def test_a_distance_is_zero_of_equals_and_the_same_both_ways(config):
    distance, trained = distance_of(config), changed(VQ, perceptual=PerceptualConfig(1.0, config))
    params = jax.tree.map(jnp.abs, params_of(trained)["perceptual"])
    x, y = (jnp.asarray(np.random.default_rng(i).uniform(-1, 1, (2, 8, 8, 3)), jnp.float32) for i in range(2))
    of = jax.jit(distance)
    d = of(params, x, y)
    assert d.shape == (2,) and (d > 1e-6).all()
    np.testing.assert_allclose(d, of(params, y, x), rtol=1e-4)
    np.testing.assert_allclose(of(params, x, x), 0.0, atol=1e-9)


def test_what_is_drawn_by_is_the_tokenizer_alone(params):
    system = FULL.system
    assert system.opened == VQ.system
    assert system.opened_params(params).keys() == {"vq"}
    assert system.begun(params).keys() == {"vq"}
    assert system.begun({"clip": params, "decoder": 1}) == {"perceptual": params}
    assert VQ.system.begun({"a": 1}) == {"a": 1}


def test_settings_that_contradict_each_other_are_refused():
    deep = LpipsConfig(VGGConfig((4,) * 5, (1,) * 5))
    for made, said in (
        (lambda: changed(VQ, perceptual=PerceptualConfig(1.0, deep)), "resolution 8: a VGG of 5 resolutions reads"),
        (
            lambda: changed(VQ, adversarial=replace(AGAINST, network=replace(NETWORK, depth=4))),
            "halves a side of resolution 8 to less than one pixel",
        ),
        (lambda: PatchGANConfig(width=5), "doubled is not a multiple of network.groups 32"),
        (lambda: VGGConfig((4,), (1, 2)), r"vgg\.widths has 1 resolutions, vgg\.convolutions 2"),
        (lambda: FULL.system.adopt(RaterSystemConfig()), "of a rater, which has no tokenizer and no encoder of images"),
        (lambda: VQ.system.adopt(MocoConfig()), "of a moco, which has no tokenizer"),
    ):
        with pytest.raises(UserError, match=said):
            made()


def test_what_it_was_trained_by_is_not_held_to_draw():
    drawn = programs.sampler_program(FULL, sharding.make_mesh(4), images=8)
    assert drawn.held["parameters"].keys() == {"vq"}
