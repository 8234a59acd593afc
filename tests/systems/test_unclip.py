"""unCLIP: what a prior draws, what a decoder is told, what an upsampler sees."""

import functools
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from reimagen_jax import sharding
from reimagen_jax.config import to_json
from reimagen_jax.diffusion import sampler
from reimagen_jax.errors import UserError
from reimagen_jax.inference.pipeline import Pipeline, Stage
from reimagen_jax.nets.settings import Tower
from reimagen_jax.nets.transformer import CausalTransformer
from reimagen_jax.preflight import programs
from reimagen_jax.systems import kinds
from reimagen_jax.systems.kinds import from_json
from reimagen_jax.systems.request import Edit, Request
from reimagen_jax.systems.unclip.arrays import PairBatch
from reimagen_jax.systems.unclip.settings import DecoderTextConfig, PriorConfig
from reimagen_jax.training.state import init_state
from reimagen_jax.training.step import make_optimizer, train_step
from tests.tiny import TINY, TINY_SR
from tests.unclip import AR_PRIOR, CLIP, DECODER, PRIOR, UPSAMPLER, changed, neighbour

STAGES = {"prior": PRIOR, "decoder": DECODER, "upsampler": UPSAMPLER}
ALL = {**STAGES, "ar_prior": AR_PRIOR}
TEXTS = ["a", "a cat", "a dog", "something longer than all of them"]


def random_params(config, seed=0):
    """Weights away from the zeros that training starts with, so that every input matters."""
    system = kinds.system_of(config)
    shapes = jax.eval_shape(system.init, jax.random.key(0))
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda leaf: jnp.asarray(0.3 * rng.standard_normal(leaf.shape), leaf.dtype), shapes)


@pytest.fixture(scope="module")
def params():
    return {name: random_params(config) for name, config in ALL.items()}


def batch_of(config, B=4):
    """Pictures of noise with captions."""
    feed, side = kinds.feed_of(config), config.system.seen
    image = np.random.default_rng(1).integers(0, 256, (B, side, side, 3), np.uint8)
    encode = feed.tokenizer.encode
    return PairBatch(jnp.asarray(image), jnp.asarray(encode(TEXTS[:B])), jnp.asarray(encode([""] * B)))


def on_device(tree):
    return jax.tree.map(jnp.asarray, tree)


def shapes(tree):
    return jax.tree.map(lambda leaf: (leaf.shape, str(leaf.dtype)), tree)


# --- the transformer -----------------------------------------------------------------------------------------------


def test_a_token_knows_of_none_behind_it_nor_of_masked_ones():
    net, x = CausalTransformer(Tower(16, 2, 2, 32, "gelu")), jax.random.normal(jax.random.key(1), (2, 5, 16))
    params = jax.jit(net.init)(jax.random.key(0), x)
    mask = jnp.ones((2, 5), bool).at[:, 1].set(False)
    seen = jax.jit(jax.jacobian(lambda x: net.apply(params, x, mask)[0].sum(axis=-1)))(x)[
        :, 0
    ]  # [token, token, channel]
    depends = np.asarray(jnp.abs(seen).max(axis=-1) > 0)
    expected = np.tri(5, dtype=bool)
    expected[:, 1] = False
    expected[1, 1] = True  # a masked token is its own sum
    np.testing.assert_array_equal(depends, expected)


def test_blocks_computed_again_are_the_same_network():
    x = jax.random.normal(jax.random.key(1), (2, 5, 16))
    nets = [CausalTransformer(Tower(16, 2, 2, 32, "gelu"), remat=remat) for remat in (False, True)]
    params = jax.jit(nets[0].init)(jax.random.key(0), x)
    losses = [jax.jit(jax.grad(lambda p, net=net: (net.apply(p, x) ** 2).sum()))(params) for net in nets]
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), *losses)


# --- each of them -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("config", ALL.values(), ids=ALL)
def test_settings_come_back_from_json(config):
    assert from_json(to_json(config)) == config


