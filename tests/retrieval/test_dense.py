"""Dense indexes: cosine and nothing else, ties by id, never fewer hits than there are, and recall as it is."""

import json
import sys

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from reimagen_jax.errors import UserError
from reimagen_jax.retrieval import dense, ivf, tiled
from tests.retrieval.vectors import clustered, plain

KINDS = ("exact", "approx", "faiss")
ROWS, ASKED = clustered(500, 16), clustered(9, 16, seed=1)


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """An index of `ROWS` of each kind."""
    made = {kind: tmp_path_factory.mktemp(kind) for kind in KINDS}
    for kind, folder in made.items():
        dense.build(ROWS, folder, kind=kind)
    return made


@pytest.fixture
def one_probe(monkeypatch):
    """faiss's lists read as few cells as they can."""
    monkeypatch.setattr(ivf, "AIM", 0.0)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("k", [1, 10])
def test_hits_are_those_of_a_plain_search(folders, kind, k):
    ids, scores = dense.load(folders[kind]).search(ASKED, k)
    expected_ids, expected = plain(ROWS, ASKED, k)
    assert ids.dtype == np.int32 and scores.dtype == np.float32
    if kind == "faiss":  # may miss some; what it has is scored and ordered right
        assert (ids == expected_ids).mean() > 0.8
        expected = np.take_along_axis(plain(ROWS, ASKED, len(ROWS))[1], rank_of(ids), axis=1)
    else:
        assert np.array_equal(ids, expected_ids)
    np.testing.assert_allclose(scores, expected, atol=1e-6)


def rank_of(ids):
    """Where in the order of all rows the rows found are."""
    order, _ = plain(ROWS, ASKED, len(ROWS))
    return np.argsort(order, axis=1)[np.arange(len(ids))[:, None], ids]


@pytest.mark.parametrize("kind", KINDS)
def test_a_score_depends_on_two_vectors_alone(folders, kind):
    index = dense.load(folders[kind])
    ids, scores = index.search(ASKED, 10)
    for i in (0, 5):
        alone_ids, alone = index.search(ASKED[i : i + 1] * 7.0, 10)
        assert np.array_equal(alone_ids[0], ids[i])
        np.testing.assert_allclose(alone[0], scores[i], rtol=2e-7)
    assert np.array_equal(index.scores(ASKED, ids), scores)
    others = dense.load(folders["exact"]).scores(ASKED, ids)
    assert np.array_equal(others, scores)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("share", [0.5, 0.02, 0.0])
def test_only_what_is_allowed_is_found_and_all_of_it(folders, kind, share, monkeypatch):
    monkeypatch.setattr(dense, "FEW", 20)  # so that a filter is left to the kind itself, too
    allowed = np.random.default_rng(0).random(len(ROWS)) < share
    ids, scores = dense.load(folders[kind]).search(ASKED, 40, allowed)
    assert allowed[ids[ids >= 0]].all()
    assert ((ids >= 0).sum(axis=1) == min(40, allowed.sum())).all()
    assert (scores[ids < 0] == 0).all()
    if kind != "faiss":
        assert np.array_equal(ids, plain(ROWS, ASKED, 40, allowed)[0])


def test_never_fewer_than_there_are_even_where_one_cell_is_read(one_probe, tmp_path):
    assert dense.build(ROWS, tmp_path, kind="faiss")["faiss"]["probes"] == 1
    ids, _ = dense.load(tmp_path).search(ASKED, 499)
    assert (ids >= 0).all()
    assert all(len(set(row)) == 499 for row in ids)


@pytest.mark.parametrize("kind", KINDS)
def test_equal_vectors_come_in_the_order_of_their_ids(kind, tmp_path):
    dense.build(np.tile(np.eye(8, dtype=np.float32), (40, 1)), tmp_path, kind=kind)
    ids, scores = dense.load(tmp_path).search(3.0 * np.eye(8, dtype=np.float32), 5)
    assert np.array_equal(ids, np.arange(5)[None] * 8 + np.arange(8)[:, None])
    assert (scores == 1.0).all()


@settings(max_examples=15, deadline=None)
@given(
    rows=arrays(np.float32, st.tuples(st.integers(1, 20), st.just(3)), elements=st.integers(-3, 3).map(float)),
    k=st.integers(1, 30),
)
def test_any_vectors(rows, k, tmp_path_factory):
    rows = rows[(rows != 0).any(axis=1)]
    folder = tmp_path_factory.mktemp("any")
    if not len(rows):
        with pytest.raises(UserError, match="no base"):
            dense.build(rows, folder)
        return
    dense.build(rows, folder)
    ids, scores = dense.load(folder).search(rows, k)
    np.testing.assert_allclose(scores, plain(rows, rows, k)[1], atol=1e-6)
    assert ((ids >= 0).sum(axis=1) == min(k, len(rows))).all()
    assert all(len(set(row[row >= 0])) == min(k, len(rows)) for row in ids)
    better, tied = scores[:, :-1] > scores[:, 1:], scores[:, :-1] == scores[:, 1:]
    assert (better | (tied & (ids[:, :-1] < ids[:, 1:])) | (ids[:, 1:] < 0)).all()


