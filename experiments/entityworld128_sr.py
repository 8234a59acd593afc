r"""Super-resolution of EntityWorld, 64 to 128 pixels, from the text alone: the stage after entityworld64_sr.py.

    reimagen prepare --out runs/world128/train --where role=train --resolution 128
    reimagen index runs/world128/train --out runs/world128/train_index
    reimagen triples runs/world128/train --knowledge-base runs/world128/train_index --out runs/world128/triples
    reimagen train experiments/entityworld128_sr.py --workdir runs/world128/run --data.triples runs/world128/triples
    reimagen sample --model shipped --cascade runs/world64/run runs/world128/run --knowledge-base runs/world64/index \
        --query-by entity --records runs/world64/all --out runs/world128/drawn

Hardware: for 2 CPU cores. A training image costs about as much as one of entityworld32.py (2.2 GFLOP, forward and
backward). 3.1M parameters.

As in Imagen's last stage, the network is trained on crops (of 64 pixels) and draws whole images: it is convolutional,
with attention to the text alone at its lowest level, and sees no neighbours. The triples' neighbours are not read.
"""

from reimagen_jax.config import Experiment, TrainConfig
from reimagen_jax.diffusion.settings import DiffusionConfig, SuperResolutionConfig
from reimagen_jax.nets.settings import Level, UNetConfig
from reimagen_jax.systems.reimagen.presets import TEXT_BYTES
from reimagen_jax.systems.reimagen.settings import GuidedSamplerConfig, ReImagenConfig, TriplesConfig

config = Experiment(
    name="entityworld128_sr",
    system=ReImagenConfig(
        resolution=128,
        unet=UNetConfig(
            levels=(Level(32, 1), Level(64, 1), Level(96, 1, text_attention=True)),
            patch=2,
            head_width=32,
            cond_width=192,
        ),
        text=TEXT_BYTES,
        diffusion=DiffusionConfig(prediction="v"),
        super_resolution=SuperResolutionConfig(low_resolution=64, crop=64, aug_levels=(0.0, 0.5)),
        sampler=GuidedSamplerConfig(solver="ddpm", num_steps=10, text_weight=1.0, aug_level=0.1),
    ),
    data=TriplesConfig(batch_size=16, num_neighbours=0),
    train=TrainConfig(
        num_steps=10_000,
        learning_rate=1e-3,
        warmup_steps=200,
        decay="tail",
        ema_decay=0.999,
        checkpoint_every=500,
        sample_every=1_000,
    ),
)
