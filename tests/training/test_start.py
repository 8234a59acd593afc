"""Starting from given weights: what fits is taken, what may be new is made anew, the rest is refused by name."""

from dataclasses import replace
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict
from jax.sharding import NamedSharding, PartitionSpec

from reimagen_jax import sharding
from reimagen_jax.config import InitConfig, load_experiment
from reimagen_jax.encoders.bytes import ByteEncoder
from reimagen_jax.encoders.settings import TextConfig
from reimagen_jax.encoders.tokenizers import ByteTokenizer
from reimagen_jax.errors import UserError
from reimagen_jax.inference.model import Model
from reimagen_jax.systems import kinds
from reimagen_jax.systems.mage.settings import FROZEN_FEATURES, PerceptualConfig
from reimagen_jax.systems.reimagen.system import ReImagen
from reimagen_jax.training.state import TrainState, check_frozen, start_from, unlike
from tests import mage, rcg, unclip
from tests.tiny import TINY, TINY_SR, changed


def state(**modules):
    params = {"unet": {name: {"kernel": jnp.full(shape, 1.0)} for name, shape in modules.items()}}
    return TrainState(jnp.int32(0), params, jax.tree.map(jnp.copy, params), ())


def weights(**modules):
    return {"unet": {name: {"kernel": np.full(shape, 2.0, np.float32)} for name, shape in modules.items()}}


def values(state):
    return {name: float(module["kernel"].ravel()[0]) for name, module in state.params["unet"].items()}


def test_weights_become_parameters_and_average():
    started = start_from(state(stem=(2, 3)), weights(stem=(2, 3)))
    np.testing.assert_array_equal(started.params["unet"]["stem"]["kernel"], 2.0)
    np.testing.assert_array_equal(started.ema["unet"]["stem"]["kernel"], 2.0)
    assert started.params["unet"]["stem"]["kernel"] is not started.ema["unet"]["stem"]["kernel"]


def test_only_modules_named_fresh_may_be_missing():
    ours = state(stem=(2, 3), neighbour_attention_level0=(4,), neighbour_attention_level1=(4,))
    theirs = weights(stem=(2, 3), neighbour_attention_level1=(4,))
    with pytest.raises(UserError, match=r"differ in unet/neighbour_attention_level0/kernel$"):
        start_from(ours, theirs)
    started = start_from(ours, theirs, fresh=("neighbour_attention",))
    assert values(started) == {"stem": 2.0, "neighbour_attention_level0": 1.0, "neighbour_attention_level1": 2.0}


def test_only_modules_named_as_left_out_may_be_lacked():
    ours, theirs = state(stem=(2, 3)), weights(stem=(2, 3), neighbour_attention=(5,), text=(1,))
    with pytest.raises(UserError, match=r"differ in unet/neighbour_attention/kernel$"):
        start_from(ours, theirs, left_out=("text",))
    for named in (("text", "neighbour"), ("unet",)):
        assert values(start_from(ours, theirs, left_out=named)) == {"stem": 2.0}
    with pytest.raises(UserError, match=r"differ in unet/stem/kernel$"):
        start_from(state(stem=(4, 3)), theirs, left_out=("unet",))


def test_what_begins_anew_and_what_is_left_out_is_said():
    ours, theirs = state(stem=(2, 3), class_embedding=(4,)), weights(stem=(2, 3), attention0=(5,), attention1=(1,))
    assert unlike(ours.params, theirs) == [
        "4 parameters begin anew, which the weights lack: unet/class_embedding",
        "6 parameters of the weights are left out: unet/attention0, unet/attention1",
    ]
    many = weights(**{f"module{i}": (2,) for i in range(10)})
    assert unlike({}, many)[0].endswith("unet/module7 and 2 more")


def test_fresh_does_not_excuse_another_shape_or_another_module():
    ours = state(stem=(2, 3), neighbour_attention=(4,))
    with pytest.raises(UserError, match="unet/extra/kernel, unet/neighbour_attention/kernel"):
        start_from(ours, weights(stem=(2, 3), neighbour_attention=(5,), extra=(1,)), fresh=("neighbour_attention",))


