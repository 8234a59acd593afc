"""The tokenizer as a system: it learns to put images together again out of few codes (nets/vq.py).

  L = a |x^ - x| + b |x^ - x|^2  +  c |sg z - e_k|^2 + d |z - sg e_k|^2                                           (1)
      + w (mean_n H(p_n) - H(mean_n p_n)),   p_n = softmax_j(-|z_n - e_j|^2 / temperature)                        (2)

with means over all values, x in [0, 1], H the entropy, n all tokens of the batch, and x^ = D(e_k), whose gradient
passes e_k to z. (2) is small where each token is sure of its code and all codes are used alike.
Sources: van den Oord et al. 2017 and Esser et al. 2021 (1), without their perceptual and adversarial terms; (2) as
MaskGIT's tokenizer was trained. Published weights that RCG holds frozen have the same network.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int32, Key, UInt8

from reimagen_jax.config import Experiment
from reimagen_jax.nets.vq import VQ, straight_through
from reimagen_jax.systems.base import Metrics, Params, Sums
from reimagen_jax.systems.mage.arrays import ImageInputs
from reimagen_jax.systems.mage.settings import VQSamplerConfig, VQSystemConfig
from reimagen_jax.systems.pixels import to_bytes, to_floats
from reimagen_jax.systems.unclip.arrays import ImageBatch


class Told(NamedTuple):
    """What a batch of images was, and what it has become."""

    image_BHWC: Float[Array, "b h w 3"]
    again_BHWC: Float[Array, "b h w 3"]
    token_BHW: Int32[Array, "b gh gw"]
    z_BHWD: Float[Array, "b gh gw d"]
    e_BHWD: Float[Array, "b gh gw d"]
    distance_BHWK: Float[Array, "b gh gw k"]


@dataclass(frozen=True)
class Tokenizer:
    """The system that an experiment describes; holds settings only."""

    config: Experiment

    @property
    def model(self) -> VQSystemConfig:
        """The experiment's settings of this system."""
        return self.config.system

    @property
    def settings(self) -> VQSamplerConfig:
        return self.model.sampler

    @property
    def net(self) -> VQ:
        return VQ(self.model.vq)

    def init(self, key: Key[Array, ""]) -> Params:
        """Random parameters."""
        side = self.model.resolution
        return {"vq": self.net.init(key, jnp.zeros((1, side, side, 3)))["params"]}

    def told(self, params: Params, image_BHWC: UInt8[Array, "b h w 3"]) -> Told:
        """Images to tokens and back, differentiable through the codes."""
        net, variables = self.net, {"params": params["vq"]}
        x_BHWC = to_unit(image_BHWC)
        z_BHWD = net.apply(variables, x_BHWC, method="encode")
        distance_BHWK = net.apply(variables, z_BHWD, method="distances")
        token_BHW = distance_BHWK.argmin(axis=-1).astype(jnp.int32)
        e_BHWD = net.apply(variables, token_BHW, method="look_up")
        again_BHWC = net.apply(variables, straight_through(z_BHWD, e_BHWD), method="decode")
        return Told(x_BHWC, again_BHWC, token_BHW, z_BHWD, e_BHWD, distance_BHWK)

    def loss(
        self, params: Params, batch: ImageBatch, key: Key[Array, ""], *, ema: Params | None = None
    ) -> tuple[Float[Array, ""], Metrics]:
        """(1) with (2). Nothing is drawn: the key is not used."""
        model, told = self.model, self.told(params, batch.image_BHWC)
        error = told.again_BHWC - told.image_BHWC
        parts = {"l1": jnp.abs(error).mean(), "l2": (error**2).mean()}
        parts["codebook"] = ((jax.lax.stop_gradient(told.z_BHWD) - told.e_BHWD) ** 2).mean()
        parts["commitment"] = ((told.z_BHWD - jax.lax.stop_gradient(told.e_BHWD)) ** 2).mean()
        if model.entropy:
            parts["entropy"] = entropy(told.distance_BHWK / model.temperature)
        loss = sum(getattr(model, name) * value for name, value in parts.items())
        return loss, {"l2": parts["l2"], "codes_used": used(told.token_BHW, model.vq.codes)}

    def measure(self, params: Params, batch: ImageBatch, key: Key[Array, ""]) -> Sums:
        """The loss, the squared error in decibels below white (PSNR), and how many codes are in use (as many, used
        alike, would have this entropy)."""
        loss, _ = self.loss(params, batch, key)
        told = self.told(params, batch.image_BHWC)
        # As they would be written: within the range of images.
        error_B = ((jnp.clip(told.again_BHWC, 0.0, 1.0) - told.image_BHWC) ** 2).mean(axis=(1, 2, 3))
        one, B = jnp.float32(1), jnp.float32(len(error_B))
        return {
            "loss": (loss * B, B),
            "psnr": (-10.0 * jnp.log10(jnp.maximum(error_B, 1e-10)).sum(), B),
            "codes_used": (used(told.token_BHW, self.model.vq.codes), one),
        }

    def sample(
        self, params: Params, inputs: ImageInputs, keys_B: Key[Array, " b"], settings: VQSamplerConfig
    ) -> UInt8[Array, "b h w 3"] | Float[Array, "b h w 3"]:
        """Images as their tokens tell them. Nothing is random: the keys are not used."""
        x_BHWC = self.net.apply({"params": params["vq"]}, to_unit(inputs.image_BHWC))
        return from_unit(x_BHWC, settings.handed_on)

    def visited(self, settings: VQSamplerConfig) -> Float[Array, " t"]:
        """No times: nothing is denoised."""
        return jnp.zeros(0)

    def batch_spec(self, B: int) -> ImageBatch:
        return ImageBatch(self._images(B))

    def inputs_spec(self, B: int, settings: VQSamplerConfig) -> ImageInputs:
        return ImageInputs(self._images(B))

    def _images(self, B: int) -> Any:
        side = self.model.resolution
        return jax.ShapeDtypeStruct((B, side, side, 3), jnp.uint8)

    def about(self) -> Mapping[str, str]:
        vq, side = self.model.vq, self.model.resolution // self.model.vq.stride
        return {
            "Images": f"{self.model.resolution} x {self.model.resolution} pixels",
            "Tokens": f"{side} x {side} of {vq.codes} codes, {vq.code_width} values each",
            "Network": f"widths {', '.join(map(str, vq.widths))}, {vq.blocks} blocks each",
        }


