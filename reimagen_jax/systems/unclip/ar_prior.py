"""unCLIP's autoregressive prior: an image's CLIP embedding z number by number, given a text.

  numbers     y = C (z - mean),  C the first P principal components, by falling variance; y_0 = w . z               (1)
  buckets     q_j = floor(Q (y_j - low_j) / (high_j - low_j)), kept in 0 .. Q - 1;  y_j^ the middle of bucket q_j   (2)
  sequence    [states of the text, its embedding w, q_0, q_1, ..., q_P] of a causal transformer; each of the q_j is
              predicted by what is before it; loss: the mean over j of -ln p(q_j)                                  (3)
  guidance    logits strengthened against those of the dropped text, of which q_0 is not known                     (4)
  drawing     q_j = F_j^-1(u_j), u_j ~ U[0, 1], F_j the distribution by (4); of q_0 by (3) and u_0 ~ U[1 - top, 1]  (5)

The larger w . z is, the better the text tells of the image: so q_0 is drawn from the top half (5) and what follows is
drawn given it. CLIP lies frozen among the parameters, {"clip": ..., "ar_prior": ..., "statistics": ...}; so do mean, C,
low and high, which the feed fits to records before the first step. Where CLIP's vectors are of length 1, so is what is
drawn.
Source: Ramesh et al. 2022 (arXiv 2204.06125), section 2.2. Of the paper are P = 319 of 1,024, Q = 1024, and the top
half; ours: buckets of equal width, that q_0 is predicted too, and what of it is not known where a text is dropped.
"""

from collections.abc import Mapping

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int32, Key

from reimagen_jax.encoders.joint import TextReading, unit
from reimagen_jax.nets.transformer import CausalTransformer, Memory
from reimagen_jax.systems.base import Params
from reimagen_jax.systems.pixels import to_model
from reimagen_jax.systems.stepwise import Steps, walked
from reimagen_jax.systems.unclip.arrays import PairBatch, PriorInputs
from reimagen_jax.systems.unclip.prior import TextPrior
from reimagen_jax.systems.unclip.settings import ARPriorConfig, ARPriorSamplerConfig


class ARPriorNet(nn.Module):
    """(3): texts and numbers to the logits of the numbers."""

    config: ARPriorConfig

    def setup(self) -> None:
        config = self.config
        self.state, self.text = (nn.Dense(config.tower.width, dtype=jnp.dtype(config.dtype)) for _ in range(2))
        # The last is of a q_0 that is not known.
        self.number = nn.Embed(config.buckets + 1, config.tower.width, dtype=jnp.float32)
        self.transformer = CausalTransformer(config.tower, config.dtype, config.remat)
        self.out = nn.Dense(config.buckets, dtype=jnp.float32)

    def __call__(self, text: TextReading, q_BP: Int32[Array, "b p"]) -> Float[Array, "b p_1 q"]:
        """Logits of the numbers from the first on, given all of them but the last."""
        tokens_BLW = jnp.concatenate([self._prefix(text), self.number(q_BP)], axis=1)
        h_BLW = self.transformer(tokens_BLW, self.mask(text))
        return self.out(h_BLW[:, -q_BP.shape[1] - 1 :])

    def first(self, text: TextReading) -> tuple[Float[Array, "b q"], Memory]:
        """Logits of the first number, and the memory that the others are drawn with."""
        tokens_BLW, mask_BL = self._prefix(text), self.mask(text)
        h_BLW, memory = self.transformer(tokens_BLW, mask_BL, self.transformer.blank(*mask_BL.shape))
        return self.out(h_BLW[:, -1]), memory

    def next(
        self, q_B: Int32[Array, " b"], at: Int32[Array, ""], mask_BL: Bool[Array, "b l"], memory: Memory
    ) -> tuple[Float[Array, "b q"], Memory]:
        """Logits of the number after `q_B`, which is the token `at`."""
        h_B1W, memory = self.transformer(self.number(q_B)[:, None], mask_BL, memory, at)
        return self.out(h_B1W[:, 0]), memory

    def mask(self, text: TextReading) -> Bool[Array, "b l"]:
        """Of all tokens but the last number, which nothing follows."""
        told_B = (len(text.mask_BM), 1 + self.config.dims)
        return jnp.concatenate([text.mask_BM, jnp.ones(told_B, bool)], axis=1)

    def _prefix(self, text: TextReading) -> Float[Array, "b l w"]:
        parts = self.state(text.state_BMD), self.text(text.vector_BD)[:, None]
        return jnp.concatenate(parts, axis=1).astype(jnp.float32)


