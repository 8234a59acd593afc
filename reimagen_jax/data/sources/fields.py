"""From what a source tells of a picture to its captions and its attributes (JSON types).

A source's fields come from strangers: whatever is not text, not finite or not Unicode is dropped or refused here.
"""

import datetime
import decimal
import json
import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from reimagen_jax.data.sources.where import lookup
from reimagen_jax.errors import UserError

TEXT_FIELDS = ("text", "caption", "captions")
"""Where captions are looked for, best first, unless a field is named."""
MAX_DEPTH = 64
"""Most lists and objects inside one another: every reader of the records, in any language, can follow so many."""
_PLACE = re.compile(r"\{([^{}]+)\}")


@dataclass(frozen=True)
class Captions:
    """How a picture's captions are found. Raises `UserError` on settings that can find none.

    Without `field`, the first of `TEXT_FIELDS` that there is. A field may hold one text, a list of texts, or objects
    with one of `TEXT_FIELDS` in them; a dot reaches into nested objects. A template is filled with the values of its
    fields: "a photo of a {label}".
    """

    field: str | None = None
    """A field's name, or a template with {FIELD} in it."""
    most: int | None = None
    """Captions to keep of each picture, the first ones; all when `None`."""

    def __post_init__(self) -> None:
        if self.most is not None and self.most < 1:
            raise UserError(f"--max-captions {self.most}: keep at least one caption of each picture")
        if self.field is not None and not self.field.strip():
            raise UserError("--caption is empty: name a field, or a template such as 'a photo of a {label}'")

    @property
    def places(self) -> list[str]:
        """The fields that the template names; none where there is no template."""
        return _PLACE.findall(self.field) if self.field else []

    @property
    def sources(self) -> list[str]:
        """The fields that captions may come from."""
        return self.places or ([self.field] if self.field else list(TEXT_FIELDS))

    @property
    def settings(self) -> dict[str, Any]:
        """What was asked for, for manifests."""
        return {"caption": self.field, "max_captions": self.most}

    def split(self, fields: Mapping[str, Any]) -> tuple[tuple[str, ...], dict[str, Any]]:
        """Parts a picture's fields into its captions (none where it has none) and the rest, its attributes."""
        if self.places:
            return self._cut([self._filled(fields)]), dict(fields)
        used = [self.field] if self.field else [name for name in TEXT_FIELDS if name in fields]
        texts = texts_in(lookup(fields, used[0])) if used else []
        return self._cut(texts), {name: value for name, value in fields.items() if name not in used}

    def why_none(self, fields: Mapping[str, Any], where: str) -> str:
        """Says what was missing where `split` found no caption."""
        absent = [name for name in self.places if not texts_in(lookup(fields, name), numbers=True)]
        if absent:
            return f"{where} has nothing in its field {absent[0]}, which the template of --caption wants"
        named = self.field or "text or caption"
        return f"{where} has no text in its field {named}"

    def _filled(self, fields: Mapping[str, Any]) -> str:
        values = {name: texts_in(lookup(fields, name), numbers=True) for name in self.places}
        if not all(values.values()):
            return ""
        return _PLACE.sub(lambda place: ", ".join(values[place[1]]), self.field or "")

    def _cut(self, texts: Iterable[str]) -> tuple[str, ...]:
        """Captions without surrounding space, without the empty ones and without repetitions."""
        return tuple(dict.fromkeys(text for t in texts if (text := t.strip())))[: self.most]


def texts_in(value: Any, numbers: bool = False) -> list[str]:
    """The texts that a field's value holds: itself, its elements, or what its objects have in one of `TEXT_FIELDS`."""
    if isinstance(value, str):
        return [value]
    if isinstance(value, list):
        return [text for item in value if not isinstance(item, list) for text in texts_in(item, numbers)]
    if isinstance(value, Mapping):
        inner = next((value[name] for name in TEXT_FIELDS if name in value), None)
        return texts_in(inner, numbers) if not isinstance(inner, Mapping) else []
    if numbers and isinstance(value, int | float) and not isinstance(value, bool):
        return [str(value)]
    return []


def jsonable(value: Any, depth: int = 0) -> Any:
    """The nearest JSON value: dates as text, what is not finite as null.

    Raises `TypeError` where there is none, `ValueError` for what is nested too deeply.
    """
    if depth > MAX_DEPTH:
        raise ValueError("nested too deeply")
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(name): jsonable(item, depth + 1) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [jsonable(item, depth + 1) for item in value]
    if isinstance(value, datetime.date | datetime.time):
        return value.isoformat()
    if isinstance(value, decimal.Decimal | datetime.timedelta):
        return str(value)
    if isinstance(value, np.generic | np.ndarray):
        return jsonable(value.tolist())
    raise TypeError(f"{type(value).__name__} is not JSON")


def attributes_of(fields: Mapping[str, Any]) -> dict[str, Any]:
    """The fields that JSON can hold; others, such as further pictures, are left out."""
    kept = {}
    for name, value in fields.items():
        try:
            kept[name] = jsonable(value)
        except TypeError:
            continue
    return kept


def is_unicode(*values: Any) -> bool:
    """False where a text holds code points that no text may hold, which JSON's escapes can spell."""
    try:
        json.dumps(values, ensure_ascii=False).encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def parse_object(data: bytes, *, lenient: bool = False) -> dict[str, Any]:
    """Reads a JSON object. Where `lenient`, NaN and infinities, which JSON has not, become null.

    Raises `ValueError` that says what is wrong; 1e999 and a field with two values are wrong too.
    """
    try:
        fields = json.loads(data.decode("utf-8-sig"), object_pairs_hook=_object)
        if not isinstance(fields, dict):
            raise ValueError("not an object of fields and values")
        finite = attributes_of(fields)
        if not lenient:
            json.dumps(fields, allow_nan=False)
    except RecursionError:
        raise ValueError("nested too deeply") from None
    if not is_unicode(finite):
        raise ValueError("half of a UTF-16 surrogate pair")
    return finite


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    fields = dict(pairs)
    if len(fields) < len(pairs):
        for name, value in pairs:
            if value != fields[name]:
                raise ValueError(f"the field {name!r} is there twice")
    return fields
