r"""A Re-Imagen from 64 to 256 pixels that starts from DeepFloyd IF's second stage and learns to look at neighbours.

    python tools/convert_weights.py IF-II-M-v1.0 --text-encoder IF-I-M-v1.0/text_encoder --out runs/if256
    reimagen train experiments/if_finetune_256.py --init.weights runs/if256 --workdir runs/train256 \
        --data.triples runs/triples256 --data.text-embeddings runs/text256

The triples' images have at least 256 pixels; they, and the embeddings, are made as in if_finetune_64.py, and what that
file says of the network, the rates and the weights, and of what is whose, holds here too: IF's are 50 steps and the
weight 4.0, Re-Imagen's is Adam for this stage. Low-resolution images are degraded as IF's were: noised, and besides
blurred now and then, to mend what the stage before gets wrong, which is ours.
"""

from reimagen_jax.config import Experiment, GroupRate, InitConfig, TrainConfig
from reimagen_jax.diffusion.settings import SuperResolutionConfig
from reimagen_jax.systems.reimagen.presets import IF_II, IF_PROCESS, IF_TEXT
from reimagen_jax.systems.reimagen.settings import GuidedSamplerConfig, ReImagenConfig, TriplesConfig

config = Experiment(
    name="if_finetune_256",
    system=ReImagenConfig(
        resolution=256,
        unet=IF_II,
        text=IF_TEXT,
        diffusion=IF_PROCESS,
        super_resolution=SuperResolutionConfig(
            low_resolution=64, enlarging="linear_corners", aug_schedule="cosine_chain", blur=0.1, aug_levels=(0.0, 1.0)
        ),
        sampler=GuidedSamplerConfig(
            solver="ddpm",
            num_steps=50,
            text_weight=4.0,
            neighbour_weight=4.0,
            thresholding="dynamic",
            percentile=0.95,
            threshold_limit=1.0,
            aug_level=0.25,
        ),
    ),
    data=TriplesConfig(batch_size=32, num_neighbours=2, min_neighbours=2, threads=16),
    init=InitConfig(adopt=True),
    train=TrainConfig(
        num_steps=50_000,
        learning_rate=1e-4,
        rates=(GroupRate("neighbour_attention", 1.0), GroupRate(".", 0.1)),
        warmup_steps=1_000,
        decay="constant",
        beta2=0.999,
        ema_decay=0.9999,
        checkpoint_every=1_000,
        sample_every=1_000,
    ),
)
