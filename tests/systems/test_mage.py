"""MAGE: what is masked, what is learned, what is drawn from what."""

from dataclasses import replace
from itertools import pairwise

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from reimagen_jax import sharding
from reimagen_jax.config import to_json
from reimagen_jax.diffusion import sampler
from reimagen_jax.errors import UserError
from reimagen_jax.inference.pipeline import Stage
from reimagen_jax.preflight import programs
from reimagen_jax.systems import kinds
from reimagen_jax.systems.kinds import from_json
from reimagen_jax.systems.mage.decoding import decoding, draws_of
from reimagen_jax.systems.mage.system import masks
from reimagen_jax.systems.rcg.arrays import PictureBatch
from reimagen_jax.systems.request import Edit, Neighbour, Request
from reimagen_jax.systems.stepwise import walked
from reimagen_jax.systems.unclip.arrays import ImageBatch
from tests.mage import BY_CLASS, MAGE, MAGES, VQ, flags, trained
from tests.rcg import ENCODER, RDM
from tests.tiny import TINY
from tests.unclip import PRIOR, changed, neighbour

L, K, D = 16, 12, ENCODER.width


def random_params(config, seed=0):
    """Weights away from the zeros that training starts with, so that every input matters; but for the encoder's, which
    begins by telling images apart."""
    system, rng = kinds.system_of(config), np.random.default_rng(seed)

    def drawn(path, leaf):
        # Words as large as this make logits of the size of the noise.
        value = (1.0 if "words" in str(path) else 0.3) * rng.standard_normal(leaf.shape)
        return jnp.asarray(value, leaf.dtype)

    tree = jax.tree_util.tree_map_with_path(drawn, jax.eval_shape(system.init, jax.random.key(0)))
    return tree | ({"encoder": system.encoder.init(jax.random.key(0))} if system.represents else {})


@pytest.fixture(scope="module")
def params():
    return {name: random_params(config) for name, config in MAGES.items()}


def images(B=4, seed=1):
    return jnp.asarray(np.random.default_rng(seed).integers(0, 256, (B, 8, 8, 3), np.uint8))


BATCH = PictureBatch(images(), jnp.arange(4, dtype=jnp.int32) % 3)


def request_of(name, i=0):
    """What it takes to draw: a representation, a class, nothing."""
    return Request("cat" if name == "class" else "", index=i, start=np.ones(D, np.float32) if name == "mage" else None)


@pytest.fixture(scope="module")
def learned():
    """A tokenizer of `flags`."""
    return trained(VQ, ImageBatch(flags()), 150)["vq"]


@pytest.mark.parametrize("name", MAGES)
def test_settings_come_back_from_json(name):
    assert from_json(to_json(MAGES[name])) == MAGES[name]


@pytest.mark.parametrize("name", MAGES)
def test_it_takes_and_gives_what_its_specs_say(name, params):
    config = MAGES[name]
    system, feed = kinds.system_of(config), kinds.feed_of(config)
    loss, _ = jax.eval_shape(
        lambda p, b, k: system.loss(p, b, k, ema=p), params[name], system.batch_spec(3), jax.random.key(0)
    )
    assert loss.shape == () and loss.dtype == jnp.float32
    requests = [request_of(name, i) for i in range(2)]
    for request in requests:
        feed.check(request, system.settings)
    spec = system.inputs_spec(2, system.settings)
    shapes = [jax.tree.map(lambda leaf: (leaf.shape, str(leaf.dtype)), tree) for tree in (
        feed.collate(requests, system.settings), spec)]  # fmt: skip
    assert shapes[0] == shapes[1]
    for handed_on, dtype in (("bytes", "uint8"), ("floats", "float32")):
        settings = replace(system.settings, handed_on=handed_on)
        keys = jax.eval_shape(lambda: sampler.image_keys(0, [0, 1]))
        drawn = jax.eval_shape(lambda p, i, k, s=settings: system.sample(p, i, k, s), params[name], spec, keys)
        assert (drawn.shape, str(drawn.dtype)) == ((2, 8, 8, 3), dtype)


def test_its_programs_lower_for_a_mesh():
    """Of which preflight makes its tables."""
    mesh = sharding.make_mesh(4)
    for program in (programs.train_program(MAGE, mesh), programs.sampler_program(MAGE, mesh, images=8)):
        assert program.jitted.lower(*program.arguments).as_text()
        assert program.model_flops > 0 and program.images == 8


# --- masks, network, decoding -----------------------------------------------------------------------------------------


def test_masks_are_of_one_size_in_a_batch_and_what_is_not_looked_at_is_masked():
    model, shares = MAGE.system, []
    for seed in range(40):
        masked, kept = masks(jax.random.key(seed), 5, L, model)
        number = np.unique(np.asarray(masked).sum(axis=1))
        assert len(number) == 1 and L // 2 <= number[0] <= L
        shares.append(number[0] / L)
        looked_at = np.zeros((5, L), bool)
        np.put_along_axis(looked_at, np.asarray(kept), True, axis=1)
        assert looked_at.sum() == 5 * L // 2 and np.asarray(masked)[~looked_at].all()
    assert len(set(shares)) > 4 and 0.7 < np.mean(shares) < 0.85
    assert len({tuple(row) for row in np.asarray(masked)}) > 1  # each image has its own


