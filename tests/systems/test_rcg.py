"""RCG by diffusion: what an RDM draws, what a pixel generator draws from, and both in a row."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from reimagen_jax import sharding
from reimagen_jax.config import to_json
from reimagen_jax.data.records import write_records
from reimagen_jax.diffusion import guidance, sampler
from reimagen_jax.errors import UserError
from reimagen_jax.inference.pipeline import Pipeline, Stage, check_chain
from reimagen_jax.nets.settings import Level
from reimagen_jax.preflight import programs
from reimagen_jax.systems import kinds
from reimagen_jax.systems.kinds import from_json
from reimagen_jax.systems.moco.settings import MocoConfig
from reimagen_jax.systems.rcg.arrays import NO_CLASS, PictureBatch
from reimagen_jax.systems.request import Edit, Request
from reimagen_jax.training.state import TrainState, start_from
from tests.rcg import (
    ALL,
    CLASS_RDM,
    CLASSES,
    ENCODER,
    GENERATOR,
    OF_CLASS,
    OF_NOTHING,
    RDM,
    TOKEN,
    random_params,
)
from tests.samples import example, picture
from tests.systems.test_unclip import on_device, shapes
from tests.tiny import TINY
from tests.unclip import CLIP, PRIOR, changed, neighbour

START = np.linspace(-1, 1, 8).astype(np.float32)


@pytest.fixture(scope="module")
def params():
    return {name: random_params(config) for name, config in ALL.items()}


def batch_of(config, B=4):
    side = config.system.seen
    image = np.random.default_rng(1).integers(0, 256, (B, side, side, 3), np.uint8)
    numbers = np.arange(B) % len(CLASSES) if config.data.class_by else np.full(B, NO_CLASS)
    return PictureBatch(jnp.asarray(image), jnp.asarray(numbers, jnp.int32))


def drawn(config, tree, requests, settings=None, seed=0):
    system, feed = kinds.system_of(config), kinds.feed_of(config)
    settings = settings or system.settings
    for request in requests:
        feed.check(request, settings)
    inputs, keys = on_device(feed.collate(requests, settings)), sampler.image_keys(seed, [r.index for r in requests])
    return np.asarray(jax.jit(lambda p, i, k: system.sample(p, i, k, settings))(tree, inputs, keys))


# --- each of them -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("config", ALL.values(), ids=ALL)
def test_settings_come_back_from_json(config):
    assert from_json(to_json(config)) == config
    assert from_json(to_json(changed(config, encoder=CLIP))) == changed(config, encoder=CLIP)


@pytest.mark.parametrize("name", ALL)
def test_it_takes_and_gives_what_its_specs_say(name, params):
    config = ALL[name]
    system, feed = kinds.system_of(config), kinds.feed_of(config)
    loss, _ = jax.eval_shape(
        lambda p, b, k: system.loss(p, b, k, ema=p), params[name], system.batch_spec(3), jax.random.key(0)
    )
    assert loss.shape == () and loss.dtype == jnp.float32
    start = START if name in ("generator", "token") else None
    requests = [Request("dog" if config.data.class_by else "", index=i, start=start) for i in range(2)]
    spec = system.inputs_spec(2, system.settings)
    assert shapes(feed.collate(requests, system.settings)) == shapes(spec)
    keys = jax.eval_shape(lambda: sampler.image_keys(0, [0, 1]))
    drawn = jax.eval_shape(lambda p, i, k: system.sample(p, i, k, system.settings), params[name], spec, keys)
    assert (drawn.shape, str(drawn.dtype)) == (((2, 8), "float32") if "rdm" in name else ((2, 8, 8, 3), "uint8"))


@pytest.mark.parametrize("config", [CLASS_RDM, TOKEN, OF_NOTHING], ids=["class_rdm", "token", "none"])
def test_its_programs_lower_for_a_mesh(config):
    """Of which preflight makes its tables."""
    mesh = sharding.make_mesh(4)
    for program in (programs.train_program(config, mesh), programs.sampler_program(config, mesh, images=8)):
        assert program.jitted.lower(*program.arguments).as_text()
        assert program.model_flops > 0 and program.images == 8


@pytest.mark.parametrize("name", ALL)
def test_nothing_is_learned_of_the_encoder(name, params):
    """Its parameters have no gradient, frozen by the training or not; all others have one."""
    system, batch = kinds.system_of(ALL[name]), batch_of(ALL[name])
    grads = jax.jit(jax.grad(lambda p: system.loss(p, batch, jax.random.key(3))[0]))(params[name])
    assert ("encoder" in grads) == (name not in ("class", "none"))
    assert not any(jnp.any(leaf) for leaf in jax.tree.leaves(grads.pop("encoder", {})))
    assert all(jnp.any(leaf) for path, leaf in jax.tree_util.tree_leaves_with_path(grads) if "kernel" in str(path))


@pytest.mark.parametrize("name", ALL)
def test_it_is_watched_by_its_loss_and_by_what_the_condition_gains(name, params):
    system, batch = kinds.system_of(ALL[name]), batch_of(ALL[name], 8)
    sums = jax.jit(system.measure)(params[name], batch, jax.random.key(0))
    gains = {"rdm": [], "none": [], "class_rdm": ["class_gain"]}.get(name, ["condition_gain"])
    assert [key for key in sums if key.endswith("gain")] == gains
    for key in gains:
        with_it, without = (float(sums[each][0]) for each in ("loss", f"loss_without_{key.removesuffix('_gain')}"))
        assert float(sums[key][0]) == pytest.approx(without - with_it, abs=1e-4 * with_it) and without != with_it


# --- representations --------------------------------------------------------------------------------------------------


def test_the_class_is_what_guidance_leads_to(params):
    """Weight 1 is the prediction for the class, 0 that for none, which an empty prompt asks for."""
    tree = params["class_rdm"]
    of = [
        drawn(CLASS_RDM, tree, [Request(name, guidance={"text_weight": weight})])
        for name, weight in (("dog", 1.0), ("hen", 1.0), ("dog", 0.0), ("hen", 0.0), ("", 1.0), ("", 3.0), ("dog", 2.0))
    ]
    size = np.abs(of[2]).max()
    for none in of[3:6]:
        np.testing.assert_allclose(of[2], none, atol=1e-4 * size)
    assert min(np.abs(a - b).max() for i, a in enumerate(of) for b in of[i + 1 :] if {i} & {0, 1, 6}) > 1e-2 * size
    spelt = drawn(CLASS_RDM, tree, [Request(" DOG ", guidance={"text_weight": 1.0})])
    np.testing.assert_array_equal(spelt, of[0])


def test_a_drawn_representation_may_be_normalised_and_is_its_own_whatever_else_is_drawn(params):
    settings = replace(RDM.system.sampler, normalised=True)
    requests = [Request(index=i) for i in range(3)]
    together = drawn(RDM, params["rdm"], requests, settings)
    np.testing.assert_allclose(together.mean(axis=1), 0.0, atol=1e-5)
    np.testing.assert_allclose(together.std(axis=1, ddof=1), 1.0, atol=1e-5)
    np.testing.assert_allclose(drawn(RDM, params["rdm"], requests[1:2], settings), together[1:2], atol=1e-5)
    assert np.abs(together[0] - together[1]).max() > 0.1


def test_as_published_what_is_drawn_has_the_noise_of_the_chains_first_step():
    """Where all predictions are 0, nothing is left but that: its variance is 1 - 0.9985."""
    config = changed(RDM, sampler=replace(RDM.system.sampler, num_steps=50))
    tree = jax.tree.map(jnp.zeros_like, random_params(config))
    r = drawn(config, tree, [Request(index=i) for i in range(500)])
    assert r.std() == pytest.approx((1 - 0.9985) ** 0.5, rel=0.05)
    clean = replace(config.system.sampler, spacing="even")
    assert np.abs(drawn(config, tree, [Request()], clean)).max() < 0.01


def test_the_loss_of_a_network_that_says_nothing_is_the_variance_of_representations():
    """(1): the squared error of the representation itself, whatever the time; they have a variance of 7 eighths."""
    tree = random_params(RDM)
    tree["rdm"] = jax.tree.map(jnp.zeros_like, tree["rdm"])
    loss, _ = jax.jit(kinds.system_of(RDM).loss)(tree, batch_of(RDM, 16), jax.random.key(0))
    assert float(loss) == pytest.approx(7 / 8, abs=1e-4)


# --- images -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "config"), [("generator", GENERATOR), ("token", TOKEN)])
def test_a_neighbour_alone_is_drawn_from_as_its_representation_is(name, config, params):
    """And one of weight 0 as if it were not; what it starts from goes before neighbours."""
    one, other = neighbour(1), neighbour(2)
    r = np.asarray(kinds.system_of(config).represent(params[name], jnp.asarray(one.image)))
    requests = [
        Request(neighbours=(one,)),
        Request(neighbours=(replace(one, weight=0.3), replace(other, weight=0.0))),
        Request(start=r),
        Request(start=r, neighbours=(other,)),
        Request(neighbours=(other,)),
        Request(neighbours=(one, other)),
    ]
    images = drawn(config, params[name], requests).astype(int)
    assert max(np.abs(images[0] - images[i]).max() for i in (1, 2, 3)) <= 1
    assert min(np.abs(images[0] - images[i]).max() for i in (4, 5)) > 2


def test_the_mean_of_neighbours_is_normalised_again(params):
    system, feed, tree = kinds.system_of(GENERATOR), kinds.feed_of(GENERATOR), params["generator"]
    pair = (neighbour(1, weight=3.0), neighbour(2))
    inputs = on_device(feed.collate([Request(neighbours=pair)], system.settings))
    r, there = system.drawn_from(tree, inputs)
    mean = sum(n.weight * np.asarray(system.represent(tree, jnp.asarray(n.image))) for n in pair)
    np.testing.assert_allclose(r[0], (mean - mean.mean()) / mean.std(ddof=1), atol=1e-5)
    assert there.all()


@pytest.mark.parametrize("name", ["generator", "class"])
def test_guidance_with_a_given_condition_is_none_at_1_and_drops_it_at_0(name, params):
    config = ALL[name]
    system, feed = kinds.system_of(config), kinds.feed_of(config)
    given = [Request("dog"), Request("hen")] if name == "class" else [Request(start=START), Request(start=-START)]
    requests = [replace(each, guidance={"text_weight": weight}) for weight in (0.0, 1.0, 3.0) for each in given]
    images = drawn(config, params[name], requests).astype(int)
    assert np.abs(images[0] - images[1]).max() <= 1 and np.abs(images[4] - images[2]).max() > 8
    inputs = on_device(feed.collate(requests, system.settings))
    sampling = system.sampling(params[name], inputs, sampler.image_keys(0, [0] * 6), system.settings)
    plain = jax.jit(lambda: sampler.sample(*sampling._replace(guide=guidance.unguided)))()
    np.testing.assert_allclose(images[2:4], 127.5 * (plain[2:4] + 1), atol=1.0)
    if name == "class":
        nothing = drawn(config, params[name], [Request(guidance={"text_weight": 5.0})]).astype(int)
        assert np.abs(nothing[0] - images[0]).max() <= 1


def test_a_network_as_it_begins_is_told_nothing_in_its_time():
    """Its last product is zero at first (ADM)."""
    told, _ = kinds.system_of(GENERATOR).telling.init_with_output(
        jax.random.key(0), jnp.asarray(START)[None], jnp.zeros(1, bool)
    )
    assert not np.any(told.embedding_BD)


def test_the_encoder_reads_images_of_its_size_and_more_than_are_drawn():
    config = changed(GENERATOR, encoder=replace(ENCODER, resolution=12))
    assert (config.system.seen, changed(OF_CLASS, encoder=config.system.encoder).system.seen) == (16, 8)
    system = kinds.system_of(config)
    loss, _ = jax.jit(system.loss)(random_params(config), batch_of(config), jax.random.key(0))
    assert np.isfinite(loss)


def test_a_clip_may_represent_in_the_encoders_place(params):
    config = changed(GENERATOR, encoder=CLIP)
    system = kinds.system_of(config)
    r = system.represent(random_params(config), jnp.asarray(neighbour(0).image)[None])
    np.testing.assert_allclose([r.mean(), r.std(ddof=1)], [0, 1], atol=1e-5)
    assert config.system.representation_width == CLIP.width


# --- both in a row ----------------------------------------------------------------------------------------------------


def test_vectors_of_another_encoder_are_no_condition(params):
    """As wide as those of its own, they mean nothing to it. Rounded to 16 bits, an encoder is the same."""
    rounded = jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), params["rdm"]["encoder"])
    Pipeline([Stage(RDM, params["rdm"] | {"encoder": rounded}), Stage(GENERATOR, params["generator"])])
    other = random_params(GENERATOR, seed=1)
    with pytest.raises(UserError, match="vectors of another encoder than that of tiny_rdm"):
        Pipeline([Stage(RDM, params["rdm"]), Stage(GENERATOR, other)])


def test_an_image_is_drawn_from_what_an_rdm_has_drawn(params):
    stages = [Stage(RDM, params["rdm"], batch_size=2), Stage(GENERATOR, params["generator"], batch_size=2)]
    requests = [Request(index=i) for i in range(3)]
    r, images = Pipeline(stages, seed=4).draw(requests)
    assert r.shape == (3, 8) and r.dtype == np.float32
    given = [replace(each, start=row) for each, row in zip(requests, r, strict=True)]
    again = drawn(GENERATOR, params["generator"], given, seed=4)
    assert np.abs(again.astype(int) - images).max() <= 1


@pytest.mark.parametrize(
    ("configs", "message"),
    [
        ([GENERATOR, GENERATOR], "the stage before it, tiny_generator, is a rcg_generator"),
        ([PRIOR, GENERATOR], "draws from a representation, but the stage before it, tiny_prior, is a unclip_prior"),
        ([RDM, OF_CLASS], "draws from its class, and from no other stage"),
        ([RDM, OF_NOTHING], "draws from nothing, and from no other stage"),
        ([RDM, changed(GENERATOR, encoder=replace(ENCODER, width=6))], "of 6 values, .* tiny_rdm, draws 8"),
        ([GENERATOR, RDM], "only the first stage can be one"),
    ],
)
def test_stages_that_do_not_chain_are_refused(configs, message):
    with pytest.raises(UserError, match=message):
        check_chain(configs)


# --- what is asked ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("config", "request_", "message"),
    [
        (RDM, Request(neighbours=(neighbour(0),)), "give that to --model"),
        (RDM, Request(guidance={"text_weight": 2.0}), "it has none"),
        (CLASS_RDM, Request("dgo"), "no class 'dgo' among its 3: such are 'dog'"),
        (CLASS_RDM, Request("zebra"), "such are 'cat', 'dog', 'hen'"),
        (changed(CLASS_RDM, class_drop=0.0), Request(), "learned no class for an empty prompt"),
        (CLASS_RDM, Request("cat", negative="dog"), "negative prompt"),
        (CLASS_RDM, Request("cat", guidance={"eta": 0.5}), "'eta' is no number of"),
        (GENERATOR, Request("a cat"), "'a cat' has none: draw one by an RDM"),
        (GENERATOR, Request(start=START[:5]), r"8 floats, not float32 \[5\]"),
        (GENERATOR, Request(neighbours=(neighbour(0),) * 3), "takes at most 2"),
        (GENERATOR, Request(neighbours=(neighbour(0, weight=0.0),)), "all neighbours have weight 0"),
        (GENERATOR, Request(start=START, edit=Edit(neighbour(0).image)), "draws on no picture"),
        (OF_CLASS, Request("dog", start=START), "has no place for neighbours or pictures"),
        (OF_NOTHING, Request("dog", start=START), "draws from nothing alone"),
        (OF_NOTHING, Request(guidance={"text_weight": 2.0}), "it has none"),
    ],
)
def test_what_a_system_does_not_know_is_refused(config, request_, message):
    with pytest.raises(UserError, match=message):
        kinds.feed_of(config).check(request_, config.system.sampler)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: changed(GENERATOR, resolution=9), "resolution 9 is not a multiple"),
        (lambda: changed(OF_NOTHING, sampler=replace(OF_NOTHING.system.sampler, text_weight=2.0)), "nothing guides it"),
        (lambda: replace(OF_CLASS, data=GENERATOR.data), "name an attribute for 'class'"),
        (lambda: replace(GENERATOR, data=OF_CLASS.data), "only there"),
        (
            lambda: changed(TOKEN, unet=replace(TOKEN.system.unet, levels=(Level(8, 1),))),
            "no level of unet.levels has attention",
        ),
        (
            lambda: changed(GENERATOR, unet=replace(GENERATOR.system.unet, levels=(Level(8, 1, text_attention=True),))),
            r"unet.levels\[0\] attends to text",
        ),
        (lambda: changed(GENERATOR, unet=replace(GENERATOR.system.unet, text_norm="layer")), "unet.text_norm"),
        (lambda: changed(RDM, diffusion=replace(RDM.system.diffusion, schedule="cosine")), "'ldm', but .* no chain"),
        (lambda: changed(RDM, diffusion=replace(RDM.system.diffusion, learned_variance=True)), "learned_variance"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(make, message):
    with pytest.raises(UserError, match=message):
        make()


def test_a_generator_starts_from_the_u_net_of_a_re_imagen():
    """Without what looks at text and neighbours there, which it does not have, and with an encoder from elsewhere."""
    unet = replace(GENERATOR.system.unet, patch=2)
    theirs = kinds.system_of(TINY)
    params = jax.tree.map(
        lambda leaf: np.full(leaf.shape, 2.0, leaf.dtype), jax.eval_shape(theirs.init, jax.random.key(0))
    )
    for config in (GENERATOR, OF_CLASS, OF_NOTHING):
        config = changed(config, unet=unet, resolution=16)
        assert config.system.adopt(TINY.system) == config.system
        begun = config.system.begun(params)
        assert begun.keys() == {"unet"}
        if config is GENERATOR:
            assert config.system.adopt(MocoConfig(ENCODER)).encoder == ENCODER
        tree = jax.eval_shape(kinds.system_of(config).init, jax.random.key(0))
        if "encoder" in tree:
            begun["encoder"] = jax.tree.map(lambda leaf: np.ones(leaf.shape), tree["encoder"])
        zeros = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), tree)
        state = TrainState(jnp.int32(0), zeros, zeros, ())
        with pytest.raises(UserError, match=r"differ in unet/.*text"):
            start_from(state, begun, ("condition",))
        named = ("no_text", "pool", "neighbour", "level", "middle")
        started = start_from(state, begun, ("condition",), named).params
        assert all(jnp.all(leaf == 2.0) for leaf in jax.tree.leaves(started["unet"]))
        assert not any(jnp.any(leaf) for leaf in jax.tree.leaves(started["condition"]))


# --- records ----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def records(tmp_path_factory):
    folder = tmp_path_factory.mktemp("rcg") / "records"
    write_records([example(i, f"number {i}", category=CLASSES[i % 3]) for i in range(12)], folder, source="test")
    return str(folder)


def with_data(config, records, **data):
    return replace(config, data=replace(config.data, records=records, **data))


def test_classes_are_those_of_the_records_and_a_batch_has_their_numbers(records):
    config = with_data(changed(OF_CLASS, classes=()), records)
    feed = kinds.feed_of(config).settled()
    assert feed.config.system.classes == CLASSES and set(feed.config.init.fresh) >= {"unet", "condition"}
    batch = feed.reader(0)(np.asarray([4, 2, 0]), np.zeros(3, bool))
    assert batch.class_B.tolist() == [1, 2, 0] and batch.image_BHWC.shape == (3, 8, 8, 3)
    named = kinds.feed_of(changed(config, classes=("owl", *CLASSES))).settled()
    assert named.reader(0)(np.asarray([4]), np.zeros(1, bool)).class_B.tolist() == [2]
    preview = feed.preview(batch)
    assert preview.captions == ["dog", "hen", "cat"] and list(preview.drawn) == ["from its class", "from nothing"]
    assert preview.drawn["from nothing"].class_B.tolist() == [NO_CLASS] * 3


def test_pictures_are_mirrored_where_that_is_set_and_half_of_them(records):
    plain, mirroring = (kinds.feed_of(with_data(OF_NOTHING, records, flip=flip)) for flip in (False, True))
    rng = np.random.default_rng(0)
    (some,), (none,) = mirroring.drawn(rng, 1000), plain.drawn(rng, 1000)
    assert not none.any() and 400 < some.sum() < 600
    image = plain.reader(0)(np.asarray([3, 3]), np.asarray([False, True])).image_BHWC
    np.testing.assert_array_equal(image[0], np.asarray(picture(3)))
    np.testing.assert_array_equal(image[1], image[0][:, ::-1])


def test_what_the_records_lack_is_said(records):
    for config, message in (
        (with_data(OF_CLASS, records, class_by="colour"), "has no attribute 'colour'"),
        (with_data(changed(OF_CLASS, classes=("cat", "dog")), records), "classes lacks 'hen', which records have"),
        (with_data(RDM, records), "pass --init.weights DIR"),
        (replace(with_data(RDM, records), train=OF_CLASS.train), "does not freeze the encoder"),
    ):
        with pytest.raises(UserError, match=message):
            kinds.feed_of(config).settled()


@pytest.mark.parametrize(
    ("config", "theirs", "begun"),
    [
        (RDM, {"tower": 1, "head": 2, "statistics": 3}, {"encoder": {"tower": 1, "head": 2, "statistics": 3}}),
        (RDM, {"clip": 1, "log_scale": 2}, {"encoder": 1}),
        (RDM, {"encoder": 1, "unet": 2, "condition": 3}, {"encoder": 1}),
        (RDM, {"encoder": 1, "rdm": 2, "classes": 3}, {"encoder": 1, "rdm": 2, "classes": 3}),
        (GENERATOR, {"encoder": 1, "vq": 2, "mage": 3}, {"encoder": 1}),
        (GENERATOR, {"encoder": 1, "unet": 2, "condition": 3}, {"encoder": 1, "unet": 2, "condition": 3}),
        (OF_CLASS, {"encoder": 1, "unet": 2, "condition": 3}, {"unet": 2, "condition": 3}),
    ],
)
def test_what_a_run_begins_with(config, theirs, begun):
    assert config.system.begun(theirs) == begun


def test_weights_without_an_encoder_and_encoders_that_are_not_measured_are_refused():
    with pytest.raises(UserError, match="make a folder of it"):
        RDM.system.begun({"encoder": 1, "predictor": 2})
    with pytest.raises(UserError, match="has no encoder of images"):
        RDM.system.adopt(TINY.system)
    assert RDM.system.adopt(PRIOR.system).encoder == CLIP and RDM.system.adopt(GENERATOR.system).encoder == ENCODER
