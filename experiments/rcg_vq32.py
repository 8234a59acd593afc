r"""The tokenizer of RCG's MAGE on EntityWorld: a 32 x 32 image as 8 x 8 tokens of 512 codes.

    reimagen train experiments/rcg_vq32.py --workdir runs/rcg/vq --data.records runs/world/train

Records as in entityworld32.py. MAGE then holds it frozen (rcg_mage32.py). Published tokenizers have a perceptual and an
adversarial loss besides, which sharpen photographs; EntityWorld's flat colours do without. With both, its images
compared in the features of the encoder that MAGE draws from (rcg_moco32.py), and 4 x 4 patches told apart:

    reimagen train experiments/rcg_vq32.py --workdir runs/rcg/vq_sharp --data.records runs/world/train --init.adopt \
        --init.weights runs/rcg/encoder --perceptual.weight 0.1 --adversarial.weight 0.1 --adversarial.start 1000 \
        --adversarial.network.width 16 --train.beta1 0.5
"""

from reimagen_jax.config import Experiment, TrainConfig
from reimagen_jax.systems.mage.presets import VQ_32
from reimagen_jax.systems.mage.settings import RecordsConfig, VQSystemConfig

config = Experiment(
    name="rcg_vq32",
    system=VQSystemConfig(resolution=32, vq=VQ_32, entropy=0.02, temperature=0.1),
    data=RecordsConfig(batch_size=32, validation_share=0.02),
    train=TrainConfig(
        num_steps=4_000,
        learning_rate=1e-3,
        warmup_steps=200,
        decay="tail",
        weight_decay=1e-4,
        ema_decay=0.999,
        checkpoint_every=250,
        sample_every=500,
    ),
)
