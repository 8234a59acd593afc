r"""The decoder of unCLIP (DALL-E 2) on EntityWorld: a 32 x 32 image from its CLIP embedding, its caption beside it.

    reimagen train experiments/dalle2_decoder32.py --workdir runs/unclip/decoder --data.records runs/world/train \
        --init.weights runs/unclip/clip

Then by the prior, and by what is retrieved in its place:

    reimagen sample --model runs/unclip/prior --cascade runs/unclip/decoder --records runs/world/all \
        --out runs/unclip/drawn
    reimagen sample --model runs/unclip/decoder --knowledge-base runs/world/index --query-by entity --k 1 \
        --records runs/world/all --out runs/unclip/retrieved

Hardware: 2 CPU cores that others used too, 4,000 steps (--train.num-steps 4000) in 50 minutes. Reached then, by the
picture of a reference: 0.70 of an unseen look's parameters right, the category in 0.98; held-out loss 0.0573, without
its embedding 0.0909; pictures given back by their codes within 0.16 % in 50 steps.

Records and index as in entityworld32.py; the CLIP by dalle2_clip32.py. The U-Net is as wide as entityworld32.py's, its
times are drawn by the same density. To compare with, as the paper does: a decoder of texts' embeddings (--trained-on
text), one of the caption alone (--embedding-drop 1).
"""

from reimagen_jax.config import Experiment, InitConfig, TrainConfig
from reimagen_jax.diffusion.settings import DiffusionConfig
from reimagen_jax.systems.unclip.presets import CLIP_32, DECODER_32
from reimagen_jax.systems.unclip.settings import FROZEN, DecoderConfig, DecoderSamplerConfig, PairsConfig

config = Experiment(
    name="dalle2_decoder32",
    system=DecoderConfig(
        resolution=32,
        clip=CLIP_32,
        unet=DECODER_32,
        diffusion=DiffusionConfig(prediction="v", time_exponent=0.5),
        scale=128**0.5,
        sampler=DecoderSamplerConfig(solver="ddim", num_steps=25, text_weight=2.0),
    ),
    data=PairsConfig(batch_size=16, validation_share=0.02),
    init=InitConfig(adopt=True),
    train=TrainConfig(
        num_steps=10_000, learning_rate=1e-3, rates=(FROZEN,), warmup_steps=200, decay="tail", ema_decay=0.999
    ),
)
