"""Settings of a published network (`config.json`), every key of them: used, as our network has it, or without effect.

A key that is none of these, with a value that says something, stands for a network that would compute something else.
"""

from collections.abc import Collection, Mapping, Sequence
from typing import Any

LARGEST = 2**31 - 1


def problems(
    theirs: Mapping[str, Any], *, used: Collection[str], fixed: Mapping[str, Any], harmless: Collection[str]
) -> list[str]:
    """What makes it another network: values of `fixed` that differ, and unknown keys that are set.

    Keys that start with an underscore are about files; unknown ones that are None, false or empty ask for nothing.
    """
    found = [
        f"{name} is {theirs[name]!r}, not {value!r}" for name, value in fixed.items() if differs(theirs, name, value)
    ]
    known = {*used, *fixed, *harmless}
    for name, value in theirs.items():
        nothing = value is None or value is False or (isinstance(value, list | tuple | dict | str) and not value)
        if name not in known and not name.startswith("_") and not nothing:
            found.append(f"{name} is {value!r}, which is not known here")
    return found


def differs(theirs: Mapping[str, Any], name: str, value: Any) -> bool:
    """Whether a key is there with another value (1 is not true, but 1.0 is 1)."""
    there = theirs.get(name, value)
    return there != value or isinstance(there, bool) != isinstance(value, bool)


def not_counts(theirs: Mapping[str, Any], limits: Mapping[str, int] | Sequence[str]) -> list[str]:
    """Those of the keys that are no whole number from 1 to their limit."""
    found = []
    for name in limits:
        most, value = limits[name] if isinstance(limits, Mapping) else LARGEST, theirs.get(name)
        if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= most:
            found.append(f"{name} is {value!r}, not a number from 1 to {most}")
    return found


def not_small(theirs: Mapping[str, Any], name: str) -> list[str]:
    """Whether a key (the epsilon of a norm) is no number between 0 and 1."""
    value = theirs.get(name)
    fits = isinstance(value, int | float) and not isinstance(value, bool) and 0 < value < 1
    return [] if fits else [f"{name} is {value!r}, not a number between 0 and 1"]
