r"""The autoregressive prior of unCLIP (DALL-E 2) on EntityWorld: the CLIP embedding of a 32 x 32 image, drawn number by
number from its caption.

    reimagen train experiments/dalle2_ar_prior32.py --workdir runs/unclip/ar_prior --data.records runs/world/train \
        --init.weights runs/unclip/clip

Hardware: 2 CPU cores that others used too, 1,500 steps (--train.num-steps 1500) in 55 minutes. Reached then: held-out
loss 4.702, without the text 4.924; what the decoder draws of its embeddings shows all that the caption tells in 0.73 to
0.78 (RESULTS.md).

Records as in entityworld32.py; the CLIP by dalle2_clip32.py. The components of largest variance are fitted to 65,536
records before the first step, which says how much of the variance they hold.
"""

from reimagen_jax.config import Experiment, InitConfig, TrainConfig
from reimagen_jax.systems.unclip.presets import CLIP_32, PRIOR_32
from reimagen_jax.systems.unclip.settings import FROZEN, ARPriorConfig, ARPriorSamplerConfig, PairsConfig

config = Experiment(
    name="dalle2_ar_prior32",
    system=ARPriorConfig(
        clip=CLIP_32, tower=PRIOR_32, dims=64, buckets=256, sampler=ARPriorSamplerConfig(text_weight=1.5)
    ),
    data=PairsConfig(batch_size=32, validation_share=0.02),
    init=InitConfig(adopt=True),
    train=TrainConfig(
        num_steps=6_000,
        learning_rate=5e-4,
        rates=(FROZEN,),
        warmup_steps=200,
        decay="tail",
        beta2=0.91,
        weight_decay=0.04,
        ema_decay=0.999,
        sample_every=0,
    ),
)
