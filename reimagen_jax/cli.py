"""The `reimagen` command: one subcommand for each arrow of the data's way.

A command is a frozen dataclass in `reimagen_jax.commands` with a method `run`; its fields are the options. Where the
options depend on the arguments, it is a function of the arguments instead. Only the module asked for is imported.
"""

import difflib
import errno
import importlib
import os
import sys
from collections.abc import Callable, Sequence

from reimagen_jax import __version__, runtime
from reimagen_jax.commands import COMMANDS
from reimagen_jax.errors import UserError
from reimagen_jax.terminal import say

MENDABLE = {
    *(errno.EACCES, errno.EPERM, errno.EROFS),
    *(errno.ENOSPC, errno.EDQUOT, errno.EFBIG),
    *(errno.ENAMETOOLONG, errno.ELOOP),
    *(errno.EIO, errno.ESTALE),
}
"""What the system refuses and the user can mend: permissions; room; names; disks and terminals that are gone."""
HANDLES_DATA = {"prepare", "split", "index", "search", "triples", "verify"}
"""Commands whose memory is pictures and indices, not what programs compute on: it goes back to the system."""
USAGE_ERROR = 2
INTERRUPTED = 130
PIPE_CLOSED = 141


def main(args: Sequence[str] | None = None) -> int:
    """Runs one command and returns the exit status: 0, 2 on bad input (one line on stderr says what), 130 on Ctrl-C;
    others where a command says so (1: of `reproduce` where an image differs, of `report tables --check` where a table
    does)."""
    own = args is None
    args = list(sys.argv[1:] if args is None else args)
    if args[:1] == ["help"]:  # `help edit image` is `edit image --help`
        args = [*args[1:], "--help"]
    if not args or args[0] in ("-h", "--help", "--help-all"):
        print(_overview())
        return 0 if args else USAGE_ERROR
    if args[0] == "--version":
        print(f"reimagen_jax {__version__}")
        return 0
    runtime.configure(keep=own and args[0] not in HANDLES_DATA)
    return status_of(lambda: _run(args[0], args[1:]))


def status_of(run: Callable[[], int | None]) -> int:
    """Runs a command, or a tool, and returns the exit status: its own, 0 where it has none, 2 on bad input (one line on
    stderr says what), 130 on Ctrl-C, 141 where nobody reads on."""
    try:
        status = run() or 0
        if sys.stdout is not None:  # it is None where the process was started without one
            sys.stdout.flush()
    except BrokenPipeError:  # whoever reads has read enough, as in `... | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return PIPE_CLOSED
    except KeyboardInterrupt:
        print("error: interrupted", file=sys.stderr)
        return INTERRUPTED
    except Exception as error:
        reason = _reason(error)
        if reason is None:
            raise
        say(f"error: {' '.join(reason.split())}", error=True)
        return USAGE_ERROR
    return status


def _reason(error: Exception) -> str | None:
    """What the user is told of an error; None for one that is a bug of this program."""
    if isinstance(error, UserError):
        return str(error)
    if isinstance(error, OSError) and error.errno in MENDABLE:
        return f"{error.filename or 'writing'}: {error.strerror}"
    return runtime.no_device()


def _run(name: str, args: list[str]) -> int:
    """The status that the command returns, 0 where it returns none."""
    if name not in COMMANDS:
        near = difflib.get_close_matches(name, [*COMMANDS, "help"], n=1)
        hint = f"did you mean `{near[0]}`?" if near else f"the commands are {', '.join(COMMANDS)}"
        raise UserError(f"there is no command {name!r}: {hint}")
    module, _, attribute = COMMANDS[name][0].partition(":")
    command = getattr(importlib.import_module(f"reimagen_jax.commands.{module}"), attribute)
    if not isinstance(command, type):
        return command(args) or 0
    from reimagen_jax.commands.usage import run

    return run(command, f"reimagen {name}", args)


def _overview() -> str:
    width = max(map(len, COMMANDS))
    lines = [f"  {name:<{width}}  {purpose}" for name, (_, purpose) in COMMANDS.items()]
    return "\n".join(
        [
            "usage: reimagen COMMAND [options]",
            "",
            "Re-Imagen: retrieval-augmented text-to-image generation.",
            "",
            "Commands:",
            *lines,
            "",
            "`reimagen help COMMAND` explains a command, `reimagen COMMAND --help-all` all of its options.",
        ]
    )


if __name__ == "__main__":
    sys.exit(main())
