r"""The paper's diffusion prior: 1.2B parameters over a frozen CLIP ViT-H/16 (the paper's Table 3 says 1B).

    reimagen train experiments/dalle2_prior.py --workdir DIR --data.records RECORDS --init.weights CLIP --train.fsdp 8 \
        --clip.tokenizer TOKENIZER

Not trained by us. What is whose:

  paper          24 blocks of width 2048, 32 heads, texts of 256 tokens; x_0 loss, 1,000 steps, cosine; the text
                 dropped in 10 %; scale 17.2; batch 4096, 600,000 steps at 1.1e-4, weight decay 0.06, beta2 0.96,
                 epsilon 1e-6, average 0.9999; best of two; 64 steps of sampling, Analytic-DPM
  ours           ancestral sampling in as many steps; the text's states are CLIP's; the dropped text is the empty one
  not published  its weights, those of its CLIP, its guidance; warm-up

24 blocks of width 2048 are 1.2B, whatever else is around them: karlo's 20 are 1.02B.

Two steps of it on a CPU (records as in re_imagen_64.py; any CLIP, whose settings are taken over):

    reimagen train experiments/dalle2_prior.py --workdir runs/tiny/prior --data.records runs/tiny/records \
        --init.weights runs/tiny/clip --train.num-steps 2 --data.batch-size 8 --data.enlarge \
        --tower.width 16 --tower.depth 1 --tower.heads 2 --tower.mlp-width 32
"""

from reimagen_jax.config import Experiment, InitConfig, TrainConfig
from reimagen_jax.systems.unclip.presets import CLIP_H16, PRIOR_1B, PRIOR_PROCESS
from reimagen_jax.systems.unclip.settings import FROZEN, PairsConfig, PriorConfig, PriorSamplerConfig

config = Experiment(
    name="dalle2_prior",
    system=PriorConfig(
        clip=CLIP_H16,
        tower=PRIOR_1B,
        dtype="bfloat16",
        remat=True,
        diffusion=PRIOR_PROCESS,
        sampler=PriorSamplerConfig(num_steps=64, spacing="linspace"),
    ),
    data=PairsConfig(batch_size=4096, threads=16),
    init=InitConfig(adopt=True),
    train=TrainConfig(
        num_steps=600_000,
        learning_rate=1.1e-4,
        rates=(FROZEN,),
        frozen_dtype="bfloat16",
        warmup_steps=5_000,
        decay="constant",
        beta2=0.96,
        epsilon=1e-6,
        weight_decay=0.06,
        ema_decay=0.9999,
        checkpoint_every=2_000,
        sample_every=0,
    ),
)
