"""A step in micro-batches is the step of the whole batch, in one loop or unrolled, on one device or on many."""

import functools
import re
from dataclasses import dataclass, replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from reimagen_jax import sharding
from reimagen_jax.encoders.settings import TextConfig
from reimagen_jax.nets.settings import Level, UNetConfig
from reimagen_jax.systems.reimagen.condition import Batch
from reimagen_jax.systems.reimagen.system import ReImagen
from reimagen_jax.training import accumulation, parallel
from reimagen_jax.training.state import init_state
from reimagen_jax.training.step import make_optimizer, train_step
from tests.tiny import TINY, changed
from tests.training.tiny_system import Regression, dataset, experiment, same


@pytest.fixture(params=["unrolled", "loop"])
def form(request, monkeypatch):
    """Both forms of the loop over micro-batches: that of CPUs and that of accelerators."""
    if request.param == "loop":
        as_on_accelerators(monkeypatch)
    return request.param


def as_on_accelerators(monkeypatch):
    monkeypatch.setattr(jax.lax, "platform_dependent", lambda cpu, default: default())


def assert_close(a, b):
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=2e-4, atol=2e-6), a, b)


def after(system, num_devices, fsdp, num_steps=3, **settings):
    """State and metrics after some steps of 16 examples."""
    config = experiment(**settings).train
    mesh, optimizer = sharding.make_mesh(fsdp, jax.devices()[:num_devices]), make_optimizer(config)
    init = functools.partial(init_state, system, optimizer, jax.random.key(0))
    abstract = parallel.abstract_state(init, mesh)
    step = parallel.jit_step(train_step(parallel.Gathered(system, mesh), optimizer, config), abstract, mesh)
    state, batches = parallel.sharded_init(init, abstract), iter(dataset())
    for _ in range(num_steps):
        state, metrics = step(state, sharding.global_batch(next(batches), mesh), jax.random.key(7))
    return jax.device_get((state, metrics))


def test_micro_batches_make_the_whole_batchs_update(form):
    """A system without noise of its own, so that nothing but the cut differs."""
    system = Regression(noise=0.0)
    whole = after(system, 1, 1)
    for accumulate in (2, 16):
        assert_close(after(system, 1, 1, accumulate=accumulate), whole)


@dataclass(frozen=True)
class InMicroBatches:
    """A system's loss as the mean over micro-batches, each with its own key, in one gradient."""

    system: Regression
    parts: int

    def init(self, key):
        return self.system.init(key)

    def loss(self, params, batch, key, *, ema):
        keys = jax.vmap(jax.random.fold_in, (None, 0))(key, jnp.arange(self.parts))
        losses = jax.vmap(self.system.loss, (None, 0, 0))(params, accumulation.cut(batch, self.parts), keys)
        return jax.tree.map(jnp.mean, losses)


def test_micro_batches_on_many_devices_are_those_of_one_each_with_its_own_noise(form):
    noisy = Regression(noise=0.5)
    one = after(InMicroBatches(noisy, 2), 1, 1)
    assert_close(after(noisy, 8, 4, accumulate=2), one)
    assert not same(after(noisy, 1, 1, accumulate=1)[0].params, one[0].params)


def test_every_example_is_in_one_micro_batch_and_stays_on_its_device():
    """With 16 examples on 8 devices, device d has examples 2 d and 2 d + 1: one for each of two micro-batches."""
    mesh = sharding.make_mesh(2)
    batch = sharding.global_batch({"x": np.arange(16, dtype=np.int32)}, mesh)
    parts = jax.jit(lambda batch: accumulation.cut(batch, 2))(batch)["x"]
    np.testing.assert_array_equal(np.sort(np.asarray(parts).ravel()), np.arange(16))
    home = {int(number): shard.device for shard in batch["x"].addressable_shards for number in shard.data}
    for shard in parts.addressable_shards:
        assert shard.data.shape == (2, 1)
        assert all(home[int(number)] == shard.device for number in shard.data.ravel())


