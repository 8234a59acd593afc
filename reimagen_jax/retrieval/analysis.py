"""What counts as a word: texts of any script into the terms that an index counts.

    (1) fold: NFKC, case folded (Unicode 3.13, D146), without characters that are invisible or optional (joiners, soft
        hyphens, variation selectors, Arabic and Hebrew vowel points, tatweel); the dot above letters that have one
        (folding leaves İ as i and a dot: İstanbul is istanbul); decimal digits of all scripts as 0-9
    (2) split: maximal runs of letters, digits and their combining marks
    (3) segment: a run in a script that is written without spaces between words (Han, kana, Thai, Lao, Khmer, Burmese,
        ...), or whose words take suffixes (Hangul), becomes its characters c1 c2 c3 and their pairs c1c2 c2c3
    (4) leave out stop words, then stem (Snowball); both only if asked for
Pairs find words without a dictionary, single characters those of length one; a character is a letter with its marks.
Version 2 keeps the dot, version 1 has neither segments nor folding of optional characters; knowledge bases made by them
are still read by them. For ASCII texts the versions agree. Dotless ı is a letter of its own: which I a Turkish capital
stands for, a text does not say. References: Unicode Standard Annexes 15 and 29, Soft_Dotted; Porter (2001), Snowball.
"""

import re
import unicodedata
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from itertools import pairwise
from typing import Any

from reimagen_jax.errors import UserError

VERSION = 3
"""Of new indexes: it grows whenever the terms of any text change."""

_ASCII_WORD = re.compile(r"[0-9a-z]+")
_UNSPACED = (
    "\u0e00-\u0eff\u1000-\u109f\ua9e0-\ua9ff\uaa60-\uaa7f\u1780-\u17ff"  # Thai, Lao, Burmese, Khmer
    "\u1950-\u19df\u1a20-\u1aaf\uaa80-\uaadf\ua980-\ua9df\u1b00-\u1b7f"  # Tai scripts, Javanese, Balinese
    "\u3005-\u3007\u3031-\u3035\u3040-\u30ff\u31f0-\u31ff\u3105-\u312f\ua000-\ua48f"  # kana, Bopomofo, Yi
    "\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"  # Han
    "\uac00-\ud7a3"  # Hangul syllables
)
_PARTS = re.compile(f"[{_UNSPACED}]+|[^{_UNSPACED}]+")
_HAS_UNSPACED = re.compile(f"[{_UNSPACED}]")

_INVISIBLE = re.compile(
    "[\u00ad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200d-\u200f\u202a-\u202e\u2060-\u206f\u3164"
    "\ufe00-\ufe0f\ufeff\uffa0\U000e0000-\U000e0fff"  # Default_Ignorable_Code_Point, but the non-joiner: it parts words
    "\u20dd-\u20e4"  # keycaps and other enclosing marks
    "\u0640\u0610-\u061a\u064b-\u0652\u0656-\u065f\u0670\u06d6-\u06dc\u06df-\u06e4\u06e7\u06e8\u06ea-\u06ed"  # Arabic
    "\u0591-\u05bd\u05bf\u05c1\u05c2\u05c4\u05c5\u05c7]"  # Hebrew
)

_DOT, _ABOVE = "\u0307", 230
"""The dot above, and the combining class of what stands above a letter."""
_SOFT_DOTTED = frozenset("ij\u0249\u0268\u029d\u03f3\u0456\u0458\u1d96")
"""Decomposed lower-case letters with a dot that a mark above takes the place of (Unicode's Soft_Dotted)."""

# fmt: off
ENGLISH_STOP_WORDS = (
    "a", "about", "after", "all", "also", "am", "an", "and", "any", "are", "as", "at", "be", "been", "being", "but",
    "by", "can", "did", "do", "does", "for", "from", "had", "has", "have", "he", "her", "here", "his", "how", "i",
    "if", "in", "into", "is", "it", "its", "just", "me", "my", "no", "nor", "not", "of", "on", "or", "our", "out",
    "s", "she", "so", "some", "such", "t", "than", "that", "the", "their", "them", "then", "there", "these", "they",
    "this", "those", "through", "to", "too", "up", "very", "was", "we", "were", "what", "when", "where", "which",
    "while", "who", "will", "with", "would", "you", "your",
)
# fmt: on
"""Articles, pronouns, prepositions, conjunctions, auxiliary verbs."""


def words(text: str) -> list[str]:
    """The words of a text in order, by (1), (2) and (3)."""
    if text.isascii():
        return _ASCII_WORD.findall(text.lower())
    return [term for run in _runs(_fold(text)) for term in _segments(run)]


def words_2(text: str) -> list[str]:
    """What version 2 made of a text: İ differs from i."""
    if text.isascii():
        return _ASCII_WORD.findall(text.lower())
    return [term for run in _runs(_fold(text, undotted=False)) for term in _segments(run)]


def words_1(text: str) -> list[str]:
    """What version 1 made of a text: runs of letters, digits and marks, case folded."""
    if text.isascii():
        return _ASCII_WORD.findall(text.lower())
    return _runs(unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).casefold()))


_WORDS: dict[int, Callable[[str], list[str]]] = {1: words_1, 2: words_2, 3: words}


