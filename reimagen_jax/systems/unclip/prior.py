"""unCLIP's prior: diffusion of an image's CLIP embedding z, given a text.

  sequence    [states of the text, its embedding w, t, z_t, query]  of a causal transformer                      (1)
  prediction  z_0^ = W_o h,  h what the query knows; loss |z_0^ - z_0|^2                                         (2)
  scale       z_0 = scale z, or (z - mean) / std: of the size of the noise                                       (3)
  guidance    z_0^ strengthened against that of the dropped text (diffusion/guidance.py, 1)                      (4)
  best        of the candidates z_j drawn, that of the largest w . z_j                                           (5)

w and z are CLIP's, which lies frozen among the parameters: {"clip": ..., "prior": ...}, and "statistics" or "null"
where the settings have them. Where CLIP's vectors are of length 1, so is what is drawn.
Sources: Ramesh et al. 2022 (arXiv 2204.06125), section 2.2 and appendix C (17.2); statistics, the empty text and guided
x_0 are karlo's.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int32, Key

from reimagen_jax.config import Experiment
from reimagen_jax.diffusion import guidance, objective, sampler, schedule, solvers
from reimagen_jax.diffusion.base import Denoiser, Project
from reimagen_jax.diffusion.settings import DrawingConfig
from reimagen_jax.encoders.joint import Joint, TextReading, unit
from reimagen_jax.nets.conditioning import timestep_features
from reimagen_jax.nets.transformer import CausalTransformer
from reimagen_jax.systems.base import Metrics, Params, Sums
from reimagen_jax.systems.pixels import to_model
from reimagen_jax.systems.unclip.arrays import PairBatch, PriorInputs
from reimagen_jax.systems.unclip.settings import PriorConfig, PriorSamplerConfig, TextPriorConfig

KEYS = 2**16
"""A candidate's key is an image's with this and the candidate's number folded in: its noise is not the image's."""


class Told(NamedTuple):
    """A text, and what it is where it is dropped."""

    full: TextReading
    null: TextReading


class PriorNet(nn.Module):
    """(1) and (2): (z_t, t, text) -> z_0."""

    config: PriorConfig

    @nn.compact
    def __call__(self, z_BD: Float[Array, "b d"], t_B: Float[Array, " b"], text: TextReading) -> Float[Array, "b d"]:
        config, (B, D), W = self.config, z_BD.shape, self.config.tower.width

        def dense(name: str, x: Array, dtype: str = config.dtype) -> Array:
            return nn.Dense(W, dtype=jnp.dtype(dtype), name=name)(x).astype(jnp.float32)

        time_BW = dense("time2", nn.swish(dense("time1", timestep_features(t_B, W), "float32")), "float32")
        query_W = self.param("query", nn.initializers.normal(0.02), (W,))
        query_BW = jnp.broadcast_to(query_W.astype(jnp.float32), (B, W))
        parts = [dense("text", text.vector_BD), time_BW, dense("image", z_BD), query_BW]
        tokens_BLW = jnp.concatenate([dense("state", text.state_BMD), *(part[:, None] for part in parts)], axis=1)
        mask_BL = jnp.concatenate([text.mask_BM, jnp.ones((B, len(parts)), bool)], axis=1)
        h_BLW = CausalTransformer(config.tower, config.dtype, config.remat, name="transformer")(tokens_BLW, mask_BL)
        return nn.Dense(D, dtype=jnp.float32, name="out")(h_BLW[:, -1])


@dataclass(frozen=True)
class TextPrior(ABC):
    """What draws an image's embedding given a text; holds settings only."""

    config: Experiment

    @property
    def model(self) -> TextPriorConfig:
        """The experiment's settings of this system."""
        return self.config.system

    @property
    def settings(self) -> Any:
        return self.model.sampler

    @property
    def clip(self) -> Joint:
        """The CLIP whose embeddings these are."""
        return Joint(self.model.clip)

    def init(self, key: Key[Array, ""]) -> Params:
        """Random parameters, CLIP's too; statistics that change nothing."""
        model = self.model
        key_clip, key_net, key_null = jax.random.split(key, 3)
        state_MD = 0.02 * jax.random.normal(key_null, (model.clip.max_tokens, model.clip.text_width))
        vector_D = jnp.zeros(model.clip.width)
        text = TextReading(state_MD[None], jnp.ones((1, model.clip.max_tokens), bool), vector_D[None])
        params = {"clip": self.clip.init(key_clip), **self.init_network(key_net, text)}
        return params | ({"null": {"state": state_MD, "vector": vector_D}} if model.null == "learned" else {})

    @abstractmethod
    def init_network(self, key: Key[Array, ""], text: TextReading) -> Params:
        """Random parameters of the network, for such a text, and statistics."""

    @abstractmethod
    def losses(
        self, params: Params, batch: PairBatch, dropped_B: Bool[Array, " b"], key: Key[Array, ""]
    ) -> Float[Array, " b"]:
        """The loss of each example, without its text where the flag is true."""

    def parts(self, loss_B: Float[Array, " b"], key: Key[Array, ""]) -> Sums:
        """Details of these losses."""
        return {}

    def loss(
        self, params: Params, batch: PairBatch, key: Key[Array, ""], *, ema: Params | None = None
    ) -> tuple[Float[Array, ""], Metrics]:
        """The text is dropped at times."""
        key_drop, key_loss = jax.random.split(key)
        dropped_B = objective.dropped(key_drop, len(batch.tokens_BL), self.model.text_drop)
        return self.losses(params, batch, dropped_B, key_loss).mean(), {}

    def measure(self, params: Params, batch: PairBatch, key: Key[Array, ""]) -> Sums:
        """The loss with the text, that without it from the same noise, and what the text gains; the first in parts."""
        B = len(batch.tokens_BL)
        every_B = jnp.ones(B, bool)
        with_B, without_B = jax.lax.map(
            lambda dropped_B: self.losses(params, batch, dropped_B, key), jnp.stack([~every_B, every_B])
        )
        losses = {"loss": with_B, "loss_without_text": without_B, "text_gain": without_B - with_B}
        return objective.sums(losses) | {f"loss/{when}": part for when, part in self.parts(with_B, key).items()}

    def read(
        self, params: Params, tokens_BL: Int32[Array, "b l"], null_BL: Int32[Array, "b l"], dropped_B: Bool[Array, " b"]
    ) -> TextReading:
        """Texts, dropped where the flag is true."""
        if self.model.null == "empty":
            tokens_BL = jnp.where(dropped_B[:, None], null_BL, tokens_BL)
        text = jax.lax.stop_gradient(self.clip.texts(params["clip"], tokens_BL))
        if self.model.null == "empty":
            return text
        null = params["null"]
        return TextReading(
            jnp.where(dropped_B[:, None, None], null["state"][None], text.state_BMD),
            text.mask_BM | dropped_B[:, None],
            jnp.where(dropped_B[:, None], null["vector"][None], text.vector_BD),
        )

    def told(self, params: Params, inputs: PriorInputs) -> Told:
        """The texts that are asked for, and what guidance leads away from."""
        every_B = jnp.ones(len(inputs.tokens_BL), bool)
        return Told(*(self.read(params, inputs.tokens_BL, inputs.null_BL, drop_B) for drop_B in (~every_B, every_B)))

    def batch_spec(self, B: int) -> PairBatch:
        side = self.model.resolution
        return PairBatch(jax.ShapeDtypeStruct((B, side, side, 3), jnp.uint8), self._texts(B), self._texts(B))

    def inputs_spec(self, B: int, settings: DrawingConfig) -> PriorInputs:
        return PriorInputs(self._texts(B), self._texts(B), jax.ShapeDtypeStruct((B,), jnp.float32))

    def _texts(self, B: int) -> Any:
        return jax.ShapeDtypeStruct((B, self.model.clip.max_tokens), jnp.int32)


