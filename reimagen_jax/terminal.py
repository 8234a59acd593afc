r"""Text of others on a terminal: captions, keys, names and error messages may hold what steers it, or fools who reads.

Control characters (C0, DEL, C1) clear screens and set titles, bidirectional overrides turn lines around, and other
format characters are not seen at all: all are shown as escapes (\x1b, \u202e). Letters of every script, combining
marks, and the joiners of emoji and of Persian or Indic words stay as they are. Line breaks and tabs become spaces:
what others wrote never starts a line of ours.
"""

import json
import re
import sys
from typing import Any

_BREAK = re.compile(r"\r\n|[\t\n\r]")
_KEPT = "(?<=[^\x00-\xad\u2000-\u206f\ufeff])[\u200c\u200d]|\U0001f3f4[\U000e0061-\U000e007a]+\U000e007f"
"""Joiners after something that is joined; the flags of England, Scotland and Wales, which are spelt in tags."""
_HIDDEN = (
    "[\x00-\x1f\x7f-\x9f\xad\u061c\u180e\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb\ud800-\udfff"
    "\U0001bca0-\U0001bca3\U0001d173-\U0001d17a\U000e0000-\U000e007f]"
)
"""Unicode's Cc, Cf (but signs around numbers, which are drawn), Zl, Zp, and halves of characters."""
_PARTS = re.compile(f"(?P<kept>{_KEPT})|(?P<hidden>{_HIDDEN})")


def printable(text: object) -> str:
    """The text on one line, with escapes for all that a terminal would act on or not show."""
    return _PARTS.sub(lambda part: part["kept"] or _escape(part["hidden"]), _BREAK.sub(" ", str(text)))


def say(*lines: object, error: bool = False) -> None:
    """Prints one line of `printable` text each, on standard output or standard error."""
    print("\n".join(map(printable, lines)), file=sys.stderr if error else sys.stdout, flush=True)


def json_line(content: Any) -> str:
    """JSON on one line, in letters rather than in ASCII; what `printable` escapes is escaped as JSON does it."""
    written = json.dumps(content, ensure_ascii=False)
    return _PARTS.sub(lambda part: part["kept"] or json.dumps(part["hidden"])[1:-1], written)


def _escape(character: str) -> str:
    code = ord(character)
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"
