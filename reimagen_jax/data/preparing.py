"""From a source to records, a shard at a time, going on after an interruption where the last complete shard ends.

The result does not depend on interruptions: what was written tells which keys and contents there are already, and the
noted `Place` tells where in the source to go on.
"""

import json
import os
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import astuple
from pathlib import Path
from typing import Any, BinaryIO

from reimagen_jax import __version__
from reimagen_jax.data.catalogue import Catalogue
from reimagen_jax.data.image_text import Problem
from reimagen_jax.data.records import SKIPPED, Draft, Records, as_line
from reimagen_jax.data.shards import Shard, shard_path
from reimagen_jax.data.sources.base import Place, Source
from reimagen_jax.data.unfinished import Unfinished, resumable_dir
from reimagen_jax.errors import UserError
from reimagen_jax.progress import track

_BEGINNING = {"shards": [], "place": [0, 0, 0], "skipped_bytes": 0, "read": False}


def prepare_records(
    source: Source,
    out: str | Path,
    *,
    settings: dict[str, Any] | None = None,
    overwrite: bool = False,
    on_problem: Callable[[Problem], None] = lambda problem: None,
    say: Callable[[str], None] = lambda sentence: None,
) -> Records:
    """Writes what `source` yields to the new folder `out` and opens it; resumes what was interrupted.

    `settings` is noted in the manifest, and only a run with equal settings is resumed. `on_problem` hears of every
    problem, also of those found before an interruption; it may raise to stop. `say` is told what is resumed, and what
    is kept. Raises `UserError` as `resumable_dir` does, and when there is nothing to write.
    """
    settings = settings or {}
    identity = {"source": source.name, "settings": settings, "made_by": f"reimagen_jax {__version__}"}
    total = source.count()
    with resumable_dir(out, identity, overwrite=overwrite) as unfinished:
        try:
            _Preparation(unfinished, source, on_problem, say).run(total, settings)
        except BaseException:
            if unfinished.state is not None:
                say(f"{out} is unfinished: what is complete is kept, and the same command goes on from there")
            raise
    return Records.open(out)


class _Preparation:
    """Records in the making, from the noted state on."""

    def __init__(
        self,
        unfinished: Unfinished,
        source: Source,
        on_problem: Callable[[Problem], None],
        say: Callable[[str], None],
    ):
        self._unfinished = unfinished
        self._state = unfinished.state or _BEGINNING
        self._source = source
        self._on_problem = on_problem
        self._draft = Draft(unfinished.folder, _shards(unfinished.folder, self._state))
        self._catalogue = Catalogue()
        self._counts: Counter[str] = Counter()
        if self._draft.count:
            say(f"going on after {self._draft.count} records written before")

    def run(self, total: int | None, settings: dict[str, Any]) -> None:
        """Restores what there is, reads the rest, and writes what makes a folder of records complete."""
        for example in track(self._draft.restore(), self._draft.count, "records there", "image"):
            self._catalogue.restore(example.key, example.digest, example.text)
        with _open_skipped(self._unfinished.folder, self._state) as skipped:
            for problem in _problems(skipped):
                self._count(problem)
            if not self._state["read"]:
                self._read(skipped, total)
        self._draft.finish(self._source.name, settings, self._counts)

    def _read(self, skipped: BinaryIO, total: int | None) -> None:
        place = start = Place(*self._state["place"])
        left = None if total is None else max(0, total - self._draft.count - self._counts.total())
        for place, item in track(self._source.read(start), left, "records", "image"):
            kept = item if isinstance(item, Problem) else self._catalogue.admit(item)
            if isinstance(kept, Problem):
                skipped.write(as_line(kept).encode())
                self._count(kept)
            elif self._draft.add(kept):
                self._note(place, skipped, read=False)
        self._draft.writer.close_shard()
        if self._draft.count:
            self._note(place, skipped, read=True)

    def _count(self, problem: Problem) -> None:
        self._counts[problem.reason] += 1
        self._on_problem(problem)

    def _note(self, place: Place, skipped: BinaryIO, *, read: bool) -> None:
        """Notes that everything up to `place` is on the disk, and whether that is all there is to read."""
        skipped.flush()
        os.fsync(skipped.fileno())
        shards = [astuple(shard) for shard in self._draft.writer.shards]
        noted = {"place": astuple(place), "skipped_bytes": skipped.tell(), "read": read}
        self._unfinished.note({"shards": shards, **noted})


def _shards(folder: Path, state: dict[str, Any]) -> list[Shard]:
    """The noted shards; takes away whatever was written after them.

    Raises `UserError` where one is not as it was noted.
    """
    shards = [Shard(*shard) for shard in state["shards"]]
    paths = [shard_path(folder, index) for index in range(len(shards))]
    for path in folder.iterdir():
        if path not in paths and path.name != SKIPPED:
            path.unlink()
    for path, shard in zip(paths, shards, strict=True):
        if not path.is_file() or path.stat().st_size != shard.file_bytes:
            raise UserError(f"{path} is damaged, so the interrupted work cannot go on: remove {folder.parent}")
    return shards


def _open_skipped(folder: Path, state: dict[str, Any]) -> BinaryIO:
    """The list of what was left out, as it was noted."""
    file = (folder / SKIPPED).open("a+b")
    file.truncate(state["skipped_bytes"])
    return file


def _problems(skipped: BinaryIO) -> Iterator[Problem]:
    skipped.seek(0)
    for line in skipped:
        yield Problem(**json.loads(line))
