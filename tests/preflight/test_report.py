"""The report: what is said of a program, from its text and its sizes."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from reimagen_jax import sharding
from reimagen_jax.config import TrainConfig
from reimagen_jax.errors import UserError
from reimagen_jax.preflight import programs, report
from reimagen_jax.preflight.chips import GIB, parse_slice
from reimagen_jax.preflight.gpus import parse_hosts
from reimagen_jax.preflight.programs import Program
from reimagen_jax.pretrained import weights
from reimagen_jax.training import parallel
from reimagen_jax.training.state import init_state
from reimagen_jax.training.step import make_optimizer, train_step
from tests.fake_encoder import FROZEN
from tests.tiny import TINY, TINY_CROPS, TINY_SR, changed
from tests.training.tiny_system import Regression

CUBE = parse_slice("v4:2x2x2")


@pytest.fixture(scope="module")
def mesh():
    return sharding.make_mesh(4)


def regression_program(mesh, gathered):
    """A training step, compiled in a second; with `gathered`, its parameters travel and its activations do not."""
    system, train = Regression(), TrainConfig(fsdp=4)
    optimizer = make_optimizer(train)
    abstract = parallel.abstract_state(lambda: init_state(system, optimizer, jax.random.key(0)), mesh)
    step = train_step(parallel.Gathered(system, mesh) if gathered else Replicating(system, mesh), optimizer, train)
    where = sharding.batch_sharding(mesh)
    batch = {
        "x": jax.ShapeDtypeStruct((1024, 32), jnp.float32, sharding=where),
        "y": jax.ShapeDtypeStruct((1024,), jnp.float32, sharding=where),
        "index": jax.ShapeDtypeStruct((1024,), jnp.int32, sharding=where),
    }
    return Program(
        name="train",
        jitted=parallel.jit_step(step, abstract, mesh),
        arguments=(abstract, batch, jax.eval_shape(lambda: jax.random.key(0))),
        held={"parameters": abstract.params, "optimizer": abstract.opt_state, "batch": batch},
        state=programs.state_shapes((abstract.params, abstract.opt_state)),
        images=1024,
        model_flops=3 * 1024 * 2 * (32 * 128 + 128),
    )


@dataclasses.dataclass(frozen=True)
class Replicating:
    """A mistake: every device gets every example, so the batch travels."""

    system: Regression
    mesh: jax.sharding.Mesh

    def init(self, key):
        return self.system.init(key)

    def loss(self, params, batch, key, *, ema):
        whole = jax.lax.with_sharding_constraint((params, batch), NamedSharding(self.mesh, P()))
        return self.system.loss(*whole, key, ema=ema)


def test_a_sound_step_moves_parameters_and_gradients_alone(mesh):
    found = report.examine(regression_program(mesh, gathered=True), TINY, CUBE, mesh)
    assert found.sound and found.memory.fits and not found.advice
    purposes = {row.purpose for row in found.collectives}
    assert {"parameters", "gradients"} <= purposes <= {"parameters", "gradients", "small"}
    # A device gives its quarter of each big parameter to three others, at least once a step.
    gathers = [row for row in found.collectives if row.kind == "all-gather" and row.purpose == "parameters"]
    assert gathers[0].sent >= 4 * (32 * 128 + 128 * 33) * 3 / 4
    assert all(row.count >= 1 and row.seconds > 0 for row in found.collectives)
    assert found.memory.held["parameters"] < found.memory.held["optimizer"]
    assert found.memory.peak >= found.memory.arguments


def test_activations_between_devices_are_found_out(mesh):
    found = report.examine(regression_program(mesh, gathered=False), TINY, CUBE, mesh)
    assert not found.sound
    assert any("[1024, 32]" in line for line in found.activations)
    assert "ACTIVATIONS TRAVEL" in report.table(found)


def test_what_does_not_fit_says_so_and_what_to_change(mesh):
    small = dataclasses.replace(CUBE, chip=dataclasses.replace(CUBE.chip, hbm=2**17, reserved=2**15))
    found = report.examine(regression_program(mesh, gathered=True), TINY, small, mesh)
    assert not found.memory.fits
    assert any("--unet.remat" in line for line in found.advice)
    text = report.table(found)
    assert "DOES NOT FIT" in text and found.advice[0] in text
    whole = json.loads(json.dumps(report.to_dict(found)))
    assert whole["fits"] is False and whole["sound"] is True
    assert whole["roofline"]["limit"] in ("compute", "memory", "network")


def test_a_program_that_the_compiler_refuses_is_reported(mesh):
    class Refused:
        def lower(self, *_):
            return self

        def compile(self):
            raise jax.errors.JaxRuntimeError(
                "RESOURCE_EXHAUSTED: Ran out of memory on HBM, the total memory required for HLO temporaries (40.25G) "
                "exceeds available HBM (30.75G)."
            )

    program = dataclasses.replace(regression_program(mesh, gathered=True), jitted=Refused())
    found = report.examine(program, TINY, CUBE, mesh)
    assert (found.memory.peak, found.memory.available) == (40.25 * GIB, 30.75 * GIB)
    assert found.roofline is None and not found.memory.fits
    assert "131% of 30.75: DOES NOT FIT" in report.table(found)
    assert json.loads(json.dumps(report.to_dict(found)))["memory"]["temporaries"] is None


def test_sizes_in_the_compilers_words():
    old = "Ran out of memory in memory space hbm. Used 45.52G of 30.75G hbm. Exceeded hbm capacity by 14.77G."
    assert report.refused_sizes(old) == (int(45.52 * GIB), int(30.75 * GIB))
    with pytest.raises(ValueError, match="no sizes"):
        report.refused_sizes("RESOURCE_EXHAUSTED: something else")


def test_the_roofline_is_the_slowest_of_three():
    chip = CUBE.chip
    found = report.roofline(CUBE, 2 * chip.flops, chip.hbm_bandwidth, 0.5, model_flops=8 * chip.flops)
    assert (found.compute, found.memory, found.network) == (2.0, 1.0, 0.5)
    assert (found.bound, found.limit) == (2.0, "compute")
    assert found.mfu == 0.5  # one second's worth of useful work on each of 8 chips, in two seconds
    slow = report.roofline(CUBE, chip.flops, chip.hbm_bandwidth, 4.0, model_flops=8 * chip.flops)
    assert (slow.limit, slow.mfu) == ("network", 0.25)


def test_arrays_are_told_apart_by_their_sides():
    state = [(3, 3, 256, 512), (3, 3, 256, 64), (512,)]
    assert report.purpose("all-gather", (3, 3, 256, 512), state) == "parameters"
    assert report.purpose("reduce-scatter", (512, 3, 3, 256), state) == "gradients"  # transposed
    assert report.purpose("all-reduce", (1, 3, 3, 256, 64), state) == "gradients"  # a device's share
    assert report.purpose("all-gather", (32, 64, 64, 512), state) == "activations"
    assert report.purpose("all-reduce", (32,), state) == "small"


def test_shares_that_do_not_divide_evenly_are_padded_and_passed_on():
    # As measured: [1152, 3456] over 16 chips, 216 columns each, which tiles round up to 224.
    state = [(1152, 3456), (1152, 1152), (3, 3, 1024)]
    assert report.purpose("reduce-scatter", (1152, 3584), state) == "gradients"
    assert report.purpose("collective-permute", (1152, 120), state) == "parameters"
    assert report.purpose("all-gather", (1152, 120), state) == "activations"
    assert report.purpose("collective-permute", (1152, 512), state) == "activations"
    assert report.purpose("reduce-scatter", (1152, 4096), state) == "activations"
    # Gradients of many layers in one flat array; one of one layer could be anything.
    joined = "jit(step)/(transpose(jvp(UNet))/up3/conv2/transpose:transpose(jvp(UNet))/up3/conv1/transpose)"
    assert report.purpose("all-reduce", (811008,), state, joined) == "gradients"
    assert report.purpose("all-reduce", (811008,), state, joined.split(":")[0]) == "activations"
    # The optimizer's statistics, in another shape; the same in the loss could be anything.
    assert report.purpose("all-gather", (16, 64, 9), state, "jit(step)/mul") == "parameters"
    assert report.purpose("all-gather", (16, 64, 9), state, "jit(step)/jvp(UNet)/mul") == "activations"


def advised(state=GIB, images=64, where=CUBE, **settings):
    unet = dataclasses.replace(TINY.system.unet, remat=settings.pop("remat", "blocks"))
    config = dataclasses.replace(changed(TINY, unet=unet), train=dataclasses.replace(TINY.train, **settings))
    config = dataclasses.replace(config, data=dataclasses.replace(config.data, batch_size=images))
    program = Program("train", None, (), {}, (), images, 0.0)
    memory = report.Memory({"parameters": state, "batch": 0}, None, None, 40 * GIB, 30 * GIB)
    return " ".join(report.advice(program, config, where, memory))


def test_advice_is_about_what_is_still_to_be_had():
    assert "--train.accumulate 4" in advised(accumulate=2)
    assert "--train.accumulate" not in advised(images=8)
    assert "--unet.remat blocks" in advised(remat="none")
    assert "--unet.remat" not in advised()
    assert "--train.fsdp 4, or 8" in advised(state=20 * GIB, fsdp=2)
    assert "--train.fsdp" not in advised(state=GIB)
    assert "adafactor" in advised() and "adafactor" not in advised(optimizer="adafactor")
    assert "10.0 GiB more memory" in advised(images=8, optimizer="adafactor")
    assert report.IN_ORDER in advised(where=parse_hosts("h100:8"))
    assert report.IN_ORDER not in advised() + advised(where=parse_hosts("rtx4090:1"))


def test_programs_of_an_experiment(mesh):
    config = dataclasses.replace(TINY, train=dataclasses.replace(TINY.train, fsdp=4, accumulate=2))
    config = dataclasses.replace(config, data=dataclasses.replace(config.data, batch_size=32))
    program = programs.train_program(config, mesh)
    twice = dataclasses.replace(config, data=dataclasses.replace(config.data, batch_size=64))
    assert programs.train_program(twice, mesh).model_flops == 2 * program.model_flops
    held = {name: programs.bytes_per_device(tree) for name, tree in program.held.items()}
    assert held["parameters"] == held["averaged parameters"]
    assert held["optimizer"] > 2 * held["parameters"]  # two moments, and counts
    K, R, L = config.data.num_neighbours, config.system.resolution, config.system.text.max_bytes
    assert held["batch"] == 4 * ((1 + K) * (3 * R * R + 4 * L) + K)  # 32 examples on 8 devices
    whole = sum(leaf.size * 4 for leaf in jax.tree.leaves(program.held["parameters"]))
    assert whole / 4 < held["parameters"] < whole
    with pytest.raises(UserError, match="not divisible"):
        programs.train_program(dataclasses.replace(config, data=dataclasses.replace(config.data, batch_size=24)), mesh)


EMBEDDED = changed(TINY_CROPS, text=dataclasses.replace(TINY.system.text, frozen=FROZEN))


@pytest.mark.parametrize("config", [TINY_SR, EMBEDDED], ids=["with neighbours", "crops, frozen text"])
def test_programs_of_all_kinds_of_stages_lower(mesh, config):
    for program in (programs.train_program(config, mesh), programs.sampler_program(config, mesh, 8)):
        assert program.model_flops > 0
        assert "stablehlo" in program.jitted.lower(*program.arguments).as_text()


def test_the_samplers_work_grows_with_steps_and_images(mesh):
    def work(steps, images):
        config = changed(TINY, sampler=dataclasses.replace(TINY.system.sampler, num_steps=steps))
        program = programs.sampler_program(config, mesh, images)
        assert programs.bytes_per_device(program.held["parameters"]) == sum(
            leaf.size * 4 for leaf in jax.tree.leaves(program.held["parameters"])
        )
        return program.model_flops

    few, more = work(2, 8), work(3, 8)
    assert 2 * (more - few) < few  # the neighbours are encoded once, whatever the steps
    assert work(2, 16) == 2 * few


def test_weights_stored_as_bfloat16_are_held_as_they_are_read(mesh, tmp_path):
    held = programs.sampler_program(TINY, mesh, 8, "bfloat16").held["parameters"]
    params = jax.tree.map(lambda leaf: np.zeros(leaf.shape, np.float32), held)
    weights.save_params(tmp_path / weights.WEIGHTS, params, jnp.bfloat16)
    read = weights.load_params(tmp_path / weights.WEIGHTS, params, on_host=True)
    dtypes = [leaf.dtype for leaf in jax.tree.leaves(held)]
    assert dtypes == [leaf.dtype for leaf in jax.tree.leaves(read)]
    assert set(dtypes) == {jnp.dtype(jnp.bfloat16), jnp.dtype(jnp.float32)}


@pytest.mark.parametrize("platform", ["tpu", "cuda"])
def test_what_is_decided_by_the_device_is_decided_as_there(platform):
    assert programs.for_platform(TINY, platform).system.unet.attention == "xla"
    half = changed(TINY, unet=dataclasses.replace(TINY.system.unet, dtype="bfloat16"))
    assert programs.for_platform(half, platform).system.unet.attention == ("cudnn" if platform == "cuda" else "xla")
    chosen = changed(TINY, unet=dataclasses.replace(TINY.system.unet, attention="einsum"))
    assert programs.for_platform(chosen, platform) == chosen
