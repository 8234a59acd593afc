"""Re-Imagen's U-Net: DStack, attention over neighbours, UStack.

  features(x_t)  = DStack(x_t, c_p, t)                    one feature map a level, F_0 (high) ... F_n (low)     (1)
  memory         = DStack(neighbours, their texts, 0)     the same weights, t = 0                               (2)
  F_i           <- attend(F_i, memory_i)                  at the levels that ask for it, the last as in the paper (3)
  prediction     = UStack(F_0 ... F_n)                                                                          (4)

(2) does not depend on t, and DStack never sees the neighbours: they meet at the hand-over (3) only, in the lowest
feature map and in the skip connections. A super-resolution stage sees [x_t; low resolution] in (1), and of each
neighbour [neighbour; its low resolution] in (2).

One definition, two shapes. ADM's U-Net (Imagen's base; DeepFloyd IF): residual blocks halve and double the sides,
every block and every downsampling leaves a skip that is concatenated, the way up has one block a level more, and two
blocks lie in the middle. Imagen's Efficient U-Net (`config.efficient`): a level is entered by a convolution that halves
the sides and left by one whose result is doubled, so that its blocks run on small maps; each level and the stem leave
one skip, which is added. Sources: Re-Imagen section 3.2; Imagen appendix B; Dhariwal and Nichol 2021 for ADM.
"""

from typing import Any

import flax.linen as nn
import flax.struct
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from reimagen_jax.nets.attention import NeighbourAttention, NeighbourMemory, SelfTextAttention
from reimagen_jax.nets.conditioning import Conditioning
from reimagen_jax.nets.layers import (
    TOLD,
    ResBlock,
    activation,
    fold,
    group_norm,
    once,
    rematerialised,
    resample,
    scaled_sum,
    unfold,
)
from reimagen_jax.nets.settings import UNetConfig

Memory = dict[str, NeighbourMemory]
"""Per level with neighbour attention: its keys and values."""

Told = dict[str, Any]
"""By module: what a text is to it, as `read` finds it; [B, ...] arrays that depend on neither x nor t."""

FeatureMaps = list[list[Float[Array, "b _ _ _"]]]
"""features[i][j] is the j-th map [B, H, W, C] of level i."""


@flax.struct.dataclass
class Condition:
    """Everything the network is told besides x and t. Dropping a part is a mask: shapes and program stay."""

    text_BLD: Float[Array, "b l d"] | None = None
    """None, with its mask, for a network without text (unCLIP's upsamplers)."""
    text_mask_BL: Bool[Array, "b l"] | None = None
    memory: Memory | None = None
    """Encoded neighbours, or None for a network that has none (Imagen)."""
    nbr_mask_BK: Bool[Array, "b k"] | None = None
    low_res_BHWC: Float[Array, "b h w c"] | None = None
    """Super-resolution: the low-resolution image in [-1, 1], enlarged to the size of x and noised to `aug_level_B`."""
    aug_level_B: Float[Array, " b"] | None = None
    """Super-resolution: the time in [0, 1] up to which the low-resolution image was noised; 0 is clean. None where
    the network is not told (`UNetConfig.aug_level`)."""
    empty_text_BLD: Float[Array, "b l d"] | None = None
    """What a dropped text is, where that is the empty text, embedded like any other (DeepFloyd IF), or a negative
    prompt; None where a dropped text is one without tokens."""
    empty_mask_BL: Bool[Array, "b l"] | None = None
    """Of that text's tokens; None where they are those of the text."""
    told: Told | None = None
    """The text, read; None where every prediction reads it again. Who changes the text reads it anew."""
    empty_told: Told | None = None
    """A dropped text, read: the modules for which it is another than the text with other tokens masked."""
    nbr_weight_BK: Float[Array, "b k"] | None = None
    """How much of the attention each neighbour gets, beside the others; None: they are alike."""
    guidance_B2: Float[Array, "b 2"] | None = None
    """What a distilled network is told of guidance (diffusion/guidance.py, equation 9); None for all others."""
    embedding_BD: Float[Array, "b cond"] | None = None
    """A vector that is added to the embedding of the time (unCLIP: of CLIP's embeddings), as wide as that."""
    extra_BMD: Float[Array, "b m d"] | None = None
    """Tokens that are attended to beside the text, always, as wide as it is to attention (unCLIP: an image's). They
    have no part in the text's projection, nor in its pooled vector. Who changes them reads them anew, as a text."""


