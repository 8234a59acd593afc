"""A small real system for tests of the loop: noisy linear regression, two layers, any batch of {"x", "y"}.

It is a kind of its own, which is known as soon as this module is imported.
"""

from contextlib import closing
from dataclasses import dataclass, replace
from typing import ClassVar

import grain
import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp

from reimagen_jax.config import DataConfig, Experiment, SystemConfig, TrainConfig
from reimagen_jax.systems import kinds


@dataclass(frozen=True)
class RegressionConfig(SystemConfig):
    """What `run.json` says of the system."""

    kind: ClassVar[str] = "regression"

    noise: float = 0.1
    width: int = 128


@dataclass(frozen=True)
class Regression:
    """y ~ w2 tanh(w1 x + b1): the parameters' names and sizes are such that rules and fallback both apply."""

    noise: float = 0.1
    width: int = 128
    explode_at: int = -1
    """The example of this number has a loss that is not a number."""

    @classmethod
    def of(cls, config):
        """The system of an experiment."""
        return cls(config.system.noise, config.system.width)

    def init(self, key):
        key1, key2 = jax.random.split(key)
        return {
            "hidden": {"kernel": jax.random.normal(key1, (32, self.width)) * 0.2, "bias": jnp.zeros(self.width)},
            "out": {"kernel": jax.random.normal(key2, (self.width, 1)) * 0.1},
            "table": jnp.ones((self.width, 33)),
        }

    def loss(self, params, batch, key, *, ema=None):
        x = batch["x"] + self.noise * jax.random.normal(key, batch["x"].shape)
        hidden = jnp.tanh(x @ params["hidden"]["kernel"] + params["hidden"]["bias"][None, :])
        error = (hidden @ params["out"]["kernel"])[:, 0] - batch["y"] + 0.01 * params["table"].mean()
        error = jnp.where(batch["index"] == self.explode_at, jnp.nan, error)
        return (error**2).mean(), {"absolute_error": jnp.abs(error).mean()}


def _example(index, rng):
    x = rng.standard_normal(32, dtype=np.float32)
    return {"x": x, "y": np.float32(np.sin(x.sum())), "index": np.int32(index)}


def dataset(batch_size=16, epochs=None, lazy=False, ragged=False):
    """1,000 examples, shuffled, repeated; read ahead by threads as the real loader does, or indexed (`lazy`)."""
    source = grain.MapDataset.range(1000).seed(0).shuffle().repeat(epochs).random_map(_example)
    source = source.batch(batch_size, drop_remainder=not ragged)
    return source if lazy else source.to_iter_dataset(grain.ReadOptions(num_threads=2, prefetch_buffer_size=4))


@dataclass(frozen=True)
class RegressionFeed:
    """The data set above, in batches as an experiment wants them."""

    config: Experiment
    fingerprint: ClassVar[str] = "1,000 examples"

    def settled(self):
        return self

    def dataset(self, process_index=None, process_count=None):
        return dataset(self.config.data.batch_size)

    def preview(self, batch):
        return None


kinds.register(kinds.Kind(RegressionConfig, Regression.of, RegressionFeed))


def experiment(batch_size=16, **train):
    """Few steps; any field of TrainConfig may be given."""
    settings = TrainConfig(num_steps=4, warmup_steps=2, learning_rate=1e-2, log_every=1, checkpoint_every=1000)
    data = DataConfig(batch_size=batch_size)
    return Experiment("tiny", RegressionConfig(), data, train=replace(settings, **train))


def same(a, b):
    """Whether two trees are equal bit for bit."""
    leaves_a, leaves_b = jax.tree.leaves(a), jax.tree.leaves(b)
    assert jax.tree.structure(a) == jax.tree.structure(b)
    return all(np.asarray(x).tobytes() == np.asarray(y).tobytes() for x, y in zip(leaves_a, leaves_b, strict=True))


def read_state(workdir, step):
    """Everything in a checkpoint's state, as numpy; for comparisons without the system at hand."""
    path = workdir.absolute() / "checkpoints" / str(step) / "state"
    with closing(ocp.PyTreeCheckpointHandler()) as reader:
        tree = reader.metadata(path).tree
        as_numpy = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), tree)
        return reader.restore(path, args=ocp.args.PyTreeRestore(restore_args=as_numpy))