class ARPrior(TextPrior):
    """The system that an experiment describes."""

    @property
    def net(self) -> ARPriorNet:
        return ARPriorNet(self.model)

    def init_network(self, key: Key[Array, ""], text: TextReading) -> Params:
        P, D = self.model.dims, self.model.clip.width
        net = self.net.init(key, text, jnp.zeros((1, P), jnp.int32))["params"]
        known = {"mean": jnp.zeros(D), "components": jnp.eye(P, D), "low": -jnp.ones(P + 1), "high": jnp.ones(P + 1)}
        return {"ar_prior": net, "statistics": known}

    def numbers(self, params: Params, z_BD: Float[Array, "b d"], w_BD: Float[Array, "b d"]) -> Int32[Array, "b p_1"]:
        """(1) and (2): q_0 to q_P."""
        known, Q = params["statistics"], self.model.buckets
        y_BP = (z_BD - known["mean"][None]) @ known["components"].astype(jnp.float32).T
        y_BN = jnp.concatenate([(w_BD * z_BD).sum(axis=1, keepdims=True), y_BP], axis=1)
        share_BN = (y_BN - known["low"][None]) / (known["high"] - known["low"])[None]
        return jnp.clip(jnp.floor(Q * share_BN), 0, Q - 1).astype(jnp.int32)

    def embedding(self, params: Params, q_BP: Int32[Array, "b p"]) -> Float[Array, "b d"]:
        """What (1) and (2) tell of z by q_1 to q_P: as CLIP has it."""
        known = params["statistics"]
        low_P, high_P = known["low"][1:], known["high"][1:]
        y_BP = low_P[None] + (q_BP.astype(jnp.float32) + 0.5) / self.model.buckets * (high_P - low_P)[None]
        z_BD = known["mean"][None] + y_BP @ known["components"].astype(jnp.float32)
        return unit(z_BD) if self.model.clip.normalised else z_BD

    def logits(
        self, params: Params, text: TextReading, q_BN: Int32[Array, "b p_1"], dropped_B: Bool[Array, " b"]
    ) -> Float[Array, "b p_1 q"]:
        """Of q_0 to q_P by (3), q_0 not known where the text is dropped."""
        q_BP = q_BN[:, :-1].at[:, 0].set(jnp.where(dropped_B, self.model.buckets, q_BN[:, 0]))
        return self.net.apply({"params": params["ar_prior"]}, text, q_BP)

    def losses(
        self, params: Params, batch: PairBatch, dropped_B: Bool[Array, " b"], key: Key[Array, ""]
    ) -> Float[Array, " b"]:
        """(3)"""
        text = self.read(params, batch.tokens_BL, batch.empty_BL, dropped_B)
        q_BN = self.numbers(params, *self.pairs(params, batch))
        log_p_BNQ = jax.nn.log_softmax(self.logits(params, text, q_BN, dropped_B))
        return -jnp.take_along_axis(log_p_BNQ, q_BN[..., None], axis=-1)[..., 0].mean(axis=1)

    def pairs(self, params: Params, batch: PairBatch) -> tuple[Float[Array, "b d"], Float[Array, "b d"]]:
        """z and w."""
        z_BD = self.clip.images(params["clip"], to_model(batch.image_BHWC))
        w_BD = self.clip.texts(params["clip"], batch.tokens_BL).vector_BD
        return jax.lax.stop_gradient((z_BD, w_BD))

    def sample(
        self, params: Params, inputs: PriorInputs, keys_B: Key[Array, " b"], settings: ARPriorSamplerConfig
    ) -> Float[Array, "b d"]:
        """Embeddings."""
        return self.finished(params, inputs, self.drawn(params, inputs, keys_B, settings), settings)

    def finished(
        self, params: Params, inputs: PriorInputs, q_BN: Int32[Array, "b p_1"], settings: ARPriorSamplerConfig
    ) -> Float[Array, "b d"]:
        """The embeddings of their numbers."""
        return self.embedding(params, q_BN[:, 1:])

    def drawn(
        self, params: Params, inputs: PriorInputs, keys_B: Key[Array, " b"], settings: ARPriorSamplerConfig
    ) -> Int32[Array, "b p_1"]:
        """q_0 to q_P by (5)."""
        return walked(self.steps(params, inputs, keys_B, settings))

    def num_steps(self, settings: ARPriorSamplerConfig) -> int:
        return self.model.dims

    def steps(
        self, params: Params, inputs: PriorInputs, keys_B: Key[Array, " b"], settings: ARPriorSamplerConfig
    ) -> Steps:
        """To q_0 to q_P, int32 [B, P + 1]: q_0 at first, then one more with each step; each token once, those before it
        remembered."""
        B, P, Q = len(keys_B), self.model.dims, self.model.buckets
        told = jax.tree.map(_beside, *self.told(params, inputs))
        weight_B = inputs.text_weight_B
        net, variables = self.net, {"params": params["ar_prior"]}
        u_BN = jax.vmap(lambda key: jax.random.uniform(key, (P + 1,)))(keys_B)

        logits_EQ, memory = net.apply(variables, told, method="first")
        q_0_B = quantile(logits_EQ[::2] / settings.temperature, 1.0 - settings.top * (1.0 - u_BN[:, 0]))
        mask_EL = net.mask(told)
        first = mask_EL.shape[1] - P

        def step(before: tuple[Array, Array, Memory], now: tuple[Array, Array]) -> tuple[Array, Array, Memory]:
            (q_BN, q_E, memory), (j, u_B) = before, now
            logits_EQ, memory = net.apply(variables, q_E, first + j - 1, mask_EL, memory, method="next")
            full_BQ, null_BQ = logits_EQ[::2], logits_EQ[1::2]
            guided_BQ = weight_B[:, None] * full_BQ - (weight_B[:, None] - 1.0) * null_BQ  # (4)
            q_B = quantile(guided_BQ / settings.temperature, u_B)
            return q_BN.at[:, j].set(q_B), _beside(q_B, q_B), memory

        q_BN = jnp.zeros((B, P + 1), jnp.int32).at[:, 0].set(q_0_B)
        begun = q_BN, _beside(q_0_B, jnp.full(B, Q, jnp.int32)), memory
        return Steps(begun, (jnp.arange(1, P + 1, dtype=jnp.int32), u_BN[:, 1:].T), step)

    def visited(self, settings: ARPriorSamplerConfig) -> Float[Array, " t"]:
        """No times: nothing is denoised."""
        return jnp.zeros(0)

    def about(self) -> Mapping[str, str]:
        model, settings = self.model, self.settings
        return {
            "Draws": f"CLIP embeddings of {model.clip.width} values, by {model.dims} principal components in "
            f"{model.buckets} buckets each",
            "Network": f"a causal transformer, {model.tower.depth} blocks of width {model.tower.width}",
            "Sampler": f"number by number, text weight {settings.text_weight:g}"
            + "".join(f", {name} {said}" for name, said in settings.told().items()),
        }


def quantile(logits_BQ: Float[Array, "b q"], u_B: Float[Array, " b"]) -> Int32[Array, " b"]:
    """F^-1(u) of each distribution over 0 .. Q - 1."""
    below_BQ = jnp.cumsum(jax.nn.softmax(logits_BQ), axis=1)
    found_B = (below_BQ <= (u_B * below_BQ[:, -1])[:, None]).sum(axis=1)
    return jnp.minimum(found_B, logits_BQ.shape[1] - 1).astype(jnp.int32)


def _beside(full: Array, null: Array) -> Array:
    """[B, ...] twice to [2 B, ...], a sample's rows one after the other: both stay on its device."""
    return jnp.stack([full, null], axis=1).reshape(2 * len(full), *full.shape[1:])
