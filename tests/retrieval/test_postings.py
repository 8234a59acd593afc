"""Inverted lists: they say what a count says, and are the same in whatever steps they were made."""

from collections import Counter

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from reimagen_jax.retrieval import postings

DOCUMENTS = st.lists(st.lists(st.sampled_from(["a", "b", "ç", "猫", "zz", "B"]), max_size=6), max_size=12)


def same(a, b) -> bool:
    arrays = ("starts", "documents", "counts")
    return (a.terms, a.num_documents) == (b.terms, b.num_documents) and all(
        np.array_equal(getattr(a, name), getattr(b, name)) and getattr(a, name).dtype == getattr(b, name).dtype
        for name in arrays
    )


@given(DOCUMENTS)
def test_lists_are_counts(documents):
    lists = postings.invert(documents)
    counted = [Counter(document) for document in documents]
    assert list(lists.terms) == sorted(set().union(*counted) if counted else ())
    assert lists.lengths.tolist() == [len(document) for document in documents]
    for term, number in lists.number_of.items():
        part = slice(lists.starts[number], lists.starts[number + 1])
        assert lists.documents[part].tolist() == [d for d, count in enumerate(counted) if count[term]]
        assert lists.counts[part].tolist() == [count[term] for count in counted if count[term]]
        assert lists.of_term(term).tolist() == lists.documents[part].tolist()
    assert lists.of_term("unknown").size == 0


@given(st.lists(DOCUMENTS, min_size=1, max_size=4))
def test_parts_put_together_are_the_whole(parts):
    joined = postings.concatenate([postings.invert(part) for part in parts])
    assert same(joined, postings.invert([document for part in parts for document in part]))


@given(DOCUMENTS, st.data())
def test_a_part_taken_out_is_the_part(documents, data):
    kept = sorted(data.draw(st.sets(st.integers(0, max(len(documents) - 1, 0)), max_size=len(documents))))
    chosen = postings.select(postings.invert(documents), np.array(kept, np.int64))
    assert same(chosen, postings.invert([documents[i] for i in kept]))


@settings(max_examples=10)
@given(DOCUMENTS)
def test_saved_and_opened(tmp_path_factory, documents):
    folder, lists = tmp_path_factory.mktemp("lists"), postings.invert(documents)
    postings.save(lists, folder, "x")
    assert same(postings.load(folder, "x"), lists)


def test_counts_beyond_a_byte():
    lists = postings.invert([["a"] * 300, ["a"]])
    assert lists.counts.tolist() == [300, 1]
