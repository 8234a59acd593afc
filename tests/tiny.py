"""The smallest complete Re-Imagen, for tests: compiles in seconds, has every part."""

import dataclasses

import jax

from reimagen_jax.config import (
    DataConfig,
    Experiment,
    Level,
    SamplerConfig,
    SuperResolutionConfig,
    TextConfig,
    TrainConfig,
    UNetConfig,
)
from reimagen_jax.systems.reimagen import ReImagen

TINY = Experiment(
    name="tiny",
    resolution=16,
    unet=UNetConfig(
        levels=(Level(8, 1), Level(16, 1, self_attention=True, neighbour_attention=True)),
        patch=2,
        head_width=8,
        groups=4,
        cond_width=16,
    ),
    text=TextConfig(max_bytes=32, width=16, depth=1, head_width=8),
    sampler=SamplerConfig(num_steps=3),
    data=DataConfig(batch_size=8, num_neighbours=2),
    train=TrainConfig(num_steps=4, warmup_steps=0, log_every=1, checkpoint_every=2, sample_every=0),
)

TINY_SR = dataclasses.replace(
    TINY, name="tiny_sr", resolution=32, super_resolution=SuperResolutionConfig(low_resolution=16)
)
"""The stage after `TINY`: 16 to 32 pixels, with neighbours."""

TINY_CROPS = dataclasses.replace(
    TINY,
    name="tiny_crops",
    resolution=64,
    unet=dataclasses.replace(TINY.unet, levels=(Level(8, 1), Level(16, 1))),
    super_resolution=SuperResolutionConfig(low_resolution=32, crop=16),
    data=DataConfig(batch_size=8, num_neighbours=0),
)
"""The stage after `TINY_SR`: 32 to 64 pixels, trained on crops of 16, without neighbours; all of it convolutions."""


def random_params(config: Experiment, seed: int = 0):
    """Random weights, away from the zeros that training starts with, so that every input matters."""
    params = jax.jit(ReImagen(config).init)(jax.random.key(seed))
    keys = jax.random.split(jax.random.key(seed + 1), len(jax.tree.leaves(params)))
    keys = jax.tree.unflatten(jax.tree.structure(params), list(keys))
    return jax.tree.map(lambda p, k: p + 0.1 * jax.random.normal(k, p.shape), params, keys)
