"""`reimagen index`: records into a knowledge base, and all that is done to a knowledge base as a whole."""

from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

import tyro

from reimagen_jax.checked import Options, Positive, Seed, Share
from reimagen_jax.errors import UserError
from reimagen_jax.terminal import say

if TYPE_CHECKING:
    from reimagen_jax.retrieval.analysis import Analyser
    from reimagen_jax.retrieval.building import Dense
    from reimagen_jax.retrieval.knowledge_base import KnowledgeBase


@dataclass(frozen=True)
class BuildOptions(Options):
    """How a new knowledge base finds its records; what is added to it later is treated in the same way."""

    common: ClassVar[tuple[str, ...]] = ("encoder",)

    k1: Positive = 1.2
    """BM25: how soon a word that a caption repeats stops counting (above 0; usual values are 1.2 to 1.5)."""
    b: Share = 0.75
    """BM25: how much longer captions are held back, 0 (not at all) to 1."""
    stemming: str | None = None
    """Reduce words to their stems, by the rules of a language, such as english (Snowball)."""
    stop_words: str | None = None
    """Leave out common words: `english`, or a text file with one word a line."""
    encoder: Path | None = None
    """Also search by vectors, of this encoder: a folder written by `reimagen encode-train`, or with CLIP's weights."""
    vectors_of: Literal["image", "text"] = "image"
    """With --encoder: what of a record is compared with a query, its image or its caption."""
    dense_kind: Literal["exact", "approx", "faiss"] = "exact"
    """With --encoder: all vectors compared, approximately on TPUs, or faiss's lists for what memory does not hold."""
    seed: Seed = 0
    """With --encoder: of the sample on which recall is measured, and of faiss's clusters."""

    def analyser(self) -> "Analyser":
        """Raises `UserError` on a language that is not known and a file that cannot be read."""
        from reimagen_jax.retrieval.analysis import ENGLISH_STOP_WORDS, Analyser

        words = ENGLISH_STOP_WORDS if self.stop_words == "english" else _lines(self.stop_words)
        return Analyser(stemming=self.stemming, stop_words=words)

    def dense(self) -> "Dense | None":
        """Raises `UserError` on settings of vectors without an encoder."""
        from reimagen_jax.retrieval.building import Dense

        if self.encoder is None:
            if (self.vectors_of, self.dense_kind, self.seed) != ("image", "exact", 0):
                raise UserError("--vectors-of, --dense-kind and --seed are about vectors: give an --encoder")
            return None
        return Dense(self.encoder, self.vectors_of, self.dense_kind, self.seed)


