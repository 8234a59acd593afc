"""`reimagen evaluate fewshot` and `longtail`: what pictures that were made are worth to those who learn from few."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

import tyro

from reimagen_jax.checked import Count, Options, Positive, Seed
from reimagen_jax.commands.evaluate_distances import FeatureOptions
from reimagen_jax.commands.options import command_line
from reimagen_jax.errors import UserError, require
from reimagen_jax.terminal import say

if TYPE_CHECKING:
    from reimagen_jax.evaluation.fewshot.bench import Bench, Setting

Records = Annotated[Path, tyro.conf.Positional]
KIND = "evaluation of few shots"
ALL, FIRST_OF_ALL = "all", ("none", "classical")


@dataclass(frozen=True)
class _Learning(Options):
    """What is learned from, and by whom."""

    common: ClassVar[tuple[str, ...]] = ("class_by", "made", "variants", "learners")

    class_by: str = "entity"
    """Field whose values are the classes; a dot reaches into nested ones."""
    where: Annotated[tuple[str, ...], tyro.conf.UseAppendAction] = ()
    """Only records with FIELD=VALUE, such as split=unseen, are learned from and asked about. Repeat it for
    further values, or for further fields."""
    made: Annotated[tuple[str, ...], tyro.conf.arg(metavar="LABEL=DIR ...")] = ()
    """Records that a system made of these ones, as `reimagen augment` writes them, under the name that their row is to
    have. Of every system one; each picture tells in `source` which records it is of."""
    variants: Count = 4
    """Pictures that each record is filled up with, at most; by classical augmentation, so many."""
    learners: tuple[Literal["probe", "net"], ...] = ("probe", "net")
    """Logistic regression on --features (probe), and a small network that is trained from nothing (net)."""
    net_side: Count = 32
    """Pixels that the network reads; a multiple of 8."""
    net_steps: Count = 150
    """Steps that it is trained for."""
    queries: Count = 15
    """Records of each class that are asked about, at most."""
    seed: Seed = 0
    """Of the draws of classes and records, of classical augmentation and of the network."""

    def bench(self, records: Path, features: FeatureOptions, out: Path, **tasks: Any) -> "Bench":
        """Reads all pictures. Raises `UserError` on bad options or input."""
        from reimagen_jax.data.sources.where import Where
        from reimagen_jax.evaluation.fewshot import learners, pools
        from reimagen_jax.evaluation.fewshot.bench import Bench

        require(bool(self.learners), "--learners is empty: give probe, net, or both")
        require(self.net_side % 8 == 0, f"--net-side {self.net_side} is no multiple of 8")
        given = self._labelled()
        where = Where.parse(self.where)
        opened = features.open() if "probe" in self.learners else None
        read = pools.Reader(opened, self.net_side if "net" in self.learners else None)
        truth = pools.true_pictures(records, self.class_by, read, where)
        made = {pools.CLASSICAL: pools.classical_pictures(records, truth, self.variants, self.seed, read)}
        made |= {label: pools.made_pictures(label, path, truth, self.variants, read) for label, path in given.items()}
        for pool in (truth.pool, *made.values()):
            say(f"{pool.name}: {len(pool.of):,} pictures")
        known = {
            "probe": learners.Learner(learners.probe, "vectors_ND", {"features": str(opened)}),
            "net": learners.Learner(
                learners.net(self.net_steps),
                "pixels_NHWC",
                {"side": self.net_side, "steps": self.net_steps, "format": 2},
            ),
        }
        return Bench(
            truth=truth,
            made=made,
            learners={name: known[name] for name in self.learners},
            folder=out / "rows",
            queries=self.queries,
            seed=self.seed,
            **tasks,
        )

    def _labelled(self) -> dict[str, Path]:
        found: dict[str, Path] = {}
        for word in self.made:
            label, equals, path = word.partition("=")
            require(bool(label and equals and path), f"--made {word!r} is not LABEL=DIR, such as Re-Imagen=runs/more")
            require(label not in (*FIRST_OF_ALL, *found), f"--made {word}: there is a row {label} already")
            found[label] = Path(path)
        return found


@dataclass(frozen=True)
class FewShot(Options):
    """N-way K-shot classification with pictures that were made added to the support.

        reimagen evaluate fewshot runs/records --where split=unseen --out runs/fewshot
        reimagen augment runs/records --model runs/train --variants 4 --out runs/more
        reimagen evaluate fewshot runs/records --where split=unseen --made Re-Imagen=runs/more --out runs/fewshot

    An episode draws N classes and K records of each, its support; others of these classes are asked about. Without
    augmentation, with classical one, and with each system's pictures, the episodes are the same. A picture that was
    made is learned from in those episodes alone whose support has all records that it is of: make them of all records
    beforehand, nothing of what is asked about is seen.

    Rows are stored as they are done: after a stop, or with one more system, the same command goes on where it was.
    Writes results.json, results.csv, results.md.
    """

    common: ClassVar[tuple[str, ...]] = ("shots", "ways", "episodes")

    records: Records
    """Folder written by `reimagen prepare`."""
    out: Path
    """Folder to write, or to go on with."""
    shots: tuple[Count, ...] = (1, 3, 5)
    """Records of each class that are learned from."""
    ways: tuple[str, ...] = ("5", ALL)
    """Classes of an episode; `all`: all that there are records enough of."""
    episodes: Count = 200
    """Of each setting."""
    learning: Annotated[_Learning, tyro.conf.arg(name="")] = field(default_factory=_Learning)
    by: Annotated[FeatureOptions, tyro.conf.arg(name="")] = field(default_factory=FeatureOptions)

    def run(self) -> None:
        """Learns, measures, stores and prints row after row. Raises `UserError` on bad options or input."""
        from reimagen_jax.evaluation.fewshot.bench import Setting

        require(bool(self.shots), "--shots is empty: give one number at least")
        require(bool(self.ways), "--ways is empty: give a number, or all")
        settings = [
            Setting(learner, way, shots)
            for learner in self.learning.learners
            for way in map(_way, self.ways)
            for shots in self.shots
        ]
        _run("evaluate fewshot", self, settings, number=self.episodes, shots=max(self.shots, default=1))


@dataclass(frozen=True)
class LongTail(Options):
    """Classifiers that have learned from a long tail, filled up with pictures that were made: accuracy on many, few.

        reimagen evaluate longtail runs/records --made Re-Imagen=runs/more --out runs/longtail

    Classes get Zipf's counts, the first --most records, the second half of that (with --exponent 1), and so on, one at
    least; who has which rank is drawn anew each time. Each class is then filled up to --most with pictures that were
    made of its records. Accuracy is told over all classes, and over the thirds that have many, medium, and few.

    Rows are stored as they are done: after a stop, or with one more system, the same command goes on where it was.
    Writes results.json, results.csv, results.md.
    """

    common: ClassVar[tuple[str, ...]] = ("most", "exponent", "draws")

    records: Records
    """Folder written by `reimagen prepare`."""
    out: Path
    """Folder to write, or to go on with."""
    most: Count = 20
    """Records of the most frequent class; every class has to have one more."""
    exponent: Positive = 1.0
    """Of Zipf's law: the count of rank r is --most / r to the power of this."""
    draws: Count = 20
    """Long tails that are drawn, each learned from anew."""
    learning: Annotated[_Learning, tyro.conf.arg(name="")] = field(default_factory=lambda: _Learning(variants=20))
    by: Annotated[FeatureOptions, tyro.conf.arg(name="")] = field(default_factory=FeatureOptions)

    def run(self) -> None:
        """Learns, measures, stores and prints row after row. Raises `UserError` on bad options or input."""
        from reimagen_jax.evaluation.fewshot.bench import Setting

        settings = [Setting(learner, None, None) for learner in self.learning.learners]
        _run("evaluate longtail", self, settings, number=self.draws, most=self.most, exponent=self.exponent)


