"""Records as what a dual encoder learns from: decoded, numbered by what belongs together, some kept for measuring."""

import math

import numpy as np
from sklearn.model_selection import GroupShuffleSplit

from reimagen_jax.data import images
from reimagen_jax.data.loader import CACHE_BYTES
from reimagen_jax.data.records import ImageText, Records
from reimagen_jax.encoders.dual import towers_of
from reimagen_jax.encoders.settings import DualConfig, JointConfig
from reimagen_jax.errors import UserError, require
from reimagen_jax.progress import track
from reimagen_jax.retrieval.asking import among
from reimagen_jax.systems.dual.settings import DualData
from reimagen_jax.systems.dual.system import DualBatch

MOST_HELD_OUT = 1000


class Pairs:
    """Records by number."""

    def __init__(
        self,
        records: Records,
        network: DualConfig | JointConfig,
        same_by: str = "caption",
        cache_bytes: int = CACHE_BYTES,
    ) -> None:
        """`same_by` is what of two records makes them belong together: `caption`, or the name of an attribute.

        Raises `UserError` naming the first record without that attribute.
        """
        self.records = records
        self.texts = records.texts()
        self._tokenizer = towers_of(network).tokenizer()
        self._side = network.resolution
        same = self.texts if same_by == "caption" else _attribute(records, same_by)
        columns = [np.unique(np.array(column), return_inverse=True)[1] for column in (same, records.digests())]
        self.group_NG = np.stack(columns, axis=1).astype(np.int32)
        """int32 [N, 2]: numbers of what is the same, and of pictures; see `DualBatch`."""
        self._cache, self._cached_N = None, np.zeros(len(records), bool)
        if len(records) * self._side**2 * 3 < cache_bytes:
            self._cache = np.empty((len(records), self._side, self._side, 3), np.uint8)

    def __len__(self) -> int:
        return len(self.texts)

    def images(self, ids: np.ndarray) -> np.ndarray:
        """uint8 [B, R, R, 3]; decoded once where memory has room. Threads may decode one twice, to the same result."""
        if self._cache is None:
            return self._decoded(ids)
        missing = np.unique(ids[~self._cached_N[ids]])
        if missing.size:
            self._cache[missing] = self._decoded(missing)
            self._cached_N[missing] = True
        return self._cache[ids]

    def batch(self, ids: np.ndarray, texts: np.ndarray) -> DualBatch:
        """Some of the pairs, with these texts (their captions, or what is left of them)."""
        return DualBatch(self.images(ids), self._tokenizer.encode(list(texts)), self.group_NG[ids])

    def _decoded(self, ids: np.ndarray) -> np.ndarray:
        return np.stack([images.decode(record.image, self._side) for record in self.records.fetch(ids.tolist())])


class Things:
    """Which pictures show the same thing, by an attribute of their records."""

    def __init__(self, records: Records, name: str, ids: np.ndarray) -> None:
        """Of the records numbered `ids`. Raises `UserError` naming the first record without that attribute."""
        self.thing_N = np.unique(np.array(_attribute(records, name)), return_inverse=True)[1].astype(np.int32)
        """int32 [N]: of every record."""
        self._ids = ids[np.argsort(self.thing_N[ids], kind="stable")]
        self._things = self.thing_N[self._ids]
        self._place_N = np.zeros(len(self.thing_N), np.int64)
        self._place_N[self._ids] = np.arange(len(ids))

    def others(self, ids_B: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """For each another record of its thing; itself, where it is alone."""
        thing_B = self.thing_N[ids_B]
        first_B = np.searchsorted(self._things, thing_B)
        number_B = np.searchsorted(self._things, thing_B, "right") - first_B
        step_B = 1 + rng.integers(np.maximum(number_B - 1, 1))
        return self._ids[first_B + (self._place_N[ids_B] - first_B + step_B) % number_B]


def drop_words(text: str, rng: np.random.Generator, share: float) -> str:
    """The text without some of its words, as spaces part them; at least one stays."""
    words = text.split()
    kept = [word for word, u in zip(words, rng.random(len(words)), strict=True) if u >= share]
    return " ".join(kept) or text


def split(group_NG: np.ndarray, data: DualData) -> tuple[np.ndarray, np.ndarray]:
    """Numbers of the pairs to learn from and of those to measure by; no picture is in both.

    Raises `UserError` when there are too few for a batch and a measurement.
    """
    picture_N = group_NG[:, 1]
    learned = held = np.zeros(0, np.int64)
    number = len(np.unique(picture_N))
    if number > 1:
        kept = min(math.ceil(data.held_out * number), number - 1, MOST_HELD_OUT)
        shuffled = GroupShuffleSplit(1, test_size=kept, random_state=data.seed)
        learned, held = (np.sort(ids) for ids in next(shuffled.split(picture_N, groups=picture_N)))
        held = held[:MOST_HELD_OUT]
    require(
        len(learned) >= data.batch_size and len(held) > 1,
        f"{len(group_NG)} records are too few: {len(held)} are kept for measuring, and the other {len(learned)} are to "
        f"fill a batch of {data.batch_size}; choose a smaller data.batch_size, or bring more records",
    )
    return learned, held


def _attribute(records: Records, name: str) -> list[str]:
    def value(record: ImageText) -> str:
        if name not in record.attributes:
            raise UserError(f"record {record.key} has no attribute {name!r}: it has {among(record.attributes, name)}")
        return str(record.attributes[name])

    return [value(record) for record in track(records, len(records), name, "record")]
