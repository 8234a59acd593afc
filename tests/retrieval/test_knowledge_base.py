"""Knowledge bases: they find what the captions say, explain it, and refuse what is not theirs."""

import hashlib
import json
import shutil

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from reimagen_jax.data.manifest import NAME
from reimagen_jax.data.sources import Where
from reimagen_jax.errors import UserError
from reimagen_jax.retrieval.analysis import VERSION, Analyser, words_1
from reimagen_jax.retrieval.hybrid import Fusion
from reimagen_jax.retrieval.knowledge_base import KnowledgeBase
from tests.retrieval.bases import LetterEncoder, change_manifest, dense, described, write_version_1
from tests.samples import records_of

TEXTS = ["a red cat", "a blue dog", "a green bird", "a red bird"]
ANY_QUERIES = st.lists(st.text(st.one_of(st.characters(exclude_categories=()), st.sampled_from("red cat"))), max_size=4)
METHODS = ("lexical", "dense", "hybrid")


@pytest.fixture
def base(tmp_path):
    return KnowledgeBase.build(records_of(tmp_path / "r", TEXTS), tmp_path / "kb")


@pytest.fixture(scope="module")
def full(tmp_path_factory):
    """With attributes and vectors; nothing in it is changed."""
    folder = tmp_path_factory.mktemp("full")
    records = described(folder / "r", [*TEXTS, "a blue cat", "a red 猫"])
    return KnowledgeBase.build(records, folder / "kb", dense=dense(), encoder=LetterEncoder())


def test_finds_by_caption(base):
    ids, scores = base.search(["the red bird", "zebra"], 3)
    assert ids.tolist() == [[3, 0, 2], [-1, -1, -1]]
    assert scores[0, 0] > scores[0, 1] >= scores[0, 2] > 0
    assert base.records[3].text == "a red bird"
    assert len(base) == 4


def test_reopened_finds_the_same(base):
    again = KnowledgeBase.open(base.path)
    assert again.fingerprint == base.fingerprint
    assert again.search(TEXTS, 2)[0].tolist() == base.search(TEXTS, 2)[0].tolist()


def test_moves_together_with_its_records(base, tmp_path):
    shutil.copytree(tmp_path, tmp_path.parent / f"{tmp_path.name}_moved")
    moved = KnowledgeBase.open(tmp_path.parent / f"{tmp_path.name}_moved" / "kb")
    assert moved.fingerprint == base.fingerprint
    assert moved.records.path.parent == moved.path.parent.resolve()


def test_settings_make_another_fingerprint(base, tmp_path):
    others = [
        KnowledgeBase.build(base.records, tmp_path / "k1", k1=1.6),
        KnowledgeBase.build(base.records, tmp_path / "stem", analyser=Analyser(stemming="english")),
        KnowledgeBase.build(base.records, tmp_path / "stop", analyser=Analyser(stop_words=("zebra",))),
    ]
    assert len({other.fingerprint for other in [base, *others]}) == 4


# ---- filters, bans, pins


@pytest.mark.parametrize("method", METHODS)
def test_only_what_the_conditions_leave(full, method):
    found = full.search(["a red cat"], 6, method=method, where=Where.parse(["colour=red"]))[0]
    assert set(found[0].tolist()) == {0, 3, 5, -1}
    found = full.search(["a red cat"], 6, method=method, where=Where.parse(["colour=blue", "words=cat"]))[0]
    assert found[0].tolist() == [4, -1, -1, -1, -1, -1]


@pytest.mark.parametrize("method", METHODS[:2])
def test_filters_are_searches_among_fewer(full, method):
    """A filter leaves scores and order as they are; only fewer are there."""
    everything, scores = full.search(["a red cat by the blue"], 6, method=method)
    kept = np.isin(everything[0], [0, 3, 5])
    ids, few = full.search(["a red cat by the blue"], 6, method=method, where=Where.parse(["colour=red"]))
    assert ids[0].tolist() == [*everything[0][kept].tolist(), -1, -1, -1]
    np.testing.assert_array_equal(few[0, :3], scores[0][kept])


