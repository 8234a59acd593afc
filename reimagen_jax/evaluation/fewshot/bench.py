"""Rows of few shots and of the long tail: learned, measured, stored as they are done, compared task by task.

A row is a learner, a number of ways and shots (or the tail), and what a support is filled up with (an arm): nothing,
classical augmentation, or pictures that a system made of it. Its values are the accuracies of the tasks, of which the
mean is told with its 95 % interval (the bootstrap over tasks), and the difference to `none` on the same tasks.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from reimagen_jax.checked import read as read_checked
from reimagen_jax.errors import UserError
from reimagen_jax.evaluation.fewshot.episodes import GROUPS, Task, episodes, group_of, tails
from reimagen_jax.evaluation.fewshot.learners import Learner
from reimagen_jax.evaluation.fewshot.pools import Pool, Truth
from reimagen_jax.evaluation.statistics import Interval, mean_ci, paired_difference_ci
from reimagen_jax.evaluation.store import checksum
from reimagen_jax.files import write_json
from reimagen_jax.progress import track

NONE, ALL = "none", "all"


@dataclass(frozen=True)
class Setting:
    """What is learned, and by whom."""

    learner: str
    ways: int | None
    """None: all classes; of the long tail, too."""
    shots: int | None
    """None: the long tail."""

    def __str__(self) -> str:
        ways = "all-way" if self.ways is None else f"{self.ways}-way"
        return f"{self.learner}, long tail" if self.shots is None else f"{self.learner}, {ways} {self.shots}-shot"


@dataclass(frozen=True)
class Row:
    """Of one setting and arm."""

    setting: Setting
    arm: str
    classes: int
    pictures: float
    """That are learned from, on average over tasks; made ones among them."""
    accuracy: Mapping[str, Interval]
    """Over all queries; of the long tail also over those of many, medium and few."""
    difference: Mapping[str, Interval]
    """To `none`, task by task; empty for it itself."""
    tasks: int


@dataclass(frozen=True)
class _Stored:
    """A row's file."""

    pictures: list[float]
    accuracy: dict[str, list[float]]
    classes: int


@dataclass(frozen=True, eq=False)
class Bench:
    """Tasks over true pictures, and what fills them up."""

    truth: Truth
    made: Mapping[str, Pool]
    """Arm -> pictures, in order; without `none`."""
    learners: Mapping[str, Learner]
    folder: Path
    number: int
    """Tasks."""
    queries: int
    seed: int
    shots: int = 1
    """The most."""
    most: int = 1
    """Of the long tail: records of its first class."""
    exponent: float = 1.0

    def rows(self, settings: Sequence[Setting]) -> Iterator[Row]:
        """In order, each as soon as it is there. Raises `UserError` where records are too few."""
        for setting in settings:
            tasks, plain = self.tasks(setting), None
            for arm in (NONE, *self.made):
                stored = self._stored(setting, arm, tasks)
                plain = stored if plain is None else plain
                yield self._row(setting, arm, stored, plain)

    def tasks(self, setting: Setting) -> list[Task]:
        """Of a setting, the same for all arms."""
        if setting.shots is None:
            return tails(self.truth.class_N, self.most, self.exponent, self.queries, self.number, self.seed)
        known = episodes(self.truth.class_N, setting.ways, self.shots, self.queries, self.number, self.seed)
        return [task.first(setting.shots) for task in known]

    def _row(self, setting: Setting, arm: str, stored: _Stored, plain: _Stored) -> Row:
        differences = {} if arm == NONE else {
            name: paired_difference_ci(values, plain.accuracy[name]) for name, values in stored.accuracy.items()
        }  # fmt: skip
        accuracy = {name: mean_ci(values) for name, values in stored.accuracy.items()}
        return Row(
            setting, arm, stored.classes, float(np.mean(stored.pictures)), accuracy, differences, len(stored.pictures)
        )

    def _stored(self, setting: Setting, arm: str, tasks: Sequence[Task]) -> _Stored:
        """Measured, or as it was."""
        path = self.folder / f"{checksum(self._depends(setting, arm))}.json"
        if path.is_file():
            return read_checked(path, _Stored, "a row of few shots")
        pictures, accuracy = [], {name: [] for name in ((ALL, *GROUPS) if setting.shots is None else (ALL,))}
        for e, task in enumerate(track(tasks, len(tasks), f"{setting}, {arm}", "task")):
            right_Q, learned = self._learned(setting, arm, task, e)
            pictures.append(float(learned))
            groups = np.array(group_of(task.ways))[task.asked_class]
            for name, values in accuracy.items():
                values.append(float(right_Q[(groups == name) | (name == ALL)].mean()))
        self.folder.mkdir(parents=True, exist_ok=True)
        found = _Stored(pictures, accuracy, tasks[0].ways)
        write_json(path, vars(found))
        return found

    def _learned(self, setting: Setting, arm: str, task: Task, seed: int) -> tuple[np.ndarray, int]:
        """Which queries are said right by whoever has learned a task, and from how many pictures."""
        x, y = [], []
        learner = self.learners[setting.learner]
        filled = max(len(each) for each in task.support) if setting.shots is None else None
        for place, true in enumerate(task.support):
            x.append(_read(self.truth.pool, learner)[true])
            y += [place] * len(true)
            if arm != NONE:
                pool = self.made[arm]
                more = _spread(pool, true)[: None if filled is None else filled - len(true)]
                x.append(_read(pool, learner)[more])
                y += [place] * len(more)
        learned, asked = np.concatenate(x), _read(self.truth.pool, learner)[task.asked]
        said_Q = learner.learn(learned, np.array(y), asked, task.ways, seed)
        return said_Q == task.asked_class, len(learned)

    def _depends(self, setting: Setting, arm: str) -> dict[str, Any]:
        tail = {"most": self.most, "exponent": self.exponent} if setting.shots is None else {"shots": self.shots}
        return {
            "setting": vars(setting),
            "arm": self.made[arm].fingerprint if arm != NONE else NONE,
            "truth": self.truth.pool.fingerprint,
            "classes": list(self.truth.classes),
            "number": self.number,
            "queries": self.queries,
            "seed": self.seed,
            **tail,
            **self.learners[setting.learner].facts,
        }


def _read(pool: Pool, learner: Learner) -> np.ndarray:
    """What a learner reads of a pool."""
    found = getattr(pool, learner.reads)
    if found is None:
        raise UserError(f"{pool.name}: its pictures were not read for this learner")
    return found


def _spread(pool: Pool, true: Sequence[int]) -> list[int]:
    """The pictures that were made of these, the first of each before the second of any."""
    made: dict[int, int] = {}
    found = pool.made_of([int(n) for n in true])
    place = {}
    for i in found:
        first = pool.of[i][0]
        place[i] = made.get(first, 0)
        made[first] = place[i] + 1
    return sorted(found, key=lambda i: place[i])