def test_of_many_that_differ_the_first_are_named_and_the_others_counted():
    names = [f"module{i}" for i in range(9)]
    with pytest.raises(UserError, match=r"differ in unet/module0/kernel, .*, unet/module7/kernel and 1 more$"):
        start_from(state(**dict.fromkeys(names, (2,))), weights(**dict.fromkeys(names, (3,))))


# --- what a system holds frozen beside its own -------------------------------------------------------------------


SHARP = replace(
    mage.VQ,
    system=replace(mage.VQ.system, perceptual=PerceptualConfig(1.0, rcg.ENCODER)),
    train=replace(mage.VQ.train, rates=(FROZEN_FEATURES,)),
)
HOLDING = {
    "generator": (rcg.GENERATOR, "encoder", ()),
    "rdm": (rcg.RDM, "encoder", ()),
    "mage, of a tokenizer alone": (mage.MAGE, "encoder", ("vq",)),
    "mage, of an encoder alone": (mage.MAGE, "vq", ("encoder",)),
    "tokenizer": (SHARP, "perceptual", ("vq",)),
    "prior": (unclip.PRIOR, "clip", ()),
    "decoder": (unclip.DECODER, "clip", ()),
}


@pytest.mark.parametrize(("config", "held", "given"), HOLDING.values(), ids=HOLDING)
def test_what_is_held_frozen_and_has_no_weights_is_told_with_what_to_do(config, held, given):
    """Whatever else differs: what would stay random for good is refused, in whichever system."""
    ours = jax.eval_shape(kinds.system_of(config).init, jax.random.key(0))
    theirs = {**{name: ours[name] for name in given}, "unet": {"stem": np.zeros(3)}}
    said = replace(config, init=InitConfig(weights="shipped", beside=("runs/other",)))
    has_none = (
        rf"^{config.name} holds {held} frozen, which has no weights in shipped, runs/other: .* --init\.beside DIR$"
    )
    with pytest.raises(UserError, match=has_none):
        check_frozen(ours, theirs, said)
    check_frozen(ours, {**theirs, held: ours[held]}, said)
    check_frozen(ours, theirs, replace(said, init=InitConfig(fresh=(held,))))
    learned = replace(said, train=replace(config.train, rates=()))
    check_frozen(ours, theirs, learned)  # which `start_from` refuses by name


# --- tables of positions, and other sides ------------------------------------------------------------------------


def table(length, value, width=3, name="position"):
    return {"text": {name: np.full((1, length, width), value, np.float32)}}


def begun(params, theirs, **options):
    params = jax.tree.map(jnp.asarray, params)
    return start_from(TrainState(jnp.int32(0), params, jax.tree.map(jnp.copy, params), ()), theirs, **options)


def test_a_longer_table_keeps_the_known_rows_and_the_others_begin_anew():
    started = begun(table(5, 1.0), table(3, 2.0))
    for params in (started.params, started.ema):
        np.testing.assert_array_equal(params["text"]["position"][0, :, 0], [2, 2, 2, 1, 1])
    assert started.params["text"]["position"] is not started.ema["text"]["position"]
    assert unlike(table(5, 1.0), table(3, 2.0)) == [
        "text/position: the first 3 positions are those of the weights, 2 more begin anew"
    ]


def test_of_a_table_that_is_too_long_the_last_rows_are_left_out_and_said():
    theirs = {"text": {"position": np.arange(5, dtype=np.float32).reshape(1, 5, 1)}}
    started = begun(table(2, 9.0, width=1), theirs)
    np.testing.assert_array_equal(started.params["text"]["position"][0, :, 0], [0, 1])
    assert unlike(table(2, 9.0, width=1), theirs) == [
        "text/position: the first 2 positions are those of the weights, 3 more are left out"
    ]


