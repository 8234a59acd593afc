"""The axes of a sweep: what is varied, by the names that the options of `reimagen sample` have, and its values.

    eta=0,0.25,0.5       steps=10,25     solver=ddim,unipc     guidance-interval=0:1,0.2:0.8     k=0,1,2
    eta=0:1:0.1          from 0 to 1 by 0.1, both ends among them
    words=cat,dog        the first is looked for in the prompts, whole words, and each takes its place
    checkpoint=2000,4000 steps of the run in --model; or models: shipped,runs/other
    stage2.steps=10,25   settings of a cascade's second stage, its first model in --cascade; stage3, ... so, too

The setting's own type and range (settings.py) is the rule for a value, wherever the value comes from. A value with a
comma in it stands in quotation marks, as in CSV: 'words="a cat, asleep",dog'.
"""

import csv
import dataclasses
import io
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

from reimagen_jax.checked import Natural, Seed, Share, checked
from reimagen_jax.errors import UserError, require
from reimagen_jax.retrieval.knowledge_base import Method
from reimagen_jax.systems.reimagen.feed import GUIDANCE
from reimagen_jax.systems.reimagen.settings import GuidedSamplerConfig

WORDS, NEGATIVE, METHOD, CHECKPOINT, SEED, K = "words", "negative", "method", "checkpoint", "seed", "k"
MOST = 10_000
"""Values of an axis, and points of a grid."""


def _settings() -> dict[str, tuple[str, Any]]:
    """Option -> field of the sampler's settings and its type."""
    hints = get_type_hints(GuidedSamplerConfig, include_extras=True)
    names = [item.name for item in dataclasses.fields(GuidedSamplerConfig) if item.name not in ("times", "aug_level")]
    hints["k"] = Natural
    return {("steps" if name == "num_steps" else name.replace("_", "-")): (name, hints[name]) for name in names}


SETTINGS = _settings()
LATER = SETTINGS | {"aug-level": ("aug_level", Share)}
"""Those of stages that enlarge what the one before has drawn: each stands behind its stage, stage2.aug-level."""
_STAGE = re.compile(r"stage([2-9])\.(.+)")
_OTHERS = {WORDS: str, NEGATIVE: str, METHOD: Method, CHECKPOINT: str, SEED: Seed}
NAMES = (*SETTINGS, *_OTHERS)
REQUESTED = {option: name for option, (name, _) in SETTINGS.items() if name in GUIDANCE}
"""Options that are numbers of a request: traced."""
TRACED = frozenset({*REQUESTED, WORDS, NEGATIVE, METHOD, SEED, K})
"""What is varied within one program; a value of any other axis is a program of its own."""


@dataclass(frozen=True)
class Axis:
    """One setting and the values that it takes, in their order, each once."""

    name: str
    """The option's, without dashes in front."""
    values: tuple[Any, ...]

    @classmethod
    def parse(cls, text: str) -> "Axis":
        """Reads NAME=VALUE,... as typed after --over. Raises `UserError` naming axis and value."""
        name, equals, values = text.partition("=")
        name = name.strip().removeprefix("--").replace("_", "-")
        require(bool(equals), f"--over {text!r} is no axis, such as eta=0,0.5,1")
        hint, place = _hint(name, "--over"), f"--over {name}"
        (words,) = csv.reader([values.replace("\n", " ")], skipinitialspace=True) if values.strip() else ([],)
        read = [value for word in words for value in _read(word.strip(), hint, place)]
        return cls._of(name, read, place)

    @classmethod
    def of(cls, name: str, values: Iterable[Any]) -> "Axis":
        """From Python; `name` as the option or as the field of the settings. Raises `UserError` as `parse` does."""
        head, dot, own = name.rpartition(".")
        own = {field: option for option, (field, _) in LATER.items()}.get(own, own.replace("_", "-"))
        name = f"{head}{dot}{own}"
        _hint(name, "over")
        require(not isinstance(values, str), f"over: {name} is {values!r}: give its values as a list")
        return cls._of(name, list(values), f"over: {name}")

    @classmethod
    def _of(cls, name: str, values: Sequence[Any], place: str) -> "Axis":
        hint = _hint(name, place)
        values = [str(value) if name == CHECKPOINT else value for value in values]
        values = [float(value) if _is_number(value) and float in _kinds(hint) else value for value in values]
        values = tuple(dict.fromkeys(checked(value, hint, place) for value in values))
        require(0 < len(values) <= MOST, f"{place} has {len(values)} values: from 1 to {MOST:,} make an axis")
        empty = name in (WORDS, CHECKPOINT) and not all(str(value).strip() for value in values)
        require(not empty, f"{place} has an empty value: say which {name} are meant")
        if name.endswith("guidance-interval"):
            for value in values:
                low, high = value or (0.0, 1.0)
                require(low <= high, f"{place} {low}:{high} is not a range")
        return cls(name, values)

    @property
    def traced(self) -> bool:
        """All of its values are drawn by one program."""
        return self.name in TRACED

    @property
    def numeric(self) -> bool:
        """Its values are numbers, to be laid on a line."""
        return all(map(_is_number, self.values))

    def say(self, value: Any) -> str:
        """A value, to be read."""
        if self.name == "eta":
            return f"η {value:g}"
        if self.name == CHECKPOINT:
            return f"step {int(value):,}" if value.isdecimal() else value
        if self.name in (WORDS, NEGATIVE):
            return f"“{value}”" if value else f"no {self.name}"
        return f"{self.name} {spelt(value)}"

    def __str__(self) -> str:
        """As it is typed: `Axis.parse` reads it."""
        text = io.StringIO()
        csv.writer(text, lineterminator="").writerow([spelt(value) for value in self.values])
        return f"{self.name}={text.getvalue()}"


