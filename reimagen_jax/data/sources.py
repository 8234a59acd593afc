"""Where image-text pairs come from: EntityWorld, or a folder of images with `metadata.jsonl`.

A source yields, in a fixed order, an `ImageText` for what is usable and a `Problem` for what is not; it never stops at
a bad item. The folder follows the Hugging Face imagefolder convention: each line of `metadata.jsonl` is a JSON object
with `file_name`, and `text` or `caption`; its other fields become attributes.
"""

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from itertools import count
from pathlib import Path, PurePosixPath
from typing import Any, Protocol

from reimagen_jax.data import images
from reimagen_jax.data.parallel import ordered_map
from reimagen_jax.data.records import ImageText, Problem
from reimagen_jax.errors import UserError

METADATA = "metadata.jsonl"
TEXT_FIELDS = ("text", "caption")


class Source(Protocol):
    """What `reimagen prepare` reads."""

    @property
    def name(self) -> str:
        """Identifies the source: equal names and equal keys mean the same picture."""
        ...

    def count(self) -> int:
        """How many items `items` yields at most, for progress."""
        ...

    def items(self) -> Iterator[ImageText | Problem]:
        """The usable and the unusable, in a fixed order."""
        ...


@dataclass(frozen=True)
class Where:
    """A filter on attributes: for each field one of the values given for it; a dot reaches into nested objects."""

    allowed: Mapping[str, frozenset[str]] = field(default_factory=dict)

    @classmethod
    def parse(cls, conditions: Iterable[str]) -> "Where":
        """Reads conditions of the form FIELD=VALUE. Raises `UserError` on any other."""
        allowed: dict[str, set[str]] = {}
        for condition in conditions:
            name, equals, value = condition.partition("=")
            if not (name and equals):
                raise UserError(f"--where {condition!r} is not FIELD=VALUE, such as role=train")
            allowed.setdefault(name, set()).add(value)
        return cls({name: frozenset(values) for name, values in allowed.items()})

    def __call__(self, attributes: Mapping[str, Any]) -> bool:
        """True where every condition holds; a list satisfies it with any of its elements."""
        return all(values & _spellings(attributes, name) for name, values in self.allowed.items())


def _spellings(attributes: Any, name: str) -> set[str]:
    """The values of a field as the user would type them; none when it is absent."""
    value = attributes.get(name, attributes)
    if value is attributes:
        head, dot, rest = name.partition(".")
        inner = attributes.get(head)
        return _spellings(inner, rest) if dot and isinstance(inner, Mapping) else set()
    values = value if isinstance(value, list) else [value]
    return {item if isinstance(item, str) else json.dumps(item) for item in values}


@dataclass(frozen=True)
class WorldSource:
    """EntityWorld as a source. Raises `UserError` on a role or split that it does not have."""

    world: Any
    """An `entityworld.World`."""
    where: Where = Where()
    resolution: int = 64

    def __post_init__(self) -> None:
        from reimagen_jax.data.entityworld.dataset import ROLES, SPLITS

        for name, known in (("role", ROLES), ("split", SPLITS)):
            if unknown := self.where.allowed.get(name, frozenset()) - set(known):
                raise UserError(f"--where {name}={min(unknown)}: EntityWorld has the {name}s {', '.join(known)}")

    @property
    def name(self) -> str:
        return f"entityworld seed={self.world.seed}"

    def count(self) -> int:
        return self.world.num_examples(**self._drawn)

    def items(self) -> Iterator[ImageText]:
        for example in self.world.examples(**self._drawn, resolution=self.resolution):
            if self.where(example["attributes"]):
                yield ImageText(**example)

    @property
    def _drawn(self) -> dict[str, str | None]:
        """The role and the split to draw, where the filter leaves only one: the others need not be drawn."""
        only = {name: self.where.allowed.get(name, frozenset()) for name in ("role", "split")}
        return {name: next(iter(values)) if len(values) == 1 else None for name, values in only.items()}


