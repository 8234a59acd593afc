"""Types and ranges of what people write, declared at the fields and checked by one rule (pydantic's).

    @dataclass(frozen=True)
    class TrainConfig(Checked):
        section: ClassVar[str] = "train."
        learning_rate: NonNegative = 1e-3

is checked however it comes to be: in Python, from the command line, or from JSON (`parse`). An infinity and a NaN are
no number anywhere. What depends on several fields stays with the class, in its `__post_init__`.
"""

import dataclasses
import functools
import json
import os
import re
from collections.abc import Iterator
from typing import Annotated, Any, ClassVar, get_type_hints

import numpy as np
from annotated_types import Ge, Gt, Le, Lt
from pydantic import ConfigDict, FiniteFloat, PydanticUserError, TypeAdapter, ValidationError

from reimagen_jax.errors import UserError
from reimagen_jax.files import read_json

Count = Annotated[int, Ge(1), Lt(2**63)]
"""1, 2, 3, ...: as many as there can be of anything."""
Natural = Annotated[int, Ge(0), Lt(2**63)]
"""0, 1, 2, ..."""
Steps = Annotated[int, Ge(1), Lt(2**31)]
"""Of a training; they are counted in 32 bits."""
Seed = Annotated[int, Ge(0), Lt(2**32)]
"""Of random numbers; JAX keeps 32 bits of it."""
_LARGEST = 3.4e38
Number = Annotated[FiniteFloat, Ge(-_LARGEST), Le(_LARGEST)]
"""What float32 holds: that is what a number becomes before anything is computed with it."""
Positive = Annotated[Number, Gt(0)]
NonNegative = Annotated[Number, Ge(0)]
LATER = {"later": True}
"""Marks a setting that came after weights had been stored without it: as by default, it is no part of what a network is
called (`identity`), so that they are still opened. Leave it out of the `repr`, too: published encoders go by theirs."""
Share = Annotated[FiniteFloat, Ge(0), Le(1)]
"""A probability, or a part of a whole."""
Strength = Annotated[FiniteFloat, Gt(0), Le(1)]
"""A part of a whole that is not nothing."""

_NEEDED = {
    "greater_than": "more than {gt} is needed",
    "greater_than_equal": "at least {ge} is needed",
    "less_than": "less than {lt} is needed",
    "less_than_equal": "at most {le} is needed",
    "finite_number": "a finite number is needed",
    "int_type": "a whole number is needed",
    "int_from_float": "a whole number is needed",
    "float_type": "a number is needed",
    "string_type": "a text is needed",
    "bool_type": "true or false is needed",
    "tuple_type": "a tuple is needed",
    "list_type": "a list is needed",
    "literal_error": "{expected} is needed",
    "dataclass_type": "its settings are needed, by their names",
}
"""pydantic's types of errors, as this program says them."""


_CONFIG = ConfigDict(extra="forbid", allow_inf_nan=False, arbitrary_types_allowed=True)


class Known:
    """What is read from JSON: a field that is not known here is refused."""

    __pydantic_config__ = ConfigDict(extra="forbid")


class Checked:
    """A dataclass whose fields are checked at construction. Raises `UserError` naming the field and what it needs."""

    __pydantic_config__ = _CONFIG
    section: ClassVar[str] = ""
    """What stands before the fields' names where people write them."""

    def __post_init__(self) -> None:
        for item in dataclasses.fields(self):
            value = getattr(self, item.name)
            if (plain := self.checked(item.name, value)) is not value:
                object.__setattr__(self, item.name, plain)

    @classmethod
    def checked(cls, name: str, value: Any, place: str = "") -> Any:
        """A value that the field could have, at `place` (by default the field); a number of numpy's as Python's own."""
        return checked(value, _hints(cls)[name], place or cls.section + cls.spelt(name))

    @classmethod
    def spelt(cls, name: str) -> str:
        """A field's name as people write it."""
        return name


class Options(Checked):
    """The options of a command."""

    section: ClassVar[str] = "--"

    @classmethod
    def spelt(cls, name: str) -> str:
        return name.replace("_", "-")


