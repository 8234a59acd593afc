r"""RCG's MAGE on EntityWorld: the 8 x 8 tokens of a 32 x 32 image, from its representation.

    reimagen train experiments/rcg_mage32.py --workdir runs/rcg/mage --data.records runs/world/train \
        --init.weights runs/rcg/vq --init.beside runs/rcg/encoder

Records as in entityworld32.py; tokenizer and encoder by rcg_vq32.py and rcg_moco32.py. Then from what the RDM
(rcg_rdm32.py) draws, from what is retrieved, and from an image:

    reimagen sample --model runs/rcg/rdm --cascade runs/rcg/mage --prompt "" --out runs/rcg/drawn
    reimagen sample --model runs/rcg/mage --knowledge-base runs/world/index --query-by entity --k 1 \
        --records runs/world/all --out runs/rcg/retrieved

To compare with: --condition none (MAGE without RCG, and without an encoder beside), and by classes, --condition class
--data.class-by category.
"""

from reimagen_jax.config import Experiment, InitConfig, TrainConfig
from reimagen_jax.systems.mage.presets import MAGE_32
from reimagen_jax.systems.mage.settings import FROZEN, MageConfig, MageSamplerConfig
from reimagen_jax.systems.rcg.settings import PicturesConfig

config = Experiment(
    name="rcg_mage32",
    system=MageConfig(resolution=32, **MAGE_32, sampler=MageSamplerConfig(num_steps=12, temperature=3.0)),
    data=PicturesConfig(batch_size=64, validation_share=0.02),
    init=InitConfig(adopt=True),
    train=TrainConfig(
        num_steps=5_000,
        learning_rate=1e-3,
        rates=(FROZEN,),
        warmup_steps=300,
        decay="tail",
        beta2=0.95,
        weight_decay=0.05,
        clip_norm=3.0,
        ema_decay=0.99,
        checkpoint_every=250,
        sample_every=500,
    ),
)