def residual_block(config: UNetConfig, width: int, how: str, name: str) -> nn.Module:
    """A residual block of this network."""
    return rematerialised(ResBlock, config)(config, width, how, name=name)


def text_attention(config: UNetConfig, i: int, name: str) -> nn.Module:
    """The attention over pixels and text, or over text alone, of level i."""
    module = rematerialised(SelfTextAttention, config)
    return module(config, config.head_width_at(i), config.levels[i].text_attention, name=name)


def run_block(
    config: UNetConfig,
    i: int,
    j: int,
    h: Float[Array, "b h w c"],
    cond_BD: Float[Array, "b cond"],
    text_BLD: Float[Array, "b l d"] | None,
    text_mask_BL: Bool[Array, "b l"] | None,
) -> Float[Array, "b h w c2"]:
    """Residual block j of level i, and the attention after it, inside a stack's `__call__`."""
    level = config.levels[i]
    h = residual_block(config, level.width, "same", f"level{i}_block{j}")(h, cond_BD)
    if (level.self_attention or level.text_attention) and (j + 1) % level.attention_every == 0:
        h = text_attention(config, i, f"level{i}_attention{j}")(h, text_BLD, text_mask_BL)
    return h


class DStack(nn.Module):
    """The downsampling encoder: an image to the feature maps that UStack takes, by level."""

    config: UNetConfig

    @nn.compact
    def __call__(
        self,
        x_BHWC: Float[Array, "b h w c"],
        cond_BD: Float[Array, "b cond"],
        text_BLD: Float[Array, "b l d"] | None,
        text_mask_BL: Bool[Array, "b l"] | None,
    ) -> FeatureMaps:
        """The last map of each level is what neighbours are attended from."""
        config, dtype = self.config, jnp.dtype(self.config.dtype)
        h = nn.Conv(config.levels[0].width, (3, 3), dtype=dtype, name="stem")(fold(x_BHWC, config.patch))
        features: FeatureMaps = []
        for i, level in enumerate(config.levels):
            maps = [h] if i == 0 else []
            if config.efficient:
                h = nn.Conv(level.width, (3, 3), strides=(2, 2), dtype=dtype, name=f"down{i}")(h)
            elif i > 0:
                h = residual_block(config, h.shape[-1], "down", f"down{i}")(h, cond_BD)
                maps = [h]
            for j in range(level.blocks):
                h = run_block(config, i, j, h, cond_BD, text_BLD, text_mask_BL)
                if not config.efficient or j == level.blocks - 1:
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
        text_BLD: Float[Array, "b l d"] | None,
        text_mask_BL: Bool[Array, "b l"] | None,
    ) -> Float[Array, "b height width channels"]:
        config = self.config
        rise = self._rise_efficient if config.efficient else self._rise
        h = rise(features, cond_BD, text_BLD, text_mask_BL)
        h = activation(config)(group_norm(config, "norm")(h))
        out = {"kernel_init": nn.initializers.zeros, "dtype": jnp.float32, "name": "out"}
        h = nn.Conv(config.patch**2 * self.channels, (3, 3), **out)(h)
        return unfold(h, config.patch)

    def _rise(self, features: FeatureMaps, cond_BD: Array, text_BLD: Array | None, text_mask_BL: Array | None) -> Array:
        """ADM: two blocks in the middle; every map of a level is concatenated before a block of its own."""
        config, lowest = self.config, self.config.levels[-1]
        h = features[-1][-1]
        h = residual_block(config, lowest.width, "same", "middle_block0")(h, cond_BD)
        if lowest.self_attention or lowest.text_attention:
            h = text_attention(config, -1, "middle_attention")(h, text_BLD, text_mask_BL)
        h = residual_block(config, lowest.width, "same", "middle_block1")(h, cond_BD)
        for i, level in reversed(list(enumerate(config.levels))):
            for j, skip in enumerate(reversed(features[i])):
                h = jnp.concatenate([h, skip], axis=-1)
                h = run_block(config, i, j, h, cond_BD, text_BLD, text_mask_BL)
            if i > 0:
                h = residual_block(config, level.width, "up", f"up{i}")(h, cond_BD)
        return h

    def _rise_efficient(
        self, features: FeatureMaps, cond_BD: Array, text_BLD: Array | None, text_mask_BL: Array | None
    ) -> Array:
        """Imagen: a level's one skip is added before its blocks, the sides are doubled after a convolution."""
        config, dtype = self.config, jnp.dtype(self.config.dtype)
        h = features[-1][-1]
        for i, level in reversed(list(enumerate(config.levels))):
            if i < len(config.levels) - 1:
                h = scaled_sum(config, h, features[i][-1])
            for j in range(level.blocks):
                h = run_block(config, i, j, h, cond_BD, text_BLD, text_mask_BL)
            width = config.levels[max(i - 1, 0)].width
            h = resample(nn.Conv(width, (3, 3), dtype=dtype, name=f"up{i}")(h), "up")
        return scaled_sum(config, h, features[0][0])


