"""Cleaned texts: whoever reads one, it is the same; stores know of it. The rules themselves are in tests/parity."""

import json
import sys
from dataclasses import replace

import numpy as np
import pytest

from reimagen_jax.commands.embed import EmbedOptions
from reimagen_jax.encoders import cleaning, text_embeddings
from reimagen_jax.encoders.text_embeddings import NAME, TextEmbeddings, embed_records
from reimagen_jax.encoders.text_input import FrozenTexts
from reimagen_jax.errors import UserError
from reimagen_jax.systems.reimagen.system import ReImagen
from tests.encoders.test_text_embeddings import said
from tests.fake_encoder import FROZEN, FakeEncoder
from tests.tiny import TINY, changed

TEXTS = ["<b>A cat</b>", "<i>a cat</i> ", "a dog"]
CLEAN = replace(FROZEN, cleaning="deepfloyd")


@pytest.fixture
def rule(monkeypatch):
    """Stands for the rules, and their libraries: markup goes, and capitals."""

    def cleaned(text):
        for tag in ("<b>", "</b>", "<i>", "</i>"):
            text = text.replace(tag, "")
        return text.lower().strip()

    monkeypatch.setattr(text_embeddings, "cleaned", cleaned)


@pytest.mark.parametrize("missing", ["ftfy", "bs4"])
def test_a_missing_library_is_named_with_its_extra(missing, monkeypatch):
    monkeypatch.setitem(sys.modules, missing, None)
    cleaning._libraries.cache_clear()
    with pytest.raises(UserError, match=r"needs ftfy and beautifulsoup4: pip install 'reimagen_jax\[clean\]'"):
        cleaning.cleaned("a caption that nobody has cleaned")


def test_texts_are_embedded_cleaned_and_the_store_tells_how(tmp_path, rule):
    encoder = FakeEncoder()
    store = embed_records([said(TEXTS)], encoder, CLEAN, tmp_path / "out")
    assert sorted(encoder.asked) == ["", "a cat", "a dog"]
    store.check(CLEAN)
    with pytest.raises(UserError, match=r"cleaning 'deepfloyd', the experiment text\.frozen\.cleaning 'none'"):
        store.check(FROZEN)
    with pytest.raises(UserError, match=r"cleaning 'deepfloyd', the experiment text\.frozen\.cleaning 'none'"):
        embed_records([said(TEXTS)], encoder, FROZEN, tmp_path / "out")
    read = text_embeddings.reader(TextEmbeddings.open(tmp_path / "out"), CLEAN, 32)
    np.testing.assert_array_equal(read(TEXTS).embedding_BLD[0], read(["a cat"]).embedding_BLD[0])


def test_a_store_of_before_is_one_without_cleaning(tmp_path):
    store = embed_records([said(TEXTS)], FakeEncoder(), FROZEN, tmp_path / "out")
    assert "cleaning" not in json.loads((tmp_path / "out" / NAME).read_text())["settings"]
    store.check(FROZEN)
    with pytest.raises(UserError, match=r"cleaning 'none', the experiment text\.frozen\.cleaning 'deepfloyd'"):
        store.check(CLEAN)


def test_prompts_are_cleaned_too(rule, monkeypatch):
    encoder = FakeEncoder()
    monkeypatch.setattr("reimagen_jax.encoders.published.open_text_encoder", lambda settings: encoder)
    texts = FrozenTexts(CLEAN)
    drawn = texts(TEXTS)
    assert sorted(encoder.asked) == ["a cat", "a dog"]
    np.testing.assert_array_equal(drawn.embedding_BLD[0], drawn.embedding_BLD[1])
    assert texts.cut("<b>A cat</b>") == ""


def test_an_experiment_that_adopts_may_clean(tmp_path):
    theirs, ours = (changed(TINY, text=replace(TINY.system.text, frozen=each)).system for each in (FROZEN, CLEAN))
    assert ours.adopt(theirs).text.frozen.cleaning == theirs.adopt(ours).text.frozen.cleaning == "deepfloyd"
    assert theirs.adopt(theirs).text.frozen.cleaning == "none"
    assert "texts cleaned as deepfloyd" in ReImagen(replace(TINY, system=ours)).about()["Text encoder"]


def test_embedding_is_told_by_an_option(tmp_path):
    options = EmbedOptions(tmp_path / "out", tmp_path / "t5", text_cleaning="deepfloyd")
    assert options._settings().cleaning == "deepfloyd"
