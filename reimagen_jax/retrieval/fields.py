"""Fields of records, the caption and the attributes, as queries and as numbers that tell equal values."""

import json
import unicodedata
from collections.abc import Iterable, Sequence

import numpy as np

from reimagen_jax.data.records import ImageText, ImageTexts, Records
from reimagen_jax.errors import UserError
from reimagen_jax.progress import track

CAPTION = "caption"


def queries(records: Records, query_by: Sequence[str]) -> list[str]:
    """Each record's query: the fields named, `caption` or an attribute, one after the other.

    A field named n times weighs n times as much, since BM25 adds the score of a word once for each time it is asked.
    Raises `UserError` naming the first record without such an attribute, and those it has.
    """
    if set(query_by) == {CAPTION}:
        return [" ".join([text] * len(query_by)) for text in records.texts()]

    def query(record: ImageText) -> str:
        fields = {CAPTION: record.text, **record.attributes}
        for name in query_by:
            if name not in fields:
                raise UserError(f"record {record.key} has no attribute {name!r} to be asked by: it has {list(fields)}")
        return " ".join(str(fields[name]) for name in query_by)

    return [query(record) for record in track(records, len(records), "queries", "record")]


def numbered(records: Records, others: ImageTexts, names: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """Numbers for the values of F fields, equal for equal values: int64[F, N] for the records, [F, M] for the others.

    Captions are equal up to case, spaces and Unicode's compatibility forms; of attributes, values as JSON. A record
    without the field, or with an empty value, has -1 there. Raises `UserError` for a field that none of the records or
    none of the others has, naming what they have.
    """
    numbering: list[dict[str, int]] = [{} for _ in names]
    first_FN = _numbered(records, names, numbering)
    if records.fingerprint == others.fingerprint:
        return first_FN, first_FN
    return first_FN, _numbered(others, names, numbering)


def number_all(values: Iterable[str], numbering: dict[str, int]) -> np.ndarray:
    """A number for each value, int64: its own in `numbering`, which grows by the values that are new."""
    return np.array([numbering.setdefault(value, len(numbering)) for value in values], np.int64)


def _numbered(records: ImageTexts, names: Sequence[str], numbering: list[dict[str, int]]) -> np.ndarray:
    number_FN = np.full((len(names), len(records)), -1, np.int64)
    if not names:
        return number_FN
    if set(names) == {CAPTION}:
        number_FN[:] = number_all(map(_plain, records.texts()), numbering[0])
        return number_FN
    for i, record in enumerate(track(records, len(records), "reading fields", "record")):
        for f, name in enumerate(names):
            if value := _value(record, name):
                number_FN[f, i] = numbering[f].setdefault(value, len(numbering[f]))
    for name, number_N in zip(names, number_FN, strict=True):
        if (number_N < 0).all():
            known = [CAPTION, *records[0].attributes]
            raise UserError(f"no record in {records.path} has the attribute {name!r}: the first one has {known}")
    return number_FN


def _value(record: ImageText, name: str) -> str:
    """A field's value as text; empty where there is none."""
    if name == CAPTION:
        return _plain(record.text)
    value = record.attributes.get(name)
    if value is None or value in ("", [], {}):
        return ""
    return value if isinstance(value, str) else json.dumps(value, sort_keys=True)


def _plain(text: str) -> str:
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split())