@pytest.mark.parametrize("name", ALL)
def test_it_takes_and_gives_what_its_specs_say(name, params):
    config = ALL[name]
    system, feed = kinds.system_of(config), kinds.feed_of(config)
    loss, _ = jax.eval_shape(
        lambda p, b, k: system.loss(p, b, k, ema=p), params[name], system.batch_spec(3), jax.random.key(0)
    )
    assert loss.shape == () and loss.dtype == jnp.float32
    start = {"decoder": np.ones(8, np.float32), "upsampler": neighbour(0).image}.get(name)
    requests = [Request("a", index=i, start=start) for i in range(2)]
    spec = system.inputs_spec(2, system.settings)
    assert shapes(feed.collate(requests, system.settings)) == shapes(spec)
    keys = jax.eval_shape(lambda: sampler.image_keys(0, [0, 1]))
    drawn = jax.eval_shape(lambda p, i, k: system.sample(p, i, k, system.settings), params[name], spec, keys)
    expected = {
        "prior": ((2, 8), "float32"),
        "ar_prior": ((2, 8), "float32"),
        "decoder": ((2, 8, 8, 3), "uint8"),
        "upsampler": ((2, 16, 16, 3), "uint8"),
    }
    assert (drawn.shape, str(drawn.dtype)) == expected[name]


@pytest.mark.parametrize("config", ALL.values(), ids=ALL)
def test_its_programs_lower_for_a_mesh(config):
    """Of which preflight makes its tables."""
    mesh = sharding.make_mesh(4)
    for program in (programs.train_program(config, mesh), programs.sampler_program(config, mesh, images=8)):
        assert program.jitted.lower(*program.arguments).as_text()
        assert program.model_flops > 0 and program.images == 8


@pytest.mark.parametrize("config", [PRIOR, AR_PRIOR, DECODER], ids=["prior", "ar_prior", "decoder"])
def test_nothing_is_learned_of_the_clip(config, params):
    """Its parameters have no gradient, frozen by the training or not; all others have one."""
    system = kinds.system_of(config)
    tree = params[config.name.removeprefix("tiny_")]
    grads = jax.jit(jax.grad(lambda p: system.loss(p, batch_of(config), jax.random.key(3))[0]))(tree)
    assert not any(jnp.any(leaf) for leaf in jax.tree.leaves(grads.pop("clip")))
    assert all(jnp.any(leaf) for path, leaf in jax.tree_util.tree_leaves_with_path(grads) if "kernel" in str(path))


# --- the prior -----------------------------------------------------------------------------------------------------


def test_a_dropped_text_is_the_empty_one(params):
    system, batch = kinds.system_of(PRIOR), batch_of(PRIOR)
    drop, keep = (jax.jit(kinds.system_of(changed(PRIOR, text_drop=share)).loss) for share in (1.0, 0.0))
    empty = batch.replace(tokens_BL=batch.empty_BL)
    losses = [
        loss(params["prior"], told, jax.random.key(0))[0]
        for loss, told in ((drop, batch), (keep, empty), (keep, batch))
    ]
    assert losses[0] == losses[1] != losses[2]
    assert system.model.null == "empty"


def test_a_learned_null_stands_for_any_dropped_text():
    config = changed(PRIOR, null="learned", text_drop=1.0)
    system, tree, batch = kinds.system_of(config), random_params(config), batch_of(config)
    other = batch.replace(tokens_BL=jnp.roll(batch.tokens_BL, 1, axis=0))
    loss = jax.jit(system.loss)
    losses = [loss(tree, each, jax.random.key(0))[0] for each in (batch, other)]
    assert losses[0] == losses[1]
    with pytest.raises(UserError, match="cannot be led away from a negative prompt"):
        kinds.feed_of(config).check(Request("a", negative="b"), system.settings)


def test_the_candidate_that_is_most_like_the_text_is_kept(params):
    system, feed = kinds.system_of(PRIOR), kinds.feed_of(PRIOR)
    settings = replace(system.settings, candidates=3)
    inputs = on_device(feed.collate([Request(text, index=i) for i, text in enumerate(TEXTS)], settings))
    keys = sampler.image_keys(0, range(4))
    z_BND = jax.jit(lambda: system.candidates(params["prior"], inputs, keys, settings))()
    best_BD = jax.jit(lambda: system.sample(params["prior"], inputs, keys, settings))()
    w_BD = jax.jit(system.clip.texts)(params["prior"]["clip"], inputs.tokens_BL).vector_BD
    like_BN = np.einsum("bnd,bd->bn", z_BND, w_BD)
    assert len(set(like_BN.argmax(axis=1).tolist())) > 1  # else the first would do
    np.testing.assert_allclose(np.einsum("bd,bd->b", best_BD, w_BD), like_BN.max(axis=1), atol=1e-6)
    np.testing.assert_allclose(np.linalg.norm(z_BND, axis=-1), 1.0, atol=1e-5)
    one = replace(settings, candidates=1)
    first_BD = jax.jit(lambda: system.sample(params["prior"], inputs, keys, one))()
    np.testing.assert_allclose(first_BD, z_BND[:, 0], atol=1e-5)


