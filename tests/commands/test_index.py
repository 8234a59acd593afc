"""`reimagen index` and `reimagen search`: what they print, what they write, and one clear line for what is wrong."""

import json

import numpy as np
import pytest
from PIL import Image

from reimagen_jax import cli
from reimagen_jax.retrieval.knowledge_base import KnowledgeBase
from tests.retrieval.bases import described, write_version_1
from tests.samples import picture, records_of

TEXTS = ["a red cat", "a blue dog", "a green bird", "a red bird"]


def run(*args):
    return cli.main([str(arg) for arg in args])


def fails(capsys, *args):
    """Runs a command that must fail; returns its one line."""
    capsys.readouterr()
    assert run(*args) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert error.count("\n") == 1
    return error


@pytest.fixture
def base(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    described(tmp_path / "r", TEXTS)
    assert run("index", "r", "--out", "kb") == 0
    return KnowledgeBase.open(tmp_path / "kb")


# ---- index


def test_settings_reach_the_base(base, tmp_path, capsys):
    (tmp_path / "common.txt").write_text("a\n\nbird\n")
    args = ("--stemming", "english", "--stop-words", "common.txt", "--k1", "1.7", "--b", "0.5")
    assert run("index", "r", "--out", "other", *args) == 0
    other = KnowledgeBase.open("other").lexical
    assert (other.k1, other.b, other.analyser.stemming, other.analyser.stop_words) == (
        1.7,
        0.5,
        "english",
        ("a", "bird"),
    )
    assert run("index", "r", "--out", "third", "--stop-words", "english") == 0
    assert "the" in KnowledgeBase.open("third").lexical.analyser.stop_words


def test_append_delete_merge_verify(base, tmp_path, capsys):
    described(tmp_path / "more", ["a pink cow"], first=4)
    assert run("index", "more", "--append-to", "kb") == 0
    assert "5 records in kb (+1)" in capsys.readouterr().out
    assert run("index", "kb", "--delete", "k0", "k1", "--out", "left") == 0
    assert run("index", "left", "--delete-where", "colour=green") == 0
    assert KnowledgeBase.open("left").keys() == ["k3", "k4"]
    assert run("index", "left", "kb", "--merge", "--out", "both") == 0
    assert "2 records were in several" in capsys.readouterr().out
    assert KnowledgeBase.open("both").keys() == ["k3", "k4", "k0", "k1", "k2"]
    assert run("index", "both", "--verify") == 0
    assert "is whole" in capsys.readouterr().out
    assert run("index", "r", "more", "--out", "two") == 0
    assert len(KnowledgeBase.open("two")) == 5


def test_stats(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    described(tmp_path / "r", [*TEXTS, "a red cat", "猫 猫 🐶"])
    records_of(tmp_path / "r2", ["🐶 !"], source="other", first_seed=0)
    assert run("index", "r", "r2", "--out", "kb") == 0
    capsys.readouterr()
    assert run("index", "kb", "--stats") == 0
    said = capsys.readouterr().out
    for expected in (
        "kb: 7 records",
        "6 from ",
        "analyser version 3, not stemmed, 0 stop words",
        "search by vectors: none",
        "captions: 6 different, 1 repeated, 1 without words; 0 to 3 (median 3, mean 2.4) words",
        "pictures: 6 different, 1 repeated; 0 records repeat both",
        "vocabulary: 8 words, 4 in one caption only",
        "a (71%), red (43%)",
        "colour: 4 values",
        "red (3), blue (1)",
        "size.letters: 4 values",
    ):
        assert expected in said, said


def test_stats_of_format_1(tmp_path, capsys):
    write_version_1(described(tmp_path / "r", TEXTS), tmp_path / "kb")
    assert run("index", tmp_path / "kb", "--stats") == 0
    said = capsys.readouterr().out
    assert "analyser version 1" in said
    assert "colour: 3 values" in said


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["r"], "--out DIR is needed"),
        (["kb", "--merge"], "--out DIR is needed"),
        (["kb", "--stats", "--verify"], "--stats and --verify are different"),
        (["kb", "--stats", "--k1", "2"], "--k1 is a setting of a new knowledge base"),
        (["r", "--append-to", "kb", "--stemming", "english"], "--stemming is a setting"),
        (["kb", "--stats", "--out", "x"], "--stats writes nothing"),
        (["kb", "kb", "--stats"], "one knowledge base at a time"),
        (["kb", "--delete", "k9"], "no record with the key 'k9'"),
        (["kb", "--delete-where", "licence"], "--delete-where 'licence' is not FIELD=VALUE"),
        (["r", "--append-to", "kb"], "'k0' of test twice"),
        (["r", "--out", "kb"], "--overwrite"),
        (["r", "--out", "x", "--stop-words", "nowhere.txt"], "nowhere.txt is neither"),
        (["r", "--out", "x", "--stemming", "klingon"], "no stemming for 'klingon'"),
        (["r", "--out", "x", "--vectors-of", "text"], "give an --encoder"),
        (["r", "--out", "x", "--encoder", "nowhere"], "nowhere"),
        (["kb", "--out", "x"], "holds a knowledge base, not records"),
    ],
)
def test_bad_requests_of_index(base, tmp_path, capsys, args, said):
    before = sorted(path.name for path in tmp_path.iterdir())
    assert said in fails(capsys, "index", *args)
    assert sorted(path.name for path in tmp_path.iterdir()) == before


# ---- search


