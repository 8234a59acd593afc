"""`reimagen prepare`: images with captions into records."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, ClassVar

import tyro

from reimagen_jax.checked import Count, Options
from reimagen_jax.commands.embed import EmbedOptions
from reimagen_jax.data.entityworld import World
from reimagen_jax.errors import UserError
from reimagen_jax.terminal import say

SHOWN_PROBLEMS = 20
LEAST_SIDE = 16
"""Of EntityWorld, in pixels: that at which its rater reads a scene."""


@dataclass(frozen=True)
class Prepare(Options):
    """Turn images with captions into records, the form that every other command reads.

    From EntityWorld, the embedded data set (nothing to download):
        reimagen prepare --out runs/train --where role=train
        reimagen prepare --out runs/knowledge

    From your own folder of images, with a metadata.jsonl in it whose lines look like
    {"file_name": "cat.png", "text": "a cat on a mat"} (or a metadata.csv with these columns):
        reimagen prepare --source photos --out runs/photos --resolution 64

    From Parquet files as Hugging Face writes them, from webdataset shards, from any TFDS data set:
        reimagen prepare --source DOWNLOADED_DATASET --split train --out runs/photos --resolution 64
        reimagen prepare --source 'laion/{00000..00127}.tar' --out runs/laion --resolution 256
        reimagen prepare --source tfds:coco_captions --split train --out runs/coco --resolution 64
        reimagen prepare --source tfds:stanford_dogs --caption 'a photo of a {label}' --out runs/dogs

    From COCO's captions as they are published, the pictures in train2014 beside their folder, or in --data-dir:
        reimagen prepare --source coco/annotations/captions_train2014.json --out runs/coco --resolution 64

    Interrupted, by whatever, it goes on where it was when the same command is given again.
    """

    common: ClassVar[tuple[str, ...]] = ("source", "caption", "split", "resolution", "where", "overwrite")

    out: Path
    """Folder to write; it must not exist yet."""
    source: str = "entityworld"
    """`entityworld`, a folder of images with metadata.jsonl, files or a folder of files in Parquet or webdataset's tar
    (also by a pattern in quotes), a .json of COCO's captions, or `tfds:NAME` (also NAME/CONFIG:VERSION)."""
    caption: str | None = None
    """Field that holds the captions, or a template with fields in it, such as 'a photo of a {label}'. By default the
    first there is of text, caption, captions."""
    max_captions: Count | None = None
    """Captions to keep of each picture, the first ones; each makes a record. By default all."""
    image: str | None = None
    """Field of the pictures (Parquet, TFDS) or their file extension (webdataset), where it is not found by itself."""
    split: str | None = None
    """Split of a TFDS data set (train by default; also a part, such as train[:10%]) or of Parquet files."""
    data_dir: Path | None = None
    """Folder of TFDS's data sets, instead of TFDS's own; or the one that paths in Parquet files lead into, or
    that COCO's pictures are in."""
    follow_links: bool = False
    """Follow symbolic links that lead out of the source's folder: they may lead to any file of yours."""
    resolution: Count | None = None
    """Side in pixels. EntityWorld is drawn at it (64 by default); larger images of others are cropped and shrunk,
    smaller ones left out, and named."""
    enlarge: bool = False
    """Enlarge images that are smaller than --resolution, instead of leaving them out: nothing becomes sharper by it."""
    where: Annotated[tuple[str, ...], tyro.conf.UseAppendAction] = ()
    """Keep only items with FIELD=VALUE, such as role=train. Repeat it for further values, or for further fields."""
    strict: bool = False
    """Stop at the first bad item instead of reporting and leaving out every one."""
    overwrite: bool = False
    """Replace the folder in --out, if this command wrote it, once the new one is complete; one of another kind, or with
    other files in it, is kept."""
    embed: Annotated[EmbedOptions, tyro.conf.arg(name="")] = field(default_factory=EmbedOptions)
    world: World = field(default_factory=World)
    """The EntityWorld to draw from (when the source is `entityworld`)."""

    def run(self) -> None:
        """Writes the records, reports problems as they come and sums up."""
        from reimagen_jax.data.preparing import prepare_records
        from reimagen_jax.data.sources import Captions, Reading, Where, open_source

        if self.source == "entityworld" and self.resolution is not None and self.resolution < LEAST_SIDE:
            raise UserError(
                f"--resolution {self.resolution}: EntityWorld is drawn at {LEAST_SIDE} pixels or more, since in fewer "
                "nobody can tell what an image shows"
            )
        if self.enlarge and (self.source == "entityworld" or self.resolution is None):
            raise UserError("--enlarge is about images of a --source that are smaller than --resolution: give both")
        self.embed.check()
        captions = Captions(self.caption, self.max_captions)
        where = Where.parse(self.where)
        given = (where, self.resolution, captions, self.image, self.split, self.data_dir, self.follow_links)
        reading = Reading(*given, smaller="enlarged" if self.enlarge else "left out")
        source = open_source(self.source, reading, self.world)
        settings = {"where": list(self.where), "resolution": self.resolution}
        if self.source == "entityworld":
            settings["world"] = vars(self.world)
        else:
            settings |= {**captions.settings, "image": self.image}
        if self.follow_links:
            settings["follow_links"] = True
        if self.enlarge:
            settings["enlarge"] = True
        reports = _Reports(self.strict)
        records = prepare_records(
            source, self.out, settings=settings, overwrite=self.overwrite, on_problem=reports.add, say=say
        )
        if reports.number > SHOWN_PROBLEMS:
            more = reports.number - SHOWN_PROBLEMS
            say(f"... and {more} more, all named in {self.out}/skipped.jsonl", error=True)
        say(f"{len(records)} records in {self.out}, {reports.number} items left out")
        for reason, count in records.manifest["skipped"].items():
            say(f"  {count} x {reason}")
        for fault, count in records.manifest.get("mended", {}).items():
            say(f"mended: {count} x {fault}")
        if self.embed.text_embeddings is not None:
            self.embed.embed([records])


class _Reports:
    """Shows the first problems as they come, counts all, and stops at the first where that is wanted."""

    def __init__(self, strict: bool):
        self.number = 0
        self._strict = strict

    def add(self, problem) -> None:
        """Takes a `Problem`. Raises `UserError` where it is to stop."""
        if self._strict:
            raise UserError(f"{problem} (--strict stops at the first bad item)")
        self.number += 1
        if self.number <= SHOWN_PROBLEMS:
            say(f"left out: {problem}", error=True)
