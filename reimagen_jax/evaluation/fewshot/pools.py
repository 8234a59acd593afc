"""Pictures to learn from: true ones with their classes, and those that were made of them, by whatever.

A picture that was made names the records that it is of (`source`, as `reimagen augment` writes it: a key, or a list of
keys), and may be learned from only where all of these may. So whatever was made before, of every record there is,
nothing that a learner is asked about later has had a part in what it has seen.

    flipped, cropped, coloured   classical augmentation: half of the pictures mirrored; a square of 70 to 100 % of the
                                 side; brightness, contrast and saturation times 0.7 to 1.3                          (1)
"""

import hashlib
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path

import numpy as np
from jaxtyping import Float, Int, UInt8
from PIL import Image, ImageEnhance

from reimagen_jax.data import images
from reimagen_jax.data.image_text import ImageText
from reimagen_jax.data.pictures import Item, Pictures
from reimagen_jax.data.records import Records
from reimagen_jax.data.sources.where import EVERYTHING, Where
from reimagen_jax.errors import UserError, require
from reimagen_jax.evaluation.features import Features
from reimagen_jax.inference.prompts import satisfying
from reimagen_jax.inference.variants import SOURCE, VARIANT
from reimagen_jax.retrieval.fields import value_of

CLASSICAL = "classical"
BATCH = 256


@dataclass(frozen=True, eq=False)
class Pool:
    """Pictures, as learners read them."""

    name: str
    fingerprint: str
    """Of all that they depend on."""
    of: tuple[tuple[int, ...], ...]
    """The true pictures that each was made of, by their numbers; of a true one, itself."""
    vectors_ND: Float[np.ndarray, "n d"] | None = field(default=None, repr=False)
    pixels_NHWC: UInt8[np.ndarray, "n s s 3"] | None = field(default=None, repr=False)

    @cached_property
    def by_first(self) -> Mapping[int, list[int]]:
        """The pictures that were made of each true one, by the first of those that they are of, in order."""
        found: dict[int, list[int]] = defaultdict(list)
        for i, sources in enumerate(self.of):
            found[sources[0]].append(i)
        return found

    def made_of(self, true: Sequence[int]) -> list[int]:
        """Those that were made of these true pictures and of no others."""
        known = set(true)
        return [i for first in true for i in self.by_first.get(first, ()) if known.issuperset(self.of[i])]


@dataclass(frozen=True, eq=False)
class Truth:
    """True pictures with their classes."""

    classes: tuple[str, ...]
    class_N: Int[np.ndarray, " n"]
    keys: tuple[str, ...]
    pool: Pool


@dataclass(frozen=True)
class Reader:
    """What is read of each picture: its vector of some features, its pixels at a side, or both."""

    features: Features | None
    side: int | None

    def __call__(self, pictures: Pictures, name: str, fingerprint: str, of: Sequence[tuple[int, ...]]) -> Pool:
        """The pool of these pictures."""
        vectors, pixels = None, None
        if self.features is not None:
            prepared = (batch.pictures for batch in pictures.read(self.features.prepare, self.features.batch, name))
            vectors = np.concatenate([read.vector_BD for read in self.features.read(prepared)])
        if self.side is not None:
            pixels = np.concatenate(list(pictures.decoded(self.side, BATCH, "" if self.features else name)))
        return Pool(name, fingerprint, tuple(of), vectors, pixels)


def true_pictures(path: Path, class_by: str, read: Reader, where: Where = EVERYTHING) -> Truth:
    """The records that satisfy a filter and have a class. Raises `UserError` where fewer than two classes are there."""
    records = Records.open(path)
    ids = satisfying(records, where)
    found = zip(ids, _fetched(records, ids), strict=True)
    told = [(int(i), value_of(each.text, each.attributes, class_by)) for i, each in found]
    told = [(i, value) for i, value in told if value]
    classes = sorted({value for _, value in told})
    require(len(classes) > 1, f"{path}: {len(classes)} classes by {class_by!r} in these records: two are needed")
    number, kept = {name: c for c, name in enumerate(classes)}, [i for i, _ in told]
    keys = records.keys()
    pool = read(
        _of_records(records, kept), "true", f"{records.fingerprint} {_checksum(kept)}", [(n,) for n in range(len(kept))]
    )
    return Truth(tuple(classes), np.array([number[c] for _, c in told]), tuple(keys[i] for i in kept), pool)


