"""Asking: the same records for training, search and drawing; exact matches; a floor that is exact; ties by a hash."""

from dataclasses import replace

import numpy as np
import pytest

from reimagen_jax.data.records import write_records
from reimagen_jax.errors import UserError
from reimagen_jax.files import read_json, write_json
from reimagen_jax.inference.prompts import Prompt, asking, from_records, with_retrieved
from reimagen_jax.retrieval import serving
from reimagen_jax.retrieval.asker import ask
from reimagen_jax.retrieval.asking import BELOW, Asking, Question, floor_of, question_of
from reimagen_jax.retrieval.fields import value_of
from reimagen_jax.retrieval.knowledge_base import KnowledgeBase
from reimagen_jax.retrieval.neighbours import Rules, build_triples, find_neighbours
from reimagen_jax.retrieval.triples import Triples
from tests.retrieval.bases import LetterEncoder, dense
from tests.samples import example, records_of

THINGS = ("bubble tea", "left speech bubble", "palm tree", "evergreen tree", "man", "kiss between man and man")
STYLES = ("round", "flat", "old")


@pytest.fixture
def drawn(tmp_path):
    """Records of things, each drawn in three styles, and their knowledge base."""
    examples = [
        example(10 * t + s, f"{thing}, drawn in the {style} style", entity=thing, style=style)
        for t, thing in enumerate(THINGS)
        for s, style in enumerate(STYLES)
    ]
    records = write_records(examples, tmp_path / "r", source="test")
    return records, KnowledgeBase.build(records, tmp_path / "kb")


def entities(base, ids):
    return [base.records[int(n)].attributes["entity"] for n in ids if n >= 0]


def found(base, how, query, **fields):
    question = question_of(how, query, fields, query=query)
    return ask(base, [question], len(base), how).ids_QC[0]


def test_what_is_asked_for_exactly_is_not_found_in_other_names(drawn):
    _, base = drawn
    assert set(entities(base, found(base, Asking(), "man"))) == {"man", "kiss between man and man"}
    assert entities(base, found(base, Asking(match=("entity",)), "man")) == ["man"] * 3
    assert entities(base, found(base, Asking(match=("entity",)), "a picture", entity="palm tree")) == ["palm tree"] * 3
    assert entities(base, found(base, Asking(match=("entity",)), "a man")) == []
    both = found(base, Asking(match=("entity", "style")), "man", style="old")
    assert [base.records[int(n)].text for n in both if n >= 0] == ["man, drawn in the old style"]


def test_a_condition_and_its_negation_share_the_records(drawn):
    _, base = drawn
    every = {int(n) for n in found(base, Asking(), "style") if n >= 0}
    only, others = (
        {int(n) for n in found(base, Asking(**{name: ("style=old", "style=flat")}), "style") if n >= 0}
        for name in ("where", "where_not")
    )
    assert len(only) == 2 * len(others) == 12 and only | others == every
    for option in ("where", "where_not"):
        with pytest.raises(UserError, match=rf"--{option.replace('_', '-')} style=new: no record has it"):
            found(base, Asking(**{option: ("style=new",)}), "style")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"query_by": ()}, "query_by is empty"),
        ({"match": ("caption",)}, "match is of attributes"),
        ({"where_not": ("style",)}, r"--where-not 'style' is not FIELD=VALUE"),
        ({"floor": 1.5}, "floor is 1.5"),
    ],
)
def test_what_contradicts_itself_is_refused(settings, message):
    with pytest.raises(UserError, match=message):
        Asking(**settings)


def test_a_share_is_the_weight_of_the_words_in_common_and_bounds_the_score(tmp_path):
    """Against the definition; and no document with such a share scores less than is said."""
    rng, vocabulary = np.random.default_rng(0), [f"w{i}" for i in range(30)]
    texts = [" ".join(rng.choice(vocabulary, rng.integers(1, 9), p=_zipf(30))) for _ in range(60)]
    words = KnowledgeBase.build(records_of(tmp_path / "r", texts), tmp_path / "kb").words
    queries = [" ".join([*rng.choice(vocabulary, 3, replace=False), "nowhere"][: 2 + i % 3]) for i in range(20)]
    every_QN = np.tile(np.arange(60, dtype=np.int32), (20, 1))

    def idf(word):
        n = sum(word in text.split() for text in texts)
        return np.log(1 + (60 - n + 0.5) / (n + 0.5))

    shares_QN, scores_QN = words.shares(queries, every_QN), words.scores(queries, every_QN)
    for query, share_N in zip(queries, shares_QN, strict=True):
        asked = set(query.split())
        for text, share in zip(texts, share_N, strict=True):
            want = sum(idf(word) for word in asked & set(text.split())) / sum(map(idf, asked))
            assert share == pytest.approx(want, abs=1e-6)
    for floor in (0.2, 0.5, 0.8):
        least_Q = words.least_scores(queries, floor)
        assert (scores_QN >= least_Q[:, None])[shares_QN >= floor].all()
    assert words.shares(["..."], every_QN[:1]).min() == 1 and words.shares(["w0"], -every_QN[:1] - 1).max() == 0


