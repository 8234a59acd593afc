"""`reimagen report`: measurements that are kept beside the code, as a page of their own and as other pages' tables."""

import difflib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from reimagen_jax.checked import Options
from reimagen_jax.commands.usage import HELP, HELP_ALL, run, run_one
from reimagen_jax.errors import UserError, require
from reimagen_jax.terminal import say

if TYPE_CHECKING:
    from reimagen_jax.reports.kept import Kept

DESCRIPTION = """Show measurements that are kept as JSON, with what made each, and write tables of pages from them:
`reimagen report RESULTS --out DIR` is `reimagen report page`."""
KIND = "page of results"
DIFFERS = 1
"""Status where a table is not as the results have it."""


@dataclass(frozen=True)
class Page(Options):
    """Write all measurements that are kept as a page: plots with intervals, tables, and what made each figure.

        reimagen report page experiments/results --out runs/results

    Writes results.html (one file that needs nothing else), and results.md with its plots beside it. Below each table
    stand the command, seed, hardware, commit, version and date of its figures, as far as they were recorded.
    """

    results: Annotated[Path, tyro.conf.Positional]
    """Folder of files that `reimagen report keep` has written."""
    out: Path
    """Folder to write."""
    overwrite: bool = False
    """Replace the folder in --out, if this command wrote it, once the new one is complete; one of another kind, or with
    other files in it, is kept."""

    def run(self) -> None:
        """Reads and writes. Raises `UserError` where there are no results, or one cannot be read."""
        from reimagen_jax.files import atomic_dir, require_writable
        from reimagen_jax.reports.kept import read_all
        from reimagen_jax.reports.kept_page import PAGE, TEXT, write_page

        require_writable(self.out, kind=KIND, overwrite=self.overwrite)
        results = read_all(self.results)
        with atomic_dir(self.out, kind=KIND, overwrite=self.overwrite) as folder:
            write_page(results, folder)
        say(f"{len(results)} measurements: {self.out / PAGE}, {self.out / TEXT}")


@dataclass(frozen=True)
class Keep(Options):
    """Keep what an evaluation has found as one small JSON file, with what made it, to lie beside the code.

        reimagen report keep runs/evaluation --title "The shipped model" --out experiments/results/shipped.json
        reimagen report keep prior=runs/by_prior references=runs/references --title "unCLIP" \\
            --measured "128 prompts a row, drawn by unCLIP." --out experiments/results/unclip.json

    RUN is a folder of `evaluate entities`, `answers`, `seedselect`, `pictures`, `fewshot`, `longtail`, `coco` or
    `wiki`, of `rate results` or `sweep`, or the file of `evaluate fid`, `drawn` or `scores`. Several of one kind become
    one table, each with a label for its rows. Command, seed, hardware, commit and version are those that the run has
    recorded, the date is that of its file; what is not recorded is null. What a page is to say besides, such as which
    figures it stresses (`bold`), is written into the file.
    """

    runs: Annotated[tuple[str, ...], tyro.conf.Positional, tyro.conf.arg(metavar="[LABEL=]RUN ...")]
    """What was measured, and by which word the rows of several are told."""
    out: Annotated[Path, tyro.conf.arg(metavar="FILE.json")]
    """File to write."""
    title: str
    """Its heading on the page."""
    measured: str = ""
    """What was measured, and how to read it, in sentences."""
    hardware: str | None = None
    """What it ran on, where the run has not recorded it."""
    by_count: bool = False
    """Of `evaluate entities`, the table by how many training images there are of an entity."""
    overwrite: bool = False
    """Replace the file in --out."""

    def run(self) -> None:
        """Reads, writes, and prints the table. Raises `UserError` on runs that it cannot read."""
        from reimagen_jax.reports.keeping import keep, other_prompts, places
        from reimagen_jax.reports.kept import markdown, write_kept

        require(self.out.suffix == ".json", f"--out {self.out}: measurements are files NAME.json")
        require(self.overwrite or not self.out.exists(), f"{self.out} already exists: pass --overwrite to replace it")
        require(not self.out.is_dir(), f"{self.out} is a folder: name a file")
        kept = keep(self.runs, self.title, self.measured, self.hardware, by_count=self.by_count)
        try:
            self.out.parent.mkdir(parents=True, exist_ok=True)
            write_kept(self.out, kept)
        except OSError as error:
            raise UserError(f"cannot write {self.out}: {error.strerror}") from error
        say(*markdown(kept), f"kept: {self.out}")
        if apart := other_prompts(self.runs):
            say(f"{', '.join(apart)}: of other prompts than the runs before; draw the same to compare", error=True)
        if named := dict.fromkeys(place for made in kept.made for place in places(made)):
            say(f"the commands in it name places of this machine: {', '.join(named)}", error=True)


