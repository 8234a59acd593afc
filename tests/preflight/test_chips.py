"""Slices of TPU chips: their names, sizes and links."""

import importlib.util
import os

import pytest

from reimagen_jax.errors import UserError
from reimagen_jax.preflight import chips
from reimagen_jax.preflight.chips import parse_slice, prepare_environment


def test_a_slice_is_named_as_gcloud_names_it():
    # v4 and v5p count cores, two a chip; v5e and v6e count chips.
    names = {"v4:4x4x4": "v4-128", "v5p:2x2x2": "v5p-16", "v5e:16x16": "v5litepod-256", "v6e:8x8": "v6e-64"}
    for name, accelerator in names.items():
        assert parse_slice(name).accelerator_type == accelerator
        assert parse_slice(name).name == name
    assert parse_slice("v4:4x4x4").size == 64


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("v4", "CHIP:SIDES"),
        ("v9:2x2", "v4, v5e, v5p, v6e"),
        ("v4:8x8", "3 sides"),
        ("v5e:2x2x2", "2 sides"),
        ("v5e:0x4", "2 sides"),
    ],
)
def test_what_is_no_slice_is_refused(name, says):
    with pytest.raises(UserError, match=says):
        parse_slice(name)


def test_bandwidth_is_that_of_the_links_towards_the_group():
    cube, link = parse_slice("v4:4x4x4"), parse_slice("v4:4x4x4").chip.link_bandwidth
    places = [(x, y, z) for x in range(4) for y in range(4) for z in range(4)]
    assert cube.bandwidth(places) == 6 * link  # three rings
    assert cube.bandwidth(places[:4]) == 2 * link  # one ring
    assert cube.bandwidth(places[:2]) == link  # two neighbours
    small = parse_slice("v4:2x2x1")
    assert small.bandwidth([(x, y, 0) for x in range(2) for y in range(2)]) == 2 * link  # sides of 2 do not close


def test_a_ring_of_v5e_needs_the_whole_pod():
    row = [(x, 0, 0) for x in range(16)]
    assert parse_slice("v5e:16x16").bandwidth(row) == 2 * parse_slice("v5e:8x8").bandwidth(row[:8])


def test_without_the_compiler_it_says_what_to_install(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r'pip install "jax\[tpu\]"'):
        prepare_environment(parse_slice("v4:2x2x1"))


def test_the_environment_names_the_slice(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object())
    monkeypatch.setattr(os, "environ", {})
    prepare_environment(parse_slice("v5e:4x4"))
    assert os.environ["TPU_ACCELERATOR_TYPE"] == "v5litepod-16"
    assert os.environ["JAX_PLATFORMS"] == "cpu"


def test_an_axis_that_cannot_be_laid_out_is_refused(monkeypatch):
    def refuse(*_):
        raise NotImplementedError

    monkeypatch.setattr(chips, "devices", lambda where: [])
    monkeypatch.setattr("reimagen_jax.sharding.make_mesh", refuse)
    with pytest.raises(UserError, match="choose one of 1, 4, 16, 64"):
        chips.mesh(parse_slice("v4:4x4x4"), 8)
