"""A command's options, its help, and one line for what is wrong with a command line.

tyro reads the words. What there is to give, and what help tells of it, is read off the same dataclasses: names of
fields (`--train.num-steps`; a group with `tyro.conf.arg(name="")` adds no prefix), types, defaults, and the texts below
the fields. `--help` shows what is needed, and what a class declares as

    common: ClassVar[tuple[str, ...]] = ("num_images", "steps", "seed")

(of its own fields; without such a tuple all, if it is a class of options, and none of an experiment's settings); all
else is for `--help-all`.
"""

import ast
import dataclasses
import difflib
import functools
import inspect
import io
import itertools
import re
import shutil
import sys
import textwrap
import types
from collections.abc import Iterator, Mapping, Sequence
from contextlib import redirect_stderr, suppress
from pathlib import Path, PurePath
from typing import Annotated, Any, Literal, NamedTuple, NoReturn, TypeVar, Union, get_args, get_origin, get_type_hints

import tyro
from tyro.constructors import ConstructorRegistry, PrimitiveConstructorSpec, PrimitiveTypeInfo

from reimagen_jax import paths
from reimagen_jax.checked import Checked, Options
from reimagen_jax.commands.options import as_typed
from reimagen_jax.files import made_by
from reimagen_jax.terminal import say

T = TypeVar("T")
HELP, HELP_ALL = ("-h", "--help"), "--help-all"
WIDEST, COLUMN = 100, 28
USAGE_ERROR = 2
_WORDS = {int: "INT", float: "FLOAT", str: "TEXT", Path: "PATH", PurePath: "PATH", bool: ""}
_NEEDED = {"INT": "a whole number", "FLOAT": "a number"}
_PLAIN = re.compile(r"--?[A-Za-z][\w.-]*(=.*)?", re.DOTALL)

_COLOURS = re.compile(r"\x1b\[[\d;]*m")


class Option(NamedTuple):
    """Something that a command can be given."""

    name: str
    """As it is typed, without dashes: `train.num-steps`."""
    value: str
    """What is to be typed behind it, such as `INT INT`; empty for a flag."""
    choices: tuple[str, ...]
    default: Any
    """`tyro.MISSING` where it is needed."""
    told: str
    group: type
    """The class that declares it."""
    common: bool
    positional: bool
    repeated: bool

    @property
    def needed(self) -> bool:
        return self.default is tyro.MISSING

    @property
    def typed(self) -> str:
        """How it stands in the usage: `--out PATH`."""
        if self.positional:
            return self.value
        return f"--{self.name} {self.value}".rstrip()


def options_of(kind: type, default: Any = tyro.MISSING, prefix: str = "") -> Iterator[Option]:
    """The options of a command's class, those of nested groups among them, with the values of `default` if given."""
    hints, told = get_type_hints(kind, include_extras=True), _told(kind)
    for item in dataclasses.fields(kind):
        hint, marks = _unwrapped(hints[item.name])
        value = _default(item) if default is tyro.MISSING else getattr(default, item.name)
        given = next((mark.name for mark in marks if getattr(mark, "name", None) is not None), item.name)
        name = ".".join(filter(None, (prefix, given))).replace("_", "-")
        if dataclasses.is_dataclass(value):
            yield from options_of(type(value), value, name)
        elif isinstance(value, tuple) and value and dataclasses.is_dataclass(value[0]):
            for index, element in enumerate(value):
                yield from options_of(type(element), element, f"{name}.{index}")
        elif not _holds_settings(hints[item.name]):
            positional, repeated = tyro.conf.Positional in marks, tyro.conf.UseAppendAction in marks
            word = _word(get_args(hint)[0] if repeated else hint, marks, item.name.upper() if positional else "")
            shown = value is tyro.MISSING or _is_common(kind, item.name)
            yield Option(name, word, _choices(hint), value, told.get(item.name, ""), kind, shown, positional, repeated)


