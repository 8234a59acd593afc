"""Neighbours: never the record itself, its picture or nearly it, no picture twice; fewer rather than repeated."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from reimagen_jax.data.records import ImageText, write_records
from reimagen_jax.errors import UserError
from reimagen_jax.files import read_json, write_json
from reimagen_jax.retrieval.candidates import KINDS
from reimagen_jax.retrieval.knowledge_base import KnowledgeBase
from reimagen_jax.retrieval.neighbours import Rules, build_triples, find_neighbours
from reimagen_jax.retrieval.triples import Exclusion, Triples
from tests.retrieval.bases import LetterEncoder, dense
from tests.samples import SHAPES, encoded, example, icon, picture, records_of


def base_of(folder, examples, source="test"):
    return KnowledgeBase.build(write_records(examples, folder / "kb_records", source=source), folder / "kb")


def counts(found):
    return {reason: number for reason, number in found.excluded.items() if number}


def test_best_others_in_order(tmp_path):
    records = records_of(tmp_path / "r", ["red cat", "red dog", "red cat sleeping", "zebra"])
    found = find_neighbours(records, KnowledgeBase.build(records, tmp_path / "kb"), 2)
    assert found.ids_NK.tolist() == [[2, 1], [0, 2], [0, 1], [-1, -1]]
    assert (found.scores_NK[:3] > 0).all()
    assert (np.diff(found.scores_NK, axis=1) <= 0).all()
    assert (found.scores_NK[3] == 0).all()
    assert found.excluded == {
        "the record itself": 4,
        "same picture": 0,
        "near-duplicate picture": 0,
        "picture already taken": 0,
        "near duplicate of one taken": 0,
    }
    assert [found.left_out_E3[:, c].tolist() for c in range(3)] == [[0, 1, 2, 3], [0, 1, 2, 3], [0, 0, 0, 0]]


def test_a_field_asked_twice_weighs_twice(tmp_path):
    texts = {"asker": "zu big", "name": "zu red", "scene": "big big green"}
    examples = [
        replace(example(i, text, key=key), attributes={"entity": "zu"}) for i, (key, text) in enumerate(texts.items())
    ]
    records = write_records(examples, tmp_path / "r", source="test")
    base = KnowledgeBase.build(records, tmp_path / "kb")
    by_caption, by_name = (
        find_neighbours(records, base, 2, Rules(query_by=query_by)).ids_NK[0].tolist()
        for query_by in (("caption",), ("entity", "entity", "caption"))
    )
    assert by_caption == [2, 1]
    assert by_name == [1, 2]
    triples = build_triples(records, base, 2, tmp_path / "t", Rules(query_by=("entity", "entity", "caption")))
    assert triples.manifest["query_by"] == ["entity", "entity", "caption"]
    assert triples.neighbours[0].tolist() == [1, 2]


def test_same_key_of_another_source_is_another_record(tmp_path):
    records = records_of(tmp_path / "r", ["red cat", "red dog"])
    other = base_of(tmp_path, [example(50, "red cat", key="k0")], source="other")
    assert find_neighbours(records, other, 1).ids_NK.tolist() == [[0], [0]]
    same = base_of(tmp_path / "2", [example(50, "red cat", key="k0")])
    found = find_neighbours(records, same, 1)
    assert found.ids_NK.tolist() == [[-1], [0]]
    assert counts(found) == {"the record itself": 1}


@pytest.mark.parametrize("method", ["lexical", "dense", "hybrid"])
def test_every_search_method_leaves_out_the_same(tmp_path, method):
    """The base holds the records themselves and, in a second folder, another source with the same keys."""
    texts = ["red cat", "red dog", "red cat sleeping", "a bird"]
    records, others = (
        records_of(tmp_path / name, texts, source=name, first_seed=10 * i) for i, name in enumerate("ab")
    )
    others = write_records(
        [replace(record, key=f"k{i}") for i, record in enumerate(others)], tmp_path / "c", source="c"
    )
    base = KnowledgeBase.build([records, others], tmp_path / "kb", dense=dense(), encoder=LetterEncoder())
    rules = Rules(method=method, exclude_same=("caption",))
    found = find_neighbours(records, base, 2, rules)
    ranked_NM = base.search(texts, 8, method=method)[0]
    for n, (ids, ranked) in enumerate(zip(found.ids_NK.tolist(), ranked_NM.tolist(), strict=True)):
        expected = [m for m in ranked if m >= 0 and m % 4 != n][:2]
        assert ids == expected + [-1] * (2 - len(expected))
    assert counts(found) == {"the record itself": 4, "same caption": 4}
    assert build_triples(records, base, 2, tmp_path / "t", rules).manifest["method"] == method


def test_a_method_without_its_vectors_is_refused(tmp_path):
    records = records_of(tmp_path / "r", ["red cat"])
    with pytest.raises(UserError, match="no vectors"):
        find_neighbours(records, KnowledgeBase.build(records, tmp_path / "kb"), 1, Rules(method="dense"))


def test_equal_pixels_are_left_out_however_encoded_and_named(tmp_path):
    records = write_records([example(0, "red cat")], tmp_path / "r", source="test")
    disguised = replace(example(0, "red cat", key="elsewhere"), image=encoded(picture(0), "WEBP", lossless=True))
    base = base_of(tmp_path, [disguised, example(1, "red cat too")], source="other")
    for rules in (Rules(), Rules(near_duplicates=0)):
        found = find_neighbours(records, base, 2, rules)
        assert found.ids_NK.tolist() == [[1, -1]]
        assert counts(found) == {"same picture": 1}


def test_no_picture_twice(tmp_path):
    records = write_records([example(0, "red cat")], tmp_path / "r", source="test")
    twins = [example(7, "red cat", key="a"), example(7, "red cat", key="b"), example(8, "red", key="c")]
    found = find_neighbours(records, base_of(tmp_path, twins, source="other"), 3)
    assert found.ids_NK.tolist() == [[0, 2, -1]]
    assert counts(found) == {"picture already taken": 1}


def test_near_duplicates_are_left_out_up_to_the_threshold(tmp_path):
    """Of the record, and of a neighbour taken: the copies are JPEG files of half the side, under other names."""
    own, other = (picture(seed, (4, 4)).resize((64, 64), Image.Resampling.BICUBIC) for seed in (0, 1))

    def copy(image, key, side=32):
        return ImageText(key, encoded(image.resize((side, side)), "JPEG", quality=80), "red cat")

    records = write_records([ImageText("own", encoded(own), "red cat")], tmp_path / "r", source="test")
    examples = [copy(own, "copy"), copy(other, "other"), copy(other, "another", 48)]
    base = base_of(tmp_path, examples, source="other")
    found = find_neighbours(records, base, 3)
    assert found.ids_NK.tolist() == [[1, -1, -1]]
    assert counts(found) == {"near-duplicate picture": 1, "near duplicate of one taken": 1}
    assert find_neighbours(records, base, 3, Rules(near_duplicates=0)).ids_NK.tolist() == [[0, 1, 2]]


def test_look_alikes_are_looked_at_again(tmp_path):
    """Six icons: all are each other's neighbours. With copies of three: the copies are left out, nothing else."""
    icons = [ImageText(shape, encoded(icon(shape)), "a black icon") for shape in SHAPES]
    records = write_records(icons, tmp_path / "r", source="test")
    base = KnowledgeBase.build(records, tmp_path / "kb")
    found = find_neighbours(records, base, 5)
    assert [sorted(ids) for ids in found.ids_NK.tolist()] == [sorted({*range(6)} - {i}) for i in range(6)]
    assert counts(found).keys() == {"the record itself"}

    copies = [ImageText(f"{n}", encoded(icon(SHAPES[n], side=128, width=23), "JPEG"), "a black icon") for n in range(3)]
    base = base_of(tmp_path / "more", [*icons, *copies], source="test")
    found = find_neighbours(records, base, 8)
    for i, ids in enumerate(found.ids_NK.tolist()):
        others = {n % 6 for n in ids if n >= 0}
        assert others == {*range(6)} - {i} and ids.count(-1) == 3
    assert counts(found) == {
        "the record itself": 6,
        "near-duplicate picture": 3,
        "near duplicate of one taken": 3 * 2 + 3 * 3,
    }


