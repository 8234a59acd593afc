"""Tiled search is plain search: whatever the tiles, on one device or split over eight."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from reimagen_jax.retrieval import tiled
from tests.retrieval.vectors import clustered, plain


@pytest.fixture(autouse=True)
def small_tiles(monkeypatch):
    """So that a few hundred rows are many tiles."""
    monkeypatch.setattr(tiled, "ROWS", 16)
    monkeypatch.setattr(tiled, "QUERIES", 8)


def unit(row_ND):
    return row_ND / np.linalg.norm(row_ND, axis=1, keepdims=True)


ROWS, ASKED = unit(clustered(203, 8)), unit(clustered(11, 8, seed=1))
SOME = np.random.default_rng(2).random(len(ROWS)) < 0.3


WAYS = {
    "streamed": lambda rows: tiled.Streamed(rows),
    "on one device": lambda rows: tiled.Resident(rows, jax.devices()[:1], approximate=False),
    "on three devices": lambda rows: tiled.Resident(rows, jax.devices()[:3], approximate=False),
    "on eight devices": lambda rows: tiled.Resident(rows, approximate=False),
}
"""To search exactly."""


@pytest.mark.parametrize("way", WAYS)
def test_exact_search_is_plain_search(way):
    search = WAYS[way](ROWS)
    for allowed in (None, SOME, np.zeros(len(ROWS), bool)):
        expected, _ = plain(ROWS, ASKED, 20, allowed)
        assert np.array_equal(search.search(ASKED, 20, allowed), expected)


@pytest.mark.parametrize("way", ["streamed", "on eight devices"])
def test_more_wanted_than_there_are(way):
    found = WAYS[way](ROWS).search(ASKED[:2], 208)
    assert np.array_equal(np.sort(found[:, :203]), np.tile(np.arange(203), (2, 1)))
    assert (found[:, 203:] == -1).all()


@pytest.mark.parametrize("way", WAYS)
def test_equal_rows_come_in_the_order_of_their_ids(way):
    rows = np.tile(np.eye(4, dtype=np.float32), (50, 1))  # each direction 50 times, over all tiles and devices
    expected = np.arange(50)[None] * 4 + np.arange(4)[:, None]
    assert np.array_equal(WAYS[way](rows).search(np.eye(4, dtype=np.float32), 50), expected)


def test_approximate_search_over_eight_devices_finds_nearly_all():
    found = tiled.Resident(ROWS, approximate=True).search(ASKED, 20)
    expected, _ = plain(ROWS, ASKED, 10)
    recall = np.mean([len(set(a) & set(b)) / 10 for a, b in zip(found, expected, strict=True)])
    assert recall > 0.97  # bfloat16 changes the order a little


def test_approximate_search_respects_a_filter():
    found = tiled.Resident(ROWS, approximate=True).search(ASKED, 100, SOME)
    assert SOME[found[found >= 0]].all()
    assert ((found >= 0).sum(axis=1) == SOME.sum()).all()


def test_rows_lie_split_over_the_devices():
    search = tiled.Resident(ROWS, approximate=True)
    rows = search._row_NTD
    assert rows.dtype == jnp.bfloat16
    assert len(rows.addressable_shards) == 8
    assert {shard.data.shape[0] for shard in rows.addressable_shards} == {rows.shape[0] // 8}


def test_bins_are_those_of_the_whole_base_not_of_the_tile():
    text = str(
        jax.make_jaxpr(lambda *x: tiled.merge(*x, approximate_of=10**6))(
            tiled.nothing(2, 4), jnp.zeros((2, 8)), jnp.zeros((64, 8)), jnp.ones(64, bool), jnp.int32(0)
        )
    )
    assert "approx_top_k" in text
    assert "reduction_input_size_override=1000000" in text


def test_few_programs_for_many_numbers_of_queries():
    assert {len(block) for number in range(1, 30) for block in tiled._blocks(np.zeros((number, 2)))} == {8}


@pytest.mark.parametrize(
    ("platform", "room", "kept"), [("gpu", 10**6, True), ("gpu", 10**4, False), ("cpu", 10**6, False)]
)
def test_accelerators_keep_the_rows_where_they_have_room(platform, room, kept, monkeypatch):
    class Device:
        def memory_stats(self):
            return {"bytes_limit": room}

    Device.platform = platform
    monkeypatch.setattr(tiled.jax, "local_devices", lambda: [Device()])
    monkeypatch.setattr(tiled, "Resident", lambda *_, approximate: (approximate,))
    search = tiled.exact(ROWS)
    assert isinstance(search, tuple if kept else tiled.Streamed)
