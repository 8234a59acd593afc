"""The smallest complete unCLIP, for tests: a CLIP, a prior, a decoder and an upsampler that compile in seconds."""

from dataclasses import replace

import numpy as np

from reimagen_jax.config import Experiment, InitConfig, TrainConfig
from reimagen_jax.diffusion.settings import SuperResolutionConfig
from reimagen_jax.encoders.settings import ImageTowerConfig, JointConfig, TextTowerConfig
from reimagen_jax.nets.settings import Level, Tower, UNetConfig
from reimagen_jax.systems.request import Neighbour
from reimagen_jax.systems.unclip.settings import (
    FROZEN,
    TOKENS,
    ARPriorConfig,
    ARPriorSamplerConfig,
    DecoderConfig,
    DecoderSamplerConfig,
    PairsConfig,
    PriorConfig,
    PriorSamplerConfig,
    UpsamplerConfig,
    UpsamplerSamplerConfig,
)

CLIP = JointConfig(
    width=8,
    text=TextTowerConfig(Tower(16, 1, 2, 32), max_tokens=32),
    image=ImageTowerConfig(Tower(16, 1, 2, 32), resolution=8, patch=4),
)
TRAIN = TrainConfig(
    num_steps=4, warmup_steps=0, log_every=1, checkpoint_every=2, sample_every=0, validate_every=0, rates=(FROZEN,)
)
DATA = PairsConfig(batch_size=8, num_neighbours=2)

PRIOR = Experiment(
    "tiny_prior",
    PriorConfig(clip=CLIP, tower=Tower(16, 1, 2, 32, "gelu"), scale=8**0.5, sampler=PriorSamplerConfig(num_steps=3)),
    DATA,
    InitConfig(adopt=True),
    TRAIN,
)
AR_PRIOR = Experiment(
    "tiny_ar_prior",
    ARPriorConfig(clip=CLIP, tower=Tower(16, 1, 2, 32, "gelu"), dims=3, buckets=16, sampler=ARPriorSamplerConfig()),
    DATA,
    InitConfig(adopt=True),
    TRAIN,
)
DECODER = Experiment(
    "tiny_decoder",
    DecoderConfig(
        resolution=8,
        clip=CLIP,
        unet=UNetConfig(
            levels=(Level(8, 1), Level(16, 1, self_attention=True)), head_width=8, groups=4, cond_width=16, **TOKENS
        ),
        token_width=12,
        scale=8**0.5,
        sampler=DecoderSamplerConfig(num_steps=3),
    ),
    DATA,
    InitConfig(adopt=True),
    TRAIN,
)
UPSAMPLER = Experiment(
    "tiny_upsampler",
    UpsamplerConfig(
        resolution=16,
        unet=UNetConfig(
            levels=(Level(8, 1), Level(16, 1)), groups=4, cond_width=16, aug_level=False, text_pooling="none"
        ),
        super_resolution=SuperResolutionConfig(low_resolution=8, crop=8, aug_levels=(0.0, 0.0)),
        sampler=UpsamplerSamplerConfig(num_steps=2),
    ),
    DATA,
    train=replace(TRAIN, rates=()),
)


def changed(config: Experiment, **settings) -> Experiment:
    """The experiment with other settings of its system."""
    return replace(config, system=replace(config.system, **settings))


def neighbour(seed: int, side: int = 8, weight: float = 1.0) -> Neighbour:
    """A picture of noise."""
    image = np.random.default_rng(seed).integers(0, 256, (side, side, 3), np.uint8)
    return Neighbour(image, "a picture", float("nan"), f"{seed}.png", weight=weight)
