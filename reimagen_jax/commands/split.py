"""`reimagen split`: records into parts that share nothing, each a folder of records."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro

from reimagen_jax.checked import Count, Natural, Options, Seed, Share, checked
from reimagen_jax.errors import UserError, require
from reimagen_jax.terminal import say

PARTS = ("train", "held-out=0.1")


@dataclass(frozen=True)
class Split(Options):
    """Split records into parts that have no picture in common, each a folder of records that every command reads.

        reimagen split runs/images --out runs/parts
        reimagen index runs/parts/train --out runs/index

    Whole entities, so that held-out ones are never seen in training; families of near-identical ones stay together:
        reimagen split runs/images --out runs/parts --by entity family --parts train valid=0.1 test=0.1

    Frequent, rare and unseen entities, in parts `train` and `reference`. Frequent ones are trained on; of rare ones,
    --keep pictures each; the others, and all of unseen ones, are references, to be looked up when drawing:
        reimagen split runs/images --out runs/parts --by entity --rare 0.2 --unseen 0.2 --keep 3

    Records keep their key, and get the attributes `role` (their part) and `split` (frequent, rare, unseen).
    """

    records: Annotated[Path, tyro.conf.Positional]
    """Records: a folder written by `reimagen prepare`."""
    out: Path
    """Folder to write, with a folder for each part; it must not exist yet."""
    by: tuple[str, ...] = ()
    """Records with the same value of this field stay together, such as entity; of several fields, those that have the
    same value of any. The first tells entities. By default, records with the same picture alone."""
    parts: tuple[str, ...] = ()
    """Names of the parts, each with its share of what stays together, but for one, which gets the rest: by default
    train held-out=0.1."""
    unseen: Share = 0.0
    """Share of the entities that are never trained on."""
    rare: Share = 0.0
    """Share of the entities of which a few pictures are trained on."""
    rare_below: Natural = 0
    """Instead of --rare: entities with fewer pictures are rare (of what stays together, all of them)."""
    keep: Count = 1
    """Pictures of a rare entity that are trained on."""
    seed: Seed = 0
    """Of what is drawn."""
    overwrite: bool = False
    """Replace the folder in --out, if this command wrote it, once the new one is complete; one of another kind, or with
    other files in it, is kept."""

    def run(self) -> None:
        """Writes the parts and prints how much is in each. Raises `UserError` on bad options or input."""
        from reimagen_jax.data import splitting
        from reimagen_jax.data.records import Records
        from reimagen_jax.files import require_writable

        shares, settings = self._shares(), self._settings()
        records = Records.open(self.records)
        require_writable(self.out, kind=splitting.KIND, overwrite=self.overwrite)
        found, split_N = splitting.grouped(records, self.by), None
        for name, count in found.without.items():
            say(f"{count} of {len(records)} records have no {name}: each is by itself", error=True)
        if shares is None:
            rarity = splitting.Rarity(self.unseen, self.rare, self.rare_below, self.keep)
            role_N, split_N = splitting.by_frequency(found, rarity, self.seed)
        else:
            role_N = splitting.by_shares(found, shares, self.seed)
        written = (splitting.ROLE,) if split_N is None else (splitting.ROLE, splitting.SPLIT)
        for name, count in splitting.replaced(records, written).items():
            say(f"{count} records had an attribute {name!r}, which is written anew", error=True)
        parts = splitting.write_split(records, self.out, role_N, split_N, settings=settings, overwrite=self.overwrite)
        rows = splitting.table(found, role_N, split_N, what=self.by[0] if self.by else "picture")
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        for first, *others in rows:
            cells = [first.ljust(widths[0]), *(cell.rjust(w) for cell, w in zip(others, widths[1:], strict=True))]
            say("  ".join(cells))
        say(f"in {' and '.join(str(part.path) for part in parts.values())}")

    def _settings(self) -> dict[str, Any]:
        """What is noted with the parts."""
        names = ("by", "parts", "unseen", "rare", "rare_below", "keep", "seed")
        return {name: list(value) if isinstance(value := getattr(self, name), tuple) else value for name in names}

    def _shares(self) -> dict[str, float | None] | None:
        """The parts by shares; None where records are split by how often their entities are seen."""
        if not (self.unseen or self.rare or self.rare_below):
            require(self.keep == 1, "--keep is about rare entities: give --rare or --rare-below")
            return shares_of(self.parts or PARTS)
        require(not self.parts, "--parts is another split than --unseen and --rare: do one at a time")
        require(bool(self.by), "--unseen and --rare are about entities: say --by which field, such as --by entity")
        require(not (self.rare and self.rare_below), "--rare and --rare-below both say what is rare: give one")
        require(
            self.unseen + self.rare < 1, f"--unseen {self.unseen:g} and --rare {self.rare:g} leave nothing frequent"
        )
        return None


def shares_of(parts: Sequence[str]) -> dict[str, float | None]:
    """Reads NAME=SHARE, and one NAME for the rest. Raises `UserError` on what is none, or does not add up."""
    shares: dict[str, float | None] = {}
    for part in parts:
        name, equals, share = part.partition("=")
        place = f"--parts {part}"
        require(bool(re.fullmatch(r"\w[\w.-]*", name)), f"{place}: {name!r} is no name of a folder, such as train")
        require(name not in shares, f"{place}: {name} is named twice")
        try:
            shares[name] = checked(float(share), Share, f"--parts {name}") if equals else None
        except ValueError:
            raise UserError(f"{place}: {share!r} is no share, such as held-out=0.1") from None
    rest = [name for name, share in shares.items() if share is None]
    total = sum(share or 0.0 for share in shares.values())
    require(len(shares) > 1, "--parts: name two parts or more, such as train held-out=0.1")
    require(
        len(rest) <= 1, f"--parts: {' and '.join(rest)} have no share, and one alone gets the rest: give the other's"
    )
    if rest:
        require(total < 1, f"--parts: the shares add up to {total:g}, so nothing is left for {rest[0]}")
    else:
        require(abs(total - 1) < 1e-6, f"--parts: the shares add up to {total:g}, not 1: leave one out, for the rest")
        shares[next(iter(shares))] = None
    return shares
