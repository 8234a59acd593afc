"""The loop: a run that is stopped, killed or resumed ends where an undisturbed one does; a bad one stops in time."""

import errno
import functools
import io
import json
import os
import random
import resource
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import jax
import numpy as np
import pytest
from PIL import Image

from reimagen_jax import sharding
from reimagen_jax.config import InitConfig
from reimagen_jax.errors import UserError
from reimagen_jax.pretrained.weights import fingerprint
from reimagen_jax.training import loop, parallel
from reimagen_jax.training.checkpoint import Checkpoints, load_ema, read_run
from reimagen_jax.training.loop import train
from reimagen_jax.training.state import init_state
from reimagen_jax.training.step import make_optimizer
from tests.training.tiny_system import Regression, dataset, experiment, same


def lines(workdir):
    return [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]


def data_position(workdir, step):
    return json.loads((workdir / "checkpoints" / str(step) / "data" / "process_0-of-1.json").read_text())


def test_4_steps_are_2_and_a_restart_and_2_bit_for_bit(tmp_path):
    settings = functools.partial(experiment, decay="constant", fsdp=2)
    whole = train(settings(num_steps=4), tmp_path / "whole", Regression(), dataset())
    half = train(settings(num_steps=2), tmp_path / "parts", Regression(), dataset())
    assert (half.step, half.stopped) == (2, None)
    both = train(settings(num_steps=4), tmp_path / "parts", Regression(), dataset())
    assert both.step == whole.step == 4
    assert same(both.state, whole.state)
    assert data_position(tmp_path / "parts", 4) == data_position(tmp_path / "whole", 4)
    losses = [[line["loss"] for line in lines(tmp_path / name)] for name in ("whole", "parts")]
    assert losses[0] == losses[1] and len(losses[0]) == 4


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_saves_and_leaves_and_the_run_goes_on_bit_for_bit(tmp_path, number):
    """With the cosine schedule, whose rate at each step depends on the planned length."""
    whole = train(experiment(num_steps=5), tmp_path / "whole", Regression(), dataset())
    handlers = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)

    def interrupt(step, ema):
        os.kill(os.getpid(), number)
        return grid(tmp_path)(step, ema)

    config = experiment(num_steps=5, sample_every=2)
    first = train(config, tmp_path / "parts", Regression(), dataset(), on_sample=interrupt)
    assert (first.step, first.stopped) == (3, number), "the signal came after step 2, while nothing was running"
    assert (tmp_path / "parts" / "checkpoints" / "3").is_dir()
    assert (signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)) == handlers
    rest = train(config, tmp_path / "parts", Regression(), dataset())
    assert rest.stopped is None and same(rest.state, whole.state)


def grid(folder):
    def draw(step, ema):
        path = folder / f"{step}.png"
        Image.fromarray(np.full((4, 6, 3), step, np.uint8)).save(path)
        return path

    return draw


def test_a_finished_run_has_nothing_to_do(tmp_path, capsys):
    first = train(experiment(), tmp_path, Regression(), dataset())
    record = (tmp_path / "run.json").read_bytes()
    assert "nothing left" not in capsys.readouterr().out
    again = train(experiment(log_every=3), tmp_path, Regression(), dataset())
    assert again.step == 4 and again.stopped is None and same(first.state, again.state)
    assert len(lines(tmp_path)) == 4
    assert "nothing left to do" in capsys.readouterr().out
    assert (tmp_path / "run.json").read_bytes() == record, "nothing has followed the new settings"


def test_the_first_step_is_told_at_once_and_counts_in_the_means(tmp_path, capsys):
    train(experiment(num_steps=4), tmp_path / "each", Regression(), dataset())
    capsys.readouterr()
    train(experiment(num_steps=4, log_every=4), tmp_path / "seldom", Regression(), dataset())
    compiling, first, last = capsys.readouterr().out.splitlines()[-3:]
    assert compiling.startswith("compiling the step: less than a minute the first time, kept")
    losses = [line["loss"] for line in lines(tmp_path / "each")]
    assert first.startswith(f"step 1/4  loss {losses[0]:.4f}  lr ") and "peak_GiB" in first and "nan" not in first
    assert last.startswith(f"step 4/4  loss {np.mean(losses):.4f}")
    assert [line["step"] for line in lines(tmp_path / "seldom")] == [4]
    train(experiment(num_steps=6, log_every=6), tmp_path / "seldom", Regression(), dataset())
    assert [line.split("  ")[0] for line in capsys.readouterr().out.splitlines()[-2:]] == ["step 5/6", "step 6/6"]


