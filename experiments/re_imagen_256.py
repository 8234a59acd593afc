r"""The paper's second stage: 64 to 256 pixels with text and two neighbours, 611M parameters.

The papers' counts: Imagen 600M, Re-Imagen 750M; where those 150M are is not published.

    reimagen train experiments/re_imagen_256.py --workdir DIR --data.triples TRIPLES --train.fsdp 4 --train.accumulate 2

The triples' images have at least 256 pixels. Not trained by us. What is whose, besides what re_imagen_64.py says:

  Re-Imagen      a stage 64 -> 256 that takes the neighbours too; Adam at 1e-4 for 200,000 steps, from Imagen's weights
  Imagen         the Efficient U-Net, one attention at its lowest level down and up; cosine schedule; noise on the
                 low-resolution image; batch, warm-up, average; 128 steps of sampling; weight 8.0 where FID is measured
  ours           neighbours at 16 x 16, the lowest level, each with its own low-resolution version; how low-resolution
                 images are degraded (DALL-E 2's way); the level of noise to draw at; AdamW without decay, beta2 0.999
  not published  Re-Imagen's batch, warm-up, average, guidance weights, sampler of this stage

Figures in RESULTS.md that were measured with attention after every block: --unet.levels.3.attention-every 1.

Two steps of it on a CPU (the triples as in re_imagen_64.py):

    reimagen train experiments/re_imagen_256.py --workdir runs/tiny/256 --data.triples runs/tiny/triples \
        --train.num-steps 2 --data.batch-size 8 --resolution 64 --super-resolution.low-resolution 16 \
        --text.max-bytes 64 --text.width 64 --text.depth 1 \
        --unet.levels.0.width 8 --unet.levels.1.width 8 --unet.levels.2.width 8 --unet.levels.3.width 16 \
        --unet.levels.0.blocks 1 --unet.levels.1.blocks 1 --unet.levels.2.blocks 1 --unet.levels.3.blocks 1 \
        --unet.levels.3.attention-every 1 --unet.levels.3.head-width 8 --unet.groups 8 --unet.head-width 8 \
        --unet.cond-width 32 --unet.text-width 32 --unet.time-features 32
"""

from reimagen_jax.config import Experiment, TrainConfig
from reimagen_jax.diffusion.settings import DiffusionConfig, SuperResolutionConfig
from reimagen_jax.encoders.settings import TextConfig
from reimagen_jax.systems.reimagen.presets import RE_IMAGEN_256
from reimagen_jax.systems.reimagen.settings import GuidedSamplerConfig, ReImagenConfig, TriplesConfig

config = Experiment(
    name="re_imagen_256",
    system=ReImagenConfig(
        resolution=256,
        unet=RE_IMAGEN_256,
        text=TextConfig(max_bytes=512, stride=4, width=1024, depth=8),
        diffusion=DiffusionConfig(schedule="cosine", prediction="eps"),
        super_resolution=SuperResolutionConfig(low_resolution=64),
        sampler=GuidedSamplerConfig(
            solver="ddpm",
            num_steps=128,
            text_weight=8.0,
            neighbour_weight=8.0,
            thresholding="dynamic",
            aug_level=0.2,
        ),
    ),
    data=TriplesConfig(batch_size=2048, num_neighbours=2, min_neighbours=2, threads=16),
    train=TrainConfig(
        num_steps=200_000,
        learning_rate=1e-4,
        warmup_steps=10_000,
        decay="constant",
        clip_norm=None,
        beta2=0.999,
        ema_decay=0.9999,
        checkpoint_every=2_000,
        sample_every=0,
    ),
)
