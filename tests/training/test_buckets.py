"""A run in a bucket is the run it would be on a disk, also when it is killed while a checkpoint is on its way there."""

import json
import os
import signal
import subprocess
import sys
import tempfile
from contextlib import closing
from pathlib import Path, PurePosixPath

import jax
import numpy as np
import pytest
from fsspec.core import url_to_fs

from reimagen_jax import stores
from reimagen_jax.errors import UserError
from reimagen_jax.inference.model import Chosen
from reimagen_jax.training import distributed, spool
from reimagen_jax.training.checkpoint import Checkpoints, load_ema, read_run, settle
from reimagen_jax.training.loop import train
from reimagen_jax.training.state import TrainState
from tests.emulators import BUCKET, KINDS, reached
from tests.training.test_distributed import run_pair
from tests.training.tiny_system import Regression, dataset, experiment, same

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module", params=KINDS)
def bucket(request, tmp_path_factory):
    """The address of a bucket."""
    with reached(request.param, tmp_path_factory.mktemp("spool")) as address:
        yield address


def run(workdir, num_steps, **settings):
    return train(experiment(num_steps=num_steps, checkpoint_every=2, **settings), workdir, Regression(), dataset())


def found(address):
    """Step of a checkpoint of which there is something -> whether it is whole."""
    system, root = url_to_fs(f"{address}/checkpoints")
    names = [name.removeprefix(f"{root}/").split("/") for name in system.find(root)]
    numbers = {int(number) for number, *_ in names if number.isdecimal()}
    return {number: [str(number), stores.COMMIT] in names for number in sorted(numbers)}


def steps(address):
    """Of the whole checkpoints there."""
    return [number for number, whole in found(address).items() if whole]


def logged(workdir):
    lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    return [(line["step"], line["loss"]) for line in lines]


def test_a_run_in_a_bucket_is_the_run_on_a_disk_bit_for_bit_also_when_gone_on_with(bucket, tmp_path, capsys):
    address, place = f"{bucket}/deep/run", stores.place(f"{bucket}/deep/run")
    run(address, 5, keep_checkpoints=2)
    assert steps(address) == [4, 5]
    outcome = run(address, 7, keep_checkpoints=2)
    assert "going on from the checkpoint of step 5 of 7" in capsys.readouterr().out
    expected = [run(tmp_path / "run", number, keep_checkpoints=2) for number in (5, 7)]
    assert same(jax.device_get(outcome.state), jax.device_get(expected[1].state))
    assert steps(address) == [6, 7], "the others are removed"
    assert logged(place) == logged(tmp_path / "run")
    assert read_run(place) == read_run(tmp_path / "run")
    assert len(list((place / "tensorboard").iterdir())) == 2, "one file each time"
    for step in (None, 6):
        assert same(load_ema(address, step), load_ema(tmp_path / "run", step))
    assert run(address, 7).step == 7, "nothing is left to do"


def written(address, *numbers):
    """Checkpoints of these steps, of a state whose numbers are the step's; the last of these states."""
    for number in numbers:
        tree = {"kernel": np.full((16, 8), number, np.float32)}
        state = TrainState(step=np.int32(number), params=tree, ema=tree, opt_state={})
        with closing(Checkpoints(address, keep=2)) as checkpoints:
            checkpoints.save(state, iter(dataset()))
            checkpoints.wait()
    settle(stores.place(address), experiment(num_steps=9), "data", None)
    return state


def test_what_has_no_mark_is_no_checkpoint_and_gives_way(bucket):
    address = f"{bucket}/unmarked"
    state = written(address, 1, 2)
    (stores.place(address) / "checkpoints" / "2" / stores.COMMIT).unlink()
    assert load_ema(address)[0] == 1
    with closing(Checkpoints(address, keep=2)) as checkpoints:
        assert checkpoints.latest() == 1
        checkpoints.save(state, iter(dataset()))
        checkpoints.wait()
    assert steps(address) == [1, 2]
    assert load_ema(address)[1]["kernel"][0, 0] == 2


def test_a_damaged_checkpoint_is_refused_by_name(bucket):
    address = f"{bucket}/damaged"
    state = written(address, 1, 2)
    parts = stores.place(address) / "checkpoints" / "2" / "state" / "d"
    for part in parts.iterdir():
        part.unlink()
    said = f"checkpoint {address}/checkpoints/2 cannot be restored .*, delete {address}/checkpoints/2 to go on from"
    with pytest.raises(UserError, match=said):
        load_ema(address)
    with closing(Checkpoints(address, keep=2)) as checkpoints, pytest.raises(UserError, match=said):
        checkpoints.restore(2, jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), state), None)


def test_a_place_with_something_else_in_it_does_not_become_a_run(bucket):
    place = stores.place(f"{bucket}/taken")
    (place / "thesis.txt").write_text("chapter one")
    with pytest.raises(UserError, match=f"{place} holds thesis.txt, of no training run: choose another --workdir"):
        run(place, 2)
    assert [path.name for path in place.iterdir()] == ["thesis.txt"]


