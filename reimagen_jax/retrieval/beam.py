"""All pairs on many machines: an Apache Beam pipeline that finds what `allpairs.neighbours` finds, to the last bit.

    texts ──words──> numbers of documents n(w), N, mean length ──> statistics
      └───────────────────> parts (by id modulo their number), words numbered by the statistics
    parts ──> largest summand of each word in any part ──> the order in which summands are added
    part of queries x group of parts ──search──> best k of the group ──merge──> best k of all

That the result is exact follows from (1) of `allpairs`: a score depends on query, document and statistics alone, and
the best of all are the best among the best of each group. Within a group, what the parts before have found is the
threshold for the next. Words that a single document has connect no two, and are left out once lengths are counted.
Parts and statistics are files in a folder that all workers share; elements that travel are small, but for the hits.
Launch commands and costs: tools/beam.md. Needs the extra `beam`.
"""

import json
from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from hashlib import sha256
from io import BytesIO
from pathlib import Path
from uuid import uuid4

import apache_beam as beam
import numpy as np
from apache_beam.io.filesystems import FileSystems
from apache_beam.pvalue import AsSingleton

from reimagen_jax.retrieval import allpairs
from reimagen_jax.retrieval.allpairs import Documents, Hits, Scoring
from reimagen_jax.retrieval.analysis import words

_SEPARATOR = "\n"
"""Between the words of a document on their way; no word has it."""


@dataclass(eq=False)
class AllPairs(beam.PTransform):
    """(id, text) -> (id, the best k others as [(id, score), ...], best first): ids are different whole numbers >= 0.

    An element for each text, in no order. Raises `ValueError` within the pipeline when two texts have the same id.
    """

    folder: str
    """For parts and statistics: shared by all workers, and to be deleted afterwards."""
    k: int = 2
    num_parts: int = 1
    """A part should have about a million texts, for which a worker needs about 1 GB of memory."""
    group: int = 8
    """Parts that one task searches, one after the other."""
    k1: float = 1.2
    b: float = 0.75
    analyser: Callable[[str], Iterable[str]] = words

    def __post_init__(self) -> None:
        super().__init__()
        for name in ("k", "num_parts", "group"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}: at least 1 is needed")

    def expand(self, texts: beam.PCollection) -> beam.PCollection:
        """The pipeline of the module's docstring."""
        analyser, folder, num_parts = self.analyser, self.folder, self.num_parts
        documents = texts | "Words" >> beam.MapTuple(lambda i, text: (int(i), _SEPARATOR.join(analyser(text))))
        totals = (
            documents
            | "Lengths" >> beam.MapTuple(lambda _, joined: (1, len(_split(joined))))
            | "Totals" >> beam.CombineGlobally(_sums)
        )
        vocabulary = (
            documents
            | "Once" >> beam.FlatMapTuple(lambda _, joined: set(_split(joined)))
            | "Having" >> beam.combiners.Count.PerElement()
            | "Shared" >> beam.Filter(lambda item: item[1] > 1)
            | "Gather" >> beam.combiners.ToList()
        )
        statistics = vocabulary | "Statistics" >> beam.Map(
            _write_statistics, AsSingleton(totals), folder, self.k1, self.b
        )
        parts = (
            documents
            | "Deal out" >> beam.Map(lambda item: (item[0] % num_parts, item))
            | "Collect" >> beam.GroupByKey()
            | "Parts" >> beam.Map(_write_part, folder, AsSingleton(statistics))
        )
        largest = (
            parts
            | "Largest" >> beam.Map(_largest, AsSingleton(statistics))
            | "Maximum" >> beam.CombineGlobally(_maximum)
            | "Order" >> beam.Map(_write_largest, folder)
        )
        names = parts | "Names" >> beam.combiners.ToList()
        return (
            parts
            | "Pairs" >> beam.FlatMap(_tasks, AsSingleton(names), self.group)
            | "Spread" >> beam.Reshuffle()
            | "Search" >> beam.Map(_search, self.k, AsSingleton(statistics), AsSingleton(largest))
            | "Merge" >> beam.CombinePerKey(_Best())
            | "Tell" >> beam.FlatMapTuple(_tell)
        )


