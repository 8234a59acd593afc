"""Neighbours: retrieved, pinned by key, or read from a file; what cannot be one is refused by name."""

import math

import numpy as np
import pytest
from PIL import Image

from reimagen_jax.data.images import decode
from reimagen_jax.data.records import write_records
from reimagen_jax.errors import UserError
from reimagen_jax.inference.requests import from_file, pinned, retrieve
from reimagen_jax.retrieval.knowledge_base import KnowledgeBase
from tests.samples import encoded, example, picture, records_of


@pytest.fixture
def base(tmp_path):
    """Records of two sources: k0 "red cat", k1 "red dog", k2 "zebra", and another k0, "red bird"."""
    first = records_of(tmp_path / "first", ["red cat", "red dog", "zebra"], source="first")
    second = write_records([example(7, "red bird", key="k0")], tmp_path / "second", source="second")
    return KnowledgeBase.build([first, second], tmp_path / "index")


def named(hits):
    return [(hit.source, hit.key) for hit in hits]


def test_retrieved_are_named_by_source_and_key(base):
    cats, zebras, nothing = retrieve(base, ["red cat", "zebra", "xyzzy"], 2, 8)
    assert named(cats)[0] == ("first", "k0") and len(cats) == 2 and cats[0].score > cats[1].score > 0
    assert (named(zebras), nothing) == ([("first", "k2")], ())
    np.testing.assert_array_equal(zebras[0].image, decode(encoded(picture(2)), 8))
    assert retrieve(base, ["red cat"], 0, 8) == [()]


def test_banned_keys_are_not_found_and_others_take_their_place(base):
    (hits,) = retrieve(base, ["red cat"], 3, 8, ban=["k0"])
    assert named(hits) == [("first", "k1")]
    with pytest.raises(UserError, match=r"no record with the key 'k9'"):
        retrieve(base, ["red cat"], 3, 8, ban=["k9"])


def test_pinned_keys_are_read_in_their_order(base):
    hits = pinned(base, ["k2", "k0", "k2"], 8)
    assert named(hits) == [("first", "k2"), ("first", "k0"), ("second", "k0")]
    assert all(math.isnan(hit.score) for hit in hits)
    with pytest.raises(UserError, match=r"no record with the key 'K2'"):
        pinned(base, ["K2"], 8)


def test_a_file_is_a_neighbour_at_any_resolution(tmp_path):
    image = picture(3, (20, 12))
    image.save(tmp_path / "a.png")
    hit = from_file(tmp_path / "a.png", "a cat", 8)
    assert (hit.key, hit.text, hit.source, hit.side) == ("a.png", "a cat", "", 12)
    assert math.isnan(hit.score)
    for side in (8, 16):
        np.testing.assert_array_equal(hit.at(side), decode(encoded(image), side))


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("none.png", "a cat", "cannot be read: No such file"),
        ("text.png", "a cat", "not an image"),
        ("cut.png", "a cat", "broken image"),
        ("good.png", " ", "empty caption"),
    ],
)
def test_what_is_no_neighbour_is_refused_by_the_files_name(tmp_path, name, text, message):
    whole = encoded(Image.new("RGB", (64, 64)), "BMP")
    (tmp_path / "text.png").write_text("words")
    (tmp_path / "cut.png").write_bytes(whole[:-2000])
    (tmp_path / "good.png").write_bytes(whole)
    with pytest.raises(UserError, match=rf"reference image .*{name}.*{message}"):
        from_file(tmp_path / name, text, 8)


def test_a_file_is_seen_as_viewers_show_it_and_never_read_without_end(tmp_path, monkeypatch):
    whole = encoded(picture(3, (20, 12)), "JPEG")
    (tmp_path / "a.jpg").write_bytes(whole[:-2])
    hit = from_file(tmp_path / "a.jpg", "a cat", 8)
    for side in (8, 16):
        np.testing.assert_array_equal(hit.at(side), decode(whole, side))
    monkeypatch.setattr("reimagen_jax.data.images.MAX_BYTES", 100)
    for path, said in ((tmp_path / "a.jpg", "oversized image: more than 100 bytes"), ("/dev/zero", "no regular file")):
        with pytest.raises(UserError, match=said):
            from_file(path, "a cat", 8)
