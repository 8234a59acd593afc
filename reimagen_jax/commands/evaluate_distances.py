"""`reimagen evaluate fid` and `statistics`: how far pictures are from a reference, whatever drew them."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, ClassVar

import tyro

from reimagen_jax.checked import Options
from reimagen_jax.commands.options import command_line
from reimagen_jax.errors import require
from reimagen_jax.terminal import say

Sets = Annotated[Path, tyro.conf.Positional]


@dataclass(frozen=True)
class Fid(Options):
    """How far pictures are from a reference: FID, KID, precision and recall, density and coverage.

        reimagen evaluate fid runs/drawn runs/held_out
        reimagen evaluate fid drawn.zip runs/held_out --features runs/encoder --out figures.json
        reimagen evaluate fid runs/drawn statistics.npz

    Each is a folder of records, a folder of picture files, an archive of such (.tar, .zip), pictures in an .npz
    (`arr_0`), or (FID alone) statistics in an .npz (`mu`, `sigma`). Precision is the share of PICTURES that look like
    some of REFERENCE, recall the share of REFERENCE that some of PICTURES look like. Features are those of the rater of
    EntityWorld or of an encoder, not of Inception: figures compare by the same ones, of the same number of pictures.
    """

    common: ClassVar[tuple[str, ...]] = ("features", "out", "overwrite")

    pictures: Sets
    """Pictures that are judged."""
    reference: Sets
    """Pictures, or their statistics, that they are compared with."""
    features: Annotated[Path, tyro.conf.arg(metavar="rater|DIR")] = Path("rater")
    """Features to compare by: the rater that comes with the package, or a folder written by `reimagen rater train` or
    `reimagen encode-train`, or a CLIP as Hugging Face stores it."""
    fid_only: bool = False
    """FID alone, with all its bias: no vectors are kept in memory, whatever the number of pictures."""
    out: Annotated[Path | None, tyro.conf.arg(metavar="FILE")] = None
    """JSON file for the figures, with what they are of."""
    overwrite: bool = False
    """Replace the file in --out."""

    def run(self) -> None:
        """Reads both and prints the figures. Raises `UserError` on bad options or input."""
        from reimagen_jax.evaluation.sets import compare, open_features, read_set, remarks
        from reimagen_jax.files import write_json
        from reimagen_jax.inference.provenance import versions

        _require_place(self.out, self.overwrite)
        both = (("pictures", self.pictures), ("reference", self.reference))
        for title, path in both:
            require(path.exists(), f"{path} not found: the {title} are a folder of them, records, .tar, .zip or .npz")
        features = open_features(self.features)
        x, y = (read_set(path, features, keep=not self.fid_only, title=title) for title, path in both)
        say(f"pictures: {x}", f"reference: {y}", f"by {features}")
        figures, notes = compare(x, y), remarks(x, y)
        say(*figures, *notes)
        if self.out is not None:
            facts = {
                "command": command_line("evaluate fid", self),
                "features": str(features),
                "pictures": {"path": x.name, "of": x.what, "count": x.gaussian.count},
                "reference": {"path": y.name, "of": y.what, "count": y.gaussian.count},
                "figures": [figure._asdict() for figure in figures],
                "remarks": notes,
                "versions": versions(),
            }
            write_json(self.out, facts)


@dataclass(frozen=True)
class Statistics(Options):
    """Mean and covariance of pictures' features, to be a reference of `reimagen evaluate fid` again and again.

        reimagen evaluate statistics runs/held_out --out held_out.npz

    The .npz has `mu` and `sigma`, as pytorch-fid's and the ADM suite's have, and what they are of.
    """

    common: ClassVar[tuple[str, ...]] = ("features", "overwrite")

    pictures: Sets
    """Pictures, as for `reimagen evaluate fid`."""
    out: Annotated[Path, tyro.conf.arg(metavar="FILE")]
    """The .npz file to write."""
    features: Annotated[Path, tyro.conf.arg(metavar="rater|DIR")] = Path("rater")
    """As for `reimagen evaluate fid`."""
    overwrite: bool = False
    """Replace the file in --out."""

    def run(self) -> None:
        """Reads, writes and says of what. Raises `UserError` on bad options or input."""
        from reimagen_jax.evaluation.sets import open_features, read_set, write_statistics

        require(self.out.suffix == ".npz", f"--out {self.out}: statistics are a file NAME.npz")
        _require_place(self.out, self.overwrite)
        features = open_features(self.features)
        found = read_set(self.pictures, features, keep=False, title="pictures")
        write_statistics(self.out, found, features)
        say(f"{found}", f"by {features}", f"statistics: {self.out}")


def _require_place(out: Path | None, overwrite: bool) -> None:
    """Raises `UserError` before anything is computed."""
    if out is None:
        return
    require(overwrite or not out.exists(), f"{out} already exists: pass --overwrite to replace it")
    require(not out.is_dir(), f"{out} is a folder: name a file")
    require(out.parent.is_dir(), f"{out.parent} not found: make the folder first, or choose another --out")
