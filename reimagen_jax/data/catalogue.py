"""Which keys and which contents there are already, in some 40 bytes a record however long the keys are.

A `Ledger` is a log-structured map: a small dict of recent entries in front of sorted arrays, each at least twice as
long as the next, so that n entries lie in log2(n) arrays and each is merged log2(n) times.
"""

import hashlib
from dataclasses import replace
from itertools import count

import numpy as np

from reimagen_jax.data.image_text import ImageText, Problem

_RECENT = 2**14
_HASH_BYTES = 16


class Ledger:
    """A map from texts, kept as 128-bit hashes, to numbers below 2^32."""

    def __init__(self) -> None:
        self._recent: dict[bytes, int] = {}
        self._runs: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []
        """High and low halves of the hashes, sorted by the high ones, and their numbers; the longest run first."""

    def __getitem__(self, text: str) -> int | None:
        return self._find(_hash(text))

    def __setitem__(self, text: str, number: int) -> None:
        key = _hash(text)
        if key not in self._recent and (place := self._place(key)) is not None:
            place[0][place[1]] = number
        else:
            self._add(key, number)

    def setdefault(self, text: str, number: int) -> int | None:
        """The number of a text; where it has none, notes `number` and returns `None`."""
        key = _hash(text)
        if (found := self._find(key)) is None:
            self._add(key, number)
        return found

    def _find(self, key: bytes) -> int | None:
        if key in self._recent:
            return self._recent[key]
        place = self._place(key)
        return None if place is None else int(place[0][place[1]])

    def _add(self, key: bytes, number: int) -> None:
        self._recent[key] = number
        if len(self._recent) >= _RECENT:
            self._settle()

    def _place(self, key: bytes) -> tuple[np.ndarray, int] | None:
        """The array and the index where the number of a settled hash stands."""
        high, low = np.frombuffer(key, np.uint64)
        for highs, lows, numbers in self._runs:
            index = highs.searchsorted(high)
            while index < len(highs) and highs[index] == high:
                if lows[index] == low:
                    return numbers, index
                index += 1
        return None

    def _settle(self) -> None:
        """Makes the recent entries a sorted run, merged with the runs before it that are not much longer."""
        halves = np.frombuffer(b"".join(self._recent), np.uint64).reshape(-1, 2)
        run = (halves[:, 0], halves[:, 1], np.fromiter(self._recent.values(), np.uint32, len(self._recent)))
        self._recent = {}
        while self._runs and len(self._runs[-1][0]) < 2 * len(run[0]):
            run = tuple(np.concatenate(parts) for parts in zip(self._runs.pop(), run, strict=True))
        order = np.argsort(run[0], kind="stable")
        self._runs.append(tuple(part[order] for part in run))


class Catalogue:
    """The records so far: gives each its own key, and tells which repeat a picture together with its caption."""

    def __init__(self) -> None:
        self._uses = Ledger()
        """Key -> the number that was last added to it."""
        self._contents = Ledger()
        """Pixels and caption -> number of the first record that has them."""
        self._length = 0

    def admit(self, item: ImageText) -> ImageText | Problem:
        """The item under a key of its own (several captions make one picture several records), or why it is no record.

        An item needs its digest.
        """
        content = f"{item.digest}\n{item.text}"
        if (first := self._contents.setdefault(content, self._length)) is not None:
            return Problem(item.key, "duplicate", f"same picture and same text as record {first}")
        self._length += 1
        key = self._own(item.key)
        return item if key == item.key else replace(item, key=key)

    def restore(self, key: str, digest: str, text: str) -> None:
        """Notes a record that was admitted before an interruption."""
        self._uses[key] = 1
        self._contents[f"{digest}\n{text}"] = self._length
        self._length += 1

    def _own(self, key: str) -> str:
        last = self._uses.setdefault(key, 1)
        if last is None:
            return key
        # Where it begins does not change which number is free, only how soon it is found.
        number = next(n for n in count(last + 1) if self._uses[f"{key}#{n}"] is None)
        self._uses[key] = number
        self._uses[f"{key}#{number}"] = 1
        return f"{key}#{number}"


def _hash(text: str) -> bytes:
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=_HASH_BYTES).digest()