def test_fewer_steps_than_are_done_are_refused_and_the_record_stays_true(tmp_path, capsys):
    train(experiment(num_steps=6), tmp_path, Regression(), dataset())
    record = (tmp_path / "run.json").read_bytes()
    with pytest.raises(UserError, match=r"a run of 6 steps already, more than train\.num_steps 3: give more than 6"):
        train(experiment(num_steps=3), tmp_path, Regression(), dataset())
    assert (tmp_path / "run.json").read_bytes() == record
    train(experiment(num_steps=8), tmp_path, Regression(), dataset())
    assert "the steps so far followed a plan for 6" in capsys.readouterr().out


def test_the_initial_weights_may_move_be_spelled_otherwise_or_be_gone_once_there_is_a_checkpoint(tmp_path, capsys):
    def go(weights, num_steps, **settings):
        config = replace(experiment(num_steps=num_steps, **settings), init=InitConfig(weights))
        return train(config, tmp_path, Regression(), dataset()).step

    assert [go("weights", 2), go(str(tmp_path / "weights"), 3), go("", 4), go("elsewhere", 5)] == [2, 3, 4, 5]
    assert read_run(tmp_path)["experiment"]["init"]["weights"] == "weights", "what the run began from"
    assert "init.weights" not in capsys.readouterr().out
    with pytest.raises(UserError, match=r"other settings \(there != here\): train\.learning_rate: 0\.01 != 0\.5\. Use"):
        go("", 6, learning_rate=0.5)


class Gone(io.StringIO):
    """A terminal that is not there any more."""

    encoding = "ascii"

    def write(self, text):
        raise OSError(errno.EIO, os.strerror(errno.EIO))


def test_a_training_goes_on_where_its_messages_cannot_be_told(tmp_path, monkeypatch):
    whole = train(experiment(), tmp_path / "whole", Regression(), dataset()).state
    ascii_only = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    for number, stream in enumerate([ascii_only, Gone(), None]):
        monkeypatch.setattr(sys, "stdout", stream)
        run = tmp_path / f"été {number}"
        assert same(train(experiment(), run, Regression(), dataset()).state, whole)
        assert len(lines(run)) == 4
    assert b"\\xe9t\\xe9 0" in ascii_only.buffer.getvalue()


@pytest.mark.parametrize(
    ("plan", "one_run"),
    [
        ({"decay": "constant"}, True),
        ({"decay": "tail"}, True),
        ({"decay": "cosine"}, False),
        ({"decay": "constant", "ema_growth": "cosine"}, False),
    ],
    ids=("constant", "tail", "cosine", "memory"),
)
def test_a_longer_run_is_told_when_it_is_not_one_run_and_equals_one_otherwise(tmp_path, capsys, plan, one_run):
    """Tail decay may be prolonged until its tail begins; step 7 of 10 is before it, and 10 of 20 too."""
    settings = functools.partial(experiment, warmup_steps=2, **plan)

    def interrupt(step, ema):
        os.kill(os.getpid(), signal.SIGTERM)
        return grid(tmp_path)(step, ema)

    first = train(settings(num_steps=10, sample_every=6), tmp_path / "a", Regression(), dataset(), on_sample=interrupt)
    assert first.step == 7
    capsys.readouterr()
    longer = train(settings(num_steps=20), tmp_path / "a", Regression(), dataset())
    out = capsys.readouterr().out
    assert "train.num_steps: 10 -> 20" in out
    assert ("the result is not that of one run" not in out) == one_run
    whole = train(settings(num_steps=20), tmp_path / "b", Regression(), dataset())
    assert same(longer.state, whole.state) == one_run