@pytest.mark.parametrize("scaling", ["constant", "statistics"])
def test_what_is_scaled_comes_back(scaling):
    config = changed(PRIOR, scaling=scaling, clip=replace(CLIP, normalised=False))
    system, tree = kinds.system_of(config), random_params(config)
    z = jax.random.normal(jax.random.key(0), (5, 8))
    if scaling == "statistics":
        tree["statistics"] = {"mean": z.mean(axis=0), "std": z.std(axis=0)}
        np.testing.assert_allclose(system.scaled(tree, z).std(axis=0), 1.0, atol=1e-5)
    np.testing.assert_allclose(system.unscaled(tree, system.scaled(tree, z)), z, atol=1e-5)


def test_a_prior_learns_where_the_embeddings_of_each_text_lie():
    """Two texts, two pictures: after some steps it draws the embedding of the text's own."""
    config = changed(PRIOR, text_drop=0.0, tower=Tower(32, 1, 2, 64, "gelu"))
    system, feed = kinds.system_of(config), kinds.feed_of(config)
    texts = ["a", "b"] * 8
    stripes = np.tile(np.array([0, 255] * 4, np.uint8)[None, :, None], (8, 1, 3))
    image = np.stack([np.full_like(stripes, 255), stripes] * 8)  # white, and black and white
    encode = feed.tokenizer.encode
    batch = PairBatch(jnp.asarray(image), jnp.asarray(encode(texts)), jnp.asarray(encode([""] * 16)))
    how = replace(config.train, num_steps=150, learning_rate=5e-3, decay="constant")
    optimizer, clip = make_optimizer(how), random_params(config)["clip"]
    state = jax.jit(lambda key: init_state(system, optimizer, key, how))(jax.random.key(0))
    state = state.replace(params={**state.params, "clip": clip})
    step = jax.jit(train_step(system, optimizer, how))
    for i in range(how.num_steps):
        state, _ = step(state, batch, jax.random.key(i))
    tree = state.params
    jax.tree.map(np.testing.assert_array_equal, tree["clip"], clip)
    settings = replace(system.settings, num_steps=8, candidates=1)
    inputs = on_device(feed.collate([Request(text, index=i) for i, text in enumerate(texts)], settings))
    drawn = jax.jit(lambda: system.sample(tree, inputs, sampler.image_keys(0, range(16)), settings))()
    true = jax.jit(system.clip.images)(tree["clip"], jnp.asarray(image, jnp.float32) / 127.5 - 1.0)
    like_B2 = np.asarray(drawn @ true[:2].T)
    assert float(true[0] @ true[1]) < 0.98
    assert (like_B2.argmax(axis=1) == np.arange(16) % 2).all()
    assert like_B2.max(axis=1).mean() > 0.9


# --- the decoder ---------------------------------------------------------------------------------------------------


def drawn_by(stage, *requests, seed=0):
    return stage.draw(list(requests), seed)


@pytest.fixture(scope="module")
def decoder(params):
    settings = replace(DECODER.system.sampler, handed_on="floats")
    return Stage(DECODER, params["decoder"], settings, batch_size=4)


embed = jax.jit(kinds.system_of(DECODER).embed)


def embedded(params, *neighbours):
    return np.asarray(embed(params["decoder"], np.stack([hit.image for hit in neighbours])))


def test_a_neighbour_is_its_embedding(decoder, params):
    """Given as a picture or as the embedding to start from: one image; and one program."""
    one, two = neighbour(1), neighbour(2)
    z_ND = embedded(params, one, two)
    images = drawn_by(
        decoder,
        Request("a", (one,)),
        Request("a", start=z_ND[0]),
        Request("a", (two,)),
        Request("a", (replace(one, weight=3.0), replace(two, weight=0.0))),
    )
    np.testing.assert_allclose(images[0], images[1], atol=1e-4)
    np.testing.assert_allclose(images[0], images[3], atol=1e-4)
    assert np.abs(images[0] - images[2]).max() > 1e-2
    assert decoder.compilations == 1


def test_several_neighbours_are_their_mean_by_weight_in_any_order(decoder, params):
    one, two = neighbour(1), replace(neighbour(2), weight=3.0)
    z_ND = embedded(params, one, two)
    mean = (z_ND[0] + 3.0 * z_ND[1]) / 4.0
    mean = (mean / np.linalg.norm(mean)).astype(np.float32)
    images = drawn_by(decoder, Request("a", (one, two)), Request("a", (two, one)), Request("a", start=mean))
    np.testing.assert_allclose(images[0], images[1], atol=1e-4)
    np.testing.assert_allclose(images[0], images[2], atol=1e-4)


