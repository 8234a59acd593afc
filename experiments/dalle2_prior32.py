r"""The prior of unCLIP (DALL-E 2) on EntityWorld: the CLIP embedding of a 32 x 32 image, drawn from its caption.

    reimagen train experiments/dalle2_prior32.py --workdir runs/unclip/prior --data.records runs/world/train \
        --init.weights runs/unclip/clip

Hardware: 2 CPU cores that others used too, 1,500 steps (--train.num-steps 1500) in 35 minutes. Reached then: held-out
loss 0.192, without the text 0.298; what the decoder draws of its embeddings shows all that the caption tells in 0.97
(RESULTS.md).

Records as in entityworld32.py; the CLIP by dalle2_clip32.py. Of 128 values and length 1: times sqrt(128) their variance
is 1.
"""

from reimagen_jax.config import Experiment, InitConfig, TrainConfig
from reimagen_jax.systems.unclip.presets import CLIP_32, PRIOR_32
from reimagen_jax.systems.unclip.settings import FROZEN, PairsConfig, PriorConfig, PriorSamplerConfig

config = Experiment(
    name="dalle2_prior32",
    system=PriorConfig(
        clip=CLIP_32, tower=PRIOR_32, scale=128**0.5, sampler=PriorSamplerConfig(num_steps=25, text_weight=1.5)
    ),
    data=PairsConfig(batch_size=32, validation_share=0.02),
    init=InitConfig(adopt=True),
    train=TrainConfig(
        num_steps=6_000,
        learning_rate=5e-4,
        rates=(FROZEN,),
        warmup_steps=200,
        decay="tail",
        beta2=0.96,
        weight_decay=0.06,
        ema_decay=0.999,
        sample_every=0,
    ),
)