def _split(joined: str) -> list[str]:
    return joined.split(_SEPARATOR) if joined else []


def _sums(pairs: Iterable[tuple[int, int]]) -> tuple[int, int]:
    """(number, total length)"""
    count = length = 0
    for one, more in pairs:
        count, length = count + one, length + more
    return count, length


def _write_statistics(
    having: Sequence[tuple[str, int]], totals: tuple[int, int], folder: str, k1: float, b: float
) -> str:
    """Writes the words in alphabetical order, and what goes with them; returns the file's name."""
    having = sorted(having)
    having_V = np.array([number for _, number in having], np.int64)
    count, length = totals
    return _write(
        folder,
        "statistics",
        words=np.frombuffer(_SEPARATOR.join(word for word, _ in having).encode(), np.uint8),
        idf=allpairs.inverse_frequencies(having_V, count),
        settings=np.array([length / max(count, 1), k1, b]),
    )


def _write_part(part: tuple[int, Iterable[tuple[int, str]]], folder: str, statistics: str) -> str:
    """Writes the documents of a part with their words numbered; returns the file's name."""
    (number, documents), number_of = part, _numbers(statistics)
    ordered = sorted(documents)
    ids_N = np.array([i for i, _ in ordered], np.int64)
    if (np.diff(ids_N) == 0).any():
        raise ValueError(f"two texts have the id {ids_N[:-1][np.diff(ids_N) == 0][0]}")
    lengths, flat, starts = array("q"), array("i"), array("q", [0])
    for _, joined in ordered:
        document = _split(joined)
        lengths.append(len(document))
        flat.extend([number_of[word] for word in document if word in number_of])
        starts.append(len(flat))
    return _write(
        folder,
        f"part-{number:05d}",
        ids_N=ids_N,
        lengths_N=np.array(lengths),
        words=np.array(flat, np.int32),
        starts=np.array(starts),
    )


def _largest(part: str, statistics: str) -> tuple[np.ndarray, np.ndarray]:
    """The words of a part and their largest summands."""
    lists = allpairs.invert(_documents(part), _scoring(statistics))
    return lists.words_W, lists.largest_W


def _maximum(parts: Iterable[tuple[np.ndarray, np.ndarray]]) -> tuple[np.ndarray, np.ndarray]:
    """The words of several parts and their largest summands."""
    words_W, largest_W = np.zeros(0, np.int32), np.zeros(0, np.float32)
    for more_words, more_largest in parts:
        both, place = np.unique(np.concatenate([words_W, more_words]), return_inverse=True)
        both_largest = np.zeros(len(both), np.float32)
        np.maximum.at(both_largest, place, np.concatenate([largest_W, more_largest]))
        words_W, largest_W = both, both_largest
    return words_W, largest_W


def _write_largest(found: tuple[np.ndarray, np.ndarray], folder: str) -> str:
    """Writes the largest summand of every word; returns the file's name."""
    _, largest_V = found  # the vocabulary has no other words than those of the parts, so they are numbered 0, 1, 2, ...
    return _write(folder, "largest", largest_V=largest_V)


def _tasks(queries: str, parts: Sequence[str], group: int) -> Iterator[tuple[str, list[str]]]:
    """A part of queries with each group of parts."""
    ordered = sorted(parts)
    for first in range(0, len(ordered), group):
        yield queries, ordered[first : first + group]


def _search(task: tuple[str, list[str]], k: int, statistics: str, order: str) -> tuple[str, Hits]:
    """The best k of a group of parts for each document of a part."""
    queries, parts = task
    asked, scoring, largest_V = _documents(queries), _scoring(statistics), _read(order)["largest_V"]
    hits = allpairs.nothing(len(asked.ids_N), k, np.int64)
    for part in parts:
        documents = _documents(part)
        lists = allpairs.invert(documents, scoring)
        allpairs.improve(hits, asked, allpairs.arrange(lists, largest_V[lists.words_W], documents.ids_N))
    return queries, hits


class _Best(beam.CombineFn):
    """Merges the hits of the same queries in different documents."""

    def create_accumulator(self) -> Hits | None:
        return None

    def add_input(self, found: Hits | None, more: Hits) -> Hits:
        return more if found is None else allpairs.merge(found, more)

    def merge_accumulators(self, several: Iterable[Hits | None]) -> Hits | None:
        merged = None
        for found in several:
            if found is not None:
                merged = self.add_input(merged, found)
        return merged

    def extract_output(self, found: Hits | None) -> Hits | None:
        return found