def test_weights_of_guidance_and_negative_prompts_share_a_program(decoder):
    hit = (neighbour(1),)
    requests = [Request("a", hit, guidance={"text_weight": weight}) for weight in (1.0, 3.0)]
    plain, strong, negative = drawn_by(decoder, *requests, replace(requests[1], negative="b"))
    assert np.abs(plain - strong).max() > 1e-3 and np.abs(negative - strong).max() > 1e-4
    assert decoder.compilations == 1


def test_at_weight_1_nothing_is_led_away_from(decoder):
    hit, guidance = (neighbour(1),), {"text_weight": 1.0}
    images = drawn_by(decoder, *(Request("a", hit, guidance=guidance, negative=negative) for negative in ("", "b c")))
    np.testing.assert_allclose(images[0], images[1], atol=1e-6)


def test_the_text_s_own_embedding_is_one(params):
    system, feed = kinds.system_of(DECODER), kinds.feed_of(DECODER)
    texts = jax.jit(system.clip.texts)
    w = texts(params["decoder"]["clip"], jnp.asarray(feed.tokenizer.encode(["a cat"]))).vector_BD[0]
    settings = replace(DECODER.system.sampler, embedding="text")
    (by_text,) = Stage(DECODER, params["decoder"], settings, batch_size=1).draw([Request("a cat")])
    settings = replace(settings, embedding="start")
    (by_start,) = Stage(DECODER, params["decoder"], settings, batch_size=1).draw(
        [Request("a cat", start=np.asarray(w))]
    )
    assert np.abs(by_text.astype(int) - by_start).max() <= 1


def test_a_dropped_embedding_is_the_learned_one_and_a_dropped_text_the_empty_one(params):
    batch, tree = batch_of(DECODER), params["decoder"]

    @functools.cache
    def program(drops):
        settings = {"embedding_drop": 0.0, "text_drop": 0.0} | dict(drops)
        return jax.jit(kinds.system_of(changed(DECODER, **settings)).loss)

    def loss(told, tree=tree, **drops):
        return float(program(tuple(drops.items()))(tree, told, jax.random.key(0))[0])

    null = {**tree["embedding"], "null": tree["embedding"]["null"] + 1.0}
    other = {**tree, "embedding": null}
    assert loss(batch) == loss(batch, other)
    assert loss(batch, embedding_drop=1.0) != loss(batch, other, embedding_drop=1.0)
    assert loss(batch, text_drop=1.0) == loss(batch.replace(tokens_BL=batch.empty_BL)) != loss(batch)


def test_a_decoder_trained_on_texts_looks_at_no_picture_s_embedding(params):
    """Other pictures of the same noise level change its target alone: the condition has no gradient by CLIP's tower."""
    config = changed(DECODER, trained_on="text")
    system, batch, tree = kinds.system_of(config), batch_of(config), params["decoder"]
    without = {**tree, "clip": {name: part for name, part in tree["clip"].items() if "image" not in name}}
    assert jnp.isfinite(jax.jit(system.loss)(without, batch, jax.random.key(0))[0])


def test_a_text_encoder_of_its_own_reads_up_to_the_end():
    config = changed(DECODER, text=DecoderTextConfig(16, 1, 2, 32, "gelu"), text_drop=0.0)
    system, tree, batch = kinds.system_of(config), random_params(config), batch_of(config)
    behind = batch.replace(tokens_BL=batch.tokens_BL.at[:2, -1].set(7))  # after the end of two short texts
    before = batch.replace(tokens_BL=batch.tokens_BL.at[:2, 0].set(7))
    loss = jax.jit(system.loss)
    first, same, other = (float(loss(tree, each, jax.random.key(0))[0]) for each in (batch, behind, before))
    assert first == same != other


@pytest.mark.parametrize(
    ("request_", "settings", "said"),
    [
        (Request("a cat"), {}, "'a cat' has none: draw by a prior, --model PRIOR"),
        (Request("a", (neighbour(1),)), {"embedding": "start"}, "'a' has none"),
        (Request("a", start=np.ones(8, np.float32)), {"embedding": "neighbours"}, "'a' has none"),
        (Request("a", (neighbour(1),)), {"embedding": "text"}, "which neighbours have no part in"),
        (Request("a", start=np.ones(9, np.float32)), {}, r"starts from an embedding, 8 floats, not float32 \[9\]"),
        (Request("a", start=neighbour(1).image), {}, r"8 floats, not uint8 \[8, 8, 3\]"),
        (Request("a", (neighbour(1),) * 3), {}, "3 neighbours for a prompt, but this generator takes at most 2"),
        (Request("a", (neighbour(1, weight=0.0),)), {}, "all neighbours have weight 0"),
        (Request("a", (neighbour(1),), guidance={"eta": 0.5}), {}, "'eta' is no number of tiny_decoder's guidance"),
        (Request("a", (neighbour(1),), edit=Edit(neighbour(1).image)), {}, "draws on no picture"),
    ],
)
def test_a_decoder_says_what_it_cannot_draw(request_, settings, said):
    with pytest.raises(UserError, match=said):
        kinds.feed_of(DECODER).check(request_, replace(DECODER.system.sampler, **settings))


