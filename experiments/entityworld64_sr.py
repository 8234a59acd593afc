r"""Super-resolution of EntityWorld, 32 to 64 pixels, with neighbours: the stage after entityworld32.py.

    reimagen prepare --out runs/world64/train --where role=train --resolution 64
    reimagen index runs/world64/train --out runs/world64/train_index
    reimagen triples runs/world64/train --knowledge-base runs/world64/train_index --out runs/world64/triples \
        --query-by entity entity entity caption
    reimagen train experiments/entityworld64_sr.py --workdir runs/world64/run --data.triples runs/world64/triples

Then, with a knowledge base of all entities at 64 pixels, with and without neighbours at this stage:

    reimagen prepare --out runs/world64/all --resolution 64
    reimagen index runs/world64/all --out runs/world64/index
    reimagen sample --model shipped --cascade runs/world64/run --knowledge-base runs/world64/index --query-by entity \
        --records runs/world64/all --out runs/world64/drawn
    reimagen sample --model shipped --cascade runs/world64/run,k=0 --knowledge-base runs/world64/index \
        --query-by entity --records runs/world64/all --out runs/world64/drawn_without

Hardware: 2 CPU cores, 25 images/s when they do nothing else: the 3,200 steps of experiments/README.md (51,200
images) are 35 minutes; the loss was still falling. A training image costs 1.6 times one of entityworld32.py (3.4 GFLOP
with two neighbours, forward and backward). 5.6M parameters.

Neighbours are attended at 16, 8 and 4 of 32 folded pixels: what a neighbour knows and the low-resolution image does not
is fine (a pattern, an ear), but at 32 x 32 attention would cost more than all else on a CPU. Levels above 0.5 of the
augmentation leave next to nothing of the input, and a cascade draws at 0.1 to 0.3: they are not trained.
"""

from reimagen_jax.config import Experiment, TrainConfig
from reimagen_jax.diffusion.settings import DiffusionConfig, SuperResolutionConfig
from reimagen_jax.nets.settings import Level, UNetConfig
from reimagen_jax.systems.reimagen.presets import TEXT_BYTES
from reimagen_jax.systems.reimagen.settings import GuidedSamplerConfig, ReImagenConfig, TriplesConfig

config = Experiment(
    name="entityworld64_sr",
    system=ReImagenConfig(
        resolution=64,
        unet=UNetConfig(
            levels=(
                Level(32, 1),
                Level(64, 1, neighbour_attention=True),
                Level(96, 1, neighbour_attention=True),
                Level(128, 1, self_attention=True, neighbour_attention=True),
            ),
            patch=2,
            head_width=32,
            cond_width=192,
        ),
        text=TEXT_BYTES,
        diffusion=DiffusionConfig(prediction="v"),
        super_resolution=SuperResolutionConfig(low_resolution=32, aug_levels=(0.0, 0.5)),
        sampler=GuidedSamplerConfig(solver="ddpm", num_steps=15, text_weight=1.0, neighbour_weight=2.0, aug_level=0.3),
    ),
    data=TriplesConfig(batch_size=16, num_neighbours=2, min_neighbours=1),
    train=TrainConfig(
        num_steps=3_200,
        learning_rate=1e-3,
        warmup_steps=200,
        decay="tail",
        ema_decay=0.9995,
        checkpoint_every=500,
        sample_every=1_000,
    ),
)
