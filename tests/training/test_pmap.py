"""`train.parallel` "pmap" through the loop: where the loss draws nothing, it is "jit" but for the order of sums."""

import json

import jax
import numpy as np
import pytest

from reimagen_jax.errors import UserError
from reimagen_jax.inference.model import experiment_of
from reimagen_jax.training import parallel
from reimagen_jax.training.loop import train
from tests.training.tiny_system import Regression, dataset, experiment, same

QUIET = Regression(noise=0.0)


def run(workdir, system=QUIET, **settings):
    return train(experiment(decay="constant", **settings), workdir, system, dataset())


def lines(workdir):
    return [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]


def assert_close(a, b):
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=2e-4, atol=2e-6), a, b)


@pytest.mark.parametrize("accumulate", [1, 2])
def test_losses_and_state_are_those_of_jit(tmp_path, accumulate):
    mapped = run(tmp_path / "pmap", parallel="pmap", accumulate=accumulate)
    jitted = run(tmp_path / "jit", accumulate=accumulate)
    assert_close(mapped.state, jitted.state)
    for name in ("loss", "absolute_error", "grad_norm", "learning_rate"):
        each = ([line[name] for line in lines(tmp_path / folder)] for folder in ("pmap", "jit"))
        np.testing.assert_allclose(*each, rtol=1e-4)
    assert mapped.state.params["table"].sharding.is_fully_replicated


def test_4_steps_are_2_and_a_restart_and_2_bit_for_bit_with_noise_of_each_device_s_own(tmp_path):
    noisy = Regression(noise=0.5)
    whole = run(tmp_path / "whole", noisy, parallel="pmap")
    run(tmp_path / "parts", noisy, parallel="pmap", num_steps=2)
    assert same(run(tmp_path / "parts", noisy, parallel="pmap").state, whole.state)
    assert experiment_of(tmp_path / "parts").train.parallel == "pmap"
    jitted = run(tmp_path / "jit", noisy)
    assert not np.allclose(lines(tmp_path / "jit")[0]["loss"], lines(tmp_path / "whole")[0]["loss"], rtol=1e-6)
    assert jitted.step == whole.step == 4


def test_a_run_does_not_change_over_to_it(tmp_path):
    """Its random numbers are others."""
    run(tmp_path, num_steps=1)
    with pytest.raises(UserError, match=r"train\.parallel: 'jit' != 'pmap'"):
        run(tmp_path, parallel="pmap")


def test_split_parameters_and_several_processes_are_refused(tmp_path, monkeypatch):
    with pytest.raises(UserError, match=r"train\.fsdp is 2, but train\.parallel 'pmap' keeps the state whole"):
        experiment(parallel="pmap", fsdp=2)
    monkeypatch.setattr(parallel.jax, "process_count", lambda: 2)
    with pytest.raises(UserError, match="'pmap' serves one process"):
        parallel.make_advance(QUIET, None, experiment(parallel="pmap").train, None, None)
