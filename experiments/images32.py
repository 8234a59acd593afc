"""Re-Imagen on your own images and captions at 32 x 32: a start that trains on a laptop.

    reimagen prepare --source photos --out runs/images --resolution 32
    reimagen index runs/images --out runs/index
    reimagen triples runs/images --knowledge-base runs/index --out runs/triples
    reimagen train experiments/images32.py --workdir runs/train --data.triples runs/triples
    reimagen sweep --model runs/train --records runs/images --knowledge-base runs/index --out runs/report

About 40 images a second on 2 CPU cores: 5,000 steps take 35 minutes. The network is that of entityworld32.py with room
for captions of 160 bytes. It starts from the shipped weights (`--init.weights ''`: from nothing), which have learned on
EntityWorld to look at neighbours: on emoji, the loss is 0.133 after 200 steps, and 0.325 from nothing.

- Where a field tells what pictures show, ask by it: `--query-by entity` of triples and of sweep; with entities in
  several styles, `--exclude-same style` too. README.md beside this file has recipes.
- A rate of 3e-4 is slower at first (0.155, not 0.147, after 100 steps) and as good after 200 (0.135).
- Guidance: after 200 steps, neighbour weights of 2 and 3 draw cleanly; 1 is pale, and 8 is too harsh and can leave
  pictures blank.
"""

import dataclasses

from reimagen_jax.config import Experiment, InitConfig, TrainConfig
from reimagen_jax.diffusion.settings import DiffusionConfig
from reimagen_jax.systems.reimagen.presets import TEXT_BYTES, UNET_32
from reimagen_jax.systems.reimagen.settings import GuidedSamplerConfig, ReImagenConfig, TriplesConfig

config = Experiment(
    name="images32",
    system=ReImagenConfig(
        resolution=32,
        unet=UNET_32,
        text=dataclasses.replace(TEXT_BYTES, max_bytes=160),
        diffusion=DiffusionConfig(prediction="v", time_exponent=0.5),
        sampler=GuidedSamplerConfig(solver="ddpm", num_steps=25, text_weight=2.0, neighbour_weight=3.0),
    ),
    data=TriplesConfig(batch_size=16, num_neighbours=2, min_neighbours=1),
    init=InitConfig("shipped"),
    train=TrainConfig(num_steps=5_000, learning_rate=7e-4, warmup_steps=100, decay="tail", sample_every=500),
)
