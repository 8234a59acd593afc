"""Knowledge bases: they find what the captions say, and refuse records that are not theirs."""

import shutil

import pytest

from reimagen_jax.errors import UserError
from reimagen_jax.retrieval.knowledge_base import KnowledgeBase
from tests.samples import records_of

TEXTS = ["a red cat", "a blue dog", "a green bird", "a red bird"]


@pytest.fixture
def base(tmp_path):
    return KnowledgeBase.build(records_of(tmp_path / "r", TEXTS), tmp_path / "kb")


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


def test_records_gone(base, tmp_path):
    shutil.rmtree(tmp_path / "r")
    with pytest.raises(UserError, match=r"gone.*reimagen index"):
        KnowledgeBase.open(base.path)


def test_other_records_in_their_place(base, tmp_path):
    shutil.rmtree(tmp_path / "r")
    records_of(tmp_path / "r", TEXTS[::-1])
    with pytest.raises(UserError, match=r"other records.*reimagen index"):
        KnowledgeBase.open(base.path)


def test_damaged_index(base):
    (base.path / "indptr.csc.index.npy").write_bytes(b"")
    with pytest.raises(UserError, match="indptr"):
        KnowledgeBase.open(base.path)


def test_captions_without_words(tmp_path):
    with pytest.raises(UserError, match="no text has a word"):
        KnowledgeBase.build(records_of(tmp_path / "r", ["🐶", "🐱"]), tmp_path / "kb")
    assert not (tmp_path / "kb").exists()