def _tell(queries: str, hits: Hits) -> Iterator[tuple[int, list[tuple[int, float]]]]:
    """The hits of each document of a part."""
    for i, ids, scores in zip(_documents(queries).ids_N.tolist(), *(one.tolist() for one in hits), strict=True):
        yield i, [(other, score) for other, score in zip(ids, scores, strict=True) if other >= 0]


def _write(folder: str, name: str, **arrays: np.ndarray) -> str:
    """Writes a file and returns its path: whole or not at all, as a worker may be stopped, or do another's work again.

    The name has a checksum of the content: what a worker remembers under a name holds.
    """
    content = BytesIO()
    np.savez(content, **arrays)
    path = FileSystems.join(folder, f"{name}-{sha256(content.getbuffer()).hexdigest()[:16]}.npz")
    partial = f"{path}.{uuid4().hex}.partial"
    with FileSystems.create(partial) as file:
        file.write(content.getbuffer())
    FileSystems.rename([partial], [path])
    return path


def _read(path: str) -> dict[str, np.ndarray]:
    with FileSystems.open(path) as file, np.load(BytesIO(file.read())) as arrays:
        return dict(arrays)


def _documents(path: str) -> Documents:
    return Documents(**_read(path))


@lru_cache(maxsize=1)
def _scoring(path: str) -> Scoring:
    """Kept by a worker from one task to the next, as are the numbers of words."""
    arrays = _read(path)
    return Scoring(arrays["idf"], *arrays["settings"].tolist())


@lru_cache(maxsize=1)
def _numbers(path: str) -> dict[str, int]:
    joined = _read(path)["words"].tobytes().decode()
    return {word: number for number, word in enumerate(_split(joined))}


@dataclass(frozen=True)
class Arguments:
    """Finds the best others of every caption. Other options go to Beam (--runner, --project, ...)."""

    captions: str
    """Pattern of files of JSON lines, compressed or not, each line with `id` (a whole number) and `caption`."""
    out: str
    """Begin of the names of files to write: JSON lines with `id`, `neighbours` and `scores`."""
    work: str
    """Folder for what is shared between workers; delete it afterwards."""
    num_neighbours: int = 2
    parts: int = 1
    """Number of parts: one for every million captions."""
    group: int = 8
    """Parts that one task searches."""
    k1: float = 1.2
    b: float = 0.75
    stop_words: Path | None = None
    """File with words to leave out, one in a line."""


def main() -> None:
    """Runs the pipeline from the command line."""
    import tyro
    from apache_beam.options.pipeline_options import PipelineOptions

    from reimagen_jax.retrieval.analysis import Analyser

    arguments, others = tyro.cli(Arguments, return_unknown_args=True)
    stop_words = arguments.stop_words.read_text(encoding="utf-8").split() if arguments.stop_words else ()
    search = AllPairs(
        arguments.work,
        arguments.num_neighbours,
        arguments.parts,
        arguments.group,
        arguments.k1,
        arguments.b,
        Analyser(stop_words=tuple(stop_words)),
    )
    with beam.Pipeline(options=PipelineOptions(others, save_main_session=False)) as pipeline:
        lines = pipeline | "Read" >> beam.io.ReadFromText(arguments.captions)
        texts = lines | "Parse" >> beam.Map(_parse)
        found = texts | "All pairs" >> search
        _ = found | "Format" >> beam.MapTuple(_format) | "Write" >> beam.io.WriteToText(arguments.out, ".jsonl")


def _parse(line: str) -> tuple[int, str]:
    fields = json.loads(line)
    return int(fields["id"]), fields["caption"].encode(errors="replace").decode()  # JSON can spell half a pair


def _format(i: int, found: list[tuple[int, float]]) -> str:
    return json.dumps({"id": i, "neighbours": [other for other, _ in found], "scores": [score for _, score in found]})


if __name__ == "__main__":
    from reimagen_jax.retrieval import beam as importable  # workers look for its functions by name, not in __main__

    importable.main()
