"""Pictures alone, wherever they lie: records, a folder of files, an archive (.tar, .zip), an array (`arr_0` in .npz).

Captions are told where they are asked for: those of records, prompts of what was drawn here, texts beside files
(NAME.txt). Pictures come in a fixed order, decoded on all cores, in bounded memory: neither an archive nor an array is
read as a whole.
"""

import os
import zipfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from pathlib import Path, PurePosixPath
from typing import IO, Any, NamedTuple

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from reimagen_jax.checked import read as read_checked
from reimagen_jax.data import images
from reimagen_jax.data.parallel import available_cores, ordered_map
from reimagen_jax.data.records import KIND, Records
from reimagen_jax.data.sources.tar import TarError
from reimagen_jax.data.sources.webdataset import Archive
from reimagen_jax.errors import UserError, require
from reimagen_jax.files import called, kind_of
from reimagen_jax.progress import track

EXTENSIONS = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif")
DRAWN = "sample.json"
"""In a folder of images that were drawn here: it names them, and no contact sheet."""
ARRAY = "arr_0"
_ARRAY_HEADERS = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}


def _untold() -> None:
    return None


class Item(NamedTuple):
    """A picture that is not decoded yet."""

    name: str
    read: Callable[[], bytes | np.ndarray]
    """Its file's content, or its pixels, uint8 [H, W, 3]; called in another thread."""
    caption: Callable[[], str | None] = _untold
    """What it is said to show, where that is known; called in another thread."""


class Batch(NamedTuple):
    """Pictures as they were prepared, and their captions."""

    pictures: np.ndarray
    captions: list[str]
    """Empty where they are not asked for."""


@dataclass(frozen=True)
class Pictures:
    """A set of pictures in order."""

    path: Path
    what: str
    """"records", "folder", "archive", "array"."""
    count: int | None
    """None where only reading can tell."""
    items: Callable[[], Iterator[Item]] = field(repr=False)

    def decoded(self, side: int, batch: int, title: str) -> Iterator[UInt8[np.ndarray, "b s s 3"]]:
        """Central squares, area-averaged down to `side` or enlarged (bicubic), in batches as `read` gives them."""
        for some in self.read(lambda image: np.asarray(images.square(image, side)), batch, title):
            yield some.pictures

    def read(
        self, prepare: Callable[[Image.Image], np.ndarray], batch: int, title: str, captions: bool = False
    ) -> Iterator[Batch]:
        """Whole pictures, as `prepare` makes arrays of one shape of them, in batches behind a progress bar.

        Raises `UserError` naming the first picture that cannot be used, or has no caption where they are asked for.
        """

        def decode(item: Item) -> tuple[np.ndarray, str]:
            try:
                found = item.read()
                if isinstance(found, bytes):
                    with images.room(found):
                        prepared = prepare(images.load(found))
                else:
                    prepared = prepare(Image.fromarray(found))
            except images.ImageError as error:
                raise UserError(f"{self.path}: {item.name}: {error}; take it away, or mend it") from None
            return prepared, self._caption(item) if captions else ""

        every = track(ordered_map(decode, self.items(), ahead=4 * available_cores()), self.count, title, "image")
        while some := list(islice(every, batch)):
            yield Batch(np.stack([picture for picture, _ in some]), [told for _, told in some] if captions else [])

    def _caption(self, item: Item) -> str:
        told = item.caption()
        if not told:
            raise UserError(
                f"{self.path}: {item.name} has no caption: give records, what `reimagen sample` drew, or a folder with "
                "a text beside each picture (NAME.txt)"
            )
        return told


def open_pictures(path: str | Path) -> Pictures:
    """Finds the pictures at a path. Raises `UserError` that says what was looked for and not found."""
    path = Path(path)
    require(path.exists(), f"{path} not found: give records, a folder of pictures, a .tar, .zip or .npz")
    if path.is_dir():
        return _of_folder(path)
    kinds = {".tar": _of_tar, ".zip": _of_zip, ".npz": _of_array}
    require(
        path.suffix.lower() in kinds,
        f"{path} is no set of pictures: give records, a folder of pictures, a .tar, .zip or .npz",
    )
    return kinds[path.suffix.lower()](path)


def _of_folder(path: Path) -> Pictures:
    kind = kind_of(path)
    if kind == KIND:
        records = Records.open(path)
        return Pictures(
            path,
            "records",
            len(records),
            lambda: (Item(r.key, partial(_same, r.image), partial(_same, r.text)) for r in records),
        )
    prompts: dict[str, str] = {}
    if (path / DRAWN).is_file():
        prompts = _drawn(path)
        names = list(prompts)
    else:
        found = (os.path.join(place, name) for place, folders, names in _walk(path) for name in names)
        names = sorted(os.path.relpath(name, path) for name in found if _is_picture(name))
    holds = f"holds {called(kind)} and no pictures" if kind else "holds no pictures"
    require(len(names) > 0, f"{path} {holds} ({', '.join(EXTENSIONS)}): give records, or a folder of pictures")

    def item(name: str) -> Item:
        beside = partial(_beside, path / name) if name not in prompts else partial(_same, prompts[name])
        return Item(name, partial(_read, path, path / name), beside)

    return Pictures(path, "folder", len(names), lambda: map(item, names))


def _walk(path: Path) -> Iterator[tuple[str, list[str], list[str]]]:
    for place, folders, names in os.walk(path):
        folders[:] = [name for name in folders if not name.startswith(".")]
        yield place, folders, names


def _is_picture(name: str) -> bool:
    """By its name; none that is hidden (macOS's ._NAME)."""
    parts = PurePosixPath(name)
    return parts.suffix.lower() in EXTENSIONS and not parts.name.startswith(".")


