"""The byte tokenizer: it loses nothing that fits, and cuts at whole characters."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from reimagen_jax.encoders.tokenizers import PADDING, ByteTokenizer

TEXT = st.text(st.characters(codec="utf-8"), max_size=40)


@given(TEXT)
def test_texts_that_fit_come_back(text):
    tokenizer = ByteTokenizer(max(1, len(text.encode())))
    assert tokenizer.decode(tokenizer.encode([text])[0]) == text


@given(TEXT, st.integers(1, 20))
def test_cut_texts_are_the_longest_prefix_that_fits(text, max_bytes):
    tokenizer = ByteTokenizer(max_bytes)
    kept = tokenizer.decode(tokenizer.encode([text])[0])
    assert text.startswith(kept)
    assert len(kept.encode()) <= max_bytes
    assert kept == text or len(text[: len(kept) + 1].encode()) > max_bytes


@given(st.lists(TEXT, max_size=5), st.integers(1, 30))
def test_rows_are_tokens_then_padding(texts, max_bytes):
    tokenizer = ByteTokenizer(max_bytes)
    tokens = tokenizer.encode(texts)
    assert (tokens.shape, tokens.dtype) == ((len(texts), max_bytes), np.int32)
    assert ((tokens >= 0) & (tokens < tokenizer.vocabulary)).all()
    used = tokens != PADDING
    assert not (~used[:, :-1] & used[:, 1:]).any()


@given(TEXT, TEXT)
def test_a_text_does_not_depend_on_its_batch(a, b):
    tokenizer = ByteTokenizer(16)
    np.testing.assert_array_equal(tokenizer.encode([a, b])[1], tokenizer.encode([b])[0])


@pytest.mark.parametrize(("text", "expected"), [("", [0, 0, 0, 0]), ("az", [98, 123, 0, 0]), ("\0", [1, 0, 0, 0])])
def test_known_tokens(text, expected):
    assert ByteTokenizer(4).encode([text])[0].tolist() == expected