def to_unit(image: UInt8[Array, "*b h w c"]) -> Float[Array, "*b h w c"]:
    """Bytes to [0, 1]."""
    return image.astype(jnp.float32) / 255.0


def from_unit(x: Float[Array, "*b h w c"], handed_on: str) -> UInt8[Array, "*b h w c"] | Float[Array, "*b h w c"]:
    """[0, 1] to bytes, rounded (RCG's code truncates them), or to floats in [-1, 1]."""
    x = 2.0 * x - 1.0
    return to_floats(x) if handed_on == "floats" else to_bytes(x)


def entropy(distance_BHWK: Float[Array, "*b k"]) -> Float[Array, ""]:
    """(2), of distances that are divided by the temperature already."""
    log_p_NK = jax.nn.log_softmax(-distance_BHWK.reshape(-1, distance_BHWK.shape[-1]))
    p_NK = jnp.exp(log_p_NK)
    mean_K = p_NK.mean(axis=0)
    return mean_entropy(p_NK, log_p_NK) - mean_entropy(mean_K, jnp.log(mean_K + 1e-10))


def mean_entropy(p: Float[Array, "*n k"], log_p: Float[Array, "*n k"]) -> Float[Array, ""]:
    """The mean of H."""
    return -(p * log_p).sum(axis=-1).mean()


def used(token_BHW: Int32[Array, " *b"], codes: int) -> Float[Array, ""]:
    """exp(H) of the codes' frequencies."""
    share_K = jnp.bincount(token_BHW.reshape(-1), length=codes).astype(jnp.float32) / token_BHW.size
    return jnp.exp(mean_entropy(share_K, jnp.log(share_K + 1e-10)))
