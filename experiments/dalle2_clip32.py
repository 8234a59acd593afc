r"""The CLIP of unCLIP (DALL-E 2) on EntityWorld at 32 x 32: what its prior and its decoder hold frozen.

    reimagen prepare --out runs/world/train --where role=train --resolution 32
    reimagen train experiments/dalle2_clip32.py --workdir runs/unclip/clip --data.records runs/world/train
    reimagen encode-train runs/world/train --from-run runs/unclip/clip --out runs/unclip/encoder

`reimagen encode-train RECORDS --towers clip --max-bytes 83 --out DIR` is much the same in one command. The paper's CLIP
has seen the world; this one has seen the training role alone: of an unseen entity it knows looks from pictures, not the
name.

Hardware: 2 CPU cores, 145 pairs a second beside other work (30 minutes), 4 GiB. Reached on the 100,000 pairs of
EntityWorld above: of 1,000 held-out pairs, the text finds its image first / among five / ten in 0.710 / 0.987 / 1.000,
the image its text in 0.758 / 1.000 / 1.000 (chance 0.001 / 0.005 / 0.010); the losses end at 0.46 (texts) and 0.21
(images), the temperature at 1/57.

What was tried, and what linear probes read off the images' vectors (4,000 records; chance is the commonest value's):

    pairs found first       0.250 by captions alone, 0.710 with another picture of the same entity (views) besides
    category (0.23)         0.56                     1.00
    the look's eight numbers (0.21 to 0.35), mean    0.33     0.59

By captions alone, vectors knew place, time, position and size, all but perfectly, and not the entity: those of a scene
find its picture among hundreds. A first attempt merged four bytes of a text into one token before the transformer, as
dual32.py does: then the loss stayed at 2.2 from step 400 on, with convolutions as the images' stem and without.
"""

from reimagen_jax.config import Experiment, TrainConfig
from reimagen_jax.systems.dual.settings import ClipSystemConfig, DualData
from reimagen_jax.systems.unclip.presets import CLIP_32

config = Experiment(
    name="dalle2_clip32",
    system=ClipSystemConfig(
        network=CLIP_32,
        shift=0.08,
        views=1.0,
    ),
    data=DualData(batch_size=128, held_out=0.1, word_drop=0.2, views_by="entity"),
    train=TrainConfig(
        num_steps=2_000,
        learning_rate=1e-3,
        warmup_steps=100,
        decay="tail",
        weight_decay=0.05,
        ema_decay=0.99,
        log_every=50,
        checkpoint_every=250,
        sample_every=0,
    ),
)
