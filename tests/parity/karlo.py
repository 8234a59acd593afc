"""karlo at reduced width as diffusers builds it, every parameter drawn at random."""

from pathlib import Path
from typing import Any

import torch
from diffusers import (
    PriorTransformer,
    UnCLIPImageVariationPipeline,
    UnCLIPPipeline,
    UnCLIPScheduler,
    UNet2DConditionModel,
    UNet2DModel,
)
from diffusers.pipelines.deprecated.unclip.text_proj import UnCLIPTextProjModel
from transformers import (
    CLIPTextConfig,
    CLIPTextModelWithProjection,
    CLIPTokenizer,
    CLIPVisionConfig,
    CLIPVisionModelWithProjection,
)
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from tests.encoders.texts import train_bpe
from tests.parity.huggingface import randomise

L, D, W, TIME = 11, 32, 48, 128
"""Of the texts, of CLIP, of the decoder's tokens, of its embedding of the time (there 77, 768, 1536 and 1280)."""
TOKENS, SIDE, LARGE = 4, 8, 32
"""Of an embedding; sides of the images of decoder and super-resolution (there 4, 64 and 256)."""

PRIOR = {"num_attention_heads": 2, "attention_head_dim": 12, "num_layers": 2}
PRIOR |= {"embedding_dim": D, "num_embeddings": L}
"""There 32 heads of 64, 20 layers."""
NETWORK = {"block_out_channels": (32, 64), "layers_per_block": 1}
"""There 4 levels of width 320 x (1, 2, 3, 4), 3 blocks each."""
DECODER = NETWORK | {
    "sample_size": SIDE,
    "in_channels": 3,
    "out_channels": 6,
    "down_block_types": ("ResnetDownsampleBlock2D", "SimpleCrossAttnDownBlock2D"),
    "mid_block_type": "UNetMidBlock2DSimpleCrossAttn",
    "up_block_types": ("SimpleCrossAttnUpBlock2D", "ResnetUpsampleBlock2D"),
    "attention_head_dim": 16,
    "cross_attention_dim": W,
    "resnet_time_scale_shift": "scale_shift",
    "class_embed_type": "identity",
}
SUPER_RES = NETWORK | {
    "sample_size": LARGE,
    "in_channels": 6,
    "out_channels": 3,
    "down_block_types": ("ResnetDownsampleBlock2D",) * 2,
    "up_block_types": ("ResnetUpsampleBlock2D",) * 2,
    "add_attention": False,
}
TEXT_PROJ = {"clip_extra_context_tokens": TOKENS, "clip_embeddings_dim": D}
TEXT_PROJ |= {"time_embed_dim": TIME, "cross_attention_dim": W}
SCHEDULERS = {
    "prior_scheduler": {"prediction_type": "sample", "variance_type": "fixed_small_log", "clip_sample_range": 2.0},
    "decoder_scheduler": {"prediction_type": "epsilon", "variance_type": "learned_range"},
    "super_res_scheduler": {"prediction_type": "epsilon", "variance_type": "fixed_small_log"},
}
"""There the prior's range is 5, which random networks do not reach."""
PUBLISHED_NETWORK = {"block_out_channels": (320, 640, 960, 1280), "layers_per_block": 3}
PUBLISHED_DECODER = DECODER | PUBLISHED_NETWORK | {"sample_size": 64, "attention_head_dim": 64}
PUBLISHED_DECODER |= {"down_block_types": (DECODER["down_block_types"][0], *DECODER["down_block_types"][1:] * 3)}
PUBLISHED_DECODER |= {"up_block_types": (*DECODER["up_block_types"][:1] * 3, DECODER["up_block_types"][1])}
PUBLISHED_DECODER |= {"cross_attention_dim": 1536}
PUBLISHED_SUPER_RES = SUPER_RES | PUBLISHED_NETWORK | {"sample_size": 256}
PUBLISHED_SUPER_RES |= {name: SUPER_RES[name] * 2 for name in ("down_block_types", "up_block_types")}
PUBLISHED_TEXT_PROJ = {"clip_embeddings_dim": 768, "time_embed_dim": 1280, "cross_attention_dim": 1536}
"""Of the sizes published; the prior's are diffusers' defaults."""


def random_parts(folder: Path) -> dict[str, Any]:
    """All that karlo's two pipelines are made of; `folder` takes the tokenizer's words."""
    train_bpe(folder, 320)
    words = CLIPTokenizer(vocab=str(folder / "vocab.json"), merges=str(folder / "merges.txt"), model_max_length=L)
    end = words.eos_token_id
    tower = {"hidden_size": D, "intermediate_size": 40, "num_hidden_layers": 1, "num_attention_heads": 2}
    text = CLIPTextConfig(
        vocab_size=len(words),
        max_position_embeddings=L,
        projection_dim=D,
        eos_token_id=end,
        pad_token_id=end,
        bos_token_id=words.bos_token_id,
        **tower,
    )
    image = CLIPVisionConfig(image_size=SIDE, patch_size=4, projection_dim=D, **tower)
    networks = {
        "text_encoder": CLIPTextModelWithProjection(text),
        "image_encoder": CLIPVisionModelWithProjection(image),
        "prior": PriorTransformer(**PRIOR),
        "text_proj": UnCLIPTextProjModel(**TEXT_PROJ),
        "decoder": UNet2DConditionModel(**DECODER),
        "super_res_first": UNet2DModel(**SUPER_RES),
        "super_res_last": UNet2DModel(**SUPER_RES),
    }
    parts = {name: randomise(network, seed) for seed, (name, network) in enumerate(networks.items())}
    with torch.no_grad():
        for network in parts.values():
            for name, module in network.named_modules():
                if isinstance(module, torch.nn.Linear) and "embedding" in name:  # a table's name, but a matrix
                    module.weight.div_(module.in_features**0.5)
        parts["prior"].clip_std.abs_().add_(0.5)
    processor = CLIPImageProcessorPil(size={"shortest_edge": SIDE}, crop_size={"height": SIDE, "width": SIDE})
    parts |= {name: exact(UnCLIPScheduler(**settings)) for name, settings in SCHEDULERS.items()}
    return parts | {"tokenizer": words, "feature_extractor": processor}


def exact(scheduler: UnCLIPScheduler) -> UnCLIPScheduler:
    """The scheduler with its chain in double precision, as karlo's own has it.

    In single precision, 1 - alpha^2 of the first step is 0.05 % off, and so is the image that the last step ends at.
    """
    T = scheduler.config.num_train_timesteps
    signal = torch.cos((torch.arange(T + 1, dtype=torch.float64) / T + 0.008) / 1.008 * torch.pi / 2) ** 2
    scheduler.betas = torch.clamp(1.0 - signal[1:] / signal[:-1], max=0.999)
    scheduler.alphas = 1.0 - scheduler.betas
    scheduler.alphas_cumprod = torch.cumprod(scheduler.alphas, dim=0)
    return scheduler


def pipelines(parts: dict[str, Any]) -> tuple[UnCLIPPipeline, UnCLIPImageVariationPipeline]:
    """Text to image, and variations of an image."""
    without = {"image_encoder", "feature_extractor"}, {"prior", "prior_scheduler"}
    made = []
    for kind, missing in zip((UnCLIPPipeline, UnCLIPImageVariationPipeline), without, strict=True):
        made.append(kind(**{name: part for name, part in parts.items() if name not in missing}))
        made[-1].set_progress_bar_config(disable=True)
    return tuple(made)