def spelt(value: Any) -> str:
    """A value as it is typed."""
    if isinstance(value, tuple):
        return ":".join(map(spelt, value))
    if isinstance(value, float):
        return f"{value:g}" if float(f"{value:g}") == value else repr(value)
    return "none" if value is None else str(value)


def axes_of(over: Sequence[str] | Mapping[str, Iterable[Any]]) -> tuple[Axis, ...]:
    """The axes of a grid, typed or from Python. Raises `UserError` for one given twice, and for too many points."""
    if isinstance(over, Mapping):
        axes = tuple(Axis.of(name, values) for name, values in over.items())
    else:
        axes = tuple(map(Axis.parse, over))
    names = [axis.name for axis in axes]
    for name in names:
        require(names.count(name) == 1, f"--over {name} is given twice: give all of its values at once")
    require(bool(axes), "a sweep is over at least one axis, such as eta=0,0.5,1")
    points = math.prod(len(axis.values) for axis in axes)
    sizes = " x ".join(f"{len(axis.values)} of {axis.name}" for axis in axes)
    require(points <= MOST, f"--over asks for {sizes}, {points:,} points: at most {MOST:,} are drawn")
    return axes


def points_of(axes: Sequence[Axis]) -> list[dict[str, Any]]:
    """All combinations, the first axis the slowest: name -> value."""
    names = [axis.name for axis in axes]
    return [dict(zip(names, values, strict=True)) for values in product(*(axis.values for axis in axes))]


def replaced(text: str, old: str, new: str) -> str:
    """The text with other words in the place of `old`, whole words only."""
    return re.sub(rf"(?<!\w){re.escape(old)}(?!\w)", lambda _: new, text)


def field_of_stage(name: str, number: int) -> str:
    """The setting of stage `number`, from 2 on, that an axis varies; empty where it is no axis of that stage."""
    own = _STAGE.fullmatch(name)
    return LATER[own[2]][0] if own and int(own[1]) == number else ""


def stage_of(name: str) -> int:
    """The stage of a cascade, from 1 on, whose an axis is."""
    own = _STAGE.fullmatch(name)
    return int(own[1]) if own else 1


def _hint(name: str, place: str) -> Any:
    if own := _STAGE.fullmatch(name):
        known = own[2] in LATER
        require(known, f"{place} {name!r} is no axis: of stage {own[1]} there are {', '.join(LATER)}")
        return LATER[own[2]][1]
    hint = SETTINGS[name][1] if name in SETTINGS else _OTHERS.get(name)
    more = "; of the stages of a cascade stage2.steps and so on"
    require(hint is not None, f"{place} {name!r} is no axis: there are {', '.join(NAMES)}{more}")
    return hint


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _kinds(hint: Any) -> set[Any]:
    """The plain types that a value may have."""
    if get_origin(hint) is Annotated:
        return _kinds(get_args(hint)[0])
    if get_origin(hint) in (Union, UnionType):
        return set().union(*map(_kinds, get_args(hint)))
    return {hint}


def _read(word: str, hint: Any, place: str) -> list[Any]:
    """The value that a word is, or the values of a range of numbers."""
    kinds = _kinds(hint)
    parts = word.split(":")
    if len(parts) == 3 and kinds & {int, float}:
        first, last, step = (_typed(part, hint, place) for part in parts)
        require(
            None not in (first, last, step) and step > 0 and first <= last,
            f"{place} {word!r} is no range: FIRST:LAST:STEP, such as 0:1:0.1, rises from first to last",
        )
        count = math.floor((last - first) / step * (1 + 1e-9)) + 1
        require(count <= MOST, f"{place} {word!r} has {count:,} values: at most {MOST:,} are drawn")
        values = [first + i * step for i in range(count)]
        return [value if int in kinds else float(f"{value:.12g}") for value in values]
    return [_typed(word, hint, place)]


def _typed(word: str, hint: Any, place: str) -> Any:
    """A word as a value of a type; whether it is within the type's range is left to `checked`."""
    kinds = _kinds(hint)
    if NoneType in kinds and word == "none":
        return None
    for kind in kinds - {NoneType}:
        if get_origin(kind) is tuple:
            parts = word.split(":")
            require(len(parts) == len(get_args(kind)), f"{place} {word!r} is no interval, such as 0.2:0.8")
            return tuple(_typed(part, of, place) for part, of in zip(parts, get_args(kind), strict=True))
        if kind in (int, float):
            try:
                return kind(word)
            except ValueError:
                raise UserError(f"{place} {word!r} is not a {'whole ' * (kind is int)}number") from None
        if get_origin(kind) is Literal:
            choices = get_args(kind)
            require(word in choices, f"{place} is one of {', '.join(choices)}, not {word!r}")
    return word