@settings(max_examples=20, deadline=None)
@given(st.sets(st.sampled_from(["colour=red", "colour=blue", "size.letters=9", "words=a", "words=cat"]), max_size=3))
def test_inverted_attributes_equal_the_filter(full, conditions):
    where = Where.parse(sorted(conditions))
    expected = [i for i, record in enumerate(full.records) if where(record.attributes)]
    found = full.search(["a"], 6, where=where)[0][0]
    assert sorted(found[found >= 0].tolist()) == expected


@pytest.mark.parametrize(
    ("condition", "said"),
    [("size=3", r"size is, for example"), ("colour=rde", "for example, red"), ("shape=round", "but colour, size")],
)
def test_conditions_that_nothing_fits(full, condition, said):
    with pytest.raises(UserError, match=said):
        full.search(["a"], 2, where=Where.parse([condition]))


@pytest.mark.parametrize("method", METHODS)
def test_banned_are_never_found_and_pinned_come_first(full, method):
    without = full.search(["a red cat"], 6, method=method, exclude=["k0", "k5"])[0]
    assert not {0, 5} & set(without[0].tolist())
    ids, scores = full.search(["a red cat", ""], 3, method=method, pin=["k2", "k1"], exclude=["k0"])
    assert ids[:, :2].tolist() == [[2, 1]] * 2
    assert np.isnan(scores[:, :2]).all()
    assert ids[0, 2] not in (0, 1, 2)
    assert ids[1, 2] == -1


def test_keys_that_are_not_there(full):
    with pytest.raises(UserError, match=r"no record with the key 'k00'.*did you mean k0"):
        full.search(["a"], 2, exclude=["k00"])
    with pytest.raises(UserError, match=r"no record with the key 'elsewhere'.*such as k0"):
        full.search(["a"], 2, pin=["elsewhere"])
    with pytest.raises(UserError, match="k is 1: at least 2"):
        full.search(["a"], 1, pin=["k0", "k1"])


# ---- vectors, both


def test_by_vectors(full):
    ids, scores = full.search(["dolb eug a", "a red 猫"], 2, method="dense")
    assert ids[0, 0] == 1  # the same letters
    np.testing.assert_allclose(scores[0, 0], 1, rtol=1e-6)
    vectors = LetterEncoder().texts([TEXTS[0], "a red cat too"])
    cosine = vectors[0] @ vectors[1] / np.linalg.norm(vectors[0]) / np.linalg.norm(vectors[1])
    ids, scores = full.search(["a red cat too"], 6, method="dense")
    np.testing.assert_allclose(scores[0][ids[0] == 0], cosine, rtol=1e-5)


def test_vectors_of_images(tmp_path):
    records, encoder = records_of(tmp_path / "r", TEXTS), LetterEncoder()
    base = KnowledgeBase.build(records, tmp_path / "kb", dense=dense(of="image"), encoder=encoder)
    assert base.manifest["dense"]["of"] == "image"
    assert base.manifest["dense"]["recall"]["share"] == 1.0
    assert base.vectors.vectors.shape == (4, 26)
    assert not (base.path / "encoded.npy").exists()


def test_hybrid_by_rank_is_its_formula(full):
    query, fusion = "a red cat", Fusion("reciprocal", dense_weight=0.25, constant=10.0)
    by_words = full.search([query], 6)[0][0].tolist()
    by_vectors = full.search([query], 6, method="dense")[0][0].tolist()
    ids, scores = full.search([query], 6, method="hybrid", fusion=fusion)
    for n, score in zip(ids[0], scores[0], strict=True):
        expected = 0.75 / (11 + by_words.index(n)) + 0.25 / (11 + by_vectors.index(n))
        np.testing.assert_allclose(score, expected, rtol=1e-6)
    assert (np.diff(scores[0]) <= 0).all()