def parse(
    kind: type[T],
    prog: str,
    args: Sequence[str],
    default: Any = tyro.MISSING,
    config: Sequence[Any] = (tyro.conf.FlagCreatePairsOff,),
) -> T:
    """The command that the words after `prog` stand for. Exits after `--help` (0) and on words that make none (2).

    Raises `UserError` where the command refuses its options.
    """
    if wanted := {*HELP, HELP_ALL} & set(args):
        say(
            *help_lines(
                kind, prog, default, everything=HELP_ALL in wanted, pairs=tyro.conf.FlagCreatePairsOff not in config
            )
        )
        raise SystemExit(0)
    told, keywords = io.StringIO(), {} if default is tyro.MISSING else {"default": default}
    options = {f"--{option.name}": option for option in options_of(kind, default) if not option.positional}
    typed = [word.partition("=")[0] for word in args if word.startswith("--")]
    names = {_dashed(word)[2:].replace("-", "_"): word for word in typed if _dashed(word) in options}
    try:
        with redirect_stderr(told), _types(), as_typed({n: word for n, word in names.items() if {".", "_"} & set(n)}):
            command = tyro.cli(kind, prog=prog, args=list(args), config=tuple(config), **keywords)
    except SystemExit as stop:
        if stop.code != USAGE_ERROR:
            raise
        fail(_wrong(list(options_of(kind, default)), args, told.getvalue()), prog)
    print(told.getvalue(), end="", file=sys.stderr)
    return command


def run(kind: type, prog: str, args: Sequence[str]) -> int:
    """Parses and runs a command; returns the exit status."""
    command: Any = parse(kind, prog, args)
    with made_by(prog):
        return command.run() or 0


def run_one(commands: Mapping[str, type], prog: str, about: str, args: Sequence[str]) -> int:
    """Parses and runs one of several commands, by the first word. Exits as `parse` does."""
    if args and args[0] in commands:
        return run(commands[args[0]], f"{prog} {args[0]}", args[1:])
    if args[:1] and args[0] in (*HELP, HELP_ALL):
        width, summaries = max(map(len, commands)), {name: summary(kind) for name, kind in commands.items()}
        lines = [f"usage: {prog} COMMAND [options]", "", *_filled(about), "", "Commands:"]
        for name, text in summaries.items():
            lines += _filled(text, f"  {name:<{width}}  ", " " * (width + 4))
        say(*lines, "", f"`{prog} COMMAND --help` explains a command and its options.")
        raise SystemExit(0)
    fail(f"{prog} {unknown(args[0], commands, prog) if args else 'needs a command: ' + ', '.join(commands)}", prog)


def unknown(word: str, known: Sequence[str] | Mapping[str, Any], prog: str) -> str:
    """What is said of a word that is no command."""
    near = difflib.get_close_matches(word, known, n=1)
    hint = f"did you mean `{prog} {near[0]}`?" if near else f"the commands are {', '.join(known)}"
    return f"has no command {word!r}: {hint}"


def fail(reason: str, prog: str) -> NoReturn:
    """Says what is wrong with a command line, and where it is explained."""
    say(f"error: {reason}", f"`{prog} --help` explains it", error=True)
    raise SystemExit(USAGE_ERROR)


def help_lines(kind: type, prog: str, default: Any, *, everything: bool, pairs: bool = False) -> list[str]:
    """The help of a command: usage, what it does, the common options, and if `everything` all others."""
    options = list(options_of(kind, default))
    needed = [_optional(option) for option in options if option.positional]
    needed += [option.typed for option in options if option.needed and not option.positional]
    needed += ["[options]"] * any(not option.positional for option in options)
    lines = _filled(" ".join(needed), f"usage: {prog} ", " " * 7)
    lines += ["", *_text(inspect.getdoc(kind) or "")]
    groups: dict[str, list[Option]] = {"Options:" if all(o.common for o in options) else "Common options:": []}
    for option in options:
        if option.common:
            next(iter(groups.values())).append(option)
        elif everything:
            groups.setdefault("Other options:" if option.group is kind else f"{summary(option.group)}:", []).append(
                option
            )
    for title, members in groups.items():
        lines += ["", *_filled(title)]
        for option in sorted(members, key=lambda option: (not option.positional, not option.needed)):
            lines += _entry(option, pairs)
    more = sum(not option.common for option in options)
    if more and not everything:
        lines += ["", f"`{prog} {HELP_ALL}` shows {more} more options."]
    return lines


