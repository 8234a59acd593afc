"""The smallest complete tokenizer of images, and MAGEs of it, for tests: they compile in seconds."""

from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from reimagen_jax.config import Experiment, InitConfig, TrainConfig
from reimagen_jax.nets.settings import Tower, VQConfig
from reimagen_jax.systems import kinds
from reimagen_jax.systems.mage.settings import (
    FROZEN,
    MageConfig,
    MageSamplerConfig,
    RecordsConfig,
    VQSystemConfig,
)
from reimagen_jax.training.state import init_state
from reimagen_jax.training.step import make_optimizer, train_step
from tests.rcg import CLASSES, DATA, ENCODER

VQ_NET = VQConfig(widths=(8, 16), blocks=1, groups=4, codes=12, code_width=6)
TRAIN = TrainConfig(
    num_steps=4, warmup_steps=0, log_every=1, checkpoint_every=2, sample_every=0, validate_every=0, decay="constant"
)

VQ = Experiment("tiny_vq", VQSystemConfig(resolution=8, vq=VQ_NET), RecordsConfig(batch_size=8), train=TRAIN)
"""16 tokens of 12 codes."""
MAGE = Experiment(
    "tiny_mage",
    MageConfig(
        resolution=8,
        vq=VQ_NET,
        encoder=ENCODER,
        tower=Tower(16, 1, 2, 32, "gelu", 1e-6),
        decoder=Tower(16, 1, 2, 32, "gelu", 1e-6),
        sampler=MageSamplerConfig(num_steps=3),
    ),
    DATA,
    InitConfig(adopt=True),
    replace(TRAIN, rates=(FROZEN,)),
)
BY_CLASS = replace(
    MAGE,
    name="tiny_mage_class",
    system=replace(MAGE.system, condition="class", classes=CLASSES),
    data=replace(DATA, class_by="category"),
)
ALONE = replace(MAGE, name="tiny_mage_alone", system=replace(MAGE.system, condition="none"))
MAGES = {"mage": MAGE, "class": BY_CLASS, "alone": ALONE}


def trained(config: Experiment, batch: Any, steps: int, rate: float = 5e-3, **parts: Any) -> Any:
    """The parameters after some steps on one batch; `parts` are those of others, frozen."""
    system, how = kinds.system_of(config), replace(config.train, num_steps=steps, learning_rate=rate)
    optimizer = make_optimizer(how)
    state = jax.jit(lambda key: init_state(system, optimizer, key, how))(jax.random.key(0))
    state = state.replace(params={**state.params, **parts})
    step = jax.jit(train_step(system, optimizer, how))
    for _ in range(steps):
        state, _ = step(state, batch, jax.random.key(0))
    return state.params


def flags(B: int = 8) -> jax.Array:
    """Pictures of three kinds: dark, bright, and bright to the left."""
    image = np.full((3, 8, 8, 3), 20, np.uint8)
    image[1] = 230
    image[2, :, :4] = 230
    return jnp.asarray(np.resize(image, (B, 8, 8, 3)))
