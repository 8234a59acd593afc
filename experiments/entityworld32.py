r"""Re-Imagen on EntityWorld at 32 x 32: unseen entities, drawn from retrieved images of them.

    reimagen prepare --out runs/world/train --where role=train --resolution 32
    reimagen index runs/world/train --out runs/world/train_index
    reimagen triples runs/world/train --knowledge-base runs/world/train_index --out runs/world/triples \
        --query-by entity entity entity caption
    reimagen train experiments/entityworld32.py --workdir runs/world/run --data.triples runs/world/triples

Hardware: 2 CPU cores, about 40 images a second when nothing else runs. The shipped weights' 301,500 examples took 3.5
hours beside other work, in three runs, each from the averaged weights of the one before (--init.weights): 2,844 steps
with --diffusion.time-exponent 1; 7,000 as below, without neighbour attention at 16 x 16 and with triples asked by the
caption alone; 9,000 as below (--init.fresh neighbour_attention_level0 --train.ema-decay 0.9995).

What was tried (unseen entities, retrieval, k = 2, eta 0.5):
- Uniform times spend 40 % of the loss on fine denoising (t < 0.2), where neighbours change nothing; with density 2 t,
  the loss at t = 0.7 fell twice as fast.
- Triples asked by the caption alone find the same entity at ranks 1 and 2 for 93 % and 84 % of the records; by the
  entity's name thrice and the caption, for 100 % and 99 %. With those and attention at 16 x 16 as well, faithfulness
  rose from 0.36 to 0.50 in 3,000 steps, to 0.66 in 9,000; the two changes were not told apart.
- Guidance: at the end, weights 2/3, 2/5, 3/5 and 3/8 (text/neighbours) draw equally faithfully (0.66 to 0.67 of 128),
  the lower ones with quieter colours. Early in training high weights helped.
- Steps: 6 of DDPM, the text at exactly half of them, are as faithful as 250 (RESULTS.md); four are, too, of other
  solvers. In a sweep eta moves by sixths then: --steps 25 for finer ones.
"""

from reimagen_jax.config import Experiment, TrainConfig
from reimagen_jax.diffusion.settings import DiffusionConfig
from reimagen_jax.systems.reimagen.presets import TEXT_BYTES, UNET_32
from reimagen_jax.systems.reimagen.settings import GuidedSamplerConfig, ReImagenConfig, TriplesConfig

config = Experiment(
    name="entityworld32",
    system=ReImagenConfig(
        resolution=32,
        unet=UNET_32,
        text=TEXT_BYTES,
        diffusion=DiffusionConfig(prediction="v", time_exponent=0.5),
        sampler=GuidedSamplerConfig(
            solver="ddpm", num_steps=6, guidance="stratified", text_weight=2.0, neighbour_weight=3.0
        ),
    ),
    data=TriplesConfig(batch_size=16, num_neighbours=2, min_neighbours=1),
    train=TrainConfig(
        num_steps=10_000,
        learning_rate=1e-3,
        warmup_steps=200,
        decay="tail",
        ema_decay=0.999,
        checkpoint_every=500,
        sample_every=1_000,
    ),
)
