r"""The tokenizer of MAGE at the paper's size: a 256 x 256 image as 16 x 16 tokens of 1,024 codes, trained as VQGAN was.

    python tools/convert_weights.py vgg16.safetensors --lpips vgg.pth --out runs/lpips
    reimagen train experiments/rcg_vq_256.py --workdir runs/rcg/vq_256 --data.records runs/imagenet \
        --init.weights runs/lpips

Two steps of it, small, on a CPU, its images compared in the features of an encoder of MoCo-v3 (rcg_moco32.py):

    reimagen train experiments/rcg_vq_256.py --workdir runs/tiny/vq_256 --data.records runs/tiny/records \
        --init.weights runs/tiny/encoder --resolution 8 --vq.patch 2 --vq.widths 8 16 --vq.blocks 1 --vq.groups 4 \
        --vq.codes 12 --vq.code-width 6 --adversarial.start 1 --adversarial.network.depth 1 \
        --adversarial.network.width 4 --adversarial.network.groups 2 \
        --train.num-steps 2 --train.sample-every 0 --data.batch-size 8 --data.validation-share 0

`tools/convert_weights.py vqgan_jax_strongaug.ckpt --out runs/rcg/vq_256` makes a folder of what was published in its
place. What is whose:

VQGAN    absolute error and LPIPS (weight 1); codes 1, commitment 0.25; a discriminator of patches, hinge loss, weight
         0.8 by the ratio of gradients, from update 250,000 on; Adam (0.5, 0.9)
MaskGIT  network (54.5M parameters), 1,024 codes; its first stage is VQGAN's otherwise, the paper says (section 3)
ours     the term of entropy; squared error left out; images in [0, 1]; group norms in the discriminator; batch and
         rate, which VQGAN has at 4.5e-6 times the batch; the average
Not trained by us.
"""

from reimagen_jax.config import Experiment, InitConfig, TrainConfig
from reimagen_jax.systems.mage.presets import VQ_256
from reimagen_jax.systems.mage.settings import (
    FROZEN_FEATURES,
    AdversarialConfig,
    PerceptualConfig,
    RecordsConfig,
    VQSystemConfig,
)

config = Experiment(
    name="rcg_vq_256",
    system=VQSystemConfig(
        resolution=256,
        vq=VQ_256,
        l2=0.0,
        perceptual=PerceptualConfig(weight=1.0),
        adversarial=AdversarialConfig(weight=0.8, start=250_000),
    ),
    data=RecordsConfig(batch_size=32, threads=16, validation_share=0.001),
    init=InitConfig(adopt=True),
    train=TrainConfig(
        num_steps=1_000_000,
        learning_rate=1.44e-4,
        rates=(FROZEN_FEATURES,),
        warmup_steps=2_000,
        decay="constant",
        beta1=0.5,
        beta2=0.9,
        clip_norm=None,
        ema_decay=0.9999,
        checkpoint_every=5_000,
        sample_every=5_000,
    ),
)
