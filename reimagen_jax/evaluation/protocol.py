"""FID by a protocol: a fixed list of captions of a set, what a model draws for each, compared with the set's pictures.

    list         one caption, at random, of each of N pictures, at random: pictures in an order that the seed draws, and
                 for each a caption that it draws, so that a shorter list is the beginning of a longer one; or a list
                 that others have published
    reference    all pictures of the set (Imagen: 40,504 of COCO's validation set), or those of the list alone
    both         the central square at one side (256, or what is drawn where that is smaller), then the features' own
                 way: `fitted`

Each of these moves the figure by more than many papers differ, so it stands beside it. Sources: Ramesh et al. 2021 and
Nichol et al. 2022 for 30,000 captions of COCO's validation set; Saharia et al. 2022 for the reference; Chen et al. 2022
(Re-Imagen) for the databases, and for WikiImages.
"""

import csv
import io
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from reimagen_jax.data import images
from reimagen_jax.data.image_text import Problem
from reimagen_jax.data.pictures import Item, Pictures
from reimagen_jax.data.sources.base import Entry, Source, Unreadable
from reimagen_jax.data.sources.coco import IMAGE_ID
from reimagen_jax.data.sources.fields import TEXT_FIELDS, is_unicode
from reimagen_jax.errors import UserError, require
from reimagen_jax.evaluation.features import Features
from reimagen_jax.evaluation.sets import SCALES, Figure
from reimagen_jax.evaluation.settings import Resize
from reimagen_jax.files import read_json, write_text

SIDE = 256
"""At which sets are compared."""
METHODS: dict[Resize, Image.Resampling] = {
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
    "area": Image.Resampling.BOX,
}
"""Pillow's, which smooth on the way down; on the way up all is bicubic."""
ID_FIELDS = (IMAGE_ID, "coco_id", "uid", "key", "file_name")
"""By which a list that others have published tells pictures: the first that there is."""
CAPTION_FIELDS = (*TEXT_FIELDS, "prompt")
_UID = re.compile(r"0*(\d+)(_mscoco_\d+)?")
"""An id with zeros before it, or with the number of its caption behind, as lists have them."""
_OF_PICTURES_ALONE = ("Inception Score", *SCALES)


class Captioned(NamedTuple):
    """A caption of the list."""

    key: str
    """Of its picture."""
    text: str


@dataclass(frozen=True, eq=False)
class CaptionedSet:
    """The pictures of a set with their captions, none of them read."""

    name: str
    path: Path
    entries: Mapping[str, Entry]
    """By their keys."""

    @classmethod
    def of(cls, source: Source, path: Path) -> "CaptionedSet":
        """All of a source. Raises `UserError` where one cannot be used: a part of a set is another set."""
        entries: dict[str, Entry] = {}
        for found in source.pictures():
            if isinstance(found, Problem):
                raise UserError(f"{path}: {found}; a set is compared as a whole: mend it")
            if (before := entries.get(found.key)) is not None:  # a line for each caption
                found = replace(before, texts=tuple(dict.fromkeys((*before.texts, *found.texts))))
            entries[found.key] = found
        require(bool(entries), f"{path} has no pictures with captions")
        return cls(source.name, path, entries)

    def drawn(self, count: int | None, seed: int) -> list[Captioned]:
        """The list of so many captions, of all pictures where none is said."""
        keys, there = sorted(self.entries), len(self.entries)
        require(
            count is None or count <= there,
            f"{count} captions of {self.path}: it has {there:,} pictures, one caption of each is drawn: give --count",
        )
        rng = np.random.default_rng(seed)
        order_N, share_N = rng.permutation(there), rng.random(there)
        found = []
        for number in order_N[:count].tolist():
            texts = self.entries[keys[number]].texts
            found.append(Captioned(keys[number], texts[int(share_N[number] * len(texts))]))
        return found

    def listed(self, path: Path) -> list[Captioned]:
        """The list in a file of others: .csv, .tsv, .jsonl, .json (a list of objects, or COCO's `annotations`).

        Captions are taken as they stand there. Raises `UserError`, naming the row, for one without a picture of the
        set or a caption.
        """
        by_name = self._names()
        found = []
        for where, row in _rows(path):
            names = [str(row[name]).strip() for name in ID_FIELDS if row.get(name) not in (None, "")]
            texts = [row[name].strip() for name in CAPTION_FIELDS if isinstance(row.get(name), str)]
            require(
                bool(names and texts and texts[0]),
                f"{where} has no picture ({', '.join(ID_FIELDS)}) with a caption ({', '.join(CAPTION_FIELDS)}): it has "
                f"{', '.join(map(str, row)) or 'nothing'}",
            )
            require(is_unicode(texts[0]), f"{where}: its caption has half of a UTF-16 surrogate pair")
            plain = _UID.fullmatch(names[0])
            key = by_name.get(names[0]) or by_name.get(plain[1] if plain else "")
            if key is None:
                raise UserError(f"{where}: {self.path} has no picture {names[0]}; is the list of another set?")
            found.append(Captioned(key, texts[0]))
        require(bool(found), f"{path} holds no captions")
        return found

    def _names(self) -> dict[str, str]:
        """All names of a picture -> its key."""
        found = {PurePosixPath(key).stem: key for key in self.entries}
        for key, entry in self.entries.items():
            found |= {str(entry.attributes[name]): key for name in (IMAGE_ID,) if name in entry.attributes}
        return found | {PurePosixPath(key).name: key for key in self.entries} | {key: key for key in self.entries}

    def pictures(self, keys: Sequence[str] | None = None) -> Pictures:
        """Those with these keys, each once, or all: the reference."""
        chosen = list(self.entries if keys is None else dict.fromkeys(keys))
        entries = [self.entries[key] for key in chosen]
        return Pictures(
            self.path, "set", len(chosen), lambda: (Item(each.key, partial(read, each)) for each in entries)
        )


