"""Fields of records, the caption and the attributes, as queries and as numbers that tell equal values."""

import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from reimagen_jax.data.records import ImageText, ImageTexts, Records
from reimagen_jax.data.sources.where import told
from reimagen_jax.errors import UserError
from reimagen_jax.progress import track
from reimagen_jax.retrieval.asking import CAPTION, Asking, Question, among, question_of


def questions(records: Records, how: Asking) -> list[Question]:
    """What each record asks. Raises `UserError` naming the first one without an attribute that it is to be asked by."""
    if set(how.query_by) == {CAPTION} and not how.match:
        return [question_of(how, text, {}, key) for text, key in zip(records.texts(), records.keys(), strict=True)]

    def question(record: ImageText) -> Question:
        return question_of(how, record.text, record.attributes, record.key)

    return [question(record) for record in track(records, len(records), "queries", "record")]


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
            if value := value_of(record.text, record.attributes, name):
                number_FN[f, i] = numbering[f].setdefault(value, len(numbering[f]))
    for name, number_N in zip(names, number_FN, strict=True):
        if (number_N < 0).all():
            known = among((CAPTION, *records[0].attributes), name)
            raise UserError(f"no record in {records.path} has the attribute {name!r}: the first one has {known}")
    return number_FN


def value_of(text: str, attributes: Mapping[str, Any], name: str) -> str:
    """The value of a field, of the caption `text` or of the attributes, as what is equal to it; empty where there is
    none."""
    if name == CAPTION:
        return _plain(text)
    return told(attributes, name)


def _plain(text: str) -> str:
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split())
