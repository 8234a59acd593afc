"""What raters have said, in SQLite: ratings.sqlite in the folder of a study, for any number of processes at once.

A rating is on the disk before anybody is told that it is stored (write-ahead log, synchronous = FULL). Nothing is ever
changed or deleted: `events` is a log of what was rated and taken back; a rating stands while it is the last of its
place. What a rater is shown is fixed when the rater begins, and recorded: the places 0, 1, 2, ... are tasks in an order
of the rater's own, with their pictures in such an order. Prompts are shuffled, and within a prompt the systems; all
systems of a prompt stand together, so whoever stops early has rated all systems on the same prompts.
"""

import json
import re
import sqlite3
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

import numpy as np

from reimagen_jax.errors import UserError, require
from reimagen_jax.evaluation.human.study import QUESTIONS, Study, Task

FILE = "ratings.sqlite"
VERSION = 1
APPLICATION = 0x52494A52
"""SQLite's application_id: the file is this program's."""
PATIENCE = 30.0
"""Seconds that a process waits for another one's rating to be stored."""
NAME = re.compile(r"[^\W_][\w .'@-]{0,59}")
"""A rater's name: letters, digits and some signs, of any script; no signs at its beginning."""

SCHEMA = """
CREATE TABLE study (checksum TEXT NOT NULL);
CREATE TABLE raters (
    id INTEGER PRIMARY KEY,
    name TEXT NOT NULL,
    key TEXT NOT NULL UNIQUE,
    seed TEXT NOT NULL,
    joined TEXT NOT NULL
);
CREATE TABLE assignments (
    rater INTEGER NOT NULL REFERENCES raters,
    place INTEGER NOT NULL,
    task INTEGER NOT NULL,
    pictures TEXT NOT NULL,
    PRIMARY KEY (rater, place),
    UNIQUE (rater, task)
) WITHOUT ROWID;
CREATE TABLE events (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    rater INTEGER NOT NULL,
    place INTEGER NOT NULL,
    kind TEXT NOT NULL CHECK (kind IN ('rated', 'undone')),
    photorealism INTEGER NOT NULL CHECK (photorealism IN (0, 1)),
    faithfulness INTEGER NOT NULL CHECK (faithfulness IN (0, 1)),
    chosen INTEGER NOT NULL CHECK (chosen >= 0),
    at TEXT NOT NULL,
    FOREIGN KEY (rater, place) REFERENCES assignments (rater, place)
);
CREATE INDEX events_of_place ON events (rater, place, id);
CREATE VIEW standing AS
    SELECT * FROM events WHERE kind = 'rated'
    AND id = (SELECT max(id) FROM events AS e WHERE e.rater = events.rater AND e.place = events.place);
"""


class Rater(NamedTuple):
    """Someone who rates."""

    id: int
    name: str


class Verdict(NamedTuple):
    """What a rater says of a task."""

    photorealism: int
    faithfulness: int
    chosen: int = 0
    """Of the pictures as they were shown to the rater, the one that it is of: 0, 1, ..."""


class Rating(NamedTuple):
    """A verdict that stands."""

    event: int
    rater: str
    place: int
    task: int
    picture: str
    """The file that was rated."""
    photorealism: int
    faithfulness: int
    at: str


@dataclass(frozen=True)
class Shown:
    """A task as a rater sees it."""

    place: int
    task: Task
    pictures: tuple[str, ...]
    """Files, in the order of this rater."""
    before: Verdict | None = None
    """What the rater has taken back."""


@dataclass(frozen=True)
class Progress:
    """How far a rater is."""

    rated: int
    of: int
    last: int | None
    """The event that an undo takes back."""