# -- recall


@pytest.mark.parametrize("kind", KINDS)
def test_recall_is_measured_and_noted(folders, kind):
    noted = json.loads((folders[kind] / dense.SETTINGS).read_text())["recall"]
    assert noted["k"] == 10 and noted["queries"] == 250
    assert noted["share"] == 1.0 if kind == "exact" else noted["share"] > 0.9
    assert dense.load(folders[kind]).measure() == noted


def test_recall_tells_what_is_missed(one_probe, tmp_path):
    """Of noise, one cell of seven holds few of a vector's neighbours: the figure says how many, to a few percent."""
    rows = np.random.default_rng(0).standard_normal((500, 16)).astype(np.float32)
    noted = dense.build(rows, tmp_path, kind="faiss")["recall"]["share"]
    ids, _ = dense.load(tmp_path).search(rows, 11)
    expected, _ = plain(rows, rows, 11)
    others = [(set(a) - {i}, set(b) - {i}) for i, (a, b) in enumerate(zip(ids, expected, strict=True))]
    true = np.mean([len(a & b) / 10 for a, b in others])
    assert 0.1 < true < 0.95
    assert abs(noted - true) < 0.06


def test_recall_is_that_of_the_queries_given(tmp_path):
    """Queries from elsewhere need more cells than the vectors themselves do; so the examples given count, and last."""
    elsewhere, probes = clustered(200, 16, seed=5, centres=1), {}
    for name, queries in (("own", None), ("given", elsewhere)):
        (tmp_path / name).mkdir()
        probes[name] = dense.build(ROWS, tmp_path / name, kind="faiss", queries=queries)["faiss"]["probes"]
    assert probes["given"] > probes["own"]
    index = dense.load(tmp_path / "given")
    assert len(index.queries) == 200 and index.settings["recall"]["queries"] == 100
    ids, _ = index.search(elsewhere, 10)
    expected, _ = plain(ROWS, elsewhere, 10)
    assert np.mean([len(set(a) & set(b)) / 10 for a, b in zip(ids, expected, strict=True)]) > ivf.AIM - 0.05
    assert dense.load(tmp_path / "own").queries is None


def test_more_cells_are_read_until_enough_is_found(monkeypatch, tmp_path):
    shares = []
    for aim in (0.0, 0.999):
        monkeypatch.setattr(ivf, "AIM", aim)
        (tmp_path / str(aim)).mkdir()
        built = dense.build(ROWS, tmp_path / str(aim), kind="faiss")
        shares.append((built["faiss"]["probes"], built["recall"]["share"]))
    (few, low), (many, high) = shares
    assert few < many and low < high


def test_product_quantisation(monkeypatch, tmp_path):
    """What bases of millions are kept as, on few rows."""
    monkeypatch.setattr(ivf, "PRODUCT_FROM", 1)
    built = dense.build(ROWS[:, :4], tmp_path, kind="faiss")
    assert built["faiss"]["recipe"] == "IVF7,PQ1x8"
    assert built["recall"]["share"] > 0.8


# -- building


def test_the_same_index_in_one_part_or_several(tmp_path):
    for name, parts in (("whole", ROWS), ("parts", [ROWS[:100], ROWS[100:100], ROWS[100:]])):
        (tmp_path / name).mkdir()
        dense.build(parts, tmp_path / name)
    assert len({(tmp_path / name / dense.VECTORS).read_bytes() for name in ("whole", "parts")}) == 1


def test_vectors_of_an_index_stay_as_they_are_in_the_next(folders, tmp_path):
    old = dense.load(folders["exact"])
    dense.build([old.vectors[10:], ROWS[:10]], tmp_path)
    new = dense.load(tmp_path)
    assert np.array_equal(new.vectors[:490], old.vectors[10:])
    assert np.array_equal(new.vectors[490:], old.vectors[:10])
    np.testing.assert_allclose(np.linalg.norm(new.vectors, axis=1), 1.0, atol=1e-6)


def test_vectors_are_memory_mapped(folders):
    assert isinstance(dense.load(folders["exact"]).vectors, np.memmap)


