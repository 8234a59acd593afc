"""Hosts of NVIDIA GPUs: their names, sizes and links; what is known of each card."""

import importlib.util
import os

import pytest

from reimagen_jax.errors import UserError
from reimagen_jax.preflight import gpus
from reimagen_jax.preflight.gpus import CARDS, parse_hosts, prepare_environment
from reimagen_jax.preflight.topology import parse_topology


@pytest.mark.parametrize(
    ("name", "hosts", "cards"), [("h100:8", 1, 8), ("h100:2x8", 2, 8), ("rtx4090:1", 1, 1), ("a100-80:4x2", 4, 2)]
)
def test_hosts_are_named_by_their_card_and_numbers(name, hosts, cards):
    where = parse_topology(name)
    assert (where.hosts, where.cards, where.size) == (hosts, cards, hosts * cards)
    assert where.name == name and where.platform == "cuda"


def test_one_host_is_named_without_its_number():
    assert parse_hosts("l4:1x4").name == "l4:4"


@pytest.mark.parametrize("name", ["h100", "h100:", "h100:0", "h100:0x8", "h100:2x2x2", "h100:-1"])
def test_what_is_no_number_of_cards_is_refused(name):
    with pytest.raises(UserError, match="h100:8 or h100:2x8"):
        parse_topology(name)


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("a100:8", "did you mean a100-80 or a100-40"),
        ("H100:8", "did you mean h100"),
        ("rtx4080:1", "did you mean rtx4090"),
        ("v5:2x2", "did you mean v5e or v5p"),
        ("nothing:1", "TPUs: v4, v5e, v5p, v6e; and GPUs: h100"),
        ("", "TPUs: v4"),
    ],
)
def test_an_unknown_card_is_refused_with_what_may_be_meant(name, says):
    with pytest.raises(UserError, match=says):
        parse_topology(name)


@pytest.mark.parametrize("card", CARDS.values(), ids=CARDS)
def test_what_is_known_of_a_card_is_whole(card):
    assert 0 < card.f32_flops <= card.tf32_flops < card.flops
    assert card.peak("bf16") == card.peak("f16") == card.flops
    assert (card.peak("f32"), card.peak("f32 highest")) == (card.tf32_flops, card.f32_flops)
    assert 2e10 < card.hbm < 2e11 and 0 < card.reserved < 0.06 * card.hbm
    # A step never needs the network more than the links, nor these more than the memory.
    assert 0 < card.hosts_bandwidth < card.link_bandwidth < card.hbm_bandwidth
    assert len(card.sources) >= 2 and all(card.sources) and card.link and card.hosts


@pytest.mark.parametrize(("name", "gib"), [("l4", 24), ("rtx4090", 24), ("a100-40", 40), ("a100-80", 80), ("h100", 80)])
def test_memory_is_a_little_less_than_what_the_box_says(name, gib):
    assert 0.9 * gib < CARDS[name].hbm / 2**30 < gib


def test_a_target_configuration_says_what_the_card_is():
    text = CARDS["l4"].target_config
    assert "core_count: 58 " in text and "major: 8 minor: 9" in text and 'device_description_str: "NVIDIA L4"' in text
    assert f"device_memory_size: {CARDS['l4'].hbm}" in text
    # A block may have all of a multiprocessor's shared memory but 1 KiB.
    assert "shared_memory_per_core: 102400" in text and "shared_memory_per_block_optin: 101376" in text
    assert text.count("{") == text.count("}") == 4


def test_bandwidth_is_that_of_the_slowest_way_between_a_groups_cards():
    where, card = parse_hosts("h100:2x8"), CARDS["h100"]
    places = [(host, card) for host in range(2) for card in range(8)]
    assert where.bandwidth(places[:8]) == where.bandwidth(places[:2]) == card.link_bandwidth
    assert where.bandwidth([(0, 3), (1, 3)]) == card.hosts_bandwidth  # one network card each
    assert where.bandwidth(places) == 8 * card.hosts_bandwidth < card.link_bandwidth  # eight network cards
    assert (where.way(places[:8]), where.way(places)) == ("by NVLink", "between hosts")
    assert parse_hosts("rtx4090:2").way(places[:2]) == "by PCIe"
    home = parse_hosts("l4:2x1")
    assert home.bandwidth([(0, 0), (1, 0)]) == CARDS["l4"].hosts_bandwidth


def test_devices_are_numbered_host_by_host():
    class Device:
        id = 11

    assert parse_hosts("h100:2x8").place(Device()) == (1, 3)


def test_any_divisor_can_share_the_parameters():
    assert parse_hosts("h100:2x6").axis_sizes == (1, 2, 3, 4, 6, 12)


def test_without_the_compiler_it_says_how_to_get_it(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError) as refused:
        prepare_environment(parse_hosts("h100:8"))
    assert "python -m venv cuda && cuda/bin/pip install '.[cuda]'" in str(refused.value)
    assert "cuda/bin/python" in str(refused.value) and "\n" not in str(refused.value)


@pytest.mark.parametrize("plugin", gpus.PLUGINS)
def test_the_environment_needs_no_gpu(monkeypatch, plugin):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object() if name == plugin else None)
    monkeypatch.setattr(os, "environ", {"XLA_FLAGS": "--xla_dump_to=x", "JAX_PLATFORMS": "cpu"})
    prepare_environment(parse_hosts("h100:8"))
    assert os.environ["JAX_PLATFORMS"] == "" and os.environ["JAX_SKIP_CUDA_CONSTRAINTS_CHECK"] == "1"
    assert os.environ["XLA_FLAGS"].split()[0] == "--xla_dump_to=x"
    assert "--xla_gpu_autotune_level=0" in os.environ["XLA_FLAGS"].split()


def test_a_plugin_of_which_the_parent_is_missing_is_not_installed(monkeypatch):
    def refuse(name):
        raise ModuleNotFoundError(name)

    monkeypatch.setattr(importlib.util, "find_spec", refuse)
    with pytest.raises(UserError, match="not installed"):
        prepare_environment(parse_hosts("h100:8"))
