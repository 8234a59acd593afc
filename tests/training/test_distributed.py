"""Several real processes are one run: same numbers, one voice, and they stop, save and go on together."""

import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

from reimagen_jax.training import distributed
from reimagen_jax.training.loop import train
from tests.compiling import FLAGS
from tests.training.tiny_system import Regression, dataset, experiment

ROOT = str(Path(__file__).parents[2])


def environment(**more):
    """Of a process that sees one device."""
    return {**os.environ, "PYTHONPATH": ROOT, "XLA_FLAGS": FLAGS, **more}


def run_pair(*args):
    """Exit statuses, last lines and whole outputs of two processes that share one mesh of two devices."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        address = f"localhost:{free.getsockname()[1]}"
    pair = [
        subprocess.Popen(
            [sys.executable, "-m", "tests.training.run_pair", *map(str, args)],
            env=environment(JAX_COORDINATOR_ADDRESS=address, JAX_NUM_PROCESSES="2", JAX_PROCESS_ID=str(process)),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for process in range(2)
    ]
    outputs = [process.communicate(timeout=300)[0] for process in pair]
    return [process.returncode for process in pair], [output.splitlines()[-1] for output in outputs], outputs


def logged(workdir, name):
    return {row["step"]: row[name] for row in map(json.loads, (workdir / "metrics.jsonl").read_text().splitlines())}


def test_two_processes_train_as_one_stop_together_and_are_resumed_by_two_and_by_one(tmp_path):
    """Stopped at step 3 through one of them, they leave after step 5, two steps on; then after 8; one goes on to 10."""
    pair = tmp_path / "pair"
    for stop_at, left_at in ((3, 5), (6, 8)):
        statuses, last_lines, outputs = run_pair(pair, 10, stop_at)
        assert statuses == [0, 0], outputs
        assert last_lines == [f"process {n} of 2: step {left_at}, {signal.SIGTERM!r}" for n in range(2)]
        assert (pair / "checkpoints" / str(left_at)).is_dir()
        assert f"SIGTERM: saved step {left_at}" in outputs[0] and "loss" in outputs[0]
        assert "saved" not in outputs[1] and "loss" not in outputs[1], "the first one speaks for both"
    assert {path.name for path in pair.glob("*.png")} == {"3.png", "6.png"}

    config = experiment(num_steps=10, fsdp=2, log_every=5, accumulate=2)
    resumed = train(config, pair, Regression(), dataset()).state
    whole = train(config, tmp_path / "one", Regression(), dataset()).state
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-4, atol=2e-6), resumed, whole)
    for name in ("loss", "grad_norm"):
        ours, theirs = logged(pair, name), logged(tmp_path / "one", name)
        assert ours[5] == pytest.approx(theirs[5], rel=1e-4)
        assert set(ours) == {5, 8, 10}


def test_what_stops_the_first_process_stops_the_others(tmp_path):
    (tmp_path / "file").touch()
    statuses, last_lines, outputs = run_pair(tmp_path / "file", 4, 0)
    assert statuses == [2, 2], outputs
    assert "cannot write to --workdir" in last_lines[0]
    assert "the first process of this run has stopped" in last_lines[1]


@pytest.mark.parametrize(
    ("settings", "several"),
    [
        ({}, False),
        ({"JAX_COORDINATOR_ADDRESS": "10.0.0.1:1234"}, True),
        ({"SLURM_JOB_ID": "7", "SLURM_NTASKS": "8"}, False),
        ({"SLURM_STEP_NUM_TASKS": "1"}, False),
        ({"SLURM_STEP_NUM_TASKS": "8"}, True),
        ({"OMPI_COMM_WORLD_SIZE": "2"}, True),
        ({"TPU_WORKER_HOSTNAMES": "localhost"}, False),
        ({"TPU_WORKER_HOSTNAMES": "a,b"}, True),
        ({"MEGASCALE_NUM_SLICES": "2"}, True),
    ],
)
def test_an_environment_says_whether_there_are_several_processes(settings, several):
    assert distributed.expected(settings) == several


def test_alone_when_told_that_there_are_others_is_a_users_error():
    code = (
        "from reimagen_jax.training import distributed\n"
        "from reimagen_jax.errors import UserError\n"
        "distributed.start()\n"
        "try:\n"
        "    distributed.start(True)\n"
        "except UserError as error:\n"
        "    print(error)\n"
    )
    result = subprocess.run([sys.executable, "-c", code], env=environment(), capture_output=True, text=True, check=True)
    assert "cannot join the others of its run" in result.stdout and "JAX_COORDINATOR_ADDRESS" in result.stdout
