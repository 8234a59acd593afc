"""What all-pairs search costs, from constants measured on a small collection: hours, memory and disk for 50M and 400M.

    python tools/retrieval_cost.py captions*.jsonl.gz                   # constants from 100,000 captions, and the bill
    python tools/retrieval_cost.py captions*.jsonl.gz --check 300000 1000000   # predicts, measures, prints the ratios

The model, for N captions in P parts of n captions each (reimagen_jax/retrieval/beam.py), groups of g parts:
    (1) words:   2 w N         w CPU s to find and number the words of a caption; done to count and to write parts
    (2) index:   a n P^2       a CPU s a caption to make a part's index; made for every pair of parts
    (3) search:  N P/g (t(g n) + (g - 1) h)     t(n) = c + e n CPU s to ask n captions: c for a first threshold, e for
                               every block, since all are gone through; fitted to sizes up to the one measured, which
                               leaves out that later blocks have better thresholds. A group of parts is like one index
                               of all its captions, since parts hand their thresholds on, but for h for another part
    (4) disk:    d N           d bytes a caption in the files of parts
    (5) shuffle: s N + 12 k N P / g      s bytes of words a caption (to parts); id and score of k hits from each group
    (6) memory:  m n + v V     m bytes a caption while a part is asked by a part, v bytes a word of the vocabulary
    (7) words in two captions or more: V = h N^q, fitted to the real captions (more are spliced from them: no new words)
One machine: P = 1. CPU seconds are those of the machine at hand; nothing is waited for but CPUs.
"""

import json
import os
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

import caption_corpus  # beside this file
import numpy as np
import tyro

from reimagen_jax.retrieval import allpairs
from reimagen_jax.retrieval.allpairs import Documents, Scoring
from reimagen_jax.retrieval.analysis import words

BYTES_OF_WORD = 150
"""A word in a Python dict: string (60 to 70), entry (about 50), number (28)."""
BYTES_OF_HIT = 12


@dataclass(frozen=True)
class Cost:
    """Measure constants and work out the costs."""

    captions: Annotated[tuple[Path, ...], tyro.conf.Positional]
    """Files of JSON lines with captions."""
    size: int = 100_000
    """Captions to measure on."""
    queries: int = 3000
    """Captions asked in a measurement."""
    check: tuple[int, ...] = ()
    """Measure so many captions too, and print how far the prediction is off."""
    targets: tuple[int, ...] = (50_000_000, 400_000_000)
    """Collections to work out."""
    part: int = 1_000_000
    """Captions of a part."""
    group: int = 8
    """Parts that one task searches."""
    k: int = 2
    """Others to find for each."""
    cores: int = 256
    """To tell hours by."""
    json: Path | None = None
    """File to write the figures to."""


@dataclass(frozen=True)
class Measured:
    """Of a collection of some size: CPU seconds and bytes, each for one caption."""

    size: int
    words: float
    index: float
    search: float
    disk: float
    memory: float
    joined: float


@dataclass(frozen=True)
class Model:
    """The constants of the module's docstring."""

    words: float
    index: float
    search_start: float
    search_slope: float
    another_part: float
    disk: float
    memory: float
    joined: float
    vocabulary_factor: float
    vocabulary_power: float

    def search(self, size: int) -> float:
        """t(n) of (3)."""
        return self.search_start + self.search_slope * size


@dataclass(frozen=True)
class Bill:
    """What a collection costs."""

    captions: int
    parts: int
    words_hours: float
    """CPU hours"""
    index_hours: float
    search_hours: float
    disk_gb: float
    shuffle_gb: float
    memory_gb: float
    """Of a worker."""
    vocabulary: int

    @property
    def hours(self) -> float:
        """CPU hours in all."""
        return self.words_hours + self.index_hours + self.search_hours