@dataclass(frozen=True)
class Analyser:
    """Text -> terms, with all settings that decide them.

    Raises `UserError` on a version or a stemming that this program does not have.
    """

    version: int = VERSION
    """Of the rules for words."""
    stemming: str | None = None
    """A language: its words are reduced to their stems by the Snowball algorithm; None leaves them as they are."""
    stop_words: tuple[str, ...] = ()
    """Words left out, of texts and of queries."""
    stemmer: str | None = field(default=None, compare=False)
    """The library that stems, with its version; filled in."""

    def __post_init__(self) -> None:
        if self.version not in _WORDS:
            raise UserError(f"there is no version {self.version} of the analyser: this program has 1 to {VERSION}")
        if self.stemming is not None:
            if self.stemming not in (known := stemming_languages()):
                raise UserError(f"there is no stemming for {self.stemming!r}, but for {', '.join(known)}")
            object.__setattr__(self, "stemmer", _stemmer_version())

    def __call__(self, text: str) -> list[str]:
        """The terms of a text, in order; none where it has no words."""
        terms = _WORDS[self.version](text)
        if self.stop_words:
            terms = [term for term in terms if term not in self._left_out]
        return terms if self.stemming is None else [self._stem(term) for term in terms]

    @classmethod
    def read(cls, fields: dict[str, Any] | None, where: str) -> "Analyser":
        """The analyser of an index from its manifest's fields (None: an index from before there was a choice).

        Raises `UserError`, naming the index `where`, when this program cannot analyse queries in the same way.
        """
        if fields is None:
            return cls(version=1)
        remedy = "run `reimagen index` again"
        version, stemmer = fields.get("version"), fields.get("stemmer")
        if version not in _WORDS:
            raise UserError(
                f"{where} was made by version {version} of the analyser, this program has 1 to {VERSION}: {remedy}"
            )
        if stemmer is not None and stemmer != _stemmer_version():
            raise UserError(f"{where} was stemmed by {stemmer}, here is {_stemmer_version()}: {remedy}")
        return cls(version, fields["stemming"], tuple(fields["stop_words"]))

    def fields(self) -> dict[str, Any]:
        """For a manifest. The version of Unicode is for information: it decides only characters that were new in it."""
        return {
            "version": self.version,
            "stemming": self.stemming,
            "stemmer": self.stemmer,
            "stop_words": list(self.stop_words),
            "unicode": unicodedata.unidata_version,
        }

    def describe(self) -> str:
        """In a few words, for people."""
        stemming = f"stemmed ({self.stemming})" if self.stemming else "not stemmed"
        return f"version {self.version}, {stemming}, {len(self.stop_words)} stop words"

    @cached_property
    def _left_out(self) -> frozenset[str]:
        return frozenset(term for word in self.stop_words for term in _WORDS[self.version](word))

    @cached_property
    def _stem(self) -> Callable[[str], str]:
        import snowballstemmer

        stem, known = snowballstemmer.stemmer(self.stemming).stemWord, {}

        def remembered(word: str) -> str:
            if word not in known:
                known[word] = stem(word)
            return known[word]

        return remembered


DEFAULT = Analyser()


def stemming_languages() -> list[str]:
    """What `Analyser.stemming` can be."""
    import snowballstemmer

    return sorted(snowballstemmer.algorithms())


def _stemmer_version() -> str:
    from importlib.metadata import version

    return f"snowballstemmer {version('snowballstemmer')}"


def _fold(text: str, undotted: bool = True) -> str:
    """(1)"""
    text = _INVISIBLE.sub("", unicodedata.normalize("NFKC", text))
    text = unicodedata.normalize("NFKC", text.casefold())
    if undotted and _DOT in text:  # NFKC has no letter for i, j and their kin with another dot
        text = _undotted(text)
    return "".join(str(unicodedata.decimal(c)) if c.isdecimal() else c for c in text)


def _undotted(text: str) -> str:
    """Without the dots above that soft-dotted letters have anyway, also where marks beside or below come between."""
    kept, soft = [], False
    for c in unicodedata.normalize("NFD", text):
        if c == _DOT and soft:
            continue
        combining = unicodedata.combining(c)
        soft = c in _SOFT_DOTTED if combining == 0 else soft and combining != _ABOVE
        kept.append(c)
    return unicodedata.normalize("NFKC", "".join(kept))


def _runs(text: str) -> list[str]:
    """(2)"""
    runs = "".join(c if c.isalnum() or _is_mark(c) else " " for c in text).split()
    return [run for run in runs if any(c.isalnum() for c in run)]  # marks alone are no word (emoji have some)


def _segments(run: str) -> list[str]:
    """(3)"""
    if not _HAS_UNSPACED.search(run):
        return [run]
    terms = []
    for part in _PARTS.findall(run):
        if _HAS_UNSPACED.match(part):
            characters = _characters(part)
            terms += characters
            terms += [first + second for first, second in pairwise(characters)]
        elif any(c.isalnum() for c in part):
            terms.append(part)
    return terms


def _characters(part: str) -> list[str]:
    """Letters, each with the marks that follow it; marks without a letter are left out."""
    characters: list[str] = []
    for c in part:
        if not _is_mark(c):
            characters.append(c)
        elif characters:
            characters[-1] += c
    return characters


def _is_mark(c: str) -> bool:
    return unicodedata.category(c)[0] == "M"
