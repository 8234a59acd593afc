"""MAGE as RCG's pixel generator: it draws the tokens of an image from a representation, a class or nothing.

  masks       r ~ N(mean, spread^2) within [least, 1], one for a batch; ceil(r L) tokens of each image are masked,
              drawn at random, and ceil(least L) of these are not even looked at by the encoder                     (1)
  loss        the mean over all masked tokens of a batch of
              -(1 - smoothing) ln p(k_i) - smoothing mean_j ln p(j),  p over the codes alone                        (2)
  condition   dropped in a share of the examples                                                                    (3)
  drawing     by steps of decoding.py from the representation of the stage before (the RDM), of a given image, or of
              neighbours: the mean of theirs by their weights, normalised again                                     (4)

The network is in net.py. Tokenizer and encoder lie frozen among the parameters: {"encoder": ..., "vq": ...,
"mage": ...}. In RCG's code each device draws its own r of (1); here it is one for all.
Sources: Li et al. 2023 (MAGE, arXiv 2211.09117); RCG, Li et al. 2024 (arXiv 2312.03701), sections 3.3 and A; neighbours
and their mean are ours.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int32, Key, UInt8

from reimagen_jax.diffusion import degrade, objective
from reimagen_jax.nets.vq import VQ
from reimagen_jax.systems.base import Metrics, Params, Sums
from reimagen_jax.systems.mage.arrays import MageInputs
from reimagen_jax.systems.mage.decoding import decoding, draws_of, guided
from reimagen_jax.systems.mage.net import Mage
from reimagen_jax.systems.mage.settings import MageConfig, MageSamplerConfig
from reimagen_jax.systems.mage.tokenizer import from_unit, to_unit
from reimagen_jax.systems.rcg.arrays import PictureBatch
from reimagen_jax.systems.rcg.represented import Pixels
from reimagen_jax.systems.stepwise import Steps, walked

KEYS = 2**17
"""Folded into an image's key: what is drawn here is independent of what the stage before has drawn by it."""


