"""The training of a distilled Re-Imagen: a student, told eta and weights, learns its teacher's guided predictions.

  L = E_{x_0, eps, t, g} | student(x_t, t, c, g) - y |^2                                                         (1)
  y = the teacher's prediction, guided by g = (eta (w_p - 1), (1 - eta) (w_n - 1))      guidance.py, equation 9   (2)
      of several of its steps the one that ends where they do                       diffusion/distillation.py   (3)

in terms of what the network predicts, by the weighting of its process. eta is uniform in [0, 1], the weights in the
ranges that are distilled. t is as in training, or, of a student for so many steps, one of their times. Neighbours are
dropped as in training: an image may be drawn without any. The student begins as its teacher, whose parameters lie
beside its own in a run, frozen: a run goes on from its checkpoint alone.

Sources: Meng et al. 2023, On Distillation of Guided Diffusion Models, sections 3.1 and 3.2 (1, 2), where guidance has
one weight; Salimans and Ho 2022 (3). That two numbers are all there is to eta and both weights is ours.
"""

import dataclasses
from dataclasses import dataclass

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key, UInt8

from reimagen_jax.diffusion import distillation, guidance, objective, process, sampler, schedule, variance
from reimagen_jax.systems.base import Sums
from reimagen_jax.systems.pixels import to_model
from reimagen_jax.systems.reimagen.condition import Batch, Inputs, drop, mean_guide
from reimagen_jax.systems.reimagen.settings import GuidedSamplerConfig
from reimagen_jax.systems.reimagen.system import Condition, Params, ReImagen


@dataclass(frozen=True)
class Distillation(ReImagen):
    """A Re-Imagen in training by another one: its parameters are {"teacher": ..., "student": ...}."""

    @property
    def teacher(self) -> ReImagen:
        """The system of the teacher's parameters."""
        distilled = self.model.distilled if self.model.teacher_distilled else None
        model = dataclasses.replace(self.model.opened, distilled=distilled)
        return ReImagen(dataclasses.replace(self.config, system=model))

    def init(self, key: Key[Array, ""]) -> Params:
        return {"teacher": self.teacher.init(key), "student": super().init(key)}

    def loss(
        self, params: Params, batch: Batch, key: Key[Array, ""], *, ema: Params | None = None
    ) -> tuple[Float[Array, ""], dict[str, Array]]:
        """(1)"""
        return self._errors(params, batch, key, self.model.neighbour_drop)[0].mean(), {}

    def measure(self, params: Params, batch: Batch, key: Key[Array, ""]) -> Sums:
        """The loss, and what it would be if the teacher's one evaluation stood in the student's place."""
        return objective.sums(dict(zip(("loss", "loss_untaught"), self._errors(params, batch, key, 0.0), strict=True)))

    def sample(
        self, params: Params, inputs: Inputs, keys_B: Key[Array, " b"], settings: GuidedSamplerConfig
    ) -> UInt8[Array, "b h w 3"] | Float[Array, "b h w 3"]:
        """Images of the student's."""
        return super().sample(params["student"], inputs, keys_B, settings)

    def _errors(
        self, params: Params, batch: Batch, key: Key[Array, ""], neighbour_drop: float
    ) -> tuple[Float[Array, " b"], Float[Array, " b"]]:
        """The errors of (1), and those of the teacher where it is told as much as the student and not guided."""
        config, teacher, B = self.model.diffusion, self.teacher, batch.image_BHWC.shape[0]
        key_nbr, key_guidance, key_t, key_eps, key_low = jax.random.split(key, 5)
        image_BHWC, dropped_B = to_model(batch.image_BHWC), objective.dropped(key_nbr, B, neighbour_drop)

        def condition_of(system: ReImagen, params: Params) -> Condition:
            condition = drop(system.condition(params, batch), jnp.zeros(B, bool), dropped_B)
            if self.model.super_resolution is not None:
                condition = system.degraded(condition, image_BHWC, key_low)
            return condition

        times, g_B2 = self._times(key_t, B), self._guidance(key_guidance, B)
        t_B = times[0]
        alpha_B, sigma_B = schedule.alpha_sigma(t_B, config)
        x = process.diffuse(image_BHWC, jax.random.normal(key_eps, image_BHWC.shape), alpha_B, sigma_B)
        teach, known = teacher.denoiser(params["teacher"]), condition_of(teacher, params["teacher"])
        target = jax.lax.stop_gradient(self._target(teach, teacher.read(params["teacher"], known), x, times, g_B2))
        learned = condition_of(self, params["student"]).replace(guidance_B2=g_B2)
        student = self.denoiser(params["student"])(x, t_B, learned)
        untaught = teach(x, t_B, known.replace(guidance_B2=g_B2) if self.model.teacher_distilled else known)

        def error(prediction: Array) -> Float[Array, " b"]:
            error_B = process.sample_mean((prediction.astype(jnp.float32) - target) ** 2)
            if config.weighting == "min_snr":
                error_B = objective.min_snr_weight(schedule.logsnr(t_B, config), config) * error_B
            return error_B

        return error(student), error(untaught)

    def _times(self, key: Key[Array, ""], B: int) -> list[Float[Array, " b"]]:
        """Those of (3), from that of the student; one alone where guidance is all that is learned."""
        steps, u_B = self.model.distilled.steps, objective.uniforms(key, B)
        if steps == 0:
            return [u_B**self.model.diffusion.time_exponent]
        step_B: Int[Array, " b"] = jnp.minimum(jnp.floor(u_B * steps).astype(jnp.int32), steps - 1)
        return distillation.step_times(step_B, steps, self.model.teacher_steps, self.model.diffusion)

    def _guidance(self, key: Key[Array, ""], B: int) -> Float[Array, "b 2"]:
        """g of (2)."""
        distilled, keys = self.model.distilled, jax.random.split(key, 3)
        ranges = (0.0, 1.0), distilled.text_weights, distilled.neighbour_weights
        numbers = [
            jax.random.uniform(key, (B,), minval=low, maxval=high)
            for key, (low, high) in zip(keys, ranges, strict=True)
        ]
        return guidance.shared(*numbers)(numbers[0], jnp.int32(0))

    def _target(self, teach, known: Condition, x: Array, times: list[Array], g_B2: Array) -> Array:
        """y of (1), with what the teacher says of the variance at t."""
        config, C = self.model.diffusion, x.shape[-1]
        guide = mean_guide(lambda t_B, i: g_B2, self.model.teacher_distilled)
        project = sampler.projection(self.model.sampler)
        outputs = []

        def x0_at(z: Array, u_B: Array) -> Array:
            outputs.append(guide(teach, z, u_B, known, jnp.int32(0)).astype(jnp.float32))
            said, _ = variance.split(outputs[-1], C, config)
            return project(process.to_x0(said, z, *schedule.alpha_sigma(u_B, config), config.prediction), z, u_B)

        if len(times) == 1:
            x0_at(x, times[0])
            return outputs[0]
        alpha_B, sigma_B = schedule.alpha_sigma(times[0], config)
        x0 = distillation.one_for_many(x0_at, x, times, config)
        eps = process.to_eps(x0, x, alpha_B, sigma_B)
        prediction = process.target(x0, eps, alpha_B, sigma_B, config.prediction)
        return jnp.concatenate([prediction, outputs[0][..., C:]], axis=-1)
