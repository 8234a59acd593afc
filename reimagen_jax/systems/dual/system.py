"""The dual encoder's loss, and its vectors.

In a batch of B pairs, with u_i of image i, w_j of text j, and m_ij = 1 where they belong together, else 0:
    (1) p_ij = m_ij / sum_j m_ij
    (2) L    = 1/2 [ CE(p_i., softmax_j(scale u_i . w_j)) + CE(p_.j, softmax_i(scale u_i . w_j)) ],  mean over the batch
Pairs of one caption, or of one picture, belong together, too: with templates and short captions, many do. Images are
shifted a little and words are left out (pairs.py), so that a name alone, or a few of the words, find a picture as well.
    (3) L    = (2) + views (2)[u, v],  v_i of another picture of what image i shows,  m_ij: of the same thing
The towers are small ones (encoders/dual.py) or those of a CLIP (encoders/joint.py). However many devices share the
batch, each pair is told from all others of it.
Sources: (2) CLIP (Radford et al. 2021) with the targets (1) of supervised contrastive learning (Khosla et al. 2020);
(3) SLIP (Mu et al. 2021) adds a loss among images to CLIP's, of two crops, where this has two pictures.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Bool, Float, Int32, Key, UInt8

from reimagen_jax.config import Experiment
from reimagen_jax.encoders.dual import HOTTEST, towers_of
from reimagen_jax.encoders.towers import Towers, as_floats
from reimagen_jax.systems.base import Metrics, Params
from reimagen_jax.systems.dual.settings import ClipSystemConfig, DualSampler, DualSystemConfig


class Views(NamedTuple):
    """For each image of a batch, another picture of the same thing."""

    image_BHWC: UInt8[Array, "b r r 3"]
    group_B1: Int32[Array, "b 1"]
    """Numbers of the things."""


class DualBatch(NamedTuple):
    """A batch of pairs."""

    image_BHWC: UInt8[Array, "b r r 3"]
    tokens_BL: Int32[Array, "b l"]
    group_BG: Int32[Array, "b g"]
    """Pairs with a number in common, in the same column, belong together: column 0 numbers texts, 1 pictures."""
    views: Views | None = None
    """Where there is a loss among images."""


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
    def towers(self) -> Towers:
        """The functions of both towers."""
        return towers_of(self.model.network)

    def init(self, key: Key[Array, ""]) -> Params:
        """Random parameters."""
        return self.towers.init(key)

    def of_towers(self, params: Params) -> Params:
        """The parameters of the towers: those of an encoder."""
        return params

    def scale(self, params: Params) -> Float[Array, ""]:
        """What turns cosines into logits."""
        return jnp.exp(jnp.minimum(params["log_scale"], HOTTEST))

    def matches(self, batch: DualBatch) -> Bool[Array, "b b"]:
        """m: which pairs belong together."""
        return matches(batch.group_BG)

    def loss(
        self, params: Params, batch: DualBatch, key: Key[Array, ""], *, ema: Params | None = None
    ) -> tuple[Float[Array, ""], Metrics]:
        """(2), and the share of images whose best text is one of theirs."""
        own, towers = self.of_towers(params), self.towers
        image_BD = self.shifted(own, batch.image_BHWC, key)
        text_BD = towers.embed_texts(own, batch.tokens_BL)
        scale = self.scale(params)
        score_BB = scale * jnp.einsum("id,jd->ij", image_BD, text_BD)
        right_B = jnp.take_along_axis(matches(batch.group_BG), score_BB.argmax(axis=1, keepdims=True), axis=1)
        loss = contrast(score_BB, self.matches(batch))
        metrics = {"right": right_B.astype(jnp.float32).mean(), "scale": scale}
        if batch.views is None:
            return loss, metrics
        view_BD = self.shifted(own, batch.views.image_BHWC, jax.random.fold_in(key, 1))
        among = contrast(scale * jnp.einsum("id,jd->ij", image_BD, view_BD), matches(batch.views.group_B1))
        return loss + self.model.views * among, metrics | {"among_images": among}  # (3)

    def shifted(self, own: Params, image_BHWC: UInt8[Array, "b r r 3"], key: Key[Array, ""]) -> Float[Array, "b d"]:
        """Vectors of images, each of which is shifted a little."""
        image_BHWC = shifted(key, image_BHWC, round(self.model.shift * self.model.network.resolution))
        return self.towers.embed_images(own, as_floats(image_BHWC))

    def sample(
        self, params: Params, inputs: DualInputs, keys_B: Key[Array, " b"], settings: DualSampler
    ) -> Float[Array, "b d"]:
        """Unit vectors of texts, or of images. Nothing is random: the keys are not used."""
        if settings.of == "image":
            return self.towers.embed_images(self.of_towers(params), as_floats(inputs.image_BHWC))
        return self.towers.embed_texts(self.of_towers(params), inputs.tokens_BL)

    def batch_spec(self, B: int) -> DualBatch:
        numbers = {G: jax.ShapeDtypeStruct((B, G), jnp.int32) for G in (1, 2)}
        views = Views(self._images(B), numbers[1]) if self.model.views else None
        return DualBatch(self._images(B), self._texts(B), numbers[2], views)

    def inputs_spec(self, B: int, settings: DualSampler) -> DualInputs:
        return DualInputs(image_BHWC=self._images(B)) if settings.of == "image" else DualInputs(self._texts(B))

    def _images(self, B: int) -> Any:
        side = self.model.network.resolution
        return jax.ShapeDtypeStruct((B, side, side, 3), jnp.uint8)

    def _texts(self, B: int) -> Any:
        return jax.ShapeDtypeStruct((B, self.model.network.max_tokens), jnp.int32)

    def about(self) -> Mapping[str, str]:
        network = self.model.network
        return {
            "Images": f"{network.resolution} x {network.resolution} pixels",
            "Texts": self.spelt,
            "Vectors": f"{network.width} values, of length 1",
        }

    @property
    def spelt(self) -> str:
        """What a text is to it, in words."""
        return f"bytes, up to {self.model.network.max_bytes}"


class ClipSystem(DualSystem):
    """The same with the towers of a CLIP. Its parameters are those of the towers, `clip`, and `log_scale`."""

    model: ClipSystemConfig

    def init(self, key: Key[Array, ""]) -> Params:
        """Random towers, and CLIP's first temperature."""
        return {"clip": self.towers.init(key), "log_scale": jnp.float32(math.log(1 / 0.07))}

    def of_towers(self, params: Params) -> Params:
        return params["clip"]

    def scale(self, params: Params) -> Float[Array, ""]:
        return jnp.exp(clipped(params["log_scale"]))

    def matches(self, batch: DualBatch) -> Bool[Array, "b b"]:
        if self.model.targets == "pairs":
            return jnp.eye(len(batch.group_BG), dtype=bool)
        return super().matches(batch)

    @property
    def spelt(self) -> str:
        network = self.model.network
        what = "bytes" if network.tokens == "bytes" else "words of its tokenizer"
        return f"{what}, up to {network.max_tokens} with the end"


@jax.custom_vjp
def clipped(log_scale: Float[Array, ""]) -> Float[Array, ""]:
    """At most log 100, where CLIP clips the parameter after each step: its gradient is let through below that, and
    where a step along it leads back."""
    return jnp.minimum(log_scale, HOTTEST)


def _clipped(log_scale: Array) -> tuple[Array, Array]:
    return jnp.minimum(log_scale, HOTTEST), log_scale


def _back(log_scale: Array, gradient: Array) -> tuple[Array]:
    return (jnp.where((log_scale < HOTTEST) | (gradient > 0), gradient, 0.0),)


clipped.defvjp(_clipped, _back)


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