@dataclass(frozen=True)
class FolderSource:
    """A folder of images with `metadata.jsonl`. Raises `UserError` when there is none."""

    path: Path
    where: Where = Where()
    resolution: int | None = None
    """Larger images are cropped to the central square and area-averaged to this side; `None` keeps all as they are."""

    def __post_init__(self) -> None:
        if not self.path.is_dir():
            raise UserError(f"--source {self.path} is not a folder (nor `entityworld`)")
        if not (self.path / METADATA).is_file():
            raise UserError(
                f"{self.path} has no {METADATA}: one JSON object per line is needed, such as "
                '{"file_name": "cat.png", "text": "a cat on a mat"}'
            )

    @property
    def name(self) -> str:
        with (self.path / METADATA).open("rb") as file:
            return f"folder {self.path.resolve().name} {hashlib.file_digest(file, 'sha256').hexdigest()[:16]}"

    def count(self) -> int:
        """Items that fit the filter. Raises `UserError`, naming the fields or values there are, when none does."""
        fitting = sum(isinstance(entry, _Entry) for entry in self._entries(self.where))
        if not fitting:
            known = [entry.attributes for entry in self._entries(Where()) if isinstance(entry, _Entry)]
            if known:
                raise UserError(_why_nothing_fits(self.where, known, self.path))
        return fitting

    def items(self) -> Iterator[ImageText | Problem]:
        first: dict[tuple[str, str], str] = {}
        keys: set[str] = set()
        for item in ordered_map(self._read, self._entries(self.where)):
            if isinstance(item, Problem):
                yield item
            elif (content := (item.digest, item.text)) in first:
                yield Problem(item.key, "duplicate", f"same picture and same text as {first[content]}")
            else:
                # One picture with several captions is several records.
                key = next(k for n in count(1) if (k := item.key if n == 1 else f"{item.key}#{n}") not in keys)
                keys.add(key)
                first[content] = key
                yield replace(item, key=key)

    def _entries(self, where: Where) -> Iterator["_Entry | Problem"]:
        with (self.path / METADATA).open("rb") as file:
            for number, line in enumerate(file, 1):
                if line.strip():
                    entry = _parse(line, f"{METADATA}:{number}")
                    if isinstance(entry, Problem) or where(entry.attributes):
                        yield entry

    def _read(self, entry: "_Entry | Problem") -> ImageText | Problem:
        if isinstance(entry, Problem):
            return entry
        path = self.path / entry.file_name
        try:
            size = path.stat().st_size
            if size > images.MAX_BYTES:
                return Problem(entry.file_name, "oversized image", f"{size} bytes, the limit is {images.MAX_BYTES}")
            data = path.read_bytes()
            image = images.load(data)
        except FileNotFoundError:
            return Problem(entry.file_name, "missing file", f"named in {entry.where}, not in the folder")
        except images.ImageError as error:
            return Problem(entry.file_name, error.reason, error.detail)
        except OSError as error:
            return Problem(entry.file_name, "unreadable file", error.strerror or str(error))
        digest = images.digest(image)
        if self.resolution is not None and min(image.size) > self.resolution:
            data = images.encode(images.square(image, self.resolution), lossy=image.format in images.LOSSY_FORMATS)
        elif image.format not in images.STORED_FORMATS:
            data = images.encode(image, lossy=False)
        return ImageText(entry.file_name, data, entry.text, entry.attributes, digest)


@dataclass(frozen=True)
class _Entry:
    """A good line of `metadata.jsonl`."""

    file_name: str
    text: str
    attributes: dict[str, Any]
    where: str


def _parse(line: bytes, where: str) -> _Entry | Problem:
    """One line of `metadata.jsonl`."""
    try:
        fields = json.loads(line.decode("utf-8-sig"), parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        return Problem(where, "bad JSON line", str(error) or "nested too deeply")
    if not isinstance(fields, dict):
        return Problem(where, "bad JSON line", "an object with file_name and text was expected")
    file_name = fields.pop("file_name", None)
    if not isinstance(file_name, str) or not file_name:
        return Problem(where, "no file name", "the field file_name is missing or is not a text")
    path = PurePosixPath(file_name)
    if path.is_absolute() or ".." in path.parts or "\\" in file_name or "\0" in file_name:
        return Problem(where, "path outside the folder", f"file_name {file_name!r} must be a path inside the folder")
    texts = [fields.pop(name) for name in TEXT_FIELDS if name in fields]
    text = texts[0].strip() if texts and isinstance(texts[0], str) else ""
    if not text:
        return Problem(file_name, "empty caption", f"{where} has no text in its field text or caption")
    if not _is_unicode(json.dumps([file_name, text, fields], ensure_ascii=False)):
        return Problem(where, "bad JSON line", "half of a UTF-16 surrogate pair")
    return _Entry(str(path), text, fields, where)


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")


def _is_unicode(text: str) -> bool:
    """JSON's escapes can spell code points that no text may hold."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def _why_nothing_fits(where: Where, items: list[dict[str, Any]], path: Path) -> str:
    for name in where.allowed:
        values = Counter(value for attributes in items for value in _spellings(attributes, name))
        if not values:
            fields = sorted({known for attributes in items for known in attributes})
            return f"--where {name}=...: nothing in {path} has the field {name}, but {', '.join(fields) or 'none'}"
        if not values.keys() & where.allowed[name]:
            known = ", ".join(value for value, _ in values.most_common(10))
            return f"--where {name}={min(where.allowed[name])}: in {path}, {name} is one of {known}"
    return f"nothing in {path} satisfies all of the --where conditions at once"
