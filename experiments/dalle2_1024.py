r"""The paper's second upsampler: 256 to 1024 pixels, 300M parameters by its count, 282M as built here.

    reimagen train experiments/dalle2_1024.py --workdir DIR --data.records RECORDS --train.fsdp 4

The records' images have at least 1024 pixels. Not trained by us. What is whose:

  paper          width 192, multiples 1, 1, 2, 2, 4, 4, two blocks a level, no attention, no text; crops of a quarter of
                 the side; BSR's degradation; 1,000 steps, linear; batch 512, 1,000,000 steps at 1e-4, beta2 0.999,
                 average 0.9999; 15 steps of DDIM
  ADM            the rest of the network
  LDM            the parameters of BSR (diffusion/bsr.py)
  ours           the linear chain in continuous time
  not published  its weights; warm-up

Two steps of it on a CPU (records as in re_imagen_64.py):

    reimagen train experiments/dalle2_1024.py --workdir runs/tiny/up1024 --data.records runs/tiny/records \
        --train.num-steps 2 --data.batch-size 8 --resolution 128 --super-resolution.low-resolution 32 \
        --super-resolution.crop 32 \
        --unet.levels.0.width 8 --unet.levels.1.width 8 --unet.levels.2.width 8 --unet.levels.3.width 8 \
        --unet.levels.4.width 8 --unet.levels.5.width 8 \
        --unet.levels.0.blocks 1 --unet.levels.1.blocks 1 --unet.levels.2.blocks 1 --unet.levels.3.blocks 1 \
        --unet.levels.4.blocks 1 --unet.levels.5.blocks 1 \
        --unet.groups 8 --unet.cond-width 32 --unet.time-features 32
"""

from reimagen_jax.config import Experiment, TrainConfig
from reimagen_jax.diffusion.settings import SuperResolutionConfig
from reimagen_jax.systems.unclip.presets import UP_1024, UP_1024_PROCESS
from reimagen_jax.systems.unclip.settings import PairsConfig, UpsamplerConfig, UpsamplerSamplerConfig

config = Experiment(
    name="dalle2_1024",
    system=UpsamplerConfig(
        resolution=1024,
        unet=UP_1024,
        diffusion=UP_1024_PROCESS,
        super_resolution=SuperResolutionConfig(low_resolution=256, crop=256, degradation="bsr", aug_levels=(0.0, 0.0)),
        sampler=UpsamplerSamplerConfig(solver="ddim", num_steps=15),
    ),
    data=PairsConfig(batch_size=512, threads=16),
    train=TrainConfig(
        num_steps=1_000_000,
        learning_rate=1e-4,
        warmup_steps=5_000,
        decay="constant",
        beta2=0.999,
        ema_decay=0.9999,
        checkpoint_every=2_000,
        sample_every=0,
    ),
)
