"""The arms of EntityDrawBench's comparison: of which split the entities are, where the neighbours come from, how many
there are, and eta."""

from collections.abc import Sequence
from dataclasses import dataclass

TRUTH = "true renders"
"""The source of the arms in which the images are not drawn by the model but rendered as they should be."""


@dataclass(frozen=True)
class Arm:
    """One of the ways of drawing that are compared: a row of the table."""

    split: str
    source: str
    """One of `prompts.SOURCES`, or `TRUTH`."""
    k: int = 0
    eta: float = 1.0

    def __str__(self) -> str:
        return f"{self.split}, {self.source}" + (f", k {self.k}, eta {self.eta:g}" if self.k else "")


def plan(
    splits: Sequence[str],
    sources: Sequence[str],
    k: int,
    eta: float,
    ks: Sequence[int] = (),
    etas: Sequence[float] = (),
    sweep_splits: Sequence[str] = (),
) -> tuple[Arm, ...]:
    """The arms of a run, without repetitions: true renders, all sources on all splits, then both sweeps.

    Sweeps use retrieval: over `ks` at `eta`, and over `etas` at `k`. No neighbours is one arm, whatever eta is:
    it is drawn with text-enhanced guidance only (eta 1), as Imagen is.
    """

    def arm(split: str, source: str, k: int, eta: float) -> Arm:
        return Arm(split, source, k, eta) if k and source != "none" else Arm(split, "none")

    rows = [Arm(split, TRUTH) for split in splits]
    rows += [arm(split, source, k, eta) for source in sources for split in splits]
    rows += [arm(split, "retrieval", few, eta) for split in sweep_splits for few in ks]
    rows += [arm(split, "retrieval", k, share) for split in sweep_splits for share in etas]
    return tuple(dict.fromkeys(rows))