@pytest.mark.parametrize(
    ("field", "expected"),
    [("caption", [1, 2, 3]), ("entity", [0, 2, 3]), ("source_file", [0, 1, 3]), ("views", [0, 1, 3])],
)
def test_records_of_the_same_field_are_left_out_by_option(tmp_path, field, expected):
    """Values are compared as JSON, captions without case and spaces; where there is no value nothing is the same."""
    examples = [
        example(1, " Red  CAT", key="caption"),
        example(2, "red cat, entity", key="entity", entity="zu"),
        example(3, "red cat, source", key="source", source_file="a.jpg", views=[1, {"b": 2}]),
        example(4, "red cat, none", key="none", source_file="", views=None),
    ]
    own = example(0, "red cat", key="own", entity="zu", source_file="a.jpg", views=[1, {"b": 2}])
    bare = example(9, "red cat too", key="bare", source_file="")
    records = write_records([own, bare], tmp_path / "r", source="test")
    base = base_of(tmp_path, examples, source="other")
    found = find_neighbours(records, base, 4, Rules(exclude_same=(field, field)))
    assert sorted(found.ids_NK[0].tolist()) == [-1, *expected]
    assert counts(found) == {f"same {field}": 1}
    assert sorted(found.ids_NK[1].tolist()) == [0, 1, 2, 3]


