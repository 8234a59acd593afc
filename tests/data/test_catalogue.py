"""The ledger is a dict of fewer bytes; the catalogue gives every record a key of its own and knows what repeats."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from reimagen_jax.data import catalogue as module
from reimagen_jax.data.catalogue import Catalogue, Ledger
from reimagen_jax.data.image_text import ImageText, Problem


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(st.text(max_size=2) | st.integers(0, 99).map(str), st.integers(0, 2**32 - 1)), max_size=300),
    st.integers(1, 20),
)
def test_ledger_is_a_dict(writes, recent):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "_RECENT", recent)
        ledger, reference = Ledger(), {}
        for key, value in writes:
            assert ledger.setdefault(key, value // 2) == reference.get(key)
            ledger[key] = reference[key] = value
            assert ledger[key] == value == ledger.setdefault(key, 0)
    assert {key: ledger[key] for key in reference} == reference
    assert ledger["not there"] is None


def test_equal_high_halves_are_told_apart(monkeypatch):
    monkeypatch.setattr(module, "_RECENT", 4)
    monkeypatch.setattr(module, "_hash", lambda text: b"same    " + text.encode().ljust(8))
    ledger = Ledger()
    for n in range(13):
        ledger[f"{n}"] = n
    assert [ledger[f"{n}"] for n in range(13)] == list(range(13))
    assert ledger["13"] is None


def items(*described):
    return [ImageText(key, b"", text, digest=digest) for key, digest, text in described]


def admit(catalogue, found):
    return [i.key if isinstance(i := catalogue.admit(item), ImageText) else i for item in found]


FOUND = items(
    *[("a", "1", "x"), ("a", "1", "y"), ("b", "1", "x"), ("a#2", "2", "x"), ("a", "2", "z")],
    *[("a#3", "3", "w"), ("a", "4", "x")],
)
KEYS = ["a", "a#2", None, "a#2#2", "a#3", "a#3#2", "a#4"]


def test_keys_are_unique_and_repetitions_named():
    got = admit(Catalogue(), FOUND)
    assert [key for key in got if isinstance(key, str)] == [key for key in KEYS if key]
    assert got[2] == Problem("b", "duplicate", "same picture and same text as record 0")


@pytest.mark.parametrize("after", range(len(FOUND) + 1))
def test_what_is_restored_is_as_if_it_had_never_stopped(after):
    first, second = Catalogue(), Catalogue()
    for item in FOUND[:after]:
        if isinstance(kept := first.admit(item), ImageText):
            second.restore(kept.key, kept.digest, kept.text)
    assert admit(second, FOUND[after:]) == admit(first, FOUND[after:])
