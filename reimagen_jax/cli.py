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

from reimagen_jax import __version__, runtime
from reimagen_jax.errors import UserError
from reimagen_jax.terminal import say

COMMANDS = {
    "prepare": ("prepare:Prepare", "images with captions -> records"),
    "encode-train": ("encode_train:EncodeTrain", "records -> an encoder, for knowledge bases that search by vectors"),
    "index": ("index:Index", "records -> knowledge base; adds to it, describes it, checks it"),
    "search": ("search:Search", "texts -> what a knowledge base finds for them, with a contact sheet"),
    "embed": ("embed:Embed", "captions of records -> embeddings by a frozen text encoder"),
    "triples": ("triples:BuildTriples", "records + knowledge base -> training data (KNN-ImageText)"),
    "train": ("train:main", "training data -> checkpoints"),
    "export": ("export:Export", "checkpoint -> safetensors, settings and a model card, to hand on"),
    "sample": ("sample:Sample", "prompts -> images, with neighbours from a knowledge base or given by hand"),
    "sweep": ("sweep:Sweep", "prompts -> a report over eta: from all neighbours to all text"),
    "evaluate": ("evaluate:main", "checkpoint -> tables of faithfulness and alignment"),
    "rater": ("rater:main", "trains and checks the rater that evaluate, sweep and demo use"),
    "demo": ("demo:Demo", "all of it in three minutes, with weights that come with the package"),
}
"""Name -> (module and class in `reimagen_jax.commands`, what it does)."""

MENDABLE = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOSPC, errno.EDQUOT)
"""What the system refuses and the user can mend: permissions and full disks."""
USAGE_ERROR = 2
INTERRUPTED = 130
PIPE_CLOSED = 141


def main(args: Sequence[str] | None = None) -> int:
    """Runs one command and returns the exit status: 0, 2 on bad input (one line on stderr says what), 130 on Ctrl-C."""
    args = list(sys.argv[1:] if args is None else args)
    if not args or args[0] in ("-h", "--help"):
        print(_overview())
        return 0 if args else USAGE_ERROR
    if args[0] == "--version":
        print(f"reimagen_jax {__version__}")
        return 0
    runtime.configure()
    try:
        _run(args[0], args[1:])
        sys.stdout.flush()
    except BrokenPipeError:  # whoever reads has read enough, as in `... | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return PIPE_CLOSED
    except UserError as error:
        say(f"error: {' '.join(str(error).split())}", error=True)
        return USAGE_ERROR
    except OSError as error:
        if error.errno not in MENDABLE:
            raise
        say(f"error: {error.filename or 'writing'}: {error.strerror}", error=True)
        return USAGE_ERROR
    except KeyboardInterrupt:
        print("error: interrupted", file=sys.stderr)
        return INTERRUPTED
    return 0


def _run(name: str, args: list[str]) -> None:
    if name not in COMMANDS:
        near = difflib.get_close_matches(name, COMMANDS, n=1)
        hint = f"did you mean `{near[0]}`?" if near else f"the commands are {', '.join(COMMANDS)}"
        raise UserError(f"there is no command {name!r}: {hint}")
    module, _, attribute = COMMANDS[name][0].partition(":")
    command = getattr(importlib.import_module(f"reimagen_jax.commands.{module}"), attribute)
    if isinstance(command, type):
        import tyro

        tyro.cli(command, prog=f"reimagen {name}", args=args, config=(tyro.conf.FlagCreatePairsOff,)).run()
    else:
        command(args)


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
