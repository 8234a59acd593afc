"""Re-Imagen's U-Net: DStack, attention over neighbours, UStack.

  features(x_t)  = DStack(x_t, c_p, t)                    one feature map a level, F_0 (high) ... F_n (low)     (1)
  memory         = DStack(neighbours, their texts, 0)     the same weights, t = 0                               (2)
  F_i           <- attend(F_i, memory_i)                  at the levels that ask for it, the last as in the paper (3)
  prediction     = UStack(F_0 ... F_n)                                                                          (4)

(2) does not depend on t, and DStack never sees the neighbours: they meet at the hand-over (3) only, in the lowest
feature map and in the skip connections. Sources: Re-Imagen section 3.2; Imagen appendix B for both stacks (ADM's
U-Net: every residual block and every downsampling leaves a skip, the way up has one block a level more).
"""

import flax.linen as nn
import flax.struct
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from reimagen_jax.config import UNetConfig
from reimagen_jax.nets.attention import NeighbourAttention, NeighbourMemory, SelfTextAttention
from reimagen_jax.nets.layers import Conditioning, ResBlock, fold, unfold

Memory = dict[str, NeighbourMemory]
"""Per level with neighbour attention: its keys and values."""

FeatureMaps = list[list[Float[Array, "b _ _ _"]]]
"""features[i][j] is the j-th map [B, H, W, C] of level i."""


@flax.struct.dataclass
class Condition:
    """Everything the network is told besides x and t. Dropping a part is a mask: shapes and program stay."""

    text_BLD: Float[Array, "b l d"]
    text_mask_BL: Bool[Array, "b l"]
    memory: Memory | None = None
    """Encoded neighbours, or None for a network that has none (Imagen)."""
    nbr_mask_BK: Bool[Array, "b k"] | None = None

    def drop(self, text_B: Bool[Array, " b"], neighbours_B: Bool[Array, " b"]) -> "Condition":
        """The condition without text, and without neighbours, where the flags are true."""
        nbr_mask = None if self.nbr_mask_BK is None else self.nbr_mask_BK & ~neighbours_B[:, None]
        return self.replace(text_mask_BL=self.text_mask_BL & ~text_B[:, None], nbr_mask_BK=nbr_mask)


class DStack(nn.Module):
    """The downsampling encoder: an image to the feature maps that UStack takes, by level."""

    config: UNetConfig

    @nn.compact
    def __call__(
        self,
        x_BHWC: Float[Array, "b h w c"],
        cond_BD: Float[Array, "b cond"],
        text_BLD: Float[Array, "b l d"],
        text_mask_BL: Bool[Array, "b l"],
    ) -> FeatureMaps:
        """The last map of each level is what neighbours are attended from."""
        config = self.config
        h = nn.Conv(config.levels[0].width, (3, 3), name="stem")(fold(x_BHWC, config.patch))
        features = []
        for i, level in enumerate(config.levels):
            if i > 0:
                h = ResBlock(h.shape[-1], config.groups, "down", name=f"down{i}")(h, cond_BD)
            maps = [h]
            for j in range(level.blocks):
                h = ResBlock(level.width, config.groups, name=f"level{i}_block{j}")(h, cond_BD)
                if level.self_attention:
                    attention = SelfTextAttention(config.head_width_at(i), config.groups, name=f"level{i}_attention{j}")
                    h = attention(h, text_BLD, text_mask_BL)
                maps.append(h)
            features.append(maps)
        return features


class UStack(nn.Module):
    """The upsampling decoder: feature maps by level to an image of `channels`."""

    config: UNetConfig
    channels: int

    @nn.compact
    def __call__(
        self,
        features: FeatureMaps,
        cond_BD: Float[Array, "b cond"],
        text_BLD: Float[Array, "b l d"],
        text_mask_BL: Bool[Array, "b l"],
    ) -> Float[Array, "b height width channels"]:
        config = self.config
        h = features[-1][-1]
        h = ResBlock(h.shape[-1], config.groups, name="middle_block0")(h, cond_BD)
        if config.levels[-1].self_attention:
            attention = SelfTextAttention(config.head_width_at(-1), config.groups, name="middle_attention")
            h = attention(h, text_BLD, text_mask_BL)
        h = ResBlock(h.shape[-1], config.groups, name="middle_block1")(h, cond_BD)
        for i, level in reversed(list(enumerate(config.levels))):
            for j, skip in enumerate(reversed(features[i])):
                h = jnp.concatenate([h, skip], axis=-1)
                h = ResBlock(level.width, config.groups, name=f"level{i}_block{j}")(h, cond_BD)
                if level.self_attention:
                    attention = SelfTextAttention(config.head_width_at(i), config.groups, name=f"level{i}_attention{j}")
                    h = attention(h, text_BLD, text_mask_BL)
            if i > 0:
                h = ResBlock(level.width, config.groups, "up", name=f"up{i}")(h, cond_BD)
        h = nn.swish(nn.GroupNorm(config.groups, name="norm")(h))
        h = nn.Conv(config.patch**2 * self.channels, (3, 3), kernel_init=nn.initializers.zeros, name="out")(h)
        return unfold(h, config.patch)


class UNet(nn.Module):
    """The whole network; `encode_neighbours` is (2), `__call__` is (1), (3) and (4)."""

    config: UNetConfig
    channels: int = 3

    def setup(self) -> None:
        config = self.config
        self.conditioning = Conditioning(config.cond_width)
        self.dstack = DStack(config)
        self.ustack = UStack(config, self.channels)
        self.neighbour_attention = {
            f"level{i}": NeighbourAttention(level.width, config.head_width_at(i), config.groups)
            for i, level in enumerate(config.levels)
            if level.neighbour_attention
        }

    def encode_neighbours(
        self,
        nbr_BKHWC: Float[Array, "b k h w c"],
        nbr_text_BKLD: Float[Array, "b k l d"],
        nbr_text_mask_BKL: Bool[Array, "b k l"],
    ) -> Memory:
        """Neighbour images in [-1, 1] with their own texts, through the same DStack at t = 0."""
        K = nbr_BKHWC.shape[1]
        nbr_NHWC, text_NLD, mask_NL = (
            x.reshape(-1, *x.shape[2:]) for x in (nbr_BKHWC, nbr_text_BKLD, nbr_text_mask_BKL)
        )
        cond_ND = self.conditioning(jnp.zeros(nbr_NHWC.shape[0], jnp.float32), text_NLD, mask_NL)
        features = self.dstack(nbr_NHWC, cond_ND, text_NLD, mask_NL)
        return {
            name: attention.remember(features[int(name.removeprefix("level"))][-1], K)
            for name, attention in self.neighbour_attention.items()
        }

    def __call__(
        self, x_BHWC: Float[Array, "b h w c"], t_B: Float[Array, " b"], condition: Condition
    ) -> Float[Array, "b h w c"]:
        """The prediction for x_t at times t in [0, 1]."""
        text = condition.text_BLD, condition.text_mask_BL
        cond_BD = self.conditioning(t_B, *text)
        features = self.dstack(x_BHWC, cond_BD, *text)
        if condition.memory is not None:
            for name, attention in self.neighbour_attention.items():
                maps = features[int(name.removeprefix("level"))]
                maps[-1] = attention(maps[-1], condition.memory[name], condition.nbr_mask_BK)
        return self.ustack(features, cond_BD, *text)
