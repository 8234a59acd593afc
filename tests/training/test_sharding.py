"""A sharded step is the unsharded step: same numbers, less memory per device; and pmap is the same again."""

import functools
import re
from dataclasses import dataclass, replace

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import PartitionSpec as P

from reimagen_jax import sharding
from reimagen_jax.errors import UserError
from reimagen_jax.nets.conditioning import Conditioning
from reimagen_jax.nets.settings import UNetConfig
from reimagen_jax.training import parallel
from reimagen_jax.training.state import init_state
from reimagen_jax.training.step import make_optimizer, train_step
from tests.training.tiny_system import Regression, dataset, experiment, same

CONFIG = experiment(num_steps=4).train


def prepare(num_devices, fsdp, system=None, config=CONFIG):
    """Mesh, state and compiled step on the first devices."""
    mesh = sharding.make_mesh(fsdp, jax.devices()[:num_devices])
    optimizer, system = make_optimizer(config), system or Regression()
    init = functools.partial(init_state, system, optimizer, jax.random.key(0))
    abstract = parallel.abstract_state(init, mesh)
    step = parallel.jit_step(train_step(parallel.Gathered(system, mesh), optimizer, config), abstract, mesh)
    return mesh, parallel.sharded_init(init, abstract), step


def after(num_steps, num_devices, fsdp, **settings):
    """State and metrics after some steps on a mesh, as numpy."""
    mesh, state, step = prepare(num_devices, fsdp, **settings)
    batches = iter(dataset())
    for _ in range(num_steps):
        state, metrics = step(state, sharding.global_batch(next(batches), mesh), jax.random.key(7))
    return jax.device_get((state, metrics))


def assert_close(a, b):
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=2e-4, atol=2e-6), a, b)


@pytest.mark.parametrize("fsdp", [1, 2, 8])
def test_sharded_training_equals_unsharded(fsdp):
    assert_close(after(4, 8, fsdp), after(4, 1, 1))


def test_sharded_training_by_adafactor_equals_unsharded():
    settings = {"system": Deep(), "config": ADAFACTOR}
    assert_close(after(4, 8, 4, **settings), after(4, 1, 1, **settings))


@pytest.mark.parametrize("fsdp", [1, 4])
def test_the_first_state_is_the_same_on_every_mesh_bit_for_bit(fsdp):
    _, whole, _ = prepare(1, 1)
    _, sharded, _ = prepare(8, fsdp)
    assert same(whole, sharded)


def bytes_per_device(tree):
    totals = dict.fromkeys(jax.devices(), 0)
    for leaf in jax.tree.leaves(tree):
        for shard in leaf.addressable_shards:
            totals[shard.device] += shard.data.nbytes
    return set(totals.values())


