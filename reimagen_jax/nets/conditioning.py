"""What every residual block is told: time, augmentation level, guidance, the pooled text and more, as one vector.

  c = mlp(features(t)) + mlp_aug(features(a)) + mlp_guidance(g) + e + pool(text)                             (1)
  features(t) = [cos 1000 t w_i, sin 1000 t w_i],  w_i = 10000^(-i / n),  i = 0 ... n - 1                     (2)
  pool(text), "score":      W_2 act(sum_l softmax_l(score(text_l)) W_1 text_l)                                (3)
  pool(text), "attention":  LN(W attend(q = z, k, v = [z; text])),  z = mean_l text_l + learned              (4)

t and the augmentation level a of a super-resolution stage lie in [0, 1]. g are the two numbers of guidance that a
distilled network is told (diffusion/guidance.py, equation 9); the last layer of their mlp starts at zero, so that such
a network begins as one that is told none. e is a vector made elsewhere (unCLIP: of an image's embedding). A masked
token has no part in (3) and (4); without any text a learned vector stands in: as a whole in (3), in place of the mean
in (4).
Sources: Imagen (Saharia et al. 2022) appendix B; (4) is DeepFloyd IF's.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from reimagen_jax.nets.attention import attend, heads
from reimagen_jax.nets.layers import activation, batch_stays, layer_norm, once
from reimagen_jax.nets.settings import UNetConfig


def timestep_features(t_B: Float[Array, " b"], width: int) -> Float[Array, "b width"]:
    """Equation (2): sines and cosines of 1000 t at `width` / 2 geometric frequencies; t in [0, 1]."""
    frequencies = jnp.exp(-jnp.log(10_000.0) * jnp.arange(width // 2, dtype=jnp.float32) / (width // 2))
    angles_BD = 1000.0 * t_B[:, None] * frequencies[None, :]
    return jnp.concatenate([jnp.cos(angles_BD), jnp.sin(angles_BD)], axis=-1)


class Conditioning(nn.Module):
    """Equation (1), float32; what is not there (augmentation level, guidance, vector, text) leaves the sum with its
    parameters."""

    config: UNetConfig

    @nn.compact
    def __call__(
        self,
        t_B: Float[Array, " b"],
        text_BLD: Float[Array, "b l d"] | None = None,
        text_mask_BL: Bool[Array, "b l"] | None = None,
        aug_level_B: Float[Array, " b"] | None = None,
        guidance_B2: Float[Array, "b 2"] | None = None,
        embedding_BD: Float[Array, "b width"] | None = None,
    ) -> Float[Array, "b width"]:
        cond_BD = self._embed_time("time", t_B)
        if aug_level_B is not None:
            cond_BD = cond_BD + self._embed_time("aug", aug_level_B)
        if guidance_B2 is not None:
            cond_BD = cond_BD + self._embed_guidance(guidance_B2)
        if embedding_BD is not None:
            cond_BD = cond_BD + embedding_BD.astype(jnp.float32)
        if text_BLD is None or self.config.text_pooling == "none":
            return cond_BD
        pool = self._pool_by_score if self.config.text_pooling == "score" else self._pool_by_attention
        return cond_BD + once(self, "pooled", lambda: pool(text_BLD, text_mask_BL))

    def _embed_time(self, name: str, t_B: Array) -> Array:
        config = self.config
        features = timestep_features(t_B, config.time_features or config.cond_width)
        h = activation(config)(nn.Dense(config.cond_width, dtype=jnp.float32, name=f"{name}1")(features))
        return nn.Dense(config.cond_width, dtype=jnp.float32, name=f"{name}2")(h)

    def _embed_guidance(self, guidance_B2: Array) -> Array:
        config = self.config
        h = activation(config)(nn.Dense(config.cond_width, name="guidance1")(guidance_B2))
        return nn.Dense(config.cond_width, kernel_init=nn.initializers.zeros, name="guidance2")(h)

    def _pool_by_score(self, text_BLD: Array, text_mask_BL: Array) -> Array:
        """Equation (3)."""
        config, dtype = self.config, jnp.dtype(self.config.dtype)
        score_BL = nn.Dense(1, dtype=jnp.float32, name="pool_score")(layer_norm(config, "pool_norm")(text_BLD))[..., 0]
        weight_BL = jax.nn.softmax(jnp.where(text_mask_BL, score_BL, -1e9), axis=-1)
        value_BLD = nn.Dense(config.cond_width, dtype=dtype, name="pool_value")(text_BLD)
        pooled_BD = jnp.einsum("bl,bld->bd", weight_BL, value_BLD.astype(jnp.float32))
        pooled_BD = nn.Dense(config.cond_width, dtype=jnp.float32, name="pool_out")(activation(config)(pooled_BD))
        absent_D = self.param("no_text", nn.initializers.normal(0.02), (config.cond_width,))
        return jnp.where(text_mask_BL.any(axis=-1)[:, None], pooled_BD, absent_D[None, :])

    def _pool_by_attention(self, text_BLD: Array, text_mask_BL: Array) -> Array:
        """Equation (4)."""
        config, dtype, (B, _, D) = self.config, jnp.dtype(self.config.dtype), text_BLD.shape
        text_BLD = layer_norm(config, "pool_norm")(text_BLD)
        number_B1 = jnp.maximum(text_mask_BL.sum(axis=-1, keepdims=True), 1).astype(jnp.float32)
        mean_BD = jnp.where(text_mask_BL[..., None], text_BLD, 0.0).sum(axis=1) / number_B1
        position_D = self.param("pool_position", nn.initializers.normal(D**-0.5), (D,))
        z_B1D = (mean_BD + position_D[None, :])[:, None, :]
        tokens_BMD = jnp.concatenate([z_B1D, text_BLD], axis=1)
        query = nn.Dense(D, dtype=dtype, name="pool_query")(z_B1D)
        key, value = jnp.split(batch_stays(nn.Dense(2 * D, dtype=dtype, name="pool_kv")(tokens_BMD)), 2, axis=-1)
        mask_BM = jnp.concatenate([jnp.ones((B, 1), bool), text_mask_BL], axis=1)
        pooled = attend(*(heads(x, config.head_width) for x in (query, key, value)), mask_BM)
        pooled_BD = nn.Dense(config.cond_width, dtype=dtype, name="pool_out")(pooled.reshape(B, D))
        return layer_norm(config, "pool_out_norm")(pooled_BD)
