"""A filter on attributes: FIELD=VALUE, as typed on the command line."""

import json
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from reimagen_jax.errors import UserError

_KNOWN_VALUES = 1000
"""Most different values of a field that are remembered for an error message."""


@dataclass(frozen=True)
class Where:
    """A filter on attributes: for each field one of the values given for it; a dot reaches into nested objects."""

    allowed: Mapping[str, frozenset[str]] = field(default_factory=dict)
    option: str = field(default="--where", compare=False)
    """As it was typed."""

    @classmethod
    def parse(cls, conditions: Iterable[str], option: str = "--where") -> "Where":
        """Reads conditions of the form FIELD=VALUE. Raises `UserError`, naming the option, on any other."""
        allowed: dict[str, set[str]] = {}
        for condition in conditions:
            name, equals, value = condition.partition("=")
            if not (name and equals):
                raise UserError(f"{option} {condition!r} is not FIELD=VALUE, such as role=train")
            allowed.setdefault(name, set()).add(value)
        return cls({name: frozenset(values) for name, values in allowed.items()}, option)

    def __call__(self, attributes: Mapping[str, Any]) -> bool:
        """True where every condition holds; a list satisfies it with any of its elements."""
        return all(values & spellings(attributes, name) for name, values in self.allowed.items())

    def refuses(self, attributes: Mapping[str, Any]) -> bool:
        """True where any condition holds: the filter as a negation."""
        return any(values & spellings(attributes, name) for name, values in self.allowed.items())


EVERYTHING = Where()


def lookup(fields: Mapping[str, Any], name: str, default: Any = None) -> Any:
    """The value of a field, where a dot reaches into nested objects; `default` when it is absent."""
    if name in fields:
        return fields[name]
    head, dot, rest = name.partition(".")
    inner = fields.get(head)
    return lookup(inner, rest, default) if dot and isinstance(inner, Mapping) else default


def told(fields: Mapping[str, Any], name: str) -> str:
    """The value of a field as a text, equal for equal values; empty where there is none."""
    value = lookup(fields, name)
    if value is None or value in ("", [], {}):
        return ""
    return value if isinstance(value, str) else json.dumps(value, sort_keys=True)


def spellings(fields: Mapping[str, Any], name: str) -> set[str]:
    """The values of a field as the user would type them; none when it is absent."""
    value = lookup(fields, name, default=[])
    values = value if isinstance(value, list) else [value]
    return {item if isinstance(item, str) else json.dumps(item) for item in values}


class Census:
    """What a filter has passed over: the fields there are, and the values of those it asks for."""

    def __init__(self, where: Where):
        self._where = where
        self._fields: set[str] = set()
        self._values: dict[str, Counter[str]] = {name: Counter() for name in where.allowed}

    def add(self, attributes: Mapping[str, Any]) -> None:
        """Notes the attributes of one item; a source has few fields, but may have any number of values."""
        if len(self._fields) < _KNOWN_VALUES:
            self._fields.update(attributes)
        for name, counts in self._values.items():
            counts.update(v for v in spellings(attributes, name) if len(counts) < _KNOWN_VALUES or v in counts)

    def __bool__(self) -> bool:
        """True once an item was noted that a filter passed over."""
        return bool(self._values) and bool(self._fields)

    def explain(self, source: str) -> str:
        """Says which condition fits nothing in `source`, and what there is instead."""
        several = f"nothing in {source} satisfies all of the {self._where.option} conditions at once"
        return self.unknown(source) or several

    def unknown(self, source: str) -> str:
        """The same of the first condition that fits nothing by itself; empty where each fits something."""
        option = self._where.option
        for name, allowed in self._where.allowed.items():
            counts = self._values[name]
            if not counts:
                fields = ", ".join(sorted(self._fields)) or "none"
                return f"{option} {name}=...: nothing in {source} has the field {name}, but {fields}"
            if not counts.keys() & allowed:
                known = ", ".join(value for value, _ in counts.most_common(10))
                return f"{option} {name}={min(allowed)}: in {source}, {name} is one of {known}"
        return ""
