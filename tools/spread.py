"""Some records of many, spread evenly over all: a reference for distances, and what is asked for as often as there.

    python tools/spread.py runs/world/train --count 5000 --out runs/world/reference
    python tools/spread.py runs/world/train --count 1000 --values category --out runs/world/classes.txt

With --values, a text file with an attribute's value of each: prompts of a model that knows classes (`reimagen evaluate
drawn --prompts`). Otherwise a folder of records.
"""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from reimagen_jax.checked import Count
from reimagen_jax.cli import status_of
from reimagen_jax.data.records import KIND, Records, write_records
from reimagen_jax.errors import require
from reimagen_jax.files import require_writable, write_text
from reimagen_jax.systems.moco.feed import labels_of


@dataclass(frozen=True)
class Spread:
    """Copy records, or list an attribute's values, spread evenly over all."""

    records: Annotated[Path, tyro.conf.Positional]
    """Folder written by `reimagen prepare`."""
    out: Path
    """Folder of records to write; with --values, a text file."""
    count: Count = 5000
    """Records at most."""
    values: str = ""
    """Attribute whose values are written, a line each, in the records' place; dots reach into one."""
    overwrite: bool = False
    """Replace --out, once what is new is complete."""

    def run(self) -> None:
        """Reads and writes. Raises `UserError` for records without the attribute, and where `out` exists and is not to
        be replaced."""
        if self.values:
            require(
                self.overwrite or not self.out.exists(), f"{self.out} already exists: pass --overwrite to replace it"
            )
            require(not self.out.is_dir(), f"{self.out} is a folder: --values writes a text file")
        else:
            require_writable(self.out, kind=KIND, overwrite=self.overwrite)
        records = Records.open(self.records)
        number = min(self.count, len(records))
        chosen = records.fetch([i * len(records) // number for i in range(number)])
        if not self.values:
            source = f"{records.source}, {number} of it"
            write_records(chosen, self.out, source=source, total=number, overwrite=self.overwrite)
            return
        write_text(self.out, "".join(f"{value}\n" for value in labels_of(chosen, self.values)))


if __name__ == "__main__":
    sys.exit(status_of(tyro.cli(Spread, description=__doc__).run))
