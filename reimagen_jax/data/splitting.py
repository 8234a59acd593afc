"""Records into parts, so that nothing of one part is in another: whole groups are drawn, never single records.

  (1) group    records that show the same picture, or have the same value of one of some fields: the components of this
               relation. A family of near-identical entities is whole where its field is named.
  (2) shares   of n groups, a part with share s gets round(s n), drawn at random; one part gets the rest
  (3) entities of the groups, `unseen` are drawn by (2), and `rare` ones of the others: by (2), or those whose entities
               have few pictures each; what is left is frequent. Frequent ones are trained on, unseen ones never: they
               are references. Of a rare entity `keep` pictures, drawn at random, are trained on; the others are not.

(3) is how Re-Imagen's EntityDrawBench and the sets of concepts in studies of rare ones are made.
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Int
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from sklearn.model_selection import GroupShuffleSplit

from reimagen_jax.data.image_text import ImageText
from reimagen_jax.data.manifest import link
from reimagen_jax.data.records import ImageTexts, Records, write_records
from reimagen_jax.data.shards import in_batches
from reimagen_jax.data.sources.where import told
from reimagen_jax.errors import UserError, require
from reimagen_jax.files import atomic_dir, write_json
from reimagen_jax.progress import track

KIND = "split"
FILE = "split.json"
ROLE, SPLIT = "role", "split"
"""The attributes that a record of a part gets: its part; and, of (3), how often its entity is seen in training."""
TRAIN, REFERENCE = "train", "reference"
"""The parts of (3)."""
FREQUENCIES = ("frequent", "rare", "unseen")
_AT_ONCE = 1024


@dataclass(frozen=True)
class Rarity:
    """The numbers of (3)."""

    unseen: float = 0.0
    """Share of the groups."""
    rare: float = 0.0
    """Share of the groups; 0 where `rare_below` says which are rare."""
    rare_below: int = 0
    """Groups are rare whose entities have fewer pictures each."""
    keep: int = 1
    """Pictures of a rare entity that are trained on."""


@dataclass(frozen=True, eq=False)
class Grouped:
    """N records, and what they have in common; numbers are equal for what is equal."""

    group_N: Int[np.ndarray, " n"]
    """By (1)."""
    entity_N: Int[np.ndarray, " n"]
    """By the first field; a record without it is an entity of its own."""
    picture_N: Int[np.ndarray, " n"]
    without: Mapping[str, int]
    """Records without a value of a field, where there are any."""


def grouped(records: ImageTexts, fields: Sequence[str]) -> Grouped:
    """Groups records by (1). Raises `UserError` for a field that no record has, naming what there is."""
    columns: list[list[str]] = [[] for _ in fields]
    for record in track(records, len(records), "reading fields", "record") if fields else ():
        for column, name in zip(columns, fields, strict=True):
            column.append(told({**record.attributes, "caption": record.text}, name))
    without = {name: column.count("") for name, column in zip(fields, columns, strict=True) if "" in column}
    for name, count in without.items():
        require(
            count < len(records),
            f"no record in {records.path} has the field {name!r}: the first one has "
            f"{', '.join(['caption', *records[0].attributes])}",
        )
    picture_N, *number_FN = (_numbered(column) for column in (records.digests(), *columns))
    group_N = _components([picture_N, *number_FN])
    return Grouped(group_N, number_FN[0] if number_FN else picture_N, picture_N, without)


def by_shares(found: Grouped, shares: Mapping[str, float | None], seed: int) -> np.ndarray:
    """The name of each record's part, by (2); the one without a share gets the rest: str[N].

    Raises `UserError` where a part would be empty.
    """
    name_N = np.full(len(found.group_N), next(name for name, share in shares.items() if share is None), object)
    total, random = len(np.unique(found.group_N)), np.random.RandomState(seed)
    open_N = np.ones(len(name_N), bool)
    for name, share in shares.items():
        if share is not None:
            drawn_N = _draw(found.group_N, open_N, _count(name, share, total), random, name)
            name_N[drawn_N], open_N = name, open_N & ~drawn_N
    return name_N


def by_frequency(found: Grouped, rarity: Rarity, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Each record's part and how often its entity is seen, by (3): str[N], str[N].

    Raises `UserError` where no group would be left to be frequent, or a share is less than one group.
    """
    group_N, random = found.group_N, np.random.RandomState(seed)
    total, open_N = len(np.unique(group_N)), np.ones(len(group_N), bool)
    split_N = np.full(len(group_N), "frequent", object)
    for name in ("unseen", "rare"):
        if share := getattr(rarity, name):
            drawn_N = _draw(group_N, open_N, _count(name, share, total), random, "frequent")
            split_N[drawn_N], open_N = name, open_N & ~drawn_N
    if rarity.rare_below:
        pictures_N = _pictures(found)
        most_G = np.zeros(group_N.max() + 1, int)
        np.maximum.at(most_G, group_N, pictures_N)
        split_N[open_N & (most_G[group_N] < rarity.rare_below)] = "rare"
        require(
            "frequent" in split_N,
            f"no entity has {rarity.rare_below} pictures or more (the most are {pictures_N.max()}): none is frequent",
        )
    role_N = np.where(split_N == "frequent", TRAIN, REFERENCE).astype(object)
    role_N[_kept(found, split_N == "rare", rarity.keep, random)] = TRAIN
    return role_N, split_N