def summary(kind: type) -> str:
    """The first sentence of a class's text, without its full stop."""
    first = " ".join((inspect.getdoc(kind) or "").split("\n\n")[0].split())
    return re.split(r"(?<=[.:])\s", first)[0].rstrip(".:")


def _optional(option: Option) -> str:
    return option.typed if option.needed else f"[{option.typed}]"


def _entry(option: Option, pairs: bool) -> list[str]:
    """An option and what is told of it, side by side where there is room."""
    typed = option.typed
    if pairs and isinstance(option.default, bool):
        group, dot, last = option.name.rpartition(".")
        typed += f", --{group}{dot}no-{last}"
    text = " ".join(option.told.split())
    if option.choices and option.value.split()[-1:] == ["NAME"]:
        text += f" One of {', '.join(option.choices)}."
    if option.repeated and "epeat" not in text:
        text += " May be repeated."
    shown = option.default if isinstance(option.default, tuple) else (option.default,)
    empty = any(value is None or value is False or value is tyro.MISSING or value == "" for value in shown)
    if shown and not empty and "default" not in text:
        text = f"{text} (default: {' '.join('yes' if value is True else str(value) for value in shown)})".lstrip()
    head = f"  {typed}"
    if len(head) + 2 <= COLUMN:
        return _filled(text, f"{head:<{COLUMN}}", " " * COLUMN) if text else [head]
    return [*_filled(typed, "  ", " " * 6), *(_filled(text, " " * COLUMN, " " * COLUMN) if text else [])]


def _text(told: str) -> list[str]:
    """A docstring: paragraphs are filled, indented lines and commands stay as they are, where they are not too wide."""
    lines: list[str] = []
    for block in told.split("\n\n"):
        lines += [""] if lines else []
        paragraph: list[str] = []
        for before, line in itertools.pairwise(["", *block.splitlines()]):
            if not line.startswith(("reimagen ", " ")):
                paragraph.append(line)
                continue
            lines += _filled(" ".join(paragraph)) if paragraph else []
            paragraph = []
            lines += _broken(
                f"    {line}" if block.startswith("reimagen ") else line, 0 if before.endswith("\\") else 4
            )
        lines += _filled(" ".join(paragraph)) if paragraph else []
    return lines


def _broken(command: str, further: int) -> list[str]:
    """A command on lines that fit, so that it can still be pasted; the later ones stand further in."""
    if len(command) <= _width():
        return [command]
    first, *parts = re.split(r" (?=--|> )", command)
    lines, indent = [first], " " * (len(command) - len(command.lstrip()) + further)
    for part in parts:
        if len(f"{lines[-1]} {part}") <= _width() - 2:
            lines[-1] += f" {part}"
        else:
            lines[-1] += " \\"
            lines.append(indent + part)
    return lines


def _filled(text: str, first: str = "", rest: str = "") -> list[str]:
    return textwrap.wrap(
        text, _width(), initial_indent=first, subsequent_indent=rest, break_on_hyphens=False, break_long_words=False
    )


def _width() -> int:
    return min(shutil.get_terminal_size().columns, WIDEST)


def _unwrapped(hint: Any) -> tuple[Any, tuple[Any, ...]]:
    return (get_args(hint)[0], hint.__metadata__) if get_origin(hint) is Annotated else (hint, ())


def _default(item: dataclasses.Field) -> Any:
    if item.default is not dataclasses.MISSING:
        return item.default
    return tyro.MISSING if item.default_factory is dataclasses.MISSING else item.default_factory()