def test_hybrid_by_score_is_its_formula(full):
    query, fusion = "red 猫 bird", Fusion("weighted", dense_weight=0.3)
    words, vectors = (
        dict(zip(*(x[0].tolist() for x in full.search([query], 6, method=m)), strict=True)) for m in METHODS[:2]
    )
    ids, scores = full.search([query], 6, method="hybrid", fusion=fusion)
    for n, score in zip(ids[0].tolist(), scores[0], strict=True):
        expected = 0.3 * vectors[n] + 0.7 * words.get(n, 0) / max(words.values())
        np.testing.assert_allclose(score, expected, rtol=1e-5)


@pytest.mark.parametrize(("weight", "method"), [(0.0, "lexical"), (1.0, "dense")])
def test_hybrid_with_all_weight_on_one_side(full, weight, method):
    hybrid = full.search(["red bird"], 3, method="hybrid", fusion=Fusion("weighted", dense_weight=weight))[0]
    assert hybrid.tolist() == full.search(["red bird"], 3, method=method)[0].tolist()


def test_the_encoder_has_to_be_the_same(full):
    other = LetterEncoder()
    other.fingerprint = "others"
    with pytest.raises(UserError, match=r"another encoder \(letters\)"):
        KnowledgeBase.open(full.path, encoder=other).search(["a"], 1, method="dense")


@pytest.mark.parametrize("method", ["dense", "hybrid"])
def test_without_vectors(base, method):
    with pytest.raises(UserError, match=r"no vectors.*--encoder"):
        base.search(["a"], 1, method=method)


# ---- explanations


def test_explanations_add_up(full):
    query = "red red cat zebra"
    ids, scores = full.search([query], 3)
    told = full.explain(query, int(ids[0, 0]))
    np.testing.assert_allclose([told.score, sum(m.score for m in told.matches)], scores[0, 0], rtol=1e-6)
    assert [(m.word, m.in_query, m.in_document, m.documents) for m in told.matches] == [
        ("red", 2, 1, 3),
        ("cat", 1, 1, 2),
    ]
    assert told.unknown == ("zebra",)
    assert any("in no caption: zebra" in line for line in told.lines())


@pytest.mark.parametrize("fusion", [Fusion(), Fusion("weighted")])
def test_explanations_of_both(full, fusion):
    query = "a red cat"
    ids, scores = full.search([query], 6, method="hybrid", fusion=fusion)
    for n, score in zip(ids[0].tolist(), scores[0], strict=True):
        told = full.explain(query, n, method="hybrid", fusion=fusion)
        np.testing.assert_allclose(told.score, score, rtol=1e-5)
    assert told.ranks == (6.0, 6.0) or all(rank >= 1 for rank in told.ranks)
    assert "cosine" in "".join(told.lines())
    assert full.explain(query, 0, method="dense").lexical is None


# ---- bad input


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(queries=ANY_QUERIES, k=st.integers(1, 9), method=st.sampled_from(METHODS))
def test_any_query_finds_records_or_nothing(full, queries, k, method):
    ids, scores = full.search(queries, k, method=method)
    assert (ids.shape, ids.dtype) == ((len(queries), k), np.int32)
    assert (scores.shape, scores.dtype) == ((len(queries), k), np.float32)
    assert ids.min(initial=-1) >= -1
    assert ids.max(initial=-1) < len(full)
    assert np.isfinite(scores).all()
    assert (scores[ids < 0] == 0).all()
    for query, found in zip(queries, ids, strict=True):
        assert len(set(found[found >= 0].tolist())) == (found >= 0).sum() <= len(full)
        if not query.strip():
            assert (found == -1).all()


@settings(max_examples=8, deadline=None)
@given(st.lists(st.text(min_size=1), min_size=1, max_size=5))
def test_any_caption_is_found_by_itself(tmp_path_factory, texts):
    texts = [text.encode("utf-8", "ignore").decode() for text in texts]
    folder = tmp_path_factory.mktemp("any")
    base = KnowledgeBase.build(records_of(folder / "r", [*texts, "a"]), folder / "kb")
    base.verify()
    ids, scores = base.search(texts, len(texts) + 1)
    for i, text in enumerate(texts):
        if Analyser()(text):
            assert i in ids[i].tolist()
            assert scores[i][ids[i] == i] > 0


