"""Captions and attributes: where they are found, and that whatever comes out is JSON and Unicode."""

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from reimagen_jax.data.sources.fields import Captions, attributes_of, parse_object
from reimagen_jax.errors import UserError


@pytest.mark.parametrize(
    ("captions", "fields", "texts", "attributes"),
    [
        (Captions(), {"text": " a ", "caption": "b", "n": 1}, ("a",), {"n": 1}),
        (Captions(), {"captions": ["a", "b", "a", " "], "n": 1}, ("a", "b"), {"n": 1}),
        (Captions(most=1), {"captions": ["", "a", "b"]}, ("a",), {}),
        (Captions(), {"captions": [{"text": "a", "id": 1}, {"caption": "b"}, {"x": "c"}, 3]}, ("a", "b"), {}),
        (Captions(), {"captions": {"text": ["a", "b"]}}, ("a", "b"), {}),
        (Captions("alt"), {"alt": "a", "text": "b"}, ("a",), {"text": "b"}),
        (Captions("meta.alt"), {"meta": {"alt": "a"}}, ("a",), {"meta": {"alt": "a"}}),
        (Captions("a {label}!"), {"label": "dog", "text": "b"}, ("a dog!",), {"label": "dog", "text": "b"}),
        (Captions("{n} {l}"), {"n": 2, "l": ["a", "b"]}, ("2 a, b",), {"n": 2, "l": ["a", "b"]}),
        (Captions("{x.__class__}{y}"), {"x": "s", "y": "t"}, (), {"x": "s", "y": "t"}),
        (Captions("a {label}"), {"label": None}, (), {"label": None}),
        (Captions(), {"text": 3}, (), {}),
        (Captions(), {}, (), {}),
    ],
)
def test_split(captions, fields, texts, attributes):
    assert captions.split(fields) == (texts, attributes)
    if not texts:
        assert "somewhere" in captions.why_none(fields, "somewhere")


@pytest.mark.parametrize("bad", [{"most": 0}, {"most": -1}, {"field": " "}])
def test_settings_that_find_nothing(bad):
    with pytest.raises(UserError, match="--"):
        Captions(**bad)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text() | st.integers(), inner),
    max_leaves=10,
)


@given(st.dictionaries(st.text(), json_values))
def test_attributes_are_json(fields):
    kept = attributes_of(fields)
    assert json.loads(json.dumps(kept, allow_nan=False)) == kept
    assert kept.keys() <= fields.keys()


def test_numpy_becomes_json():
    assert attributes_of({"a": np.float32(0.5), "b": np.arange(3), "c": np.bool_(True)}) == {
        "a": 0.5,
        "b": [0, 1, 2],
        "c": True,
    }


@given(json_values)
def test_any_object_is_parsed_or_refused(value):
    try:
        data = json.dumps(value).encode()
    except TypeError:
        return
    try:
        assert isinstance(parse_object(data, lenient=True), dict)
    except ValueError:
        assert not isinstance(value, dict) or "\\ud" in data.decode()
