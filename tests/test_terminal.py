"""What others wrote reaches a terminal as text: nothing steers it, nothing hides, and scripts stay readable."""

import json
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reimagen_jax.terminal import json_line, printable, say

STEERING = "\x00\x07\x08\x0b\x1b\x7f\x85\x9b\x9c\u202e\u2066\u2069\u2028\u2029\u200b\u200e\ufeff\xad\ud83d\U000e0041"


def steers(text):
    return [c for c in text if unicodedata.category(c) in ("Cc", "Zl", "Zp", "Cs") or c in STEERING]


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("a dog \x1b[2J\x1b]0;owned\x07 bell", r"a dog \x1b[2J\x1b]0;owned\x07 bell"),
        ("one\r\ntwo\tthree\n", "one two three "),
        ("\x9b31m\x7f", r"\x9b31m\x7f"),
        ("gpj.\u202egnp", r"gpj.\u202egnp"),
        ("a\u2028b\x85c", r"a\u2028b\x85c"),
        ("a\u200db", r"a\u200db"),
        ("half \ud83d", r"half \ud83d"),
        ("hidden \U000e0041\U000e007f", r"hidden \U000e0041\U000e007f"),
        (r"a \x1b of letters", r"a \x1b of letters"),
    ],
)
def test_what_steers_is_shown_as_escapes(text, shown):
    assert printable(text) == shown


@pytest.mark.parametrize(
    "text",
    [
        "café e\u0301 Ångström ﬁ",
        "👩‍👩‍👧‍👦 🏳️‍🌈 ❤️ 🇨🇭 👍🏽",
        "\U0001f3f4\U000e0067\U000e0062\U000e0065\U000e006e\U000e0067\U000e007f",
        "می‌خواهم श्री क्‍ष",
        "القطة ١٢٣ \u0601",
        "東京タワー 한국어 สีดำ",
    ],
)
def test_scripts_and_emoji_stay(text):
    assert printable(text) == text


@given(st.text(st.one_of(st.characters(exclude_categories=()), st.sampled_from(STEERING + "\u200c\u200d"))))
def test_nothing_that_steers_is_left(text):
    assert not steers(printable(text))
    assert printable(printable(text)) == printable(text)
    written = json_line({text: [text]})
    assert not steers(written)
    assert json.loads(written) == {text: [text]}


def test_one_line_each(capsys):
    say("a\nb", "\x1b[2J")
    say("c\nd", error=True)
    assert capsys.readouterr() == ("a b\n\\x1b[2J\n", "c d\n")