@dataclass(frozen=True)
class Tables(Options):
    """Write the tables of Markdown pages anew, from the measurements that are kept, or check them.

        reimagen report tables README.md experiments/RESULTS.md --results experiments/results
        reimagen report tables README.md --results experiments/results --check

    A table stands between two comments, each on a line of its own. The first names the file without its ending, then,
    if not all is to be shown, rows by LABEL=VALUE and columns by column=NAME; both may be repeated, for further ones:
        <!-- results: shipped entities=unseen entities=rare column=faithful -->
        <!-- /results -->
    """

    pages: Annotated[tuple[Path, ...], tyro.conf.Positional]
    """Markdown files."""
    results: Path
    """Folder of files that `reimagen report keep` has written."""
    check: bool = False
    """Write nothing; say what differs, with status 1 where something does."""

    def run(self) -> int:
        """Returns the status. Raises `UserError` on comments and results that do not go together."""
        from reimagen_jax.files import write_text
        from reimagen_jax.reports.kept import BEGIN, read_all

        require(bool(self.pages), "no page is given: name Markdown files")
        results = read_all(self.results)
        pages = {path: _text(path) for path in self.pages}
        anew = {path: _filled(text, results, str(path)) for path, text in pages.items()}  # all of them, or none
        status = 0
        for path, text in pages.items():
            count = len(re.findall(f"^{BEGIN}", text, re.MULTILINE))
            tables = f"{count} table{'' if count == 1 else 's'}"
            if text == anew[path]:
                say(f"{path}: {tables}, as the results have {'it' if count == 1 else 'them'}")
            elif self.check:
                differences = difflib.unified_diff(text.splitlines(), anew[path].splitlines(), lineterm="", n=0)
                say(f"{path} differs from the results:", *list(differences)[2:], error=True)
                status = DIFFERS
            else:
                write_text(path, anew[path])
                say(f"{path}: {tables}, written anew")
        return status


def _text(path: Path) -> str:
    """With the ends of lines that it has."""
    try:
        with path.open(encoding="utf-8", newline="") as file:
            return file.read()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path} cannot be read as a Markdown page: {error}") from error


def _filled(text: str, results: "Mapping[str, Kept]", where: str) -> str:
    """As `filled` does; a page of Windows' lines stays one."""
    from reimagen_jax.reports.kept import filled

    windows = "\r\n" in text and text.count("\r\n") == text.count("\n")
    new = filled(text.replace("\r\n", "\n") if windows else text, results, where)
    return new.replace("\n", "\r\n") if windows else new


COMMANDS = {"page": Page, "keep": Keep, "tables": Tables}


def main(args: Sequence[str]) -> int:
    """Parses and runs; `args` are those after `report`. Returns the status. A folder in a command's place: `page`."""
    folder = args[:1] and args[0] not in (*COMMANDS, *HELP, HELP_ALL) and re.match(r"-|.*/", args[0])
    if folder or (args and args[0] not in COMMANDS and Path(args[0]).is_dir()):
        return run(Page, "reimagen report page", args)
    return run_one(COMMANDS, "reimagen report", DESCRIPTION, args)