def test_k_larger_than_the_base_and_k_below_one(full):
    ids, _ = full.search(["a red cat"], 50)
    assert ids.shape == (1, 50)
    assert (ids >= 0).sum() == 6
    for k in (0, -1):
        with pytest.raises(UserError, match=f"k is {k}"):
            full.search(["a"], k)


def test_no_queries_and_wrong_queries(full):
    assert full.search([], 2)[0].shape == (0, 2)
    with pytest.raises(UserError, match="list of texts"):
        full.search("a red cat", 2)
    with pytest.raises(UserError, match="list of texts"):
        full.search([None], 2)
    with pytest.raises(UserError, match="no search method 'magic'"):
        full.search(["a"], 2, method="magic")


def test_records_gone(base, tmp_path):
    shutil.rmtree(tmp_path / "r")
    with pytest.raises(UserError, match=r"gone.*reimagen index"):
        KnowledgeBase.open(base.path)


def test_other_records_in_their_place(base, tmp_path):
    shutil.rmtree(tmp_path / "r")
    records_of(tmp_path / "r", TEXTS[::-1])
    with pytest.raises(UserError, match=r"other records.*reimagen index"):
        KnowledgeBase.open(base.path)


def test_another_version_of_the_analyser(base):
    change_manifest(base.path, analyser=Analyser().fields() | {"version": VERSION + 1})
    with pytest.raises(UserError, match=rf"kb was made by version {VERSION + 1} of the analyser"):
        KnowledgeBase.open(base.path)


def test_what_was_measured_is_there_as_a_whole(full, tmp_path):
    shutil.copytree(full.path.parent, tmp_path, dirs_exist_ok=True)
    told = {name: value for name, value in full.manifest["dense"]["recall"].items() if name != "queries"}
    change_manifest(tmp_path / "kb", dense=full.manifest["dense"] | {"recall": told})
    with pytest.raises(UserError, match=r"manifest\.json\.dense\.recall\.queries is missing"):
        KnowledgeBase.open(tmp_path / "kb")


@pytest.mark.parametrize("name", ["captions.starts.npy", "captions.terms.json", "keys.json"])
def test_a_file_missing_or_cut(base, name):
    content = (base.path / name).read_bytes()
    (base.path / name).write_bytes(content[:-1])
    with pytest.raises(UserError, match=f"{name} has"):
        KnowledgeBase.open(base.path)
    (base.path / name).unlink()
    with pytest.raises(UserError, match=f"{name} is missing"):
        KnowledgeBase.open(base.path)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_damage_is_never_a_crash(full, tmp_path_factory, data):
    """Bytes overwritten anywhere are told by the checksums; where these fit, a search stays within the base."""
    path = tmp_path_factory.mktemp("damaged") / "kb"
    shutil.copytree(full.path, path)
    names = sorted(each.name for each in path.iterdir() if each.name != NAME and each.stat().st_size)
    victim = path / data.draw(st.sampled_from([n for n in names if not n.startswith(".")]))
    content = bytearray(victim.read_bytes())
    place = data.draw(st.integers(0, len(content) - 1))
    content[place : place + 4] = data.draw(st.binary(min_size=4, max_size=4))[: len(content) - place]
    if bytes(content) == victim.read_bytes():
        return
    victim.write_bytes(content)
    manifest = json.loads((path / NAME).read_text())
    manifest["parts"][0]["records"] = str(full.records.path)
    (path / NAME).write_text(json.dumps(manifest))
    with pytest.raises(UserError, match=victim.name):
        KnowledgeBase.open(path, encoder=LetterEncoder()).verify()
    manifest["files"][victim.name]["sha256"] = hashlib.sha256(content).hexdigest()
    (path / NAME).write_text(json.dumps(manifest))
    for method in METHODS:
        try:
            damaged = KnowledgeBase.open(path, encoder=LetterEncoder())
            ids, _ = damaged.search(["a red cat"], 4, method=method, where=Where.parse(["colour=red"]), exclude=["k1"])
        except UserError:
            continue
        assert -1 <= ids.min() <= ids.max() < len(full)