class UNet(nn.Module):
    """The whole network; `encode_neighbours` is (2), `__call__` is (1), (3) and (4)."""

    config: UNetConfig
    channels: int = 3

    def setup(self) -> None:
        config = self.config
        self.conditioning = Conditioning(config)
        self.dstack = DStack(config)
        self.ustack = UStack(config, self.channels)
        if config.text_width is not None:
            self.text_projection = nn.Dense(config.text_width, dtype=jnp.dtype(config.dtype))
        self.neighbour_attention = {
            f"level{i}": rematerialised(NeighbourAttention, config)(config, level.width, config.head_width_at(i))
            for i, level in enumerate(config.levels)
            if level.neighbour_attention
        }

    def encode_neighbours(
        self,
        nbr_BKHWC: Float[Array, "b k h w c"],
        nbr_text_BKLD: Float[Array, "b k l d"],
        nbr_text_mask_BKL: Bool[Array, "b k l"],
        nbr_low_res_BKHWC: Float[Array, "b k h w c"] | None = None,
    ) -> Memory:
        """Neighbour images in [-1, 1] with their own texts, through the same DStack at t = 0.

        In a super-resolution stage each neighbour comes with its own low-resolution version, clean (level 0).
        """
        K = nbr_BKHWC.shape[1]
        nbr, low_res, text, mask = (
            None if x is None else x.reshape(-1, *x.shape[2:])
            for x in (nbr_BKHWC, nbr_low_res_BKHWC, nbr_text_BKLD, nbr_text_mask_BKL)
        )
        zero_N = jnp.zeros(nbr.shape[0], jnp.float32)
        aug_level_N = None if low_res is None else zero_N
        features, *_ = self._descend(nbr, zero_N, Condition(text, mask, low_res_BHWC=low_res, aug_level_B=aug_level_N))
        return {
            name: attention.remember(features[int(name.removeprefix("level"))][-1], K)
            for name, attention in self.neighbour_attention.items()
        }

    def __call__(
        self, x_BHWC: Float[Array, "b h w c"], t_B: Float[Array, " b"], condition: Condition
    ) -> Float[Array, "b h w c2"]:
        """The prediction for x_t at times t in [0, 1]: `channels` of it, float32."""
        features, cond_BD, tokens_BLD, mask_BL = self._descend(x_BHWC, t_B, condition)
        if condition.memory is not None:
            for name, attention in self.neighbour_attention.items():
                maps = features[int(name.removeprefix("level"))]
                maps[-1] = attention(maps[-1], condition.memory[name], condition.nbr_mask_BK, condition.nbr_weight_BK)
        return self.ustack(features, cond_BD, tokens_BLD, mask_BL)

    def _descend(
        self, x_BHWC: Array, t_B: Array, condition: Condition
    ) -> tuple[FeatureMaps, Array, Array | None, Array | None]:
        """Equation (1): DStack's feature maps, and what UStack needs besides: conditioning vector, tokens and mask."""
        text_BLD, mask_BL = condition.text_BLD, condition.text_mask_BL
        leveled = condition.low_res_BHWC is not None and self.config.aug_level
        if leveled != (condition.aug_level_B is not None):
            raise ValueError(
                "a condition has low_res_BHWC and aug_level_B both (super-resolution) or neither; where unet.aug_level "
                "is false it has no aug_level_B"
            )
        cond_BD = self.conditioning(
            t_B, text_BLD, mask_BL, condition.aug_level_B, condition.guidance_B2, condition.embedding_BD
        )
        if condition.low_res_BHWC is not None:
            x_BHWC = jnp.concatenate([x_BHWC, condition.low_res_BHWC], axis=-1)
        if text_BLD is not None and self.config.text_width is not None:
            unprojected_BLD = text_BLD
            text_BLD = once(self, "text", lambda: self.text_projection(unprojected_BLD))
        tokens_BLD, mask_BL = _beside(text_BLD, mask_BL, condition.extra_BMD)
        return self.dstack(x_BHWC, cond_BD, tokens_BLD, mask_BL), cond_BD, tokens_BLD, mask_BL


