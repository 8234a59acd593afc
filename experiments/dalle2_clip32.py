r"""The CLIP of unCLIP (DALL-E 2) on EntityWorld at 32 x 32: what its prior and its decoder hold frozen.

    reimagen prepare --out runs/world/train --where role=train --resolution 32
    reimagen train experiments/dalle2_clip32.py --workdir runs/world/clip --data.records runs/world/train
    reimagen encode-train runs/world/train --from-run runs/world/clip --out runs/world/clip_encoder

`reimagen encode-train RECORDS --towers clip --max-bytes 80 --out DIR` is much the same in one command. The paper's CLIP
has seen the world; this one has seen the training role alone: of an unseen entity it knows looks from pictures, not the
name.

Hardware: 2 CPU cores, about 150 pairs a CPU second. Not trained to its end yet: with one product per patch
(--network.image.no-stem) as with convolutions, as here, the loss stays at 2.2 from step 400 to 700. At step 500
(without) vectors of images told place and time of the scene, but little else (linear probes: all right; position
0.53, size 0.65, category 0.39), and of 1,000 held-out pairs the text found its image first / among five / ten in
0.040 / 0.165 / 0.315. So the images' stem was not the cause; four bytes of a caption that become one state,
wherever a word begins, may be.
"""

from reimagen_jax.config import Experiment, TrainConfig
from reimagen_jax.systems.dual.settings import ClipSystemConfig, DualData
from reimagen_jax.systems.unclip.presets import CLIP_32

config = Experiment(
    name="dalle2_clip32",
    system=ClipSystemConfig(
        network=CLIP_32,
        shift=0.08,
    ),
    data=DualData(batch_size=128, held_out=0.1, word_drop=0.2),
    train=TrainConfig(
        num_steps=1_500,
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