@pytest.mark.parametrize(
    "content", ["", "{", "[]", "{}", '{"kind": "triples"}', '{"kind": "knowledge base", "version": 2}']
)
def test_a_manifest_of_something_else(base, content):
    (base.path / NAME).write_text(content)
    with pytest.raises(UserError, match=r"manifest|kb"):
        KnowledgeBase.open(base.path)


@pytest.mark.parametrize("field", ["parts", "k1", "analyser", "count"])
def test_a_manifest_that_lacks_something(base, field):
    manifest = json.loads((base.path / NAME).read_text())
    del manifest[field]
    (base.path / NAME).write_text(json.dumps(manifest))
    with pytest.raises(UserError, match=r"damaged.*reimagen index"):
        KnowledgeBase.open(base.path)


def test_a_folder_of_something_else(tmp_path):
    with pytest.raises(UserError, match="not found"):
        KnowledgeBase.open(tmp_path / "nowhere")
    with pytest.raises(UserError, match="no knowledge base"):
        KnowledgeBase.open(tmp_path)
    with pytest.raises(UserError, match="holds records, not a knowledge base"):
        KnowledgeBase.open(records_of(tmp_path / "r", TEXTS).path)


def test_captions_without_words(tmp_path):
    with pytest.raises(UserError, match="no text has a word"):
        KnowledgeBase.build(records_of(tmp_path / "r", ["🐶", "🐱"]), tmp_path / "kb")
    assert not (tmp_path / "kb").exists()


@pytest.mark.parametrize("settings", [{"k1": 0}, {"k1": -1}, {"b": 1.5}, {"b": float("nan")}])
def test_settings_out_of_range(tmp_path, settings):
    with pytest.raises(UserError, match=r"BM25: (k1|b) is .* is needed"):
        KnowledgeBase.build(records_of(tmp_path / "r", TEXTS), tmp_path / "kb", **settings)


# ---- bases of format 1


def test_bases_of_format_1_are_read_as_they_were_made(tmp_path):
    texts = ["a red cat", "a red 東京タワー", "القِطَّة", "a red bird", "東京タワー"]
    records = records_of(tmp_path / "r", texts)
    old, new = (
        KnowledgeBase.open(write_version_1(records, tmp_path / "old")),
        KnowledgeBase.build(records, tmp_path / "new"),
    )
    assert old.lexical.analyser == Analyser(version=1)
    for query in ("a red cat", "東京タワー", "القِطَّة", "zebra"):
        truth = [i for i, text in enumerate(texts) if set(words_1(query)) & set(words_1(text))]
        found = old.search([query], 5)[0][0]
        assert sorted(found[found >= 0].tolist()) == truth
    assert old.search(["東京"], 5)[0].max() == -1
    assert sorted(new.search(["東京"], 5)[0][0].tolist()) == [-1, -1, -1, 1, 4]
    ascii_only = records_of(tmp_path / "r2", TEXTS)
    old = KnowledgeBase.open(write_version_1(ascii_only, tmp_path / "old2"))
    new = KnowledgeBase.build(ascii_only, tmp_path / "new2", k1=1.5)
    for mine, theirs in zip(new.search([*TEXTS, "bird a a"], 4), old.search([*TEXTS, "bird a a"], 4), strict=True):
        np.testing.assert_allclose(mine, theirs, rtol=1e-5)
    old.verify()
    assert old.search(["a"], 4, exclude=["k1"])[0].tolist() == [[0, 2, 3, -1]]
    assert old.explain("red cat", 0).matches[0].word == "cat"
