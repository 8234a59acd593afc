"""What the options of all commands stand on: paths in buckets, options in messages, the line that a command is."""

import dataclasses
import re
import shlex
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path, PurePath
from typing import Any

from tyro.constructors import PrimitiveConstructorSpec

from reimagen_jax.errors import UserError
from reimagen_jax.stores import place

PLACE = PrimitiveConstructorSpec(
    nargs=1,
    metavar="PATH",
    instance_from_str=lambda words: place(words[0]),
    is_instance=lambda value: isinstance(value, PurePath),
    str_from_instance=lambda value: [str(value)],
)
"""Of an option whose path may be in a bucket as well; all others are of this machine (see `usage`)."""


@contextmanager
def as_typed(options: Mapping[str, str]) -> Iterator[None]:
    """What is wrong with settings is said of the options that they were given by: {"sampler.num_steps": "--steps"}."""
    try:
        yield
    except UserError as error:
        said = str(error)
        for name, option in options.items():
            said = re.sub(rf"(?<![\w-]){re.escape(name)}(?: is)?\b", lambda _, option=option: option, said)
        raise UserError(said) from error


def command_line(name: str, command: Any) -> str:
    """The command line that a (resolved) command object stands for; options are those that are not None."""
    words = ["reimagen", *name.split()]
    for option, value, positional, repeated in _options(command):
        flag = "--" + option.replace("_", "-")
        if positional:
            words += map(str, value if isinstance(value, tuple) else (value,))
        elif isinstance(value, bool):
            words += [flag] if value else []
        elif isinstance(value, tuple) and value and isinstance(value[0], tuple):
            words += [] if repeated else [flag]
            words += [word for group in value for word in ([flag] if repeated else []) + [*map(str, group)]]
        elif isinstance(value, tuple):
            words += [flag, *map(str, value)] if value else []
        elif value is not None:
            words += [flag, str(value)]
    return shlex.join(words)


def without_folders(value: Any) -> Any:
    """Options with the names of folders and files alone, without the way to them."""
    if isinstance(value, Path):
        return Path(value.name)
    if isinstance(value, tuple):
        return tuple(map(without_folders, value))
    if not dataclasses.is_dataclass(value):
        return value
    named = {item.name: without_folders(getattr(value, item.name)) for item in dataclasses.fields(value)}
    return dataclasses.replace(value, **named)


def _options(command: Any) -> list[tuple[str, Any, bool, bool]]:
    """Names and values of the fields, those of nested groups among them (their options have no prefix), whether they
    are typed without a name, as those before all others are, and whether the name stands before each of several."""
    from tyro.conf import Positional, UseAppendAction

    options = []
    for item in dataclasses.fields(command):
        value, marks = getattr(command, item.name), getattr(item.type, "__metadata__", ())
        name = next((mark.name for mark in marks if getattr(mark, "name", None)), item.name)
        nested = dataclasses.is_dataclass(value)
        options += _options(value) if nested else [(name, value, Positional in marks, UseAppendAction in marks)]
    return sorted(options, key=lambda option: not option[2])