def test_a_field_that_nothing_has_is_refused(tmp_path):
    records = records_of(tmp_path / "r", ["red cat"])
    base = KnowledgeBase.build(records, tmp_path / "kb")
    with pytest.raises(UserError, match=r"record k0 has no attribute 'entity'.*caption"):
        find_neighbours(records, base, 1, Rules(query_by=("entity",)))
    for rules in (Rules(exclude_same=("entity",)), Rules("oracle"), Rules("wrong", category_field="")):
        with pytest.raises(UserError, match=r"no record in .* has the attribute 'entity'.*caption"):
            find_neighbours(records, base, 1, rules)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"query_by": ()}, "query_by is empty"),
        ({"near_duplicates": -0.1}, "near_duplicates is -0.1: at least 0.0 is needed"),
        ({"seed": -1}, "seed is -1: at least 0 is needed"),
        ({"kind": "random", "query_by": ("entity",)}, "random ones are drawn without a search"),
        ({"kind": "oracle", "exclude_same": ("entity",)}, "oracle neighbours have the record's entity"),
    ],
)
def test_rules_that_contradict_each_other_are_refused(settings, message):
    with pytest.raises(UserError, match=message):
        Rules(**settings)


def test_asks_again_while_too_many_are_left_out(tmp_path, monkeypatch):
    records = write_records([example(0, "red cat")], tmp_path / "r", source="test")
    copies = [example(0, "red cat", key=f"copy{i}") for i in range(100)]
    base = base_of(tmp_path, [*copies, example(1, "red"), example(2, "cat sleeping long")], source="other")
    found = find_neighbours(records, base, 3)
    assert sorted(found.ids_NK[0].tolist()) == [-1, 100, 101]
    assert counts(found) == {"same picture": 100}
    assert found.left_out_E3[:, 1].tolist() == list(range(100))


def test_blocks_and_cores_change_nothing(tmp_path, monkeypatch):
    """The files of the folder are equal byte by byte."""
    texts = [f"{colour} {animal}" for colour in ("red", "blue", "green") for animal in ("cat", "dog", "bird", "cat")]
    examples = [example(i % 9, text, key=f"k{i}", entity=text[-3:]) for i, text in enumerate(texts)]
    records = write_records(examples, tmp_path / "r", source="test")
    base = KnowledgeBase.build(records, tmp_path / "kb")
    for kind in KINDS:
        rules = Rules(kind, category_field="", exclude_same=("caption",))
        contents = []
        for run, (cores, at_once) in enumerate([(1, 1), (1, 2**20), (2, 30), (7, 2**20)]):
            monkeypatch.setattr("reimagen_jax.data.parallel.available_cores", lambda cores=cores: cores)
            monkeypatch.setattr("reimagen_jax.retrieval.neighbours._CANDIDATES_AT_ONCE", at_once)
            triples = build_triples(records, base, 2, tmp_path / f"{kind}{run}", rules)
            contents.append({path.name: path.read_bytes() for path in triples.path.iterdir()})
        assert all(content == contents[0] for content in contents)


@settings(max_examples=15, deadline=None)
@given(data=st.data(), k=st.integers(1, 5), fields=st.sets(st.sampled_from(["caption", "entity"])))
def test_equals_the_plain_definition(tmp_path_factory, data, k, fields):
    tmp_path = tmp_path_factory.mktemp("triples")
    words = st.lists(st.sampled_from(["red", "blue", "cat", "dog", "runs"]), min_size=1, max_size=3).map(" ".join)
    item = st.tuples(st.integers(0, 6), words, st.sampled_from(["a", "b"]))
    drawn = data.draw(st.lists(item, min_size=1, max_size=14))
    examples = [example(seed, text, key=f"k{i}", entity=name) for i, (seed, text, name) in enumerate(drawn)]
    number = data.draw(st.integers(1, len(examples)))
    records = write_records(examples[:number], tmp_path / "r", source="test")
    base = base_of(tmp_path, examples)
    found = find_neighbours(records, base, k, Rules(exclude_same=tuple(sorted(fields))))
    ranked_NM, scores_NM = base.search(records.texts(), len(examples))
    left_out = set()
    for n, (ids, scores) in enumerate(zip(found.ids_NK, found.scores_NK, strict=True)):
        expected, seen = [], {drawn[n][0]}
        for m, score in zip(ranked_NM[n].tolist(), scores_NM[n].tolist(), strict=True):
            if m < 0 or len(expected) == k:
                break
            same = {name for name, f in (("caption", 1), ("entity", 2)) if drawn[m][f] == drawn[n][f]}
            if m == n or same & fields or drawn[m][0] in seen:
                left_out.add((n, m))
            else:
                expected.append((m, score))
                seen.add(drawn[m][0])
        assert [(m, s) for m, s in zip(ids.tolist(), scores.tolist(), strict=True) if m >= 0] == expected
        assert (ids[len(expected) :] == -1).all()
    assert {(n, m) for n, m, _ in found.left_out_E3.tolist()} == left_out
    assert len(found.left_out_E3) == sum(found.excluded.values()) == len(left_out)


