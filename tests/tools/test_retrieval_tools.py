"""Tools of all-pairs search: spliced captions, comparison with libraries, the cost model. No time is asserted."""

import dataclasses
import gzip
import json
import sys
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "tools"))  # its files import each other as they do when it runs
import caption_corpus
import retrieval_bench
import retrieval_cost
import retrieval_rivals

from reimagen_jax.retrieval import allpairs
from reimagen_jax.retrieval.analysis import words

REAL = ["a red cat sits on a mat", "the red dog runs", "a dog sits by the door", "two birds"] * 2 + [
    "a mat by the door"
]


def pairs(captions: list[str]) -> set[tuple[str, str]]:
    return {pair for caption in captions for pair in pairwise(caption.split())}


def test_spliced_captions_have_the_words_and_pairs_of_real_ones():
    captions = caption_corpus.splice(REAL, 500)
    assert len(captions) == 500 and captions == caption_corpus.splice(REAL, 500)
    assert captions != caption_corpus.splice(REAL, 500, seed=1)
    assert pairs(captions) == pairs(REAL)
    assert len(set(captions) - set(REAL)) > 10
    assert {caption.split()[0] for caption in captions} == {caption.split()[0] for caption in REAL}
    assert {caption.split()[-1] for caption in captions} == {caption.split()[-1] for caption in REAL}


def test_captions_are_read_once_each_from_all_fields(tmp_path):
    (tmp_path / "a.jsonl").write_text("\n".join(json.dumps({"id": i, "caption": REAL[i]}) for i in range(5)))
    with gzip.open(tmp_path / "b.jsonl.gz", "wt") as file:
        file.write(json.dumps({"prompt": "ä cat"}) + "\n" + json.dumps({"text": REAL[0]}))
    assert caption_corpus.read([tmp_path / "a.jsonl", tmp_path / "b.jsonl.gz"]) == [*REAL[:4], "ä cat"]


def test_libraries_and_ours_find_the_same():
    """Where scores are not equal, hits are the same; what is left out is left out for all."""
    rng = np.random.default_rng(0)
    texts = [" ".join(f"w{w}" for w in rng.integers(0, 60, n)) for n in rng.integers(3, 15, 200)]
    documents, num_words = retrieval_bench.numbered(texts)
    having_V = allpairs.document_frequencies(documents, num_words)
    args = retrieval_bench.Bench((), size=200, queries=40, rounds=1, share=(0.2,), k=1)
    for share in (1.0, 0.15):
        left_out_V = having_V > share * 200
        some = retrieval_bench.without(documents, left_out_V)
        assert not left_out_V[some.words].any() and len(some.words) == (~left_out_V)[documents.words].sum()
        found, hits = retrieval_bench.rates(args, some, having_V, np.arange(0, 160, 4))
        assert hits[0].shape == (40, 1)
        assert all(rate > 0 for rate in found["queries per CPU second"].values())
        assert all(same == 1 for same in found["same hits"].values())
        told = "\n".join(retrieval_bench.lines(share, found | {"words left out": 0}))
        assert "ours" in told and all(f"x {name}" in told for name in found["same hits"])
    assert set(found["same hits"]) == {name for name in retrieval_rivals.LIBRARIES if retrieval_rivals.installed(name)}


def test_agreement_counts_hits_in_any_order():
    exact = np.array([[1, 2], [3, -1], [5, 6], [7, 8]]), np.zeros((4, 2))
    other = np.array([[2, 1], [3, -1], [9, 5]]), np.zeros((3, 2))
    assert retrieval_bench.agreement(other, exact) == {"same first": 1 / 3, "hits in common": 4 / 5}
    assert retrieval_bench.agreement(exact, exact) == {"same first": 1.0, "hits in common": 1.0}


MODEL = retrieval_cost.Model(
    words=4e-6,
    index=3e-6,
    search_start=1e-5,
    search_slope=1e-10,
    another_part=3e-6,
    disk=60,
    memory=300,
    joined=50,
    vocabulary_factor=10,
    vocabulary_power=0.5,
)


def test_the_bill_of_one_machine_and_of_many():
    one = retrieval_cost.bill(MODEL, 1_000_000, 1_000_000, group=8, k=2)
    assert one.hours * 3600 == pytest.approx(1e6 * (4e-6 + 3e-6 + 1e-5 + 1e-4))
    assert (one.parts, one.vocabulary, one.disk_gb) == (1, 10_000, pytest.approx(0.06))
    many = retrieval_cost.bill(MODEL, 50_000_000, 1_000_000, group=8, k=2)
    assert many.words_hours == pytest.approx(2 * 50 * one.words_hours)
    assert many.index_hours == pytest.approx(50**2 * one.index_hours)
    assert many.search_hours * 3600 == pytest.approx(50e6 * (7 * 1e-5 + 50 * 1e-4 + 43 * 3e-6))
    assert many.shuffle_gb == pytest.approx(50e6 * (50 + 12 * 2 * 7) / 1e9)
    assert many.memory_gb == pytest.approx(0.3 + 150 * many.vocabulary / 1e9)
    assert "50 parts" in "\n".join(retrieval_cost.bill_lines(many, cores=64))


def test_power_laws_are_found():
    assert retrieval_cost.power_law([10, 100, 1000], [3 * n**0.7 for n in (10, 100, 1000)]) == pytest.approx((3, 0.7))


def test_constants_are_measured():
    captions = caption_corpus.splice(REAL, 400)
    measured = retrieval_cost.measure(captions, 50, 2)
    assert measured.size == 400 and min(dataclasses.astuple(measured)) > 0
    documents, _ = retrieval_cost.numbered(captions)
    assert len(documents.words) == sum(len(words(caption)) for caption in captions)
    assert measured.disk == pytest.approx(sum(array.nbytes for array in documents) / 400)
    assert np.isfinite(retrieval_cost.another_part(captions, 4, 50, 2))
    factor, power = retrieval_cost.vocabulary(caption_corpus.splice(REAL, 6400))
    assert (factor, power) == pytest.approx((len({word for caption in REAL for word in words(caption)}), 0), abs=1e-6)
