"""MoCo-v3's loss, and the encoder's vectors.

    q = predictor(p(a)),  k = p'(b)        of two views a, b of an image; p the encoder's head, p' of averaged weights
    (1) L(q, k) = 2 T CE(i, softmax_j(cos(q_i, k_j) / T)),  mean over the batch of B images
    (2) L       = L(q(a), k(b)) + L(q(b), k(a))

Nothing is differentiated through k. The averaged weights are the loop's (`ema`): the momentum encoder, of the constant
momentum `train.ema_decay` after a short warm-up; with `train.ema_growth` "cosine" it grows to 1, as MoCo-v3's does from
0.99. However many devices share the batch, an image is told from all others of it, and BatchNorms are over all of it.
To compare with, the class of an image is told instead, from its head's output (`objective`):
    (3) L = CE(class, softmax(W p(a) + w))
A run's encoder is that of the averaged weights; its BatchNorms' statistics are measured when it becomes a folder
(`reimagen encode-train --from-run`).
Sources: (1), (2) Chen et al. 2021 (arXiv 2104.02057), algorithm 1 and section 3.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int32, Key, UInt8

from reimagen_jax.config import Experiment
from reimagen_jax.encoders.representation import Representation, mlp
from reimagen_jax.encoders.towers import as_floats, unit
from reimagen_jax.systems.base import Metrics, Params
from reimagen_jax.systems.moco.augment import view
from reimagen_jax.systems.moco.settings import MocoConfig, MocoSampler


class MocoBatch(NamedTuple):
    """Images to learn from."""

    image_BHWC: UInt8[Array, "b h w 3"]
    class_B: Int32[Array, " b"]
    """Numbers of their classes; zeros where it learns without."""


class MocoInputs(NamedTuple):
    """Images to represent."""

    image_BHWC: UInt8[Array, "b r r 3"]


class Predictor(nn.Module):
    """From the representation of one view to that of the other; used in training alone."""

    config: MocoConfig

    @nn.compact
    def __call__(self, p_BD: Float[Array, "b d"]) -> Float[Array, "b d"]:
        network = self.config.network
        return mlp(p_BD, (self.config.predictor_width,), network.width, True, network.dtype)


@dataclass(frozen=True)
class Moco:
    """The system that an experiment describes; holds settings only."""

    config: Experiment

    @property
    def model(self) -> MocoConfig:
        """The experiment's settings of this system."""
        return self.config.system

    @property
    def settings(self) -> MocoSampler:
        return self.model.sampler

    @property
    def encoder(self) -> Representation:
        """The functions of the encoder."""
        return Representation(self.model.network)

    @property
    def on_top(self) -> tuple[str, nn.Module]:
        """The network that the encoder is trained through: its name among the parameters, and itself."""
        if self.model.objective == "supervised":
            return "classifier", nn.Dense(len(self.model.classes))
        return "predictor", Predictor(self.model)

    def init(self, key: Key[Array, ""]) -> Params:
        """Random parameters; the encoder's statistics are of nothing yet."""
        (name, net), (one, other) = self.on_top, jax.random.split(key)
        params = net.init(other, jnp.zeros((2, self.model.network.width)))["params"]
        return {"encoder": self.encoder.init(one), name: params}

    def loss(
        self, params: Params, batch: MocoBatch, key: Key[Array, ""], *, ema: Params
    ) -> tuple[Float[Array, ""], Metrics]:
        """(2), the share of views whose nearest image is their own (`right`), and how the outputs spread: 1 where they
        point all ways, 0 where all are one. Or (3), and the share that is told right."""
        x_BHWC, side, keys = as_floats(batch.image_BHWC), self.model.network.resolution, jax.random.split(key)
        a, b = (view(each, x_BHWC, self.model.augment, i, side) for i, each in enumerate(keys))
        if self.model.objective == "supervised":
            logit_BN = self.on_top[1].apply({"params": params["classifier"]}, self.projected(params, a))
            loss = optax.softmax_cross_entropy_with_integer_labels(logit_BN, batch.class_B).mean()  # (3)
            return loss, {"right": (logit_BN.argmax(axis=1) == batch.class_B).astype(jnp.float32).mean()}
        parts = [
            self.contrast(
                unit(self.predicted(params, self.projected(params, one))),
                unit(jax.lax.stop_gradient(self.projected(ema, other))),
            )
            for one, other in ((a, b), (b, a))
        ]
        metrics = jax.tree.map(lambda *values: jnp.stack(values).mean(), *(each for _, each in parts))
        return parts[0][0] + parts[1][0], metrics  # (2)

    def projected(self, params: Params, x_BHWC: Float[Array, "b r r 3"]) -> Float[Array, "b d"]:
        """p: the head's output, normalised over the batch."""
        return self.encoder.training(params["encoder"], x_BHWC)[1]

    def predicted(self, params: Params, p_BD: Float[Array, "b d"]) -> Float[Array, "b d"]:
        """The predictor's."""
        return Predictor(self.model).apply({"params": params["predictor"]}, p_BD, mutable="batch_stats")[0]

    def contrast(self, q_BD: Float[Array, "b d"], k_BD: Float[Array, "b d"]) -> tuple[Float[Array, ""], Metrics]:
        """(1) of unit vectors."""
        T, own_B = self.model.temperature, jnp.arange(len(q_BD))
        cos_BB = jnp.einsum("id,jd->ij", q_BD, k_BD)
        loss = 2.0 * T * optax.softmax_cross_entropy_with_integer_labels(cos_BB / T, own_B).mean()
        right = (cos_BB.argmax(axis=1) == own_B).astype(jnp.float32).mean()
        return loss, {"right": right, "spread": jnp.sqrt(1.0 - (k_BD.mean(axis=0) ** 2).sum())}

    def sample(
        self, params: Params, inputs: MocoInputs, keys_B: Key[Array, " b"], settings: MocoSampler
    ) -> Float[Array, "b d"]:
        """Representations of images, or features. Nothing is random: the keys are not used."""
        told = self.encoder.features if settings.of == "features" else self.encoder.represent
        return told(params["encoder"], as_floats(inputs.image_BHWC))

    def batch_spec(self, B: int) -> MocoBatch:
        return MocoBatch(self._images(B, self.model.seen), jax.ShapeDtypeStruct((B,), jnp.int32))

    def inputs_spec(self, B: int, settings: MocoSampler) -> MocoInputs:
        return MocoInputs(self._images(B, self.model.network.resolution))

    def _images(self, B: int, side: int) -> Any:
        return jax.ShapeDtypeStruct((B, side, side, 3), jnp.uint8)

    def about(self) -> Mapping[str, str]:
        network, by_class = self.model.network, self.model.objective == "supervised"
        return {
            "Images": f"{network.resolution} x {network.resolution} pixels, in patches of {network.patch}",
            "Learned": f"by {len(self.model.classes)} classes" if by_class else "without labels, by MoCo-v3's loss",
            "Representations": f"{self.encoder.width} values",
        }