def test_what_is_masked_is_not_seen(params):
    system, tree = kinds.system_of(MAGE), params["mage"]["mage"]
    masked, kept = masks(jax.random.key(0), 3, L, MAGE.system)
    token = jax.random.randint(jax.random.key(1), (3, L), 0, K)
    run = jax.jit(lambda t: system.net.apply({"params": tree}, t, masked, jnp.ones((3, D)), jnp.zeros(3, bool), kept))
    other = jax.random.randint(jax.random.key(2), (3, L), 0, K)
    np.testing.assert_array_equal(run(token), run(jnp.where(masked, other, token)))
    assert np.abs(run(token) - run(jnp.where(masked, token, other))).max() > 1e-3


@pytest.mark.parametrize("name", MAGES)
def test_only_its_own_learns_and_all_of_it(name, params):
    """The words' embedding learns as what goes in, the others of the tokenizer's and the encoder's nothing."""
    system, tree = kinds.system_of(MAGES[name]), params[name]
    grads = jax.jit(jax.grad(lambda p: system.loss(p, BATCH, jax.random.key(3))[0]))(tree)
    own = grads.pop("mage")
    assert not any(jnp.any(leaf) for leaf in jax.tree.leaves(grads))
    assert all(jnp.any(leaf) for path, leaf in jax.tree_util.tree_leaves_with_path(own) if "bias" not in str(path))


def test_dropout_is_of_training_alone(params):
    system, none_B = kinds.system_of(MAGE), jnp.zeros(4, bool)
    run = jax.jit(lambda *key: system._losses(params["mage"], BATCH, none_B, jax.random.key(0), *key)[0])
    assert run() == run() == jax.jit(system.measure)(params["mage"], BATCH, jax.random.key(0))["loss"][0]
    assert run() != run(jax.random.key(1)) != run(jax.random.key(2))


def test_decoding_masks_as_many_as_the_cosine_says_and_keeps_what_it_knows():
    told, B, N = [], 2, 6
    logits = 3.0 * jax.random.normal(jax.random.key(0), (B, L, K))

    def predict(token_BL, masked_BL, share):
        jax.debug.callback(lambda *each: told.append([np.asarray(one) for one in each]), token_BL, masked_BL)
        return logits

    draws = draws_of(sampler.image_keys(0, range(B)), L, K)
    drawn = np.asarray(walked(decoding(predict, draws, B, L, N, jnp.full(B, 4.0))))
    jax.effects_barrier()
    masked = [mask.sum(axis=1).tolist() for _, mask in told]
    expected = [L, *(int(np.floor(L * np.cos(np.pi * s / (2 * N)) + 1e-9)) for s in range(1, N))]
    assert masked == [[number] * B for number in expected] and expected[4] == L // 2
    for (token, mask), (later, _) in pairwise(told):
        assert (token == later)[~mask].all()
    assert (drawn == told[-1][0])[~told[-1][1]].all()


# --- drawing ----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def stage(params):
    return Stage(MAGE, params["mage"], replace(MAGE.system.sampler, handed_on="floats"), batch_size=4)


def test_a_neighbour_is_its_representation(stage, params):
    """Given as a picture or as what is started from: one image, by one program; so are several by their mean."""
    system = kinds.system_of(MAGE)
    one, two = (Neighbour(np.asarray(image), "", float("nan"), "x") for image in flags(2))
    r_ND = np.asarray(system.represent(params["mage"], jnp.stack([jnp.asarray(hit.image) for hit in (one, two)])))
    np.testing.assert_allclose(r_ND.std(axis=1, ddof=1), 1.0, atol=1e-5)
    mean = r_ND[0] + 3.0 * r_ND[1]
    mean = ((mean - mean.mean()) / mean.std(ddof=1)).astype(np.float32)
    drawn = stage.draw(
        [
            Request(neighbours=(one,)),
            Request(start=r_ND[0]),
            Request(neighbours=(two,)),
            Request(neighbours=(one, replace(two, weight=0.0))),
            Request(neighbours=(replace(two, weight=3.0), one)),
            Request(start=mean),
            Request(start=r_ND[0], guidance={"text_weight": 4.0}),
            Request(start=r_ND[0], guidance={"temperature": 0.0}),
        ]
    )
    for a, b in ((0, 1), (0, 3), (4, 5)):
        np.testing.assert_allclose(drawn[a], drawn[b], atol=1e-4)
    assert [i for i in range(8) if np.abs(drawn[0] - drawn[i]).max() > 1e-2] == [2, 4, 5, 6, 7]
    assert stage.compilations == 1


