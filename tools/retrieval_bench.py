"""All-pairs search by BM25 beside the fastest libraries, in one run, in CPU seconds as well as by the clock.

    python tools/retrieval_bench.py captions*.jsonl.gz --size 1000000
    python tools/retrieval_bench.py captions*.jsonl.gz --size 1000000 --whole --share 0.05   # all queries, not a sample

Captions are read from files of JSON lines and spliced to as many as asked for (tools/caption_corpus.py).
A sample of them is asked by `reimagen_jax.retrieval.allpairs` and by each library that is installed (bm25s with numba,
tantivy, sparse_dot_topn), on one thread, in turn, with all words and with the commonest left out: those that more than
`--share` of the captions have. Left out are the same words for all: every library gets the same lists of words, so that
only index and search are compared. Hits are compared too: with the exact ones, and without common words with those of
the full vocabulary. `--whole` asks every caption of the whole for its best others, from texts to hits, in a process of
its own, and reports time and peak memory.
"""

import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import caption_corpus  # beside this file
import numpy as np
import retrieval_rivals  # beside this file
import tyro

from reimagen_jax.retrieval import allpairs
from reimagen_jax.retrieval.allpairs import Documents, Hits, Scoring
from reimagen_jax.retrieval.analysis import Analyser, words

K1, B = 1.2, 0.75
"""As in tantivy, which has no others."""


@dataclass(frozen=True)
class Bench:
    """Time the search for every caption's best others."""

    captions: Annotated[tuple[Path, ...], tyro.conf.Positional]
    """Files of JSON lines with captions."""
    size: int = 100_000
    """Captions to search."""
    queries: int = 2000
    """Captions of the sample that is asked in each round; libraries are asked a quarter of them."""
    rounds: int = 3
    """Measurements of each; the median counts."""
    k: int = 2
    """Others to find for each."""
    share: tuple[float, ...] = (0.05, 0.01)
    """Words that more than this share of the captions have are left out."""
    libraries: tuple[str, ...] = tuple(retrieval_rivals.LIBRARIES)
    """Which libraries, of those that are installed."""
    whole: bool = False
    """Ask all captions, by ours alone, with all words and with the commonest left out."""
    json: Path | None = None
    """File to write the figures to."""
    part: float | None = None
    """For the bench's own use: ask all captions in this process, without the words above this share."""


def numbered(captions: list[str]) -> tuple[Documents, int]:
    """Captions as numbers of words, and how many words there are."""
    numbers = allpairs.Numbers()
    documents = numbers.documents(map(words, captions))
    _, new_V = numbers.alphabetical()
    return documents._replace(words=new_V[documents.words]), len(new_V)


def without(documents: Documents, left_out_V: np.ndarray) -> Documents:
    """Documents without some words."""
    kept = ~left_out_V[documents.words]
    starts = np.concatenate([[0], np.cumsum(kept)])[documents.starts]
    return documents._replace(words=documents.words[kept], starts=starts, lengths_N=np.diff(starts))


def ours(documents: Documents, having_V: np.ndarray, k: int) -> Callable[[Documents], Hits]:
    """Our search."""
    idf_V = allpairs.inverse_frequencies(having_V, len(documents.ids_N))
    lists = allpairs.invert(documents, Scoring(idf_V, documents.lengths_N.mean(), K1, B))
    part = allpairs.arrange(lists, lists.largest_W, documents.ids_N)

    def search(queries: Documents) -> Hits:
        hits = allpairs.nothing(len(queries.ids_N), k, np.int32)
        allpairs.improve(hits, queries, part)
        return hits

    return search


def side_by_side(args: Bench) -> dict[str, Any]:
    """Rates on samples, and agreement."""
    documents, num_words = numbered(caption_corpus.splice(caption_corpus.read(args.captions), args.size))
    having_V = allpairs.document_frequencies(documents, num_words)
    sample = np.random.default_rng(0).choice(args.size, min(args.queries, args.size), replace=False)
    print(
        f"{args.size:,} captions, {num_words:,} words, {len(documents.words) / args.size:.1f} in a caption", flush=True
    )
    found: dict[str, Any] = {}
    exact = None
    for share in (1.0, *args.share):
        left_out_V = having_V > share * args.size
        documents_S = without(documents, left_out_V)
        result, hits = rates(args, documents_S, having_V, sample)
        exact = hits if exact is None else exact
        result |= {"words left out": int(left_out_V.sum()), **agreement(hits, exact)}
        found[f"{share}"] = result
        print("\n".join(lines(share, result)), flush=True)
    return found


