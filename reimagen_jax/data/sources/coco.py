"""COCO's captions as they are published: a file of annotations, and the folder of the pictures beside it or above.

    annotations/captions_val2014.json
      {"images": [{"id": 391895, "file_name": "COCO_val2014_000000391895.jpg", ...}, ...],
       "annotations": [{"id": 770337, "image_id": 391895, "caption": "A man with a red helmet on a moped"}, ...]}
    val2014/COCO_val2014_000000391895.jpg

A picture has about five captions, in the order of the file. What else is told of it becomes attributes, its `id` that
called `image_id`. Source: Chen et al. 2015, Microsoft COCO Captions.
"""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path
from typing import Any

from reimagen_jax.data.image_text import Problem
from reimagen_jax.data.sources.base import Entry, Smaller, Source
from reimagen_jax.data.sources.fields import Captions, attributes_of, is_unicode
from reimagen_jax.data.sources.files import leads_outside, read_picture
from reimagen_jax.data.sources.where import EVERYTHING, Where
from reimagen_jax.errors import UserError, require
from reimagen_jax.files import read_json

IMAGE_ID = "image_id"
"""The attribute that tells pictures apart."""
_WHAT = "captions as COCO publishes them"


@dataclass(frozen=True)
class CocoSource(Source):
    """A file of COCO's captions with its pictures. Raises `UserError` where either is not there."""

    path: Path
    folder: Path | None = None
    """Of the pictures (default: what the file is named after, such as val2014, beside it or beside its folder)."""
    where: Where = EVERYTHING
    resolution: int | None = None
    captions: Captions = field(default_factory=Captions)
    follow_links: bool = False
    smaller: Smaller = "kept"

    def __post_init__(self) -> None:
        require(self.path.is_file(), f"{self.path} not found: {_WHAT}, such as captions_val2014.json, were expected")
        _ = self.pictures_folder

    @cached_property
    def pictures_folder(self) -> Path:
        """Where the pictures lie."""
        if self.folder is not None:
            require(self.folder.is_dir(), f"{self.folder} is not a folder: give the one of {self.path.name}'s pictures")
            return self.folder
        name = self.path.stem.rpartition("_")[2]
        looked = [self.path.parent / name, self.path.parent.parent / name]
        found = next((folder for folder in looked if folder.is_dir()), None)
        if found is None:
            raise UserError(
                f"{self.path}: its pictures are neither in {looked[0]} nor in {looked[1]}: give their folder"
            )
        return found

    @property
    def name(self) -> str:
        with self.path.open("rb") as file:
            return f"coco {self.path.stem} {hashlib.file_digest(file, 'sha256').hexdigest()[:16]}"

    @property
    def files(self) -> tuple[str]:
        return (self.path.name,)

    def count(self) -> int | None:
        return None if self.where.allowed else sum(len(texts) for texts in self._told.values())

    def entries(self, file: int, start: int) -> Iterator[tuple[int, Entry | Problem]]:
        for number, image in enumerate(self._read["images"]):
            if number >= start:
                yield number, self._entry(image, f"{self.path.name}: image {number}")

    @cached_property
    def _read(self) -> dict[str, Any]:
        told = read_json(self.path, _WHAT)
        for name in ("images", "annotations"):
            listed = told.get(name) if isinstance(told, dict) else None
            require(
                isinstance(listed, list) and all(isinstance(each, dict) for each in listed),
                f"{self.path} has no list of {name}: it is none of {_WHAT} (captions_val2014.json has both)",
            )
        return told

    @cached_property
    def _told(self) -> dict[Any, list[str]]:
        """The captions of each picture, by its id."""
        told: dict[Any, list[str]] = {}
        for number, each in enumerate(self._read["annotations"]):
            there = isinstance(each.get(IMAGE_ID), int | str) and isinstance(each.get("caption"), str)
            require(there, f"{self.path}: annotation {number} has no {IMAGE_ID} and caption: give the file of captions")
            told.setdefault(each[IMAGE_ID], []).append(each["caption"])
        return told

    def _entry(self, image: dict[str, Any], where: str) -> Entry | Problem:
        name, number = image.get("file_name"), image.get("id")
        if not isinstance(name, str) or not name or not isinstance(number, int | str):
            return Problem(where, "no file name", "an id and a file_name were expected")
        if leads_outside(name):
            return Problem(where, "path outside the folder", f"file_name {name!r} must be a path in the folder")
        fields = {key: value for key, value in image.items() if key not in ("id", "file_name")}
        fields = attributes_of({IMAGE_ID: number, **fields, "captions": self._told.get(number, [])})
        if not is_unicode(name, fields):
            return Problem(name, "bad text", f"{where} has half of a UTF-16 surrogate pair")
        texts, attributes = self.captions.split(fields)
        if not texts:
            return Problem(name, "empty caption", self.captions.why_none(fields, where))
        read = partial(read_picture, self.pictures_folder, name, f"named in {where}", self.follow_links)
        return Entry(name, texts, attributes, read)
