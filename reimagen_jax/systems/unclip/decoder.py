"""unCLIP's decoder: diffusion of an image, given its CLIP embedding z and, beside it, its text.

  condition   c(z, text), as embedding.py tells it to the U-Net                                                  (1)
  training    z of the image itself; z dropped in 10 %, the text in 50 % of the examples, independently          (2)
  drawing     z of the stage before (the prior), of the text in its place, or of neighbours:                     (3)
              the mean of their embeddings by their weights, of length 1 where CLIP's are
  guidance    against c(null, empty text): both at once                                                          (4)

(3) is where retrieval meets unCLIP: a reference is one vector here, where Re-Imagen attends to its pixels. CLIP lies
frozen among the parameters: {"clip": ..., "embedding": ..., "unet": ...}, and "text" for a text encoder of its own.
Source: Ramesh et al. 2022 (arXiv 2204.06125), section 2.1; neighbours' embeddings are ours.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Key, UInt8

from reimagen_jax.config import Experiment
from reimagen_jax.diffusion import degrade, guidance, objective, sampler, schedule, solvers
from reimagen_jax.diffusion.base import Denoiser
from reimagen_jax.encoders.joint import Joint, TextReading, unit
from reimagen_jax.nets.attention import Attention, attentions
from reimagen_jax.nets.unet import Condition, UNet, predict, read
from reimagen_jax.systems.base import Metrics, Params, Sums
from reimagen_jax.systems.pixels import handed_on, to_model
from reimagen_jax.systems.unclip.arrays import DecoderInputs, PairBatch
from reimagen_jax.systems.unclip.embedding import OwnText, Projections
from reimagen_jax.systems.unclip.settings import DecoderConfig, DecoderSamplerConfig


@flax.struct.dataclass
class Told:
    """A condition, and what it is where all of it is dropped."""

    full: Condition
    null: Condition | None = None


@dataclass(frozen=True)
class Decoder:
    """The system that an experiment describes; holds settings only."""

    config: Experiment

    @property
    def model(self) -> DecoderConfig:
        """The experiment's settings of this system."""
        return self.config.system

    @property
    def settings(self) -> DecoderSamplerConfig:
        return self.model.sampler

    @property
    def clip(self) -> Joint:
        """The CLIP whose embeddings it draws."""
        return Joint(self.model.clip)

    @property
    def unet(self) -> UNet:
        return UNet(self.model.unet, self.model.diffusion.output_channels(3))

    def init(self, key: Key[Array, ""]) -> Params:
        """Random parameters, CLIP's too."""
        model, keys = self.model, jax.random.split(key, 4)
        tokens_BL, z_BD = jnp.full((1, model.clip.max_tokens), model.clip.end), jnp.zeros((1, model.clip.width))
        params = {"clip": self.clip.init(keys[0])}
        if model.text is not None:
            params |= {"text": self._own_text.init(keys[1], tokens_BL)["params"]}
        text = self._read(params, tokens_BL)
        condition, made = self._projections.init_with_output(keys[2], z_BD, jnp.zeros(1, bool), text)
        image, zero = jnp.zeros((1, model.resolution, model.resolution, 3)), jnp.zeros(1)
        unet = self.unet.init(keys[3], image, zero, condition)["params"]
        return params | {"embedding": made["params"], "unet": unet}

    @property
    def _projections(self) -> Projections:
        return Projections(self.model)

    @property
    def _own_text(self) -> OwnText:
        return OwnText(self.model)

    def _read(self, params: Params, tokens_BL: Array) -> TextReading:
        """Texts, by CLIP, or their states by the encoder that is trained along."""
        text = jax.lax.stop_gradient(self.clip.texts(params["clip"], tokens_BL))
        if self.model.text is None:
            return text
        return TextReading(*self._own_text.apply({"params": params["text"]}, tokens_BL), text.vector_BD)

    def condition(
        self, params: Params, tokens_BL: Array, z_BD: Float[Array, "b d"], dropped_B: Bool[Array, " b"]
    ) -> Condition:
        """(1), without the embedding where the flag is true."""
        return self._told(params, self._read(params, tokens_BL), z_BD, dropped_B)

    def _told(self, params: Params, text: TextReading, z_BD: Array, dropped_B: Array) -> Condition:
        return self._projections.apply({"params": params["embedding"]}, z_BD, dropped_B, text)

    def denoiser(self, params: Params) -> Denoiser:
        """`(x, t, told) -> prediction`, what guidance, solvers and losses accept."""
        return lambda x, t, told: predict(self.unet, params["unet"], x, t, told.full)

    def embed(self, params: Params, image: UInt8[Array, "*b h w 3"]) -> Float[Array, "*b d"]:
        """Images' embeddings."""
        z_ND = self.clip.images(params["clip"], to_model(image.reshape(-1, *image.shape[-3:])))
        return jax.lax.stop_gradient(z_ND).reshape(*image.shape[:-3], -1)

    def loss(
        self, params: Params, batch: PairBatch, key: Key[Array, ""], *, ema: Params | None = None
    ) -> tuple[Float[Array, ""], Metrics]:
        """The diffusion loss of a batch, (2)."""
        key_z, key_text, key_loss = jax.random.split(key, 3)
        B, model = len(batch.tokens_BL), self.model
        without_z_B, without_text_B = (
            objective.dropped(key, B, share)
            for key, share in ((key_z, model.embedding_drop), (key_text, model.text_drop))
        )
        z_BD, text = self._learned(params, batch, without_text_B)
        return self._losses(params, batch, z_BD, text, without_z_B, key_loss).mean(), {}

    def measure(self, params: Params, batch: PairBatch, key: Key[Array, ""]) -> Sums:
        """The loss with embedding and text, that without the embedding from the same noise, and what it gains; each by
        time, too."""
        B = len(batch.tokens_BL)
        nothing_B = jnp.zeros(B, bool)
        z_BD, text = self._learned(params, batch, nothing_B)

        def loss_of(without_B: Array) -> Array:
            return self._losses(params, batch, z_BD, text, without_B, key)

        with_B, without_B = jax.lax.map(loss_of, jnp.stack([nothing_B, ~nothing_B]))
        losses = {"loss": with_B, "loss_without_embedding": without_B, "embedding_gain": without_B - with_B}
        return objective.sums(losses, lambda loss_B: objective.by_time(loss_B, key, self.model.diffusion))

    def _learned(
        self, params: Params, batch: PairBatch, without_text_B: Array
    ) -> tuple[Float[Array, "b d"], TextReading]:
        """Whose embedding is learned to be drawn, and the texts beside it."""
        if self.model.trained_on == "image":
            z_BD = self.embed(params, batch.image_BHWC)
        else:
            z_BD = jax.lax.stop_gradient(self.clip.texts(params["clip"], batch.tokens_BL).vector_BD)
        return z_BD, self._read(params, jnp.where(without_text_B[:, None], batch.empty_BL, batch.tokens_BL))

    def _losses(
        self, params: Params, batch: PairBatch, z_BD: Array, text: TextReading, without_z_B: Array, key: Array
    ) -> Float[Array, " b"]:
        model, condition = self.model, self._told(params, text, z_BD, without_z_B)
        x0 = to_model(batch.image_BHWC)
        if model.seen != model.resolution:
            x0 = degrade.shrink(x0, model.resolution)
        return objective.diffusion_loss(self.denoiser(params), x0, Told(condition), key, model.diffusion)

    def sample(
        self, params: Params, inputs: DecoderInputs, keys_B: Key[Array, " b"], settings: DecoderSamplerConfig
    ) -> UInt8[Array, "b h w 3"] | Float[Array, "b h w 3"]:
        """Images of embeddings (see `sampling`), bytes or floats as `settings.handed_on` says."""
        return handed_on(sampler.sample(*self.sampling(params, inputs, keys_B, settings)), settings.handed_on)

    def sampling(
        self, params: Params, inputs: DecoderInputs, keys_B: Key[Array, " b"], settings: DecoderSamplerConfig
    ) -> sampler.Sampling:
        """What is sampled for embeddings and texts, these read once: images in [-1, 1]."""
        model, every_B = self.model, jnp.ones(len(keys_B), bool)
        z_BD, there_B = self.embedding(params, inputs, settings)
        told = Told(
            self.condition(params, inputs.tokens_BL, z_BD, ~there_B),
            self.condition(params, inputs.null_BL, z_BD, every_B),
        )
        told = jax.tree.map(self._reader(params), told, is_leaf=lambda node: isinstance(node, Condition))
        start_B, _, step_B = sampler.split_keys(keys_B)
        return sampler.Sampling(
            self.denoiser(params),
            told,
            sampler.initial_noise(start_B, (model.resolution, model.resolution, 3)),
            step_B,
            self.visited(settings),
            model.diffusion,
            solvers.solver_of(settings, model.diffusion),
            guidance.single(lambda told: told.replace(full=told.null), inputs.text_weight_B),  # (4)
            sampler.projection(settings),
        )

    def embedding(
        self, params: Params, inputs: DecoderInputs, settings: DecoderSamplerConfig
    ) -> tuple[Float[Array, "b d"], Bool[Array, " b"]]:
        """(3), and for whom there is one."""
        if settings.embedding == "text":
            z_BD = self.clip.texts(params["clip"], inputs.tokens_BL).vector_BD
            return z_BD, jnp.ones(len(z_BD), bool)
        if inputs.nbr_image_BKHWC.shape[1] == 0:
            return inputs.start_BD, inputs.given_B
        weight_BK = inputs.nbr_weight_BK
        total_B = weight_BK.sum(axis=1)
        nbr_BKD = self.embed(params, inputs.nbr_image_BKHWC)
        mean_BD = jnp.einsum("bk,bkd->bd", weight_BK / jnp.where(total_B > 0, total_B, 1.0)[:, None], nbr_BKD)
        mean_BD = unit(mean_BD) if self.model.clip.normalised else mean_BD
        z_BD = jnp.where(inputs.given_B[:, None], inputs.start_BD, mean_BD)
        return z_BD, inputs.given_B | (total_B > 0)

    def _reader(self, params: Params) -> Any:
        return lambda condition: condition.replace(told=read(self.unet, params["unet"], condition))

    def visited(self, settings: DecoderSamplerConfig) -> Float[Array, " t"]:
        """The times that `sampling` goes through, that of the image the last."""
        return schedule.times(settings.num_steps, self.model.diffusion, settings.spacing, settings.times)

    @property
    def attentions(self) -> tuple[Attention, ...]:
        """The network's, as it is trained, and what computes each of them and why."""
        model = self.model
        tokens = model.image_tokens + model.clip.max_tokens
        return attentions(model.unet, model.resolution, tokens, 0)

    def batch_spec(self, B: int) -> PairBatch:
        side, texts = self.model.seen, self._texts(B)
        return PairBatch(jax.ShapeDtypeStruct((B, side, side, 3), jnp.uint8), texts, texts)

    def inputs_spec(self, B: int, settings: DecoderSamplerConfig) -> DecoderInputs:
        side, K, shape, texts = self.model.seen, self.room(settings), jax.ShapeDtypeStruct, self._texts(B)
        return DecoderInputs(
            texts,
            texts,
            shape((B,), jnp.float32),
            shape((B, self.model.clip.width), jnp.float32),
            shape((B,), jnp.bool_),
            shape((B, K, side, side, 3), jnp.uint8),
            shape((B, K), jnp.float32),
        )

    def room(self, settings: DecoderSamplerConfig) -> int:
        """Neighbours whose embeddings are made."""
        if settings.embedding in ("start", "text"):
            return 0
        return self.config.data.num_neighbours if settings.k is None else settings.k

    def _texts(self, B: int) -> Any:
        return jax.ShapeDtypeStruct((B, self.model.clip.max_tokens), jnp.int32)

    def about(self) -> Mapping[str, str]:
        model, settings = self.model, self.settings
        return {
            "Images": f"{model.resolution} x {model.resolution} pixels",
            "Draws from": f"CLIP embeddings of {model.clip.width} values, learned of the {model.trained_on}'s",
            "Text beside": "CLIP's states" if model.text is None else "an encoder of its own, trained along",
            "Process": f"{model.diffusion.schedule} schedule, predicts {model.diffusion.prediction}"
            + (", learned variance" if model.diffusion.learned_variance else ""),
            "Sampler": f"{settings.solver}, {settings.num_steps} steps, weight {settings.text_weight:g}"
            + "".join(f", {name} {said}" for name, said in settings.told().items()),
        }