@dataclass(frozen=True)
class _Drawn:
    """What is read of an image in `sample.json`."""

    file: str


def _drawn(path: Path) -> dict[str, str]:
    """The files of images, with their prompts."""
    told = read_checked(path / DRAWN, dict[str, Any], "what was drawn").get("images", [])
    told = [each for each in told if isinstance(each, dict)] if isinstance(told, list) else []
    names = [each.get("file") for each in told]
    plain = all(isinstance(name, str) and name == os.path.basename(name) and _is_picture(name) for name in names)
    require(plain, f"{path / DRAWN} does not name the images as `reimagen sample` does: give a folder of the files")
    return {name: str(each.get("prompt") or "") for name, each in zip(names, told, strict=True)}


def _of_tar(path: Path) -> Pictures:
    def items() -> Iterator[Item]:
        try:
            archive = Archive(path)
            for member in archive.members():
                if member.kind == "file" and _is_picture(member.name):
                    require(
                        member.size <= images.MAX_BYTES,
                        f"{path}: {member.name} has {member.size} bytes, the limit is {images.MAX_BYTES}",
                    )
                    yield Item(member.name, partial(archive.read, member.offset, member.size))
        except TarError as error:
            raise UserError(f"{path} is no whole .tar archive ({error}); unpack one that is compressed") from error
        except OSError as error:
            raise UserError(f"{path} cannot be read: {error.strerror}") from error

    return Pictures(path, "archive", None, items)


def _of_zip(path: Path) -> Pictures:
    with _zip(path) as archive:
        names = [info.filename for info in archive.infolist() if not info.is_dir() and _is_picture(info.filename)]

    def items() -> Iterator[Item]:
        with _zip(path) as archive:
            for name in names:
                yield Item(name, partial(_same, _member(path, archive, name)))

    require(len(names) > 0, f"{path} holds no pictures ({', '.join(EXTENSIONS)})")
    return Pictures(path, "archive", len(names), items)


def _zip(path: Path) -> zipfile.ZipFile:
    try:
        return zipfile.ZipFile(path)
    except (zipfile.BadZipFile, OSError, NotImplementedError, ValueError) as error:
        raise UserError(f"{path} cannot be read as a .zip archive: {error}") from error


def _member(path: Path, archive: zipfile.ZipFile, name: str) -> bytes:
    """Its content, of which no more is unpacked than a picture may have."""
    try:
        with archive.open(name) as file:
            data = file.read(images.MAX_BYTES + 1)
    except Exception as error:  # broken, ciphered, of a compression that is not known
        raise UserError(f"{path}: {name} cannot be unpacked: {error}") from error
    require(len(data) <= images.MAX_BYTES, f"{path}: {name} has more than {images.MAX_BYTES} bytes")
    return data


class Stored(NamedTuple):
    """An array in an .npz file that is not read yet."""

    shape: tuple[int, ...]
    dtype: np.dtype
    rows_first: bool
    """In C's order."""
    file: IO[bytes]
    """From the first value on."""


def array_names(path: Path) -> list[str]:
    """Names of the arrays in an .npz file. Raises `UserError` where it is none, and where a name stands for two."""
    with _zip(path) as archive:
        names = [name.removesuffix(".npy") for name in archive.namelist()]
    require(len(set(names)) == len(names), f"{path}: two of its arrays have one name")
    return names


@contextmanager
def stored_array(path: Path, name: str) -> Iterator[Stored]:
    """Opens an array of an .npz file, of which no more than the header is read. Raises `UserError` where it is none."""
    with ExitStack() as opened:
        archive = opened.enter_context(_zip(path))
        try:
            file = opened.enter_context(archive.open(f"{name}.npy"))
            version = np.lib.format.read_magic(file)
            shape, columns_first, dtype = _ARRAY_HEADERS[version](file)
        except Exception as error:  # whatever a broken header leads to
            raise UserError(f"{path}: {name} cannot be read as an array: {error}") from error
        yield Stored(shape, dtype, not columns_first, file)


def _of_array(path: Path) -> Pictures:
    """`arr_0` of an .npz file, uint8 [N, H, W, 3], as the ADM suite stores pictures: read picture by picture."""
    require(ARRAY in array_names(path), f"{path} holds neither pictures ({ARRAY}) nor statistics (mu, sigma)")
    with stored_array(path, ARRAY) as stored:
        shape, limit = stored.shape, images.MAX_PIXELS
        pictures = stored.dtype == np.uint8 and stored.rows_first and len(shape) == 4 and shape[3] == 3
        require(
            pictures and min(shape) > 0 and shape[1] * shape[2] <= limit,
            f"{path}: {ARRAY} is {stored.dtype} {list(shape)}; pictures are uint8 [N, H, W, 3] of {limit} pixels each "
            "at most, in C's order",
        )

    def items() -> Iterator[Item]:
        with stored_array(path, ARRAY) as stored:
            size = int(np.prod(shape[1:]))
            for number in range(shape[0]):
                data = stored.file.read(size)
                require(len(data) == size, f"{path}: {ARRAY} ends after {number} of {shape[0]} pictures")
                yield Item(f"picture {number}", partial(_same, np.frombuffer(data, np.uint8).reshape(shape[1:])))

    return Pictures(path, "array", shape[0], items)


def _read(folder: Path, path: Path) -> bytes:
    try:
        return images.read(path)
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from error


def _beside(picture: Path) -> str | None:
    """The text beside a picture."""
    path = picture.with_suffix(".txt")
    try:
        return path.read_text(encoding="utf-8-sig").strip() if path.is_file() else None
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path} cannot be read as UTF-8 text: {error}") from error


def _same(data: Any) -> Any:
    return data