def checked(value: Any, kind: Any, name: str) -> Any:
    """A value of the type `kind`; a number of numpy's as Python's own.

    Raises `UserError` with its name, and what it needs.
    """
    if isinstance(value, np.generic):
        value = value.item()
    try:
        _adapter(kind).validate_python(value, strict=True)
    except ValidationError as error:
        raise UserError(_said(error, name)) from None
    if (computed := _in_float32(value)) != value:  # 0.99999999 is less than 1, and what is computed with it is 1
        try:
            _adapter(kind).validate_python(computed, strict=True)
        except ValidationError as error:
            raise UserError(f"{_said(error, name)}, and {value!r} becomes that in float32") from None
    return value


def _in_float32(value: Any) -> Any:
    """A number, or the numbers of a tuple, as they are computed with: what is below float32's smallest becomes 0."""
    if isinstance(value, tuple):
        return tuple(map(_in_float32, value))
    if not isinstance(value, float):
        return value
    with np.errstate(over="ignore"):
        return float(np.float32(value)) if abs(value) >= np.finfo(np.float32).tiny else 0.0


def parse(kind: Any, value: Any, where: str) -> Any:
    """JSON types as a value of the type `kind`, dataclasses all the way down.

    Raises `UserError`, beginning with `where` and the field, on an unknown field, a wrong type, a value out of range.
    """
    try:
        return _adapter(kind).validate_json(json.dumps(value), strict=True)
    except ValidationError as error:
        raise UserError(_said(error, where)) from None
    except UserError as error:
        raise UserError(f"{where}: {error}") from None


def read(path: str | os.PathLike[str], kind: Any, what: str) -> Any:
    """A JSON file as a value of the type `kind`. Raises `UserError`, naming file and field, as `parse` does."""
    return parse(kind, read_json(path, what), str(path))


def read_lines(path: str | os.PathLike[str], kind: Any, what: str) -> Iterator[Any]:
    """The lines of a JSON-lines file as values of the type `kind`, one by one.

    Raises `UserError`, naming file, line and field, as `parse` does.
    """
    try:
        with open(path, encoding="utf-8") as file:
            for number, line in enumerate(file, 1):
                try:
                    value = json.loads(line)
                except (ValueError, RecursionError) as error:
                    raise UserError(f"{path}, line {number} cannot be read as {what}: {error}") from error
                yield parse(kind, value, f"{path}, line {number}")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path} cannot be read as {what}: {error}") from error


def identity(settings: Any) -> dict[str, Any]:
    """What the settings are, in JSON's types, to tell networks apart by: `dataclasses.asdict` without `LATER` ones."""
    told = {}
    for item in dataclasses.fields(settings):
        value = getattr(settings, item.name)
        if item.metadata.get("later") and value == item.default:
            continue
        told[item.name] = identity(value) if dataclasses.is_dataclass(value) else value
    return told


@functools.cache
def _hints(kind: type) -> dict[str, Any]:
    hints = get_type_hints(kind, include_extras=True)
    return {item.name: hints[item.name] for item in dataclasses.fields(kind)}


@functools.cache
def _adapter(kind: Any) -> TypeAdapter:
    try:
        return TypeAdapter(kind, config=_CONFIG)
    except PydanticUserError:  # a dataclass brings a configuration of its own
        return TypeAdapter(kind)


def _said(error: ValidationError, where: str) -> str:
    """The first error, on one line."""
    first = _nearest(error.errors(include_url=False))
    typed = where.startswith("--")  # an option, and its value behind it, as on the command line
    parts = [] if typed else [part for part in first["loc"] if not _of_union(part)]
    place = where + "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in parts)
    if first["type"] == "missing":
        return f"{place} is missing"
    if first["type"] == "unexpected_keyword_argument":
        return f"{place} is no setting that this version knows"
    need = _NEEDED[first["type"]].format(**first.get("ctx", {})) if first["type"] in _NEEDED else first["msg"]
    return f"{place}{'' if typed else ' is'} {_short(first['input'])}: {need}"


def _nearest(errors: list[Any]) -> Any:
    """The first, or, where a value is none of several types, of the type that it comes nearest to."""
    first = errors[0]
    place = next((i for i, part in enumerate(first["loc"]) if _of_union(part)), None)
    if place is None:
        return first
    return max(
        (each for each in errors if each["loc"][:place] == first["loc"][:place]), key=lambda each: len(each["loc"])
    )


def _of_union(part: Any) -> bool:
    """Whether a part of a place is pydantic's name of one of a union's types, not a field's, key's or number."""
    return isinstance(part, str) and re.match(r"constrained-|tuple\[", part) is not None


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