def _is_common(kind: type, name: str) -> bool:
    """Whether the class that declares the field has it among its common ones."""
    declaring = next(parent for parent in kind.__mro__ if name in inspect.get_annotations(parent))
    common = vars(declaring).get("common")
    return name in common if common is not None else issubclass(declaring, Options) or not issubclass(kind, Checked)


def _parts(hint: Any) -> tuple[Any, ...]:
    """The types that a type is made of, but for None and the dots of `tuple[int, ...]`."""
    return tuple(part for part in get_args(hint) if part not in (type(None), Ellipsis))


def _holds_settings(hint: Any) -> bool:
    """Whether the type has a dataclass in it that is no single word: a part that is absent, which has no options."""
    hint, marks = _unwrapped(hint)
    if any(isinstance(mark, PrimitiveConstructorSpec) for mark in marks):
        return False
    return dataclasses.is_dataclass(hint) or (
        get_origin(hint) is not Literal and any(map(_holds_settings, _parts(hint)))
    )


def _choices(hint: Any) -> tuple[str, ...]:
    if get_origin(hint) is Literal:
        return tuple(map(str, get_args(hint)))
    return next(filter(None, map(_choices, _parts(hint))), ()) if get_origin(hint) is not None else ()


def _word(hint: Any, marks: Sequence[Any] = (), named: str = "") -> str:
    """What is to be typed for a value of the type."""
    given = next((mark.metavar for mark in marks if getattr(mark, "metavar", None)), "")
    hint, more = _unwrapped(hint)
    if more and not given:
        return _word(hint, more, named)
    origin, parts = get_origin(hint), _parts(hint)
    if origin is tuple and Ellipsis in get_args(hint):
        return given or f"{_word(parts[0], named=named)} ..."
    if given:
        return given
    if origin is tuple:
        return " ".join(_word(part) for part in parts)
    if origin in (Union, types.UnionType):
        return "|".join(dict.fromkeys(_word(part, named=named) for part in parts))
    if origin is Literal:
        joined = "|".join(map(str, get_args(hint)))
        return joined if len(joined) <= 40 else "NAME"
    return named or _WORDS.get(hint, "VALUE")


@functools.cache
def _told(kind: type) -> dict[str, str]:
    """Field -> the text below it. Nothing of a class whose source is not at hand."""
    told: dict[str, str] = {}
    for parent in reversed(kind.__mro__):
        if dataclasses.is_dataclass(parent):
            with suppress(OSError, TypeError, KeyError):
                told |= _told_in(inspect.getsource(sys.modules[parent.__module__])).get(parent.__name__, {})
    return told


@functools.cache
def _told_in(source: str) -> dict[str, dict[str, str]]:
    """Class -> field -> the text below it, of a module."""
    return {
        node.name: {
            field.target.id: text.value.value
            for field, text in itertools.pairwise(node.body)
            if isinstance(field, ast.AnnAssign) and isinstance(text, ast.Expr) and isinstance(text.value, ast.Constant)
        }
        for node in ast.parse(source).body
        if isinstance(node, ast.ClassDef)
    }


def _types() -> ConstructorRegistry:
    """A rule of the command line's, for every option that is a path: it is one of this machine's (`paths.local`)."""
    registry = ConstructorRegistry()

    @registry.primitive_rule
    def path(info: PrimitiveTypeInfo) -> PrimitiveConstructorSpec[Path] | None:
        if info.type is not Path:
            return None
        return PrimitiveConstructorSpec(
            nargs=1,
            metavar="PATH",
            instance_from_str=lambda words: paths.local(words[0]),
            is_instance=lambda value: isinstance(value, Path),
            str_from_instance=lambda value: [str(value)],
        )

    return registry


