"""Networks that unCLIP's experiments start from, by size; the paper's by its Table 3.

from the paper   widths, blocks, heads, where pixels attend, contexts, steps and schedules
from GLIDE, ADM  all else of the U-Nets: scale-shift norms, residual blocks that halve and double, 1,280 (2,048, 768)
                 channels of the embedding of the time; the width of the decoder's text encoder
ours             precision, rematerialisation; that the small ones fold 2 x 2 pixels
"""

from reimagen_jax.diffusion.settings import DiffusionConfig
from reimagen_jax.encoders.settings import ImageTowerConfig, JointConfig, TextTowerConfig
from reimagen_jax.nets.settings import Level, Tower, UNetConfig
from reimagen_jax.systems.unclip.settings import TOKENS, DecoderTextConfig

CLIP_32 = JointConfig(text=TextTowerConfig(Tower(depth=2), max_tokens=84))
"""1.2M parameters for 32 x 32 images and captions of up to 83 bytes."""

CLIP_H16 = JointConfig(
    width=1024,
    text=TextTowerConfig(Tower(1024, 24, 16, 4096), vocabulary=49408, max_tokens=256),
    image=ImageTowerConfig(Tower(1280, 32, 16, 5120), resolution=256, patch=16),
    tokens="published",
    end=49407,
    dtype="bfloat16",
)
"""The paper's CLIP, ViT-H/16 at 256 pixels, with texts of 256 tokens; frozen here. 987M parameters."""

PRIOR_32 = Tower(192, 4, 6, 768, "gelu")
"""1.9M parameters; trains on a CPU."""

PRIOR_1B = Tower(2048, 24, 32, 8192, "gelu")
"""The paper's diffusion prior: 1.2B parameters (the paper: 1B, which karlo's of 20 blocks has)."""

DECODER_32 = UNetConfig(
    levels=(Level(48, 1), Level(96, 1, self_attention=True), Level(160, 1, self_attention=True)),
    patch=2,
    head_width=32,
    cond_width=192,
    **TOKENS,
)
"""5.9M parameters for 32 x 32 images, as wide as the shipped Re-Imagen's network."""

DECODER_64 = UNetConfig(
    levels=(
        Level(512, 3),
        Level(1024, 3, self_attention=True),
        Level(1536, 3, self_attention=True),
        Level(2048, 3, self_attention=True),
    ),
    head_width=64,
    groups=32,
    cond_width=2048,
    time_features=512,
    dtype="bfloat16",
    remat="blocks",
    **TOKENS,
)
"""The paper's decoder, GLIDE's network: 2.24B parameters; with its text encoder 3.56B (the paper: 3.5B)."""

DECODER_TEXT = DecoderTextConfig(2048, 24, 32, 8192, "gelu")
"""That text encoder: 1.3B parameters."""

UP_64 = UNetConfig(
    levels=(Level(32, 1), Level(64, 1), Level(96, 1), Level(128, 1)),
    patch=2,
    cond_width=192,
    aug_level=False,
    text_pooling="none",
)
"""For 32 -> 64: 4.4M parameters."""

UP_256 = UNetConfig(
    levels=(Level(320, 3), Level(640, 3), Level(960, 3), Level(1280, 3)),
    groups=32,
    cond_width=1280,
    time_features=320,
    aug_level=False,
    text_pooling="none",
    dtype="bfloat16",
    remat="blocks",
)
"""The paper's 64 -> 256: 730M parameters (the paper: 700M)."""

UP_1024 = UNetConfig(
    levels=(Level(192, 2), Level(192, 2), Level(384, 2), Level(384, 2), Level(768, 2), Level(768, 2)),
    groups=32,
    cond_width=768,
    time_features=192,
    aug_level=False,
    text_pooling="none",
    dtype="bfloat16",
    remat="blocks",
)
"""The paper's 256 -> 1024: 282M parameters (the paper: 300M)."""

CHAIN = {"schedule": "cosine_chain", "logsnr_min": -20.0, "logsnr_max": 30.0}
"""1,000 steps, cosine: of the paper's prior, decoder and first upsampler."""

PRIOR_PROCESS = DiffusionConfig(prediction="x0", **CHAIN)
DECODER_PROCESS = DiffusionConfig(prediction="eps", learned_variance=True, **CHAIN)
UP_256_PROCESS = DiffusionConfig(prediction="eps", **CHAIN)
UP_1024_PROCESS = DiffusionConfig(schedule="linear", prediction="eps")
