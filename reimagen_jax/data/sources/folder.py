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

import codecs
import csv
import hashlib
import io
from collections import Counter, deque
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any

from reimagen_jax.data.image_text import Problem
from reimagen_jax.data.sources.base import MAX_TEXT_BYTES, Entry, Smaller, Source, Unreadable
from reimagen_jax.data.sources.fields import Captions, is_unicode, parse_object
from reimagen_jax.data.sources.files import find, leads_outside, leaves, read_picture, require_file, slashed
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
    follow_links: bool = False
    """Follow symbolic links that lead out of the folder."""
    smaller: Smaller = "kept"

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
        (metadata,) = (self.path / name for name in present)
        try:
            require_file(metadata)
        except Unreadable as error:
            raise UserError(f"{metadata}: {error}") from error
        if not self.follow_links and leaves(metadata, self.path):
            raise UserError(f"{metadata} is a symbolic link out of the folder: --follow-links follows it")
        if metadata.name == CSV_METADATA:
            header = self._header()
            if "file_name" not in header:
                raise UserError(f"{metadata}: its first line must name the columns, file_name among them")
            if twice := [name for name, times in Counter(filter(None, header)).items() if times > 1]:
                raise UserError(f"{metadata}: its first line names the column {twice[0]!r} twice")

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
        with closing(open_lines(self.path / METADATA)) as file:
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
        with closing(open_lines(self.path / CSV_METADATA)) as file:
            rows = csv_rows(file, self._swallows)
            _, header = next(rows)
            names = [_column_name(name) for name in header]
            for number, row in rows:
                where = f"{CSV_METADATA}:{number}"
                if isinstance(row, str):
                    yield where, Problem(where, "bad CSV row", row)
                elif not is_unicode(row):
                    yield where, Problem(where, "bad CSV row", "not UTF-8")
                else:
                    yield where, dict(zip(names, row, strict=True))

    def _swallows(self, header: list[str], row: list[str]) -> bool:
        """True for what is a row by itself: it has a value for each column, and names a file that is there."""
        if len(row) != len(header):
            return False
        name = row[header.index("file_name")]
        return bool(name) and not leads_outside(name) and find(self.path, name) is not None

    def _header(self) -> list[str]:
        with closing(open_lines(self.path / CSV_METADATA)) as file:
            _, header = next(csv_rows(file), (0, []))
            return header if isinstance(header, list) else []

    def _entry(self, fields: dict[str, Any], where: str) -> Entry | Problem:
        file_name = fields.pop("file_name", None)
        if not isinstance(file_name, str) or not file_name:
            return Problem(where, "no file name", "the field file_name is missing or is not a text")
        if leads_outside(file_name):
            return Problem(where, "path outside the folder", f"file_name {file_name!r} must be a path in the folder")
        texts, attributes = self.captions.split(fields)
        if not texts:
            return Problem(file_name, "empty caption", self.captions.why_none(fields, where))
        read = partial(read_picture, self.path, file_name, f"named in {where}", self.follow_links)
        return Entry(str(PurePosixPath(slashed(file_name))), texts, attributes, read)


def bounded_lines(file: Any) -> Iterator[tuple[int, bytes | None]]:
    """Yields the lines of a binary file with their numbers, from 1; `None` for those that are too long to be read."""
    number = 0
    while line := file.readline(MAX_TEXT_BYTES):
        number += 1
        whole = len(line) < MAX_TEXT_BYTES or line.endswith(b"\n")
        while len(line) >= MAX_TEXT_BYTES and not line.endswith(b"\n"):
            line = file.readline(MAX_TEXT_BYTES)
        yield number, line if whole else None


class _Utf16Lines:
    """A file in UTF-16, line by line in UTF-8."""

    def __init__(self, file: Any):
        self._text = io.TextIOWrapper(file, "utf-16", errors="replace", newline="\n")
        self.close = self._text.close

    def readline(self, most: int) -> bytes:
        """A line of `most` characters at most (and of three times as many bytes)."""
        return self._text.readline(most).encode("utf-8", "surrogatepass")


def open_lines(path: Path) -> Any:
    """Opens a file of lines in UTF-8, or in UTF-16 (Windows; told by its first two bytes), to be read in UTF-8."""
    file = path.open("rb")
    return _Utf16Lines(file) if file.peek(2)[:2] in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE) else file


def csv_rows(
    file: Any, swallowed: Callable[[list[str], list[str]], bool] = lambda header, row: False
) -> Iterator[tuple[int, list[str] | str]]:
    """Yields the rows of a CSV file, the header first, with the numbers of their lines; of a bad one, what is wrong.

    A bad row ends with its first line, and reading goes on with the next: a quote that is never closed would swallow
    the rest of the file, and one that a later row closes the rows up to that. Where both are well-formed by chance,
    `swallowed(header, values)` tells of a line inside a quotation whether it is a row of its own.
    """
    lines = _csv_lines(file)
    ahead: deque[str | None] = deque()
    header: list[str] | None = None
    number = 1
    while True:
        used: list[str | None] = []
        try:
            row = next(csv.reader(_noted(lines, ahead, used), strict=True), None)
            wrong = None
            if row and header is not None and len(row) != len(header):
                wrong = f"{len(row)} values for {len(header)} columns"
            elif header is not None and any(swallowed(header, _alone(line)) for line in used[1:]):
                wrong = "a quotation that goes on over other rows"
        except csv.Error as error:
            wrong = "a quote that is never closed" if "unexpected end" in str(error) else str(error)
        if not used:
            return
        if wrong:
            ahead.extendleft(reversed(used[1:]))
            del used[1:]
            yield number, wrong
        elif row:
            header = header or row
            yield number, row
        number += len(used)


def _noted(lines: Iterator[str | None], ahead: deque[str | None], used: list[str | None]) -> Iterator[str]:
    """The lines that are read again, then the others; each is noted in `used`."""
    while (line := ahead.popleft() if ahead else next(lines, "")) != "":
        used.append(line)
        if line is None:
            raise csv.Error(f"longer than {MAX_TEXT_BYTES} bytes")
        yield line


def _alone(line: str) -> list[str]:
    """The values of a line by itself; none where it has none."""
    try:
        return next(csv.reader([line]), [])
    except csv.Error:
        return []


def _csv_lines(file: Any) -> Iterator[str | None]:
    """Lines for `csv.reader`; what is not UTF-8 becomes surrogates, which are found later, where the row is known."""
    for number, line in bounded_lines(file):
        yield None if line is None else line.decode("utf-8-sig" if number == 1 else "utf-8", "surrogateescape")


def _column_name(name: str) -> str:
    """A column's name, which costs no row where it is not UTF-8: such files are from Windows, or older."""
    data = name.encode("utf-8", "surrogateescape")
    for encoding in ("utf-8", "cp1252"):
        with suppress(UnicodeDecodeError):
            return data.decode(encoding)
    return data.decode("latin-1")
