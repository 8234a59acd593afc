"""Networks that experiments start from, by size.

The paper's sizes are set by structure, not by their counts of parameters (with text of width 4096, T5-XXL's):

  from Re-Imagen   neighbours at one feature map, F x F x d (section 3.2). That it is the lowest of DStack, the
                   bottleneck, is how Instruct-Imagen, by overlapping authors, describes such an attention
  from Imagen      widths, blocks, where pixels attend to pixels and text, heads, pooling of the text, scale-shift
                   norms, residuals scaled by 1/sqrt(2) (appendices B and F)
  ours             heads and norms of neighbour attention (those of the level), `cond_width`, `text_width` and
                   `time_features` of the super-resolution stages, precision, rematerialisation
  not published    Re-Imagen's network settings beyond these; where its 256 stage has 150M parameters more than Imagen's
"""

import dataclasses

from reimagen_jax.diffusion.settings import DiffusionConfig
from reimagen_jax.encoders.settings import FrozenTextConfig, TextConfig
from reimagen_jax.nets.settings import Level, UNetConfig

UNET_32 = UNetConfig(
    levels=(
        Level(48, 1, neighbour_attention=True, head_width=48),
        Level(96, 1, self_attention=True, neighbour_attention=True),
        Level(160, 1, self_attention=True, neighbour_attention=True),
    ),
    patch=2,
    head_width=32,
    cond_width=192,
)
"""6.2M parameters for 32 x 32 images; trains on a CPU."""

TEXT_BYTES = TextConfig(max_bytes=80, width=128, depth=2)
"""0.5M parameters; captions of up to 80 bytes."""

RE_IMAGEN_64 = UNetConfig(
    levels=(
        Level(512, 3),
        Level(1024, 3, self_attention=True),
        Level(1536, 3, self_attention=True),
        Level(2048, 3, self_attention=True, neighbour_attention=True),
    ),
    head_width=64,
    groups=32,
    cond_width=2048,
    text_width=4096,
    time_features=512,
    text_pooling="attention",
    dtype="bfloat16",
    remat="blocks",
)
"""Re-Imagen's 64 x 64 model on Imagen's base U-Net, neighbours at 8 x 8: 2,471M parameters (the paper: 2.5B)."""

RE_IMAGEN_64_SMALL = dataclasses.replace(
    RE_IMAGEN_64,
    levels=(
        Level(384, 3),
        Level(768, 3, self_attention=True),
        Level(1152, 3, self_attention=True),
        Level(1536, 3, self_attention=True, neighbour_attention=True),
    ),
    cond_width=1536,
    text_width=2560,
    time_features=384,
)
"""The paper's smaller 64 x 64 model: 1,389M parameters (the paper: 1.4B). The paper gives its size alone; its widths
are ours, 3/4 of the larger one's."""


def neighbours_at_every_attention(unet: UNetConfig) -> UNetConfig:
    """The network with neighbours at every level that attends, not at the lowest alone: a variant of ours."""
    levels = (
        dataclasses.replace(level, neighbour_attention=level.self_attention or level.text_attention)
        for level in unet.levels
    )
    return dataclasses.replace(unet, levels=tuple(levels))


RE_IMAGEN_64_AT_32_16_8 = neighbours_at_every_attention(RE_IMAGEN_64)
"""Variant of ours, neighbours at 32, 16 and 8: 2,485M parameters. Beside it: experiments/RESULTS.md."""

RE_IMAGEN_64_SMALL_AT_32_16_8 = neighbours_at_every_attention(RE_IMAGEN_64_SMALL)
"""Variant of ours, neighbours at 32, 16 and 8: 1,396M parameters."""

RE_IMAGEN_256 = UNetConfig(
    levels=(
        Level(128, 2),
        Level(256, 4),
        Level(512, 8),
        Level(1024, 8, self_attention=True, neighbour_attention=True, attention_every=8, head_width=128),
    ),
    efficient=True,
    residual_scale=0.5**0.5,
    groups=32,
    cond_width=2048,
    text_width=2048,
    time_features=512,
    text_pooling="attention",
    dtype="bfloat16",
    remat="blocks",
)
"""Super-resolution 64 -> 256 on Imagen's Efficient U-Net, with neighbours at 16 x 16: 611M parameters (Imagen: 600M;
Re-Imagen: 750M). As in Imagen, one attention a level on the way down and one on the way up."""

RE_IMAGEN_1024 = UNetConfig(
    levels=(
        Level(128, 2),
        Level(256, 4),
        Level(512, 8),
        Level(1024, 8, text_attention=True, attention_every=8, head_width=128),
    ),
    efficient=True,
    residual_scale=0.5**0.5,
    groups=32,
    cond_width=128,
    text_width=512,
    text_pooling="attention",
    dtype="bfloat16",
    remat="blocks",
)
"""Super-resolution 256 -> 1024, text alone: 467M parameters (the papers: 400M), 50M of them pooling T5-XXL's text."""

IF_I = UNetConfig(
    levels=(
        Level(192, 3),
        Level(384, 3, self_attention=True),
        Level(576, 3, self_attention=True),
        Level(768, 3, self_attention=True, neighbour_attention=True),
    ),
    head_width=64,
    groups=32,
    cond_width=768,
    time_features=192,
    activation="gelu",
    norm_epsilon=1e-5,
    text_width=768,
    text_pooling="attention",
    text_norm="group",
    dtype="bfloat16",
    remat="blocks",
)
"""DeepFloyd IF's base stage at 64 x 64, of medium size, with neighbours at 8 x 8: 374M parameters (372M without)."""

IF_II = UNetConfig(
    levels=(
        Level(128, 1),
        Level(256, 2),
        Level(512, 3),
        Level(768, 4, text_attention=True),
        Level(768, 4, text_attention=True, neighbour_attention=True),
    ),
    head_width=64,
    groups=32,
    cond_width=512,
    residual_scale=0.5**0.5,
    time_features=128,
    activation="gelu",
    norm_epsilon=1e-5,
    text_width=1024,
    text_pooling="attention",
    text_norm="group",
    dtype="bfloat16",
    remat="blocks",
)
"""A network as DeepFloyd IF's second stage has them, about as large as its medium one, with neighbours at 16 x 16: 508M
parameters. The published ones' own widths are read off their weights (`init.adopt`)."""

IF_TEXT = TextConfig(frozen=FrozenTextConfig(width=4096, max_tokens=77, padding="kept", lowercase=True))
"""Text as DeepFloyd IF is told it: by a frozen T5-XXL."""

IF_PROCESS = DiffusionConfig(
    schedule="cosine_chain", prediction="eps", learned_variance=True, logsnr_min=-20.0, logsnr_max=30.0
)
"""The process of DeepFloyd IF, both stages."""