@dataclass(frozen=True, eq=False)
class Ratings:
    """The ratings of a study, opened. One connection, whose callers wait for each other."""

    study: Study
    path: Path
    _connection: sqlite3.Connection = field(repr=False)
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    @classmethod
    def open(cls, study: Study) -> "Ratings":
        """Opens them, or begins them. Raises `UserError` where they are of another study, or no such file."""
        path = study.path / FILE
        try:
            connection = sqlite3.connect(path, timeout=PATIENCE, isolation_level=None, check_same_thread=False)
            with _closed_on_error(connection):
                _prepare(connection, study, path)
        except sqlite3.Error as error:
            raise UserError(f"{path} cannot be opened as ratings: {error}") from error
        return cls(study, path, connection)

    def __enter__(self) -> "Ratings":
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """What is written is on the disk already."""
        self._connection.close()

    def __len__(self) -> int:
        """Ratings that stand."""
        return self._read("SELECT count(*) FROM standing")[0][0]

    def verify(self) -> None:
        """Raises `UserError` where SQLite finds the file damaged, or what it says does not fit together."""
        found = [row[0] for row in self._read("PRAGMA integrity_check")]
        require(found == ["ok"], f"{self.path} is damaged: {found[0]}")
        require(not self._read("PRAGMA foreign_key_check"), f"{self.path} is damaged: ratings of what nobody was shown")

    def at(self, rater: Rater, place: int) -> Shown | None:
        """What a rater is shown at a place; None behind the last."""
        found = self._read(
            "SELECT place, task, pictures FROM assignments WHERE rater = ? AND place = ?", rater.id, place
        )
        return self._shown(*found[0]) if found else None

    def numbered(self, number: int) -> Rater | None:
        """The rater of a number; None where there is none."""
        found = self._read("SELECT id, name FROM raters WHERE id = ?", number)
        return Rater(*found[0]) if found else None

    def rater(self, name: str) -> Rater | None:
        """Who has begun by this name; None where nobody has. Letters' case and spaces around do not count."""
        found = self._read("SELECT id, name FROM raters WHERE key = ?", _key(name))
        return Rater(*found[0]) if found else None

    def raters(self) -> list[tuple[Rater, Progress]]:
        """All of them, in the order in which they began, and how far they are."""
        found = [Rater(*row) for row in self._read("SELECT id, name FROM raters ORDER BY id")]
        return [(rater, self.progress(rater)) for rater in found]

    def join(self, name: str, most_prompts: int | None = None) -> Rater:
        """A rater begins, or goes on: the same name is the same rater.

        With `most_prompts`, a new one is shown so many prompts at most: those that were given to the fewest raters.
        Raises `UserError` for what is no name.
        """
        name = " ".join(name.split())
        require(
            NAME.fullmatch(name) is not None,
            "a name begins with a letter or digit and has at most 60 letters, digits, spaces and . ' @ -",
        )
        with self._writing() as connection:
            found = connection.execute("SELECT id, name FROM raters WHERE key = ?", (_key(name),)).fetchone()
            if found:
                return Rater(*found)
            number = connection.execute("SELECT count(*) FROM raters").fetchone()[0] + 1
            seed = [self.study.seed, number]
            given = dict(connection.execute("SELECT task, count(*) FROM assignments GROUP BY task").fetchall())
            connection.execute(
                "INSERT INTO raters VALUES (?, ?, ?, ?, ?)", (number, name, _key(name), json.dumps(seed), _now())
            )
            order = shuffled(self.study.tasks, seed, given, most_prompts)
            connection.executemany(
                "INSERT INTO assignments VALUES (?, ?, ?, ?)",
                [(number, place, task, json.dumps(pictures)) for place, (task, pictures) in enumerate(order)],
            )
        return Rater(number, name)

    def next(self, rater: Rater) -> Shown | None:
        """The first task that the rater has not rated; None when all are."""
        found = self._read(
            "SELECT place, task, pictures FROM assignments AS a WHERE rater = ? AND NOT EXISTS "
            "(SELECT 1 FROM standing AS s WHERE s.rater = a.rater AND s.place = a.place) ORDER BY place LIMIT 1",
            rater.id,
        )
        if not found:
            return None
        place, task, pictures = found[0]
        before = self._read(
            "SELECT photorealism, faithfulness, chosen FROM events WHERE rater = ? AND place = ? ORDER BY id DESC",
            rater.id,
            place,
        )
        return self._shown(place, task, pictures, Verdict(*before[0]) if before else None)

    def assigned(self, rater: Rater) -> list[Shown]:
        """All that a rater is shown, in order."""
        found = self._read("SELECT place, task, pictures FROM assignments WHERE rater = ? ORDER BY place", rater.id)
        return [self._shown(*row) for row in found]

    def progress(self, rater: Rater) -> Progress:
        """How far a rater is."""
        of = self._read("SELECT count(*) FROM assignments WHERE rater = ?", rater.id)[0][0]
        rated, last = self._read("SELECT count(*), max(id) FROM standing WHERE rater = ?", rater.id)[0]
        return Progress(rated, of, last)

    def rate(self, rater: Rater, place: int, verdict: Verdict) -> bool:
        """Stores a verdict; false where the place has one already, which stands until it is taken back.

        When this returns, it is on the disk. Raises `UserError` for a place or a verdict that there is not.
        """
        with self._writing() as connection:
            found = connection.execute(
                "SELECT pictures FROM assignments WHERE rater = ? AND place = ?", (rater.id, place)
            ).fetchone()
            require(found is not None, f"{rater.name} has no task number {place + 1}")
            fits = all(getattr(verdict, name) in (0, 1) for name in QUESTIONS)
            require(
                fits and 0 <= verdict.chosen < len(json.loads(found[0])),
                f"{verdict} is no verdict on task number {place + 1}",
            )
            standing = "SELECT 1 FROM standing WHERE rater = ? AND place = ?"
            if connection.execute(standing, (rater.id, place)).fetchone():
                return False
            self._log(connection, rater, place, "rated", verdict)
        return True

    def undo(self, rater: Rater, event: int) -> bool:
        """Takes the rater's last rating back, if it is this event: asked twice, only one is taken back."""
        with self._writing() as connection:
            found = connection.execute(
                "SELECT id, place, photorealism, faithfulness, chosen FROM standing WHERE rater = ? "
                "ORDER BY id DESC LIMIT 1",
                (rater.id,),
            ).fetchone()
            if found is None or found[0] != event:
                return False
            self._log(connection, rater, found[1], "undone", Verdict(*found[2:]))
        return True

    def ratings(self) -> list[Rating]:
        """All that stand, in the order in which they were given."""
        rows = self._read(
            "SELECT s.id, r.name, s.place, a.task, a.pictures, s.photorealism, s.faithfulness, s.chosen, s.at "
            "FROM standing AS s JOIN raters AS r ON r.id = s.rater "
            "JOIN assignments AS a ON a.rater = s.rater AND a.place = s.place ORDER BY s.id"
        )
        return [
            Rating(event, name, place, task, json.loads(pictures)[chosen], photorealism, faithfulness, at)
            for event, name, place, task, pictures, photorealism, faithfulness, chosen, at in rows
        ]

    def _shown(self, place: int, task: int, pictures: str, before: Verdict | None = None) -> Shown:
        return Shown(place, self.study.tasks[task], tuple(json.loads(pictures)), before)

    @staticmethod
    def _log(connection: sqlite3.Connection, rater: Rater, place: int, kind: str, verdict: Verdict) -> None:
        connection.execute(
            "INSERT INTO events (rater, place, kind, photorealism, faithfulness, chosen, at) "
            "VALUES (?, ?, ?, ?, ?, ?, ?)",
            (rater.id, place, kind, *verdict, _now()),
        )

    def _read(self, query: str, *values: object) -> list[tuple]:
        with self._lock:
            return self._connection.execute(query, values).fetchall()

    @contextmanager
    def _writing(self) -> Iterator[sqlite3.Connection]:
        with self._lock, _transaction(self._connection):
            yield self._connection


