"""What a source is, and how its pictures become records: read and decoded on all cores, in order, in bounded memory.

A source is an ordered list of files, each an ordered list of entries; an entry is a picture with its captions. So a
`Place` (file, entry, caption) names a position in it, from which reading goes on after an interruption. A source never
stops at a bad entry: it yields a `Problem` in its place.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from reimagen_jax.data import images
from reimagen_jax.data.catalogue import Catalogue
from reimagen_jax.data.image_text import ImageText, Problem
from reimagen_jax.data.parallel import available_cores, ordered_map
from reimagen_jax.data.sources.where import Census, Where
from reimagen_jax.errors import UserError

Smaller = Literal["kept", "left out", "enlarged"]
"""What becomes of a picture with a side below the resolution asked for."""
TOO_SMALL = "smaller than asked for"
MAX_TEXT_BYTES = 2**24
"""Longest line of metadata, and longest text file beside a picture, that is read."""


@dataclass(frozen=True)
class Entry:
    """A picture of a source with its captions (one at least)."""

    key: str
    texts: tuple[str, ...]
    attributes: dict[str, Any]
    read: Callable[[], bytes] = field(compare=False)
    """Fetches the encoded picture; called in another thread. Raises `Unreadable`, `ImageError` or `OSError`."""


class Unreadable(Exception):
    """A picture that cannot be had; `reason` is one of a few fixed phrases, for counting."""

    def __init__(self, reason: str, detail: str):
        super().__init__(f"{reason}: {detail}")
        self.reason = reason
        self.detail = detail


@dataclass(frozen=True, order=True)
class Place:
    """A position in a source: so many files done, so many entries of the next, so many captions of its next entry."""

    file: int = 0
    entry: int = 0
    text: int = 0


class Source(ABC):
    """What `reimagen prepare` reads."""

    where: Where
    resolution: int | None
    """Larger images are cropped to the central square and area-averaged to this side; `None` keeps all as they are."""
    smaller: Smaller = "kept"
    """Smaller ones stay as they are, are no records (`TOO_SMALL`), or are enlarged too (bicubic), and counted."""

    @property
    @abstractmethod
    def name(self) -> str:
        """Identifies the source: equal names and equal keys mean the same picture."""

    @property
    @abstractmethod
    def files(self) -> Sequence[str]:
        """Names of the files, in the order of reading."""

    @abstractmethod
    def count(self) -> int | None:
        """How many items `items` yields at most, for progress; `None` where only reading can tell."""

    @abstractmethod
    def entries(self, file: int, start: int) -> Iterator[tuple[int, Entry | Problem]]:
        """Yields the entries of a file from number `start` on, each with its number; numbers only grow.

        The same numbers come whatever `start` is; earlier ones may come again, and are passed over.
        """

    def items(self) -> Iterator[ImageText | Problem]:
        """The usable and the unusable, in a fixed order; what repeats an earlier item is a `Problem`."""
        catalogue = Catalogue()
        for _, item in self.read():
            yield catalogue.admit(item) if isinstance(item, ImageText) else item

    def read(self, start: Place = Place()) -> Iterator[tuple[Place, ImageText | Problem]]:
        """Yields what `items` yields, repetitions included, each with the place after it.

        Raises `UserError`, naming the fields or values there are, when the filter fits nothing.
        """
        wanted, ahead = self._wanted(start), 4 * available_cores()
        for file, number, found in ordered_map(self._convert, wanted, ahead=ahead, weigh=_weigh):
            first = start.text if (file, number) == (start.file, start.entry) else 0
            for text, item in enumerate(found, 1):
                if text > first:
                    yield Place(file, number, text) if text < len(found) else Place(file, number + 1), item

    def pictures(self) -> Iterator[Entry | Problem]:
        """What the filter lets through, with all captions of a picture, none of them read. Raises `UserError` as `read`
        does."""
        for _, _, found in self._wanted(Place()):
            yield found

    def _wanted(self, start: Place) -> Iterator[tuple[int, int, Entry | Problem]]:
        """What the filter lets through, before any picture is read."""
        census = Census(self.where)
        fitting = start != Place()
        for file in range(start.file, len(self.files)):
            first = start.entry if file == start.file else 0
            for number, entry in self.entries(file, first):
                if number < first:
                    continue
                if isinstance(entry, Problem):
                    yield file, number, entry
                elif self.where(entry.attributes):
                    fitting = True
                    yield file, number, entry
                elif not fitting:
                    census.add(entry.attributes)
        if census and not fitting:
            raise UserError(census.explain(self.name))

    def _convert(self, wanted: tuple[int, int, Entry | Problem]) -> tuple[int, int, list[ImageText | Problem]]:
        file, number, entry = wanted
        return file, number, [entry] if isinstance(entry, Problem) else to_records(entry, self.resolution, self.smaller)


def _weigh(converted: tuple[int, int, list[ImageText | Problem]]) -> int:
    """Bytes of a picture with its captions."""
    first = converted[2][0]
    return len(first.image) if isinstance(first, ImageText) else 0


def to_records(entry: Entry, resolution: int | None, smaller: Smaller = "kept") -> list[ImageText | Problem]:
    """Reads and decodes a picture, makes it as large as asked for, and pairs it with each of its captions."""
    try:
        data = entry.read()
        with images.room(data):
            image = images.load(data)
            digest, mended = images.digest(image), image.info.get("mended", "")
            side, small = min(image.size), resolution is not None and min(image.size) < resolution
            if small and smaller == "left out":
                return [Problem(entry.key, TOO_SMALL, f"{side} pixels, not {resolution} (--enlarge enlarges it)")]
            if small and smaller == "enlarged":
                mended = mended or f"{TOO_SMALL}, enlarged"
            if resolution is not None and (side > resolution or (small and smaller == "enlarged")):
                data = images.encode(images.square(image, resolution), lossy=image.format in images.LOSSY_FORMATS)
            elif image.format not in images.STORED_FORMATS:
                data = images.encode(image, lossy=False)
            elif mended:
                data = image.info["encoded"]
            del image
    except (images.ImageError, Unreadable) as error:
        return [Problem(entry.key, error.reason, error.detail)]
    except OSError as error:
        return [Problem(entry.key, "unreadable file", error.strerror or str(error))]
    return [ImageText(entry.key, data, text, entry.attributes, digest, mended) for text in entry.texts]


def require_size(size: int) -> None:
    """Raises `Unreadable` for encoded pictures that are too large to be read."""
    if size > images.MAX_BYTES:
        raise Unreadable("oversized image", f"{size} bytes, the limit is {images.MAX_BYTES}")


def refuse_pointer(head: bytes) -> None:
    """Raises `Unreadable` where a file begins as git-LFS's stand-in for one that was not fetched."""
    if head.startswith(images.LFS_POINTER):
        raise Unreadable("git-LFS pointer", "the file itself was not fetched: run `git lfs pull` where it lies")


def checked(data: bytes) -> bytes:
    """The same bytes. Raises `Unreadable` where they are too many, or stand for a file that was not fetched."""
    require_size(len(data))
    refuse_pointer(data)
    return data
