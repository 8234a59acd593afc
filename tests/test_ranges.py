"""Every number that people set has its range where it is declared: a walk over all settings and all options."""

import dataclasses
import importlib
import inspect
import math
import pkgutil
import types
from collections.abc import Iterator
from pathlib import Path, PurePath
from typing import Annotated, Any, Literal, NamedTuple, Union, get_args, get_origin, get_type_hints

import pytest
from annotated_types import Ge, Gt, Le, Lt
from pydantic.types import AllowInfNan

import reimagen_jax
from reimagen_jax import commands
from reimagen_jax.checked import Checked
from reimagen_jax.config import Experiment, SystemConfig, TrainConfig
from reimagen_jax.data.entityworld import World
from reimagen_jax.errors import UserError
from reimagen_jax.nets.settings import Level, UNetConfig
from reimagen_jax.retrieval.building import Dense, Lexical
from reimagen_jax.retrieval.hybrid import Fusion
from reimagen_jax.retrieval.neighbours import Rules
from reimagen_jax.systems import kinds

UNCLIP = ("unclip_prior", "unclip_ar_prior", "unclip_decoder", "unclip_upsampler")
RCG = ("moco", "rdm", "rcg_generator", "vq", "mage")
BUILT_IN = ("reimagen", "distillation", "dual", "clip", "rater", *UNCLIP, *RCG)


class Number(NamedTuple):
    """A number in a field's type."""

    kind: type
    said: tuple[Any, ...]
    """What the declaration says of it."""
    tuples: tuple[int, ...]
    """How many there are in the tuples around it, from the outside in."""

    def filled(self, value: Any) -> Any:
        """A value of the field with this one in each place."""
        for count in reversed(self.tuples):
            value = (value,) * count
        return value

    def outside(self) -> Iterator[Any]:
        """What is just outside of the bounds."""
        far = {Ge: -math.inf, Le: math.inf}
        for bound in self.said:
            if isinstance(bound, Gt | Lt):
                limit = bound.gt if isinstance(bound, Gt) else bound.lt
                yield limit if self.kind is int else float(limit)
            elif isinstance(bound, Ge | Le):
                limit, towards = (bound.ge if isinstance(bound, Ge) else bound.le), far[type(bound)]
                yield limit + int(math.copysign(1, towards)) if self.kind is int else math.nextafter(limit, towards)


def numbers(hint: Any, said: tuple[Any, ...] = (), tuples: tuple[int, ...] = ()) -> Iterator[Number]:
    origin, args = get_origin(hint), get_args(hint)
    if origin is Annotated:
        yield from numbers(args[0], (*said, *args[1:]), tuples)
    elif origin in (Union, types.UnionType):
        for arg in args:
            yield from numbers(arg, said, tuples)
    elif origin is tuple:
        count = 1 if Ellipsis in args else len(args)
        for arg in dict.fromkeys(arg for arg in args if arg is not Ellipsis):
            yield from numbers(arg, said, (*tuples, count))
    elif hint in (int, float):
        yield Number(hint, said, tuples)


def parts(hint: Any) -> Iterator[type]:
    """Dataclasses in a field's type."""
    if isinstance(hint, type) and dataclasses.is_dataclass(hint):
        yield hint
    for arg in get_args(hint):
        yield from parts(arg)


def walk(*roots: type) -> dict[type, None]:
    """All dataclasses that are reached from these, by their fields."""
    found: dict[type, None] = {}

    def visit(kind: type) -> None:
        if kind in found:
            return
        found[kind] = None
        for hint in get_type_hints(kind, include_extras=True).values():
            for part in parts(hint):
                visit(part)

    for root in roots:
        visit(root)
    return found


def command_modules() -> list[types.ModuleType]:
    return [
        importlib.import_module(f"reimagen_jax.commands.{module.name}")
        for module in pkgutil.iter_modules(commands.__path__)
    ]


def declared(module: types.ModuleType) -> list[type]:
    """The dataclasses that a module declares and of which there are instances; abstract ones' fields are theirs."""
    return [
        kind
        for kind in vars(module).values()
        if isinstance(kind, type) and dataclasses.is_dataclass(kind) and kind.__module__ == module.__name__
        if not inspect.isabstract(kind)
    ]


