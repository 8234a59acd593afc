"""From a source to records, a shard at a time, going on after an interruption where the last complete shard ends.

The result does not depend on interruptions: what was written tells which keys and contents there are already, and the
noted `Place` tells where in the source to go on.
"""

import os
from collections import Counter
from collections.abc import Callable
from dataclasses import astuple, dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

from reimagen_jax import __version__
from reimagen_jax.checked import Natural, parse, read_lines
from reimagen_jax.data.catalogue import Catalogue
from reimagen_jax.data.image_text import Problem
from reimagen_jax.data.records import KIND, SKIPPED, Draft, Records, as_line
from reimagen_jax.data.shards import Shard, shard_path
from reimagen_jax.data.sources.base import Place, Source
from reimagen_jax.data.unfinished import Unfinished, as_json, completed, resumable_dir
from reimagen_jax.errors import UserError, require
from reimagen_jax.files import kind_of
from reimagen_jax.progress import track


@dataclass(frozen=True)
class _State:
    """What is noted."""

    shards: tuple[tuple[Natural, Natural, Natural], ...] = ()
    """Of those that are complete: see `Shard`."""
    place: tuple[Natural, Natural, Natural] = (0, 0, 0)
    skipped_bytes: Natural = 0
    mended: dict[str, Natural] = field(default_factory=dict)
    """Records of pictures that were mended, by what was amiss."""
    read: bool = False
    """Whether that is all there is to read."""


def prepare_records(
    source: Source,
    out: str | Path,
    *,
    settings: dict[str, Any] | None = None,
    overwrite: bool = False,
    on_problem: Callable[[Problem], None] = lambda problem: None,
    say: Callable[[str], None] = lambda sentence: None,
    per_shard: int | None = None,
) -> Records:
    """Writes what `source` yields to the new folder `out` and opens it; resumes what was interrupted.

    `settings` is noted in the manifest, and only a run with equal settings is resumed. Where `out` is complete, made
    from this source with these settings, nothing is left to do, unless `overwrite` asks for it. `on_problem` hears of
    every problem, also of those found before; it may raise to stop. `say` is told what is resumed, and what is kept. A
    run that is killed loses `per_shard` records at most (default: those of a full shard).
    Raises `UserError` as `resumable_dir` does, and when there is nothing to write.
    """
    settings = settings or {}
    identity = {"source": source.name, "settings": settings, "made_by": f"reimagen_jax {__version__}"}
    if completed(out, identity) or (not overwrite and _is_made_from(Path(out), identity)):
        records = Records.open(out)
        say(f"{out} is complete: nothing is left to do (--overwrite makes it anew)")
        for problem in read_lines(records.folder / SKIPPED, Problem, "what was left out"):
            on_problem(problem)
        return records
    if not overwrite:
        _require_same(Path(out), identity)
    total = source.count()
    with resumable_dir(out, identity, kind=KIND, overwrite=overwrite) as unfinished:
        try:
            _Preparation(unfinished, source, on_problem, say, per_shard).run(total, settings)
        except BaseException:
            if unfinished.state is not None:
                say(f"{out} is unfinished: what is complete is kept, and the same command goes on from there")
            raise
    return Records.open(out)


def _is_made_from(out: Path, identity: dict[str, Any]) -> bool:
    """Whether records are there, and are those that would be made."""
    return kind_of(out) == KIND and _noted(out, identity) == as_json(identity)


def _require_same(out: Path, identity: dict[str, Any]) -> None:
    """Raises `UserError` where records are there that were made otherwise, saying in what they differ."""
    if kind_of(out) != KIND:
        return
    there, here = _flat(_noted(out, identity)), _flat(as_json(identity))
    names = [name for name in {**there, **here} if there.get(name) != here.get(name)]
    said = [f"{name.replace('_', ' ')} {_said(there.get(name))}, not {_said(here.get(name))}" for name in names]
    require(
        not said,
        f"{out} already exists, and its records were made with {'; '.join(said)}: pass --overwrite to replace them, or "
        "choose another --out",
    )


