r"""The CLIP of unCLIP (DALL-E 2) on EntityWorld at 32 x 32: what its prior and its decoder hold frozen.

    reimagen prepare --out runs/world/train --where role=train --resolution 32
    reimagen train experiments/dalle2_clip32.py --workdir runs/world/clip --data.records runs/world/train
    reimagen encode-train runs/world/train --from-run runs/world/clip --out runs/world/clip_encoder

`reimagen encode-train RECORDS --towers clip --max-bytes 83 --out DIR` is much the same in one command. The paper's CLIP
has seen the world; this one has seen the training role alone: of an unseen entity it knows looks from pictures, not the
name.

Hardware: 2 CPU cores, 210 pairs a second when nothing else runs (20 minutes), 2.3 GiB. Reached on the 100,000 pairs of
EntityWorld above: of 1,000 held-out pairs, the text finds its image first / among five / ten in 0.250 / 0.857 / 0.958,
the image its text in 0.277 / 0.914 / 0.998 (chance 0.001 / 0.005 / 0.010); the loss ends at 0.87, the temperature at
1/23. dual32.py's small towers find more (0.701 first), in less time.

What was tried: four bytes of a text merged into one token, as dual32.py has them, before the transformer. The loss
stayed at 2.2 from step 400 on (now 1.7 at step 500), with convolutions as the images' stem and without: vectors knew
place and time of a scene, not the entity.
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
