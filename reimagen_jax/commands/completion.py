"""`reimagen completion`: what a shell is told so that it completes commands and options. tyro writes it."""

import importlib
import re
import tempfile
from collections.abc import Callable
from contextlib import redirect_stdout
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from typing import Annotated, Any, Literal, Union

import tyro

from reimagen_jax.checked import Options
from reimagen_jax.commands import COMMANDS
from reimagen_jax.commands.train import Train, unnamed
from reimagen_jax.errors import UserError

CONFIG = (tyro.conf.FlagCreatePairsOff, tyro.conf.OmitSubcommandPrefixes)


@dataclass(frozen=True)
class Completion(Options):
    """Print what makes a shell complete `reimagen`'s commands and options. In a file that the shell reads, it lasts.

    For bash, zsh (in a folder of $fpath) and fish:
        reimagen completion bash > ~/.local/share/bash-completion/completions/reimagen
        reimagen completion zsh > ~/.zfunc/_reimagen
        reimagen completion fish > ~/.config/fish/completions/reimagen.fish

    Options of an experiment (`reimagen train`) are completed as a Re-Imagen has them.
    """

    shell: Annotated[Literal["bash", "zsh", "fish"], tyro.conf.Positional]
    """Whose language it is in."""

    def run(self) -> None:
        """Prints the script. Raises `UserError` where the installed tyro does not know the shell."""
        print(script(self.shell), end="")


def script(shell: str) -> str:
    """The completion script for a shell. Raises `UserError` where the installed tyro does not know the shell."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "script"
        words = ["--tyro-write-completion", shell, str(path)]
        try:
            with redirect_stdout(StringIO()):
                tyro.cli(_one_of(commands()), prog="reimagen", args=words, config=CONFIG)
        except (SystemExit, AssertionError) as stop:
            if not path.is_file():
                raise UserError(f"this version of tyro knows nothing of {shell}: pip install -U tyro") from stop
        # The scripts take each line of a description for an option to offer.
        return re.sub(r"(?m)^COMPLETION_SPEC = .*$", _on_one_line, path.read_text(encoding="utf-8"))


def _on_one_line(spec: re.Match[str]) -> str:
    return re.sub(r"(?<!\\)(\\n)+ *", " ", spec[0])


def commands() -> dict[str, Any]:
    """Name -> the class of a command, or the like of several below it."""
    found = {}
    for name, (place, _) in COMMANDS.items():
        module, _, attribute = place.partition(":")
        module = importlib.import_module(f"reimagen_jax.commands.{module}")
        command = getattr(module, attribute)
        found[name] = command if isinstance(command, type) else getattr(module, "COMMANDS", None) or module.COMMAND
    return found


def _one_of(kinds: dict[str, Any]) -> Any:
    """A type of which tyro makes a subcommand for each name."""
    members = []
    for name, kind in kinds.items():
        if isinstance(kind, dict):
            members.append(Annotated[Any, tyro.conf.subcommand(name, constructor=_group(kind))])
        else:
            default = unnamed() if kind is Train else tyro.MISSING
            members.append(Annotated[kind, tyro.conf.subcommand(name, default=default)])
    return Union[tuple(members)]  # noqa: UP007


def _group(kinds: dict[str, Any]) -> Callable[..., None]:
    """A function whose only argument is one of several commands."""

    def group(command: Any) -> None:
        """One of several."""

    group.__annotations__["command"] = _one_of(kinds)
    return group
