r"""The encoder of RCG-B at the paper's size: MoCo-v3's ViT-B/16, 106.8M parameters with its head.

    reimagen train experiments/rcg_moco_b.py --workdir DIR --data.records RECORDS
    reimagen encode-train RECORDS --from-run DIR --out ENCODER

RECORDS are those of ImageNet (`reimagen prepare --source tfds:imagenet2012 --resolution 256 --out RECORDS`). Not
trained by us; `tools/convert_weights.py vit-b-300ep.pth.tar --out ENCODER` makes the same folder of what was published
(CC BY-NC 4.0). ViT-S and ViT-L: MOCO_S and MOCO_L of systems/moco/presets.py. What is whose:

  MoCo-v3        ViT-B/16 of 224 pixels whose patches are projected at random (`rates` freezes them); head and predictor
                 of 4,096; views, temperature 0.2; AdamW, batch 4096, 300 epochs at 2.4e-3 (1.5e-4 for 256), 40 of them
                 of warm-up, cosine, weight decay 0.1; a momentum that grows from 0.99 to 1 along a cosine
  ours           biases and norms do not decay; views are cut from pictures of 256 pixels; blocks begin as CLIP's

Two steps of it on a CPU (records as in re_imagen_64.py):

    reimagen train experiments/rcg_moco_b.py --workdir runs/tiny/moco --data.records runs/tiny/records \
        --train.num-steps 2 --data.batch-size 8 --side 40 --network.resolution 32 --network.head-width 16 \
        --predictor-width 16 --network.tower.width 16 --network.tower.depth 1 --network.tower.heads 2 \
        --network.tower.mlp-width 32 --network.width 12
"""

import dataclasses

from reimagen_jax.config import Experiment, GroupRate, TrainConfig
from reimagen_jax.systems.moco.presets import MOCO_B
from reimagen_jax.systems.moco.settings import MocoConfig, MocoData

config = Experiment(
    name="rcg_moco_b",
    system=MocoConfig(dataclasses.replace(MOCO_B, dtype="bfloat16"), side=256, predictor_width=4096),
    data=MocoData(batch_size=4096, threads=16),
    train=TrainConfig(
        num_steps=93_840,
        learning_rate=2.4e-3,
        rates=(GroupRate("^encoder/tower/patches/", 0.0),),
        warmup_steps=12_512,
        decay="cosine",
        beta2=0.999,
        weight_decay=0.1,
        clip_norm=None,
        ema_decay=0.99,
        ema_growth="cosine",
        checkpoint_every=1_000,
        sample_every=0,
    ),
)
