"""Re-Imagen: a text encoder and a U-Net that attends to neighbours; its init, its loss, its denoiser.

Everything here is a pure function of (parameters, arrays, keys). Images are in [-1, 1] inside, bytes at the edge.
Source: Re-Imagen (Chen et al., ICLR 2023), section 3.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int32, Key, UInt8

from reimagen_jax.config import Experiment, SamplerConfig
from reimagen_jax.data.batch import Batch
from reimagen_jax.diffusion import objective
from reimagen_jax.diffusion.sampler import sample
from reimagen_jax.encoders.bytes import ByteEncoder
from reimagen_jax.nets.unet import Condition, UNet

Params = dict[str, Any]
Denoiser = Callable[[Array, Array, Condition], Array]


def to_model(image: UInt8[Array, "*b h w c"]) -> Float[Array, "*b h w c"]:
    """Bytes to [-1, 1]."""
    return image.astype(jnp.float32) / 127.5 - 1.0


def to_bytes(image: Float[Array, "*b h w c"]) -> UInt8[Array, "*b h w c"]:
    """[-1, 1] to bytes."""
    return jnp.round((jnp.clip(image, -1.0, 1.0) + 1.0) * 127.5).astype(jnp.uint8)


@dataclass(frozen=True)
class ReImagen:
    """The system that an experiment describes; holds settings only."""

    config: Experiment

    @property
    def text_encoder(self) -> ByteEncoder:
        return ByteEncoder(self.config.text)

    @property
    def unet(self) -> UNet:
        return UNet(self.config.unet)

    def init(self, key: Key[Array, ""]) -> Params:
        """Random parameters: {"text": ..., "unet": ...}."""
        config, (key_text, key_unet) = self.config, jax.random.split(key)
        tokens_BL = jnp.zeros((1, config.text.max_bytes), jnp.int32)
        text_params = self.text_encoder.init(key_text, tokens_BL)["params"]
        text, mask = self.text_encoder.apply({"params": text_params}, tokens_BL)
        image = jnp.zeros((1, config.resolution, config.resolution, 3), jnp.float32)

        def both(unet: UNet) -> Array:
            memory = unet.encode_neighbours(image[:, None], text[:, None], mask[:, None])
            return unet(image, jnp.zeros(1, jnp.float32), Condition(text, mask, memory, jnp.ones((1, 1), bool)))

        return {"text": text_params, "unet": self.unet.init(key_unet, method=both)["params"]}

    def condition(
        self,
        params: Params,
        tokens_BL: Int32[Array, "b l"],
        nbr_image_BKHWC: UInt8[Array, "b k h w c"] | None = None,
        nbr_tokens_BKL: Int32[Array, "b k l"] | None = None,
        nbr_mask_BK: Bool[Array, "b k"] | None = None,
    ) -> Condition:
        """Encodes the captions, and the neighbours with theirs; without neighbours the result is Imagen's condition."""
        text_BLD, text_mask_BL = self.text_encoder.apply({"params": params["text"]}, tokens_BL)
        if nbr_image_BKHWC is None or nbr_image_BKHWC.shape[1] == 0:
            return Condition(text_BLD, text_mask_BL)
        B, K = nbr_image_BKHWC.shape[:2]
        nbr_text, nbr_text_mask = self.text_encoder.apply({"params": params["text"]}, nbr_tokens_BKL.reshape(B * K, -1))
        memory = self.unet.apply(
            {"params": params["unet"]},
            to_model(nbr_image_BKHWC),
            nbr_text.reshape(B, K, *nbr_text.shape[1:]),
            nbr_text_mask.reshape(B, K, -1),
            method=UNet.encode_neighbours,
        )
        return Condition(text_BLD, text_mask_BL, memory, nbr_mask_BK)

    def denoiser(self, params: Params) -> Denoiser:
        """`(x, t, condition) -> prediction`, what solvers, guidance and losses accept."""
        return lambda x, t, condition: self.unet.apply({"params": params["unet"]}, x, t, condition)

    def loss(self, params: Params, batch: Batch, key: Key[Array, ""]) -> tuple[Float[Array, ""], dict[str, Array]]:
        """The diffusion loss of a batch, text and neighbours dropped independently."""
        train, B = self.config.train, batch.image_BHWC.shape[0]
        key_text, key_nbr, key_loss = jax.random.split(key, 3)
        condition = self.condition(
            params, batch.tokens_BL, batch.nbr_image_BKHWC, batch.nbr_tokens_BKL, batch.nbr_mask_BK
        )
        condition = condition.drop(
            text_B=objective.dropped(key_text, B, train.text_drop),
            neighbours_B=objective.dropped(key_nbr, B, train.neighbour_drop),
        )
        error_B = objective.squared_error(
            self.denoiser(params), to_model(batch.image_BHWC), condition, key_loss, self.config.diffusion
        )
        return error_B.mean(), {}

    def sample(
        self,
        params: Params,
        tokens_BL: Int32[Array, "b l"],
        nbr_image_BKHWC: UInt8[Array, "b k h w c"] | None,
        nbr_tokens_BKL: Int32[Array, "b k l"] | None,
        nbr_mask_BK: Bool[Array, "b k"] | None,
        keys_B: Key[Array, " b"],
        config: SamplerConfig,
        eta: Array | float,
        text_weight: Array | float,
        neighbour_weight: Array | float,
    ) -> UInt8[Array, "b h w 3"]:
        """Images for captions and neighbours: the neighbours are encoded once, then the sampler runs. Pure."""
        condition = self.condition(params, tokens_BL, nbr_image_BKHWC, nbr_tokens_BKL, nbr_mask_BK)
        shape = (self.config.resolution, self.config.resolution, 3)
        denoise, diffusion = self.denoiser(params), self.config.diffusion
        return to_bytes(
            sample(denoise, condition, keys_B, shape, diffusion, config, eta, text_weight, neighbour_weight)
        )