def shuffled(
    tasks: Sequence[Task], seed: Sequence[int], given: dict[int, int], most_prompts: int | None = None
) -> list[tuple[int, list[str]]]:
    """The order in which a rater is shown tasks, each with its pictures: determined by the seed and what was `given`.

    `given` counts the raters that have each task already.
    """
    rng = np.random.default_rng(list(seed))
    of: dict[int, list[int]] = {}
    for number, task in enumerate(tasks):
        of.setdefault(task.prompt, []).append(number)
    prompts = [list(of)[i] for i in rng.permutation(len(of))]
    if most_prompts is not None:
        fewest_first = sorted(prompts, key=lambda prompt: sum(given.get(task, 0) for task in of[prompt]))
        chosen = set(fewest_first[:most_prompts])
        prompts = [prompt for prompt in prompts if prompt in chosen]
    order = []
    for prompt in prompts:
        for i in rng.permutation(len(of[prompt])):
            task = of[prompt][i]
            pictures = tasks[task].pictures
            order.append((task, [pictures[j] for j in rng.permutation(len(pictures))]))
    return order


def _prepare(connection: sqlite3.Connection, study: Study, path: Path) -> None:
    mode = connection.execute("PRAGMA journal_mode = WAL").fetchone()[0]
    require(mode == "wal", f"{path}: SQLite keeps no write-ahead log there ({mode}): put the folder on a local disk")
    connection.execute("PRAGMA synchronous = FULL")
    connection.execute("PRAGMA foreign_keys = ON")
    with _transaction(connection):
        version = connection.execute("PRAGMA user_version").fetchone()[0]
        if version == 0 and not connection.execute("SELECT 1 FROM sqlite_master").fetchone():
            for statement in filter(str.strip, SCHEMA.split(";")):
                connection.execute(statement)
            connection.execute("INSERT INTO study VALUES (?)", (study.checksum,))
            connection.execute(f"PRAGMA application_id = {APPLICATION}")
            connection.execute(f"PRAGMA user_version = {VERSION}")
            return
        own = connection.execute("PRAGMA application_id").fetchone()[0] == APPLICATION
        require(own, f"{path} was not written by this program")
        require(version <= VERSION, f"{path} was written by a newer version of reimagen_jax: install that")
        found = connection.execute("SELECT checksum FROM study").fetchone()
        require(
            found is not None and found[0] == study.checksum,
            f"{path} has ratings of other pictures than {study.path} holds: put the manifest back that they were "
            "given with, or rate into another folder",
        )


@contextmanager
def _transaction(connection: sqlite3.Connection) -> Iterator[None]:
    """All of it or nothing; when it ends, it is on the disk. Another process's is waited for."""
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield
    except BaseException:
        connection.execute("ROLLBACK")
        raise
    connection.execute("COMMIT")


@contextmanager
def _closed_on_error(connection: sqlite3.Connection) -> Iterator[None]:
    try:
        yield
    except BaseException:
        connection.close()
        raise


def _key(name: str) -> str:
    return " ".join(name.split()).casefold()


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")