def read(entry: Entry) -> bytes:
    """The encoded picture. Raises `ImageError` where it cannot be had."""
    try:
        return entry.read()
    except Unreadable as error:
        raise images.ImageError(error.reason, error.detail) from None
    except OSError as error:
        raise images.ImageError("unreadable file", error.strerror or str(error)) from None


def _rows(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """The objects of a file, each with where it stands."""
    suffix = path.suffix.lower()
    if suffix == ".json":
        told = read_json(path, "a list of captions")
        told = told.get("annotations") if isinstance(told, dict) else told
        require(isinstance(told, list), f"{path} is neither a list of captions, nor are there `annotations` in it")
        rows = ((f"{path}, number {number}", row) for number, row in enumerate(told, 1))
    else:
        require(suffix in (".csv", ".tsv", ".jsonl"), f"{path}: a list of captions is a .csv, .tsv, .jsonl or .json")
        try:
            text = path.read_text(encoding="utf-8-sig")
        except (OSError, UnicodeDecodeError) as error:
            raise UserError(f"{path} cannot be read as a list of captions: {error}") from error
        if suffix == ".jsonl":
            rows = ((f"{path}:{n}", _object(line)) for n, line in enumerate(text.splitlines(), 1) if line.strip())
        else:
            read = csv.DictReader(io.StringIO(text, newline=""), delimiter="\t" if suffix == ".tsv" else ",")
            rows = ((f"{path}:{read.line_num}", row) for row in read)
    for where, row in rows:
        require(isinstance(row, dict), f"{where} is no row of names and values")
        yield where, row


def _object(line: str) -> Any:
    try:
        return json.loads(line)
    except (ValueError, RecursionError):
        return None


def settle(path: Path, listed: Sequence[Captioned]) -> None:
    """Writes the list down, a JSON object a line. Raises `UserError` where another one is there already."""
    text = "".join(json.dumps(each._asdict(), ensure_ascii=False) + "\n" for each in listed)
    if path.is_file():
        same = path.read_text(encoding="utf-8") == text
        require(
            same,
            f"{path} is of other captions than these {len(listed):,}: give the set, --count, --list-seed and "
            "--caption-list that it was begun with, or choose another --out",
        )
        return
    write_text(path, text)


def fitted(features: Features, side: int, method: Resize) -> Features:
    """The features of pictures' central squares at a side, by which they are named: figures compare by these alone."""

    def prepare(image: Image.Image) -> np.ndarray:
        return features.prepare(_square(image, side, method))

    return replace(
        features,
        prepare=prepare,
        resizing=f"central squares at {side} x {side} ({method} on the way down, bicubic up), then {features.resizing}",
        label=f"{features.label}, of central squares at {side} ({method})",
    )


def _square(image: Image.Image, side: int, method: Resize) -> Image.Image:
    whole = images.square(image, None)
    if whole.width == side:
        return whole
    return whole.resize((side, side), METHODS[method] if whole.width > side else Image.Resampling.BICUBIC)


def against(figures: Sequence[Figure], reference: str) -> list[Figure]:
    """The figures, each with the reference that it is a distance to, if it is one."""

    def told(figure: Figure) -> Figure:
        if figure.name in _OF_PICTURES_ALONE:
            return figure
        return figure._replace(told="; ".join(filter(None, (f"against {reference}", figure.told))))

    return [told(figure) for figure in figures]
