"""`reimagen prepare`: images with captions into records."""

import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import tyro

from reimagen_jax.data.entityworld import World
from reimagen_jax.errors import UserError

SHOWN_PROBLEMS = 20


@dataclass(frozen=True)
class Prepare:
    """Turn images with captions into records, the form that every other command reads.

    From EntityWorld, the embedded data set (nothing to download):
        reimagen prepare --out runs/train --where role=train
        reimagen prepare --out runs/knowledge

    From your own folder of images, with a metadata.jsonl in it whose lines look like
    {"file_name": "cat.png", "text": "a cat on a mat"}:
        reimagen prepare --source photos --out runs/photos --resolution 64
    """

    out: Path
    """Folder to write; it must not exist yet."""
    source: str = "entityworld"
    """`entityworld`, or a folder of images with metadata.jsonl."""
    resolution: int | None = None
    """Side in pixels. EntityWorld is drawn at it (64 by default); larger images of a folder are cropped and shrunk."""
    where: Annotated[tuple[str, ...], tyro.conf.UseAppendAction] = ()
    """Keep only items with FIELD=VALUE, such as role=train. Repeat it for further values, or for further fields."""
    strict: bool = False
    """Stop at the first bad item instead of reporting and leaving out every one."""
    overwrite: bool = False
    """Replace an existing output folder, once the new one is complete."""
    world: World = field(default_factory=World)
    """The EntityWorld to draw from (when the source is `entityworld`)."""

    def run(self) -> None:
        """Writes the records, reports problems as they come and sums up."""
        from reimagen_jax.data.records import ImageText, Problem, write_records
        from reimagen_jax.data.sources import FolderSource, Where, WorldSource

        if self.resolution is not None and self.resolution < 1:
            raise UserError(f"--resolution {self.resolution} is not a number of pixels")
        where = Where.parse(self.where)
        if self.source == "entityworld":
            source = WorldSource(self.world, where, self.resolution or 64)
        else:
            source = FolderSource(Path(self.source), where, self.resolution)
        problems: list[Problem] = []

        def usable():
            for item in source.items():
                if isinstance(item, ImageText):
                    yield item
                    continue
                if self.strict:
                    raise UserError(f"{item} (--strict stops at the first bad item)")
                problems.append(item)
                if len(problems) <= SHOWN_PROBLEMS:
                    print(f"left out: {item}", file=sys.stderr)

        settings = {"where": list(self.where), "resolution": self.resolution}
        if self.source == "entityworld":
            settings["world"] = vars(self.world)
        records = write_records(
            usable(),
            self.out,
            source=source.name,
            total=source.count(),
            overwrite=self.overwrite,
            problems=problems,
            settings=settings,
        )
        if len(problems) > SHOWN_PROBLEMS:
            more = len(problems) - SHOWN_PROBLEMS
            print(f"... and {more} more, all named in {self.out}/skipped.jsonl", file=sys.stderr)
        print(f"{len(records)} records in {self.out}, {len(problems)} items left out")
        for reason, count in records.manifest["skipped"].items():
            print(f"  {count} x {reason}")
