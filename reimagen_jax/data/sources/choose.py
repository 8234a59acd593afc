"""From what the user typed as `--source` to the source: by its beginning, or by what lies there."""

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from glob import glob, has_magic
from itertools import product
from pathlib import Path
from typing import Any

from reimagen_jax.data.sources.base import Smaller, Source
from reimagen_jax.data.sources.coco import CocoSource
from reimagen_jax.data.sources.fields import Captions
from reimagen_jax.data.sources.files import leaves
from reimagen_jax.data.sources.folder import CSV_METADATA, METADATA, FolderSource
from reimagen_jax.data.sources.parquet import ParquetSource
from reimagen_jax.data.sources.tfds_source import TfdsSource
from reimagen_jax.data.sources.webdataset import WebdatasetSource
from reimagen_jax.data.sources.where import EVERYTHING, Where
from reimagen_jax.data.sources.world import WorldSource
from reimagen_jax.errors import UserError

ENTITYWORLD = "entityworld"
TFDS = "tfds:"
_BRACES = re.compile(r"\{(?:(\d+)\.\.(\d+)|([^{}]*,[^{}]*))\}")
_MANY = 10**6


@dataclass(frozen=True)
class Reading:
    """How a source is read; what does not apply to its kind must be left out."""

    where: Where = EVERYTHING
    resolution: int | None = None
    captions: Captions = field(default_factory=Captions)
    image: str | None = None
    split: str | None = None
    data_dir: Path | None = None
    follow_links: bool = False
    smaller: Smaller = "kept"


def open_source(spec: str, reading: Reading = Reading(), world: Any = None) -> Source:
    """Opens `entityworld`, `tfds:NAME`, a folder, a file, or files by a pattern such as `shards/{000..127}.tar`.

    Raises `UserError` that says what was looked for and not found.
    """
    if spec == ENTITYWORLD:
        _refuse(spec, reading, "captions", "image", "split", "data_dir", "follow_links")
        return WorldSource(world, reading.where, reading.resolution or 64)
    if spec.startswith(TFDS):
        split = reading.split or "train"
        return TfdsSource(
            spec.removeprefix(TFDS),
            split,
            reading.data_dir,
            reading.where,
            reading.resolution,
            reading.captions,
            reading.image,
            reading.follow_links,
            reading.smaller,
        )
    paths = expand(spec)
    if paths is None and not Path(spec).exists():
        raise UserError(f"--source {spec} is not a folder (nor a file, `entityworld` or `tfds:NAME`)")
    if not Path(spec).is_dir():
        _refuse(spec, reading, "split")
    return _from_files(spec, paths or _look(Path(spec), reading), reading)


def expand(pattern: str) -> list[Path] | None:
    """The files that a pattern with *, ?, [a-z], {000..127} or {a,b} stands for; `None` where it is no pattern.

    Raises `UserError` where nothing is there by that name.
    """
    if Path(pattern).exists() or not (has_magic(pattern) or _BRACES.search(pattern)):
        return None
    found = []
    for plain in _spell_out(pattern):
        names = sorted(glob(plain)) if has_magic(plain) else [plain]
        if not names or not Path(names[0]).exists():
            raise UserError(f"--source {pattern}: there is no {plain}")
        found += map(Path, names)
    return found


def _spell_out(pattern: str) -> list[str]:
    """A pattern without braces for each of the values that they stand for."""
    choices, last, number = [], 0, 1
    for braces in _BRACES.finditer(pattern):
        first, final, listed = braces.groups()
        if listed is None:
            values = [f"{n:0{len(first)}d}" for n in range(int(first), min(int(final), int(first) + _MANY) + 1)]
        else:
            values = listed.split(",")
        number *= len(values)
        if number > _MANY:
            raise UserError(f"--source {pattern} stands for more than {_MANY} files")
        choices += [[pattern[last : braces.start()]], values]
        last = braces.end()
    return ["".join(parts) for parts in product(*choices, [pattern[last:]])]