def made_pictures(label: str, path: Path, truth: Truth, variants: int, read: Reader) -> Pool:
    """Those in a folder that were made of true pictures of one class each, the first `variants` of every one.

    Raises `UserError` where there are none, saying what there is.
    """
    records, number = Records.open(path), {key: n for n, key in enumerate(truth.keys)}
    kept: list[tuple[int, tuple[int, ...]]] = []
    counts: dict[tuple[int, ...], int] = defaultdict(int)
    for i, record in enumerate(records):
        of = tuple(number[key] for key in _sources(record) if key in number)
        whole = bool(of) and len(of) == len(_sources(record)) and len({int(truth.class_N[n]) for n in of}) == 1
        if whole and record.attributes.get(VARIANT) != 0 and counts[of] < variants:
            counts[of] += 1
            kept.append((i, of))
    if not kept:
        example = records[0].attributes.get(SOURCE) if len(records) else None
        raise UserError(
            f"{label}: nothing in {path} was made of the records that are learned from: pictures name theirs in "
            f"`{SOURCE}` (the first one: {example!r}), as `reimagen augment` writes them"
        )
    ids = [i for i, _ in kept]
    return read(_of_records(records, ids), label, f"{records.fingerprint} {_checksum(ids)}", [of for _, of in kept])


def classical_pictures(path: Path, truth: Truth, variants: int, seed: int, read: Reader) -> Pool:
    """(1) of every true picture, so many times."""
    records = Records.open(path)
    place = {key: i for i, key in enumerate(records.keys())}
    ids = [place[key] for key in truth.keys]

    def items() -> Iterator[Item]:
        for record in _fetched(records, ids):
            for v in range(variants):
                yield Item(f"{record.key}~{v}", partial(_augmented, record, f"{seed} {v} {record.key}"))

    of = [(n,) for n in range(len(ids)) for _ in range(variants)]
    pictures = Pictures(records.path, "records", len(of), items)
    return read(pictures, CLASSICAL, f"{truth.pool.fingerprint} {variants} {seed}", of)


def augmented(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    """(1)"""
    side = min(image.size)
    size = round(side * rng.uniform(0.7, 1.0))
    left, top = (int(rng.integers(0, whole - size + 1)) for whole in image.size)
    image = image.crop((left, top, left + size, top + size))
    if rng.random() < 0.5:
        image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    for enhance in (ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color):
        image = enhance(image).enhance(rng.uniform(0.7, 1.3))
    return image


def _augmented(record: ImageText, seed: str) -> np.ndarray:
    rng = np.random.default_rng(list(hashlib.blake2b(seed.encode(), digest_size=16).digest()))
    return np.asarray(augmented(images.square(images.load(record.image), None), rng))


def _sources(record: ImageText) -> tuple[str, ...]:
    told = record.attributes.get(SOURCE)
    return tuple(map(str, told)) if isinstance(told, list | tuple) else (str(told),) if told else ()


def _of_records(records: Records, ids: Sequence[int]) -> Pictures:
    def items() -> Iterator[Item]:
        for record in _fetched(records, ids):
            yield Item(record.key, partial(_same, record.image))

    return Pictures(records.path, "records", len(ids), items)


def _fetched(records: Records, ids: Sequence[int]) -> Iterator[ImageText]:
    for first in range(0, len(ids), BATCH):
        yield from records.fetch(ids[first : first + BATCH])


def _checksum(ids: Sequence[int]) -> str:
    return hashlib.sha256(np.asarray(ids, np.int64).tobytes()).hexdigest()[:16]


def _same(data: bytes) -> bytes:
    return data
