"""The smallest complete RCG, for tests: an encoder, an RDM and pixel generators that compile in seconds."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np

from reimagen_jax.config import Experiment, InitConfig, TrainConfig
from reimagen_jax.encoders.settings import RepresentationConfig
from reimagen_jax.nets.settings import LatentMLPConfig, Level, Tower, UNetConfig
from reimagen_jax.systems.rcg.settings import (
    FROZEN,
    GeneratorConfig,
    GeneratorSamplerConfig,
    PicturesConfig,
    RdmConfig,
    RdmSamplerConfig,
)
from reimagen_jax.systems.unclip.settings import TOKENS
from tests.systems import test_unclip as unclip
from tests.unclip import changed

ENCODER = RepresentationConfig(Tower(16, 1, 2, 32, "gelu", 1e-6), resolution=8, patch=4, head_width=12, width=8)
TRAIN = TrainConfig(
    num_steps=4, warmup_steps=0, log_every=1, checkpoint_every=2, sample_every=0, validate_every=0, rates=(FROZEN,)
)
DATA = PicturesConfig(batch_size=8, num_neighbours=2)
CLASSED = replace(DATA, class_by="category")
CLASSES = ("cat", "dog", "hen")

RDM = Experiment(
    "tiny_rdm",
    RdmConfig(
        encoder=ENCODER,
        mlp=LatentMLPConfig(width=16, depth=2, time_width=8, class_width=6),
        sampler=RdmSamplerConfig(num_steps=4),
    ),
    DATA,
    InitConfig(adopt=True),
    TRAIN,
)
CLASS_RDM = replace(changed(RDM, classes=CLASSES), name="tiny_class_rdm", data=CLASSED)
GENERATOR = Experiment(
    "tiny_generator",
    GeneratorConfig(
        encoder=ENCODER,
        resolution=8,
        unet=UNetConfig(
            levels=(Level(8, 1), Level(16, 1, self_attention=True)), head_width=8, groups=4, cond_width=16, **TOKENS
        ),
        sampler=GeneratorSamplerConfig(num_steps=3, text_weight=2.0),
    ),
    DATA,
    InitConfig(adopt=True),
    TRAIN,
)
TOKEN = replace(changed(GENERATOR, told_by="token"), name="tiny_token")
_PLAIN = {"init": InitConfig(), "train": replace(TRAIN, rates=())}
OF_CLASS = Experiment("tiny_class", replace(GENERATOR.system, condition="class", classes=CLASSES), CLASSED, **_PLAIN)
OF_NOTHING = Experiment(
    "tiny_none",
    replace(GENERATOR.system, condition="none", sampler=GeneratorSamplerConfig(num_steps=3)),
    DATA,
    **_PLAIN,
)
ALL = {
    "rdm": RDM,
    "class_rdm": CLASS_RDM,
    "generator": GENERATOR,
    "token": TOKEN,
    "class": OF_CLASS,
    "none": OF_NOTHING,
}


def random_params(config, seed=0):
    """Weights away from the zeros that training starts with, so that every input matters; pictures are told apart by
    the encoder, its variances are above 0. The encoder of one seed is the same in all."""
    params = unclip.random_params(config, seed)
    if "encoder" in params:
        rng = np.random.default_rng([seed, 2])
        params["encoder"] = jax.tree.map(
            lambda leaf: jnp.asarray(0.3 * rng.standard_normal(leaf.shape), leaf.dtype), params["encoder"]
        )
    if "statistics" in params.get("encoder", {}):  # a CLIP has none
        told = jax.tree_util.tree_map_with_path(
            lambda path, leaf: jnp.abs(leaf) + 0.5 if "var" in jax.tree_util.keystr(path) else leaf,
            params["encoder"]["statistics"],
        )
        params["encoder"] = {**jax.tree.map(lambda leaf: 4.0 * leaf, params["encoder"]), "statistics": told}
    return params