def _zipf(number):
    weights = 1 / np.arange(1, number + 1)
    return weights / weights.sum()


def test_the_floor_leaves_out_strangers_alone_and_says_so(drawn):
    """With the picture itself left out, two are of the same thing; the third would be a stranger. A name that has all
    words of another is none by the floor."""
    records, base = drawn
    rules = Rules(query_by=("entity", "caption"), near_duplicates=0.0)
    without, with_floor = (find_neighbours(records, base, 3, replace(rules, floor=floor)) for floor in (0.0, 0.7))
    own = [record.attributes["entity"] for record in records]
    for name, all_K, kept_K in zip(own, without.ids_NK, with_floor.ids_NK, strict=True):
        if name == "man":
            assert kept_K.tolist() == all_K.tolist()
        else:
            assert entities(base, kept_K) == [name] * 2 == entities(base, all_K)[:2]
    strangers = dict(zip(own, (entities(base, ids_K)[2] for ids_K in without.ids_NK), strict=True))
    assert strangers["bubble tea"] == "left speech bubble" and strangers["palm tree"] == "evergreen tree"
    assert with_floor.excluded[BELOW] == len(records) - 3 and BELOW not in without.excluded


def test_the_floor_is_exact_however_far_down_a_record_stands(tmp_path):
    """A long caption scores little, below many that share less: it is found all the same, and nothing is beyond it."""
    long = "zu blue " + " ".join(f"filler{i}" for i in range(60))
    texts = ["zu blue", *["zu"] * 40, long, *["other"] * 200]
    records = records_of(tmp_path / "r", texts)
    base = KnowledgeBase.build(records, tmp_path / "kb")
    assert find_neighbours(records, base, 2, Rules(near_duplicates=0.0)).ids_NK[0].tolist() == [1, 2]
    found = find_neighbours(records, base, 2, Rules(near_duplicates=0.0, floor=0.9))
    assert found.ids_NK[0].tolist() == [41, -1] and found.excluded[BELOW] > 0


def test_names_have_a_floor_captions_have_none_and_what_matches_has_none(drawn):
    _, base = drawn
    assert floor_of(("caption",)) == 0 < floor_of(("entity", "caption"))
    how = Asking(query_by=("entity",), match=("style",), floor=0.9)
    question = question_of(how, "x", {"entity": "palm tree", "style": "old"})
    assert question.names == "palm tree" and not ask(base, [question], 5, how).below_QC.any()


def test_ties_are_broken_by_a_hash_and_nothing_else_is_changed(tmp_path):
    texts = ["red cat"] * 40 + ["red dog"] * 3
    base = KnowledgeBase.build(records_of(tmp_path / "r", texts), tmp_path / "kb")
    questions = [Question("red cat", who=key) for key in "abcdefgh"]
    by_id, hashed, again, other = (ask(base, questions, 6, Asking(tie_seed=seed)) for seed in (None, 0, 0, 1))
    np.testing.assert_array_equal(by_id.ids_QC, np.tile(np.arange(6), (8, 1)))
    np.testing.assert_array_equal(by_id.scores_QC, hashed.scores_QC)
    np.testing.assert_array_equal(hashed.ids_QC, again.ids_QC)
    assert (hashed.ids_QC < 40).all() and (hashed.ids_QC != other.ids_QC).any()
    assert len({tuple(row) for row in hashed.ids_QC.tolist()}) == 8, "records that ask the same find different ones"
    assert len(np.unique(hashed.ids_QC)) > 20, "as good as all serve"
    for width in (1, 3, 43, 50):
        wider = ask(base, questions, width, Asking(tie_seed=0)).ids_QC
        n = min(width, 6)
        np.testing.assert_array_equal(wider[:, :n], hashed.ids_QC[:, :n])
        assert all(len(set(row[row >= 0].tolist())) == min(width, 43) for row in wider)


@pytest.mark.parametrize(
    "how",
    [
        {"query_by": ("entity", "entity", "caption"), "exclude_same": ("style",), "floor": 0.7, "tie_seed": 3},
        {"query_by": ("entity",), "match": ("entity",), "where_not": ("style=old",)},
        {"where": ("style=old", "style=flat"), "floor": 0.5, "tie_seed": 0},
        {"method": "dense", "exclude_same": ("entity",), "floor": 0.9, "tie_seed": 1},
        {"method": "hybrid", "match": ("style",), "where_not": ("entity=man",), "tie_seed": 2},
    ],
    ids=["by name", "exactly", "by caption", "by vectors", "by both"],
)
def test_a_record_finds_in_drawing_what_it_found_in_training(drawn, tmp_path, how):
    records, base = drawn
    if how.get("method"):
        base = KnowledgeBase.build(records, tmp_path / "vectors", dense=dense(), encoder=LetterEncoder())
    triples = build_triples(records, base, 2, tmp_path / "t", Rules(**how))
    assert triples.asked == Asking(**how, near_duplicates=0.08)
    prompts = asking(from_records(records, len(records), 8), triples.asked)
    keys = base.keys()
    for prompt, ids_K in zip(with_retrieved(prompts, base, 2, 8, how=triples.asked), triples.neighbours, strict=True):
        assert [hit.key for hit in prompt.neighbours] == [keys[n] for n in ids_K if n >= 0]


