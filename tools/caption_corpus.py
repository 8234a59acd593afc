"""Real captions, and as many more like them as wanted: for tools/retrieval_bench.py and tools/retrieval_cost.py.

More captions are spliced from the real ones. Each begins as a caption drawn at random; after every word, with a chance
of 1 in 4, it goes on behind another occurrence, drawn at random, of the same word in any caption; it ends where the
caption that it has come to ends. So words are as frequent as in real captions, and so are pairs of words that follow
each other; longer phrases and whole sentences are new. There are no new words, so that rare ones are less rare than
in as many real captions: that makes a search slower, not faster.
"""

import gzip
import json
from collections.abc import Sequence
from pathlib import Path

import numba
import numpy as np

FIELDS = ("caption", "prompt", "text")
CHANCE = 0.25


def read(paths: Sequence[Path]) -> list[str]:
    """The captions in files of JSON lines (.gz or not), each once, in order."""
    captions: dict[str, None] = {}
    for path in paths:
        with (gzip.open if path.suffix == ".gz" else open)(path, "rt", encoding="utf-8") as file:
            for line in file:
                fields = json.loads(line)
                captions[next(fields[name] for name in FIELDS if name in fields)] = None
    return list(captions)


def splice(captions: Sequence[str], number: int, seed: int = 0) -> list[str]:
    """`number` captions of the words between spaces of real ones; the same seed gives the same."""
    number_of: dict[str, int] = {}
    parts = [[number_of.setdefault(word, len(number_of)) for word in caption.split()] for caption in captions]
    ends = np.cumsum([len(part) for part in parts])
    flat = np.array([word for part in parts for word in part], np.int32)
    places = np.argsort(flat, kind="stable")
    starts = np.searchsorted(flat[places], np.arange(len(number_of) + 1))
    words, lengths = _splice(flat, ends, places, starts, number, np.random.default_rng(seed))
    names, texts, first = list(number_of), [], 0
    for length in lengths.tolist():
        texts.append(" ".join([names[word] for word in words[first : first + length].tolist()]))
        first += length
    return texts


@numba.njit(cache=True)
def _splice(flat, ends, places, starts, number, rng):
    words, lengths = [numba.int32(0) for _ in range(0)], np.zeros(number, np.int64)
    caption_of = np.searchsorted(ends, np.arange(flat.size), side="right")
    for i in range(number):
        caption = rng.integers(0, ends.size)
        place = ends[caption - 1] if caption else 0
        while place < ends[caption]:
            word = flat[place]
            words.append(word)
            lengths[i] += 1
            if rng.random() < CHANCE:
                place = places[rng.integers(starts[word], starts[word + 1])]
                caption = caption_of[place]
            place += 1
    return np.array(words), lengths