def test_what_does_not_divide_is_refused():
    with pytest.raises(ValueError, match="a batch of 6 cannot be cut into 4"):
        accumulation.cut({"x": jnp.zeros((6, 2))}, 4)


# --- the compiled step -------------------------------------------------------------------------------------------


def test_the_sum_of_gradients_is_kept_in_parts(monkeypatch):
    """What the loop carries has a parameter's share of a device, never its whole."""
    as_on_accelerators(monkeypatch)
    config, mesh, system = experiment(accumulate=4).train, sharding.make_mesh(8), Regression(width=1024)
    program = compiled(system, config, mesh, next(iter(dataset(32))))
    loops = [line for line in program.splitlines() if " while(" in line and "f32[128,33]" in line]
    assert len(loops) == 1, "the table, [1024, 33], in eight"
    carried = loops[0].split(" while(")[0]
    assert "f32[32,128]" in carried and carried.count("f32[1024,33]") == 0


def compiled(system, config, mesh, batch):
    """The optimized program of a step, as text."""
    optimizer = make_optimizer(config)
    init = functools.partial(init_state, system, optimizer, jax.random.key(0))
    abstract = parallel.abstract_state(init, mesh)
    step = parallel.jit_step(train_step(parallel.Gathered(system, mesh), optimizer, config), abstract, mesh)
    return step.lower(abstract, batch, jax.eval_shape(jax.random.key, 7)).compile().as_text()


COLLECTIVES = "all-gather|all-reduce|reduce-scatter|all-to-all|ragged-all-to-all|collective-[a-z]+"
COLLECTIVE = re.compile(rf" = (.*?) ({COLLECTIVES})(?:-start)?\(")


def test_of_a_re_imagens_step_only_parameters_and_sums_travel(monkeypatch):
    """On (data 2, fsdp 4): no example, feature map, attention or neighbour moves from device to device.

    The network is small but has all kinds of layers, and matrices that Adafactor factors.
    """
    as_on_accelerators(monkeypatch)
    levels = (Level(32, 1), Level(128, 1, self_attention=True, neighbour_attention=True))
    unet = UNetConfig(levels, head_width=32, groups=8, cond_width=160)
    text = TextConfig(max_bytes=24, width=96, depth=1, head_width=32)
    config = changed(TINY, resolution=8, unet=unet, text=text)
    train = replace(config.train, optimizer="adafactor", accumulate=2)
    mesh, B, K, L, R = sharding.make_mesh(4), 48, 2, text.max_bytes, config.system.resolution
    image, tokens = np.zeros((B, K, R, R, 3), np.uint8), np.zeros((B, K, L), np.int32)
    batch = Batch(image[:, 0], tokens[:, 0], image, tokens, np.ones((B, K), bool))
    program = compiled(ReImagen(config), train, mesh, batch)
    found = [(kind, shapes(result)) for result, kind in COLLECTIVE.findall(program)]
    assert {kind for kind, _ in found} <= {"all-gather", "all-reduce", "reduce-scatter"}

    state = jax.eval_shape(lambda: init_state(ReImagen(config), make_optimizer(train), jax.random.key(0)))
    of_state = {leaf.shape for leaf in jax.tree.leaves(state)}
    gathered = [shape for kind, result in found if kind == "all-gather" for shape in result]
    assert gathered and {plain(shape) for shape in gathered} <= {plain(shape) for shape in of_state}


def shapes(result):
    """Of what an instruction returns: `f32[3,4]{1,0}`, or several in parentheses."""
    return [tuple(map(int, dims.split(","))) if dims else () for dims in re.findall(r"\w+\[([\d,]*)\]", result)]


def plain(shape):
    """A shape without its order of axes and ones, which compilers change."""
    return tuple(sorted(size for size in shape if size > 1))
