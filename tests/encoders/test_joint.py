"""A CLIP within a system: what a text's states may depend on, images of any size, published ones and own ones alike."""

import dataclasses
import functools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from reimagen_jax.encoders import clip
from reimagen_jax.encoders.joint import Joint, PublishedTokenizer, published
from reimagen_jax.encoders.settings import (
    BYTES,
    END_OF_BYTES,
    ImageTowerConfig,
    JointConfig,
    TextTowerConfig,
    Tower,
)
from reimagen_jax.encoders.tokenizers import ByteTokenizer
from reimagen_jax.errors import UserError
from tests.encoders.published import CLIP, CLIP_TEXT, write_clip

SMALL = Tower(16, 1, 2, 24)
PLAIN = JointConfig(12, TextTowerConfig(SMALL, max_tokens=24), ImageTowerConfig(SMALL, 8, 4))
STEMMED = dataclasses.replace(PLAIN, image=dataclasses.replace(PLAIN.image, stem=True))
TEXTS = ["a red ball", "ein grüner Würfel", "赤いボール", "", "a very long caption that is cut"]
BOTH = pytest.mark.parametrize("config", [PLAIN, STEMMED], ids=["plain", "stemmed"])


@functools.cache
def made(config):
    joint = Joint(config)
    return joint, jax.jit(joint.init)(jax.random.key(0))


@functools.cache
def compiled(joint):
    return jax.jit(joint.texts)