def _way(word: str) -> int | None:
    if word == ALL:
        return None
    if not (word.isascii() and word.isdecimal() and 2 <= int(word) <= 10**6):
        raise UserError(f"--ways {word!r} is neither a number from 2 on nor `{ALL}`")
    return int(word)


def _run(name: str, command: FewShot | LongTail, settings: "Sequence[Setting]", **tasks: Any) -> None:
    from reimagen_jax.files import growing_dir
    from reimagen_jax.inference.provenance import versions
    from reimagen_jax.reports import fewshot as report

    require(command.records.exists(), f"{command.records} not found: give a folder of records (`reimagen prepare`)")
    with growing_dir(command.out, kind=KIND):
        bench = command.learning.bench(command.records, command.by, command.out, **tasks)
        facts = {
            "command": command_line(name, command),
            "records": bench.truth.pool.fingerprint,
            "classes": len(bench.truth.classes),
            "arms": {label: {"pictures": len(pool.of), "of": pool.fingerprint} for label, pool in bench.made.items()},
            "learners": {name: learner.facts for name, learner in bench.learners.items()},
            "versions": versions(),
        }
        rows = []
        for row in bench.rows(settings):
            if not rows or rows[-1].setting != row.setting:
                say(*report.heading(row))
            rows.append(row)
            say(report.line(row))
            report.write(rows, {**facts, "complete": False}, command.out)
        report.write(rows, {**facts, "complete": True}, command.out)
        say(f"results: {command.out / report.RESULTS}, {command.out / report.PAGE}")