@dataclass(frozen=True)
class Index(Options):
    """Index records by their captions, so that neighbours can be found for a text: a knowledge base.

    For example:
        reimagen index runs/knowledge --out runs/index

    The records, of one folder or several, stay where they are; the knowledge base refers to them.

    Later, in place (or to another folder, with --out):
        reimagen index runs/more --append-to runs/index
        reimagen index runs/index --delete cat17.png cat18.png
        reimagen index runs/index --delete-where licence=unknown

    Two bases into one, what a base holds, and whether all of it is whole:
        reimagen index runs/index runs/other --merge --out runs/both
        reimagen index runs/index --stats
        reimagen index runs/index --verify
    """

    path: Annotated[Path, tyro.conf.Positional]
    """Folder written by `reimagen prepare`; for all but building and --append-to, one written by `reimagen index`."""
    more: Annotated[tuple[Path, ...], tyro.conf.Positional] = ()
    """Further such folders."""
    out: Path | None = None
    """Folder to write; it must not exist yet."""
    how: Annotated[BuildOptions, tyro.conf.arg(name="")] = field(default_factory=BuildOptions)
    append_to: Path | None = None
    """Add the records to this knowledge base."""
    delete: tuple[str, ...] = ()
    """Take the records with these keys out of the knowledge base."""
    delete_where: Annotated[tuple[str, ...], tyro.conf.UseAppendAction] = ()
    """Take the records with FIELD=VALUE out of the knowledge base."""
    merge: bool = False
    """Make one knowledge base of several."""
    stats: bool = False
    """Describe the knowledge base: records, captions, vocabulary, duplicates, attributes."""
    verify: bool = False
    """Check all files against their checksums, and the index against the captions: `reimagen verify`."""
    overwrite: bool = False
    """Replace the folder in --out, if this command wrote it, once the new one is complete; one of another kind, or with
    other files in it, is kept."""

    def run(self) -> None:
        """Does the one thing that was asked and sums up. Raises `UserError` on bad input."""
        actions = {
            "--append-to": (bool(self.append_to), self._append),
            "--delete": (bool(self.delete or self.delete_where), self._delete),
            "--merge": (self.merge, self._merge),
            "--stats": (self.stats, self._stats),
            "--verify": (self.verify, self._verify),
        }
        asked = [name for name, (given, _) in actions.items() if given]
        if len(asked) > 1:
            raise UserError(f"{' and '.join(asked)} are different things: do one at a time")
        if not asked:
            self._build()
            return
        self._refuse_settings(asked[0])
        actions[asked[0]][1]()

    def _build(self) -> None:
        from reimagen_jax.data.records import Records
        from reimagen_jax.retrieval.knowledge_base import KnowledgeBase

        base = KnowledgeBase.build(
            [Records.open(path) for path in (self.path, *self.more)],
            self._needed_out(),
            k1=self.how.k1,
            b=self.how.b,
            analyser=self.how.analyser(),
            dense=self.how.dense(),
            overwrite=self.overwrite,
        )
        say(f"knowledge base of {len(base)} records in {base.path}")
        if base.dense is not None:
            say(f"  {_recall(base.manifest['dense'])}")

    def _append(self) -> None:
        from reimagen_jax.data.records import Records
        from reimagen_jax.files import tidy
        from reimagen_jax.retrieval.knowledge_base import KnowledgeBase

        base = KnowledgeBase.open(self.append_to)
        records = [Records.open(path) for path in (self.path, *self.more)]
        if self.out is None and base.was_appended(records):
            tidy(base.path)
            say(f"knowledge base of {len(base)} records in {base.path} has these as its last: nothing is left to do")
            return
        after = base.append(records, out=self.out, overwrite=self.overwrite)
        _sum_up(after, sum(map(len, records)))

    def _delete(self) -> None:
        from reimagen_jax.data.sources import Where

        base = self._only_base()
        where = Where.parse(self.delete_where, "--delete-where")
        after = base.delete(self.delete, where=where, out=self.out, overwrite=self.overwrite)
        _sum_up(after, len(after) - len(base))

    def _merge(self) -> None:
        from reimagen_jax.retrieval.knowledge_base import KnowledgeBase

        bases = [KnowledgeBase.open(path) for path in (self.path, *self.more)]
        merged = KnowledgeBase.merge(bases, self._needed_out(), overwrite=self.overwrite)
        say(f"knowledge base of {len(merged)} records in {merged.path}")
        if repeated := sum(map(len, bases)) - len(merged):
            say(f"  {repeated} records were in several: the first was taken")

    def _verify(self) -> None:
        from reimagen_jax.commands.verify import Verify

        Verify((self.path, *self.more)).run()

    def _stats(self) -> None:
        from reimagen_jax.retrieval.statistics import describe, lines

        say(*lines(describe(self._only_base())))

    def _only_base(self) -> "KnowledgeBase":
        from reimagen_jax.retrieval.knowledge_base import KnowledgeBase

        if self.more:
            raise UserError(f"one knowledge base at a time: {', '.join(map(str, (self.path, *self.more)))} are given")
        return KnowledgeBase.open(self.path)

    def _needed_out(self) -> Path:
        if self.out is None:
            raise UserError("--out DIR is needed: the folder to write")
        return self.out

    def _refuse_settings(self, action: str) -> None:
        """Settings of a new base say nothing of one that is there."""
        for option in fields(BuildOptions):
            if getattr(self.how, option.name) != option.default:
                flag = "--" + option.name.replace("_", "-")
                raise UserError(
                    f"{flag} is a setting of a new knowledge base: {action} keeps those of the one there is"
                )
        if self.out is not None and action in ("--stats", "--verify"):
            raise UserError(f"{action} writes nothing: leave --out out")


def _lines(path: str | None) -> tuple[str, ...]:
    """The lines of a text file that are not empty."""
    if path is None:
        return ()
    try:
        return tuple(line.strip() for line in Path(path).read_text(encoding="utf-8-sig").splitlines() if line.strip())
    except OSError as error:
        raise UserError(f"--stop-words {path} is neither `english` nor readable: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise UserError(f"--stop-words {path} is not UTF-8 text (byte {error.start})") from error


def _recall(settings: dict[str, Any]) -> str:
    measured = settings["recall"]
    return (
        f"vectors of {settings['width']} values, {settings['kind']} search: recall@{measured['k']} "
        f"{measured['share']:.4f} against exact search ({measured['queries']} queries)"
    )


def _sum_up(after: "KnowledgeBase", change: int) -> None:
    say(f"knowledge base of {len(after)} records in {after.path} ({change:+d})")
