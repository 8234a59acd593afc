"""A checkpoint is whole, restores bit for bit on any number of devices, and belongs to one experiment and its data."""

import errno
import functools
import json
import logging
import os
import shutil
import sys
from collections import Counter
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import jax
import numpy as np
import orbax.checkpoint as ocp
import pytest
import tensorstore

from reimagen_jax import sharding
from reimagen_jax.config import Experiment, differences
from reimagen_jax.errors import UserError
from reimagen_jax.inference.model import experiment_of
from reimagen_jax.systems.reimagen.settings import GuidedSamplerConfig, ReImagenConfig, TriplesConfig
from reimagen_jax.training import parallel
from reimagen_jax.training.checkpoint import Checkpoints, _one_copy, claim, load_ema, read_run, settle
from reimagen_jax.training.failing_reads import told_once
from reimagen_jax.training.state import init_state
from reimagen_jax.training.step import make_optimizer, train_step
from tests.tiny import as_version_1, changed
from tests.training.tiny_system import Regression, dataset, experiment, same

CONFIG = experiment(num_steps=4)
SETTINGS = Experiment("run", ReImagenConfig(), TriplesConfig(batch_size=16), train=CONFIG.train)
"""Of a system with settings that may change and settings that may not."""


def on_mesh(num_devices, fsdp, width=128):
    """Mesh, abstract state, its init, compiled step."""
    mesh = sharding.make_mesh(fsdp, jax.devices()[:num_devices])
    optimizer = make_optimizer(CONFIG.train)
    init = functools.partial(init_state, Regression(width=width), optimizer, jax.random.key(0))
    abstract = parallel.abstract_state(init, mesh)
    return (
        mesh,
        abstract,
        init,
        parallel.jit_step(train_step(Regression(width=width), optimizer, CONFIG.train), abstract, mesh),
    )


def advance(state, data, mesh, step, count):
    for _ in range(count):
        state, _ = step(state, sharding.global_batch(next(data), mesh), jax.random.key(7))
    return state


@pytest.fixture
def saved(tmp_path):
    """A folder with the checkpoint of step 2 made on 8 devices, that state, and the one two steps later."""
    mesh, abstract, init, step = on_mesh(8, 4)
    data = iter(dataset())
    state = advance(parallel.sharded_init(init, abstract), data, mesh, step, 2)
    checkpoints = Checkpoints(tmp_path, keep=2)
    checkpoints.save(state, data)
    settle(tmp_path, CONFIG, "data", None)
    at_2 = jax.device_get(state)
    at_4 = jax.device_get(advance(state, data, mesh, step, 2))
    checkpoints.close()
    return tmp_path, at_2, at_4


@pytest.mark.parametrize(("num_devices", "fsdp"), [(8, 4), (8, 1), (4, 2), (1, 1)])
def test_a_state_saved_on_8_devices_is_restored_on_any_number(saved, num_devices, fsdp):
    folder, at_2, at_4 = saved
    mesh, abstract, _, step = on_mesh(num_devices, fsdp)
    checkpoints, data = Checkpoints(folder, keep=2), iter(dataset())
    state = checkpoints.restore(checkpoints.latest(), abstract, data)
    checkpoints.close()
    assert same(state, at_2)
    assert jax.tree.leaves(state.params)[0].sharding.mesh == mesh
    continued = jax.device_get(advance(state, data, mesh, step, 2))
    if (num_devices, fsdp) == (8, 4):
        assert same(continued, at_4), "4 steps = 2 + restore + 2, bit for bit"
    else:
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-4, atol=2e-6), continued, at_4)


def test_what_all_devices_hold_is_written_once_from_memory_that_is_there():
    _, abstract, init, _ = on_mesh(8, 4)
    state = parallel.sharded_init(init, abstract)
    for before, after in zip(jax.tree.leaves(state), jax.tree.leaves(_one_copy(state)), strict=True):
        if before.is_fully_replicated:
            assert len(after.devices()) == 1
            assert after.unsafe_buffer_pointer() == before.addressable_data(0).unsafe_buffer_pointer()
        else:
            assert after is before
    assert {leaf.is_fully_replicated for leaf in jax.tree.leaves(state)} == {True, False}


