r"""The upsampler of unCLIP (DALL-E 2) on EntityWorld: 32 to 64 pixels, of whatever drew them.

    reimagen train experiments/dalle2_64.py --workdir runs/unclip/up64 --data.records runs/world64/train

Records as in entityworld64_sr.py. Trained on crops of 32 pixels, drawn whole.

Hardware: 2 CPU cores that others used too, 10 to 45 images a second: 1,300 steps (--train.num-steps 1300) of 46,000
records (--world.num-images 46000 of reimagen prepare) in 35 minutes, 600 of them planned as all there were to be. The
loss was 0.1455 after 600 and 0.105 at the end, and still falling: edges are sharp, plain surfaces have grain.
"""

from reimagen_jax.config import Experiment, TrainConfig
from reimagen_jax.diffusion.settings import DiffusionConfig, SuperResolutionConfig
from reimagen_jax.systems.unclip.presets import UP_64
from reimagen_jax.systems.unclip.settings import PairsConfig, UpsamplerConfig, UpsamplerSamplerConfig

config = Experiment(
    name="dalle2_64",
    system=UpsamplerConfig(
        resolution=64,
        unet=UP_64,
        diffusion=DiffusionConfig(prediction="v"),
        super_resolution=SuperResolutionConfig(low_resolution=32, crop=32, aug_levels=(0.0, 0.0)),
        sampler=UpsamplerSamplerConfig(solver="ddim", num_steps=15),
    ),
    data=PairsConfig(batch_size=32),
    train=TrainConfig(num_steps=3_000, learning_rate=1e-3, warmup_steps=200, decay="tail", ema_decay=0.999),
)
