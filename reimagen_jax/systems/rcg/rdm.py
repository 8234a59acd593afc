"""RCG's representation diffusion: an image's representation r, out of nothing or of its class.

  prediction  r_0^ = mlp(r_t, t, class);  loss |r_0^ - r_0|^2, all t alike                                       (1)
  guidance    r_0^ strengthened against that of the dropped class (diffusion/guidance.py, 1)                     (2)

r is the encoder's, which lies frozen among the parameters: {"encoder": ..., "rdm": ...}, and "classes", an embedding
of each and, last, of a dropped one. Representations have mean 0 and standard deviation 1, as noise has, so they are
not scaled; as published, what is drawn is not brought to that again, and has the noise of the chain's first step.
Source: Li et al. 2024 (RCG, arXiv 2312.03701), section 3.2 and appendix. Dropped classes are ours: the published model
has none, and its code for guidance, which the paper does not use, takes r_0^ for noise.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Key

from reimagen_jax.diffusion import guidance, objective, sampler, schedule, solvers
from reimagen_jax.diffusion.base import Denoiser
from reimagen_jax.encoders.representation import normalised
from reimagen_jax.nets.latent_mlp import LatentMLP
from reimagen_jax.systems.base import Metrics, Params, Sums
from reimagen_jax.systems.rcg.arrays import PictureBatch, RdmInputs
from reimagen_jax.systems.rcg.represented import Represented
from reimagen_jax.systems.rcg.settings import RdmConfig, RdmSamplerConfig

KEYS = 2**18
"""A representation's key is an image's with this folded in: its noise is not the image's."""


class Told(NamedTuple):
    """The embedding of a class, and what it is where it is dropped; None without classes."""

    full: Float[Array, "b c"] | None
    null: Float[Array, "b c"] | None


