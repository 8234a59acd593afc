"""What a knowledge base is written from: read from records, joined, selected; and the settings of its searches.

Word counts and vectors are carried over, not worked out again; the weights (1) of bm25 are, since each depends on all
captions. So a base is the same, file for file, in whatever steps its records came together.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np

from reimagen_jax.checked import Checked, Positive, Seed, Share
from reimagen_jax.data import images
from reimagen_jax.data.manifest import follow
from reimagen_jax.data.parallel import ordered_map
from reimagen_jax.data.records import ImageTexts, Records
from reimagen_jax.encoders.vectors import VectorEncoder
from reimagen_jax.progress import track
from reimagen_jax.retrieval import attributes, postings
from reimagen_jax.retrieval.analysis import DEFAULT, Analyser
from reimagen_jax.retrieval.collection import collect
from reimagen_jax.retrieval.postings import Postings

ENCODED = "encoded.npy"
_ENCODE_BATCH = 256
_ENCODE_RESOLUTION = 64
"""Side at which images are shown to an encoder that takes any."""


@dataclass(frozen=True)
class Lexical(Checked):
    """Settings of the search by words. Raises `UserError` on values out of range."""

    section: ClassVar[str] = "BM25: "

    k1: Positive = 1.2
    b: Share = 0.75
    analyser: Analyser = DEFAULT


@dataclass(frozen=True)
class Dense(Checked):
    """Settings of the search by vectors. Raises `UserError` on values out of range."""

    encoder: Path
    """The folder of the encoder that makes the vectors, of records and of queries."""
    of: Literal["image", "text"] = "image"
    """What of a record is encoded: its image or its caption."""
    kind: Literal["exact", "approx", "faiss"] = "exact"
    """See `dense`."""
    seed: Seed = 0

    @classmethod
    def read(cls, fields: dict[str, Any], base: Path) -> "Dense":
        """From the manifest of a base."""
        return cls(follow(base, fields["encoder"]), fields["of"], fields["kind"], fields["seed"])


@dataclass(frozen=True)
class Content:
    """What a knowledge base is written from: N records, what is counted of them, and their vectors."""

    folders: tuple[Records, ...]
    rows: np.ndarray
    """int64[N], ascending: which of the folders' records, see `collection`."""
    keys: list[str]
    captions: Postings
    attributes: Postings
    vectors: tuple[np.ndarray, ...] = ()
    """Parts of float32 [N, D]; none where there is no search by vectors."""

    @property
    def records(self) -> ImageTexts:
        """The records, numbered as in the base."""
        return collect(self.folders, self.rows)


def read(folders: Sequence[Records], analyser: Analyser) -> Content:
    """Reads all records once: keys, words, attributes."""
    records = collect(folders)
    keys, captions, described = [], postings.Inverter(), postings.Inverter()
    for record in track(records, len(records), "words", "record"):
        keys.append(record.key)
        captions.add(analyser(record.text))
        described.add(attributes.terms(record.attributes))
    return Content(tuple(folders), np.arange(len(keys)), keys, captions.postings(), described.postings())


def join(contents: Sequence[Content]) -> Content:
    """All records of all contents, in order; of a record that several have, the first."""
    starts = np.cumsum([0, *(sum(map(len, content.folders)) for content in contents)])
    joined = Content(
        tuple(folder for content in contents for folder in content.folders),
        np.concatenate([content.rows + start for content, start in zip(contents, starts, strict=False)]),
        [key for content in contents for key in content.keys],
        postings.concatenate([content.captions for content in contents]),
        postings.concatenate([content.attributes for content in contents]),
        tuple(part for content in contents for part in content.vectors),
    )
    first: dict[tuple[str, str], int] = {}
    for i, name in enumerate(names(joined)):
        first.setdefault(name, i)
    return joined if len(first) == len(joined.rows) else select(joined, np.array(list(first.values())))


def select(content: Content, ids: np.ndarray) -> Content:
    """Some of the records (ids ascending); folders of which none is left are left out."""
    rows, folders, kept, start = content.rows[ids], [], [], 0
    for folder in content.folders:
        mine = rows[(rows >= start) & (rows < start + len(folder))] - start
        start += len(folder)
        if mine.size:
            kept.append(mine + sum(map(len, folders)))
            folders.append(folder)
    starts = np.cumsum([0, *map(len, content.vectors)])
    return Content(
        tuple(folders),
        np.concatenate(kept),
        [content.keys[i] for i in ids],
        postings.select(content.captions, ids),
        postings.select(content.attributes, ids),
        tuple(
            part[ids[(ids >= start) & (ids < start + len(part))] - start]
            for part, start in zip(content.vectors, starts, strict=False)
        ),
    )


def names(content: Content) -> list[tuple[str, str]]:
    """Source and key of each record, which tell records apart."""
    return list(zip(content.records.sources(), content.keys, strict=True))


def encode(records: ImageTexts, folder: Path, encoder: VectorEncoder, of: str) -> np.ndarray:
    """The vectors of all records: float32 [N, D], in a file of `folder` that `stored.write` removes."""
    side = encoder.resolution or _ENCODE_RESOLUTION
    shape = (len(records), encoder.width)
    row_ND = np.lib.format.open_memmap(folder / ENCODED, mode="w+", dtype=np.float32, shape=shape)
    start, following = 0, track(records, len(records), "vectors", "record")
    while batch := list(islice(following, _ENCODE_BATCH)):
        if of == "text":
            vector_BD = encoder.texts([record.text for record in batch])
        else:
            pixels = ordered_map(lambda record: images.decode(record.image, side), batch)
            vector_BD = encoder.images(np.stack(list(pixels)))
        row_ND[start : start + len(batch)] = vector_BD
        start += len(batch)
    return row_ND
