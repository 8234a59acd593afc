r"""A Re-Imagen at 64 x 64 that starts from DeepFloyd IF's first stage and learns to look at neighbours.

    python tools/convert_weights.py IF-I-M-v1.0 --out runs/if64
    reimagen prepare --source FOLDER --out runs/images --resolution 64
    reimagen index runs/images --out runs/index
    reimagen triples runs/images --knowledge-base runs/index --out runs/triples
    reimagen embed runs/images --text-model runs/if64 --text-embeddings runs/text
    reimagen train experiments/if_finetune_64.py --init.weights runs/if64 --workdir runs/train64 \
        --data.triples runs/triples --data.text-embeddings runs/text

The network is that of the weights (`init.adopt`): medium, large (935M) or XL (4.3B, with --train.fsdp); what stands
below is the medium one. The first samples are IF's own: attention over neighbours starts as the identity. Its layers
learn ten times as fast as IF's. To train the new layers alone, without gradients and moments of all others:
--train.rates.1.factor 0. The paper fine-tuned for 200,000 steps with batches of 2048; set what you can afford.
Not trained by us, for want of the weights. That converted weights draw what IF draws
is tested with random ones (tests/parity/test_if_pipeline.py).
"""

from reimagen_jax.config import DataConfig, Experiment, GroupRate, InitConfig, SamplerConfig, TrainConfig
from reimagen_jax.presets import IF_I, IF_PROCESS, IF_TEXT

config = Experiment(
    name="if_finetune_64",
    resolution=64,
    unet=IF_I,
    text=IF_TEXT,
    diffusion=IF_PROCESS,
    sampler=SamplerConfig(
        solver="ddpm",
        num_steps=100,
        text_weight=7.0,
        neighbour_weight=7.0,
        thresholding="dynamic",
        percentile=0.95,
        threshold_limit=1.5,
    ),
    data=DataConfig(batch_size=64, num_neighbours=2, threads=16),
    init=InitConfig(adopt=True),
    train=TrainConfig(
        num_steps=50_000,
        optimizer="adafactor",
        learning_rate=1e-4,
        rates=(GroupRate("neighbour_attention", 1.0), GroupRate(".", 0.1)),
        warmup_steps=1_000,
        decay="constant",
        ema_decay=0.9999,
        checkpoint_every=1_000,
        sample_every=1_000,
    ),
)
