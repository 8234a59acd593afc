"""Attributes as inverted lists: which records have FIELD=VALUE, without reading the records again.

A record's terms are all that `data.sources.Where` could ask of it: the name and the value of each field, of the fields
of nested objects (with a dot between the names), and of each element of a list.
"""

import difflib
import json
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np

from reimagen_jax.data.sources import Where
from reimagen_jax.errors import UserError
from reimagen_jax.retrieval import postings
from reimagen_jax.retrieval.postings import Postings

PREFIX = "attributes"
_EQUALS = "\0"
"""Between name and value."""


def terms(attributes: Mapping[str, Any], before: str = "") -> Iterator[str]:
    """What a record's attributes are found by."""
    for name, value in attributes.items():
        for item in value if isinstance(value, list) else [value]:
            yield f"{before}{name}{_EQUALS}{item if isinstance(item, str) else json.dumps(item)}"
        if isinstance(value, Mapping):
            yield from terms(value, f"{before}{name}.")


def invert(attributes: Iterable[Mapping[str, Any]]) -> Postings:
    """The lists of the attributes of records."""
    return postings.invert(map(terms, attributes))


def allowed(lists: Postings, where: Where) -> np.ndarray:
    """The records that satisfy all conditions: bool[N].

    Raises `UserError` for a field that no record has, and for a value that none has, naming those there are.
    """
    mask = np.ones(lists.num_documents, bool)
    for name, values in where.allowed.items():
        mask &= having(lists, name, values, "--where")
    return mask


def refused(lists: Postings, where_not: Where) -> np.ndarray:
    """The records that satisfy any of the conditions: bool[N]. Raises `UserError` as `allowed` does."""
    mask = np.zeros(lists.num_documents, bool)
    for name, values in where_not.allowed.items():
        mask |= having(lists, name, values, "--where-not")
    return mask


def having(lists: Postings, name: str, values: Iterable[str], option: str = "") -> np.ndarray:
    """The records with one of the values of a field: bool[N]. Raises `UserError`, naming the option, where none has."""
    mask = np.zeros(lists.num_documents, bool)
    for value in values:
        mask[lists.of_term(f"{name}{_EQUALS}{value}")] = True
    if option and not mask.any():
        raise UserError(_why_none(lists, name, min(values), option))
    return mask


def fields(lists: Postings) -> dict[str, dict[str, int]]:
    """Each field's values with how many records have them, most frequent first."""
    found: dict[str, dict[str, int]] = {}
    for term, count in zip(lists.terms, lists.document_frequencies.tolist(), strict=True):
        name, _, value = term.partition(_EQUALS)
        found.setdefault(name, {})[value] = count
    return {name: dict(sorted(values.items(), key=lambda item: (-item[1], item[0]))) for name, values in found.items()}


def _why_none(lists: Postings, name: str, value: str, option: str) -> str:
    known = fields(lists)
    if name not in known:
        return f"{option} {name}=...: no record has the field {name}, but {', '.join(known) or 'none'}"
    near = difflib.get_close_matches(value, known[name], n=5) or [each for each in known[name] if each][:10]
    return f"{option} {name}={value}: no record has it; {name} is, for example, {', '.join(near) or 'empty'}"
