"""Re-Imagen on your own images and captions at 64 x 64, on one GPU, from the shipped weights.

    reimagen prepare --source photos --out runs/images64 --resolution 64
    reimagen index runs/images64 --out runs/index64
    reimagen triples runs/images64 --knowledge-base runs/index64 --out runs/triples64
    reimagen train experiments/images64.py --workdir runs/train64 --data.triples runs/triples64
    reimagen sweep --model runs/train64 --records runs/images64 --knowledge-base runs/index64 --out runs/report64

The network, and the start, are those of images32.py: no parameter of it depends on the side of the image. What does:

- Noise. Under noise of the same strength, a picture of 64 pixels shows more than one of 32. `logsnr_shift` (Hoogeboom
  et al. 2023) takes 2 log(64 / 32) off the log signal-to-noise ratio: averaged over 2 x 2 pixels, x_t is as noisy at
  every t as it was where the weights come from.
- Cost. Four times as many pixels, and attention over 16 times as many pairs: about a fifth of the images a second of
  images32.py, which is why this is for a GPU: batch 256, bfloat16 (parameters stay float32).

On a GPU with little memory: `--train.accumulate 4`, or `--unet.remat blocks`. Not trained by us.
"""

import dataclasses
import math

from reimagen_jax.config import Experiment, InitConfig, TrainConfig
from reimagen_jax.diffusion.settings import DiffusionConfig
from reimagen_jax.systems.reimagen.presets import TEXT_BYTES, UNET_32
from reimagen_jax.systems.reimagen.settings import GuidedSamplerConfig, ReImagenConfig, TriplesConfig

config = Experiment(
    name="images64",
    system=ReImagenConfig(
        resolution=64,
        unet=dataclasses.replace(UNET_32, dtype="bfloat16"),
        text=dataclasses.replace(TEXT_BYTES, max_bytes=160),
        diffusion=DiffusionConfig(prediction="v", time_exponent=0.5, logsnr_shift=-2 * math.log(64 / 32)),
        sampler=GuidedSamplerConfig(solver="ddpm", num_steps=25, text_weight=2.0, neighbour_weight=3.0),
    ),
    data=TriplesConfig(batch_size=256, num_neighbours=2, min_neighbours=1, threads=16),
    init=InitConfig("shipped"),
    train=TrainConfig(num_steps=20_000, learning_rate=1e-3, warmup_steps=200, decay="tail", ema_decay=0.9995),
)