SYSTEMS = [kind.settings for name, kind in kinds._kinds.items() if name in BUILT_IN]
WALKED = walk(
    Experiment,
    *SYSTEMS,
    *(settings.data for settings in SYSTEMS),
    *(Rules, Dense, Fusion),
    *(command for module in command_modules() for command in declared(module)),
)
WALKED[Lexical] = None  # and not its analyser, whose only number is its version


def hints_of(kind: type) -> dict[str, Any]:
    hints = get_type_hints(kind, include_extras=True)
    return {item.name: hints[item.name] for item in dataclasses.fields(kind)}


FIELDS = [
    pytest.param(kind, name, number, id=f"{kind.__module__.removeprefix('reimagen_jax.')}.{kind.__name__}.{name}")
    for kind in WALKED
    for name, hint in hints_of(kind).items()
    for number in numbers(hint)
]


def made(kind: type, name: str, value: Any) -> Any:
    """An instance in which one field has this value, and what has no default something plain."""
    plain = {str: "x", int: 16, float: 1.0, SystemConfig: SYSTEMS[0]()}

    def of(hint: Any) -> Any:
        hint = get_args(hint)[0] if get_origin(hint) is Annotated else hint
        if get_origin(hint) is tuple:
            return ()
        return (
            Path("x") if hint in (Path, PurePath) else get_args(hint)[0] if get_origin(hint) is Literal else plain[hint]
        )

    needed = [
        item.name
        for item in dataclasses.fields(kind)
        if item.default is dataclasses.MISSING and item.default_factory is dataclasses.MISSING
    ]
    fields = {field: of(hints_of(kind)[field]) for field in needed} | {name: value}
    return UNetConfig(levels=(Level(**fields),)) if kind is Level else kind(**fields)


@pytest.mark.parametrize(("kind", "name", "number"), FIELDS)
def test_every_number_has_a_range_and_is_refused_outside_of_it(kind, name, number):
    assert issubclass(kind, Checked), f"{kind.__qualname__} does not check its fields"
    if number.kind is int:
        assert any(isinstance(bound, Ge | Gt) for bound in number.said), f"{name} has no least value"
        wrong = [*number.outside(), 1.5, math.nan, math.inf, True, "1"]
    else:
        assert AllowInfNan(False) in number.said, f"{name} may be infinite"
        wrong = [*number.outside(), math.nan, math.inf, -math.inf, 10**400, True, "1"]
    for value in wrong:
        with pytest.raises(UserError, match=rf"{kind.spelt(name)}\b"):
            kind.checked(name, number.filled(value))


@pytest.mark.parametrize(("kind", "name", "number"), FIELDS)
def test_instances_are_checked_as_they_are_made(kind, name, number):
    with pytest.raises(UserError, match=rf"{kind.spelt(name)}\b.* is needed"):
        made(kind, name, number.filled(next(number.outside())))


@pytest.mark.parametrize(
    ("name", "value", "computed"),
    [("beta2", 0.99999999, "1.0"), ("clip_norm", 5e-324, "0.0"), ("clip_norm", 1e-39, "0.0")],
)
def test_a_number_is_within_its_range_as_float32_too(name, value, computed):
    """A second moment that forgets nothing, or a norm of 0, would leave every parameter where it is."""
    with pytest.raises(UserError, match=rf"^train\.{name} is {computed}: .* {value} becomes that in float32$"):
        TrainConfig(**{name: value})
    assert getattr(TrainConfig(**{name: 0.9999999}), name) == 0.9999999, "what float32 tells from 1 is taken as it is"


def test_no_settings_and_no_options_escape_the_walk():
    """Dataclasses with numbers in modules of settings and of commands."""
    names = [module.name for module in pkgutil.walk_packages(reimagen_jax.__path__, "reimagen_jax.")]
    places = [name for name in names if name.endswith((".settings", ".config")) or ".commands." in name]
    kinds_there = [kind for name in places for kind in declared(importlib.import_module(name))]
    assert len(kinds_there) > 30 and World in WALKED
    with_numbers = [kind for kind in kinds_there if any(list(numbers(hint)) for hint in hints_of(kind).values())]
    # The base of settings that were reached is one of them.
    assert [kind for kind in with_numbers if not any(issubclass(walked, kind) for walked in WALKED)] == []


@pytest.mark.parametrize("seed", [0, 2**31, 2**32 - 1])
def test_all_seeds_of_32_bits_are_taken(seed):
    for kind in WALKED:
        if "seed" in hints_of(kind):
            assert made(kind, "seed", seed).seed == seed
