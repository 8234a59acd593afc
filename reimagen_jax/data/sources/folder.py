"""A folder of images with `metadata.jsonl` or `metadata.csv`: the Hugging Face imagefolder convention.

Each line tells of one image: `file_name`, a path inside the folder, and `text` or `caption`; its other fields become
attributes. One picture with several captions is several records: several lines, or a list of texts in one line.

Two layouts of Re-Imagen's data, as such folders (the names of the fields are what `--where`, `--query-by` and
`evaluate` are told; nothing depends on them here):

    WikiImages                                        EntityDrawBench
      images/30058201.jpg ...                           images/dogs/chortai_0.jpg ...
      metadata.jsonl, a line per image:                 metadata.jsonl, a line per reference image:
        {"file_name": "images/30058201.jpg",              {"file_name": "images/dogs/chortai_0.jpg",
         "text": "the image's description",                "text": "a Chortai, a hound with a thin coat",
         "entity": "title of its page",                    "entity": "Chortai", "category": "dogs",
         "url": "...", "split": "train"}                   "split": "rare", "role": "reference"}
                                                        prompts.txt, a line per prompt, for `reimagen sample`
"""

import csv
import hashlib
import stat
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any

from reimagen_jax.data.image_text import Problem
from reimagen_jax.data.sources.base import MAX_TEXT_BYTES, Entry, Source, Unreadable, leads_outside, require_size
from reimagen_jax.data.sources.fields import Captions, is_unicode, parse_object
from reimagen_jax.data.sources.where import EVERYTHING, Census, Where
from reimagen_jax.errors import UserError

METADATA = "metadata.jsonl"
CSV_METADATA = "metadata.csv"


@dataclass(frozen=True)
class FolderSource(Source):
    """A folder of images with `metadata.jsonl` or `metadata.csv`. Raises `UserError` when there is none, or both."""

    path: Path
    where: Where = EVERYTHING
    resolution: int | None = None
    captions: Captions = field(default_factory=Captions)

    def __post_init__(self) -> None:
        if not self.path.is_dir():
            raise UserError(f"--source {self.path} is not a folder (nor `entityworld`)")
        present = [name for name in (METADATA, CSV_METADATA) if (self.path / name).is_file()]
        if not present:
            raise UserError(
                f"{self.path} has no {METADATA} (nor {CSV_METADATA}): one JSON object per line is needed, such as "
                '{"file_name": "cat.png", "text": "a cat on a mat"}'
            )
        if len(present) > 1:
            raise UserError(f"{self.path} has both {METADATA} and {CSV_METADATA}: take one of them away")
        if present == [CSV_METADATA] and "file_name" not in self._header():
            raise UserError(f"{self.path / CSV_METADATA}: its first line must name the columns, file_name among them")

    @property
    def name(self) -> str:
        with (self.path / self.files[0]).open("rb") as file:
            return f"folder {self.path.resolve().name} {hashlib.file_digest(file, 'sha256').hexdigest()[:16]}"

    @property
    def files(self) -> tuple[str]:
        return (METADATA,) if (self.path / METADATA).is_file() else (CSV_METADATA,)

    def count(self) -> int:
        """Entries that fit the filter. Raises `UserError`, naming the fields or values there are, when none does."""
        census = Census(self.where)
        fitting = 0
        for _, entry in self.entries(0, 0):
            if isinstance(entry, Entry):
                fits = self.where(entry.attributes)
                fitting += fits
                if not fits and not fitting:
                    census.add(entry.attributes)
        if census and not fitting:
            raise UserError(census.explain(str(self.path)))
        return fitting

    def entries(self, file: int, start: int) -> Iterator[tuple[int, Entry | Problem]]:
        rows = self._json_rows() if self.files[file] == METADATA else self._csv_rows()
        for number, (where, row) in enumerate(rows):
            if number >= start:
                yield number, row if isinstance(row, Problem) else self._entry(row, where)

    def _json_rows(self) -> Iterator[tuple[str, dict[str, Any] | Problem]]:
        with (self.path / METADATA).open("rb") as file:
            for number, line in bounded_lines(file):
                where = f"{METADATA}:{number}"
                if line is None:
                    yield where, Problem(where, "bad JSON line", f"longer than {MAX_TEXT_BYTES} bytes")
                elif line.strip():
                    try:
                        yield where, parse_object(line)
                    except ValueError as error:
                        yield where, Problem(where, "bad JSON line", str(error))

    def _csv_rows(self) -> Iterator[tuple[str, dict[str, Any] | Problem]]:
        with (self.path / CSV_METADATA).open("rb") as file:
            rows = csv.reader(_csv_lines(file))
            header = next(rows)
            while True:
                where = f"{CSV_METADATA}:{rows.line_num + 1}"
                try:
                    row = next(rows)
                except StopIteration:
                    return
                except csv.Error as error:
                    yield where, Problem(where, "bad CSV row", str(error))
                    continue
                if len(row) != len(header) and row:
                    yield where, Problem(where, "bad CSV row", f"{len(row)} values for {len(header)} columns")
                elif not is_unicode(row):
                    yield where, Problem(where, "bad CSV row", "not UTF-8")
                elif row:
                    yield where, dict(zip(header, row, strict=True))

    def _header(self) -> list[str]:
        with (self.path / CSV_METADATA).open("rb") as file:
            try:
                return next(csv.reader(_csv_lines(file)), [])
            except csv.Error:
                return []

    def _entry(self, fields: dict[str, Any], where: str) -> Entry | Problem:
        file_name = fields.pop("file_name", None)
        if not isinstance(file_name, str) or not file_name:
            return Problem(where, "no file name", "the field file_name is missing or is not a text")
        if leads_outside(file_name):
            return Problem(where, "path outside the folder", f"file_name {file_name!r} must be a path in the folder")
        texts, attributes = self.captions.split(fields)
        if not texts:
            return Problem(file_name, "empty caption", self.captions.why_none(fields, where))
        path = str(PurePosixPath(file_name))
        return Entry(path, texts, attributes, partial(read_picture, self.path / path, f"named in {where}"))


def read_picture(path: Path, named: str) -> bytes:
    """Reads a picture's file, if it is one: not a folder, a device or a pipe, and no longer than is decoded.

    Raises `Unreadable`, or `OSError` where the system refuses.
    """
    try:
        status = path.stat()
    except FileNotFoundError:
        raise Unreadable("missing file", f"{named}, not in the folder") from None
    if not stat.S_ISREG(status.st_mode):
        raise Unreadable("unreadable file", "not a regular file")
    require_size(status.st_size)
    return path.read_bytes()


def bounded_lines(file: Any) -> Iterator[tuple[int, bytes | None]]:
    """Yields the lines of a binary file with their numbers, from 1; `None` for those that are too long to be read."""
    number = 0
    while line := file.readline(MAX_TEXT_BYTES):
        number += 1
        whole = len(line) < MAX_TEXT_BYTES or line.endswith(b"\n")
        while len(line) == MAX_TEXT_BYTES and not line.endswith(b"\n"):
            line = file.readline(MAX_TEXT_BYTES)
        yield number, line if whole else None


def _csv_lines(file: Any) -> Iterator[str]:
    """Lines for `csv.reader`; what is not UTF-8 becomes surrogates, which are found later, where the row is known."""
    for number, line in bounded_lines(file):
        line = b"(a line too long to be read)\n" if line is None else line
        yield line.decode("utf-8-sig" if number == 1 else "utf-8", "surrogateescape")
