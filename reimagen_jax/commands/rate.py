"""`reimagen rate`: people say of pictures of several systems, which they do not know, whether they are right."""

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, ClassVar

import tyro
from annotated_types import Ge, Le

from reimagen_jax.checked import Count, Natural, Options, Seed
from reimagen_jax.commands.serving_options import ServingOptions, needs_web
from reimagen_jax.commands.usage import HELP, HELP_ALL, run, run_one
from reimagen_jax.errors import require
from reimagen_jax.terminal import say

if TYPE_CHECKING:
    from reimagen_jax.evaluation.human.contents import Contents
    from reimagen_jax.evaluation.human.store import Ratings
    from reimagen_jax.evaluation.human.study import Study

DESCRIPTION = """Let people rate pictures of several systems in the browser, blinded, and count what they say:
`reimagen rate LABEL=FOLDER ... --out DIR` is `reimagen rate serve`."""
BestOf = Annotated[int, Ge(1), Le(9)]


@dataclass(frozen=True)
class Serve(Options):
    """Show raters prompts, references and pictures of systems that are not named, and store what they say.

        reimagen rate serve with=runs/with without=runs/without --out runs/rating

    Each folder is one that `reimagen sample` has drawn for the same prompts, of `reimagen evaluate people`, of
    `reimagen evaluate entities --pictures`, or of a sweep; of one with several parts all are systems, or one:
        reimagen rate with=runs/people:own without=runs/people:none --out runs/rating

    Of four pictures of a prompt a rater takes the best and says 0 or 1 for photorealism and for faithfulness, as
    Re-Imagen was rated. Several people rate at once, each by a name and in an order of their own; whoever comes back by
    the same name goes on. What is rated is copied, and every rating is on the disk before the page says so. After a
    stop:
        reimagen rate --out runs/rating

    Then, or meanwhile:
        reimagen rate results runs/rating --out runs/rating_results
        reimagen rate export runs/rating --out ratings.csv
    """

    common: ClassVar[tuple[str, ...]] = (
        "systems",
        "best_of",
        "about",
        "references_of",
        "knowledge_base",
        "only_common",
    )

    out: Path
    """Folder to write, with the ratings in it, or to go on with."""
    systems: Annotated[tuple[str, ...], tyro.conf.Positional, tyro.conf.arg(metavar="LABEL=FOLDER[:PART] ...")] = ()
    """What is compared; nothing to go on with the folder in --out."""
    best_of: BestOf = 4
    """Pictures of which a rater takes the best and rates it, 4 in the paper; 1: every picture is rated by itself."""
    only_common: bool = False
    """Rate the prompts that all systems have, where some lack some; without it that is refused."""
    about: Path | None = None
    """What is known of the prompts: records whose captions they are, or a JSON-lines file with `text`, `category` and
    `frequency` (frequent, infrequent; also `split` or `entity_split`: frequent, rare, unseen)."""
    references_of: str | None = None
    """Label of the system whose neighbours are shown as references, with all systems (default: the first that has
    some)."""
    knowledge_base: Annotated[tuple[Path, ...], tyro.conf.arg(metavar="DIR ...")] = ()
    """Where the references are, if they are not where the pictures say."""
    num_references: Natural = 4
    """References that are shown of a prompt, at most."""
    prompts_each: Count | None = None
    """Prompts that a rater is shown, at most: those that the fewest raters have (default: all)."""
    seed: Seed = 0
    """Of all orders."""
    where: Annotated[ServingOptions, tyro.conf.arg(name="")] = field(default_factory=ServingOptions)

    def run(self) -> None:
        """Copies what is rated, or opens it, and serves the page until Ctrl-C. Raises `UserError` on bad input."""
        from reimagen_jax.evaluation.human.store import Ratings

        with needs_web():
            from reimagen_jax.web.rate import application
        with Ratings.open(self.study()) as ratings:
            say(described(ratings.study), *progress(ratings))
            say(f"results, whenever you like: reimagen rate results {self.out}")
            self.where.serve(lambda token: application(ratings, token, self.where.host, self.prompts_each))

    def study(self) -> "Study":
        """What is rated: what was given, or what lies in --out."""
        from reimagen_jax.evaluation.human.study import KIND, Study
        from reimagen_jax.files import atomic_dir, recover, require_own

        recover(self.out)
        require_own(self.out, KIND)
        there = self.out.is_dir() and any(self.out.iterdir())
        require(there or bool(self.systems), f"{self.out} is not there to go on with: give systems as LABEL=FOLDER")
        if not self.systems:
            return Study.open(self.out)
        contents = self._contents()
        if there:
            study = Study.open(self.out)
            study.require_same(contents.checksums)
            return study
        with atomic_dir(self.out, kind=KIND, overwrite=True) as folder:  # an empty one at most
            contents.write(folder)
        return Study.open(self.out)

    def _contents(self) -> "Contents":
        from reimagen_jax.evaluation.human import contents, drawn

        systems = drawn.read_systems(self.systems)
        texts = drawn.common(systems, only=self.only_common)
        if self.only_common:
            say(*drawn.lacking(systems), error=True)
        number, at_once = contents.group_size(systems, texts, self.best_of)
        most = max(len(system.prompts[text].pictures) for system in systems for text in texts)
        if number < most:
            say(f"{number} pictures of each prompt and system are rated, of up to {most} that there are", error=True)
        if at_once < self.best_of:
            say(f"there are {at_once} pictures of a prompt, so it is the best of {at_once} that is rated", error=True)
        more = {} if self.about is None else contents.read_about(self.about)
        known = contents.about(systems, texts, more)
        places = (self.references_of or "", self.knowledge_base, self.num_references)
        shown = contents.references(systems, texts, *places)
        if bare := [text for text in texts if not shown[text]]:
            say(f"{len(bare)} of {len(texts)} prompts have no references, such as {bare[0]!r}", error=True)
        return contents.Contents(systems, texts, known, shown, number, at_once, self.seed)


