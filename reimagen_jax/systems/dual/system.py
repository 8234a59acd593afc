"""The dual encoder's loss, and its vectors.

In a batch of B pairs, with u_i of image i, w_j of text j, and m_ij = 1 where they belong together, else 0:
    (1) p_ij = m_ij / sum_j m_ij
    (2) L    = 1/2 [ CE(p_i., softmax_j(scale u_i . w_j)) + CE(p_.j, softmax_i(scale u_i . w_j)) ],  mean over the batch
Pairs of one caption, or of one picture, belong together, too: with templates and short captions, many do. Images are
shifted a little and words are left out (pairs.py), so that a name alone, or a few of the words, find a picture as well.
Source: (2) CLIP (Radford et al. 2021) with the targets (1) of supervised contrastive learning (Khosla et al. 2020).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Bool, Float, Int32, Key, UInt8

from reimagen_jax.config import Experiment
from reimagen_jax.encoders import dual
from reimagen_jax.encoders.dual import DualNet
from reimagen_jax.systems.base import Metrics, Params
from reimagen_jax.systems.dual.settings import DualSampler, DualSystemConfig


class DualBatch(NamedTuple):
    """A batch of pairs."""

    image_BHWC: UInt8[Array, "b r r 3"]
    tokens_BL: Int32[Array, "b l"]
    group_BG: Int32[Array, "b g"]
    """Pairs with a number in common, in the same column, belong together: column 0 numbers texts, 1 pictures."""


class DualInputs(NamedTuple):
    """What is to be encoded: texts, or images; the other is None."""

    tokens_BL: Int32[Array, "b l"] | None = None
    image_BHWC: UInt8[Array, "b r r 3"] | None = None


@dataclass(frozen=True)
class DualSystem:
    """The system that an experiment describes; holds settings only."""

    config: Experiment

    @property
    def model(self) -> DualSystemConfig:
        """The experiment's settings of this system."""
        return self.config.system

    @property
    def settings(self) -> DualSampler:
        return self.model.sampler

    @property
    def net(self) -> DualNet:
        return DualNet(self.model.network)

    def init(self, key: Key[Array, ""]) -> Params:
        """Random parameters."""
        return dual.init(self.model.network, key)

    def loss(
        self, params: Params, batch: DualBatch, key: Key[Array, ""], *, ema: Params | None = None
    ) -> tuple[Float[Array, ""], Metrics]:
        """(2), and the share of images whose best text is one of theirs."""
        image_BHWC = shifted(key, batch.image_BHWC, round(self.model.shift * self.model.network.resolution))
        image_BD, text_BD, scale = self.net.apply({"params": params}, image_BHWC, batch.tokens_BL)
        score_BB = scale * jnp.einsum("id,jd->ij", image_BD, text_BD)
        match_BB = matches(batch.group_BG)
        right_B = jnp.take_along_axis(match_BB, score_BB.argmax(axis=1, keepdims=True), axis=1)
        return contrast(score_BB, match_BB), {"right": right_B.astype(jnp.float32).mean(), "scale": scale}

    def sample(
        self, params: Params, inputs: DualInputs, keys_B: Key[Array, " b"], settings: DualSampler
    ) -> Float[Array, "b d"]:
        """Unit vectors of texts, or of images. Nothing is random: the keys are not used."""
        if settings.of == "image":
            return self.net.apply({"params": params}, inputs.image_BHWC, method="images")
        return self.net.apply({"params": params}, inputs.tokens_BL, method="texts")

    def batch_spec(self, B: int) -> DualBatch:
        return DualBatch(self._images(B), self._texts(B), jax.ShapeDtypeStruct((B, 2), jnp.int32))

    def inputs_spec(self, B: int, settings: DualSampler) -> DualInputs:
        return DualInputs(image_BHWC=self._images(B)) if settings.of == "image" else DualInputs(self._texts(B))

    def _images(self, B: int) -> Any:
        side = self.model.network.resolution
        return jax.ShapeDtypeStruct((B, side, side, 3), jnp.uint8)

    def _texts(self, B: int) -> Any:
        return jax.ShapeDtypeStruct((B, self.model.network.max_bytes), jnp.int32)

    def about(self) -> Mapping[str, str]:
        network = self.model.network
        return {
            "Images": f"{network.resolution} x {network.resolution} pixels",
            "Texts": f"bytes, up to {network.max_bytes}",
            "Vectors": f"{network.width} values, of length 1",
        }


def matches(group_BG: Int32[Array, "b g"]) -> Bool[Array, "b b"]:
    """m: which pairs belong together."""
    return (group_BG[:, None, :] == group_BG[None, :, :]).any(axis=-1)


def contrast(score_BB: Float[Array, "b b"], match_BB: Bool[Array, "b b"]) -> Float[Array, ""]:
    """(2) for logits of images (rows) and texts (columns); m is symmetric."""
    target_BB = match_BB.astype(jnp.float32) / match_BB.sum(axis=1, keepdims=True).astype(jnp.float32)  # (1)
    by_image_B = optax.softmax_cross_entropy(score_BB, target_BB)
    by_text_B = optax.softmax_cross_entropy(score_BB.T, target_BB)
    return 0.5 * (by_image_B + by_text_B).mean()  # (2)


def shifted(key: Key[Array, ""], image_BHWC: UInt8[Array, "b h w c"], most: int) -> UInt8[Array, "b h w c"]:
    """Each image moved by its own up to `most` pixels both ways; edges repeat."""
    if most == 0:
        return image_BHWC
    padded = jnp.pad(image_BHWC, ((0, 0), (most, most), (most, most), (0, 0)), mode="edge")
    corner_B2 = jax.random.randint(key, (len(image_BHWC), 2), 0, 2 * most + 1)

    def cut(image_HWC: Array, corner_2: Array) -> Array:
        return jax.lax.dynamic_slice(image_HWC, (corner_2[0], corner_2[1], 0), image_BHWC.shape[1:])

    return jax.vmap(cut)(padded, corner_B2)