def _noted(out: Path, identity: dict[str, Any]) -> dict[str, Any]:
    """What the records there were made from, and how."""
    manifest = Records.open(out).manifest
    return {name: manifest.get(name) for name in identity}


def _flat(settings: dict[str, Any]) -> dict[str, Any]:
    """Those of nested groups among the others."""
    flat: dict[str, Any] = {}
    for name, value in settings.items():
        flat |= _flat(value) if isinstance(value, dict) else {name: value}
    return flat


def _said(value: Any) -> str:
    """A setting as one would type it."""
    words = value if isinstance(value, list) else [] if value is None else [value]
    return " ".join(map(str, words)) or "none"


class _Preparation:
    """Records in the making, from the noted state on."""

    def __init__(
        self,
        unfinished: Unfinished,
        source: Source,
        on_problem: Callable[[Problem], None],
        say: Callable[[str], None],
        per_shard: int | None,
    ):
        self._unfinished = unfinished
        noted = unfinished.state
        where = f"{unfinished.folder.parent}, the progress noted there"
        self._state = _State() if noted is None else parse(_State, noted, where)
        self._source = source
        self._on_problem = on_problem
        self._draft = Draft(unfinished.folder, _shards(unfinished.folder, self._state), per_shard)
        self._catalogue = Catalogue()
        self._counts: Counter[str] = Counter()
        self._mended = Counter(self._state.mended)
        if self._draft.count:
            say(f"going on after {self._draft.count} records written before")

    def run(self, total: int | None, settings: dict[str, Any]) -> None:
        """Restores what there is, reads the rest, and writes what makes a folder of records complete."""
        for example in track(self._draft.restore(), self._draft.count, "records there", "image"):
            self._catalogue.restore(example.key, example.digest, example.text)
        with _open_skipped(self._unfinished.folder, self._state) as skipped:
            for problem in read_lines(self._unfinished.folder / SKIPPED, Problem, "what was left out"):
                self._count(problem)
            if not self._state.read:
                self._read(skipped, total)
        self._draft.finish(self._source.name, settings, self._counts, self._mended)

    def _read(self, skipped: BinaryIO, total: int | None) -> None:
        place = start = Place(*self._state.place)
        left = None if total is None else max(0, total - self._draft.count - self._counts.total())
        for place, item in track(self._source.read(start), left, "records", "image"):
            kept = item if isinstance(item, Problem) else self._catalogue.admit(item)
            if isinstance(kept, Problem):
                skipped.write(as_line(kept).encode())
                self._count(kept)
                continue
            if kept.mended:
                self._mended[kept.mended] += 1
            if self._draft.add(kept):
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
        shards = [list(astuple(shard)) for shard in self._draft.writer.shards]
        noted = {"place": list(astuple(place)), "skipped_bytes": skipped.tell(), "read": read}
        self._unfinished.note({"shards": shards, "mended": dict(self._mended), **noted})


def _shards(folder: Path, state: _State) -> list[Shard]:
    """The noted shards; takes away whatever was written after them.

    Raises `UserError` where one is not as it was noted.
    """
    shards = [Shard(*shard) for shard in state.shards]
    paths = [shard_path(folder, index) for index in range(len(shards))]
    for path in folder.iterdir():
        if path not in paths and path.name != SKIPPED:
            path.unlink()
    for path, shard in zip(paths, shards, strict=True):
        if not path.is_file() or path.stat().st_size != shard.file_bytes:
            raise UserError(f"{path} is damaged, so the interrupted work cannot go on: remove {folder.parent}")
    return shards


def _open_skipped(folder: Path, state: _State) -> BinaryIO:
    """The list of what was left out, as it was noted."""
    file = (folder / SKIPPED).open("a+b")
    file.truncate(state.skipped_bytes)
    return file
