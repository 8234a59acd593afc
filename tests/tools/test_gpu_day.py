"""The day of the GPU: parts in processes of their own, each tried again until it has figures."""

import json
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "tools"))
import gpu_day


@pytest.fixture
def day(tmp_path):
    return gpu_day.GpuDay(out=tmp_path / "day", minutes=10, scale="small", parts=("device",))


def test_a_part_is_done_once_and_its_figures_are_kept(day):
    first = gpu_day.run(day)
    assert first["device"]["figures"]["bfloat16_flops"] > 1e6
    assert first["device"]["figures"]["copy_bytes_per_second"] > 1e6
    assert gpu_day.run(day) == first == json.loads((day.out / "results.json").read_text())


def test_a_part_that_fails_is_told_and_stops_no_other(day, monkeypatch):
    monkeypatch.setattr(gpu_day, "SPARE_S", -1.0)
    results = gpu_day.run(replace(day, parts=("no such part", "train", "device")))
    assert "KeyError" in results["no such part"]["failed"]
    assert results["train"]["left out"] == "no --triples"
    assert "figures" in results["device"]


def test_nothing_begins_when_the_time_is_over(day):
    assert gpu_day.run(replace(day, minutes=0.0)) == {}


def test_every_part_has_what_does_it():
    assert set(gpu_day.PARTS) == {*gpu_day.FUNCTIONS, "train"}
    assert set(gpu_day.NETWORKS) == set(gpu_day.BATCHES)
    assert all((gpu_day.ROOT / "experiments" / f"{name}.py").is_file() for name in gpu_day.NETWORKS)


def test_errors_of_trees_are_relative_and_show_what_is_not_finite():
    exact = {"a": np.array([3.0, 4.0]), "b": np.zeros(2)}
    assert gpu_day.off(exact, exact) == 0
    assert gpu_day.off(exact | {"b": np.array([0.0, 0.5])}, exact) == pytest.approx(0.1)
    assert np.isnan(gpu_day.off(exact | {"b": np.array([0.0, np.nan])}, exact))
