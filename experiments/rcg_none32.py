r"""What RCG is compared with on EntityWorld: a 32 x 32 image out of nothing, by the network of rcg_generator32.py.

    reimagen train experiments/rcg_none32.py --workdir runs/rcg/none --data.records runs/world/train

Records as in rcg_moco32.py; no encoder is needed. Then

    reimagen rcg draw --model runs/rcg/none --num-images 16 --out runs/rcg/of_nothing
"""

from reimagen_jax.config import Experiment, TrainConfig
from reimagen_jax.diffusion.settings import DiffusionConfig
from reimagen_jax.systems.rcg.presets import GENERATOR_32
from reimagen_jax.systems.rcg.settings import GeneratorConfig, GeneratorSamplerConfig, PicturesConfig

config = Experiment(
    name="rcg_none32",
    system=GeneratorConfig(
        condition="none",
        resolution=32,
        unet=GENERATOR_32,
        diffusion=DiffusionConfig(prediction="v", time_exponent=0.5),
        sampler=GeneratorSamplerConfig(solver="ddim", num_steps=25),
    ),
    data=PicturesConfig(batch_size=32, validation_share=0.02),
    train=TrainConfig(num_steps=10_000, learning_rate=1e-3, warmup_steps=200, decay="tail", ema_decay=0.999),
)