def test_a_bucket_that_is_not_there_is_told_in_one_line(bucket):
    address = bucket.replace(BUCKET, "nobody-has-this") + "/run"
    with pytest.raises(UserError) as caught:
        run(address, 2)
    assert str(caught.value).startswith(address) and "\n" not in str(caught.value)


def test_two_processes_write_one_run_and_go_on_with_it_together(bucket, tmp_path):
    """Stopped at step 3 through one of them, they leave after step 5; then they end at 8, as one process does."""
    address = f"{bucket}/pair"
    for stop_at, ended in ((3, f"step 5, {signal.SIGTERM!r}"), (0, "step 8, None")):
        statuses, last_lines, outputs = run_pair(address, 8, stop_at)
        assert statuses == [0, 0], outputs
        assert last_lines == [f"process {n} of 2: {ended}" for n in range(2)]
    assert "going on from the checkpoint of step 5 of 8" in outputs[0]
    assert steps(address)[-1] == 8 and all(found(address).values())
    config = experiment(num_steps=8, fsdp=2, log_every=5, accumulate=2)
    whole = train(config, tmp_path / "one", Regression(), dataset()).state
    averaged, expected = load_ema(address, on_host=True)[1], jax.device_get(whole.ema)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-4, atol=2e-6), averaged, expected)


def test_processes_that_do_not_see_one_folder_for_copies_are_told(tmp_path, monkeypatch):
    """On another machine a folder of the same name may be left of a run that was killed there."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    place = PurePosixPath("s3://bucket/run/checkpoints")
    assert os.listdir(spool.make(place)) == [spool.TOKEN]
    monkeypatch.setattr(distributed, "from_first_process", lambda arrays: arrays + np.uint32(1))
    with pytest.raises(UserError, match=r"do not see the same folder for checkpoints .*: set TMPDIR to one"):
        spool.make(place)


@pytest.mark.parametrize("method", ["write_text", "is_file", "unlink"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_network_that_fails_as_guidance_is_kept_or_read_is_told_in_one_line(kind, method, monkeypatch):
    class Gone(Exception):
        """What a library raises."""

    def fails(*_, **__):
        raise Gone("connection reset\nat line 3")

    run = stores.place(f"{kind}://{BUCKET}/run")
    monkeypatch.setattr(type(run), method, fails)
    act = {"write_text": Chosen(3, "likeness", eta=0.5).write, "is_file": Chosen.read, "unlink": Chosen.forget}[method]
    said = rf"^{run} cannot be reached \(Gone: connection reset\): check .*, then run the same command again$"
    with pytest.raises(UserError, match=said):
        act(run)


# --- kill -9 -----------------------------------------------------------------------------------------------------


def start(address, num_steps, width):
    command = [sys.executable, "-m", "tests.training.run_tiny", address, str(num_steps), str(width)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0"}
    environment["JAX_COMPILATION_CACHE_DIR"] = jax.config.jax_compilation_cache_dir
    return subprocess.Popen(
        command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


def half_written(address):
    """Steps of the others."""
    return {number for number, whole in found(address).items() if not whole}


def killed_while_writing(address, num_steps, width):
    """Steps of the checkpoints that a run of this address, killed by then, left half written; none: it was too late."""
    process = start(address, num_steps, width)
    while not steps(address) or not half_written(address):
        if process.poll() is not None:
            assert process.returncode == 0, process.communicate()[0]
            return set()
    process.send_signal(signal.SIGKILL)
    process.communicate()
    return half_written(address) if max(steps(address)) < num_steps else set()


def test_kill_9_while_a_checkpoint_is_written_costs_that_one_and_no_more(bucket, tmp_path):
    width, num_steps = 2048, 12
    for attempt in range(20):  # where an upload takes less time than a listing, the kill may come too late, so anew
        address = f"{bucket}/killed{attempt}"
        if torn := killed_while_writing(address, num_steps, width):
            break
    assert torn, "it was never killed while a checkpoint was on its way"
    last = max(steps(address))
    assert load_ema(address)[0] == last and torn <= {last + 3, last - 6}, "on its way there, or on its way out"

    process = start(address, num_steps, width)
    output = process.communicate()[0]
    assert process.returncode == 0, output
    assert f"going on from the checkpoint of step {last} of {num_steps}" in output
    assert steps(address) == [num_steps - 3, num_steps] and not half_written(address)
    config = experiment(num_steps=num_steps, checkpoint_every=1000, fsdp=2)
    whole = train(config, tmp_path / "whole", Regression(width=width), dataset())
    assert same(load_ema(address)[1], jax.device_get(whole.state.ema))
    assert logged(stores.place(address)) == logged(tmp_path / "whole")