@dataclass(frozen=True)
class MageSystem(Pixels):
    """The system that an experiment describes; holds settings only."""

    @property
    def model(self) -> MageConfig:
        """The experiment's settings of this system."""
        return self.config.system

    @property
    def settings(self) -> MageSamplerConfig:
        return self.model.sampler

    @property
    def net(self) -> Mage:
        return Mage(self.model)

    @property
    def vq(self) -> VQ:
        """The tokenizer."""
        return VQ(self.model.vq)

    def init(self, key: Key[Array, ""]) -> Params:
        """Random parameters, those of tokenizer and encoder too."""
        model, (key_encoder, key_vq, key_net) = self.model, jax.random.split(key, 3)
        zero_BL, none_B = jnp.zeros((1, model.places), jnp.int32), jnp.zeros(1, bool)
        params = {"vq": self.vq.init(key_vq, jnp.zeros((1, model.resolution, model.resolution, 3)))["params"]}
        if self.represents:
            params["encoder"] = self.encoder.init(key_encoder)
        told_B = jnp.zeros((1, self.start_width)) if self.represents else jnp.zeros(1, jnp.int32)
        return params | {"mage": self.net.init(key_net, zero_BL, zero_BL > 0, told_B, none_B)["params"]}

    def tokens(self, params: Params, image_BHWC: UInt8[Array, "b h w 3"]) -> Int32[Array, "b l"]:
        """Images as their tokens, row by row."""
        variables, x_BHWC = {"params": params["vq"]}, to_unit(image_BHWC)
        if self.model.seen != self.model.resolution:
            x_BHWC = degrade.shrink(x_BHWC, self.model.resolution)
        z_BHWD = self.vq.apply(variables, x_BHWC, method="encode")
        return self.vq.apply(variables, z_BHWD, method="tokens").reshape(len(image_BHWC), -1)

    def loss(
        self, params: Params, batch: PictureBatch, key: Key[Array, ""], *, ema: Params | None = None
    ) -> tuple[Float[Array, ""], Metrics]:
        """(2) with (3)."""
        key_drop, key_mask, key_net = jax.random.split(key, 3)
        dropped_B = objective.dropped(key_drop, len(batch.class_B), self.model.condition_drop)
        loss, number = self._losses(params, batch, dropped_B, key_mask, key_net)
        return loss / number, {"masked": number / (len(batch.class_B) * self.model.places)}

    def measure(self, params: Params, batch: PictureBatch, key: Key[Array, ""]) -> Sums:
        """The loss with the condition, that without it from the same masks, and what it gains, of all masked tokens."""
        none_B = jnp.zeros(len(batch.class_B), bool)
        with_it, number = self._losses(params, batch, none_B, key)
        if self.model.condition == "none":
            return {"loss": (with_it, number)}
        without, _ = self._losses(params, batch, ~none_B, key)
        losses = {"loss": with_it, "loss_without_condition": without, "condition_gain": without - with_it}
        return {name: (loss, number) for name, loss in losses.items()}

    def _losses(
        self,
        params: Params,
        batch: PictureBatch,
        dropped_B: Bool[Array, " b"],
        key: Key[Array, ""],
        key_dropout: Key[Array, ""] | None = None,
    ) -> tuple[Float[Array, ""], Float[Array, ""]]:
        """(2) as a sum, and the number of masked tokens."""
        token_BL, told_B = self.tokens(params, batch.image_BHWC), self.learned(params, batch)
        dropped_B = dropped_B | self.nothing(batch.class_B)
        masked_BL, kept_BM = masks(key, *token_BL.shape, self.model)
        rngs = {} if key_dropout is None else {"dropout": key_dropout}
        variables = {"params": params["mage"]}
        logits_BLK = self.net.apply(variables, token_BL, masked_BL, told_B, dropped_B, kept_BM, rngs=rngs)
        loss_BL = smoothed_nll(logits_BLK, token_BL, self.model.smoothing)
        return jnp.where(masked_BL, loss_BL, 0.0).sum(), masked_BL.sum().astype(jnp.float32)

    def sample(
        self, params: Params, inputs: MageInputs, keys_B: Key[Array, " b"], settings: MageSamplerConfig
    ) -> UInt8[Array, "b h w 3"] | Float[Array, "b h w 3"]:
        """Images, bytes or floats as `settings.handed_on` says."""
        return self.finished(params, inputs, self.drawn(params, inputs, keys_B, settings), settings)

    def finished(
        self, params: Params, inputs: MageInputs, token_BL: Int32[Array, "b l"], settings: MageSamplerConfig
    ) -> UInt8[Array, "b h w 3"] | Float[Array, "b h w 3"]:
        """The images of their tokens."""
        side = self.model.resolution // self.model.vq.stride
        token_BHW = token_BL.reshape(-1, side, side)
        variables = {"params": params["vq"]}
        e_BHWD = self.vq.apply(variables, token_BHW, method="look_up")
        return from_unit(self.vq.apply(variables, e_BHWD, method="decode"), settings.handed_on)

    def drawn(
        self, params: Params, inputs: MageInputs, keys_B: Key[Array, " b"], settings: MageSamplerConfig
    ) -> Int32[Array, "b l"]:
        """Their tokens."""
        return walked(self.steps(params, inputs, keys_B, settings))

    def num_steps(self, settings: MageSamplerConfig) -> int:
        return settings.num_steps

    def steps(self, params: Params, inputs: MageInputs, keys_B: Key[Array, " b"], settings: MageSamplerConfig) -> Steps:
        """To their tokens, by (4)."""
        model, B, variables = self.model, len(keys_B), {"params": params["mage"]}
        told_B, there_B = self.drawn_from(params, inputs)

        def predict(token_BL: Array, masked_BL: Array, share: Array) -> Array:
            if model.condition == "none":
                return self.net.apply(variables, token_BL, masked_BL, told_B, ~there_B)
            # With and without the condition at once; an image's two rows stay on its device.
            twice = [each.repeat(2, axis=0) for each in (token_BL, masked_BL, told_B)]
            dropped_E = jnp.stack([~there_B, jnp.ones(B, bool)], axis=1).reshape(-1)
            logits_ELK = self.net.apply(variables, *twice, dropped_E)
            return guided(logits_ELK[::2], logits_ELK[1::2], inputs.text_weight_B, share)

        keys_B = jax.vmap(jax.random.fold_in, (0, None))(keys_B, KEYS)
        draws = draws_of(keys_B, model.places, model.vq.codes)
        return decoding(predict, draws, B, model.places, settings.num_steps, inputs.temperature_B)

    def visited(self, settings: MageSamplerConfig) -> Float[Array, " t"]:
        """No times: nothing is denoised."""
        return jnp.zeros(0)

    def inputs_spec(self, B: int, settings: MageSamplerConfig) -> MageInputs:
        told = vars(super().inputs_spec(B, settings))
        return MageInputs(**told, temperature_B=jax.ShapeDtypeStruct((B,), jnp.float32))

    def about(self) -> Mapping[str, str]:
        model, settings = self.model, self.settings
        what = {
            "representation": f"representations of {model.representation_width} values",
            "class": f"{len(model.classes)} classes ({self.config.data.class_by})",
            "none": "nothing",
        }
        return {
            "Images": f"{model.resolution} x {model.resolution} pixels",
            "Tokens": f"{model.places} of {model.vq.codes} codes",
            "Draws from": what[model.condition],
            "Network": f"a transformer, {model.tower.depth} blocks of width {model.tower.width} and "
            f"{model.decoder.depth} of width {model.decoder.width}",
            "Sampler": f"{settings.num_steps} steps, weight {settings.text_weight:g}, temperature "
            f"{settings.temperature:g}",
        }


def masks(key: Key[Array, ""], B: int, L: int, model: MageConfig) -> tuple[Bool[Array, "b l"], Int32[Array, "b m"]]:
    """(1): which tokens are masked, and the places of those that the encoder looks at, rising."""
    key_share, key_order = jax.random.split(key)
    low, high = ((bound - model.mask_mean) / model.mask_spread for bound in (model.mask_least, 1.0))
    share = model.mask_mean + model.mask_spread * jax.random.truncated_normal(key_share, low, high)
    order_BL = jax.random.uniform(key_order, (B, L)).argsort(axis=1)
    rank_BL = order_BL.argsort(axis=1)
    kept_BM = jnp.sort(order_BL[:, unseen(L, model) :], axis=1).astype(jnp.int32)
    return rank_BL < jnp.ceil(L * share).astype(jnp.int32), kept_BM


def unseen(L: int, model: MageConfig) -> int:
    """Tokens of L that the encoder does not look at."""
    return int(np.ceil(model.mask_least * L))


def smoothed_nll(
    logits_BLK: Float[Array, "*b k"], token_BL: Int32[Array, " *b"], smoothing: float
) -> Float[Array, " *b"]:
    """(2) of each token."""
    log_p_BLK = jax.nn.log_softmax(logits_BLK)
    own_BL = jnp.take_along_axis(log_p_BLK, token_BL[..., None], axis=-1)[..., 0]
    return -(1.0 - smoothing) * own_BL - smoothing * log_p_BLK.mean(axis=-1)