@pytest.mark.parametrize(("num_devices", "fsdp"), [(1, 1), (8, 8), (8, 1)])
def test_steps_taken_while_a_checkpoint_is_written_do_not_touch_it(tmp_path, num_devices, fsdp):
    """The step is given the state's own memory (donation) while Orbax writes it in the background."""
    mesh, abstract, init, step = on_mesh(num_devices, fsdp, width=8192)
    data, checkpoints = iter(dataset()), Checkpoints(tmp_path, keep=1)
    state = advance(parallel.sharded_init(init, abstract), data, mesh, step, 1)
    before = jax.tree.map(np.array, state)  # copies, not views
    checkpoints.save(state, data)
    advance(state, data, mesh, step, 10)
    checkpoints.wait()
    assert same(checkpoints.restore(1, abstract, iter(dataset())), before)
    checkpoints.close()


def test_only_the_last_checkpoints_are_kept_and_saving_one_twice_is_no_error(tmp_path):
    mesh, abstract, init, step = on_mesh(1, 1)
    data, checkpoints = iter(dataset()), Checkpoints(tmp_path, keep=2)
    state = parallel.sharded_init(init, abstract)
    assert checkpoints.latest() is None
    for _ in range(4):
        state = advance(state, data, mesh, step, 1)
        checkpoints.save(state, data)
        checkpoints.save(state, data)
    checkpoints.close()
    assert sorted(path.name for path in (tmp_path / "checkpoints").iterdir()) == ["3", "4"]


def test_the_average_is_read_alone(saved):
    folder, at_2, _ = saved
    step, params = load_ema(folder)
    assert step == 2 and experiment_of(folder) == CONFIG
    assert same(params, at_2.ema)
    assert same(load_ema(folder, step=2)[1], at_2.ema)
    with pytest.raises(UserError, match="no checkpoint of step 3: there are 2"):
        load_ema(folder, step=3)


def test_the_average_of_a_folder_without_a_run_or_without_a_checkpoint_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"run\.json not found"):
        load_ema(tmp_path)
    settle(tmp_path, CONFIG, "data", None)
    with pytest.raises(UserError, match="no checkpoint yet"):
        load_ema(tmp_path)


@pytest.mark.parametrize("damage", ["state/manifest.ocdbt", "state/_METADATA", "data/process_0-of-1.json", "state"])
def test_a_damaged_checkpoint_is_named(saved, damage):
    folder, _, _ = saved
    path = folder / "checkpoints" / "2" / damage
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    _, abstract, _, _ = on_mesh(8, 4)
    checkpoints = Checkpoints(folder, keep=2)
    with pytest.raises(UserError, match=r"checkpoints/2 cannot be restored"):
        checkpoints.restore(2, abstract, iter(dataset()))
    checkpoints.close()
    if damage.startswith("state"):
        with pytest.raises(UserError, match=r"checkpoints/2 cannot be restored"):
            load_ema(folder)


def test_a_run_goes_on_only_with_its_own_settings(tmp_path):
    settle(tmp_path, SETTINGS, "data", None)
    other = replace(changed(SETTINGS, resolution=64), train=replace(SETTINGS.train, learning_rate=0.5, log_every=7))
    with pytest.raises(UserError) as caught:
        settle(tmp_path, other, "data", 2)
    assert "resolution: 32 != 64" in str(caught.value) and "train.learning_rate: 0.01 != 0.5" in str(caught.value)
    assert "log_every" not in str(caught.value)
    assert json.loads((tmp_path / "run.json").read_text())["experiment"]["system"]["resolution"] == 32


def test_lengths_cadences_and_the_sampler_may_change_and_the_change_is_kept(tmp_path):
    settle(tmp_path, SETTINGS, "data", None)
    train = replace(SETTINGS.train, num_steps=9, log_every=2, checkpoint_every=3, keep_checkpoints=1, sample_every=0)
    drawn = changed(SETTINGS, sampler=GuidedSamplerConfig(num_steps=3))
    other = replace(drawn, train=train, data=replace(SETTINGS.data, threads=9))
    assert settle(tmp_path, other, "data", 2) == SETTINGS
    run = json.loads((tmp_path / "run.json").read_text())
    assert run["history"] == [{"step": 2, "changed": list(differences(SETTINGS, other).values())}]
    assert any(line.startswith("train.num_steps: 4 != 9") for line in run["history"][0]["changed"])
    assert settle(tmp_path, other, "data", 2) == other
    assert json.loads((tmp_path / "run.json").read_text())["history"] == run["history"]


