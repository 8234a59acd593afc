"""Neighbours: never the record itself, never its picture, never a picture twice; fewer rather than repeated."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from reimagen_jax.data.records import write_records
from reimagen_jax.data.triples import Triples
from reimagen_jax.errors import UserError
from reimagen_jax.retrieval.knowledge_base import KnowledgeBase
from reimagen_jax.retrieval.neighbours import build_triples, find_neighbours
from tests.samples import encoded, example, picture, records_of


def base_of(folder, examples, source="test"):
    return KnowledgeBase.build(write_records(examples, folder / "kb_records", source=source), folder / "kb")


def test_best_others_in_order(tmp_path):
    records = records_of(tmp_path / "r", ["red cat", "red dog", "red cat sleeping", "zebra"])
    ids, scores, excluded = find_neighbours(records, KnowledgeBase.build(records, tmp_path / "kb"), 2)
    assert ids.tolist() == [[2, 1], [0, 2], [0, 1], [-1, -1]]
    assert (scores[:3] > 0).all()
    assert (np.diff(scores, axis=1) <= 0).all()
    assert (scores[3] == 0).all()
    assert excluded == {"the record itself": 4, "same picture": 0, "picture already taken": 0}


def test_a_field_asked_twice_weighs_twice(tmp_path):
    texts = {"asker": "zu big", "name": "zu red", "scene": "big big green"}
    examples = [
        replace(example(i, text, key=key), attributes={"entity": "zu"}) for i, (key, text) in enumerate(texts.items())
    ]
    records = write_records(examples, tmp_path / "r", source="test")
    base = KnowledgeBase.build(records, tmp_path / "kb")
    by_caption, by_name = (
        find_neighbours(records, base, 2, query_by)[0][0].tolist()
        for query_by in (("caption",), ("entity", "entity", "caption"))
    )
    assert by_caption == [2, 1]
    assert by_name == [1, 2]
    triples = build_triples(records, base, 2, tmp_path / "t", query_by=("entity", "entity", "caption"))
    assert triples.manifest["query_by"] == ["entity", "entity", "caption"]
    assert triples.neighbours[0].tolist() == [1, 2]


def test_asked_by_what_a_record_lacks(tmp_path):
    records = records_of(tmp_path / "r", ["red cat"])
    with pytest.raises(UserError, match=r"record k0 has no attribute 'entity'.*caption"):
        find_neighbours(records, KnowledgeBase.build(records, tmp_path / "kb"), 1, ("entity",))


def test_same_key_of_another_source_is_another_record(tmp_path):
    records = records_of(tmp_path / "r", ["red cat", "red dog"])
    other = base_of(tmp_path, [example(50, "red cat", key="k0")], source="other")
    assert find_neighbours(records, other, 1)[0].tolist() == [[0], [0]]
    same = base_of(tmp_path / "2", [example(50, "red cat", key="k0")])
    ids, _, excluded = find_neighbours(records, same, 1)
    assert ids.tolist() == [[-1], [0]]
    assert excluded["the record itself"] == 1


def test_equal_pixels_are_left_out_however_encoded_and_named(tmp_path):
    records = write_records([example(0, "red cat")], tmp_path / "r", source="test")
    disguised = replace(example(0, "red cat", key="elsewhere"), image=encoded(picture(0), "WEBP", lossless=True))
    base = base_of(tmp_path, [disguised, example(1, "red cat too")], source="other")
    ids, _, excluded = find_neighbours(records, base, 2)
    assert ids.tolist() == [[1, -1]]
    assert excluded["same picture"] == 1


def test_no_picture_twice(tmp_path):
    records = write_records([example(0, "red cat")], tmp_path / "r", source="test")
    twins = [example(7, "red cat", key="a"), example(7, "red cat", key="b"), example(8, "red", key="c")]
    ids, _, excluded = find_neighbours(records, base_of(tmp_path, twins, source="other"), 3)
    assert ids.tolist() == [[0, 2, -1]]
    assert excluded["picture already taken"] == 1


def test_asks_again_while_too_many_are_left_out(tmp_path):
    records = write_records([example(0, "red cat")], tmp_path / "r", source="test")
    copies = [example(0, "red cat", key=f"copy{i}") for i in range(100)]
    base = base_of(tmp_path, [*copies, example(1, "red"), example(2, "cat sleeping long")], source="other")
    ids, _, excluded = find_neighbours(records, base, 3)
    assert sorted(ids[0].tolist()) == [-1, 100, 101]
    assert excluded == {"the record itself": 0, "same picture": 100, "picture already taken": 0}


@settings(max_examples=10, deadline=None)
@given(data=st.data(), k=st.integers(1, 5))
def test_equals_the_plain_definition(tmp_path_factory, data, k):
    tmp_path = tmp_path_factory.mktemp("triples")
    words = st.lists(st.sampled_from(["red", "blue", "cat", "dog", "runs"]), min_size=1, max_size=3).map(" ".join)
    drawn = data.draw(st.lists(st.tuples(st.integers(0, 6), words), min_size=1, max_size=14))
    examples = [example(seed, text, key=f"k{i}") for i, (seed, text) in enumerate(drawn)]
    number = data.draw(st.integers(1, len(examples)))
    records = write_records(examples[:number], tmp_path / "r", source="test")
    base = base_of(tmp_path, examples)
    ids_NK, scores_NK, _ = find_neighbours(records, base, k)
    ranked_NM, scores_NM = base.search(records.texts(), len(examples))
    for n, (ids, scores) in enumerate(zip(ids_NK, scores_NK, strict=True)):
        expected, seen = [], {drawn[n][0]}
        for m, score in zip(ranked_NM[n].tolist(), scores_NM[n].tolist(), strict=True):
            if m >= 0 and m != n and drawn[m][0] not in seen and len(expected) < k:
                expected.append((m, score))
                seen.add(drawn[m][0])
        assert [(m, s) for m, s in zip(ids.tolist(), scores.tolist(), strict=True) if m >= 0] == expected
        assert (ids[len(expected) :] == -1).all()


class TestTriples:
    @pytest.fixture
    def triples(self, tmp_path):
        records = records_of(tmp_path / "r", ["red cat", "red dog", "zebra"])
        return build_triples(records, KnowledgeBase.build(records, tmp_path / "kb"), 2, tmp_path / "t")

    def test_reads_what_was_found(self, triples):
        again = Triples.open(triples.path)
        assert again.neighbours.tolist() == [[1, -1], [0, -1], [-1, -1]]
        assert again.neighbours.dtype == np.int32
        assert isinstance(again.neighbours, np.memmap)
        assert ((again.scores > 0) == (again.neighbours >= 0)).all()
        assert (len(again), again.num_neighbours) == (3, 2)
        assert again.fingerprint == triples.fingerprint
        assert again.manifest["records_by_neighbours_found"] == [1, 2, 0]
        assert again.manifest["excluded"]["the record itself"] == 3

    def test_fingerprint_covers_records_and_base(self, triples, tmp_path):
        records = records_of(tmp_path / "2" / "r", ["red cat", "red dog", "zebra"], first_seed=40)
        other = build_triples(records, KnowledgeBase.build(records, tmp_path / "2" / "kb"), 2, tmp_path / "2" / "t")
        assert (other.neighbours == triples.neighbours).all()
        assert other.fingerprint != triples.fingerprint

    def test_rebuilt_knowledge_base_is_refused(self, triples, tmp_path):
        KnowledgeBase.build(triples.records, tmp_path / "kb", k1=0.9, overwrite=True)
        with pytest.raises(UserError, match=r"another knowledge base.*reimagen triples"):
            Triples.open(triples.path)

    def test_missing_knowledge_base_is_refused(self, triples, tmp_path):
        (tmp_path / "kb").rename(tmp_path / "away")
        with pytest.raises(UserError, match=r"gone.*reimagen triples"):
            Triples.open(triples.path)

    def test_rewritten_records_are_refused(self, triples, tmp_path):
        write_records([example(9, "new")], tmp_path / "r", source="test", overwrite=True)
        with pytest.raises(UserError, match="other records"):
            Triples.open(triples.path)
