"""What a decoder makes of CLIP's embeddings, for its U-Net: a vector beside the time's, and tokens to attend to.

  added   W_1 z (+ W_2 w)          to the embedding of the time                                                  (1)
  tokens  W_3 z, as several        beside the text's                                                             (2)
  text    LN(W_4 state)            of each state of the text                                                     (3)

z is the embedding of an image, w that of the text (karlo); a learned vector stands where z is dropped.
Source: Ramesh et al. 2022, section 2.1; (3) and W_2 are karlo's.
"""

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int32

from reimagen_jax.encoders.joint import TextReading
from reimagen_jax.nets.transformer import CausalTransformer
from reimagen_jax.nets.unet import Condition
from reimagen_jax.systems.unclip.settings import DecoderConfig


class Projections(nn.Module):
    """(1) to (3), as the U-Net's condition."""

    config: DecoderConfig

    @nn.compact
    def __call__(self, z_BD: Float[Array, "b d"], dropped_B: Bool[Array, " b"], text: TextReading) -> Condition:
        config, (B, D), W = self.config, z_BD.shape, self.config.token_width
        time_width, dtype = config.unet.cond_width, jnp.dtype(config.unet.dtype)
        null_D = self.param("null", nn.initializers.normal(1.0 / D**0.5), (D,))
        z_BD = config.scale * jnp.where(dropped_B[:, None], null_D.astype(jnp.float32)[None], z_BD)
        added_BT = nn.Dense(time_width, dtype=jnp.float32, name="image_time")(z_BD)  # (1)
        if config.text_in_time:
            added_BT = added_BT + nn.Dense(time_width, dtype=jnp.float32, name="text_time")(text.vector_BD)
        extra_BMW = None
        if config.image_tokens:
            extra_BMW = nn.Dense(config.image_tokens * W, dtype=dtype, name="image_tokens")(z_BD)
            extra_BMW = extra_BMW.reshape(B, config.image_tokens, W)  # (2)
        text_BMW = nn.Dense(W, dtype=dtype, name="text")(text.state_BMD)
        norm = nn.LayerNorm(1e-5, dtype=jnp.float32, name="text_norm")
        return Condition(norm(text_BMW), text.mask_BM, embedding_BD=added_BT, extra_BMD=extra_BMW)  # (3)


class OwnText(nn.Module):
    """A text encoder that is trained along: CLIP's ids to states."""

    config: DecoderConfig

    @nn.compact
    def __call__(self, tokens_BL: Int32[Array, "b l"]) -> tuple[Float[Array, "b l d"], Bool[Array, "b l"]]:
        """States, and the mask of the text, its end in it."""
        clip, tower, unet = self.config.clip, self.config.text, self.config.unet
        last_B1 = (tokens_BL == clip.end).argmax(axis=1)[:, None]
        mask_BL = jnp.arange(tokens_BL.shape[1])[None] <= last_B1
        embed = nn.Embed(clip.text.vocabulary, tower.width, dtype=jnp.float32, name="embed")
        transformer = CausalTransformer(tower, unet.dtype, unet.remat != "none", name="transformer")
        return transformer(embed(tokens_BL), mask_BL), mask_BL