def test_data_may_move_but_not_change(tmp_path):
    settle(tmp_path, SETTINGS, "data", None)
    moved = replace(SETTINGS, data=TriplesConfig(triples="elsewhere", batch_size=SETTINGS.data.batch_size))
    settle(tmp_path, moved, "data", 2)
    with pytest.raises(UserError, match="elsewhere has another content"):
        settle(tmp_path, moved, "other data", 2)


def test_without_a_checkpoint_settings_are_free(tmp_path):
    settle(tmp_path, SETTINGS, "data", None)
    other = changed(SETTINGS, resolution=64)
    assert settle(tmp_path, other, "other data", None) is None
    assert json.loads((tmp_path / "run.json").read_text())["experiment"]["system"]["resolution"] == 64


def test_a_record_of_another_version_is_refused(tmp_path):
    settle(tmp_path, SETTINGS, "data", None)
    run = json.loads((tmp_path / "run.json").read_text())
    (tmp_path / "run.json").write_text(json.dumps({**run, "format": 2}))
    with pytest.raises(UserError, match="not of format 1"):
        settle(tmp_path, SETTINGS, "data", 2)


def test_a_run_that_an_earlier_version_began_goes_on(tmp_path):
    settle(tmp_path, SETTINGS, "data", None)
    run = json.loads((tmp_path / "run.json").read_text())
    earlier = {name: value for name, value in run.items() if name != "sha256"}
    (tmp_path / "run.json").write_text(json.dumps(earlier | {"experiment": as_version_1(SETTINGS)}))
    assert settle(tmp_path, SETTINGS, "data", 2) == SETTINGS
    assert json.loads((tmp_path / "run.json").read_text()) == run


def test_two_runs_do_not_share_a_folder(tmp_path):
    refused = pytest.raises(UserError, match="another run is training in")
    with claim(tmp_path / "run"), refused, claim(tmp_path / "run"):
        pass
    with claim(tmp_path / "run"):
        pass


def test_a_folder_that_cannot_be_written_is_refused(tmp_path):
    (tmp_path / "file").touch()
    for place in (tmp_path / "file", tmp_path / "file" / "run"):
        with pytest.raises(UserError, match="cannot write to --workdir"), claim(place):
            pass


def test_what_the_system_says_is_told_whichever_write_met_it_first(tmp_path, monkeypatch):
    """Of an array that cannot be created, tensorstore tells all it knows of the array, after the system's words."""
    (tmp_path / "file").touch()
    array = {"driver": "zarr", "kvstore": {"driver": "file", "path": str(tmp_path / "file" / "array")}}

    def create(_):
        tensorstore.open(array, create=True, dtype="float32", shape=[4096]).result()

    with closing(Checkpoints(tmp_path / "run", keep=1)) as checkpoints, monkeypatch.context() as patch:
        patch.setattr(ocp.CheckpointManager, "wait_until_finished", create)
        with pytest.raises(UserError, match=r"cannot be written \(.*Not a directory\): choose a folder you may write"):
            checkpoints.wait()


@pytest.mark.parametrize(
    ("raised", "said"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), "make room there"),
        (ValueError("RESOURCE_EXHAUSTED: Error writing local file: No space left on device"), "make room there"),
        (OSError(errno.EROFS, "Read-only file system"), "choose a folder you may write to"),
        (ValueError("PERMISSION_DENIED: Error writing local file: Permission denied"), "choose a folder you may write"),
        (ValueError("a bug of ours"), None),
    ],
)
def test_only_a_full_disk_is_told_to_be_full(tmp_path, monkeypatch, raised, said):
    def refuse(_):
        raise raised

    with closing(Checkpoints(tmp_path / "run", keep=1)) as checkpoints, monkeypatch.context() as patch:
        patch.setattr(ocp.CheckpointManager, "wait_until_finished", refuse)
        with pytest.raises(ValueError if said is None else UserError, match=said or "a bug of ours"):
            checkpoints.wait()


# --- what the bytes on a disk may become -------------------------------------------------------------------------


