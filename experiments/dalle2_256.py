r"""The paper's first upsampler: 64 to 256 pixels, 700M parameters.

    reimagen train experiments/dalle2_256.py --workdir DIR --data.records RECORDS --train.fsdp 4

The records' images have at least 256 pixels. Not trained by us. What is whose:

  paper          width 320, multiples 1, 2, 3, 4, three blocks a level, no attention, no text; crops of a quarter of the
                 side; a Gaussian blur of 0.6; 1,000 steps, cosine; batch 1024, 1,000,000 steps at 1.2e-4, beta2 0.999,
                 average 0.9999; 27 steps of DDIM
  ADM            the rest of the network
  ours           that all images are blurred, and in pixels of the low resolution; means over areas shrink them; the
                 variance is not learned; no dropout (0.1 there)
  not published  its weights; warm-up

Two steps of it on a CPU (records as in re_imagen_64.py):

    reimagen train experiments/dalle2_256.py --workdir runs/tiny/up256 --data.records runs/tiny/records \
        --train.num-steps 2 --data.batch-size 8 --resolution 32 --super-resolution.low-resolution 8 \
        --super-resolution.crop 16 \
        --unet.levels.0.width 8 --unet.levels.1.width 8 --unet.levels.2.width 8 --unet.levels.3.width 16 \
        --unet.levels.0.blocks 1 --unet.levels.1.blocks 1 --unet.levels.2.blocks 1 --unet.levels.3.blocks 1 \
        --unet.groups 8 --unet.cond-width 32 --unet.time-features 32
"""

from reimagen_jax.config import Experiment, TrainConfig
from reimagen_jax.diffusion.settings import SuperResolutionConfig
from reimagen_jax.systems.unclip.presets import UP_256, UP_256_PROCESS
from reimagen_jax.systems.unclip.settings import PairsConfig, UpsamplerConfig, UpsamplerSamplerConfig

config = Experiment(
    name="dalle2_256",
    system=UpsamplerConfig(
        resolution=256,
        unet=UP_256,
        diffusion=UP_256_PROCESS,
        super_resolution=SuperResolutionConfig(
            low_resolution=64, crop=64, shrinking=("area",), blur=1.0, blur_width=(0.6, 0.6), aug_levels=(0.0, 0.0)
        ),
        sampler=UpsamplerSamplerConfig(solver="ddim", num_steps=27, spacing="linspace"),
    ),
    data=PairsConfig(batch_size=1024, threads=16),
    train=TrainConfig(
        num_steps=1_000_000,
        learning_rate=1.2e-4,
        warmup_steps=5_000,
        decay="constant",
        beta2=0.999,
        ema_decay=0.9999,
        checkpoint_every=2_000,
        sample_every=0,
    ),
)
