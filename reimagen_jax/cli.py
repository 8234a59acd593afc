"""The `reimagen` command: one subcommand for each arrow of the data's way.

A command is a frozen dataclass in `reimagen_jax.commands` with a method `run`; its fields are the options. Where the
options depend on the arguments, it is a function of the arguments instead. Only the module asked for is imported.
"""

import difflib
import errno
import importlib
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from reimagen_jax import __version__, paths, runtime
from reimagen_jax.errors import UserError
from reimagen_jax.terminal import say

if TYPE_CHECKING:
    from tyro.constructors import ConstructorRegistry

COMMANDS = {
    "prepare": ("prepare:Prepare", "images with captions -> records"),
    "split": ("split:Split", "records -> parts: train and held-out; frequent, rare and unseen entities"),
    "encode-train": ("encode_train:EncodeTrain", "records -> an encoder, for knowledge bases that search by vectors"),
    "index": ("index:Index", "records -> knowledge base; adds to it, describes it, checks it"),
    "search": ("search:Search", "texts -> what a knowledge base finds for them, with a contact sheet"),
    "embed": ("embed:Embed", "captions of records -> embeddings by a frozen text encoder"),
    "triples": ("triples:BuildTriples", "records + knowledge base -> training data (KNN-ImageText)"),
    "train": ("train:main", "training data -> checkpoints"),
    "export": ("export:Export", "checkpoint -> safetensors, settings and a model card, to hand on"),
    "sample": ("sample:Sample", "prompts -> images, with neighbours from a knowledge base or given by hand"),
    "edit": ("edit:main", "images -> images: drawn on, inpainted, outpainted, varied, mixed, swapped"),
    "reproduce": ("reproduce:Reproduce", "images -> the same images, drawn again from what they tell, and compared"),
    "seedselect": ("seedselect:main", "prompts + references -> images, from noise that is searched for them"),
    "sweep": ("sweep:Sweep", "prompts -> a report over eta: from all neighbours to all text"),
    "evaluate": ("evaluate:main", "checkpoint -> tables of faithfulness and alignment"),
    "verify": ("verify:Verify", "whether folders of all these kinds are whole"),
    "rater": ("rater:main", "trains and checks the rater that evaluate, sweep and demo use"),
    "demo": ("demo:Demo", "all of it in three minutes, with weights that come with the package"),
}
"""Name -> (module and class in `reimagen_jax.commands`, what it does)."""

MENDABLE = {
    *(errno.EACCES, errno.EPERM, errno.EROFS),
    *(errno.ENOSPC, errno.EDQUOT, errno.EFBIG),
    *(errno.ENAMETOOLONG, errno.ELOOP),
    *(errno.EIO, errno.ESTALE),
}
"""What the system refuses and the user can mend: permissions; room; names; disks and terminals that are gone."""
USAGE_ERROR = 2
INTERRUPTED = 130
PIPE_CLOSED = 141


def main(args: Sequence[str] | None = None) -> int:
    """Runs one command and returns the exit status: 0, 2 on bad input (one line on stderr says what), 130 on Ctrl-C;
    others where a command says so (`reproduce`: 1 where an image differs)."""
    args = list(sys.argv[1:] if args is None else args)
    if not args or args[0] in ("-h", "--help"):
        print(_overview())
        return 0 if args else USAGE_ERROR
    if args[0] == "--version":
        print(f"reimagen_jax {__version__}")
        return 0
    runtime.configure()
    try:
        status = _run(args[0], args[1:])
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
        near = difflib.get_close_matches(name, COMMANDS, n=1)
        hint = f"did you mean `{near[0]}`?" if near else f"the commands are {', '.join(COMMANDS)}"
        raise UserError(f"there is no command {name!r}: {hint}")
    module, _, attribute = COMMANDS[name][0].partition(":")
    command = getattr(importlib.import_module(f"reimagen_jax.commands.{module}"), attribute)
    import tyro

    with _paths_are_local():
        if isinstance(command, type):
            return (
                tyro.cli(command, prog=f"reimagen {name}", args=args, config=(tyro.conf.FlagCreatePairsOff,)).run() or 0
            )
        command(args)
        return 0


def _paths_are_local() -> "ConstructorRegistry":
    """A rule of the command line's, for every option that is a path: it is one of this machine's (`paths.local`)."""
    from tyro.constructors import ConstructorRegistry, PrimitiveConstructorSpec, PrimitiveTypeInfo

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


def _overview() -> str:
    width = max(map(len, COMMANDS))
    lines = [f"  {name:<{width}}  {purpose}" for name, (_, purpose) in COMMANDS.items()]
    return "\n".join(
        [
            "Re-Imagen: retrieval-augmented text-to-image generation.",
            "",
            "usage: reimagen COMMAND [options]",
            "",
            *lines,
            "",
            "`reimagen COMMAND --help` explains a command and its options.",
        ]
    )


if __name__ == "__main__":
    sys.exit(main())