def test_a_fresh_run_starts_from_given_parameters_and_one_that_goes_on_does_not_ask_for_them(tmp_path):
    source = train(experiment(seed=5), tmp_path / "source", Regression(), dataset()).state.params
    given = jax.tree.map(np.array, source)
    config = replace(experiment(learning_rate=0.0, num_steps=2, decay="constant", fsdp=2), init=InitConfig("theirs"))
    first = train(config, tmp_path / "run", Regression(), dataset(), initial=lambda: given)
    assert same(first.state.params, given)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), first.state.ema, given)
    told = {"step": 0, "changed": [f"starts from theirs, SHA-256 {fingerprint(given)[:16]}"]}
    assert read_run(tmp_path / "run")["history"] == [told]

    def asked():
        raise AssertionError("a run that goes on has its parameters")

    longer = experiment(learning_rate=0.0, num_steps=3, decay="constant", fsdp=2)
    assert train(longer, tmp_path / "run", Regression(), dataset(), initial=asked).step == 3
    assert read_run(tmp_path / "run")["history"][0] == told, "what it began from is still known"


def test_parameters_of_another_network_are_refused_by_name(tmp_path):
    other = Regression(width=64).init(jax.random.key(0))
    with pytest.raises(UserError, match=r"another network.*hidden.*kernel"):
        train(experiment(), tmp_path, Regression(), dataset(), initial=lambda: other)
    assert list(tmp_path.iterdir()) == [], "of a folder that was there, nothing but the folder"
    with pytest.raises(UserError, match="another network"):
        train(experiment(), tmp_path / "new" / "run", Regression(), dataset(), initial=lambda: other)
    assert list(tmp_path.iterdir()) == [], "a start that is refused leaves nothing"


# --- kill -9 -----------------------------------------------------------------------------------------------------