def write_split(
    records: Records,
    out: str | Path,
    role_N: np.ndarray,
    split_N: np.ndarray | None = None,
    *,
    settings: Mapping[str, Any],
    overwrite: bool = False,
) -> dict[str, Records]:
    """Writes each part as a folder of records in the new folder `out`, and opens them, in the order of their names.

    Records stay what they are (source, key, picture, caption) and get the attributes `ROLE` and `SPLIT`. `settings` is
    noted. Raises `UserError` when `out` exists and `overwrite` is false.
    """
    names = sorted(set(role_N.tolist()))
    with atomic_dir(out, kind=KIND, overwrite=overwrite) as folder:
        counts = {}
        for name in names:
            ids_M = np.flatnonzero(role_N == name)
            noted = {**records.manifest["settings"], KIND: {**settings, "part": name}}
            part = _told(records, ids_M, name, split_N)
            write_records(part, folder / name, source=records.source, total=len(ids_M), settings=noted)
            counts[name] = len(ids_M)
        facts = {"records": link(records.path, out), "records_fingerprint": records.fingerprint}
        write_json(folder / FILE, {**facts, "settings": dict(settings), "parts": counts})
    return {name: Records.open(Path(out) / name) for name in names}


def replaced(records: ImageTexts, names: Sequence[str]) -> dict[str, int]:
    """How many records have attributes of these names already, where there are any."""
    return dict(Counter(name for record in records for name in names if name in record.attributes))


def table(
    found: Grouped, role_N: np.ndarray, split_N: np.ndarray | None = None, what: str = "entity"
) -> list[list[str]]:
    """Counts: a row a part, or a row a frequency with a column a part; a header first. `what` tells entities."""
    roles = sorted(set(role_N.tolist()), key=lambda role: (role != TRAIN, role))
    if split_N is None:
        rows = [[role, _many(found.entity_N[role_N == role]), f"{(role_N == role).sum():,}"] for role in roles]
        return [["part", f"of {what}", "records"], *rows]
    rows = [["", f"of {what}", *roles]]
    for split in FREQUENCIES:
        is_N = split_N == split
        rows.append([split, _many(found.entity_N[is_N]), *(f"{(is_N & (role_N == role)).sum():,}" for role in roles)])
    return rows


def _many(number_N: np.ndarray) -> str:
    return f"{len(np.unique(number_N)):,}"


def _told(records: Records, ids_M: np.ndarray, role: str, split_N: np.ndarray | None) -> Iterator[ImageText]:
    """The records of a part, with what they are told of it."""
    fetch = lambda some: records.fetch(ids_M[some.start : some.stop])  # noqa: E731
    batches = in_batches(len(ids_M), _AT_ONCE, fetch, lambda record: len(record.image))
    for i, record in zip(ids_M.tolist(), (record for batch in batches for record in batch), strict=True):
        own = {ROLE: role} | ({} if split_N is None else {SPLIT: split_N[i]})
        yield replace(record, attributes=record.attributes | own)


def _count(name: str, share: float, total: int) -> int:
    """(2)."""
    count = round(share * total)
    require(count > 0, f"{name}: {share:g} of {total} groups is none: give a larger share, or more records")
    return count


def _draw(
    group_N: np.ndarray, open_N: np.ndarray, count: int, random: np.random.RandomState, rest: str
) -> Bool[np.ndarray, " n"]:
    """The records of `count` groups, drawn from those that are open; some have to be left for `rest`."""
    ids_M, total = np.flatnonzero(open_N), len(np.unique(group_N[open_N]))
    if count >= total:
        raise UserError(f"no group would be left for {rest!r}: {total} are, and {count} are to be drawn of them")
    draw = GroupShuffleSplit(n_splits=1, test_size=count, train_size=total - count, random_state=random)
    _, drawn_M = next(draw.split(ids_M, groups=group_N[ids_M]))
    drawn_N = np.zeros(len(group_N), bool)
    drawn_N[ids_M[drawn_M]] = True
    return drawn_N


def _pictures(found: Grouped) -> Int[np.ndarray, " n"]:
    """Of each record's entity, its number of different pictures."""
    pairs_P2 = np.unique(np.stack([found.entity_N, found.picture_N], axis=1), axis=0)
    return np.bincount(pairs_P2[:, 0])[found.entity_N]


def _kept(found: Grouped, of_N: np.ndarray, keep: int, random: np.random.RandomState) -> Bool[np.ndarray, " n"]:
    """The records with `keep` pictures, drawn at random, of each entity; of the records in `of_N` alone."""
    rank_P = random.permutation(found.picture_N.max() + 1)
    pairs_P2 = np.unique(np.stack([found.entity_N, rank_P[found.picture_N]], axis=1)[of_N], axis=0)
    first_P = np.searchsorted(pairs_P2[:, 0], pairs_P2[:, 0])
    kept = {tuple(pair) for pair in pairs_P2[np.arange(len(pairs_P2)) - first_P < keep].tolist()}
    pairs_N2 = zip(found.entity_N.tolist(), rank_P[found.picture_N].tolist(), strict=True)
    return of_N & np.array([pair in kept for pair in pairs_N2])


def _numbered(column: Sequence[str]) -> Int[np.ndarray, " n"]:
    """A number for each value; an empty one is another each time."""
    numbers: dict[Any, int] = {}
    return np.array([numbers.setdefault(value or i, len(numbers)) for i, value in enumerate(column)], np.int64)


def _components(number_FN: Sequence[np.ndarray]) -> Int[np.ndarray, " n"]:
    """(1), of records that are linked to the values that they have."""
    N, starts = len(number_FN[0]), np.cumsum([0, *(number_N.max() + 1 for number_N in number_FN)])
    value = np.concatenate([N + start + number_N for start, number_N in zip(starts, number_FN, strict=False)])
    record, size = np.tile(np.arange(N), len(number_FN)), N + starts[-1]
    _, label = connected_components(coo_array((np.ones(len(value), bool), (record, value)), shape=(size, size)), False)
    return np.unique(label[:N], return_inverse=True)[1]
