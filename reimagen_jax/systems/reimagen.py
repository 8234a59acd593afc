"""Re-Imagen: a text encoder and a U-Net that attends to neighbours; its init, its loss, its denoiser.

A super-resolution stage is the same system with two more conditions, the low-resolution image and the level of noise
on it (data/degrade.py); its neighbours come with their own low-resolution versions, clean. Text comes as tokens, for an
encoder that is trained along, or embedded by a frozen one. Everything here is a pure function of (parameters, arrays,
keys). Images are in [-1, 1] inside, bytes at the edge.
Source: Re-Imagen (Chen et al., ICLR 2023), section 3; Imagen (Saharia et al. 2022), section 2.4.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Key, UInt8

from reimagen_jax.config import Experiment, SamplerConfig
from reimagen_jax.data import degrade
from reimagen_jax.data.batch import Batch, Embedded, Texts
from reimagen_jax.diffusion import objective
from reimagen_jax.diffusion.sampler import sample
from reimagen_jax.encoders.bytes import ByteEncoder
from reimagen_jax.errors import UserError
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
        return UNet(self.config.unet, self.config.diffusion.output_channels(3))

    def init(self, key: Key[Array, ""]) -> Params:
        """Random parameters: {"text": ..., "unet": ...}, of which a frozen text encoder has no part.

        Where a dropped text is the empty one, {"text": {"empty_LD": ...}}: zeros, to be set or learned.
        """
        config, (key_text, key_unet) = self.config, jax.random.split(key)
        params, (text, mask) = self._init_text(key_text)
        image = jnp.zeros((1, config.train_resolution, config.train_resolution, 3), jnp.float32)
        zero, low_res = jnp.zeros(1, jnp.float32), {}
        if config.super_resolution is not None:
            low_res = {"low_res_BHWC": image, "aug_level_B": zero}

        def both(unet: UNet) -> Array:
            memory = unet.encode_neighbours(
                image[:, None], text[:, None], mask[:, None], *self._clean_low_res(image[:, None])
            )
            return unet(image, zero, Condition(text, mask, memory, jnp.ones((1, 1), bool), **low_res))

        return {**params, "unet": self.unet.init(key_unet, method=both)["params"]}

    def _init_text(self, key: Key[Array, ""]) -> tuple[Params, tuple[Array, Array]]:
        """What is learned of texts, and one text as the U-Net is told it."""
        frozen = self.config.text.frozen
        if frozen is not None:
            empty_LD = jnp.zeros((frozen.max_tokens, frozen.width), jnp.float32)
            params = {"text": {"empty_LD": empty_LD}} if frozen.padding == "kept" else {}
            return params, (empty_LD[None], jnp.ones((1, frozen.max_tokens), bool))
        tokens_BL = jnp.zeros((1, self.config.text.max_bytes), jnp.int32)
        params = self.text_encoder.init(key, tokens_BL)["params"]
        return {"text": params}, self.text_encoder.apply({"params": params}, tokens_BL)

    def _embed(self, params: Params, texts: Texts) -> tuple[Array, Array]:
        """Texts of any leading axes as the U-Net is told them: [*b, L, D], float32, and the mask [*b, L].

        Raises `UserError` where they are tokens and embeddings are wanted, or the other way round.
        """
        frozen = self.config.text.frozen
        if isinstance(texts, Embedded) == (frozen is None):
            wants = "embeddings of a frozen text encoder (text.frozen)" if frozen else "tokens (text.frozen is not set)"
            raise UserError(f"{self.config.name} takes texts as {wants}")
        if isinstance(texts, Embedded):
            return texts.embedding_BLD.astype(jnp.float32), texts.mask_BL
        lead = texts.shape[:-1]
        text_NLD, mask_NL = self.text_encoder.apply({"params": params["text"]}, texts.reshape(-1, texts.shape[-1]))
        return text_NLD.reshape(*lead, *text_NLD.shape[1:]), mask_NL.reshape(*lead, -1)

    def condition(
        self,
        params: Params,
        tokens_BL: Texts,
        nbr_image_BKHWC: UInt8[Array, "b k h w c"] | None = None,
        nbr_tokens_BKL: Texts | None = None,
        nbr_mask_BK: Bool[Array, "b k"] | None = None,
    ) -> Condition:
        """Encodes the captions, and the neighbours with theirs; without neighbours the result is Imagen's condition."""
        text_BLD, text_mask_BL = self._embed(params, tokens_BL)
        empty_BLD = None
        if self.config.text.frozen is not None and self.config.text.frozen.padding == "kept":
            empty_BLD = jnp.broadcast_to(params["text"]["empty_LD"][None], text_BLD.shape)
        if nbr_image_BKHWC is None or nbr_image_BKHWC.shape[1] == 0:
            return Condition(text_BLD, text_mask_BL, empty_text_BLD=empty_BLD)
        nbr_text_BKLD, nbr_text_mask_BKL = self._embed(params, nbr_tokens_BKL)
        nbr_BKHWC = to_model(nbr_image_BKHWC)
        memory = self.unet.apply(
            {"params": params["unet"]},
            nbr_BKHWC,
            nbr_text_BKLD,
            nbr_text_mask_BKL,
            *self._clean_low_res(nbr_BKHWC),
            method=UNet.encode_neighbours,
        )
        return Condition(text_BLD, text_mask_BL, memory, nbr_mask_BK, empty_text_BLD=empty_BLD)

    def _clean_low_res(self, nbr_BKHWC: Float[Array, "b k h w c"]) -> tuple[Array, ...]:
        """What a super-resolution stage knows of its neighbours besides: their low-resolution versions, enlarged."""
        stage = self.config.super_resolution
        if stage is None:
            return ()
        nbr_NHWC = nbr_BKHWC.reshape(-1, *nbr_BKHWC.shape[2:])
        side = nbr_NHWC.shape[1]
        low_Nhwc = degrade.shrink(nbr_NHWC, side // self.config.factor)
        return (degrade.enlarge(low_Nhwc, side, stage.enlarging).reshape(nbr_BKHWC.shape),)

    def degraded(self, condition: Condition, image_BHWC: Float[Array, "b h w c"], key: Key[Array, ""]) -> Condition:
        """The condition with training's low-resolution input: the images degraded, enlarged again and noised."""
        stage, (B, side) = self.config.super_resolution, image_BHWC.shape[:2]
        key_degrade, key_level, key_eps = jax.random.split(key, 3)
        low_BHWC = degrade.degrade(image_BHWC, side // self.config.factor, stage, key_degrade)
        level_B = degrade.draw_levels(B, stage, key_level)
        eps = jax.random.normal(key_eps, image_BHWC.shape)
        up_BHWC = degrade.enlarge(low_BHWC, side, stage.enlarging)
        return condition.replace(low_res_BHWC=degrade.augment(up_BHWC, level_B, eps, stage), aug_level_B=level_B)

    def enlarged(
        self, condition: Condition, low_BHWC: UInt8[Array, "b h w 3"], level: Array | float, keys_B: Key[Array, " b"]
    ) -> Condition:
        """The condition with drawing's low-resolution input: images of the stage before, enlarged, noised at `level`.

        Each image has a key of its own for its noise.
        """
        stage, (B, side) = self.config.super_resolution, low_BHWC.shape[:2]
        up_BHWC = degrade.enlarge(to_model(low_BHWC), side * self.config.factor, stage.enlarging)
        level_B = jnp.broadcast_to(jnp.asarray(level, jnp.float32), (B,))
        eps = jax.vmap(lambda key: jax.random.normal(key, up_BHWC.shape[1:]))(keys_B)
        return condition.replace(low_res_BHWC=degrade.augment(up_BHWC, level_B, eps, stage), aug_level_B=level_B)

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
        image_BHWC = to_model(batch.image_BHWC)
        if self.config.super_resolution is not None:
            # Folded in, not split off: the three keys above are those of a base stage.
            condition = self.degraded(condition, image_BHWC, jax.random.fold_in(key, 3))
        denoise, diffusion = self.denoiser(params), self.config.diffusion
        loss_B = objective.diffusion_loss(denoise, image_BHWC, condition, key_loss, diffusion)
        return loss_B.mean(), {}

    def sample(
        self,
        params: Params,
        tokens_BL: Texts,
        nbr_image_BKHWC: UInt8[Array, "b k h w c"] | None,
        nbr_tokens_BKL: Texts | None,
        nbr_mask_BK: Bool[Array, "b k"] | None,
        keys_B: Key[Array, " b"],
        config: SamplerConfig,
        eta: Array | float,
        text_weight: Array | float,
        neighbour_weight: Array | float,
        low_res_BHWC: UInt8[Array, "b low low 3"] | None = None,
    ) -> UInt8[Array, "b h w 3"]:
        """Images for captions and neighbours: the neighbours are encoded once, then the sampler runs. Pure.

        A super-resolution stage enlarges the images `low_res_BHWC` of the stage before, of whatever size, by its
        factor, with noise of `config.aug_level` on them. The stages of a cascade take the same keys: each derives its
        own. Raises `UserError` when these images are missing, or given to a stage that takes none.
        """
        if (low_res_BHWC is None) != (self.config.super_resolution is None):
            takes = "no" if self.config.super_resolution is None else "a"
            raise UserError(f"{self.config.name} takes {takes} low-resolution image")
        condition = self.condition(params, tokens_BL, nbr_image_BKHWC, nbr_tokens_BKL, nbr_mask_BK)
        side = self.config.resolution
        if low_res_BHWC is not None:
            side = low_res_BHWC.shape[1] * self.config.factor
            own_B = jax.vmap(lambda key: jax.random.fold_in(key, self.config.resolution))(keys_B)
            keys_B, aug_B = jnp.moveaxis(jax.vmap(jax.random.split)(own_B), 1, 0)
            condition = self.enlarged(condition, low_res_BHWC, config.aug_level, aug_B)
        shape = (side, side, 3)
        denoise, diffusion = self.denoiser(params), self.config.diffusion
        return to_bytes(
            sample(denoise, condition, keys_B, shape, diffusion, config, eta, text_weight, neighbour_weight)
        )
