"""RCG's pixel generator by diffusion: an image, given its representation r, its class, or nothing.

  condition   W v, v = r or a class's embedding: added to the embedding of the time, W zero at first, or a token
              beside the pixels                                                                                  (1)
  training    r of the image itself; v dropped in a share of the examples, a learned vector in its place         (2)
  drawing     r of the stage before (the RDM), of a given image, or of neighbours: the mean of their             (3)
              representations by their weights, normalised again
  guidance    against the dropped v                                                                              (4)

The three conditions are one program but for where v comes from; with nothing, it is always the learned vector. (3) is
where retrieval meets RCG. An encoder lies frozen among the parameters where representations are drawn from:
{"encoder": ..., "condition": ..., "unet": ...}. Source: Li et al. 2024 (RCG, arXiv 2312.03701), sections 3.3 and 4; (1)
is its ADM, and its latent diffusion; (2) is its DiT's; guidance with a given representation and neighbours are ours.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int32, Key, UInt8

from reimagen_jax.diffusion import degrade, guidance, objective, sampler, schedule, solvers
from reimagen_jax.diffusion.base import Denoiser
from reimagen_jax.nets.attention import Attention, attentions
from reimagen_jax.nets.unet import Condition, UNet, predict, read
from reimagen_jax.systems.base import Metrics, Params, Sums
from reimagen_jax.systems.pixels import handed_on, to_model
from reimagen_jax.systems.rcg.arrays import GeneratorInputs, PictureBatch
from reimagen_jax.systems.rcg.represented import Pixels
from reimagen_jax.systems.rcg.settings import GeneratorConfig, GeneratorSamplerConfig


@flax.struct.dataclass
class Told:
    """A condition, and what it is where it is dropped."""

    full: Condition
    null: Condition | None = None


class Telling(nn.Module):
    """(1) and (2)'s learned vector, as the U-Net's condition."""

    config: GeneratorConfig

    @nn.compact
    def __call__(self, v_B: Float[Array, "b d"] | Int32[Array, " b"], dropped_B: Bool[Array, " b"]) -> Condition:
        """v as representations, or as the numbers of classes."""
        config, width = self.config, self.config.unet.cond_width
        if config.condition != "representation":
            embed = nn.Embed(max(len(config.classes), 1), width, name="classes")
            v_B = embed(jnp.maximum(v_B, 0)) if config.condition == "class" else jnp.zeros((len(v_B), width))
        null_D = self.param("null", nn.initializers.normal(0.02), v_B.shape[1:]).astype(jnp.float32)
        v_BD = jnp.where(dropped_B[:, None], null_D[None], v_B)
        if config.told_by == "token":
            return Condition(extra_BMD=nn.Dense(width, dtype=jnp.dtype(config.unet.dtype), name="token")(v_BD)[:, None])
        return Condition(embedding_BD=nn.Dense(width, kernel_init=nn.initializers.zeros, name="time")(v_BD))


@dataclass(frozen=True)
class Generator(Pixels):
    """The system that an experiment describes; holds settings only."""

    @property
    def model(self) -> GeneratorConfig:
        """The experiment's settings of this system."""
        return self.config.system

    @property
    def settings(self) -> GeneratorSamplerConfig:
        return self.model.sampler

    @property
    def unet(self) -> UNet:
        return UNet(self.model.unet, self.model.diffusion.output_channels(3))

    @property
    def telling(self) -> Telling:
        return Telling(self.model)

    def init(self, key: Key[Array, ""]) -> Params:
        """Random parameters, the encoder's too."""
        model, (key_encoder, key_condition, key_unet) = self.model, jax.random.split(key, 3)
        v_B = jnp.zeros((1, model.representation_width)) if self.represents else jnp.zeros(1, jnp.int32)
        condition, made = self.telling.init_with_output(key_condition, v_B, jnp.zeros(1, bool))
        image, zero = jnp.zeros((1, model.resolution, model.resolution, 3)), jnp.zeros(1)
        params = {"condition": made["params"], "unet": self.unet.init(key_unet, image, zero, condition)["params"]}
        return params | ({"encoder": self.encoder.init(key_encoder)} if self.represents else {})

    def condition(self, params: Params, v_B: Array, dropped_B: Bool[Array, " b"]) -> Condition:
        """(1), without v where the flag is true."""
        return self.telling.apply({"params": params["condition"]}, v_B, dropped_B)

    def denoiser(self, params: Params) -> Denoiser:
        """`(x, t, told) -> prediction`, what guidance, solvers and losses accept."""
        return lambda x, t, told: predict(self.unet, params["unet"], x, t, told.full)

    def loss(
        self, params: Params, batch: PictureBatch, key: Key[Array, ""], *, ema: Params | None = None
    ) -> tuple[Float[Array, ""], Metrics]:
        """The diffusion loss of a batch, (2)."""
        key_drop, key_loss = jax.random.split(key)
        dropped_B = objective.dropped(key_drop, len(batch.class_B), self.model.condition_drop)
        return self._losses(params, batch, self.learned(params, batch), dropped_B, key_loss).mean(), {}

    def measure(self, params: Params, batch: PictureBatch, key: Key[Array, ""]) -> Sums:
        """The loss with the condition, that without it from the same noise, and what it gains; each by time, too."""
        nothing_B, v_B = jnp.zeros(len(batch.class_B), bool), self.learned(params, batch)
        with_B, without_B = jax.lax.map(
            lambda dropped_B: self._losses(params, batch, v_B, dropped_B, key), jnp.stack([nothing_B, ~nothing_B])
        )
        losses = {"loss": with_B}
        if self.model.condition != "none":
            losses |= {"loss_without_condition": without_B, "condition_gain": without_B - with_B}
        return objective.sums(losses, lambda loss_B: objective.by_time(loss_B, key, self.model.diffusion))

    def _losses(
        self, params: Params, batch: PictureBatch, v_B: Array, dropped_B: Array, key: Array
    ) -> Float[Array, " b"]:
        model, told = self.model, Told(self.condition(params, v_B, dropped_B | self.nothing(batch.class_B)))
        x0 = to_model(batch.image_BHWC)
        if model.seen != model.resolution:
            x0 = degrade.shrink(x0, model.resolution)
        return objective.diffusion_loss(self.denoiser(params), x0, told, key, model.diffusion)

    def sample(
        self, params: Params, inputs: GeneratorInputs, keys_B: Key[Array, " b"], settings: GeneratorSamplerConfig
    ) -> UInt8[Array, "b h w 3"] | Float[Array, "b h w 3"]:
        """Images (see `sampling`), bytes or floats as `settings.handed_on` says."""
        return handed_on(sampler.sample(*self.sampling(params, inputs, keys_B, settings)), settings.handed_on)

    def sampling(
        self, params: Params, inputs: GeneratorInputs, keys_B: Key[Array, " b"], settings: GeneratorSamplerConfig
    ) -> sampler.Sampling:
        """What is sampled: images in [-1, 1]."""
        model, every_B = self.model, jnp.ones(len(keys_B), bool)
        v_B, there_B = self.drawn_from(params, inputs)
        told = Told(*(self._read(params, self.condition(params, v_B, drop_B)) for drop_B in (~there_B, every_B)))
        start_B, _, step_B = sampler.split_keys(keys_B)
        guide = guidance.unguided
        if model.condition != "none":
            guide = guidance.single(lambda told: told.replace(full=told.null), inputs.text_weight_B)  # (4)
        return sampler.Sampling(
            self.denoiser(params),
            told,
            sampler.initial_noise(start_B, (model.resolution, model.resolution, 3)),
            step_B,
            self.visited(settings),
            model.diffusion,
            solvers.solver_of(settings, model.diffusion),
            guide,
            sampler.projection(settings),
        )

    def _read(self, params: Params, condition: Condition) -> Condition:
        return condition.replace(told=read(self.unet, params["unet"], condition))

    def visited(self, settings: GeneratorSamplerConfig) -> Float[Array, " t"]:
        """The times that `sampling` goes through, that of the image the last."""
        return schedule.times(settings.num_steps, self.model.diffusion, settings.spacing, settings.times)

    @property
    def attentions(self) -> tuple[Attention, ...]:
        """The network's, as it is trained, and what computes each of them and why."""
        return attentions(self.model.unet, self.model.resolution, 1 if self.model.told_by == "token" else 0, 0)

    def about(self) -> Mapping[str, str]:
        model, settings = self.model, self.settings
        what = {
            "representation": f"representations of {model.representation_width} values",
            "class": f"{len(model.classes)} classes ({self.config.data.class_by})",
            "none": "nothing",
        }
        return {
            "Images": f"{model.resolution} x {model.resolution} pixels",
            "Draws from": what[model.condition],
            "Process": f"{model.diffusion.schedule} schedule, predicts {model.diffusion.prediction}"
            + (", learned variance" if model.diffusion.learned_variance else ""),
            "Sampler": f"{settings.solver}, {settings.num_steps} steps, weight {settings.text_weight:g}"
            + "".join(f", {name} {said}" for name, said in settings.told().items()),
        }
