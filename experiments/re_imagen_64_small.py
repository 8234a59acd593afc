r"""The paper's smaller base stage: 1.39B parameters (the paper: 1.4B); all else as in re_imagen_64.py.

That file's header holds here too; the paper gives this network's size alone, its widths are ours.

    reimagen train experiments/re_imagen_64_small.py --workdir DIR --data.triples TRIPLES \
        --train.fsdp 16 --train.accumulate 4

Two steps of it on a CPU (the triples as in re_imagen_64.py):

    reimagen train experiments/re_imagen_64_small.py --workdir runs/tiny/64_small --data.triples runs/tiny/triples \
        --train.num-steps 2 --data.batch-size 8 --resolution 16 --text.max-bytes 64 --text.width 64 --text.depth 1 \
        --unet.levels.0.width 8 --unet.levels.1.width 16 --unet.levels.2.width 16 --unet.levels.3.width 16 \
        --unet.levels.0.blocks 1 --unet.levels.1.blocks 1 --unet.levels.2.blocks 1 --unet.levels.3.blocks 1 \
        --unet.groups 8 --unet.head-width 8 --unet.cond-width 32 --unet.text-width 32 --unet.time-features 32
"""

from reimagen_jax.config import Experiment, TrainConfig
from reimagen_jax.diffusion.settings import DiffusionConfig
from reimagen_jax.encoders.settings import TextConfig
from reimagen_jax.systems.reimagen.presets import RE_IMAGEN_64_SMALL
from reimagen_jax.systems.reimagen.settings import GuidedSamplerConfig, ReImagenConfig, TriplesConfig

config = Experiment(
    name="re_imagen_64_small",
    system=ReImagenConfig(
        resolution=64,
        unet=RE_IMAGEN_64_SMALL,
        text=TextConfig(max_bytes=512, stride=4, width=1024, depth=8),
        diffusion=DiffusionConfig(schedule="cosine", prediction="eps"),
        sampler=GuidedSamplerConfig(
            solver="ddpm", num_steps=256, text_weight=1.35, neighbour_weight=1.35, thresholding="dynamic"
        ),
    ),
    data=TriplesConfig(batch_size=2048, num_neighbours=2, min_neighbours=2, threads=16),
    train=TrainConfig(
        num_steps=200_000,
        optimizer="adafactor",
        learning_rate=1e-4,
        warmup_steps=10_000,
        decay="constant",
        clip_norm=None,
        ema_decay=0.9999,
        checkpoint_every=2_000,
        sample_every=0,
    ),
)
