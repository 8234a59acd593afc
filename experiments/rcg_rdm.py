r"""RCG's representation diffusion model at the paper's size: representations of ImageNet's images at 256 x 256.

    reimagen train experiments/rcg_rdm.py --workdir DIR --data.records RECORDS --init.weights ENCODER

RECORDS are those of ImageNet at 256 pixels, the ENCODER is MoCo-v3's ViT-B, as rcg_moco_b.py has them.

Two steps of it on a CPU, of 8 values and 2 blocks:

    reimagen train experiments/rcg_rdm.py --workdir runs/tiny/rdm --data.records runs/tiny/records \
        --init.weights runs/tiny/encoder --mlp.width 32 --mlp.depth 2 --side 8 --data.batch-size 8 --data.enlarge \
        --train.num-steps 2 --train.warmup-steps 0 --train.log-every 2

62.7M parameters, 72.2M with --data.class-by label (the paper: 63M); the encoder, MoCo-v3's ViT-B, lies frozen beside
them (106.7M).

of the paper    12 blocks of width 1536, AdamW (0.9, 0.999), learning rate 512 x 1e-6, constant, weight decay 0.01,
                batch 512, 200 epochs (500,000 steps), average 0.9999, no clipping, float32; mirrored images
ours            no random crop: records are central squares; warm-up of 1,000 steps; the average is taken after a step;
                biases and norms do not decay
not published   the published class-conditional model drops no class: --class-drop 0; ours drops 10 %, for guidance
"""

from reimagen_jax.config import Experiment, InitConfig, TrainConfig
from reimagen_jax.systems.moco.presets import MOCO_B
from reimagen_jax.systems.rcg.presets import RDM
from reimagen_jax.systems.rcg.settings import FROZEN, PicturesConfig, RdmConfig

config = Experiment(
    name="rcg_rdm",
    system=RdmConfig(encoder=MOCO_B, mlp=RDM, side=256),
    data=PicturesConfig(batch_size=512, flip=True),
    init=InitConfig(adopt=True),
    train=TrainConfig(
        num_steps=500_000,
        learning_rate=5.12e-4,
        rates=(FROZEN,),
        warmup_steps=1_000,
        decay="constant",
        beta2=0.999,
        weight_decay=0.01,
        clip_norm=None,
        ema_decay=0.9999,
        sample_every=0,
    ),
)