def rates(args: Bench, documents: Documents, having_V: np.ndarray, sample: np.ndarray) -> tuple[dict[str, Any], Hits]:
    """Queries per CPU second of each, and our hits."""
    searches: dict[str, Callable[[Documents], Hits]] = {"ours": ours(documents, having_V, args.k)}
    index_seconds = {}
    for name in args.libraries:
        if retrieval_rivals.installed(name):
            start = time.process_time()
            searches[name] = retrieval_rivals.LIBRARIES[name](documents, len(having_V), K1, B, args.k)
            index_seconds[name] = time.process_time() - start
    asked = {name: documents.take(sample[: len(sample) // (1 if name == "ours" else 4)]) for name in searches}
    for name, search in searches.items():
        search(asked[name].take(np.arange(2)))  # compiles
    times: dict[str, list[float]] = {name: [] for name in searches}
    hits = {}
    for _ in range(args.rounds):
        for name, search in searches.items():
            start = time.process_time()
            hits[name] = search(asked[name])
            times[name].append((time.process_time() - start) / len(asked[name].ids_N))
    rate = {name: 1 / float(np.median(seconds)) for name, seconds in times.items()}
    same = {name: agreement(found, hits["ours"])["hits in common"] for name, found in hits.items() if name != "ours"}
    return {"queries per CPU second": rate, "same hits": same, "index CPU seconds": index_seconds}, hits["ours"]


def agreement(hits: Hits, exact: Hits) -> dict[str, float]:
    """How many of the hits are the exact ones."""
    ids_QK, exact_QK = hits[0], exact[0][: len(hits[0])]
    among = (ids_QK[:, :, None] == exact_QK[:, None, :]).any(axis=2) & (ids_QK >= 0)
    return {
        "same first": float((ids_QK[:, 0] == exact_QK[:, 0]).mean()),
        "hits in common": float(among.sum() / max((exact_QK >= 0).sum(), 1)),
    }


def lines(share: float, result: dict[str, Any]) -> list[str]:
    """A setting's figures to read."""
    rate, left_out = result["queries per CPU second"], result["words left out"]
    says = "all words" if not left_out else f"without the {left_out} words that more than {share:.0%} have"
    told = [f"{says}: ours {rate['ours']:,.0f} queries per CPU second"]
    for name, theirs in rate.items():
        if name != "ours":
            same = result["same hits"][name]
            told.append(
                f"  {rate['ours'] / theirs:6.1f} x {name} ({theirs:,.0f}; the same hits but for {1 - same:.1%})"
            )
    if left_out:
        told.append(f"  hits in common with all words {result['hits in common']:.1%}, first {result['same first']:.1%}")
    return told


def whole(args: Bench, share: float) -> dict[str, float]:
    """All captions' best others, from texts to hits, in this process."""
    captions = caption_corpus.splice(caption_corpus.read(args.captions), args.size)
    allpairs.neighbours(captions[:100], args.k)  # compiles
    wall, cpu = time.perf_counter(), time.process_time()
    left_out = allpairs.common_words(map(words, captions), share) if share < 1 else ()
    ids_NK, _ = allpairs.neighbours(captions, args.k, k1=K1, b=B, analyser=Analyser(stop_words=tuple(left_out)))
    return {
        "seconds": time.perf_counter() - wall,
        "CPU seconds": time.process_time() - cpu,
        "peak GB": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9,
        "words left out": len(left_out),
        "found": float((ids_NK >= 0).mean()),
    }


def in_process(args: Bench, share: float) -> dict[str, float]:
    """`whole` in a fresh process."""
    command = [sys.executable, __file__, *map(str, args.captions), "--part", str(share)]
    command += ["--size", str(args.size), "--k", str(args.k)]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    result = json.loads(done.stdout.splitlines()[-1])
    print(
        f"all {args.size:,} captions without {result['words left out']} words: {result['CPU seconds']:.1f} CPU s, "
        f"{result['seconds']:.1f} s by the clock, at most {result['peak GB']:.2f} GB",
        flush=True,
    )
    return result


def main(args: Bench) -> None:
    """Measures, prints, writes."""
    if args.part is not None:
        print(json.dumps(whole(args, args.part)))
        return
    print(f"load of the machine {os.getloadavg()[0]:.1f}, {len(os.sched_getaffinity(0))} cores")
    if args.whole:
        found = {f"{share}": in_process(args, share) for share in (1.0, *args.share)}
    else:
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})  # one thread, whatever a library likes
        found = side_by_side(args)
    print(f"load of the machine {os.getloadavg()[0]:.1f}")
    if args.json:
        args.json.write_text(json.dumps({"arguments": asdict(args), "found": found}, indent=2, default=str))


if __name__ == "__main__":
    main(tyro.cli(Bench, description=__doc__, config=(tyro.conf.FlagCreatePairsOff,)))
