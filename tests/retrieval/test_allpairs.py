"""All pairs: the block search equals the plain index to the last bit, in one part or in many, and so the formula."""

import gzip
import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from reimagen_jax.retrieval import allpairs, blocks, bm25
from reimagen_jax.retrieval.analysis import Analyser, words
from tests.retrieval.test_bm25 import TEXT, counted, formula

CORPORA = Path(__file__).parent / "corpora"


def corpus(name: str) -> list[str]:
    """The texts of an excerpt of a real corpus."""
    with gzip.open(CORPORA / name, "rt", encoding="utf-8") as file:
        rows = [json.loads(line) for line in file]
    return [row.get("caption") or " ".join([row["name"], *row["keywords"]]) for row in rows]


def zipf(num_texts: int, num_words: int = 2000, length: int = 10, seed: int = 0) -> list[str]:
    """Texts of words of very different frequencies, of different lengths, some of them equal."""
    rng = np.random.default_rng(seed)
    chances = 1 / np.arange(1, num_words + 1)
    lengths = rng.integers(1, 2 * length, num_texts)
    flat = rng.choice(num_words, lengths.sum(), p=chances / chances.sum())
    texts = [" ".join(f"w{w}" for w in part) for part in np.split(flat, np.cumsum(lengths)[:-1])]
    return texts[: num_texts * 9 // 10] + texts[: num_texts - num_texts * 9 // 10]


def plain(folder, texts, k, **settings):
    """The same by the plain index: every text asked, itself left out."""
    bm25.build(texts, folder, **{"k1": 1.2, "b": 0.75} | settings)
    index = bm25.load(folder)
    ids, scores = index.search(texts, k + 1)
    assert "_blocks" not in vars(index)  # they are what is tested
    order = np.argsort(ids == np.arange(len(texts))[:, None], axis=1, kind="stable")[:, :k]
    itself = np.take_along_axis(ids, order, axis=1) == np.arange(len(texts))[:, None]
    ids, scores = (np.take_along_axis(array, order, axis=1) for array in (ids, scores))
    return np.where(itself, -1, ids), np.where(itself, 0, scores)


def in_parts(texts, k, num_parts, group=1, k1=1.2, b=0.75):
    """The same, with the documents dealt out to parts, and hits of groups of parts merged."""
    numbers = allpairs.Numbers()
    documents = numbers.documents(map(words, texts))
    names, new_V = numbers.alphabetical()
    documents = documents._replace(words=new_V[documents.words])
    idf_V = allpairs.inverse_frequencies(allpairs.document_frequencies(documents, len(names)), len(texts))
    scoring = allpairs.Scoring(idf_V, documents.lengths_N.mean(), k1, b)
    documents = documents._replace(ids_N=documents.ids_N.astype(np.int64))
    dealt = [documents.take(np.arange(part, len(texts), num_parts)) for part in range(num_parts)]
    lists = [allpairs.invert(part, scoring) for part in dealt]
    largest_V = np.zeros(len(names), np.float32)
    for one in lists:
        np.maximum.at(largest_V, one.words_W, one.largest_W)
    parts = [allpairs.arrange(one, largest_V[one.words_W], d.ids_N) for one, d in zip(lists, dealt, strict=True)]
    found = allpairs.nothing(len(texts), k, np.int64)
    for first in range(0, num_parts, group):
        hits = allpairs.nothing(len(texts), k, np.int64)
        for part in parts[first : first + group]:
            allpairs.improve(hits, documents, part)
        found = allpairs.merge(found, hits)
    return found


def assert_same(found, truth):
    np.testing.assert_array_equal(found[0], truth[0])
    np.testing.assert_array_equal(found[1], truth[1])


@settings(max_examples=25, deadline=None)
@given(texts=st.lists(TEXT, min_size=1, max_size=60), k=st.integers(1, 8))
def test_equals_the_formula(texts, k):
    documents = counted(texts)
    ids_NK, scores_NK = allpairs.neighbours(texts, k)
    assert (ids_NK.shape, ids_NK.dtype, scores_NK.dtype) == ((len(texts), k), np.int32, np.float32)
    for i, (ids, scores) in enumerate(zip(ids_NK, scores_NK, strict=True)):
        truth = formula(texts[i], documents, k1=1.2) if any(documents) else np.zeros(len(texts))
        truth[i] = 0
        found = ids >= 0
        assert i not in ids and found.sum() == min(k, (truth > 0).sum())
        np.testing.assert_allclose(scores, np.pad(np.sort(truth)[::-1], (0, k))[:k], rtol=1e-5)
        np.testing.assert_allclose(truth[ids[found]], scores[found], rtol=1e-5)


@settings(max_examples=25, deadline=None)
@given(texts=st.lists(st.text(max_size=12), min_size=1, max_size=30))
def test_equals_the_plain_index_on_any_text(tmp_path_factory, texts):
    texts[0] += " a word"
    folder = tmp_path_factory.mktemp("index")
    assert_same(allpairs.neighbours(texts, 3), plain(folder, texts, 3))


@pytest.mark.parametrize("texts", [corpus("coco.jsonl.gz"), corpus("cldr.jsonl.gz"), zipf(3000)], ids=len)
@pytest.mark.parametrize(("k", "settings"), [(2, {}), (7, {"k1": 0.5, "b": 1.0})])
def test_equals_the_plain_index_to_the_last_bit(tmp_path, texts, k, settings):
    assert_same(allpairs.neighbours(texts, k, **settings), plain(tmp_path, texts, k, **settings))


def test_more_documents_than_a_block_has(tmp_path):
    """With k up to more than can be found, and so with and without a threshold."""
    texts = zipf(2 * blocks.SIZE + 100, length=4)
    some = np.arange(0, len(texts), 400)
    bm25.build(texts, tmp_path, 1.2, 0.75)
    index = bm25.load(tmp_path)
    for k in (1, 3, 2 * blocks.SIZE):
        asked = [texts[i] for i in some[: 4 if k > 3 else None]]
        assert_same(index._search_blocks(asked, k), index.search(asked, k))


def test_many_queries_at_once_find_what_few_find(tmp_path, monkeypatch):
    texts, queries = zipf(1500), [*zipf(700, seed=1), "w0 w0 w0 unknown", "", "unknown"]
    bm25.build(texts, tmp_path, 1.2, 0.75)
    index = bm25.load(tmp_path)
    few = index.search(queries, 4)
    assert "_blocks" not in vars(index)
    monkeypatch.setattr(bm25, "_MANY", len(texts) * len(queries))
    assert_same(index.search(queries, 4), few)
    assert "_blocks" in vars(index)


@pytest.mark.parametrize(("num_parts", "group"), [(1, 1), (3, 1), (5, 2), (4, 4)])
def test_parts_make_no_difference(num_parts, group):
    for texts in (corpus("cldr.jsonl.gz"), zipf(2000)):
        assert_same(in_parts(texts, 3, num_parts, group), allpairs.neighbours(texts, 3))


@pytest.mark.parametrize("texts", [["red cat"] * 40, ["a b", "a b c", "a a b", "b a"] * 9])
def test_ties_go_to_the_lower_id(tmp_path, texts):
    assert_same(allpairs.neighbours(texts, 5), plain(tmp_path, texts, 5))
    assert_same(in_parts(texts, 5, 3), plain(tmp_path, texts, 5))


def test_words_that_all_have_and_long_texts(tmp_path):
    """Bounds of whole numbers, with scores far below one and far above."""
    rng = np.random.default_rng(0)
    texts = ["all of them " * n for n in range(1, 30)] + [" ".join(f"w{w}" for w in rng.integers(0, 900, 1500))] * 3
    assert_same(allpairs.neighbours(texts, 4), plain(tmp_path, texts, 4))


def test_nothing_to_be_found():
    for texts in ([], [""], ["", "..."], ["a", "b", ""]):
        ids_NK, scores_NK = allpairs.neighbours(texts, 2)
        assert ids_NK.shape == (len(texts), 2) and (ids_NK == -1).all() and (scores_NK == 0).all()
    with pytest.raises(ValueError, match="k is 0"):
        allpairs.neighbours(["a"], 0)


def test_common_words_are_those_above_the_share():
    texts = ["a red cat", "a a dog", "the red dog", "a bird"]
    assert allpairs.common_words(map(words, texts), 0.5) == ["a"]
    assert set(allpairs.common_words(map(words, texts), 0.25)) == {"a", "red", "dog"}
    assert allpairs.common_words(map(words, texts), 1.0) == []
    without = Analyser(stop_words=("a",))
    assert allpairs.neighbours(texts, 1, analyser=without)[0].tolist() == [[2], [2], [1], [-1]]