class TestDrawn:
    """For ablations, 12 records: entities a (4 records), b and c (3 each), and d (2), which is of another category."""

    ENTITIES = "aaaabbbcccdd"

    @pytest.fixture
    def records(self, tmp_path):
        examples = [
            example(i, f"one {name}", entity=name, category="y" if name == "d" else "x")
            for i, name in enumerate(self.ENTITIES)
        ]
        return write_records(examples, tmp_path / "r", source="test")

    @pytest.fixture
    def base(self, records, tmp_path):
        return KnowledgeBase.build(records, tmp_path / "kb")

    def entities(self, found):
        return [[self.ENTITIES[i] for i in ids if i >= 0] for ids in found.ids_NK.tolist()]

    def test_oracle_is_the_entity_itself(self, records, base):
        found = find_neighbours(records, base, 2, Rules("oracle"))
        assert self.entities(found) == [[name] * (1 if name == "d" else 2) for name in self.ENTITIES]
        assert all(i not in ids for i, ids in enumerate(found.ids_NK.tolist()))
        assert (np.isnan(found.scores_NK) == (found.ids_NK >= 0)).all()
        assert (found.scores_NK[found.ids_NK < 0] == 0).all()

    def test_wrong_is_one_other_entity_of_the_category(self, records, base):
        seen = set()
        for seed in range(8):
            shown = self.entities(find_neighbours(records, base, 2, Rules("wrong", seed=seed)))
            for own, others in zip(self.ENTITIES, shown, strict=True):
                assert len(set(others)) == (own != "d") and own not in others and "d" not in others
                assert len(others) == 2 * (own != "d")
                seen.update((own, name) for name in others)
        assert seen == {(own, name) for own in "abc" for name in "abc" if own != name}
        anywhere = self.entities(find_neighbours(records, base, 2, Rules("wrong", category_field="")))
        assert all(
            len(set(names)) == 1 and own not in names for own, names in zip(self.ENTITIES, anywhere, strict=True)
        )

    def test_random_is_anything_else(self, records, base):
        drawn = [find_neighbours(records, base, 2, Rules("random", seed=seed)).ids_NK for seed in range(40)]
        for n in range(len(records)):
            pairs = [tuple(ids_NK[n].tolist()) for ids_NK in drawn]
            assert all(a != b and n not in (a, b) and min(a, b) >= 0 for a, b in pairs)
            assert {i for pair in pairs for i in pair} == set(range(12)) - {n}

    def test_what_is_drawn_depends_on_seed_and_record_alone(self, records, base, tmp_path):
        fewer = write_records(records.fetch(range(5)), tmp_path / "fewer", source="test")
        for kind in ("random", "wrong", "oracle"):
            ids_NK = find_neighbours(records, base, 2, Rules(kind, seed=3)).ids_NK
            assert (find_neighbours(fewer, base, 2, Rules(kind, seed=3)).ids_NK == ids_NK[:5]).all()
            assert (find_neighbours(records, base, 2, Rules(kind, seed=4)).ids_NK != ids_NK).any()


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
        assert list(again.excluded()) == [Exclusion(f"k{i}", f"k{i}", "the record itself") for i in range(3)]

    def test_triples_of_an_earlier_version_open_without_a_list(self, triples):
        """They have no excluded.jsonl, and fewer settings in their manifest."""
        (triples.path / "excluded.jsonl").unlink()
        manifest = read_json(triples.path / "manifest.json", "manifest")
        del manifest["files"]["excluded.jsonl"]
        for name in ("neighbours", "exclude_same", "near_duplicates", "method"):
            del manifest[name]
        write_json(triples.path / "manifest.json", manifest)
        again = Triples.open(triples.path)
        assert again.neighbours.tolist() == triples.neighbours.tolist()
        with pytest.raises(UserError, match=r"only counted.*reimagen triples"):
            list(again.excluded())

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