class Prior(TextPrior):
    """The system that an experiment describes."""

    @property
    def net(self) -> PriorNet:
        return PriorNet(self.model)

    def init_network(self, key: Key[Array, ""], text: TextReading) -> Params:
        D = self.model.clip.width
        params = {"prior": self.net.init(key, jnp.zeros((1, D)), jnp.zeros(1), text)["params"]}
        if self.model.scaling == "statistics":
            params |= {"statistics": {"mean": jnp.zeros(D), "std": jnp.ones(D)}}
        return params

    def scaled(self, params: Params, z_BD: Float[Array, "b d"]) -> Float[Array, "b d"]:
        """(3)"""
        if self.model.scaling == "constant":
            return self.model.scale * z_BD
        mean_D, std_D = self._statistics(params)
        return (z_BD - mean_D[None]) / std_D[None]

    def unscaled(self, params: Params, z_BD: Float[Array, "b d"]) -> Float[Array, "b d"]:
        """The inverse of (3): embeddings as CLIP has them."""
        if self.model.scaling == "constant":
            z_BD = z_BD / self.model.scale
        else:
            mean_D, std_D = self._statistics(params)
            z_BD = z_BD * std_D[None] + mean_D[None]
        return unit(z_BD) if self.model.clip.normalised else z_BD

    def denoiser(self, params: Params) -> Denoiser:
        """`(z_t, t, told) -> z_0`, what guidance, solvers and losses accept."""
        return lambda z, t, told: self.net.apply({"params": params["prior"]}, z, t, told.full)

    def parts(self, loss_B: Float[Array, " b"], key: Key[Array, ""]) -> Sums:
        return objective.by_time(loss_B, key, self.model.diffusion)

    def losses(
        self, params: Params, batch: PairBatch, dropped_B: Bool[Array, " b"], key: Key[Array, ""]
    ) -> Float[Array, " b"]:
        """(2)"""
        text = self.read(params, batch.tokens_BL, batch.empty_BL, dropped_B)
        z_BD = self.clip.images(params["clip"], to_model(batch.image_BHWC))
        z_BD = jax.lax.stop_gradient(self.scaled(params, z_BD))
        denoise = self.denoiser(params)
        return objective.diffusion_loss(denoise, z_BD, Told(text, text), key, self.model.diffusion)

    def sample(
        self, params: Params, inputs: PriorInputs, keys_B: Key[Array, " b"], settings: PriorSamplerConfig
    ) -> Float[Array, "b d"]:
        """Embeddings, the best of their candidates by (5)."""
        z_ND = sampler.sample(*self.sampling(params, inputs, keys_B, settings))
        return self.finished(params, inputs, z_ND, settings)

    def finished(
        self, params: Params, inputs: PriorInputs, z_ND: Float[Array, "n d"], settings: PriorSamplerConfig
    ) -> Float[Array, "b d"]:
        """The best of what is sampled."""
        z_BND = self._of_each(params, z_ND, settings)
        w_BD = self.clip.texts(params["clip"], inputs.tokens_BL).vector_BD
        best_B = jnp.einsum("bnd,bd->bn", z_BND, w_BD).argmax(axis=1)
        return jnp.take_along_axis(z_BND, best_B[:, None, None], axis=1)[:, 0]

    def candidates(
        self, params: Params, inputs: PriorInputs, keys_B: Key[Array, " b"], settings: PriorSamplerConfig
    ) -> Float[Array, "b n d"]:
        """All that are drawn of each; the first does not depend on their number."""
        return self._of_each(params, sampler.sample(*self.sampling(params, inputs, keys_B, settings)), settings)

    def _of_each(
        self, params: Params, z_MD: Float[Array, "m d"], settings: PriorSamplerConfig
    ) -> Float[Array, "b n d"]:
        return self.unscaled(params, z_MD).reshape(-1, settings.candidates, z_MD.shape[-1])

    def sampling(
        self, params: Params, inputs: PriorInputs, keys_B: Key[Array, " b"], settings: PriorSamplerConfig
    ) -> sampler.Sampling:
        """What is sampled, scaled: the candidates of each image one after the other."""
        model, N, B = self.model, settings.candidates, len(keys_B)
        told = jax.tree.map(lambda leaf: leaf.repeat(N, axis=0), self.told(params, inputs))
        fold = jax.vmap(jax.vmap(jax.random.fold_in, (None, 0)), (0, None))
        start_N, _, step_N = sampler.split_keys(fold(keys_B, KEYS + jnp.arange(N)).reshape(B * N))
        return sampler.Sampling(
            self.denoiser(params),
            told,
            sampler.initial_noise(start_N, (model.clip.width,)),
            step_N,
            self.visited(settings),
            model.diffusion,
            solvers.solver_of(settings, model.diffusion),
            guidance.single(lambda told: told._replace(full=told.null), inputs.text_weight_B.repeat(N)),  # (4)
            _within(settings.limit),
        )

    def visited(self, settings: PriorSamplerConfig) -> Float[Array, " t"]:
        """The times that `sampling` goes through, that of the embedding the last."""
        return schedule.times(settings.num_steps, self.model.diffusion, settings.spacing, settings.times)

    def _statistics(self, params: Params) -> tuple[Float[Array, " d"], Float[Array, " d"]]:
        return params["statistics"]["mean"], params["statistics"]["std"]

    def about(self) -> Mapping[str, str]:
        model, settings = self.model, self.settings
        return {
            "Draws": f"CLIP embeddings of {model.clip.width} values",
            "Network": f"a causal transformer, {model.tower.depth} blocks of width {model.tower.width}",
            "Process": f"{model.diffusion.schedule} schedule, predicts {model.diffusion.prediction}",
            "Sampler": f"{settings.solver}, {settings.num_steps} steps, text weight {settings.text_weight:g}, best of "
            f"{settings.candidates}" + "".join(f", {name} {said}" for name, said in settings.told().items()),
        }


def _within(limit: float | None) -> Project:
    if limit is None:
        return lambda z, z_t, t: z
    return lambda z, z_t, t: jnp.clip(z, -limit, limit)
