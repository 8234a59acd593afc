"""unCLIP's upsamplers: diffusion of a large image, given a small one, and nothing else.

  low    the small image, in training made of the large one: blurred and shrunk (diffusion/degrade.py)           (1)
  x_t    beside it the small image, enlarged, by channel; no text, no attention, no guidance                     (2)

Trained on crops, drawn whole: the network is convolutional. The small image is not noised.
Source: Ramesh et al. 2022 (arXiv 2204.06125), section 2.3 and appendix C; Dhariwal and Nichol 2021 (ADM).
"""

from collections.abc import Mapping
from dataclasses import dataclass

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key, UInt8

from reimagen_jax.config import Experiment
from reimagen_jax.diffusion import degrade, guidance, objective, sampler, schedule, solvers
from reimagen_jax.diffusion.base import Denoiser
from reimagen_jax.nets.attention import Attention, attentions
from reimagen_jax.nets.unet import Condition, UNet, predict
from reimagen_jax.systems.base import Metrics, Params
from reimagen_jax.systems.pixels import handed_on, to_model
from reimagen_jax.systems.unclip.arrays import ImageBatch, UpsamplerInputs
from reimagen_jax.systems.unclip.settings import UpsamplerConfig, UpsamplerSamplerConfig


@dataclass(frozen=True)
class Upsampler:
    """The system that an experiment describes; holds settings only."""

    config: Experiment

    @property
    def model(self) -> UpsamplerConfig:
        """The experiment's settings of this system."""
        return self.config.system

    @property
    def settings(self) -> UpsamplerSamplerConfig:
        return self.model.sampler

    @property
    def unet(self) -> UNet:
        return UNet(self.model.unet, self.model.diffusion.output_channels(3))

    def init(self, key: Key[Array, ""]) -> Params:
        """Random parameters: {"unet": ...}, and "unet_last" where a network of its own takes the last step."""
        side = self.model.train_resolution
        image = jnp.zeros((1, side, side, 3))

        def network(key: Key[Array, ""]) -> Params:
            return self.unet.init(key, image, jnp.zeros(1), Condition(low_res_BHWC=image))["params"]

        last = {"unet_last": network(jax.random.fold_in(key, 1))} if self.model.last_step else {}
        return {"unet": network(key), **last}

    def denoiser(self, params: Params, last: Float[Array, ""] | None = None) -> Denoiser:
        """`(x, t, condition) -> prediction`, what guidance, solvers and losses accept.

        From the time `last` on, `unet_last` predicts; without it, `unet` always does.
        """

        def by(name: str) -> Denoiser:
            return lambda x, t, condition: predict(self.unet, params[name], x, t, condition)

        if last is None:
            return by("unet")
        return lambda x, t, condition: jax.lax.cond(t.max() <= last, by("unet_last"), by("unet"), x, t, condition)

    def loss(
        self, params: Params, batch: ImageBatch, key: Key[Array, ""], *, ema: Params | None = None
    ) -> tuple[Float[Array, ""], Metrics]:
        """The diffusion loss of a batch, given (1)."""
        model, (key_low, key_loss) = self.model, jax.random.split(key)
        x0 = to_model(batch.image_BHWC)
        low_BHWC = degrade.degrade(x0, x0.shape[1] // model.factor, model.super_resolution, key_low)
        condition = self._beside(low_BHWC)
        return objective.diffusion_loss(self.denoiser(params), x0, condition, key_loss, model.diffusion).mean(), {}

    def _beside(self, low_BHWC: Float[Array, "b h w c"]) -> Condition:
        """(2)"""
        side, stage = low_BHWC.shape[1] * self.model.factor, self.model.super_resolution
        return Condition(low_res_BHWC=degrade.enlarge(low_BHWC, side, stage.enlarging))

    def sample(
        self, params: Params, inputs: UpsamplerInputs, keys_B: Key[Array, " b"], settings: UpsamplerSamplerConfig
    ) -> UInt8[Array, "b h w 3"] | Float[Array, "b h w 3"]:
        """Images enlarged, bytes or floats as `settings.handed_on` says."""
        return handed_on(sampler.sample(*self.sampling(params, inputs, keys_B, settings)), settings.handed_on)

    def sampling(
        self, params: Params, inputs: UpsamplerInputs, keys_B: Key[Array, " b"], settings: UpsamplerSamplerConfig
    ) -> sampler.Sampling:
        """What is sampled: images in [-1, 1], `factor` times as large as those given. The stages of a cascade take the
        same keys: each derives its own."""
        model, low_BHWC = self.model, inputs.low_res_BHWC
        low_BHWC = low_BHWC if jnp.issubdtype(low_BHWC.dtype, jnp.floating) else to_model(low_BHWC)
        condition = self._beside(low_BHWC)
        times_T = self.visited(settings)
        own_B = jax.vmap(lambda key: jax.random.fold_in(key, model.resolution))(keys_B)
        start_B, _, step_B = sampler.split_keys(own_B)
        return sampler.Sampling(
            self.denoiser(params, times_T[-2] if model.last_step else None),
            condition,
            sampler.initial_noise(start_B, condition.low_res_BHWC.shape[1:]),
            step_B,
            times_T,
            model.diffusion,
            solvers.solver_of(settings, model.diffusion),
            guidance.unguided,
            sampler.projection(settings),
        )

    def visited(self, settings: UpsamplerSamplerConfig) -> Float[Array, " t"]:
        """The times that `sampling` goes through, that of the image the last."""
        return schedule.times(settings.num_steps, self.model.diffusion, settings.spacing, settings.times)

    @property
    def attentions(self) -> tuple[Attention, ...]:
        """The network's, as it is trained, and what computes each of them and why."""
        return attentions(self.model.unet, self.model.train_resolution, 0, 0)

    def batch_spec(self, B: int) -> ImageBatch:
        side = self.model.train_resolution
        return ImageBatch(jax.ShapeDtypeStruct((B, side, side, 3), jnp.uint8))

    def inputs_spec(self, B: int, settings: UpsamplerSamplerConfig) -> UpsamplerInputs:
        low = self.model.super_resolution.low_resolution
        return UpsamplerInputs(jax.ShapeDtypeStruct((B, low, low, 3), jnp.uint8))

    def about(self) -> Mapping[str, str]:
        model, settings = self.model, self.settings
        low, crop = model.super_resolution.low_resolution, model.super_resolution.crop
        crops = f", trained on crops of {crop}" if crop else ""
        return {
            "Images": f"{low} x {low} pixels, enlarged to {model.resolution} x {model.resolution}{crops}",
            "Process": f"{model.diffusion.schedule} schedule, predicts {model.diffusion.prediction}"
            + (", learned variance" if model.diffusion.learned_variance else ""),
            "Sampler": f"{settings.solver}, {settings.num_steps} steps"
            + (", the last by a network of its own" if model.last_step else "")
            + "".join(f", {name} {said}" for name, said in settings.told().items()),
        }
