"""BM25: both searches, plain and compiled, equal the formula, written out here, on any texts, and each other."""

import math
from collections import Counter

import bm25s
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from reimagen_jax.retrieval import bm25

WORDS = [f"w{i}" for i in range(30)]
# Some words are common and some are rare, so that both ways of adding up are taken.
TEXT = st.lists(st.sampled_from(WORDS + WORDS[:3] * 15), max_size=8).map(" ".join)


@pytest.fixture(params=[2**62, 0], ids=["plain", "compiled"], scope="module", autouse=True)
def way(request):
    """Which of the two ways all queries of a test go."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(bm25, "_LITTLE", request.param)
        yield


def formula(query: str, documents: list[Counter[str]], k1: float = 1.5, b: float = 0.75) -> np.ndarray:
    """Equations (1) and (2), word by word."""
    lengths = [d.total() for d in documents]
    mean = sum(lengths) / len(lengths)
    scores = np.zeros(len(documents))
    for word in query.split():
        having = sum(word in d for d in documents)
        idf = math.log(1 + (len(documents) - having + 0.5) / (having + 0.5))
        for i, d in enumerate(documents):
            if d[word]:
                scores[i] += idf * d[word] / (d[word] + k1 * (1 - b + b * lengths[i] / mean))
    return scores


def counted(texts: list[str]) -> list[Counter[str]]:
    return [Counter(text.split()) for text in texts]


def index(folder, texts, k1=1.5, b=0.75):
    bm25.build(texts, folder, k1, b)
    return bm25.load(folder)


@settings(max_examples=30, deadline=None)
@given(texts=st.lists(TEXT, min_size=1, max_size=60), queries=st.lists(TEXT, max_size=6), k=st.integers(1, 70))
def test_equals_the_formula(tmp_path_factory, texts, queries, k):
    texts[0] += " w0"
    documents = counted(texts)
    ids_QK, scores_QK = index(tmp_path_factory.mktemp("index"), texts).search(queries, k)
    assert (ids_QK.shape, ids_QK.dtype, scores_QK.dtype) == ((len(queries), k), np.int32, np.float32)
    for query, ids, scores in zip(queries, ids_QK, scores_QK, strict=True):
        truth = formula(query, documents)
        found = ids >= 0
        assert found.sum() == min(k, (truth > 0).sum())
        assert not (~found[:-1] & found[1:]).any()
        assert (scores[~found] == 0).all()
        np.testing.assert_allclose(scores, np.pad(np.sort(truth)[::-1], (0, k))[:k], rtol=1e-5)
        np.testing.assert_allclose(truth[ids[found]], scores[found], rtol=1e-5)


def test_equals_bm25s(tmp_path):
    """The formula again, as others have written it."""
    rng = np.random.default_rng(1)
    texts = [" ".join(f"w{w}" for w in rng.zipf(1.5, rng.integers(1, 12)) % 300) for _ in range(400)]
    reference = bm25s.BM25(k1=1.2, b=0.6, method="lucene")
    reference.index([text.split() for text in texts], create_empty_token=False, show_progress=False)
    truth_QN = [reference.get_scores(text.split()) for text in texts[:50]]
    built = index(tmp_path, texts, 1.2, 0.6)
    everything = np.tile(np.arange(400), (50, 1))
    np.testing.assert_allclose(built.scores(texts[:50], everything), truth_QN, rtol=1e-5, atol=1e-6)


@settings(max_examples=30, deadline=None)
@given(texts=st.lists(TEXT, min_size=1, max_size=60), query=TEXT, k=st.integers(1, 20), data=st.data())
def test_a_filter_leaves_the_best_of_what_it_allows(tmp_path_factory, texts, query, k, data):
    texts[0] += " w0"
    allowed = np.array(data.draw(st.lists(st.booleans(), min_size=len(texts), max_size=len(texts))))
    built = index(tmp_path_factory.mktemp("index"), texts)
    ids, scores = built.search([query, query], k, allowed)
    truth = np.where(allowed, formula(query, counted(texts)), 0)
    np.testing.assert_allclose(scores[0], np.pad(np.sort(truth)[::-1], (0, k))[:k], rtol=1e-5)
    assert allowed[ids[ids >= 0]].all()
    assert (ids[0] == ids[1]).all()
    np.testing.assert_array_equal(built.scores([query, query], ids), scores)  # to the last bit


def test_both_ways_are_the_same_to_the_last_bit(tmp_path, monkeypatch):
    rng = np.random.default_rng(2)
    texts = [" ".join(f"w{w}" for w in rng.zipf(1.3, rng.integers(1, 12)) % 300) for _ in range(700)]
    queries, allowed = [*texts[:40], "w1 w1 w0 unknown", "unknown", ""], rng.random(700) < 0.8
    built, found = index(tmp_path, texts), []
    for little in (0, 2**62):
        monkeypatch.setattr(bm25, "_LITTLE", little)
        some, all_of_them = built.search(queries, 9, allowed), built.search(queries, 9)
        found.append((*some, *all_of_them, built.scores(queries, some[0]), built.shares(queries, some[0])))
    *same, shares = zip(*found, strict=True)
    for first, second in same:
        np.testing.assert_array_equal(first, second)
    np.testing.assert_allclose(*shares, rtol=1e-6)
    assert {0, 1} <= set(shares[0].ravel())


def test_explanations_are_the_summands(tmp_path):
    texts = ["red red cat", "red dog", "blue cat with a hat"]
    built = index(tmp_path, texts)
    for d, text in enumerate(texts):
        matches = built.explain("red cat red hat zebra", d, text)
        np.testing.assert_allclose(
            sum(m.score for m in matches), formula("red cat red hat", counted(texts))[d], rtol=1e-5
        )
        assert all(m.in_document == text.split().count(m.word) for m in matches)


def test_large_index_where_bounds_matter(tmp_path):
    rng = np.random.default_rng(0)
    chances = 1 / np.arange(1, 2001)
    texts = [" ".join(f"w{w}" for w in rng.choice(2000, 10, p=chances / chances.sum())) for _ in range(3000)]
    documents = counted(texts)
    queries = [*texts[:20], "w0 w1 w2", "w1999 w0", "nothing known", ""]
    ids_QK, scores_QK = index(tmp_path, texts).search(queries, 7)
    for query, ids, scores in zip(queries, ids_QK, scores_QK, strict=True):
        truth = formula(query, documents)
        np.testing.assert_allclose(scores, np.sort(truth)[::-1][:7], rtol=1e-5)
        np.testing.assert_allclose(truth[ids[ids >= 0]], scores[ids >= 0], rtol=1e-5)


def test_ties_go_to_the_lower_id_and_threads_change_nothing(tmp_path):
    built = index(tmp_path, ["red cat", "blue cat", "dog", "red cat", "cat red"] * 600)
    ids_QK, _ = built.search(["red cat"] * 3000, 5)
    assert (ids_QK == [0, 3, 4, 5, 8]).all()


def test_equal_captions_with_words_that_all_have(tmp_path):
    """Words of all captions weigh less than what rounding makes of the sums of the others: no hit may be lost by it."""
    sizes = np.random.default_rng(0).integers(1, 60, 40)
    texts = [f"a photo of w{i} a vegetable in a grocery store" for i, n in enumerate(sizes) for _ in range(n)]
    built, documents, queries = index(tmp_path, texts), counted(texts), sorted(set(texts))
    for k in (1, 6, 60):
        for query, scores in zip(queries, built.search(queries, k)[1], strict=True):
            truth = formula(query, documents)
            np.testing.assert_allclose(scores, np.sort(truth)[::-1][:k], rtol=1e-5)


def test_order_of_words_does_not_matter_repetition_does(tmp_path):
    built = index(tmp_path, ["red cat", "red red dog", "blue cat"])
    _, (one, turned, twice) = built.search(["red cat", "cat red", "red red"], 3)
    np.testing.assert_array_equal(one, turned)
    np.testing.assert_allclose(twice, 2 * built.search(["red"], 3)[1][0], rtol=1e-6)


@pytest.mark.parametrize(("k1", "b"), [(0.5, 0.0), (1.2, 1.0)])
def test_parameters_are_used(tmp_path, k1, b):
    texts = ["cat", "cat cat", "cat and many more words here", "dog"]
    _, scores = index(tmp_path, texts, k1, b).search(["cat"], 4)
    np.testing.assert_allclose(scores[0], np.sort(formula("cat", counted(texts), k1, b))[::-1], rtol=1e-5)


def test_index_is_memory_mapped(tmp_path):
    assert all(isinstance(array.base, np.memmap) for array in index(tmp_path, ["a b", "b c"])._lists)


def test_no_words_at_all(tmp_path):
    with pytest.raises(ValueError, match="word"):
        bm25.build(["", "🐶", "..."], tmp_path, 1.5, 0.75)


def test_k_has_to_be_positive(tmp_path):
    with pytest.raises(ValueError, match="k is 0"):
        index(tmp_path, ["a"]).search(["a"], 0)