def start(workdir, num_steps, width):
    command = [sys.executable, "-m", "tests.training.run_tiny", str(workdir), str(num_steps), str(width)]
    root = str(Path(__file__).parents[2])
    environment = {**os.environ, "PYTHONPATH": root, "JAX_COMPILATION_CACHE_DIR": jax.config.jax_compilation_cache_dir}
    environment["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def wait_for(condition, process):
    """Polls until the condition holds; fails if the process ends first."""
    while not condition():
        assert process.poll() is None, f"the run ended before it was killed, with status {process.returncode}"
        time.sleep(0.0005)


def whole_checkpoints(workdir):
    return {path.name for path in workdir.glob("checkpoints/*") if path.name.isdecimal()}


def half_written(workdir):
    return {path.name for path in workdir.glob("checkpoints/*tmp*")}


def saved_state(workdir, step, width):
    """The checkpoint's state, on the mesh of the run."""
    config = experiment(fsdp=2).train
    init = functools.partial(init_state, Regression(width=width), make_optimizer(config), jax.random.key(0))
    checkpoints = Checkpoints(workdir, keep=9)
    assert checkpoints.latest() == step
    state = checkpoints.restore(step, parallel.abstract_state(init, sharding.make_mesh(2)), iter(dataset()))
    checkpoints.close()
    return jax.device_get(state)


def test_kill_9_at_any_moment_and_restart_end_in_the_same_state_bit_for_bit(tmp_path):
    """Twice at random moments and twice while a checkpoint is being written; then the run is left to finish."""
    num_steps, width, workdir = 90, 4096, tmp_path / "killed"
    seed = random.getrandbits(32)
    print(f"seed of the moments: {seed}")
    moments = random.Random(seed)
    for how in ["save", "random", "save", "random"]:
        process, before = start(workdir, num_steps, width), whole_checkpoints(workdir)
        reader = threading.Thread(target=process.stdout.read)
        reader.start()
        wait_for(lambda before=before: whole_checkpoints(workdir) - before, process)
        if how == "save":
            wait_for(lambda: half_written(workdir), process)
        else:
            time.sleep(moments.uniform(0.0, 0.3))
        process.send_signal(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL, "the run ended before it was killed"
        reader.join()
    process = start(workdir, num_steps, width)
    output = process.communicate()[0]
    assert process.returncode == 0, output
    assert "going on from the checkpoint of step" in output
    assert not half_written(workdir), "what the killed runs left is gone"

    config = experiment(num_steps=num_steps, fsdp=2, checkpoint_every=1000)
    whole = train(config, tmp_path / "whole", Regression(width=width), dataset())
    assert same(saved_state(workdir, num_steps, width), whole.state)
    assert data_position(workdir, num_steps) == data_position(tmp_path / "whole", num_steps)
    steps = [line["step"] for line in lines(workdir)]
    assert steps == list(range(1, num_steps + 1)), "every step is logged once, those lost with a kill again"
    assert [line["loss"] for line in lines(workdir)] == [line["loss"] for line in lines(tmp_path / "whole")]


# --- what goes wrong ---------------------------------------------------------------------------------------------


def test_a_loss_that_is_not_finite_stops_the_run_names_the_last_good_checkpoint_and_leaves_it_whole(tmp_path):
    """The data turn bad in the batch of step 6; the checkpoint of step 4 stays the last one and is as it was."""
    good = train(experiment(num_steps=4, decay="constant"), tmp_path, Regression(), dataset())
    order = [int(index) for index in np.concatenate([next_["index"] for next_ in first(6)])]
    bad = max(set(order[5 * 16 :]) - set(order[: 5 * 16]))
    system = Regression(explode_at=bad)
    config = experiment(num_steps=12, decay="constant", checkpoint_every=6)
    with pytest.raises(UserError, match=rf"loss is nan at step 6; the last good checkpoint: .*{tmp_path.name}/.*/4\."):
        train(config, tmp_path, system, dataset())
    assert sorted(path.name for path in (tmp_path / "checkpoints").iterdir()) == ["4"]
    assert same(load_ema(tmp_path)[1], good.state.ema)
    assert [line["step"] for line in lines(tmp_path)] == [1, 2, 3, 4, 5]


def first(count):
    data = iter(dataset())
    return [next(data) for _ in range(count)]


def test_a_loss_that_is_not_finite_before_any_checkpoint_leaves_none(tmp_path):
    with pytest.raises(UserError, match="loss is nan at step 1; the last good checkpoint: none"):
        train(experiment(checkpoint_every=1), tmp_path, Regression(explode_at=int(first(1)[0]["index"][0])), dataset())
    assert not list((tmp_path / "checkpoints").iterdir())


def test_data_that_end_are_an_error_that_says_where(tmp_path):
    finite = dataset(epochs=1)
    with pytest.raises(UserError, match="the data end before step 63"):
        train(experiment(num_steps=100, log_every=50), tmp_path, Regression(), finite)


def test_a_batch_of_another_size_is_an_error_that_names_both(tmp_path):
    """A last, smaller batch would otherwise train with another weight, after compiling once more."""
    with pytest.raises(UserError, match=r"step 63 has 8 examples.* data\.batch_size .* 16"):
        train(experiment(num_steps=100, log_every=50), tmp_path, Regression(), dataset(epochs=1, ragged=True))


def test_an_unfit_batch_size_and_an_unusable_folder_are_refused_before_anything_is_written(tmp_path):
    with pytest.raises(UserError, match="batch_size 12 is not divisible by the 8 devices"):
        train(experiment(batch_size=12), tmp_path / "run", Regression(), dataset(12))
    assert not (tmp_path / "run").exists()
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="cannot write to --workdir"):
        train(experiment(), tmp_path / "file", Regression(), dataset())


def limit_file_size(size):
    """Larger files cannot be written by this process from now on: like a disk that is full."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))


@pytest.fixture
def any_file_size():
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


# A writer of Orbax's that has failed leaves its event loop behind.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_full_disk_is_a_users_error_and_costs_no_earlier_checkpoint(tmp_path, any_file_size):
    """From step 3 on nothing large can be written: the checkpoint of step 4 fails, and that of step 2 is as it was."""
    system, settings = Regression(width=4096), {"num_steps": 8, "checkpoint_every": 2, "keep_checkpoints": 1}
    whole, run = train(experiment(num_steps=8), tmp_path / "whole", system, dataset()), tmp_path / "run"

    def fill(step, ema):
        while step == 3 and whole_checkpoints(run) != {"2"}:  # it is written in the background
            time.sleep(0.01)
        limit_file_size(100_000)
        return grid(tmp_path)(step, ema)

    with pytest.raises(UserError, match=r"checkpoints cannot be written .*File too large.*make room there"):
        train(experiment(sample_every=3, **settings), run, system, dataset(), on_sample=fill)
    assert whole_checkpoints(run) == {"2"}
    limit_file_size(resource.RLIM_INFINITY)
    assert same(train(experiment(**settings), run, system, dataset()).state, whole.state)
    assert whole_checkpoints(run) == {"8"} and not half_written(run)


def test_a_checkpoint_folder_that_cannot_be_made_is_a_users_error(tmp_path):
    (tmp_path / "checkpoints").touch()
    with pytest.raises(UserError, match="checkpoints cannot be written"):
        train(experiment(), tmp_path, Regression(), dataset())


def test_other_settings_are_refused_and_nothing_changes(tmp_path):
    train(experiment(), tmp_path, Regression(), dataset())
    before = sorted((path, path.stat().st_mtime_ns) for path in tmp_path.rglob("*") if path.name != ".lock")
    with pytest.raises(UserError, match=r"train\.learning_rate: 0\.01 != 0\.5"):
        train(experiment(learning_rate=0.5, num_steps=9), tmp_path, Regression(), dataset())
    with pytest.raises(UserError, match="other data"):
        train(experiment(num_steps=9), tmp_path, Regression(), dataset(), data_fingerprint="other")
    assert before == sorted((path, path.stat().st_mtime_ns) for path in tmp_path.rglob("*") if path.name != ".lock")


# --- what is reported --------------------------------------------------------------------------------------------


def test_samples_are_drawn_at_their_cadence_from_the_average_and_shown_in_tensorboard(tmp_path):
    seen = {}

    def draw(step, ema):
        seen[step] = jax.device_get(ema)
        return grid(tmp_path)(step, ema)

    config = experiment(num_steps=5, sample_every=2, checkpoint_every=2, keep_checkpoints=9)
    train(config, tmp_path / "run", Regression(), dataset(), on_sample=draw)
    assert sorted(seen) == [2, 4]
    assert all(same(load_ema(tmp_path / "run", step)[1], seen[step]) for step in seen)
    events = b"".join(path.read_bytes() for path in (tmp_path / "run" / "tensorboard").iterdir())
    assert events.count(b"samples") == 2 and b"PNG" in events


def test_metrics_of_a_step_are_read_only_after_the_next_is_dispatched(tmp_path, monkeypatch):
    """Otherwise the devices would wait for the host at every step."""
    order = []
    real_jit, real_get = parallel.jit_step, jax.device_get

    def jit_step(*args):
        step = real_jit(*args)

        def watched(state, batch, key):
            order.append("dispatch")
            return step(state, batch, key)

        return watched

    monkeypatch.setattr(parallel, "jit_step", jit_step)
    monkeypatch.setattr(loop.jax, "device_get", lambda tree: order.append("read") or real_get(tree))
    train(experiment(num_steps=5), tmp_path, Regression(), dataset())
    assert order == ["dispatch", "dispatch", "read", "dispatch", "read", "dispatch", "read", "dispatch", "read", "read"]


def test_a_log_line_tells_means_since_the_one_before(tmp_path):
    train(experiment(num_steps=6, decay="constant"), tmp_path / "each", Regression(), dataset())
    train(experiment(num_steps=6, decay="constant", log_every=4), tmp_path / "some", Regression(), dataset())
    each, some = lines(tmp_path / "each"), lines(tmp_path / "some")
    assert [line["step"] for line in some] == [4, 6], "the last step is always logged"
    assert some[0]["loss"] == pytest.approx(np.mean([line["loss"] for line in each[:4]]), rel=1e-6)
    assert some[1]["absolute_error"] == pytest.approx(np.mean([line["absolute_error"] for line in each[4:]]), rel=1e-6)
    assert some[1]["learning_rate"] == each[5]["learning_rate"]
    assert {"grad_norm", "images_per_second", "process_peak_GiB"} <= some[0].keys()


def test_the_run_is_a_function_of_the_seed(tmp_path):
    outcomes = [
        train(experiment(num_steps=2, seed=seed), tmp_path / str(n), Regression(), dataset())
        for n, seed in enumerate([0, 0, 1])
    ]
    assert same(outcomes[0].state, outcomes[1].state)
    assert not same(outcomes[0].state.params, outcomes[2].state.params)


def test_a_map_dataset_is_taken_as_well(tmp_path):
    lazy = dataset(lazy=True)
    state = train(experiment(num_steps=2), tmp_path / "map", Regression(), lazy).state
    assert same(state, train(experiment(num_steps=2), tmp_path / "iter", Regression(), dataset()).state)