def test_built_again_it_is_the_same(folders, tmp_path):
    dense.build(ROWS, tmp_path, kind="faiss")
    for name in (dense.SETTINGS, dense.VECTORS, dense.LISTS):
        assert (tmp_path / name).read_bytes() == (folders["faiss"] / name).read_bytes()


@pytest.mark.parametrize("kind", KINDS)
def test_a_single_vector(kind, tmp_path):
    built = dense.build(np.full((1, 4), 2.0, np.float32), tmp_path, kind=kind)
    ids, scores = dense.load(tmp_path).search(np.ones((1, 4), np.float32), 3)
    assert ids.tolist() == [[0, -1, -1]]
    np.testing.assert_allclose(scores, [[1.0, 0, 0]], atol=1e-6)
    assert built["recall"]["k"] == 0


# -- bad input


@pytest.mark.parametrize("value", [np.nan, np.inf, 0.0])
def test_vectors_that_are_none(value, tmp_path):
    rows = ROWS.copy()
    rows[123] = value
    with pytest.raises(UserError, match=r"vector 123 (is not finite|has length 0)"):
        dense.build([rows[:100], rows[100:]], tmp_path)


@pytest.mark.parametrize(
    "parts", [[], [np.zeros((0, 4), np.float32)], [np.ones((2, 4)), np.ones((2, 5))], [np.ones(4)]]
)
def test_shapes_that_are_no_base(parts, tmp_path):
    with pytest.raises(UserError, match="no base"):
        dense.build(parts, tmp_path)


def test_an_unknown_kind(tmp_path):
    with pytest.raises(UserError, match="exact, approx, faiss"):
        dense.build(ROWS, tmp_path, kind="annoy")


def test_queries_that_are_none(folders):
    index = dense.load(folders["exact"])
    ids, scores = index.search(np.zeros((2, 16), np.float32), 3)
    assert (ids == -1).all() and (scores == 0).all()
    assert index.search(np.zeros((0, 16), np.float32), 3)[0].shape == (0, 3)
    with pytest.raises(UserError, match="query 1 is not finite"):
        index.search(np.array([[1.0] * 16, [np.nan] * 16], np.float32), 3)
    with pytest.raises(UserError, match=r"vectors of 16 values.*another encoder"):
        index.search(np.zeros((2, 4), np.float32), 3)
    with pytest.raises(ValueError, match="at least 1"):
        index.search(ASKED, 0)


def test_missing_damaged_and_foreign(folders, tmp_path):
    with pytest.raises(UserError, match=r"dense\.json not found"):
        dense.load(tmp_path)
    settings = json.loads((folders["exact"] / dense.SETTINGS).read_text())
    (tmp_path / dense.SETTINGS).write_text(json.dumps(settings))
    (tmp_path / dense.VECTORS).write_bytes(b"nothing")
    with pytest.raises(UserError, match=r"vectors\.npy cannot be read.*reimagen index"):
        dense.load(tmp_path)
    np.save(tmp_path / dense.VECTORS, ROWS[:10])
    with pytest.raises(UserError, match=r"not what dense\.json says"):
        dense.load(tmp_path)
    (tmp_path / dense.SETTINGS).write_text(json.dumps(settings | {"format": 99}))
    with pytest.raises(UserError, match="format 99"):
        dense.load(tmp_path)


def test_lists_that_faiss_cannot_read(folders, tmp_path):
    (tmp_path / "lists").write_bytes((folders["faiss"] / dense.LISTS).read_bytes()[:200])
    with pytest.raises(UserError, match="cannot be read by faiss"):
        ivf.Lists(tmp_path / "lists", 1)


def test_faiss_not_installed(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "faiss", None)
    with pytest.raises(UserError, match=r"pip install 'reimagen_jax\[faiss\]'"):
        dense.build(ROWS, tmp_path, kind="faiss")


def test_the_base_is_spread_over_all_devices(folders):
    index = dense.load(folders["approx"])
    assert isinstance(index.finder, tiled.Resident)
    assert len(index.finder._row_NTD.sharding.device_set) == len(jax.devices()) == 8


def test_cells_that_name_rows_which_are_not_there_are_refused(tmp_path, monkeypatch):
    dense.build(ROWS, tmp_path, kind="faiss")
    index = dense.load(tmp_path)
    ids = np.full((1, 8), len(ROWS) + 3000, np.int32)  # as a bit that has changed in faiss's file gives them
    monkeypatch.setattr(index.finder, "search", lambda *_: ids)
    with pytest.raises(UserError, match=r"finds row .*, but has .*damaged, build it again"):
        index.search(ROWS[:1], 2)