def numbered(captions: list[str]) -> tuple[Documents, int]:
    """Captions as numbers of words, and how many words there are."""
    numbers = allpairs.Numbers()
    documents = numbers.documents(map(words, captions))
    _, new_V = numbers.alphabetical()
    return documents._replace(words=new_V[documents.words]), len(new_V)


def scoring_of(documents: Documents, num_words: int) -> Scoring:
    """Statistics of a collection."""
    having_V = allpairs.document_frequencies(documents, num_words)
    return Scoring(
        allpairs.inverse_frequencies(having_V, len(documents.ids_N)), documents.lengths_N.mean(), k1=1.2, b=0.75
    )


def measure(captions: list[str], queries: int, k: int) -> Measured:
    """One collection in one part, on this thread."""
    size, clock = len(captions), [time.process_time()]
    documents, num_words = numbered(captions)
    clock.append(time.process_time())
    lists = allpairs.invert(documents, scoring_of(documents, num_words))
    part = allpairs.arrange(lists, lists.largest_W, documents.ids_N)
    clock.append(time.process_time())
    sample = documents.take(np.random.default_rng(0).choice(size, min(queries, size), replace=False))
    hits = allpairs.nothing(len(sample.ids_N), k, np.int32)
    seconds = -time.process_time()
    allpairs.improve(hits, sample, part)
    seconds += time.process_time()
    arrays = [*documents, *lists, *part.blocks]
    return Measured(
        size,
        words=(clock[1] - clock[0]) / size,
        index=(clock[2] - clock[1]) / size,
        search=seconds / len(sample.ids_N),
        disk=sum(array.nbytes for array in documents) / size,
        memory=(sum(array.nbytes for array in arrays) + sum(array.nbytes for array in documents)) / size,
        joined=sum(len(caption.encode()) for caption in captions) / size,
    )


def another_part(captions: list[str], group: int, queries: int, k: int) -> float:
    """h of (3): what it takes more to ask the parts of a group one after the other than to ask one index of all."""
    documents, num_words = numbered(captions)
    scoring, size = scoring_of(documents, num_words), len(captions)
    sample = documents.take(np.random.default_rng(0).choice(size, min(queries, size), replace=False))
    whole = allpairs.invert(documents, scoring)
    seconds = []
    for count in (1, group):
        dealt = [documents.take(np.arange(i, size, count)) for i in range(count)]
        lists = [allpairs.invert(one, scoring) for one in dealt]
        largest = [whole.largest_W[np.searchsorted(whole.words_W, one.words_W)] for one in lists]
        parts = [allpairs.arrange(*three) for three in zip(lists, largest, [d.ids_N for d in dealt], strict=True)]
        hits = allpairs.nothing(len(sample.ids_N), k, np.int32)
        start = time.process_time()
        for part in parts:
            allpairs.improve(hits, sample, part)
        seconds.append(time.process_time() - start)
    return (seconds[1] - seconds[0]) / len(sample.ids_N) / (group - 1)