@dataclass(frozen=True)
class Rdm(Represented):
    """The system that an experiment describes; holds settings only."""

    @property
    def model(self) -> RdmConfig:
        """The experiment's settings of this system."""
        return self.config.system

    @property
    def settings(self) -> RdmSamplerConfig:
        return self.model.sampler

    @property
    def net(self) -> LatentMLP:
        return LatentMLP(self.model.mlp)

    @property
    def by_class(self) -> bool:
        """Whether it is told a class."""
        return bool(self.config.data.class_by)

    def init(self, key: Key[Array, ""]) -> Params:
        """Random parameters, the encoder's too."""
        key_encoder, key_net, key_classes = jax.random.split(key, 3)
        C, params = self.model.mlp.class_width, {"encoder": self.encoder.init(key_encoder)}
        if self.by_class:
            params["classes"] = {"embedding": jax.random.normal(key_classes, (len(self.model.classes) + 1, C))}
        zero_BC = jnp.zeros((1, C)) if self.by_class else None
        zero_BD = jnp.zeros((1, self.model.representation_width))
        return params | {"rdm": self.net.init(key_net, zero_BD, jnp.zeros(1), zero_BC)["params"]}

    def told(self, params: Params, class_B: Array, dropped_B: Bool[Array, " b"]) -> Float[Array, "b c"] | None:
        """Embeddings of classes, dropped where the flag is true and where there is none."""
        if not self.by_class:
            return None
        embedding_NC = params["classes"]["embedding"]
        return embedding_NC[jnp.where(dropped_B | (class_B < 0), len(embedding_NC) - 1, class_B)]

    def denoiser(self, params: Params) -> Denoiser:
        """`(r_t, t, told) -> prediction`, what guidance, solvers and losses accept."""
        return lambda r, t, told: self.net.apply({"params": params["rdm"]}, r, t, told.full)

    def loss(
        self, params: Params, batch: PictureBatch, key: Key[Array, ""], *, ema: Params | None = None
    ) -> tuple[Float[Array, ""], Metrics]:
        """(1) of a batch; the class is dropped at times."""
        key_drop, key_loss = jax.random.split(key)
        dropped_B = objective.dropped(key_drop, len(batch.class_B), self.model.class_drop)
        return self._losses(params, batch, dropped_B, key_loss).mean(), {}

    def measure(self, params: Params, batch: PictureBatch, key: Key[Array, ""]) -> Sums:
        """The loss, with its parts by time; with classes, that without them from the same noise, and what they gain."""
        nothing_B = jnp.zeros(len(batch.class_B), bool)
        with_B = self._losses(params, batch, nothing_B, key)
        losses = {"loss": with_B}
        if self.by_class:
            without_B = self._losses(params, batch, ~nothing_B, key)
            losses |= {"loss_without_class": without_B, "class_gain": without_B - with_B}
        return objective.sums(losses, lambda loss_B: objective.by_time(loss_B, key, self.model.diffusion))

    def _losses(self, params: Params, batch: PictureBatch, dropped_B: Array, key: Array) -> Float[Array, " b"]:
        told_BC = self.told(params, batch.class_B, dropped_B)
        r_BD = self.represent(params, batch.image_BHWC)
        return objective.diffusion_loss(self.denoiser(params), r_BD, Told(told_BC, None), key, self.model.diffusion)

    def sample(
        self, params: Params, inputs: RdmInputs, keys_B: Key[Array, " b"], settings: RdmSamplerConfig
    ) -> Float[Array, "b d"]:
        """Representations."""
        return self.finished(params, inputs, sampler.sample(*self.sampling(params, inputs, keys_B, settings)), settings)

    def finished(
        self, params: Params, inputs: RdmInputs, r_BD: Float[Array, "b d"], settings: RdmSamplerConfig
    ) -> Float[Array, "b d"]:
        """What is sampled, normalised where it is learned so."""
        return normalised(r_BD) if settings.normalised else r_BD

    def sampling(
        self, params: Params, inputs: RdmInputs, keys_B: Key[Array, " b"], settings: RdmSamplerConfig
    ) -> sampler.Sampling:
        """What is sampled."""
        model, every_B = self.model, jnp.ones(len(keys_B), bool)
        told = Told(*(self.told(params, inputs.class_B, drop_B) for drop_B in (~every_B, every_B)))
        keys_B = jax.vmap(jax.random.fold_in, (0, None))(keys_B, KEYS)
        start_B, _, step_B = sampler.split_keys(keys_B)
        guide = guidance.unguided
        if self.by_class:
            guide = guidance.single(lambda told: told._replace(full=told.null), inputs.text_weight_B)  # (2)
        return sampler.Sampling(
            self.denoiser(params),
            told,
            sampler.initial_noise(start_B, (model.representation_width,)),
            step_B,
            self.visited(settings),
            model.diffusion,
            solvers.solver_of(settings, model.diffusion),
            guide,
            sampler.projection(settings),
        )

    def visited(self, settings: RdmSamplerConfig) -> Float[Array, " t"]:
        """The times that `sampling` goes through, that of the representation the last."""
        return schedule.times(settings.num_steps, self.model.diffusion, settings.spacing, settings.times)

    def batch_spec(self, B: int) -> PictureBatch:
        return self.pictures(B)

    def inputs_spec(self, B: int, settings: RdmSamplerConfig) -> RdmInputs:
        return RdmInputs(jax.ShapeDtypeStruct((B,), jnp.int32), jax.ShapeDtypeStruct((B,), jnp.float32))

    def about(self) -> Mapping[str, str]:
        model, settings = self.model, self.settings
        facts: dict[str, Any] = {name: said for name, said in settings.told().items() if name != "spacing"}
        return {
            "Draws": f"representations of {model.representation_width} values",
            "Of": f"{len(model.classes)} classes ({self.config.data.class_by})" if self.by_class else "nothing",
            "Network": f"{model.mlp.depth} residual blocks of width {model.mlp.width}",
            "Process": f"{model.diffusion.schedule} schedule, predicts {model.diffusion.prediction}",
            "Sampler": f"{settings.solver}, {settings.num_steps} steps, weight {settings.text_weight:g}"
            + "".join(f", {name} {said}" for name, said in facts.items()),
        }