def test_parameters_average_and_moments_are_split_over_the_devices():
    mesh, state, step = prepare(8, 8)
    large = 4 * (32 * 128 + 128 * 33)  # hidden/kernel and table; the rest is small and whole
    small = 4 * (128 + 128)
    for _ in range(2):
        assert bytes_per_device(state.params) == {large // 8 + small}
        assert bytes_per_device(state.ema) == {large // 8 + small}
        moments = state.opt_state[1][0]
        assert bytes_per_device((moments.mu, moments.nu)) == {2 * (large // 8 + small)}
        state, _ = step(state, sharding.global_batch(next(iter(dataset())), mesh), jax.random.key(7))


@dataclass(frozen=True)
class Deep(Regression):
    """With a stack of matrices large enough for Adafactor to factor, and its factors for sharding."""

    def init(self, key):
        return super().init(key) | {"stack": {"kernel": jnp.full((64, 128, 128), 1e-3)}}

    def loss(self, params, batch, key, *, ema=None):
        loss, metrics = super().loss(params, batch, key)
        return loss + jnp.square(params["stack"]["kernel"]).mean() * batch["x"].mean(), metrics


ADAFACTOR = replace(CONFIG, optimizer="adafactor")


def test_adafactors_factored_moments_are_small_and_split_too():
    mesh, state, step = prepare(8, 8, Deep(), ADAFACTOR)
    state, _ = step(state, sharding.global_batch(next(iter(dataset())), mesh), jax.random.key(7))
    moments = optax.tree.get(state.opt_state, "v_row"), optax.tree.get(state.opt_state, "v_col")
    assert [tree["stack"]["kernel"].shape for tree in moments] == [(64, 128), (64, 128)]
    assert bytes_per_device([tree["stack"]["kernel"] for tree in moments]) == {2 * 4 * 64 * 128 // 8}
    whole = optax.tree.get(state.opt_state, "v")
    assert whole["stack"]["kernel"].shape == (1,)
    assert bytes_per_device(whole["table"]) == {4 * 128 * 33 // 8}
    assert bytes_per_device((state.params["stack"], state.ema["stack"])) == {2 * 4 * 64 * 128 * 128 // 8}


def test_parameters_travel_and_activations_do_not():
    mesh, state, step = prepare(8, 4)
    batch = sharding.global_batch(next(iter(dataset())), mesh)
    program = step.lower(state, batch, jax.random.key(7)).compile().as_text()
    used = {name for name in COLLECTIVES if re.search(rf" {name}(-start)?\(", program)}
    assert "all-gather" in used and used <= {"all-gather", "all-reduce", "reduce-scatter"}


class Pooling:
    """A system that pools texts by attention; it draws no random numbers."""

    net = Conditioning(UNetConfig(cond_width=32, text_width=64, head_width=8, groups=8, text_pooling="attention"))
    text = np.random.default_rng(0).normal(size=(16, 5, 64)).astype(np.float32)
    batch = (np.linspace(0, 1, 16, dtype=np.float32), text, np.ones((16, 5), bool))

    def init(self, key):
        return self.net.init(key, *map(jnp.asarray, self.batch))

    def loss(self, params, batch, key, *, ema):
        t_B, text_BLD, mask_BL = batch
        return (self.net.apply(params, t_B, text_BLD, mask_BL) ** 2).mean(), {}


@pytest.mark.parametrize(("fsdp", "pinned"), [(1, 0), (4, 2)])
def test_keys_and_values_of_pooled_text_stay_with_the_batch_and_so_does_their_gradient(fsdp, pinned):
    """Left to itself, XLA for GPUs splits them by heads, where a kernel's gradient is, and moves all of them."""
    mesh, system = sharding.make_mesh(fsdp), Pooling()
    params = jax.jit(system.init)(jax.random.key(0))
    where = sharding.state_sharding({"params": params}, mesh)["params"]

    def gradient(system):
        return jax.grad(lambda params, batch: system.loss(params, batch, None, ema={})[0])

    step = jax.jit(gradient(parallel.Gathered(system, mesh)), in_shardings=(where, sharding.batch_sharding(mesh)))
    lines = [line for line in step.lower(params, system.batch).as_text().splitlines() if "tensor<16x6x128xf32>" in line]
    constraints = [line for line in lines if "sharding_constraint" in line]
    assert len(constraints) == pinned and all('[{"data", "fsdp"}, {}, {}]' in line for line in constraints)
    sharded, whole = step(params, system.batch), jax.jit(gradient(system))(params, system.batch)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6), sharded, whole)


COLLECTIVES = ("all-gather", "all-reduce", "reduce-scatter", "all-to-all", "collective-permute", "collective-broadcast")


def test_the_batch_is_split_over_all_devices():
    mesh = sharding.make_mesh(2)
    batch = sharding.global_batch({"x": np.arange(16.0, dtype=np.float32)}, mesh)["x"]
    assert {shard.data.shape for shard in batch.addressable_shards} == {(2,)}
    np.testing.assert_array_equal(batch, np.arange(16.0))


def test_rules_come_before_the_fallback_and_small_leaves_stay_whole():
    mesh = sharding.make_mesh(4)
    spec = functools.partial(sharding.leaf_spec, mesh=mesh, min_size=64)
    assert spec("params/conv/kernel", (3, 3, 128, 64)) == P(None, None, None, "fsdp")
    assert spec("opt_state/1/0/mu/conv/kernel", (3, 3, 128, 64)) == P(None, None, None, "fsdp")
    assert spec("params/conv/kernel", (3, 3, 128, 6)) == P(None, None, "fsdp", None), "6 does not divide: fallback"
    assert spec("params/text/position", (1, 24, 40)) == P(None, None, "fsdp")
    assert spec("params/text/position", (1, 24, 39)) == P(None, "fsdp", None)
    assert spec("params/odd", (9, 13)) == P()
    assert spec("params/norm/scale", (512,)) == P()
    assert spec("params/text/embed/embedding", (257, 48)) == P()
    assert spec("params/conv/kernel", (1, 1, 4, 4)) == P(), "fewer elements than min_size"
    assert spec("params/table", (8, 64), rules=[("table", P("data", None))]) == P("data", None)


def test_without_fsdp_everything_is_whole():
    assert sharding.leaf_spec("params/conv/kernel", (3, 3, 128, 64), sharding.make_mesh(1)) == P()


def test_what_does_not_divide_is_refused():
    with pytest.raises(UserError, match="fsdp 3 does not divide the 8 devices"):
        sharding.make_mesh(3)
    with pytest.raises(UserError, match=r"batch_size 12 is not divisible by the 8 devices: use 8"):
        sharding.check_batch_size(12, sharding.make_mesh(2))
    with pytest.raises(UserError, match="use 8"):
        sharding.check_batch_size(3, sharding.make_mesh(1))
    sharding.check_batch_size(16, sharding.make_mesh(2))
    sharding.check_batch_size(16, sharding.make_mesh(2), accumulate=2)
    with pytest.raises(UserError, match=r"16 is not divisible by the 8 devices times train.accumulate 4: use 32"):
        sharding.check_batch_size(16, sharding.make_mesh(2), accumulate=4)


@dataclass(frozen=True)
class InShares:
    """A system's loss as the mean over the devices' shares, each with its own key: what a map over devices computes."""

    system: Regression
    shares: int

    def init(self, key):
        return self.system.init(key)

    def loss(self, params, batch, key, *, ema):
        batch = jax.tree.map(lambda leaf: leaf.reshape(self.shares, -1, *leaf.shape[1:]), batch)
        keys = jax.vmap(jax.random.fold_in, (None, 0))(key, jnp.arange(self.shares))
        return jax.tree.map(jnp.mean, jax.vmap(self.system.loss, (None, 0, 0))(params, batch, keys))


def test_pmap_gives_the_update_of_jit():
    optimizer, system = make_optimizer(CONFIG), Regression(noise=0.5)
    mapped = parallel.pmap_step(train_step(system, optimizer, CONFIG, axis_name="devices"), "devices")
    mesh, state, step = prepare(8, 2, InShares(system, 8))
    other = init_state(system, optimizer, jax.random.key(0))
    batches = iter(dataset())
    for _ in range(4):
        batch = next(batches)
        state, metrics = step(state, sharding.global_batch(batch, mesh), jax.random.key(7))
        per_device = jax.tree.map(lambda leaf: leaf.reshape(8, -1, *leaf.shape[1:]), batch)
        other, other_metrics = mapped(other, per_device, jax.random.key(7))
        assert_close(jax.device_get((state, metrics)), jax.device_get((other, other_metrics)))
