r"""The paper's base stage: 64 x 64 from text and two neighbours, 2.47B parameters (the paper: 2.5B).

    reimagen train experiments/re_imagen_64.py --workdir DIR --data.triples TRIPLES --train.fsdp 16 --train.accumulate 8

Not trained by us; `tools` has the preflight for pods. What is whose:

  Re-Imagen      two neighbours, shown all or none; text and neighbours dropped independently in 10 % each; neighbours
                 attended at one feature map; the loss on eps; 200,000 steps at 1e-4 with Adafactor, from Imagen's
                 weights, on 64 TPU v4 chips in under two days
  Imagen         the network; cosine schedule; batch 2048, 10,000 steps of warm-up, average of 0.9999, no clipping of
                 gradients; 256 steps of sampling with dynamic thresholding; weight 1.35 where FID is measured
  ours           which feature map (presets.py); 128 tokens of a byte-level transformer, trained along, for the papers'
                 frozen T5-XXL of 128 tokens (`text=TextConfig(frozen=FrozenTextConfig())` with `reimagen embed`, see
                 if_finetune_64.py); eta 0.5; the neighbours' weight, that of the text
  not published  Imagen's weights; Re-Imagen's batch, warm-up, average, sampler, both guidance weights. 200,000 steps in
                 two days are 0.86 s a step; 2048 images are 0.85 s at these chips' peak, and at least 1.57 s as we
                 compile them (RESULTS.md, with neighbours at 32, 16 and 8): their batch was smaller than Imagen's

Adafactor takes steps of 1e-4 itself, not of 1e-4 times a parameter's size (`train.multiply_by_parameter_scale`, optax's
default): neither paper says which, but both have the same 1e-4 for Adam, and scaled, attention that starts at zero
would move 1e-7 a step. Pictures to look at want higher weights: --sampler.text-weight 5 --sampler.neighbour-weight 5.
Neighbours at 32, 16 and 8, a variant of ours: --unet.levels.1.neighbour-attention --unet.levels.2.neighbour-attention.

Two steps of it on a CPU, everything small, from a small EntityWorld:

    reimagen prepare --out runs/tiny/records --resolution 128 --world.num-entities 20 --world.num-images 120
    reimagen index runs/tiny/records --out runs/tiny/index
    reimagen triples runs/tiny/records --knowledge-base runs/tiny/index --out runs/tiny/triples
    reimagen train experiments/re_imagen_64.py --workdir runs/tiny/64 --data.triples runs/tiny/triples \
        --train.num-steps 2 --data.batch-size 8 --resolution 16 --text.max-bytes 64 --text.width 64 --text.depth 1 \
        --unet.levels.0.width 8 --unet.levels.1.width 16 --unet.levels.2.width 16 --unet.levels.3.width 16 \
        --unet.levels.0.blocks 1 --unet.levels.1.blocks 1 --unet.levels.2.blocks 1 --unet.levels.3.blocks 1 \
        --unet.groups 8 --unet.head-width 8 --unet.cond-width 32 --unet.text-width 32 --unet.time-features 32
"""

from reimagen_jax.config import Experiment, TrainConfig
from reimagen_jax.diffusion.settings import DiffusionConfig
from reimagen_jax.encoders.settings import TextConfig
from reimagen_jax.systems.reimagen.presets import RE_IMAGEN_64
from reimagen_jax.systems.reimagen.settings import GuidedSamplerConfig, ReImagenConfig, TriplesConfig

config = Experiment(
    name="re_imagen_64",
    system=ReImagenConfig(
        resolution=64,
        unet=RE_IMAGEN_64,
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
