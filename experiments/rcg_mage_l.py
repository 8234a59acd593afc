r"""RCG's MAGE-L, the paper's: 256 tokens of a 256 x 256 image, from a representation of MoCo-v3's ViT-L. For ImageNet.

    reimagen train experiments/rcg_mage_l.py --workdir runs/rcg/mage_l --data.records runs/imagenet \
        --init.weights runs/rcg/vq_256 --init.beside runs/rcg/moco_l

Two steps of it, small, on a CPU:

    reimagen train experiments/rcg_mage_l.py --workdir runs/tiny/mage_l --data.records runs/tiny/records \
        --init.weights runs/tiny/vq --init.beside runs/tiny/encoder \
        --tower.width 16 --tower.depth 1 --tower.heads 2 --tower.mlp-width 32 \
        --decoder.width 16 --decoder.depth 1 --decoder.heads 2 --decoder.mlp-width 32 \
        --train.num-steps 2 --train.sample-every 0 --data.batch-size 8 --data.validation-share 0 \
        --dtype float32 --no-remat

RCG    rate 2.4e-3 for a batch of 4,096, 200 epochs (800 in its final table), 10 of warm-up, cosine; AdamW (0.9, 0.95),
       decay 0.05; no average; norm of the gradient 3; masks, dropout, drop of the representation 0.1
ours   bfloat16 (there float16), rematerialisation; one share of masked tokens for all devices
The paper's 3.44 (2.15 guided, tau 6) of FID is not reproduced here: it needs ImageNet and 6.0 days of 64 V100.
"""

from reimagen_jax.config import Experiment, InitConfig, TrainConfig
from reimagen_jax.systems.mage.presets import MAGE_L
from reimagen_jax.systems.mage.settings import FROZEN, MageConfig, MageSamplerConfig
from reimagen_jax.systems.rcg.settings import PicturesConfig

config = Experiment(
    name="rcg_mage_l",
    system=MageConfig(resolution=256, **MAGE_L, sampler=MageSamplerConfig(temperature=11.0, text_weight=7.0)),
    data=PicturesConfig(batch_size=4096, validation_share=0.001),
    init=InitConfig(adopt=True),
    train=TrainConfig(
        num_steps=62_600,
        learning_rate=2.4e-3,
        rates=(FROZEN,),
        warmup_steps=3_130,
        decay="cosine",
        beta2=0.95,
        weight_decay=0.05,
        clip_norm=3.0,
        ema_decay=0.0,
    ),
)
