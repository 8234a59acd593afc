"""Texts for drawing: the frozen encoder is in memory only while it embeds, and embeds nothing twice."""

from dataclasses import replace

import numpy as np
import pytest

from reimagen_jax.encoders import text_input as text_input_module
from reimagen_jax.encoders.text_input import ByteTexts, FrozenTexts, text_input
from reimagen_jax.encoders.texts import scattered
from reimagen_jax.inference.pipeline import Stage
from reimagen_jax.systems.request import Neighbour, Request
from tests.fake_encoder import FROZEN, FakeEncoder
from tests.tiny import TINY, changed, random_params


@pytest.fixture
def opened(monkeypatch):
    """The encoders that were opened; those before the last one have been released by then."""
    encoders = []

    def open_one(settings):
        assert all(encoder.released for encoder in encoders)
        encoders.append(FakeEncoder())
        return encoders[-1]

    monkeypatch.setattr("reimagen_jax.encoders.published.open_text_encoder", open_one)
    text_input_module._frozen_texts.cache_clear()
    return encoders


def test_each_text_is_embedded_once_and_the_encoder_is_gone_afterwards(opened):
    inputs = FrozenTexts(FROZEN)
    inputs.prepare(["a cat", "a dog", "a cat"])
    assert [encoder.released for encoder in opened] == [True]
    texts = inputs(["a dog", "a cat", "a dog"])
    expected, mask = FakeEncoder().encode(["a dog", "a cat", "a dog"])
    np.testing.assert_array_equal(texts.embedding_BLD, expected)
    np.testing.assert_array_equal(texts.mask_BL, mask)
    assert len(opened) == 1 and sorted(opened[0].asked) == ["a cat", "a dog"]
    inputs(["a bird", "a cat"])
    assert opened[1].asked == ["a bird"]


def test_the_encoder_is_released_when_it_fails(opened, monkeypatch):
    monkeypatch.setattr(FakeEncoder, "encode", lambda self, texts, **_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        FrozenTexts(FROZEN).prepare(["a cat"])
    assert opened[0].released


def test_what_is_remembered_has_a_limit_but_a_calls_own_texts_stay(opened):
    one = FakeEncoder().encode(["x"])[0].nbytes
    inputs = FrozenTexts(FROZEN, remembered_bytes=2 * one)
    inputs.prepare(["a", "b", "c"])
    inputs(["a", "b", "c"])
    assert len(opened) == 1
    inputs(["c", "d"])
    inputs(["c"])
    assert len(opened) == 2
    inputs(["a"])
    assert len(opened) == 3


def test_stages_that_share_an_encoder_share_what_is_remembered(opened):
    text = replace(TINY.system.text, frozen=FROZEN)
    text_input(text).prepare(["a cat"])
    text_input(replace(text))(["a cat"])
    assert len(opened) == 1
    assert isinstance(text_input(TINY.system.text), ByteTexts)


def test_texts_are_laid_where_the_mask_is_true(opened):
    mask = np.array([[True, False], [False, False], [True, True]])
    for inputs in (FrozenTexts(FROZEN), ByteTexts(TINY.system.text)):
        encoded, leaf = inputs(["a", "b", "c"]), lambda tree: getattr(tree, "embedding_BLD", tree)
        laid = leaf(scattered(encoded, mask))
        np.testing.assert_array_equal(laid[mask], leaf(encoded))
        assert not np.any(laid[~mask])
        assert not np.any(leaf(scattered(encoded, np.zeros((2, 2), bool))))


def test_a_stage_draws_with_a_frozen_encoder_and_the_text_matters(opened):
    sampler = replace(TINY.system.sampler, num_steps=1, k=1)
    config = changed(TINY, text=replace(TINY.system.text, frozen=FROZEN), sampler=sampler)
    stage = Stage(config, random_params(config), batch_size=2)
    image = np.full((16, 16, 3), 99, np.uint8)
    near = Neighbour(image, "a cat on a mat", 1.0, "near")
    requests = [Request("a cat", (near,)), Request("a dog", (near,))]
    drawn = stage.draw([*requests, Request("a cat")])
    assert len(opened) == 1 and opened[0].released and stage.compilations == 1
    assert sorted(opened[0].asked) == ["a cat", "a cat on a mat", "a dog"]
    assert not np.array_equal(drawn[0], drawn[1])
    np.testing.assert_array_equal(stage.draw(requests[1:])[0], drawn[1])
    assert len(opened) == 1


def test_what_is_beyond_the_end_of_what_is_read_is_counted(opened):
    inputs = text_input(TINY.system.text)  # 32 bytes
    assert inputs.cut("x" * 32) == "" and inputs.cut("x" * 35) == "3 of its 35 bytes"
    assert inputs.cut("x" * 31 + "é") == "2 of its 33 bytes", "half a letter is not read"
    frozen = FrozenTexts(FROZEN)  # 6 tokens, the end among them
    frozen.prepare(["a b c d e", "a b c d e f g"])
    assert frozen.cut("a b c d e") == "" and frozen.cut("a b c d e f g") == "2 of its 8 tokens"


@pytest.mark.parametrize(
    ("text", "said"), [(TINY.system.text, "7 of its 39 bytes"), (replace(TINY.system.text, frozen=FROZEN), "tokens")]
)
def test_a_prompt_longer_than_the_model_reads_is_named_and_drawn(opened, capsys, text, said):
    config = changed(TINY, text=text)
    stage = Stage(config, None, batch_size=2)
    long = "a b c d e f g h " + 23 * "x"
    stage.feed.prepare([Request(long), Request("short", index=1), Request(long, index=2)])
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1 and said in lines[0] and repr(long) in lines[0]
