"""Re-Imagen: a text encoder and a U-Net that attends to neighbours; its init, its loss, its denoiser.

A super-resolution stage is the same system with two more conditions, the low-resolution image and the level of noise
on it (diffusion/degrade.py); its neighbours come with their own low-resolution versions, clean. Text comes as tokens,
for an encoder that is trained along, or embedded by a frozen one. Everything here is a pure function of (parameters,
arrays, keys). Images are in [-1, 1] inside, bytes at the edge.
Source: Re-Imagen (Chen et al., ICLR 2023), section 3; Imagen (Saharia et al. 2022), section 2.4.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Key, UInt8

from reimagen_jax.config import Experiment
from reimagen_jax.diffusion import degrade, editing, objective, sampler, schedule, solvers
from reimagen_jax.diffusion.base import Denoiser
from reimagen_jax.encoders.bytes import ByteEncoder
from reimagen_jax.encoders.texts import AnyArray, Embedded, Texts, abstract_texts
from reimagen_jax.errors import UserError
from reimagen_jax.nets.attention import Attention, attentions
from reimagen_jax.nets.unet import Condition, UNet, predict, read
from reimagen_jax.systems.base import Sums
from reimagen_jax.systems.pixels import handed_on, to_model
from reimagen_jax.systems.reimagen.condition import Batch, Inputs, drop, guide_of, plan_of
from reimagen_jax.systems.reimagen.settings import GuidedSamplerConfig, ReImagenConfig

Params = dict[str, Any]


@dataclass(frozen=True)
class ReImagen:
    """The system that an experiment describes; holds settings only."""

    config: Experiment

    @property
    def model(self) -> ReImagenConfig:
        """The experiment's settings of this system."""
        return self.config.system

    @property
    def settings(self) -> GuidedSamplerConfig:
        return self.model.sampler

    @property
    def text_encoder(self) -> ByteEncoder:
        return ByteEncoder(self.model.text)

    @property
    def unet(self) -> UNet:
        return UNet(self.model.unet, self.model.diffusion.output_channels(3))

    def init(self, key: Key[Array, ""]) -> Params:
        """Random parameters: {"text": ..., "unet": ...}, of which a frozen text encoder has no part.

        Where a dropped text is the empty one, {"text": {"empty_LD": ...}}: zeros, to be set or learned.
        """
        model, (key_text, key_unet) = self.model, jax.random.split(key)
        params, (text, mask) = self._init_text(key_text)
        image = jnp.zeros((1, model.train_resolution, model.train_resolution, 3), jnp.float32)
        zero, low_res = jnp.zeros(1, jnp.float32), {}
        guidance = {} if model.distilled is None else {"guidance_B2": jnp.zeros((1, 2), jnp.float32)}
        if model.super_resolution is not None:
            low_res = {"low_res_BHWC": image, "aug_level_B": zero}

        def both(unet: UNet) -> Array:
            memory = unet.encode_neighbours(
                image[:, None], text[:, None], mask[:, None], *self._clean_low_res(image[:, None])
            )
            return unet(image, zero, Condition(text, mask, memory, jnp.ones((1, 1), bool), **low_res, **guidance))

        return {**params, "unet": self.unet.init(key_unet, method=both)["params"]}

    def _init_text(self, key: Key[Array, ""]) -> tuple[Params, tuple[Array, Array]]:
        """What is learned of texts, and one text as the U-Net is told it."""
        frozen = self.model.text.frozen
        if frozen is not None:
            empty_LD = jnp.zeros((frozen.max_tokens, frozen.width), jnp.float32)
            params = {"text": {"empty_LD": empty_LD}} if frozen.padding == "kept" else {}
            return params, (empty_LD[None], jnp.ones((1, frozen.max_tokens), bool))
        tokens_BL = jnp.zeros((1, self.model.text.max_bytes), jnp.int32)
        params = self.text_encoder.init(key, tokens_BL)["params"]
        return {"text": params}, self.text_encoder.apply({"params": params}, tokens_BL)

    def _embed(self, params: Params, texts: Texts) -> tuple[Array, Array]:
        """Texts of any leading axes as the U-Net is told them: [*b, L, D], float32, and the mask [*b, L].

        Raises `UserError` where they are tokens and embeddings are wanted, or the other way round.
        """
        frozen = self.model.text.frozen
        if isinstance(texts, Embedded) == (frozen is None):
            wants = "embeddings of a frozen text encoder (text.frozen)" if frozen else "tokens (text.frozen is not set)"
            raise UserError(f"{self.config.name} takes texts as {wants}")
        if isinstance(texts, Embedded):
            return texts.embedding_BLD.astype(jnp.float32), texts.mask_BL
        lead = texts.shape[:-1]
        text_NLD, mask_NL = self.text_encoder.apply({"params": params["text"]}, texts.reshape(-1, texts.shape[-1]))
        return text_NLD.reshape(*lead, *text_NLD.shape[1:]), mask_NL.reshape(*lead, -1)

    def condition(self, params: Params, told: Batch | Inputs) -> Condition:
        """Encodes the captions, and the neighbours with theirs; without neighbours the result is Imagen's condition."""
        text_BLD, text_mask_BL = self._embed(params, told.tokens_BL)
        empty_BLD = None
        if self.model.text.frozen is not None and self.model.text.frozen.padding == "kept":
            empty_BLD = jnp.broadcast_to(params["text"]["empty_LD"].astype(jnp.float32)[None], text_BLD.shape)
        if told.nbr_image_BKHWC.shape[1] == 0:
            return Condition(text_BLD, text_mask_BL, empty_text_BLD=empty_BLD)
        nbr_text_BKLD, nbr_text_mask_BKL = self._embed(params, told.nbr_tokens_BKL)
        nbr_BKHWC = to_model(told.nbr_image_BKHWC)
        memory = self.unet.apply(
            {"params": params["unet"]},
            nbr_BKHWC,
            nbr_text_BKLD,
            nbr_text_mask_BKL,
            *self._clean_low_res(nbr_BKHWC),
            method=UNet.encode_neighbours,
        )
        weight_BK = getattr(told, "nbr_weight_BK", None)  # of what is drawn, not of what is trained on
        return Condition(
            text_BLD, text_mask_BL, memory, told.nbr_mask_BK, empty_text_BLD=empty_BLD, nbr_weight_BK=weight_BK
        )

    def against(self, condition: Condition, params: Params, negative_BL: Texts) -> Condition:
        """The condition with negative prompts for what a dropped text is, where these have tokens."""
        text_BLD, mask_BL = self._embed(params, negative_BL)
        if condition.empty_text_BLD is not None:
            there_B = mask_BL.any(axis=1)
            text_BLD = jnp.where(there_B[:, None, None], text_BLD, condition.empty_text_BLD)
            mask_BL = jnp.where(there_B[:, None], mask_BL, condition.text_mask_BL)
        return condition.replace(empty_text_BLD=text_BLD, empty_mask_BL=mask_BL)

    def _clean_low_res(self, nbr_BKHWC: Float[Array, "b k h w c"]) -> tuple[Array, ...]:
        """What a super-resolution stage knows of its neighbours besides: their low-resolution versions, enlarged."""
        stage = self.model.super_resolution
        if stage is None:
            return ()
        nbr_NHWC = nbr_BKHWC.reshape(-1, *nbr_BKHWC.shape[2:])
        side = nbr_NHWC.shape[1]
        low_Nhwc = degrade.shrink(nbr_NHWC, side // self.model.factor)
        return (degrade.enlarge(low_Nhwc, side, stage.enlarging).reshape(nbr_BKHWC.shape),)

    def degraded(self, condition: Condition, image_BHWC: Float[Array, "b h w c"], key: Key[Array, ""]) -> Condition:
        """The condition with training's low-resolution input: the images degraded, enlarged again and noised."""
        stage, (B, side) = self.model.super_resolution, image_BHWC.shape[:2]
        key_degrade, key_level, key_eps = jax.random.split(key, 3)
        low_BHWC = degrade.degrade(image_BHWC, side // self.model.factor, stage, key_degrade)
        level_B = degrade.draw_levels(B, stage, key_level)
        eps = jax.random.normal(key_eps, image_BHWC.shape)
        up_BHWC = degrade.enlarge(low_BHWC, side, stage.enlarging)
        return condition.replace(low_res_BHWC=degrade.augment(up_BHWC, level_B, eps, stage), aug_level_B=level_B)

    def enlarged(
        self,
        condition: Condition,
        low_BHWC: UInt8[Array, "b h w 3"] | Float[Array, "b h w 3"],
        level: Array | float,
        keys_B: Key[Array, " b"] | None,
    ) -> Condition:
        """The condition with drawing's low-resolution input: images of the stage before (bytes, or floats in [-1, 1]),
        enlarged, noised at `level`.

        Each image has a key of its own for its noise; without keys, the noise is left out.
        """
        stage, (B, side) = self.model.super_resolution, low_BHWC.shape[:2]
        low_BHWC = low_BHWC if jnp.issubdtype(low_BHWC.dtype, jnp.floating) else to_model(low_BHWC)
        up_BHWC = degrade.enlarge(low_BHWC, side * self.model.factor, stage.enlarging)
        level_B = jnp.broadcast_to(jnp.asarray(level, jnp.float32), (B,))
        condition = condition.replace(low_res_BHWC=up_BHWC, aug_level_B=level_B)
        return condition if keys_B is None else self.noised(condition, sampler.initial_noise(keys_B, up_BHWC.shape[1:]))

    def noised(self, condition: Condition, eps_BHWC: Float[Array, "b h w c"]) -> Condition:
        """The condition with noise on its low-resolution input, of the level that it tells."""
        up_BHWC, level_B, stage = condition.low_res_BHWC, condition.aug_level_B, self.model.super_resolution
        return condition.replace(low_res_BHWC=degrade.augment(up_BHWC, level_B, eps_BHWC, stage))

    def denoiser(self, params: Params) -> Denoiser:
        """`(x, t, condition) -> prediction`, what guidance, solvers and losses accept."""
        return lambda x, t, condition: predict(self.unet, params["unet"], x, t, condition)

    def read(self, params: Params, condition: Condition) -> Condition:
        """The condition with its texts read, that of a dropped one too: once a sample, not once a step."""
        every_B = jnp.ones(len(condition.text_BLD), bool)
        without = drop(condition, every_B, ~every_B)
        told, empty_told = (read(self.unet, params["unet"], each) for each in (condition, without))
        if condition.empty_text_BLD is None:  # the text's tokens, all masked: only the pooled vector is another
            empty_told = {"conditioning": empty_told["conditioning"]}
        return condition.replace(told=told, empty_told=empty_told)

    def loss(
        self, params: Params, batch: Batch, key: Key[Array, ""], *, ema: Params | None = None
    ) -> tuple[Float[Array, ""], dict[str, Array]]:
        """The diffusion loss of a batch, text and neighbours dropped independently (Re-Imagen equation 4)."""
        model, B = self.model, batch.image_BHWC.shape[0]
        key_text, key_nbr, key_loss = jax.random.split(key, 3)
        condition = drop(
            self.condition(params, batch),
            text_B=objective.dropped(key_text, B, model.text_drop),
            neighbours_B=objective.dropped(key_nbr, B, model.neighbour_drop),
        )
        image_BHWC = to_model(batch.image_BHWC)
        if model.super_resolution is not None:
            # Folded in, not split off: the three keys above are those of a base stage.
            condition = self.degraded(condition, image_BHWC, jax.random.fold_in(key, 3))
        loss_B = objective.diffusion_loss(self.denoiser(params), image_BHWC, condition, key_loss, model.diffusion)
        return loss_B.mean(), {}

    def measure(self, params: Params, batch: Batch, key: Key[Array, ""]) -> Sums:
        """The loss with text and neighbours, that without neighbours from the same noise, and what neighbours gain;
        each by time, too."""
        model, B = self.model, batch.image_BHWC.shape[0]
        condition, image_BHWC = self.condition(params, batch), to_model(batch.image_BHWC)
        if model.super_resolution is not None:
            condition = self.degraded(condition, image_BHWC, jax.random.fold_in(key, 3))

        def loss_of(without: Bool[Array, ""]) -> Float[Array, " b"]:
            told = drop(condition, jnp.zeros(B, bool), jnp.broadcast_to(without, (B,)))
            return objective.diffusion_loss(self.denoiser(params), image_BHWC, told, key, model.diffusion)

        if condition.nbr_mask_BK is None:
            losses = {"loss": loss_of(jnp.array(False))}
        else:
            with_B, without_B = jax.lax.map(loss_of, jnp.array([False, True]))  # one network in the program
            losses = {"loss": with_B, "loss_without_neighbours": without_B, "neighbours_gain": without_B - with_B}
        return objective.sums(losses, lambda loss_B: objective.by_time(loss_B, key, model.diffusion))

    def sample(
        self, params: Params, inputs: Inputs, keys_B: Key[Array, " b"], settings: GuidedSamplerConfig
    ) -> UInt8[Array, "b h w 3"] | Float[Array, "b h w 3"]:
        """Images for captions and neighbours (see `sampling`), bytes or floats as `settings.handed_on` says."""
        return handed_on(sampler.sample(*self.sampling(params, inputs, keys_B, settings)), settings.handed_on)

    def sampling(
        self, params: Params, inputs: Inputs, keys_B: Key[Array, " b"], settings: GuidedSamplerConfig
    ) -> sampler.Sampling:
        """What is sampled for captions and neighbours, these encoded once: images in [-1, 1].

        A super-resolution stage enlarges the images `inputs.low_res_BHWC` of the stage before by its factor, with noise
        of `settings.aug_level` on them. The stages of a cascade take the same keys: each derives its own. Raises
        `UserError` when these images are missing, or given to a stage that takes none.
        """
        model, low_res_BHWC = self.model, inputs.low_res_BHWC
        if (low_res_BHWC is None) != (model.super_resolution is None):
            takes = "no" if model.super_resolution is None else "a"
            raise UserError(f"{self.config.name} takes {takes} low-resolution image")
        condition, side, (keys_B, aug_B) = self.condition(params, inputs), model.resolution, self._own_keys(keys_B)
        if inputs.negative_BL is not None:
            condition = self.against(condition, params, inputs.negative_BL)
        if low_res_BHWC is not None:
            side = low_res_BHWC.shape[1] * model.factor
            once_B = aug_B if settings.aug_noise == "once" else None
            condition = self.enlarged(condition, low_res_BHWC, settings.aug_level, once_B)
        start_B, plan_B, step_B = sampler.split_keys(keys_B)
        guide = guide_of(settings, inputs, plan_B, model.distilled is not None)
        if low_res_BHWC is not None and settings.aug_noise == "every_call":
            guide = degrade.anew(guide, self.noised, aug_B)
        sampling = sampler.Sampling(
            self.denoiser(params),
            self.read(params, condition),
            sampler.initial_noise(start_B, (side, side, 3)),
            step_B,
            self.visited(settings),
            model.diffusion,
            solvers.solver_of(settings, model.diffusion),
            guide,
            sampler.projection(settings),
        )
        if settings.repeats > 1:
            sampling = editing.resampled(sampling, settings.jump, settings.repeats)
        if inputs.known_BHWC is not None:
            sampling = editing.edited(sampling, to_model(inputs.known_BHWC), inputs.share_BHW1)
        return sampling

    def plan(
        self, keys_B: Key[Array, " b"], eta_B: Float[AnyArray, " b"], settings: GuidedSamplerConfig
    ) -> Bool[Array, "b t"] | None:
        """The steps at which images of these keys are guided by their text, as `sampling` has it; None where all are
        guided by both."""
        return plan_of(settings, eta_B, sampler.split_keys(self._own_keys(keys_B)[0])[1])

    def visited(self, settings: GuidedSamplerConfig) -> Float[Array, " t"]:
        """The times that `sampling` goes through, that of the image the last."""
        return schedule.times(settings.num_steps, self.model.diffusion, settings.spacing, settings.times)

    def _own_keys(self, keys_B: Key[Array, " b"]) -> tuple[Key[Array, " b"], Key[Array, " b"] | None]:
        """Of images' keys, those of this stage: of what it samples, and of the noise on what it enlarges, if any."""
        if self.model.super_resolution is None:
            return keys_B, None
        own_B = jax.vmap(lambda key: jax.random.fold_in(key, self.model.resolution))(keys_B)
        keys_B, aug_B = jnp.moveaxis(jax.vmap(jax.random.split)(own_B), 1, 0)
        return keys_B, aug_B

    @property
    def attentions(self) -> tuple[Attention, ...]:
        """The network's, as it is trained, and what computes each of them and why."""
        model, frozen = self.model, self.model.text.frozen
        text_tokens = model.text.max_bytes if frozen is None else frozen.max_tokens
        return attentions(model.unet, model.train_resolution, text_tokens, self.config.data.num_neighbours)

    def batch_spec(self, B: int) -> Batch:
        model, K, side = self.model, self.config.data.num_neighbours, self.model.train_resolution
        image = jax.ShapeDtypeStruct((B, side, side, 3), jnp.uint8)
        return Batch(image, abstract_texts(model.text, B), *self._neighbours_spec(B, K, model.resolution))

    def inputs_spec(self, B: int, settings: GuidedSamplerConfig) -> Inputs:
        model, number = self.model, jax.ShapeDtypeStruct((B,), jnp.float32)
        K, low_res = self.config.data.num_neighbours if settings.k is None else settings.k, None
        if model.super_resolution is not None:
            low = model.super_resolution.low_resolution
            low_res = jax.ShapeDtypeStruct((B, low, low, 3), jnp.uint8)
        neighbours = self._neighbours_spec(B, K, model.resolution)
        pair = jax.ShapeDtypeStruct((B, 2), jnp.float32)
        rescale = None if settings.guidance_rescale is None else number
        interval = None if settings.guidance_interval is None else pair
        return Inputs(abstract_texts(model.text, B), *neighbours, number, number, number, low_res, rescale, interval)

    def _neighbours_spec(self, B: int, K: int, R: int) -> tuple[Any, ...]:
        return (
            jax.ShapeDtypeStruct((B, K, R, R, 3), jnp.uint8),
            abstract_texts(self.model.text, B, K),
            jax.ShapeDtypeStruct((B, K), jnp.bool_),
        )

    def about(self) -> Mapping[str, str]:
        model, stage, frozen = self.model, self.model.super_resolution, self.model.text.frozen
        takes = f"{stage.low_resolution} x {stage.low_resolution} pixels, enlarged to " if stage is not None else ""
        text = f"bytes, trained along, up to {model.text.max_bytes}"
        if frozen is not None:
            fingerprint = f"fingerprint `{frozen.fingerprint[:16]}`"
            text = f"frozen, width {frozen.width}, {frozen.max_tokens} tokens, {fingerprint}"
            text += f", texts cleaned as {frozen.cleaning}" if frozen.cleaning != "none" else ""
        return {
            "Images": f"{takes}{model.resolution} x {model.resolution} pixels",
            "Neighbours": f"{self.config.data.num_neighbours} in training",
            "Text encoder": text,
            **({} if model.distilled is None else {"Distilled from": model.distilled.said}),
            "Process": f"{model.diffusion.schedule} schedule, predicts {model.diffusion.prediction}"
            + (", learned variance" if model.diffusion.learned_variance else ""),
            "Sampler": f"{model.sampler.solver}, {model.sampler.num_steps} steps, text weight "
            f"{model.sampler.text_weight:g}, neighbour weight {model.sampler.neighbour_weight:g}"
            + "".join(f", {name} {said}" for name, said in model.sampler.told().items()),
        }
