r"""What RCG is compared with on EntityWorld: a 32 x 32 image from its class, by the network of rcg_generator32.py.

    reimagen train experiments/rcg_class32.py --workdir runs/rcg/class --data.records runs/world/train

Records as in rcg_moco32.py; no encoder is needed. Classes of another attribute: --data.class-by entity. Then

    reimagen rcg draw --model runs/rcg/class --classes dog bird --num-images 8 --out runs/rcg/of_classes
"""

from reimagen_jax.config import Experiment, TrainConfig
from reimagen_jax.diffusion.settings import DiffusionConfig
from reimagen_jax.systems.rcg.presets import GENERATOR_32
from reimagen_jax.systems.rcg.settings import GeneratorConfig, GeneratorSamplerConfig, PicturesConfig

config = Experiment(
    name="rcg_class32",
    system=GeneratorConfig(
        condition="class",
        resolution=32,
        unet=GENERATOR_32,
        diffusion=DiffusionConfig(prediction="v", time_exponent=0.5),
        sampler=GeneratorSamplerConfig(solver="ddim", num_steps=25),
    ),
    data=PicturesConfig(batch_size=32, class_by="category", validation_share=0.02),
    train=TrainConfig(num_steps=10_000, learning_rate=1e-3, warmup_steps=200, decay="tail", ema_decay=0.999),
)