def restored(folder, step=2):
    """The state of a checkpoint and the position of its data, as a run on 8 devices goes on from it."""
    _, abstract, _, _ = on_mesh(8, 4)
    with closing(Checkpoints(folder, keep=2)) as checkpoints:
        data = iter(dataset())
        return checkpoints.restore(step, abstract, data), data.get_state()


def flips(folder, number, seed=0):
    """Single bits to change in the files of a folder: (file, byte, bit), as many in each file."""
    rng, files = np.random.default_rng(seed), [path for path in sorted(folder.rglob("*")) if path.is_file()]
    for path in files:
        for _ in range(-(-number // len(files))):
            yield path, int(rng.integers(path.stat().st_size)), int(rng.integers(8))


# A reader of Orbax's that has failed leaves its event loop behind.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_of_64_flipped_bits_in_a_checkpoint_none_gives_other_numbers(saved):
    """What is refused is named, with its folder; what is not is equal, bit for bit."""
    folder, at_2, _ = saved
    outcomes = Counter()
    for path, byte, bit in flips(folder / "checkpoints" / "2", 64):
        whole = path.read_bytes()
        path.write_bytes(whole[:byte] + bytes([whole[byte] ^ 1 << bit]) + whole[byte + 1 :])
        for read in (restored, load_ema):
            try:
                got = read(folder)
            except UserError as error:
                assert "checkpoints/2 cannot be restored" in str(error)
                outcomes["refused"] += 1
            else:
                assert same(got[0], at_2) if read is restored else same(got[1], at_2.ema), (path, byte, bit)
                assert read is load_ema or got[1] == {"next_index": 2}, (path, byte, bit)
                outcomes["harmless"] += 1
        path.write_bytes(whole)
    assert outcomes["refused"] >= 32 and outcomes.total() >= 128, outcomes
    assert same(restored(folder)[0], at_2)


def test_of_64_flipped_bits_in_the_record_of_a_run_none_is_other_settings(tmp_path):
    settle(tmp_path, SETTINGS, "data", None)
    whole = read_run(tmp_path)
    path, refused = tmp_path / "run.json", 0
    text = path.read_bytes()
    for _, byte, bit in flips(tmp_path, 64):
        path.write_bytes(text[:byte] + bytes([text[byte] ^ 1 << bit]) + text[byte + 1 :])
        try:
            assert read_run(tmp_path) == whole
        except UserError as error:
            assert "run.json" in str(error)
            refused += 1
    assert refused >= 32
    path.write_bytes(text.replace(b'"resolution": 32', b'"resolution": 64'))
    with pytest.raises(UserError, match=r'not as it was written.*if you changed it, remove "sha256"'):
        read_run(tmp_path)
    path.write_text(
        json.dumps({name: value for name, value in json.loads(path.read_text()).items() if name != "sha256"})
    )
    assert read_run(tmp_path)["experiment"]["system"]["resolution"] == 64


def test_a_damaged_checkpoint_is_refused_with_the_way_on(saved):
    folder, _, _ = saved
    shutil.copytree(folder / "checkpoints" / "2", folder / "checkpoints" / "7")
    for step, advice in ((7, r"delete \S*/checkpoints/7 to go on from step 2"), (2, "there is none before it")):
        position = folder / "checkpoints" / str(step) / "data" / "process_0-of-1.json"
        position.write_text('{"next_index": 3}')
        with pytest.raises(
            UserError, match=rf"checkpoints/{step} cannot be restored \(.*the position in the data.*{advice}"
        ):
            restored(folder, step)


def test_what_is_written_is_looked_for_at_once(saved):
    """As where a file system loses a file, or a library leaves its work half done."""
    folder, _, _ = saved
    mesh, abstract, init, step = on_mesh(8, 4)
    with closing(Checkpoints(folder, keep=3)) as checkpoints:
        state = advance(parallel.sharded_init(init, abstract), iter(dataset()), mesh, step, 3)
        checkpoints.save(state, iter(dataset()))
        checkpoints._manager.wait_until_finished()
        (folder / "checkpoints" / "3" / "state" / "manifest.ocdbt").unlink()
        with pytest.raises(UserError, match=r"checkpoints/3 was written, but .* not found.*another --workdir"):
            checkpoints.wait()


def test_a_checkpoint_of_an_earlier_version_is_read_also_where_its_parts_were_not_joined(saved):
    """It has no digests; in a folder with brackets in its name it had not one store of its arrays either."""
    folder, at_2, _ = saved
    step = folder / "checkpoints" / "2"
    shutil.rmtree(step / "digests")
    assert same(restored(folder)[0], at_2) and same(load_ema(folder)[1], at_2.ema)
    odd = folder.rename(folder.with_name("run[lr=1e-3]"))
    (odd / "checkpoints" / "2" / "state" / "manifest.ocdbt").unlink()
    shutil.rmtree(odd / "checkpoints" / "2" / "state" / "d")
    assert same(load_ema(odd)[1], at_2.ema) and same(restored(odd)[0], at_2)


def test_a_checkpoint_that_may_not_be_read_is_not_called_damaged(saved, monkeypatch):
    folder, _, _ = saved
    denied = folder / "checkpoints" / "2" / "state" / "manifest.ocdbt"
    denied.chmod(0)
    if os.geteuid() == 0:  # whom nothing is denied: as the system answers anybody else
        denied.unlink()
        denied.mkdir()
        monkeypatch.setattr(os, "access", lambda path, mode: Path(path) != denied)
    with pytest.raises(UserError, match=r"may not be read: \S*manifest.ocdbt is not yours to read"):
        load_ema(folder)


# --- where a run may lie -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["run[lr=1e-3]", "a*b?", "[!x]/run", "{a,b} %20 #1", "new\nline\ttab", "été~$HOME"])
def test_a_run_may_have_any_name(tmp_path, name):
    mesh, abstract, init, step = on_mesh(8, 4)
    data = iter(dataset())
    state = advance(parallel.sharded_init(init, abstract), data, mesh, step, 2)
    with claim(tmp_path / name), closing(Checkpoints(tmp_path / name, keep=2)) as checkpoints:
        settle(tmp_path / name, CONFIG, "data", None)
        checkpoints.save(state, data)
        checkpoints.wait()
    assert same(restored(tmp_path / name)[0], jax.device_get(state))
    assert same(load_ema(tmp_path / name)[1], jax.device_get(state.ema))


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("hdfs://host/run", "is an address"),
        (Path("file:///run"), "is an address"),
        ("back\\slash", "backslash"),
        ("back\\slash/run", "backslash"),
        ("\udcff", "no UTF-8 text"),
        ("/".join(["x" * 200] * 20), "too long"),
        ("x" * 256, "cannot write to --workdir"),
    ],
)
def test_a_name_that_cannot_be_read_again_is_refused_before_anything_is_made(tmp_path, monkeypatch, name, said):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=said), claim(Path(name)):
        pass
    assert list(tmp_path.iterdir()) == []


