"""The rater's loss on renders that a step makes for itself, and its readings.

loss = CE(category) + sum_p CE(v_p of the true category) + sum_a CE(scene attribute a)          (1)
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int, Int32, Key, UInt8

from reimagen_jax.config import Experiment
from reimagen_jax.data.entityworld import Scene
from reimagen_jax.systems.base import Metrics, Params
from reimagen_jax.systems.rater.net import SCENE_NAMES, Logits, RaterNet, of_category
from reimagen_jax.systems.rater.rendering import draw_batch
from reimagen_jax.systems.rater.settings import RaterSampler, RaterSystemConfig


class RaterBatch(NamedTuple):
    """Which renders of a step an example is."""

    index_B: Int32[Array, " b"]
    """In 0 .. data.batch_size - 1; what is rendered comes from the step's key."""


class RaterInputs(NamedTuple):
    """Images to read."""

    image_BHWC: UInt8[Array, "b r r 3"]


@dataclass(frozen=True)
class RaterSystem:
    """The system that an experiment describes; holds settings only."""

    config: Experiment

    @property
    def model(self) -> RaterSystemConfig:
        """The experiment's settings of this system."""
        return self.config.system

    @property
    def settings(self) -> RaterSampler:
        return self.model.sampler

    @property
    def net(self) -> RaterNet:
        return RaterNet(self.model.network)

    def init(self, key: Key[Array, ""]) -> Params:
        """Random parameters."""
        side = self.model.network.resolution
        return self.net.init(key, jnp.zeros((1, side, side, 3)))["params"]

    def loss(
        self, params: Params, batch: RaterBatch, key: Key[Array, ""], *, ema: Params | None = None
    ) -> tuple[Float[Array, ""], Metrics]:
        """(1) of fresh renders."""
        looks, scenes, images = draw_batch(key, batch.index_B, self.config.data.batch_size, self.model)
        logits = self.net.apply({"params": params}, images, scenes.position, scenes.size)
        return loss(logits, looks, scenes), {}

    def sample(
        self, params: Params, inputs: RaterInputs, keys_B: Key[Array, " b"], settings: RaterSampler
    ) -> Float[Array, "b d"]:
        """What images show, as `settings.of` says, a row for each. Nothing is random: the keys are not used."""
        logits = self.net.apply({"params": params}, inputs.image_BHWC.astype(jnp.float32) / 255.0)
        parts = logits if settings.of == "logits" else [part.argmax(axis=-1) for part in logits]
        rows = [part.reshape(len(inputs.image_BHWC), -1).astype(jnp.float32) for part in parts]
        return jnp.concatenate(rows, axis=1)

    def batch_spec(self, B: int) -> RaterBatch:
        return RaterBatch(jax.ShapeDtypeStruct((B,), jnp.int32))

    def inputs_spec(self, B: int, settings: RaterSampler) -> RaterInputs:
        side = self.model.network.resolution
        return RaterInputs(jax.ShapeDtypeStruct((B, side, side, 3), jnp.uint8))

    def about(self) -> Mapping[str, str]:
        side = self.model.network.resolution
        return {"Images": f"{side} x {side} pixels, of EntityWorld", "Reads": "category, look and scene"}


def loss(logits: Logits, looks: Int[Array, "b l"], scenes: Scene) -> Float[Array, ""]:
    """(1), mean over the batch."""
    cross_entropy = optax.softmax_cross_entropy_with_integer_labels
    category_B = looks[:, 0]
    scene_BA = jnp.stack([getattr(scenes, name) for name in SCENE_NAMES], axis=1)
    return (
        cross_entropy(logits.category_BC, category_B)
        + cross_entropy(of_category(logits.look_BCPV, category_B), looks[:, 1:]).sum(axis=1)
        + cross_entropy(logits.scene_BAV, scene_BA).sum(axis=1)
    ).mean()  # (1)