def vocabulary(captions: list[str]) -> tuple[float, float]:
    """h and q of (7)."""
    order = np.random.default_rng(0).permutation(len(captions))
    sizes, found = [len(captions) // 8, len(captions) // 4, len(captions) // 2, len(captions)], []
    for size in sizes:
        documents, num_words = numbered([captions[i] for i in order[:size]])
        found.append(int((allpairs.document_frequencies(documents, num_words) > 1).sum()))
    return power_law(sizes, found)


def power_law(sizes: list[int], values: list[float]) -> tuple[float, float]:
    """(factor, power) of the values over the sizes, by least squares of logarithms."""
    power, factor = np.polyfit(np.log(sizes), np.log(values), 1)
    return float(np.exp(factor)), float(power)


def fit(args: Cost, real: list[str]) -> Model:
    """The constants, from collections of the size given and of a half, a quarter and an eighth of it."""
    captions = caption_corpus.splice(real, args.size)
    measure(captions[:1000], 10, args.k)  # compiles
    measured = [measure(captions[: args.size >> i], args.queries, args.k) for i in (3, 2, 1, 0)]
    largest = measured[-1]
    slope, start = np.polyfit([m.size for m in measured], [m.search for m in measured], 1)
    return Model(
        largest.words,
        largest.index,
        float(start),
        float(slope),
        another_part(captions, 8, args.queries, args.k),
        largest.disk,
        largest.memory,
        largest.joined,
        *vocabulary(real),
    )


def bill(model: Model, captions: int, part: int, group: int, k: int) -> Bill:
    """(1) to (7), with groups of equal size."""
    parts = -(-captions // part)
    groups = -(-parts // group)
    size, ways = captions / parts, parts / groups
    num_words = int(model.vocabulary_factor * captions**model.vocabulary_power)
    return Bill(
        captions,
        parts,
        words_hours=(1 if parts == 1 else 2) * model.words * captions / 3600,
        index_hours=model.index * size * parts**2 / 3600,
        search_hours=captions * groups * (model.search(size * ways) + (ways - 1) * model.another_part) / 3600,
        disk_gb=model.disk * captions / 1e9,
        shuffle_gb=(model.joined * captions + BYTES_OF_HIT * k * captions * groups) / 1e9,
        memory_gb=(model.memory * size + BYTES_OF_WORD * num_words) / 1e9,
        vocabulary=num_words,
    )


def check(args: Cost, model: Model, real: list[str], size: int) -> list[str]:
    """Predicted and measured, for a larger collection in one part."""
    found = measure(caption_corpus.splice(real, size), args.queries, args.k)
    predicted = {"words": model.words, "index": model.index, "search": model.search(size)}
    predicted |= {"disk": model.disk, "memory": model.memory}
    told = [f"{size:,} captions, predicted from {args.size:,} / measured:"]
    for name, value in predicted.items():
        actual, unit = getattr(found, name), "us" if name in ("words", "index", "search") else "bytes"
        scale = 1e6 if unit == "us" else 1
        told.append(f"  {name:7} {value * scale:8.1f} / {actual * scale:8.1f} {unit} a caption: {value / actual:.2f}")
    seconds = [(m["words"] + m["index"] + m["search"]) * size for m in (predicted, asdict(found))]
    told.append(f"  in all  {seconds[0]:8.1f} / {seconds[1]:8.1f} CPU s: {seconds[0] / seconds[1]:.2f}")
    return told


def bill_lines(bill: Bill, cores: int) -> list[str]:
    """A bill to read."""
    return [
        f"{bill.captions:,} captions in {bill.parts} parts: {bill.hours:,.0f} CPU hours "
        f"({bill.words_hours:,.1f} words, {bill.index_hours:,.1f} index, {bill.search_hours:,.1f} search), "
        f"{bill.hours / cores:,.1f} h on {cores} cores",
        f"  {bill.disk_gb:,.1f} GB of parts, {bill.shuffle_gb:,.1f} GB shuffled, {bill.memory_gb:.2f} GB a worker, "
        f"{bill.vocabulary:,} words",
    ]


def main(args: Cost) -> None:
    """Measures, prints, writes."""
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    real = caption_corpus.read(args.captions)
    model = fit(args, real)
    print(f"load of the machine {os.getloadavg()[0]:.1f}; from {len(real):,} captions, spliced to {args.size:,}:")
    for name, value in asdict(model).items():
        print(f"  {name} {value:.4g}")
    told = [line for size in args.check for line in check(args, model, real, size)]
    print("\n".join(told), flush=True)
    bills = [bill(model, target, args.part, args.group, args.k) for target in args.targets]
    for one in bills:
        print("\n".join(bill_lines(one, args.cores)))
    if args.json:
        figures = {"model": asdict(model), "check": told, "bills": [asdict(one) for one in bills]}
        args.json.write_text(json.dumps(figures, indent=2))


if __name__ == "__main__":
    main(tyro.cli(Cost, description=__doc__, config=(tyro.conf.FlagCreatePairsOff,)))