def test_a_folder_of_another_kind_does_not_become_a_run(tmp_path):
    for name in (".reimagen_jax", "experiment.json", "text_embeddings.json"):
        folder = tmp_path / f"of {name}"
        folder.mkdir()
        (folder / name).touch()
        with pytest.raises(UserError, match=r"of \S+ holds .*, not a training run: choose another"), claim(folder):
            pass
        assert [path.name for path in folder.iterdir()] == [name]


def test_of_many_reads_that_fail_one_is_told(monkeypatch, caplog):
    """As tensorstore's threads tell of a loop that Orbax has closed, and asyncio of tasks that nobody waits for."""
    told = []
    monkeypatch.setattr(sys, "unraisablehook", lambda unraisable: told.append(str(unraisable.exc_value)))

    def late(said, task):
        sys.unraisablehook(SimpleNamespace(exc_value=RuntimeError(said)))
        logging.getLogger("asyncio").error(f"Task exception was never retrieved\nfuture: {task}")

    with pytest.raises(ValueError, match="the first"), told_once():
        late("Event loop is closed", "<Task coro=<orbax.read()>>")
        raise ValueError("the first")
    late("Event loop is closed", "<Task coro=<orbax.read()>>")
    assert told == [] and caplog.records == []
    late("another", "<Task coro=<mine()>>")
    assert told == ["another"] and len(caplog.records) == 1
    logging.getLogger("asyncio").filters.clear()
    before = sys.unraisablehook
    with told_once():
        late("Event loop is closed", "<Task coro=<orbax.read()>>")
    assert sys.unraisablehook is before and not logging.getLogger("asyncio").filters