def _beside(
    text_BLD: Array | None, text_mask_BL: Array | None, extra_BMD: Array | None
) -> tuple[Array | None, Array | None]:
    """What pixels attend to besides themselves, with its mask: the text, then the extra tokens; None for nothing."""
    if extra_BMD is None:
        return text_BLD, text_mask_BL
    present_BM = jnp.ones(extra_BMD.shape[:2], bool)
    if text_BLD is None:
        return extra_BMD, present_BM
    tokens_BLD = jnp.concatenate([text_BLD, extra_BMD.astype(text_BLD.dtype)], axis=1)
    return tokens_BLD, jnp.concatenate([text_mask_BL, present_BM], axis=1)


def read(unet: UNet, params: Any, condition: Condition) -> Told:
    """What the layers make of the text (and of extra tokens): keys and values of each attention, the pooled vector.

    A dry run on the smallest image that there is: nothing of them depends on x, and compilers drop what does.
    """
    tokens = condition.extra_BMD if condition.text_BLD is None else condition.text_BLD
    if tokens is None:
        return {}
    B, side = len(tokens), unet.config.stride
    x_BHWC, t_B = jnp.zeros((B, side, side, 3), jnp.float32), jnp.zeros(B, jnp.float32)
    low_res_BHWC = None if condition.low_res_BHWC is None else x_BHWC
    condition = condition.replace(low_res_BHWC=low_res_BHWC, memory=None, told=None)
    return unet.apply({"params": params}, x_BHWC, t_B, condition, mutable=[TOLD])[1].get(TOLD, {})


def predict(
    unet: UNet, params: Any, x_BHWC: Float[Array, "b h w c"], t_B: Float[Array, " b"], condition: Condition
) -> Float[Array, "b h w c2"]:
    """The network's prediction, its texts taken as `condition.told` has them, if it has."""
    variables = {"params": params} if condition.told is None else {"params": params, TOLD: condition.told}
    return unet.apply(variables, x_BHWC, t_B, condition)
