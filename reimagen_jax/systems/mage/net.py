"""MAGE's network: tokens of which some are masked, and a condition, to logits of the codes at each place.

  embedding   x_i = LN(E[k_i] + p_i),  k_i the mask's where a token is masked; slot 0, before them: c                (1)
  encoder     h = norm(blocks(slot 0 and the tokens that are kept)) : dropped ones, all masked, are not looked at    (2)
  decoder     y = norm(blocks(y_0 + q)),  y_0 = W h where a token is kept and not masked, else W h_0 of slot 0       (3)
  logits      l_i = E' LN(gelu(V y_i)) + b  over the codes, E held fixed there                                       (4)

  slot 0      c = U r of a representation r; a class's vector; or LN(E[slot] + p_0) where nothing is known           (5)
              r dropped: a learned vector in its place, before U

Slot 0 of (5) has neither norm nor position where it is a representation or a class. Dropout follows (1) and is within
the blocks.
Sources: Li et al. 2023 (MAGE, arXiv 2211.09117); RCG, Li et al. 2024 (arXiv 2312.03701), whose masks are of the same
size in each batch, so that shapes are static.
"""

from collections.abc import Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int32

from reimagen_jax.nets.settings import Tower
from reimagen_jax.nets.transformer import ACTIVATIONS, Block, norm
from reimagen_jax.systems.mage.settings import MageConfig

INIT = nn.initializers.normal(0.02)
SLOT = 76
"""The word of slot 0 where nothing is known, after the codes (RCG's: 1100 of 1024 codes), or the last one before the
mask's."""


class Mage(nn.Module):
    """(1) to (5)."""

    config: MageConfig

    def setup(self) -> None:
        config, D, W = self.config, self.config.tower.width, self.config.decoder.width
        L = config.places + 1
        self.words = nn.Embed(config.vq.codes + config.spare_words + 1, D, dtype=jnp.float32, embedding_init=INIT)
        self.places = self.param("places", INIT, (L, D))
        self.decoder_places = self.param("decoder_places", INIT, (L, W))
        self.norm_in, self.norm_encoder = (norm(config.tower) for _ in range(2))
        self.norm_decoder = norm(config.decoder)
        self.dropout = nn.Dropout(config.dropout)
        self.encoder_blocks, self.decoder_blocks = self._blocks(config.tower), self._blocks(config.decoder)
        self.to_decoder = nn.Dense(W, dtype=config.dtype)
        self.head = nn.Dense(D, dtype=config.dtype)
        self.head_norm = nn.LayerNorm(1e-5, dtype=jnp.float32)
        self.head_bias = self.param("head_bias", nn.initializers.zeros, (config.vq.codes,))
        if config.condition == "representation":
            self.representation = nn.Dense(D, dtype=jnp.float32)
            self.null = self.param("null", INIT, (config.representation_width,))
        elif config.condition == "class":
            self.classes = nn.Embed(len(config.classes) + 1, D, dtype=jnp.float32, embedding_init=INIT)

    def _blocks(self, tower: Tower) -> list[Block]:
        block = nn.remat(Block) if self.config.remat else Block
        return [block(tower, self.config.dtype, "float32", self.config.dropout) for _ in range(tower.depth)]

    def slot(self, told_B: Array, dropped_B: Bool[Array, " b"]) -> Float[Array, "b d"]:
        """(5): `told_B` is a representation [B, D] or a class's number [B], dropped where the flag is true."""
        config = self.config
        if config.condition == "representation":
            return self.representation(jnp.where(dropped_B[:, None], self.null.astype(jnp.float32)[None], told_B))
        if config.condition == "class":
            return self.classes(jnp.where(dropped_B, len(config.classes), told_B))
        number = config.vq.codes + min(SLOT, config.spare_words - 1)
        return jnp.broadcast_to(self._embedded(jnp.full((1, 1), number), 0)[:, 0], (len(told_B), config.tower.width))

    def _embedded(self, token_BL: Int32[Array, "b l"], first: int) -> Float[Array, "b l d"]:
        """(1) of tokens from a place on, without dropout."""
        place_LD = self.places.astype(jnp.float32)[first : first + token_BL.shape[1]]
        return self.norm_in(self.words(token_BL) + place_LD[None])

    def __call__(
        self,
        token_BL: Int32[Array, "b l"],
        masked_BL: Bool[Array, "b l"],
        told_B: Array,
        dropped_B: Bool[Array, " b"],
        kept_BM: Int32[Array, "b m"] | None = None,
    ) -> Float[Array, "b l k"]:
        """(4). `kept_BM` are the places of the tokens that the encoder looks at; None: all. There is dropout where
        there are random numbers for it."""
        config, still = self.config, not self.has_rng("dropout")
        mask = config.vq.codes + config.spare_words
        x_BLD = self._embedded(jnp.where(masked_BL, mask, token_BL), 1)
        slot_BD = self.slot(told_B, dropped_B)
        if config.condition == "none":  # a token as the others
            slot_BD = self.dropout(slot_BD, deterministic=still)
        x_BLD = self.dropout(x_BLD, deterministic=still)
        if kept_BM is not None:
            x_BLD = jnp.take_along_axis(x_BLD, kept_BM[..., None], axis=1)
        x_BLD = jnp.concatenate([slot_BD[:, None], x_BLD], axis=1)
        h_BLD = self.to_decoder(self.norm_encoder(run(self.encoder_blocks, x_BLD))).astype(jnp.float32)  # (2)
        y_BLD, seen_BL = h_BLD[:, 1:], ~masked_BL
        if kept_BM is not None:
            rows_B1 = jnp.arange(len(kept_BM))[:, None]
            y_BLD = jnp.zeros((*masked_BL.shape, y_BLD.shape[-1])).at[rows_B1, kept_BM].set(y_BLD)
            seen_BL = seen_BL & jnp.zeros_like(masked_BL).at[rows_B1, kept_BM].set(True)
        y_BLD = jnp.where(seen_BL[..., None], y_BLD, h_BLD[:, :1])
        y_BLD = jnp.concatenate([h_BLD[:, :1], y_BLD], axis=1) + self.decoder_places.astype(jnp.float32)[None]
        y_BLD = self.norm_decoder(run(self.decoder_blocks, y_BLD))[:, 1:]  # (3)
        z_BLD = self.head_norm(ACTIVATIONS["gelu"](self.head(y_BLD).astype(jnp.float32)))
        code_KD = jax.lax.stop_gradient(self.words.embedding.astype(jnp.float32)[: config.vq.codes])
        return z_BLD @ code_KD.T + self.head_bias.astype(jnp.float32)[None, None]  # (4)


def run(blocks: Sequence[Block], x_BLD: Float[Array, "b l d"]) -> Float[Array, "b l d"]:
    """Blocks in which each token attends to all."""
    for block in blocks:
        x_BLD = block(x_BLD)
    return x_BLD
