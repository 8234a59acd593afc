"""The smallest complete Re-Imagen, for tests: compiles in seconds, has every part."""

import dataclasses
import functools
import json
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from reimagen_jax.config import Experiment, TrainConfig, to_dict
from reimagen_jax.diffusion.settings import SuperResolutionConfig
from reimagen_jax.encoders.settings import TextConfig
from reimagen_jax.nets.settings import Level, UNetConfig
from reimagen_jax.systems.reimagen.settings import GuidedSamplerConfig, ReImagenConfig, TriplesConfig
from reimagen_jax.systems.reimagen.system import ReImagen

TINY = Experiment(
    name="tiny",
    system=ReImagenConfig(
        resolution=16,
        unet=UNetConfig(
            levels=(Level(8, 1), Level(16, 1, self_attention=True, neighbour_attention=True)),
            patch=2,
            head_width=8,
            groups=4,
            cond_width=16,
        ),
        text=TextConfig(max_bytes=32, width=16, depth=1, head_width=8),
        sampler=GuidedSamplerConfig(num_steps=3),
    ),
    data=TriplesConfig(batch_size=8, num_neighbours=2),
    train=TrainConfig(num_steps=4, warmup_steps=0, log_every=1, checkpoint_every=2, sample_every=0),
)


def changed(config: Experiment, **settings) -> Experiment:
    """The experiment with other settings of its system."""
    return dataclasses.replace(config, system=dataclasses.replace(config.system, **settings))


TINY_SR = dataclasses.replace(
    changed(TINY, resolution=32, super_resolution=SuperResolutionConfig(low_resolution=16)), name="tiny_sr"
)
"""The stage after `TINY`: 16 to 32 pixels, with neighbours."""

TINY_CROPS = dataclasses.replace(
    TINY,
    name="tiny_crops",
    system=dataclasses.replace(
        TINY.system,
        resolution=64,
        unet=dataclasses.replace(TINY.system.unet, levels=(Level(8, 1), Level(16, 1))),
        super_resolution=SuperResolutionConfig(low_resolution=32, crop=16),
    ),
    data=TriplesConfig(batch_size=8, num_neighbours=0),
)
"""The stage after `TINY_SR`: 32 to 64 pixels, trained on crops of 16, without neighbours; all of it convolutions."""


def as_version_1(config: Experiment) -> dict[str, Any]:
    """The experiment as versions before 0.2 wrote it: the system's settings beside the others, the drops in `train`."""
    fields = json.loads(json.dumps(to_dict(config)))
    system = fields.pop("system")
    assert system.pop("kind") == "reimagen"
    system["sampler"].pop("k")
    fields["train"].pop("parallel")
    fields["train"] |= {name: system.pop(name) for name in ("text_drop", "neighbour_drop")}
    return fields | system


def random_params(config: Experiment, seed: int = 0):
    """Random weights, away from the zeros that training starts with, so that every input matters.

    Drawn by numpy, since an init has to be compiled; of its deviations, about.
    """
    rng = np.random.default_rng(seed)

    def drawn(path, leaf):
        name, fan_in = path[-1].key, leaf.size / leaf.shape[-1]
        deviation = {"kernel": math.sqrt(0.01 + 1.0 / fan_in), "embedding": 1.0}.get(name, 0.1)
        return jnp.asarray(np.float32(name == "scale") + deviation * rng.standard_normal(leaf.shape, np.float32))

    return jax.tree_util.tree_map_with_path(drawn, shapes_of(config))


@functools.cache
def shapes_of(config: Experiment):
    """Of the parameters."""
    return jax.eval_shape(ReImagen(config).init, jax.random.key(0))