def read(joint, params, tokens):
    """In batches of one size, so that little is compiled."""
    rows = -(-len(tokens) // 8) * 8
    reading = compiled(joint)(params, np.pad(tokens, ((0, rows - len(tokens)), (0, 0))))
    return jax.tree.map(lambda x: x[: len(tokens)], reading)


def pixels(count, side=8, seed=0):
    return jax.random.uniform(jax.random.key(seed), (count, side, side, 3), minval=-1.0, maxval=1.0)


@BOTH
def test_readings_have_the_shapes_that_the_settings_tell(config):
    joint, params = made(config)
    tokens = joint.tokenizer().encode(TEXTS)
    assert tokens.dtype == np.int32 and tokens.shape == (5, config.max_tokens)
    reading = read(joint, params, tokens)
    assert reading.state_BMD.shape == (5, config.max_tokens, config.text_width)
    assert reading.mask_BM.shape == (5, config.max_tokens) and reading.vector_BD.shape == (5, config.width)
    assert jax.eval_shape(joint.images, params, pixels(3)).shape == (3, config.width)
    assert {leaf.dtype for leaf in jax.tree.leaves((params, reading._replace(mask_BM=None)))} == {jnp.dtype("float32")}


@BOTH
def test_the_mask_is_true_up_to_the_end_and_states_are_nothing_after_it(config):
    joint, params = made(config)
    reading = read(joint, params, joint.tokenizer().encode(TEXTS))
    lengths = [min(len(text.encode()), config.max_tokens - 1) for text in TEXTS]
    assert reading.mask_BM.sum(axis=1).tolist() == [length + 1 for length in lengths]
    assert (reading.state_BMD[~reading.mask_BM] == 0).all()
    assert (jnp.abs(reading.state_BMD).max(axis=-1) > 0)[reading.mask_BM].all()


@BOTH
def test_what_comes_after_the_end_changes_nothing(config):
    joint, params = made(config)
    tokens = joint.tokenizer().encode(TEXTS)
    ends = (tokens == END_OF_BYTES).argmax(axis=1)
    after = np.arange(config.max_tokens)[None] > ends[:, None]
    other = np.where(after, np.random.default_rng(0).integers(0, BYTES, tokens.shape), tokens).astype(np.int32)
    assert not np.array_equal(tokens, other)
    for one, two in zip(read(joint, params, tokens), read(joint, params, other), strict=True):
        assert np.array_equal(one, two)


@BOTH
def test_a_state_knows_nothing_of_later_tokens_and_the_vector_all_of_them(config):
    joint, params = made(config)
    (row,) = joint.tokenizer().encode(["a text of many bytes"])
    last = row.tolist().index(END_OF_BYTES)
    changed = np.tile(row, (last + 1, 1))
    changed[np.arange(1, last + 1), np.arange(last)] = 7  # row i + 1 has another byte at place i
    state, _, vector = read(joint, params, changed)
    for place in range(last):
        apart = np.abs(state[place + 1] - state[0]).max(axis=-1)
        assert (apart[:place] < 1e-6).all() and apart[place] > 1e-4
        assert np.abs(vector[place + 1] - vector[0]).max() > 1e-5


@BOTH
def test_a_text_depends_on_no_other_text_of_its_batch(config):
    joint, params = made(config)
    tokens = joint.tokenizer().encode(TEXTS)
    together = read(joint, params, tokens)
    for i in range(len(TEXTS)):
        alone = read(joint, params, np.roll(tokens, -i, axis=0))
        np.testing.assert_allclose(alone.vector_BD[0], together.vector_BD[i], atol=1e-6)
        np.testing.assert_allclose(alone.state_BMD[0], together.state_BMD[i], atol=1e-5)


def test_texts_as_bytes_keep_their_end_when_they_are_cut():
    tokens = Joint(PLAIN).tokenizer().encode(TEXTS)
    assert ((tokens == END_OF_BYTES).sum(axis=1) == 1).all()
    for row, text in zip(tokens, TEXTS, strict=True):
        end = row.tolist().index(END_OF_BYTES)
        assert text.startswith(ByteTokenizer(PLAIN.max_tokens).decode(row[:end])) and not row[end + 1 :].any()
    assert tokens[4, -1] == END_OF_BYTES


def test_images_of_any_size_are_resized_and_vectors_are_of_length_one_by_choice():
    joint, params = made(PLAIN)
    large = jnp.repeat(jnp.repeat(pixels(2), 4, axis=1), 4, axis=2)
    embed = jax.jit(joint.images)
    vectors = embed(params, large)
    resized = jax.image.resize(large, (2, 8, 8, 3), "cubic")
    np.testing.assert_allclose(vectors, embed(params, resized), atol=1e-6)
    raw = Joint(dataclasses.replace(PLAIN, normalised=False))
    tokens = joint.tokenizer().encode(TEXTS)
    pairs = [(vectors, jax.jit(raw.images)(params, large))]
    pairs += [(read(joint, params, tokens).vector_BD, read(raw, params, tokens).vector_BD)]
    for of_one, of_any in pairs:
        np.testing.assert_allclose(jnp.linalg.norm(of_one, axis=1), 1.0, atol=1e-5)
        length = jnp.linalg.norm(of_any, axis=1, keepdims=True)
        assert (jnp.abs(length - 1.0) > 1e-3).all()
        np.testing.assert_allclose(of_any / length, of_one, atol=1e-5)


def test_it_computes_in_bfloat16_with_parameters_of_float32():
    joint, params = made(STEMMED)
    half = Joint(dataclasses.replace(STEMMED, dtype="bfloat16"))
    shapes = jax.eval_shape(half.init, jax.random.key(0))
    assert jax.tree.map(lambda x: (x.shape, x.dtype), shapes) == jax.tree.map(lambda x: (x.shape, x.dtype), params)
    tokens = jnp.asarray(joint.tokenizer().encode(TEXTS))
    for method, inputs in (("images", pixels(3)), ("texts", tokens)):
        ours, theirs = (jax.jit(getattr(each, method))(params, inputs) for each in (half, joint))
        ours, theirs = (x if method == "images" else x.vector_BD for x in (ours, theirs))
        assert ours.dtype == jnp.float32 and 1e-5 < jnp.abs(ours - theirs).max() < 0.05


def test_gradients_reach_every_parameter():
    joint, params = made(STEMMED)
    tokens = jnp.asarray(joint.tokenizer().encode(TEXTS))

    def score(params):
        return (joint.texts(params, tokens).vector_BD[:3] * joint.images(params, pixels(3))).sum()

    gradients = jax.tree_util.tree_leaves_with_path(jax.jit(jax.grad(score))(params))
    # A bias of keys moves all scores of a query alike, and changes nothing.
    without = [jax.tree_util.keystr(path) for path, leaf in gradients if not (jnp.abs(leaf) > 0).any()]
    assert [name for name in without if "['key']['bias']" not in name] == []


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"width": 0}, "clip.width 0|clip.width is 0"),
        ({"end": 256}, "clip.tokens 'bytes'"),
        ({"end": 300}, "clip.end 300 is no id"),
        ({"text": TextTowerConfig(SMALL, vocabulary=300)}, "clip.tokens 'bytes'"),
    ],
)
def test_settings_that_contradict_each_other(changes, message):
    with pytest.raises(UserError, match=message):
        dataclasses.replace(PLAIN, **changes)


