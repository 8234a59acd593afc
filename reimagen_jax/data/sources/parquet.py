"""Parquet files as Hugging Face writes them: a column of pictures, one of captions, and others, which are attributes.

A picture is a struct {bytes, path} (what `datasets` writes; without bytes where paths alone were stored), plain bytes,
or a path; of a list of pictures, each goes with all the captions of its row. Paths lead into one folder: one that leads
elsewhere is refused. The features that `datasets` notes in the schema tell the column of pictures and the names of
classes. Parquet's library runs in a process of its own: a file that ends it is left out like any other damaged file.
"""

import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path, PurePosixPath
from typing import Any

from reimagen_jax.data import images
from reimagen_jax.data.image_text import Problem
from reimagen_jax.data.sources import apart, parquet_rows
from reimagen_jax.data.sources.base import Entry, Smaller, Source, Unreadable, checked, require_size
from reimagen_jax.data.sources.columns import text_of
from reimagen_jax.data.sources.fields import Captions
from reimagen_jax.data.sources.files import leads_outside, read_picture, require_file
from reimagen_jax.data.sources.parquet_rows import PATH_COLUMNS, About, Break, Row
from reimagen_jax.data.sources.shards import common_folder, fingerprint, relative_names
from reimagen_jax.data.sources.where import EVERYTHING, Where
from reimagen_jax.errors import UserError

MOST_PICTURES = 2**16
"""Most pictures of a row."""
_MAX_ROWS = 256
"""Most rows of a batch."""
_LISTS = ("list", "large_list", "fixed_size_list")
"""How Arrow's names of the types of lists begin."""


@dataclass(frozen=True)
class ParquetSource(Source):
    """Parquet files with a row for each picture. Raises `UserError` where no column can hold pictures."""

    paths: tuple[Path, ...]
    where: Where = EVERYTHING
    resolution: int | None = None
    captions: Captions = field(default_factory=Captions)
    image: str | None = None
    """Column of the pictures; found by its name or its type when `None`."""
    pictures: Path | None = None
    """Folder that paths of pictures lead into; the one that the Parquet file lies in when `None`."""
    follow_links: bool = False
    """Follow symbolic links that lead out of that folder."""
    smaller: Smaller = "kept"

    def __post_init__(self) -> None:
        problems = []
        for path in self.paths:
            try:
                self._column(_about(path), path)
                return
            except Unreadable as error:
                problems.append(f"{path}: {error}")
        raise UserError(f"no Parquet file can be read: {problems[0]}")

    @cached_property
    def name(self) -> str:
        return f"parquet {common_folder(self.paths).name} {fingerprint(self.paths)}"

    @cached_property
    def files(self) -> tuple[str, ...]:
        return relative_names(self.paths)

    def count(self) -> int:
        """Rows of all readable files, by their footers."""
        return sum(_num_rows(path) for path in self.paths)

    def entries(self, file: int, start: int) -> Iterator[tuple[int, Entry | Problem]]:
        """A row is numbered `MOST_PICTURES` apart from the next where it holds a list of pictures."""
        name, path = self.files[file], self.paths[file]
        number = 0
        try:
            about = _about(path)
            image = self._column(about, path)
            apart_by = MOST_PICTURES if about.columns[image].startswith(_LISTS) else 1
            batches = apart.run(parquet_rows.rows, str(path), image, start // apart_by, _MAX_ROWS, images.MAX_BYTES)
            for first, rows in batches:
                for row, found in enumerate(rows, first):
                    if isinstance(found, Break):
                        yield row * apart_by, Problem(name, "damaged file", found.detail)
                    else:
                        yield from enumerate(self._entries(file, row, found, image), row * apart_by)
                number = (first + len(rows)) * apart_by
        except Unreadable as error:
            yield 0, Problem(name, error.reason, error.detail)
        except UserError as error:
            yield 0, Problem(name, "no pictures", str(error))
        except apart.Broken as error:
            yield number, Problem(name, "damaged file", f"{error}; its rows from {number // apart_by} on are left out")

    def _column(self, about: About, path: Path) -> str:
        """The column of pictures."""
        image = self.image or about.image
        if image not in about.columns:
            known = ", ".join(f"{name} ({kind})" for name, kind in about.columns.items())
            what = f"no column {self.image}" if self.image else "no column of pictures"
            raise UserError(f"{path} has {what}: name it with --image; its columns are {known}")
        return image

    def _entries(self, file: int, row: int, found: Row, image: str) -> list[Entry | Problem]:
        """The entries of a row: one, or one for each picture of its list."""
        key = f"{self.files[file]}:{row}"
        texts, attributes = self.captions.split(found.fields)
        if not texts:
            wanted = {name.partition(".")[0] for name in self.captions.sources}
            lost = [f"{name}: {reason}" for name, reason in found.lost.items() if name in wanted]
            if lost:
                return [Problem(key, "bad text", f"the column {lost[0]}")]
            return [Problem(key, "empty caption", self.captions.why_none(found.fields, key))]
        if not found.listed:
            return [self._entry(file, key, found.pictures[0], image, texts, attributes)]
        if not 0 < len(found.pictures) <= MOST_PICTURES:
            detail = f"{len(found.pictures)} pictures in the column {image}, of 1 to {MOST_PICTURES}"
            return [Problem(key, "no picture", detail)]
        return [
            self._entry(file, f"{key}:{n}", picture, image, texts, attributes)
            for n, picture in enumerate(found.pictures)
        ]

    def _entry(
        self,
        file: int,
        key: str,
        picture: tuple[bytes | int | None, str | None],
        image: str,
        texts: tuple[str, ...],
        attributes: dict[str, Any],
    ) -> Entry | Problem:
        data, path = picture
        if isinstance(data, bytes) and image in PATH_COLUMNS and isinstance(text := text_of(data), str):
            data, path = None, text  # a column of texts, by a writer that does not say so
        if isinstance(data, bytes):
            return Entry(key, texts, attributes, partial(checked, data))
        if data is not None:
            return Entry(key, texts, attributes, partial(require_size, data))
        if path is None:
            return Problem(key, "no picture", f"the column {image} is empty")
        folder = Path(os.path.abspath(self.pictures or self.paths[file].parent))
        if PurePosixPath(path).is_relative_to(folder):
            path = str(PurePosixPath(path).relative_to(folder))
        if leads_outside(path):
            detail = f"{path!r} is not in {folder}; --data-dir names another folder"
            return Problem(key, "path outside the folder", detail)
        return Entry(key, texts, attributes, partial(read_picture, folder, path, f"named in {key}", self.follow_links))


def _about(path: Path) -> About:
    """What a file's footer tells. Raises `Unreadable`."""
    require_file(path)
    try:
        (about,) = apart.run(parquet_rows.about, str(path))
    except apart.Broken as error:
        raise Unreadable("damaged file", str(error)) from error
    return about


def _num_rows(path: Path) -> int:
    try:
        return _about(path).rows
    except Unreadable:
        return 0
