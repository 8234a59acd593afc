r"""The pixel generator of RCG on EntityWorld by diffusion: a 32 x 32 image from its representation.

    reimagen train experiments/rcg_generator32.py --workdir runs/rcg/generator --data.records runs/world/train \
        --init.weights runs/rcg/encoder

Records and encoder by rcg_moco32.py. From the shipped Re-Imagen's U-Net, which has seen EntityWorld, in place of
nothing: --init.weights shipped --init.beside runs/rcg/encoder --init.left-out no_text pool neighbour level middle. On
2 CPU cores that others used too, 1,000 steps so take 15 minutes: held-out loss 0.062, without the representation 0.088
(RESULTS.md).

Then out of nothing by an RDM (rcg_rdm32.py), of pictures, and of what is retrieved:

    reimagen rcg draw --model runs/rcg/rdm --cascade runs/rcg/generator --num-images 16 --out runs/rcg/drawn
    reimagen rcg reconstruct a.png b.png --model runs/rcg/generator --out runs/rcg/again
    reimagen sample --model runs/rcg/generator --knowledge-base runs/world/index --query-by entity --k 1 \
        --records runs/world/all --out runs/rcg/retrieved

To compare with, by the same network: rcg_class32.py, which draws from classes, and rcg_none32.py, from nothing. The
representation as a token beside the pixels: --told-by token.
"""

from reimagen_jax.config import Experiment, InitConfig, TrainConfig
from reimagen_jax.diffusion.settings import DiffusionConfig
from reimagen_jax.systems.moco.presets import MOCO_32
from reimagen_jax.systems.rcg.presets import GENERATOR_32
from reimagen_jax.systems.rcg.settings import FROZEN, GeneratorConfig, GeneratorSamplerConfig, PicturesConfig

config = Experiment(
    name="rcg_generator32",
    system=GeneratorConfig(
        encoder=MOCO_32,
        resolution=32,
        unet=GENERATOR_32,
        diffusion=DiffusionConfig(prediction="v", time_exponent=0.5),
        sampler=GeneratorSamplerConfig(solver="ddim", num_steps=25),
    ),
    data=PicturesConfig(batch_size=32, validation_share=0.02),
    init=InitConfig(adopt=True),
    train=TrainConfig(
        num_steps=10_000, learning_rate=1e-3, rates=(FROZEN,), warmup_steps=200, decay="tail", ema_decay=0.999
    ),
)
