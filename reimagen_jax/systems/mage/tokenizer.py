"""The tokenizer as a system: it learns to put images together again out of few codes (nets/vq.py).

  L = a |x^ - x| + b |x^ - x|^2  +  c |sg z - e_k|^2 + d |z - sg e_k|^2                                           (1)
      + w (mean_n H(p_n) - H(mean_n p_n)),   p_n = softmax_j(-|z_n - e_j|^2 / temperature)                        (2)
      + v d(x^, x)                           in the features of an encoder (encoders/perceptual.py), by setting   (3)
      + u lambda L_G + L_D                   a discriminator's (losses.py), by setting, from a step on            (4)

with means over all values, x in [0, 1], H the entropy, n all tokens of the batch, and x^ = D(e_k), whose gradient
passes e_k to z. (2) is small where each token is sure of its code and all codes are used alike. In (4) lambda weighs
L_G against what compares x^ with x: the first two terms of (1), and (3). Discriminator and features lie beside the
tokenizer as it learns, {"vq": ..., "discriminator": ..., "perceptual": ...}, the last one frozen; what draws, is
exported or held by a MAGE is "vq" alone. A discriminator begins anew where a run starts from weights.
Sources: van den Oord et al. 2017 (1); Esser et al. 2021 (VQGAN, arXiv 2012.09841), equations 4 to 7, (1), (3), (4);
(2) as MaskGIT's tokenizer was trained, besides the terms of VQGAN, whose first stage the paper takes over (Chang et al.
2022, section 3). Published weights that RCG holds frozen have the same network.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int32, Key, UInt8

from reimagen_jax.config import Experiment
from reimagen_jax.encoders import perceptual
from reimagen_jax.nets.patchgan import PatchGAN
from reimagen_jax.nets.vq import VQ, straight_through
from reimagen_jax.systems.base import Metrics, Params, Sums
from reimagen_jax.systems.mage.arrays import ImageInputs
from reimagen_jax.systems.mage.losses import balance, fooling, pulled, telling, told_apart
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
    last_BHWC: Float[Array, "b ph pw c"]
    """What the decoder's last convolution has seen."""


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

    @property
    def discriminator(self) -> PatchGAN:
        """What tells its images from true ones, where something does."""
        return PatchGAN(self.model.adversarial.network)

    def init(self, key: Key[Array, ""]) -> Params:
        """Random parameters."""
        model, image = self.model, jnp.zeros((1, self.model.resolution, self.model.resolution, 3))
        params = {"vq": self.net.init(key, image)["params"]}
        if model.adversarial.weight:
            params["discriminator"] = self.discriminator.init(jax.random.fold_in(key, 1), image)["params"]
        if model.perceptual.weight:
            params["perceptual"] = perceptual.init(model.perceptual.encoder, jax.random.fold_in(key, 2))
        return params

    def told(self, params: Params, image_BHWC: UInt8[Array, "b h w 3"]) -> Told:
        """Images to tokens and back, differentiable through the codes."""
        net, variables = self.net, {"params": params["vq"]}
        x_BHWC = to_unit(image_BHWC)
        z_BHWD = net.apply(variables, x_BHWC, method="encode")
        distance_BHWK = net.apply(variables, z_BHWD, method="distances")
        token_BHW = distance_BHWK.argmin(axis=-1).astype(jnp.int32)
        e_BHWD = net.apply(variables, token_BHW, method="look_up")
        options = {"method": "decode", "mutable": ["intermediates"]}
        again_BHWC, seen = net.apply(variables, straight_through(z_BHWD, e_BHWD), **options)
        (last_BHWC,) = seen["intermediates"]["decoder"]["last"]
        return Told(x_BHWC, again_BHWC, token_BHW, z_BHWD, e_BHWD, distance_BHWK, last_BHWC)

    def loss(
        self, params: Params, batch: ImageBatch, key: Key[Array, ""], *, ema: Params | None = None
    ) -> tuple[Float[Array, ""], Metrics]:
        """(1) to (4). Nothing is drawn: the key is not used."""
        return self.loss_at(params, batch, key, jnp.int32(self.model.adversarial.start))

    def loss_at(
        self,
        params: Params,
        batch: ImageBatch,
        key: Key[Array, ""],
        step: Int32[Array, ""],
        *,
        ema: Params | None = None,
    ) -> tuple[Float[Array, ""], Metrics]:
        """(1) to (3), and (4) where as many updates are done as it is to begin after."""
        model, told = self.model, self.told(params, batch.image_BHWC)
        metrics = {"codes_used": used(told.token_BHW, model.vq.codes)}
        if not model.adversarial.weight:
            parts = self.likeness(params, told.image_BHWC, told.again_BHWC) | self.codes(told)
            return self.weighed(parts), metrics | _shown(parts)
        adversary, fixed = model.adversarial, jax.lax.stop_gradient
        true_BHWC, again_BHWC = told.image_BHWC, fixed(told.again_BHWC)

        def likeness(x_BHWC: Array) -> tuple[Array, dict[str, Array]]:
            parts = self.likeness(params, true_BHWC, x_BHWC)
            return self.weighed(parts), parts

        def fooled(x_BHWC: Array) -> Array:
            return fooling(adversary.loss, self.judged(fixed(params["discriminator"]), x_BHWC))

        (like, parts), like_BHWC = jax.value_and_grad(likeness, has_aux=True)(again_BHWC)
        fool, fool_BHWC = jax.value_and_grad(fooled)(again_BHWC)
        last = params["vq"]["decoder"]["conv_out"], told.last_BHWC
        weight = balance(model.vq, *fixed(last), like_BHWC, fool_BHWC) if adversary.adaptive else jnp.float32(1)
        true_BHW, again_BHW = (self.judged(params["discriminator"], each) for each in (true_BHWC, again_BHWC))
        tell = telling(adversary.loss, true_BHW, again_BHW)
        on = (step >= adversary.start).astype(jnp.float32)
        share = on * adversary.weight * weight
        gradient_BHWC = like_BHWC + share * fool_BHWC
        loss = pulled(like + share * fool, told.again_BHWC, gradient_BHWC) + self.weighed(self.codes(told)) + on * tell
        metrics |= {"fooling": fool, "telling": tell, "told_apart": told_apart(true_BHW, again_BHW)}
        return loss, metrics | _shown(parts) | {"adversarial_weight": share}

    def likeness(
        self, params: Params, image_BHWC: Float[Array, "b h w 3"], again_BHWC: Float[Array, "b h w 3"]
    ) -> dict[str, Float[Array, ""]]:
        """What compares images: the first two terms of (1), and (3)."""
        error = again_BHWC - image_BHWC
        parts = {"l1": jnp.abs(error).mean(), "l2": (error**2).mean()}
        if self.model.perceptual.weight:
            distance = perceptual.distance_of(self.model.perceptual.encoder)
            pair = (2.0 * x_BHWC - 1.0 for x_BHWC in (again_BHWC, image_BHWC))
            parts["perceptual"] = distance(jax.lax.stop_gradient(params["perceptual"]), *pair).mean()
        return parts

    def codes(self, told: Told) -> dict[str, Float[Array, ""]]:
        """The last two terms of (1), and (2)."""
        parts = {"codebook": ((jax.lax.stop_gradient(told.z_BHWD) - told.e_BHWD) ** 2).mean()}
        parts["commitment"] = ((told.z_BHWD - jax.lax.stop_gradient(told.e_BHWD)) ** 2).mean()
        if self.model.entropy:
            parts["entropy"] = entropy(told.distance_BHWK / self.model.temperature)
        return parts

    def weighed(self, parts: Mapping[str, Float[Array, ""]]) -> Float[Array, ""]:
        """The sum of terms by their weights."""
        weights = {name: getattr(self.model, name) for name in parts}
        if "perceptual" in weights:
            weights["perceptual"] = self.model.perceptual.weight
        return sum(weights[name] * value for name, value in parts.items())

    def judged(self, params: Params, x_BHWC: Float[Array, "b h w 3"]) -> Float[Array, "b ph pw"]:
        """The discriminator's logits of images in [0, 1]."""
        return self.discriminator.apply({"params": params}, 2.0 * x_BHWC - 1.0)

    def measure(self, params: Params, batch: ImageBatch, key: Key[Array, ""]) -> Sums:
        """The loss without (4), which says little of how far a tokenizer is, the squared error in decibels below white
        (PSNR), how many codes are in use (as many, used alike, would have this entropy), and (3) where it is learned
        by."""
        told = self.told(params, batch.image_BHWC)
        parts = self.likeness(params, told.image_BHWC, told.again_BHWC) | self.codes(told)
        # As they would be written: within the range of images.
        error_B = ((jnp.clip(told.again_BHWC, 0.0, 1.0) - told.image_BHWC) ** 2).mean(axis=(1, 2, 3))
        one, B = jnp.float32(1), jnp.float32(len(error_B))
        return {
            "loss": (self.weighed(parts) * B, B),
            **({"perceptual": (parts["perceptual"] * B, B)} if "perceptual" in parts else {}),
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


def _shown(parts: Mapping[str, Float[Array, ""]]) -> Metrics:
    """Of the terms, those that are logged."""
    return {name: parts[name] for name in ("l2", "perceptual") if name in parts}


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
