r"""A Re-Imagen at 64 x 64 that starts from DeepFloyd IF's first stage and learns to look at neighbours.

    python tools/convert_weights.py IF-I-M-v1.0 --out runs/if64
    reimagen prepare --source photos --out runs/images64 --resolution 64
    reimagen index runs/images64 --out runs/index64
    reimagen triples runs/images64 --knowledge-base runs/index64 --out runs/triples64
    reimagen embed runs/images64 --text-model runs/if64 --text-embeddings runs/text64
    reimagen train experiments/if_finetune_64.py --init.weights runs/if64 --workdir runs/train64 \
        --data.triples runs/triples64 --data.text-embeddings runs/text64

The network is that of the weights (`init.adopt`): medium, large (935M) or XL (4.3B, with --train.fsdp); what stands
below is the medium one. The first samples are IF's own: attention over neighbours starts as the identity. Its layers
learn ten times as fast as IF's. To train the new layers alone, without gradients, moments and average of all others:
--train.rates.1.factor 0 --train.frozen-dtype bfloat16. Not trained by us, for want of the weights. That converted
weights draw what IF draws is tested with random ones (tests/parity/test_if_pipeline.py). What is whose:

  DeepFloyd IF   network, process, text encoder, thresholding, 100 steps of sampling and the text's weight 7.0
  Re-Imagen      two neighbours, shown all or none, dropped in 10 %, text too; attended at one feature map (which one:
                 presets.py; --neighbours-at 32 16 8 of the converting tool is our variant); Adafactor at 1e-4
  ours           batch, steps (Re-Imagen: 200,000; its batch is not published), warm-up, average, clipping, the rate of
                 IF's own layers, the neighbours' weight: set what you can afford
"""

from reimagen_jax.config import Experiment, GroupRate, InitConfig, TrainConfig
from reimagen_jax.systems.reimagen.presets import IF_I, IF_PROCESS, IF_TEXT
from reimagen_jax.systems.reimagen.settings import GuidedSamplerConfig, ReImagenConfig, TriplesConfig

config = Experiment(
    name="if_finetune_64",
    system=ReImagenConfig(
        resolution=64,
        unet=IF_I,
        text=IF_TEXT,
        diffusion=IF_PROCESS,
        sampler=GuidedSamplerConfig(
            solver="ddpm",
            num_steps=100,
            text_weight=7.0,
            neighbour_weight=7.0,
            thresholding="dynamic",
            percentile=0.95,
            threshold_limit=1.5,
        ),
    ),
    data=TriplesConfig(batch_size=64, num_neighbours=2, min_neighbours=2, threads=16),
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