def _look(path: Path, reading: Reading) -> list[Path]:
    """The files of a source that lie at a path: its metadata, or its shards; none that is hidden (macOS's ._NAME)."""
    if not path.is_dir():
        return [path]
    metadata = [path / name for name in (METADATA, CSV_METADATA) if (path / name).is_file()]
    tars, parquets = (
        [file for file in sorted(path.glob(pattern)) if not (file.is_dir() or _hidden(file.relative_to(path)))]
        for pattern in ("*.tar", "**/*.parquet")
    )
    kinds = [kind for kind in (metadata, tars, parquets) if kind]
    if len(kinds) > 1:
        known = ", ".join(str(kind[0].relative_to(path)) for kind in kinds)
        raise UserError(
            f"--source {path} holds several kinds of data ({known}): name the files, such as '{path}/*.tar'"
        )
    if not kinds:
        if inner := sorted(p.parent for name in (METADATA, CSV_METADATA) for p in path.glob(f"*/{name}")):
            raise UserError(f"{path} has no {METADATA}: did you mean --source {inner[0]}?")
        return [path / METADATA]  # whose absence is explained there
    if not reading.follow_links and (away := [file for file in (*tars, *parquets) if leaves(file, path)]):
        raise UserError(f"{away[0]} is a symbolic link out of {path}: --follow-links follows such links")
    return _of_split(kinds[0], reading.split, path) if kinds[0] is parquets else kinds[0]


def _hidden(path: Path) -> bool:
    """True where a file or a folder on the way to it begins with a dot."""
    return any(part.startswith(".") for part in path.parts)


def _of_split(paths: list[Path], split: str | None, root: Path) -> list[Path]:
    """The Parquet files of a split, which Hugging Face tells in their names: SPLIT-00000-of-00005, or SPLIT/0000."""
    by_split: dict[str, list[Path]] = {}
    for path in paths:
        stem = re.sub(r"-\d{5}-of-\d{5}.*", "", path.stem)
        name = stem if stem != path.stem or path.parent == root else path.parent.name
        by_split.setdefault(name, []).append(path)
    if split is None:
        return paths
    if split not in by_split:
        raise UserError(f"{root} has no split {split!r}: its Parquet files are of {', '.join(sorted(by_split))}")
    return by_split[split]


def _from_files(spec: str, paths: list[Path], reading: Reading) -> Source:
    common = (tuple(paths), reading.where, reading.resolution, reading.captions, reading.image)
    kinds: dict[str, Callable[[], Source]] = {
        ".tar": lambda: WebdatasetSource(*common, reading.smaller),
        ".parquet": lambda: ParquetSource(*common, reading.data_dir, reading.follow_links, reading.smaller),
    }
    suffixes = {path.suffix.lower() for path in paths}
    if len(paths) == 1 and suffixes == {".json"}:
        _refuse(spec, reading, "image", "split")
        where, captions = reading.where, reading.captions
        more = (reading.resolution, captions, reading.follow_links, reading.smaller)
        return CocoSource(paths[0], reading.data_dir, where, *more)
    if {path.name for path in paths} <= {METADATA, CSV_METADATA} and len({path.parent for path in paths}) == 1:
        _refuse(spec, reading, "image", "split", "data_dir")
        where, captions = reading.where, reading.captions
        return FolderSource(paths[0].parent, where, reading.resolution, captions, reading.follow_links, reading.smaller)
    if len(suffixes) > 1 or not suffixes & kinds.keys():
        known = ", ".join(sorted(suffixes)) or "nothing"
        raise UserError(
            f"--source {spec} is {known}: {METADATA}, {CSV_METADATA}, .parquet or .tar files of one kind, or a .json "
            "of COCO's captions were expected"
        )
    if ".tar" in suffixes:
        _refuse(spec, reading, "split", "data_dir")
    return kinds[suffixes.pop()]()


def _refuse(spec: str, reading: Reading, *names: str) -> None:
    """Raises `UserError` on settings that this kind of source does not have, rather than passing over them."""
    plain = Reading()
    for name in names:
        if getattr(reading, name) != getattr(plain, name):
            option = {"captions": "--caption, or --max-captions,"}.get(name, f"--{name.replace('_', '-')}")
            raise UserError(f"--source {spec} has no use for {option}: leave it out")
