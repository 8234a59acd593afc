r"""The paper's decoder: 64 x 64 from a CLIP embedding and the caption, 3.5B parameters with its text encoder.

    reimagen train experiments/dalle2_decoder.py --workdir DIR --data.records RECORDS --init.weights CLIP \
        --train.fsdp 16 --train.accumulate 4 --clip.tokenizer TOKENIZER

The records' images have at least 256 pixels: the CLIP reads them so. Not trained by us. What is whose:

  paper          width 512, multiples 1, 2, 3, 4, three blocks a level, attention at 32, 16 and 8 with heads of 64; the
                 embedding beside the time's and as four tokens; dropped in 10 %, the text in 50 %; learned variance,
                 1,000 steps, cosine; batch 2048, 800,000 steps at 1.2e-4, beta2 0.999, average 0.9999; 250 steps of
                 sampling; weight 1.25 where FID is measured
  GLIDE          the rest of the network, its text encoder (24 blocks of width 2048)
  ours           the embedding's scale, sqrt(1024); attention has no dropout (0.1 there)
  not published  its weights; warm-up

Two steps of it on a CPU (records as in re_imagen_64.py; any CLIP, whose settings are taken over):

    reimagen train experiments/dalle2_decoder.py --workdir runs/tiny/decoder --data.records runs/tiny/records \
        --init.weights runs/tiny/clip --train.num-steps 2 --data.batch-size 8 --resolution 16 --token-width 16 \
        --text.width 16 --text.depth 1 --text.heads 2 --text.mlp-width 32 \
        --unet.levels.0.width 8 --unet.levels.1.width 8 --unet.levels.2.width 8 --unet.levels.3.width 16 \
        --unet.levels.0.blocks 1 --unet.levels.1.blocks 1 --unet.levels.2.blocks 1 --unet.levels.3.blocks 1 \
        --unet.groups 8 --unet.head-width 8 --unet.cond-width 32 --unet.time-features 32
"""

from reimagen_jax.config import Experiment, InitConfig, TrainConfig
from reimagen_jax.systems.unclip.presets import CLIP_H16, DECODER_64, DECODER_PROCESS, DECODER_TEXT
from reimagen_jax.systems.unclip.settings import FROZEN, DecoderConfig, DecoderSamplerConfig, PairsConfig

config = Experiment(
    name="dalle2_decoder",
    system=DecoderConfig(
        resolution=64,
        clip=CLIP_H16,
        unet=DECODER_64,
        text=DECODER_TEXT,
        diffusion=DECODER_PROCESS,
        token_width=2048,
        scale=32.0,
        sampler=DecoderSamplerConfig(solver="ddpm", num_steps=250, spacing="linspace", text_weight=1.25),
    ),
    data=PairsConfig(batch_size=2048, threads=16),
    init=InitConfig(adopt=True),
    train=TrainConfig(
        num_steps=800_000,
        learning_rate=1.2e-4,
        rates=(FROZEN,),
        frozen_dtype="bfloat16",
        warmup_steps=5_000,
        decay="constant",
        beta2=0.999,
        ema_decay=0.9999,
        checkpoint_every=2_000,
        sample_every=0,
    ),
)