@pytest.mark.parametrize(
    "theirs",
    [table(3, 2.0, width=4), {"text": {"position": np.zeros((3, 3), np.float32)}}, table(3, 2.0, name="other")],
)
def test_a_table_of_another_width_or_rank_and_other_parameters_do_not_stretch(theirs):
    (name,) = theirs["text"]
    with pytest.raises(UserError, match=rf"or start from nothing \(--init\.weights ''\); they differ in text/{name}$"):
        begun(table(5, 1.0, name=name), theirs)
    assert unlike(table(5, 1.0, name=name), theirs) == []


def test_a_table_that_is_split_over_devices_is_as_one_that_is_not():
    mesh = sharding.make_mesh(4)
    whole = {"text": {"position": np.random.default_rng(0).normal(size=(1, 8, 4)).astype(np.float32)}}
    for axis in (1, 2):
        place = NamedSharding(mesh, PartitionSpec(*[None] * axis, "fsdp"))
        split = jax.tree.map(lambda leaf, place=place: jax.device_put(leaf, place), whole)
        started = start_from(TrainState(jnp.int32(0), split, split, ()), table(5, 2.0, width=4))
        leaf = started.params["text"]["position"]
        assert leaf.sharding == place
        np.testing.assert_array_equal(leaf[:, :5], 2.0)
        np.testing.assert_array_equal(leaf[:, 5:], whole["text"]["position"][:, 5:])


def test_texts_that_fit_both_are_read_alike_by_a_longer_encoder():
    """With a few bytes to spare: at its very end, convolutions see that a text is cut."""
    texts, sizes = ["a cat", "ten bytes.", ""], (16, 40)
    encoders = [ByteEncoder(TextConfig(max_bytes=size, width=16, depth=1, head_width=8)) for size in sizes]
    tokens = [jnp.asarray(ByteTokenizer(size).encode(texts)) for size in sizes]
    theirs, ours = (
        jax.jit(encoder.init)(jax.random.key(seed), each)["params"]
        for seed, (encoder, each) in enumerate(zip(encoders, tokens, strict=True))
    )
    ours = begun(ours, theirs).params
    (known_BLD, mask_BL), (read_BLD, longer_BL) = (
        jax.jit(encoder.apply)({"params": params}, each)
        for encoder, params, each in zip(encoders, (theirs, ours), tokens, strict=True)
    )
    np.testing.assert_array_equal(longer_BL[:, :4], mask_BL)
    assert mask_BL.sum() == 5 and not longer_BL[:, 4:].any()
    np.testing.assert_allclose(read_BLD[:, :4][mask_BL], known_BLD[mask_BL], atol=1e-5)


@pytest.mark.parametrize("config", [TINY, TINY_SR], ids=lambda config: config.name)
def test_no_parameter_depends_on_the_side_of_the_image(config):
    stage = config.system.super_resolution
    larger = changed(
        config,
        resolution=2 * config.system.resolution,
        super_resolution=stage and replace(stage, low_resolution=2 * stage.low_resolution),
    )
    small, large = (jax.eval_shape(ReImagen(each).init, jax.random.key(0)) for each in (config, larger))
    assert jax.tree.map(jnp.shape, small) == jax.tree.map(jnp.shape, large)


@pytest.mark.parametrize("name", ["images32", "images64"])
def test_the_experiments_for_own_pictures_start_from_the_shipped_weights(name):
    """All of them are taken, the table of positions alone is longer."""
    config = load_experiment(Path(__file__).parents[2] / "experiments" / f"{name}.py")
    assert config.init.weights == "shipped"
    ours = jax.eval_shape(ReImagen(config).init, jax.random.key(0))
    theirs = Model.open("shipped", on_host=True).params
    shapes = [flatten_dict(jax.tree.map(np.shape, each)) for each in (ours, theirs)]
    assert [path for path in shapes[0].keys() | shapes[1].keys() if shapes[0].get(path) != shapes[1].get(path)] == [
        ("text", "position")
    ]
    (said,) = unlike(ours, theirs)
    assert said == "text/position: the first 20 positions are those of the weights, 20 more begin anew"