def test_fields_of_a_prompt_ask_as_those_of_a_record_and_a_text_without_is_asked_itself(drawn):
    _, base = drawn
    how = Asking(query_by=("entity", "caption"), exclude_same=("style",), floor=0.7)
    named = Prompt("bubble tea in the rain", attributes={"entity": "bubble tea", "style": "old"})
    told, plain, apart = asking([named, Prompt("tea and bubble"), Prompt("rain", query="palm tree")], how)
    assert (told.query, told.names) == ("bubble tea bubble tea in the rain", "bubble tea")
    assert (plain.query, plain.names) == ("", ""), "no floor for a text that nothing was named in"
    assert (apart.query, apart.names) == ("palm tree", "palm tree")
    hits = [each.neighbours for each in with_retrieved([told, plain, apart], base, 4, 8, how=how)]
    assert {hit.attributes["style"] for hit in hits[0]} == {"round", "flat"}
    assert [hit.attributes["entity"] for hit in hits[0]] == ["bubble tea"] * 2
    assert len(hits[1]) == 4 and {hit.attributes["entity"] for hit in hits[2]} == {"palm tree"}
    with pytest.raises(UserError, match=r"--query-by entity: 'rain' has no such text"):
        asking([Prompt("rain", query="palm tree")], how, strict=True)


@pytest.mark.parametrize("attributes", [{"shelf": 7}, {"shelf": "seven"}, {"shelf": {"row": 3}}, {"shelf": None}, {}])
def test_a_prompt_asks_by_its_fields_whatever_their_kind_as_a_record_does(attributes):
    """Else a model that was trained by numbers would be drawn from by captions."""
    name = "shelf.row" if isinstance(attributes.get("shelf"), dict) else "shelf"
    how = Asking(query_by=(name, "caption"))
    (asked,) = asking([Prompt("a jar", attributes=attributes)], how)
    if attributes.get("shelf") is None:
        assert asked.query == "", "by its text"
    else:
        question = question_of(how, "a jar", attributes)
        assert (asked.query, asked.names) == (question.query, question.names)


def test_records_have_the_same_value_of_a_nested_field():
    assert value_of("a", {"made": {"by": "Noto"}}, "made.by") == "Noto" != value_of("a", {"made": {}}, "made.by") == ""


def test_triples_of_earlier_versions_do_not_tell_how_they_were_asked_for(drawn, tmp_path):
    records, base = drawn
    build_triples(records, base, 1, tmp_path / "t")
    manifest = read_json(tmp_path / "t/manifest.json", "a manifest")
    del manifest["asked"]
    write_json(tmp_path / "t/manifest.json", {name: value for name, value in manifest.items() if name != "sha256"})
    assert Triples.open(tmp_path / "t").asked is None
    assert build_triples(records, base, 1, tmp_path / "drawn", Rules("random")).asked is None


def test_how_often_each_record_serves_is_counted(drawn, tmp_path):
    records, base = drawn
    triples = build_triples(records, base, 2, tmp_path / "t", Rules(query_by=("entity",), near_duplicates=0.0))
    times_M = serving.served(triples.neighbours, len(base))
    assert times_M.sum() == (triples.neighbours >= 0).sum()
    table = [line.split("\t") for line in (tmp_path / "t/serving.tsv").read_text().splitlines()]
    assert table[0] == ["times", "key"] and len(table) == 1 + len(base)
    assert {key: int(times) for times, key in table[1:]} == dict(zip(base.keys(), times_M.tolist(), strict=True))
    shares = serving.shares(times_M, base, "style")
    assert [each.of_base for each in shares] == [pytest.approx(1 / 3)] * 3
    assert sum(each.of_neighbours for each in shares) == pytest.approx(1)
    with pytest.raises(UserError, match="--count-by flavour"):
        serving.shares(times_M, base, "flavour")


def test_more_candidates_than_neighbours_are_kept_and_fewer_are_refused(drawn, tmp_path):
    records, base = drawn
    triples = build_triples(records, base, 2, tmp_path / "t", num_candidates=4)
    assert (triples.num_neighbours, triples.num_candidates, triples.neighbours.shape) == (2, 4, (18, 4))
    best = build_triples(records, base, 2, tmp_path / "best")
    np.testing.assert_array_equal(best.neighbours, triples.neighbours[:, :2])
    with pytest.raises(UserError, match="num_candidates is 1: at least as many as neighbours, 2"):
        build_triples(records, base, 2, tmp_path / "few", num_candidates=1)