# --- the upsampler, and all in a row -------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def upsampler(params):
    return Stage(UPSAMPLER, params["upsampler"], batch_size=2)


def test_an_upsampler_is_told_nothing_but_the_small_image(upsampler):
    small = neighbour(1).image
    first, second = upsampler.draw([Request("a", start=small), Request("b", start=small)])
    np.testing.assert_array_equal(first, second)  # of one index, so of one noise
    other, _ = upsampler.draw([Request("a", start=neighbour(2).image), Request("b", start=small)])
    assert np.abs(first.astype(int) - other).max() > 0


def test_prior_decoder_and_upsampler_are_a_pipeline(params, upsampler):
    stages = [*(Stage(STAGES[name], params[name], batch_size=2) for name in ("prior", "decoder")), upsampler]
    pipeline = Pipeline(stages, seed=3)
    requests = [Request(text, index=i) for i, text in enumerate(TEXTS[:3])]
    z, images, large = pipeline.draw(requests)
    assert z.shape == (3, 8) and images.shape == (3, 8, 8, 3) and large.shape == (3, 16, 16, 3)
    by_hand = stages[1].draw([replace(each, start=vector) for each, vector in zip(requests, z, strict=True)], seed=3)
    np.testing.assert_array_equal(by_hand, images)
    streamed = [drawn for _, drawn in pipeline.stream(requests)]
    np.testing.assert_array_equal(np.concatenate([drawn[-1] for drawn in streamed]), large)


@pytest.mark.parametrize(
    ("configs", "said"),
    [
        ((DECODER, PRIOR), "stage 2, tiny_prior, is a unclip_prior: it draws from no other stage"),
        ((TINY, DECODER), "draws from an embedding, but the stage before it, tiny, is a reimagen"),
        ((PRIOR, UPSAMPLER), "enlarges images of 8 pixels, but the stage before it, tiny_prior, draws None"),
        ((PRIOR, TINY_SR), "enlarges images of 16 pixels, but the stage before it, tiny_prior, draws None"),
        (
            (changed(PRIOR, clip=replace(CLIP, width=16)), DECODER),
            "draws from embeddings of 8 values, but the stage before it, tiny_prior, draws 16",
        ),
    ],
)
def test_what_does_not_follow_is_refused(configs, said):
    before, config = configs
    with pytest.raises(UserError, match=said):
        config.system.check_follows(before, f"stage 2, {config.name},")


# --- begun from a CLIP ---------------------------------------------------------------------------------------------


def test_the_clip_comes_from_weights_and_is_said_to_be_missing(tmp_path):
    feed = kinds.feed_of(PRIOR)
    with pytest.raises(UserError, match=r"holds a CLIP that does not learn: pass --init.weights DIR"):
        feed.settled()
    learning = replace(PRIOR, train=replace(PRIOR.train, rates=()))
    with pytest.raises(UserError, match=r"train\.rates does not freeze the CLIP of tiny_prior"):
        kinds.feed_of(learning).settled()
    assert PRIOR.system.begun({"text": 1}) == {"clip": {"text": 1}}
    assert PRIOR.system.begun({"clip": 1, "log_scale": 2}) == {"clip": 1}
    assert PRIOR.system.begun({"clip": 1, "prior": 2}) == {"clip": 1, "prior": 2}
    assert PRIOR.system.begun({"clip": 1, "ar_prior": 2, "statistics": 3}) == {"clip": 1}
    assert AR_PRIOR.system.begun({"clip": 1, "prior": 2, "statistics": 3}) == {"clip": 1}
    assert DECODER.system.begun({"clip": 1, "prior": 2}) == {"clip": 1}


def test_a_network_is_taken_over_from_what_holds_a_clip():
    wider = changed(PRIOR, clip=replace(CLIP, width=16)).system
    assert DECODER.system.adopt(wider).clip == wider.clip
    with pytest.raises(UserError, match="are of a reimagen, which has no CLIP"):
        DECODER.system.adopt(TINY.system)
    assert isinstance(PRIOR.system.adopt(wider), PriorConfig)