def _wrong(options: Sequence[Option], args: Sequence[str], told: str) -> str:
    """What is wrong with words that tyro has refused, for reasons `told`."""
    named = {f"--{option.name}": option for option in options if not option.positional}
    flags = {name for name, option in named.items() if isinstance(option.default, bool)}
    off = {re.sub(r"([^.-][^.]*)$", r"no-\1", name) for name in flags}
    typed = [word for word in args if _PLAIN.fullmatch(word)]
    for word in typed:
        name, equals, _ = word.partition("=")
        if _dashed(name) not in {*named, *off}:
            near = _near(_dashed(name), [*named, HELP_ALL])
            return f"there is no option {name}" + (f": did you mean {' or '.join(near)}?" if near else "")
        if equals and _dashed(name) in {*flags, *off}:
            return f"{name} takes no value"
    given, free = {_dashed(word.partition("=")[0]) for word in typed}, _free(args, named)
    places = [option for option in options if option.positional]
    missing = [option.typed for option in places[len(free) :] if option.needed]
    missing += [option.typed for name, option in named.items() if option.needed and name not in given]
    if missing:
        return f"{' and '.join(missing)} {'is' if len(missing) == 1 else 'are'} needed"
    if len(free) > len(places) and not any("..." in option.value for option in places):
        word, before = free[len(places)]
        again = before in named and named[before].repeated
        return f"{word!r} belongs to no option" + (f": for a further value give {before} again" if again else "")
    for option, (word, _) in zip(places, free, strict=False):
        if option.choices and word not in option.choices:
            return f"{word!r}: {_need(option)}"
    about = next((name for name in re.findall(r"--[\w.-]*\w", told) if name in named), None)
    for word, values in _given(args):
        if _dashed(word) == about:
            return f"{' '.join([word, *map(repr, values)])}: {_need(named[about])}"
    return _condensed(told)


def _need(option: Option) -> str:
    words = option.value.split()
    if option.choices:
        return f"one of {', '.join(option.choices)} is needed"
    if len(words) > 1 and "..." not in words:
        return f"{len(words)} values are needed, {option.value}"
    return f"{_NEEDED.get(words[0], option.value)} is needed"


def _given(args: Sequence[str]) -> Iterator[tuple[str, list[str]]]:
    """The options as they are typed, each with the words behind it; at first, under an empty name, those before all."""
    word, behind = "", []
    for arg in args:
        if _PLAIN.fullmatch(arg):
            yield word, behind
            word, equals, value = arg.partition("=")
            behind = [value] if equals else []
        else:
            behind.append(arg)
    yield word, behind


def _free(args: Sequence[str], named: Mapping[str, Option]) -> list[tuple[str, str]]:
    """The words that belong to no option, each with the option before it."""
    free: list[tuple[str, str]] = []
    for word, behind in _given(args):
        takes = named[_dashed(word)].value.split() if _dashed(word) in named else []
        free += [] if "..." in takes else [(each, _dashed(word)) for each in behind[len(takes) :]]
    return free


def _near(word: str, known: Sequence[str]) -> list[str]:
    """The options that were perhaps meant: of another group, or misspelt."""
    parts = [(name, *name.lstrip("-").rpartition(".")[::2]) for name in known]
    group, _, last = word.lstrip("-").rpartition(".")
    if same := [name for name, _, end in parts if end == last]:
        return same[:3]
    beside = {end: name for name, of, end in parts if of == group}
    elsewhere = {end: name for name, _, end in reversed(parts)}
    for ends, cutoff in ((beside, 0.6), (elsewhere, 0.75)):
        if near := difflib.get_close_matches(last, ends, n=1, cutoff=cutoff):
            return [ends[near[0]]]
    return difflib.get_close_matches(word, known, n=1, cutoff=0.8)


def _dashed(word: str) -> str:
    return word.replace("_", "-")


def _condensed(told: str) -> str:
    """What tyro says, on one line: what stands between a title and the first rule, in boxes or without them."""
    lines = [line.strip("│╭╮╰╯─- ") for line in _COLOURS.sub("", told).strip().splitlines()]
    said = itertools.dropwhile(lambda line: not line, lines[1:])
    return " ".join(itertools.takewhile(bool, said))