def test_search_leaves_nothing_behind_that_was_not_asked_for(base, tmp_path):
    before = sorted(path.name for path in tmp_path.iterdir())
    assert run("search", "kb", "red") == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == before


def test_prints_hits_and_draws_them(base, capsys):
    capsys.readouterr()
    assert run("search", "kb", "the red bird", "Vogel", "--k", 3, "--sheet", "hits.png") == 0
    said = capsys.readouterr()
    rows = [line.split() for line in said.out.splitlines()]
    assert rows[0] == ["the", "red", "bird"]
    assert [row[-1] for row in rows[1:4]] == ["[k3]", "[k0]", "[k2]"]
    assert rows[1][2:5] == ["a", "red", "bird"]
    assert "nothing found: no caption has any of the words vogel" in said.out
    assert "hits.png" in said.err
    with Image.open("hits.png") as sheet:
        pixels = np.asarray(sheet.convert("RGB"))
    assert contains(pixels, np.asarray(picture(3).resize((160, 160), Image.Resampling.NEAREST)))
    assert not contains(pixels, np.asarray(picture(1).resize((160, 160), Image.Resampling.NEAREST)))


def contains(pixels: np.ndarray, image: np.ndarray) -> bool:
    """Whether an image stands somewhere in a picture."""
    side = image.shape[0]
    corners = np.argwhere((pixels == image[0, 0]).all(axis=-1))
    return any(np.array_equal(pixels[y : y + side, x : x + side], image) for y, x in corners)


def test_reasons_filters_bans_and_pins(base, capsys):
    capsys.readouterr()
    args = ("--where", "colour=red", "--where", "colour=blue", "--ban", "k0", "--pin", "k2", "--sheet", "None")
    assert run("search", "kb", "a red bird zebra", "--explain", *args) == 0
    out = capsys.readouterr().out
    hits = [line for line in out.splitlines() if line.endswith("]")]
    assert [hit.split()[-1] for hit in hits] == ["[k2]", "[k3]", "[k1]"]
    assert "pinned" in hits[0]
    assert "once in the caption, in 2 captions" in out
    assert "in no caption: zebra" in out


def test_what_no_record_matches_is_told_by_its_value(base, capsys):
    capsys.readouterr()
    assert run("search", "kb", "red", "pink", "--match", "colour", "--where", "colour=red", "--sheet", "None") == 0
    out = capsys.readouterr().out
    assert out.count("nothing found: no other record that --where leaves has colour=pink (--match)") == 1
    assert out.count("nothing found") == 1


def test_for_programs(base, capsys):
    capsys.readouterr()
    assert run("search", "kb", "red 猫", "--json", "--sheet", "None") == 0
    hits = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [(hit["rank"], hit["key"], hit["attributes"]["colour"]) for hit in hits] == [
        (1, "k0", "red"),
        (2, "k3", "red"),
    ]
    assert hits[0]["score"] > 0


def test_more_than_there_are(base, capsys):
    assert run("search", "kb", "a", "--k", 9, "--sheet", "None") == 0
    assert "has 4 records in all" in capsys.readouterr().err


def test_a_sheet_replaces_only_sheets(base, tmp_path, capsys):
    for _ in range(2):
        assert run("search", "kb", "red") == 0
    picture(0).save("mine.png")
    mine = (tmp_path / "mine.png").read_bytes()
    assert "not written by this command" in fails(capsys, "search", "kb", "red", "--sheet", "mine.png")
    assert (tmp_path / "mine.png").read_bytes() == mine
    assert "end in .png" in fails(capsys, "search", "kb", "red", "--sheet", "hits.jpg")


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["kb"], "nothing to look for"),
        (["kb", " "], "is empty"),
        (["kb", "red", "--k", "0"], "--k 0"),
        (["kb", "half \ud83d"], "not valid text"),
        (["kb", "red", "--ban", "k7"], "no record with the key 'k7'"),
        (["kb", "red", "--where", "colour=pink"], "no record has it"),
        (["kb", "red", "--where", "shape=round"], "no record has the field shape, but colour"),
        (["kb", "red", "--exclude-same", "colour"], "--exclude-same colour: a text has no fields"),
        (["kb", "red", "--pin", "k0", "--ban", "k0"], "k0 is given to --pin and to --ban"),
        (["kb", "red", "--method", "dense"], "no vectors"),
        (["kb", "red", "--dense-weight", "2"], "--dense-weight 2.0: at most 1"),
        (["r", "red"], "holds records, not a knowledge base"),
        (["nowhere", "red"], "nowhere not found"),
    ],
)
def test_bad_requests_of_search(base, tmp_path, capsys, args, said):
    assert said in fails(capsys, "search", *args)
    assert not (tmp_path / "search.png").exists()


@pytest.mark.parametrize(
    ("query", "said"),
    [
        ("brid", "brid: bird?"),
        ("...", "it has no word"),
        ("green", "no caption that --where leaves has any of the words green"),
    ],
)
def test_says_why_nothing_is_found(base, capsys, query, said):
    capsys.readouterr()
    assert run("search", "kb", query, "--where", "colour=red", "--sheet", "None") == 0
    assert said in capsys.readouterr().out


def test_no_filter_is_named_where_none_is_set(base, capsys, monkeypatch):
    """As where a base knows a word of which no record is left."""
    monkeypatch.setattr("reimagen_jax.retrieval.knowledge_base.KnowledgeBase.vocabulary", {"purple"})
    assert run("search", "kb", "purple", "--sheet", "None") == 0
    said = capsys.readouterr().out
    assert "no caption has any of the words purple" in said and "leave" not in said