@dataclass(frozen=True)
class Export(Options):
    """Write all ratings to a file: who said 0 or 1, when, of which system, prompt and picture; a line each.

        reimagen rate export runs/rating --out ratings.csv

    What was taken back is left out. It may be written while people rate.
    """

    ratings: Annotated[Path, tyro.conf.Positional]
    """Folder of `reimagen rate`."""
    out: Path
    """File to write: .csv, or .json."""
    overwrite: bool = False
    """Replace the file in --out."""

    def run(self) -> None:
        """Writes the file. Raises `UserError` where there are no ratings, or the file is there."""
        from reimagen_jax.errors import UserError
        from reimagen_jax.files import write_json, write_text
        from reimagen_jax.reports import human

        kind = self.out.suffix.lower()
        require(kind in (".csv", ".json"), f"--out {self.out}: its ending is to be .csv or .json")
        require(self.overwrite or not self.out.exists(), f"{self.out} already exists: pass --overwrite to replace it")
        with opened(self.ratings) as ratings:
            lines = human.rating_lines(ratings)
        try:
            self.out.parent.mkdir(parents=True, exist_ok=True)
            if kind == ".csv":
                write_text(self.out, human.as_csv(lines))
            else:
                write_json(self.out, lines)
        except OSError as error:
            raise UserError(f"cannot write {self.out}: {error.strerror}") from error
        say(f"{len(lines)} ratings: {self.out}")


@dataclass(frozen=True)
class ShowResults(Options):
    """Count what raters have said, in shares with 95 % intervals, by category and frequency, and how far they agree.

        reimagen rate results runs/rating --out runs/rating_results

    With --out, writes results.json, results.csv, agreement.csv and plots. It may be given while people rate.
    """

    common: ClassVar[tuple[str, ...]] = ("out", "overwrite")

    ratings: Annotated[Path, tyro.conf.Positional]
    """Folder of `reimagen rate`."""
    out: Path | None = None
    """Folder to write (default: it is printed alone)."""
    overwrite: bool = False
    """Replace the folder in --out, if this command wrote it, once the new one is complete; one of another kind, or with
    other files in it, is kept."""

    def run(self) -> None:
        """Prints, and writes. Raises `UserError` where there are no ratings."""
        from reimagen_jax import __version__, runtime
        from reimagen_jax.evaluation.human.results import results
        from reimagen_jax.files import atomic_dir, require_writable
        from reimagen_jax.reports import human

        kind = "results of ratings"
        if self.out is not None:
            require_writable(self.out, kind=kind, overwrite=self.overwrite)
        with opened(self.ratings) as ratings:
            found = results(ratings.study, ratings.ratings())
            say(described(ratings.study), *progress(ratings), *human.lines(ratings.study, found))
            if self.out is None:
                return
            facts = {"command": f"reimagen rate results {self.ratings}", "made_by": f"reimagen_jax {__version__}"}
            facts |= {"versions": {"commit": commit}} if (commit := runtime.commit()) is not None else {}
            with atomic_dir(self.out, kind=kind, overwrite=self.overwrite) as folder:
                human.write(ratings, found, folder, facts)
        say(f"results: {self.out / human.RESULTS}")


@contextmanager
def opened(folder: Path) -> Iterator["Ratings"]:
    """The ratings in a folder of `reimagen rate`, then closed. Raises `UserError` where there are none."""
    from reimagen_jax.evaluation.human.store import FILE, Ratings
    from reimagen_jax.evaluation.human.study import Study

    study, nobody = Study.open(folder), f"nobody has rated anything in {folder} yet: reimagen rate --out {folder}"
    require((study.path / FILE).is_file(), nobody)
    with Ratings.open(study) as ratings:
        require(len(ratings) > 0, nobody)
        yield ratings


def described(study: "Study") -> str:
    """What there is to rate."""
    rated = f"the best of {study.best_of}" if study.best_of > 1 else "each picture"
    return (
        f"{len(study)} tasks: {len(study.prompts)} prompts, {len(study.systems)} systems ({', '.join(study.systems)}), "
        f"{study.images_per_prompt} pictures of each, {rated} is rated"
    )


def progress(ratings: "Ratings") -> list[str]:
    """How far each rater is."""
    return [f"{rater.name}: {done.rated} of {done.of} rated" for rater, done in ratings.raters()]


COMMANDS = {"serve": Serve, "export": Export, "results": ShowResults}


def main(args: Sequence[str]) -> None:
    """Parses and runs; `args` are those after `rate`. Without the name of a command it is `serve`."""
    named = args[:1] and (args[0] in (*COMMANDS, *HELP, HELP_ALL) or not re.match(r"-|[^=]+=", args[0]))
    if named or not args:
        run_one(COMMANDS, "reimagen rate", DESCRIPTION, args)
    else:
        run(Serve, "reimagen rate serve", args)
