r"""Captions cleaned as those that DeepFloyd IF was trained on: of markup, addresses, file names, codes and advertising.

Twice over, since what one pass takes away may leave what the next one takes. A pass is a row of rules, in this order:

  ADDRESSES    percent and plus signs of URLs undone, lower case; then web addresses
  (markup)     the text of HTML, by Beautiful Soup
  SIGNS        nicknames, Chinese characters, dashes and quotation marks in one form, numbers that are codes, file names
  (hyphens)    four or more hyphens and underscores are a name of parts: spaces
  (encoding)   text that was decoded wrongly is mended, by ftfy, and entities are resolved twice
  WORDS        article codes, advertising, sizes; spaces; quotation marks around all

The rules are regular expressions of what goes, each with what comes in its place. They are those of diffusers'
IFPipeline; the code of IF itself also strips a text where its encoding is mended. Both libraries are the extra "clean".
"""

import contextlib
import html
import re
import urllib.parse
import warnings
from functools import lru_cache

from reimagen_jax.errors import UserError

Rules = tuple[tuple[re.Pattern[str], str], ...]

_DOMAIN = r"[a-zA-Z0-9.\-]+[.](?:com|co|ru|net|org|edu|gov|it)[\w/-]*\b/?(?!@)"
_FILES = "(?:png|jpg|jpeg|bmp|webp|eps|pdf|apk|mp4)"
_DASHES = (
    r"\u002d\u058a\u05be\u1400\u1806\u2010-\u2015\u2e17\u2e1a\u2e3a\u2e3b\u2e40\u301c\u3030\u30a0\ufe31\ufe32\ufe58\ufe63"
    r"\uff0d"
)


def _rules(*rules: tuple[str, str]) -> Rules:
    return tuple((re.compile(pattern), place) for pattern, place in rules)


ADDRESSES = _rules(
    ("<person>", "person"),
    *((rf"\b(?:{scheme}:(?:/{{1,3}}|[a-zA-Z0-9%])|{_DOMAIN})", "") for scheme in ("https?", "www")),
)
SIGNS = _rules(
    (r"@\w+\b", ""),
    (r"[\u31c0-\u9fff]+", ""),  # strokes, katakana's extensions, enclosed and compatible letters, ideographs, hexagrams
    (rf"[{_DASHES}]+", "-"),
    ("[`´«»“”¨]", '"'),
    ("[‘’]", "'"),
    ("&quot;?", ""),
    ("&amp", ""),
    (r"\d{1,3}\.\d{1,3}\.\d{1,3}\.\d{1,3}", " "),  # an IP address
    (r"\d:\d\d\s+$", ""),
    (r"\\n", " "),  # written out
    (r"#\d{1,3}\b", ""),
    (r"#\d{5,}\b", ""),
    (r"\b\d{6,}\b", ""),
    (rf"\S+\.{_FILES}", ""),
    (r"[\"']{2,}", '"'),
    (r"\.{2,}", " "),
    (r"[#®•©™&@·º½¾¿¡§~()\[\]{}|\\/*]+", " "),
    (r"\s+\.\s+", " "),
)
HYPHENS = re.compile("[-_]")
MOST_HYPHENS = 3
WORDS = _rules(
    (r"\b[a-zA-Z]{1,3}\d{3,15}\b", ""),  # jc6640
    (r"\b[a-zA-Z]+\d+[a-zA-Z]+\b", ""),  # jc6640vc
    (r"\b\d+[a-zA-Z]+\d+\b", ""),  # 6640vc231
    (r"(worldwide\s+)?(free\s+)?shipping", ""),
    (r"(free\s)?download(\sfree)?", ""),
    (r"\bclick\b\s(?:for|on)\s\w+", ""),
    (rf"\b{_FILES}(\simages?)?", ""),
    (r"\bpage\s+\d+\b", ""),
    (r"\b\d*[a-zA-Z]+\d+[a-zA-Z]+\d+[a-zA-Z\d]*\b", " "),  # j2d1a2a
    (r"\b\d+\.?\d*[xх×]\d+\.?\d*\b", ""),  # 30x40, with a Latin or Cyrillic x
    (r"\b\s+:\s+", ": "),
    (r"(\D[,./])\b", r"\1 "),
    (r"\s+", " "),
    (r"^[\"']([\w\W]+)[\"']$", r"\1"),
    (r"^['_,\-:;]", ""),
    (r"['_,\-:+]$", ""),
    (r"^\.\S+$", ""),
)


@lru_cache(maxsize=2**16)  # a training reads its captions again and again
def cleaned(text: str) -> str:
    """The text as DeepFloyd IF reads it. Raises `UserError` where the libraries for it are missing."""
    return _pass(_pass(text))


def _pass(text: str) -> str:
    ftfy, bs4 = _libraries()
    text = _applied(ADDRESSES, urllib.parse.unquote_plus(text).strip().lower())
    with contextlib.suppress(bs4.exceptions.ParserRejectedMarkup):  # which is no markup then, such as "<!["
        text = bs4.BeautifulSoup(text, features="html.parser").text
    text = _applied(SIGNS, text)
    if len(HYPHENS.findall(text)) > MOST_HYPHENS:
        text = HYPHENS.sub(" ", text)
    return _applied(WORDS, html.unescape(html.unescape(ftfy.fix_text(text)))).strip()


def _applied(rules: Rules, text: str) -> str:
    for pattern, place in rules:
        text = pattern.sub(place, text)
    return text


@lru_cache(maxsize=1)
def _libraries():
    try:
        import bs4
        import ftfy
    except ImportError as error:
        wanted = "text.frozen.cleaning 'deepfloyd' needs ftfy and beautifulsoup4"
        raise UserError(f"{wanted}: pip install 'reimagen_jax[clean]'") from error
    warnings.filterwarnings("ignore", category=bs4.MarkupResemblesLocatorWarning)  # captions may look like file names
    return ftfy, bs4
