"""The analyser: words of every script, whatever the text; settings that are stated, and refused where unknown."""

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reimagen_jax.errors import UserError
from reimagen_jax.retrieval.analysis import ENGLISH_STOP_WORDS, VERSION, Analyser, words, words_1, words_2

ODD = "กเ็ำ漢字がｶﾞ한ᄒa1①½ﬁİßς٣\u0640\u064e\u0654\u200b\u200c\u200d\u00ad\ufe0f\u20e3\u0301\ud83d\u05b8שأ្ខ -'"
ANY_TEXT = st.text(st.one_of(st.characters(exclude_categories=()), st.sampled_from(ODD)))
"""Halves of surrogate pairs among it."""


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Straße ÉCOLE", ["strasse", "école"]),
        ("हिन्दी भाषा", ["हिन्दी", "भाषा"]),
        ("東京タワー", ["東", "京", "タ", "ワ", "ー", "東京", "京タ", "タワ", "ワー"]),
        ("猫", ["猫"]),
        ("iPhoneの箱", ["iphone", "の", "箱", "の箱"]),
        ("สีดำ", ["สี", "ดํ", "า", "สีดํ", "ดํา"]),
        ("한국어", ["한", "국", "어", "한국", "국어"]),
        ("القِطَّة الســوداء ١٢٣", ["القطة", "السوداء", "123"]),
        ("می‌خواهم", ["می", "خواهم"]),
        ("שָׁלוֹם", ["שלום"]),
        ("ශ්‍රී", ["ශ්රී"]),
        ("1️⃣ ❤️ 🐶🏽", ["1"]),
        ("soft\u00adhyphen", ["softhyphen"]),
        ("\u0301\u0e31", []),
    ],
)
def test_words_of_many_scripts(text, expected):
    assert words(text) == expected


@given(ANY_TEXT)
def test_any_text_has_words_that_are_words(text):
    for word in words(text):
        assert word
        assert any(c.isalnum() for c in word)
        assert all(c.isalnum() or unicodedata.category(c)[0] == "M" for c in word)


@given(ANY_TEXT)
def test_spelling_does_not_matter(text):
    """Case, composed or decomposed letters, and having been analysed before."""
    found = set(words(text))
    assert set(words(" ".join(words(text)))) == found
    assert words(text.upper().lower()) == words(text.upper())
    assert words(unicodedata.normalize("NFD", text)) == words(text)


@given(ANY_TEXT, ANY_TEXT)
def test_texts_side_by_side(first, second):
    assert words(f"{first} {second}") == words(first) + words(second)


@given(st.text(st.characters(max_codepoint=127)))
def test_versions_agree_on_ascii(text):
    assert words(text) == words_1(text)


def test_version_1_is_as_it_was():
    texts = ("東京タワー", "E\u0301cole", "1️⃣ ❤️", "القِطَّة ١")
    assert [words_1(text) for text in texts] == [["東京タワー"], ["école"], ["1️⃣"], ["القِطَّة", "١"]]


def test_version_2_is_as_it_was():
    for text in ("東京タワー", "E\u0301cole ṅ", "القِطَّة ١", "ǰ ı ŉ ẛ̣"):
        assert words_2(text) == words(text)
    assert words_2("\u0130stanbul") == ["i\u0307stanbul"]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("\u0130STANBUL İstanbul istanbul Istanbul I\u0307stanbul i\u0307stanbul", ["istanbul"] * 6),
        ("DİYARBAKIR", ["diyarbakir"]),
        ("J\u0307 j\u0307", ["j", "j"]),
        ("Į\u0307 į\u0307\u0301 Ị\u0307", ["į", "į\u0301", "ị"]),  # marks below come between; accents stay
        ("i\u0307\u0301 Ì", ["í", "ì"]),  # Lithuanian writes the dot under an accent
        ("І\u0307 Ј\u0307", ["і", "ј"]),  # Cyrillic
        ("ísland i\u0301\u0307", ["ísland", "í\u0307"]),  # the dot over an accent is no letter's own
        ("ısparta", ["ısparta"]),
        ("ż Ż Ċ", ["ż", "ż", "ċ"]),
    ],
)
def test_the_dot_of_i_is_no_letter(text, expected):
    assert words(text) == expected


def test_stemming_and_stop_words():
    plain, stemmed = Analyser(), Analyser(stemming="english")
    assert stemmed("two cats running") == stemmed("TWO cat runs")
    assert plain("two cats running") != plain("two cat runs")
    assert Analyser(stop_words=ENGLISH_STOP_WORDS)("The cat is on a mat, it isn't") == ["cat", "mat", "isn"]
    assert Analyser(stop_words=("Straße",))("eine STRASSE") == ["eine"]
    assert Analyser(stemming="english", stop_words=("cats",))("cats cat") == ["cat"]


@pytest.mark.parametrize(
    "analyser",
    [
        Analyser(),
        Analyser(1),
        Analyser(2),
        Analyser(stemming="english", stop_words=("a", "the")),
        Analyser(stop_words=("猫",)),
    ],
)
def test_manifest_round_trip(analyser):
    assert Analyser.read(analyser.fields(), "index") == analyser


def test_an_index_from_before_there_was_a_choice():
    assert Analyser.read(None, "index") == Analyser(version=1)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"version": VERSION + 1}, rf"kb was made by version {VERSION + 1} of the analyser.*reimagen index"),
        ({"version": None}, "version None"),
        ({"stemmer": "snowballstemmer 0.1"}, r"kb was stemmed by snowballstemmer 0\.1.*reimagen index"),
    ],
)
def test_what_this_program_cannot_do_is_refused(change, said):
    with pytest.raises(UserError, match=said):
        Analyser.read(Analyser(stemming="english").fields() | change, "kb")


def test_unknown_settings():
    with pytest.raises(UserError, match=r"no stemming for 'klingon'.*english"):
        Analyser(stemming="klingon")
    with pytest.raises(UserError, match=f"no version {VERSION + 1}"):
        Analyser(version=VERSION + 1)