def test_towers_that_cannot_be_built():
    with pytest.raises(UserError, match=r"not a multiple of tower.heads 3"):
        Tower(16, heads=3)
    with pytest.raises(UserError, match=r"image.patch 9 is larger"):
        ImageTowerConfig(SMALL, 8, 9)
    for resolution, patch in ((9, 3), (12, 8), (8, 1)):
        with pytest.raises(UserError, match=rf"image\.patch {patch} is not 2, 4, 8, \.\.\. that divides"):
            ImageTowerConfig(SMALL, resolution, patch, stem=True)


def test_without_an_image_tower_texts_are_read_and_images_refused():
    joint, params = made(dataclasses.replace(PLAIN, image=None))
    assert set(params) == {"text", "text_projection"} and joint.config.resolution is None
    assert read(joint, params, joint.tokenizer().encode(TEXTS)).vector_BD.shape == (5, 12)
    with pytest.raises(UserError, match="no image tower"):
        joint.images(params, pixels(1))


# -- published ones


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_clip(tmp_path_factory.mktemp("clip"))


def test_a_published_clip_embeds_as_its_encoder_does(folder):
    encoder = clip.open(folder)
    config, params = published(folder)
    joint, images = Joint(config), np.random.default_rng(0).integers(0, 256, (3, 16, 16, 3), np.uint8)
    tokens = joint.tokenizer().encode(TEXTS)
    np.testing.assert_allclose(read(joint, params, tokens).vector_BD, encoder.texts(TEXTS), atol=1e-5)
    vectors = jax.jit(joint.images)(params, jnp.asarray(images, jnp.float32) / 127.5 - 1.0)
    np.testing.assert_allclose(vectors, encoder.images(images), atol=1e-5)
    states, mask = clip.open_text(folder).encode(TEXTS)
    reading = read(joint, params, tokens)
    assert np.array_equal(reading.mask_BM, mask)
    np.testing.assert_allclose(reading.state_BMD, states, atol=2e-5)


def test_towers_in_two_folders_are_one_clip(folder, tmp_path):
    config, params = published(folder)
    tensors = load_file(folder / "model.safetensors")
    parts = {"text_encoder": ("text", "clip_text_model"), "image_encoder": ("vi", "clip_vision_model")}
    for name, (start, kind) in parts.items():
        (tmp_path / name).mkdir()
        settings = {**CLIP[{"text": "text_config", "vi": "vision_config"}[start]], "projection_dim": 12}
        some = {key: value for key, value in tensors.items() if key.startswith(start)}
        save_file(some, tmp_path / name / "model.safetensors")
        (tmp_path / name / "config.json").write_text(json.dumps({**settings, "model_type": kind}))
    where = {"image": tmp_path / "image_encoder", "tokenizer": folder}
    again, theirs = published(tmp_path / "text_encoder", **where)
    assert again == config and jax.tree.all(jax.tree.map(np.array_equal, theirs, params))
    alone = published(tmp_path / "text_encoder", tokenizer=folder)[0]
    assert alone == dataclasses.replace(config, image=None)
    with pytest.raises(UserError, match="an image tower alone"):
        published(tmp_path / "image_encoder")
    with pytest.raises(UserError, match="holds an image tower itself"):
        published(folder, image=tmp_path / "image_encoder")
    with pytest.raises(UserError, match="vectors of 12 values"):
        published(tmp_path / "text_encoder", image=tmp_path / "text_encoder", tokenizer=folder)


def test_the_tokenizer_of_a_published_clip_has_to_be_named_and_its_own(folder, tmp_path):
    config, _ = published(folder)
    assert isinstance(Joint(config).tokenizer(), PublishedTokenizer)
    with pytest.raises(UserError, match=r"no tokenizer is named \(clip.tokenizer\)"):
        Joint(dataclasses.replace(config, tokenizer="")).tokenizer()
    settings = {**CLIP, "text_config": {**CLIP_TEXT, "vocab_size": 4096}}
    write_clip(tmp_path, settings=settings)
    (tmp_path / "merges.txt").write_text((tmp_path / "merges.txt").read_text().rsplit("\n", 2)[0] + "\n")
    with pytest.raises(UserError, match="is not the tokenizer of this CLIP"):
        Joint(dataclasses.replace(config, tokenizer=str(tmp_path))).tokenizer()