def test_an_image_does_not_depend_on_its_batch(stage):
    requests = [Request(neighbours=(neighbour(i),), index=i) for i in range(5)]
    together = stage.draw(requests)
    np.testing.assert_allclose(together[4], stage.draw(requests[4:])[0], atol=1e-5)
    assert np.abs(together[0] - stage.draw([replace(requests[0], index=9)])[0]).max() > 1e-2


@pytest.mark.parametrize("config", [BY_CLASS, MAGE], ids=["class", "representation"])
def test_it_draws_each_kind_as_it_has_learned_it(config, learned):
    """From its class, or, by an encoder that has learned nothing, from its representation."""
    two = flags(2)
    batch = PictureBatch(jnp.tile(two, (8, 1, 1, 1)), jnp.arange(16, dtype=jnp.int32) % 2)
    parts = {"vq": learned} | ({"encoder": random_params(MAGE)["encoder"]} if config is MAGE else {})
    tree = trained(changed(config, condition_drop=0.0, dropout=0.0), batch, 120, 1e-2, **parts)
    pictures = [np.asarray(image) for image in two]
    told = [{"prompt": kind} for kind in BY_CLASS.system.classes[:2]]
    if config is MAGE:
        told = [{"neighbours": (Neighbour(image, "", float("nan"), "x"),)} for image in pictures]
    drawn = Stage(config, tree, batch_size=2).draw([Request(index=i, **each) for i, each in enumerate(told)])
    again = Stage(VQ, {"vq": learned}, batch_size=2).draw([Request(start=image) for image in pictures])
    error = np.abs(drawn[:, None].astype(float) - again[None]).mean(axis=(2, 3, 4))
    assert error.argmin(axis=1).tolist() == [0, 1]


START = np.ones(D, np.float32)


@pytest.mark.parametrize(
    ("name", "request_", "said"),
    [
        ("mage", Request("a cat"), "'a cat' has none: draw one by an RDM"),
        ("mage", Request(start=np.ones(3, np.float32)), rf"{D} floats, not float32 \[3\]"),
        ("mage", Request(start=np.ones(D, np.int32)), rf"{D} floats, not int32 \[{D}\]"),
        ("mage", Request(neighbours=(neighbour(0),) * 3), "3 neighbours for a prompt, but"),
        ("mage", Request(start=START, edit=Edit(neighbour(0).image)), "draws on no picture"),
        ("mage", Request(start=START, guidance={"eta": 0.5}), "'eta' is no number of tiny_mage's"),
        ("mage", Request(start=START, guidance={"temperature": -1.0}), "temperature is -1.0: at"),
        ("class", Request("car"), "no class 'car' among its 3: such are 'cat'"),
        ("class", Request("cat", start=START), "draws from a class"),
        ("alone", Request(neighbours=(neighbour(0),)), "draws from nothing"),
        ("alone", Request(guidance={"text_weight": 2.0}), "'text_weight' is no number of tiny_mage_alone's guidance"),
    ],
)
def test_what_cannot_be_drawn_is_refused(name, request_, said):
    config = MAGES[name]
    with pytest.raises(UserError, match=said):
        kinds.feed_of(config).check(request_, config.system.sampler)


def test_settings_that_contradict_each_other_are_refused():
    for made, said in (
        (lambda: changed(MAGE, resolution=9), "resolution 9 is not a multiple of 2"),
        (lambda: changed(MAGE, resolution=2), "an image of one token leaves nothing to be masked"),
        (lambda: changed(MAGE, condition="class"), "name an attribute for 'class'"),
        (lambda: MAGE.system.adopt(TINY.system), "is?.* of a reimagen, which has no encoder of images"),
        (lambda: BY_CLASS.system.adopt(RDM.system), "are of a rdm, which has no tokenizer"),
        (lambda: MAGE.system.check_follows(PRIOR, "stage 2"), "draws from a representation, but the stage before it"),
        (lambda: BY_CLASS.system.check_follows(RDM, "stage 2"), "draws from its class, and from no other stage"),
    ):
        with pytest.raises(UserError, match=said):
            made()
    MAGE.system.check_follows(RDM, "stage 2")


def test_it_takes_tokenizer_and_encoder_over_from_their_weights(params):
    tree, fresh = params["mage"], replace(MAGE.system, vq=type(VQ.system.vq)(), encoder=type(ENCODER)(), resolution=256)
    adopted = fresh.adopt(VQ.system)
    assert (adopted.vq, adopted.resolution, adopted.encoder) == (VQ.system.vq, 8, fresh.encoder)
    assert adopted.adopt(RDM.system) == adopted.adopt(MAGE.system) == MAGE.system
    begun = MAGE.system.begun({"vq": tree["vq"]}) | MAGE.system.begun(tree["encoder"])
    assert begun.keys() == {"vq", "encoder"} and "tower" in begun["encoder"]
    assert MAGE.system.begun(tree).keys() == {"encoder", "vq", "mage"}
    assert BY_CLASS.system.begun(tree).keys() == {"vq", "mage"}
