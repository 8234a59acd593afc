r"""The paper's third stage: 256 to 1024 pixels from the text alone, on crops: 467M parameters (the papers: 400M).

    reimagen train experiments/re_imagen_1024.py --workdir DIR --data.triples TRIPLES --train.fsdp 4

The triples' images have at least 1024 pixels; their neighbours are not read. The network is trained on crops of 256
pixels (from 64 of the low-resolution image) and draws 1024: there is no attention among pixels. Not trained by us.
What is whose, besides what re_imagen_64.py says:

  Re-Imagen      nothing: it takes Imagen's stage as it is; its 200,000 steps are what it fine-tunes the other two for
  Imagen         widths, blocks, attention to the text alone, text pooled by attention; crops; linear schedule; batch,
                 warm-up, average, 1e-4; 32 steps of sampling; weight 8.0 of super-resolution where FID is measured
  ours           `cond_width` and `text_width`, narrow to come near 400M; with T5-XXL's width 4096, pooling it takes 50M
                 of 467M (with the bytes' width, here, the U-Net has 418M). What "linear" is at its ends: log SNR from
                 9.2 to -10, those of DDPM's chain of 1,000 steps, after Kingma et al. 2021; the last step goes on to
                 the image itself. Degradations: DALL-E 2's for its last stage as far as they are linear, wider blurs
                 and four filters. The byte-level text encoder
  not published  the two widths, what Imagen's linear schedule is in continuous time, and this stage's level of noise

Figures in RESULTS.md that were measured with text pooled by one score a token: --unet.text-pooling score.

Two steps of it on a CPU (the triples as in re_imagen_64.py):

    reimagen train experiments/re_imagen_1024.py --workdir runs/tiny/1024 --data.triples runs/tiny/triples \
        --train.num-steps 2 --data.batch-size 8 --resolution 128 --super-resolution.low-resolution 32 \
        --super-resolution.crop 32 --text.max-bytes 64 --text.width 64 --text.depth 1 \
        --unet.levels.0.width 8 --unet.levels.1.width 8 --unet.levels.2.width 8 --unet.levels.3.width 16 \
        --unet.levels.0.blocks 1 --unet.levels.1.blocks 1 --unet.levels.2.blocks 1 --unet.levels.3.blocks 1 \
        --unet.levels.3.attention-every 1 --unet.levels.3.head-width 8 --unet.groups 8 --unet.head-width 8 \
        --unet.cond-width 32 --unet.text-width 32
"""

from reimagen_jax.config import Experiment, TrainConfig
from reimagen_jax.diffusion.settings import DiffusionConfig, SuperResolutionConfig
from reimagen_jax.encoders.settings import TextConfig
from reimagen_jax.systems.reimagen.presets import RE_IMAGEN_1024
from reimagen_jax.systems.reimagen.settings import GuidedSamplerConfig, ReImagenConfig, TriplesConfig

config = Experiment(
    name="re_imagen_1024",
    system=ReImagenConfig(
        resolution=1024,
        unet=RE_IMAGEN_1024,
        text=TextConfig(max_bytes=512, stride=4, width=1024, depth=8),
        diffusion=DiffusionConfig(schedule="linear", prediction="eps"),
        super_resolution=SuperResolutionConfig(
            low_resolution=256,
            crop=256,
            shrinking=("area", "linear", "cubic", "lanczos3"),
            blur_width=(0.2, 1.2),
        ),
        sampler=GuidedSamplerConfig(
            solver="ddpm", num_steps=32, eta=1.0, text_weight=8.0, thresholding="dynamic", aug_level=0.1
        ),
    ),
    data=TriplesConfig(batch_size=2048, num_neighbours=0, threads=16),
    train=TrainConfig(
        num_steps=200_000,
        learning_rate=1e-4,
        warmup_steps=10_000,
        decay="constant",
        clip_norm=None,
        beta2=0.999,
        ema_decay=0.9999,
        checkpoint_every=2_000,
        sample_every=0,
    ),
)
