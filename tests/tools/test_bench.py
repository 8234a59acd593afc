"""tools/bench.py: its parts on the smallest network, and what it prints of them. No time is asserted."""

import dataclasses
import sys
from pathlib import Path

import jax
import pytest

from reimagen_jax.config import Experiment
from reimagen_jax.encoders.settings import TextConfig
from reimagen_jax.nets.settings import Level, UNetConfig
from reimagen_jax.systems.reimagen.settings import ReImagenConfig, TriplesConfig
from tests.tiny import changed

sys.path.insert(0, str(Path(__file__).parents[2] / "tools"))  # its files import each other as they do when it runs
import bench
import measure
import rival

SMALLEST = Experiment(
    name="smallest",
    system=ReImagenConfig(
        resolution=8,
        unet=UNetConfig(levels=(Level(8, 1, neighbour_attention=True),), patch=4, head_width=8, groups=2, cond_width=8),
        text=TextConfig(max_bytes=8, width=8, depth=1, head_width=8),
    ),
    data=TriplesConfig(batch_size=8, num_neighbours=2),
)


def test_a_stages_figures_belong_together():
    found = measure.stage_figures(SMALLEST, rounds=1, sampler_steps=1)
    assert found["images_per_second"] * found["step"]["seconds"] == pytest.approx(8)
    rate = found["model_flops_per_image"] * 8 / len(jax.devices()) / found["step"]["seconds"]
    assert found["model_flops_per_second"] == pytest.approx(rate)
    assert found["mfu"] == pytest.approx(rate / found["peak_flops"])
    assert set(found["drawing"]) == {"k = 0", "k = 2"}
    assert found["peak_memory"]["bytes"] > 4 * found["parameters"]
    text = "\n".join(bench.stage_lines({"name": "smallest", **found}))
    for says in ("images/s", "GFLOP an image", "MFU", "GiB", "k = 2 takes"):
        assert says in text


def test_stages_are_the_presets_or_the_presets_made_small():
    for stage in measure.STAGES:
        paper, small = (measure.experiment(stage, small, 8).system for small in (False, True))
        assert paper.unet == measure.STAGES[stage][0]
        assert len(small.unet.levels) == len(paper.unet.levels)
        assert all(8 * a.width == b.width for a, b in zip(small.unet.levels, paper.unet.levels, strict=True))
        for name in ("self_attention", "text_attention", "neighbour_attention"):
            assert [getattr(level, name) for level in small.unet.levels] == [
                getattr(level, name) for level in paper.unet.levels
            ]
        assert (small.super_resolution is None) == stage.startswith("base")


def test_actions_are_timed_in_turn_and_the_first_round_does_not_count():
    called = []
    times = measure.timed({"a": lambda: called.append("a"), "b": lambda: called.append("b")}, rounds=3)
    assert called == ["a", "b"] * 4
    assert set(times) == {"a", "b"} and all(set(one) == {"seconds", "cpu_seconds"} for one in times.values())


def test_the_rival_is_as_wide_as_gives_it_our_parameters(monkeypatch):
    monkeypatch.setattr(rival, "count_parameters", lambda setting: 100 * setting.dim**2)
    setting = rival.Setting(32, 0, 1, 8, 32, 128, 32, 4)
    assert rival.matching(setting, 100 * 64**2).dim == 64
    assert rival.matching(setting, 100 * 67**2).dim == 64
    assert rival.matching(setting, 100 * 69**2).dim == 72
    assert rival.matching(setting, 1).dim == 8


def test_the_bench_asks_for_its_parts_in_processes_of_their_own(monkeypatch, capsys):
    asked = []
    times = {"seconds": 2.0, "cpu_seconds": 1.0}
    stage = {
        "name": "base",
        "device": "a device",
        "peak_flops": 1e12,
        "peak_source": "here",
        "parameters": 1_000,
        "batch": 8,
        "dtype": "float32",
        "step": times,
        "images_per_second": 4.0,
        "model_flops_per_image": 1e9,
        "model_flops_per_second": 4e9,
        "mfu": 0.004,
        "mfu_of_cpu": None,
        "peak_memory": {"bytes": 2**30, "source": "measured"},
        "drawing": {"k = 0": times},
        "sampler_steps": 8,
    }
    other = {
        "name": "imagen-pytorch",
        "stood_in_for": ["kornia"],
        "stage": "base",
        "batch": 8,
        "dtype": "float32",
        "width": [64, 72],
        "parameters": [1_000, 1_001],
        "forward_flops": [1e9, 2e9],
        "times": {what: [times | {"kernel_seconds": 0.5, "faults": 90_000}] * 2 for what in ("train", "guided")},
        "ratios": {
            what: {"seconds": [1.25, 1.5, 1.75], "cpu_seconds": [1.0, 1.25, 1.5]} for what in ("train", "guided")
        },
    }

    def in_process(args, part, **environment):
        asked.append((part, environment.get("JAX_COMPILATION_CACHE_DIR")))
        return {"compile": {"trace": 1.0, "compile": 2.0}, "stage": dict(stage), "rival": other}[part.split(":")[0]]

    monkeypatch.setattr(bench, "in_process", in_process)
    monkeypatch.setattr(rival, "installed", lambda: True)
    figures = bench.run(bench.Bench(stages=("sr256", "base")))
    parts = [part for part, _ in asked]
    assert parts == [
        *("stage:sr256", "compile:sr256", "compile:sr256", "stage:base", "compile:base", "compile:base", "rival:base"),
    ]
    # Both compilations of a stage share a cache that no other has.
    caches = [cache for part, cache in asked if part.startswith("compile")]
    assert caches[0] == caches[1] != caches[2] == caches[3]
    printed = capsys.readouterr().out
    assert "1.50 x as fast [1.25, 1.75] by the clock" in printed and "90,000 page faults" in printed
    assert "MFU 0.4%" in printed and "from the cache" in printed
    assert figures["stages"]["base"]["cold"] == {"trace": 1.0, "compile": 2.0}


def test_guidance_is_one_evaluation_of_a_doubled_batch():
    """The doubled batch's two halves are the predictions with and without text."""
    config = changed(SMALLEST, unet=dataclasses.replace(SMALLEST.system.unet, levels=(Level(8, 1),)))
    ours = measure.BareUNet(config)
    batch = jax.tree.map(jax.numpy.asarray, ours.example(2))
    keys = iter(jax.random.split(jax.random.key(1), 999))
    params = jax.tree.map(lambda p: jax.random.normal(next(keys), p.shape), jax.eval_shape(ours.init, next(keys)))

    @jax.jit
    def predictions(params, batch):
        without = ours.predict(params, batch | {"mask": ~batch["mask"]})
        return ours.predict(params, batch), without, ours.guided(params, batch)

    given, without, guided = predictions(params, batch)
    expected = without + 3.0 * (given - without)
    assert abs(guided - expected).max() < 1e-3 * abs(expected).max()
    assert abs(given - without).max() > 1e-2 * abs(given).max()
