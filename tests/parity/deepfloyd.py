"""DeepFloyd IF's networks at reduced width as diffusers builds them, every parameter drawn at random."""

from typing import Any

import numpy as np
import torch
from diffusers import UNet2DConditionModel

STAGE_1 = {
    "sample_size": 16,
    "in_channels": 3,
    "out_channels": 6,
    "block_out_channels": (64, 128),
    "layers_per_block": 2,
    "down_block_types": ("ResnetDownsampleBlock2D", "SimpleCrossAttnDownBlock2D"),
    "mid_block_type": "UNetMidBlock2DSimpleCrossAttn",
    "up_block_types": ("SimpleCrossAttnUpBlock2D", "ResnetUpsampleBlock2D"),
    "attention_head_dim": 16,
    "cross_attention_dim": 96,
    "encoder_hid_dim": 48,
    "addition_embed_type": "text",
    "addition_embed_type_num_heads": 3,
    "cross_attention_norm": "group_norm",
    "resnet_time_scale_shift": "scale_shift",
    "act_fn": "gelu",
}
"""IF-I-XL-v1.0 (there 4 levels of width 704 x (1, 2, 3, 4), 3 blocks each, heads of 64, text of 4096)."""

STAGE_2 = STAGE_1 | {
    "in_channels": 6,
    "layers_per_block": (1, 2),
    "only_cross_attention": True,
    "class_embed_type": "timestep",
    "time_embedding_act_fn": "gelu",
    "time_embedding_dim": 128,
    "resnet_skip_time_act": True,
    "resnet_out_scale_factor": 1 / 0.7071,
    "mid_block_scale_factor": 1 / 0.7071,
}
"""IF-II-L-v1.0, with what diffusers' converter of IF's second stage sets."""


def random_model(config: dict[str, Any], seed: int) -> UNet2DConditionModel:
    """The network with every parameter random: none is zero or one, so none can be forgotten unseen."""
    model = UNet2DConditionModel(**config).eval()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            if parameter.ndim > 1 and "positional" not in name:
                parameter.copy_(noise / parameter[0].numel() ** 0.5)
            else:  # norms' scales stay near 1, biases near 0
                is_scale = "norm" in name and name.endswith("weight")
                parameter.copy_(0.2 * noise + (1.0 if is_scale else 0.0))
    return model


def numpy_state(model: UNet2DConditionModel) -> dict[str, np.ndarray]:
    """The state dict as arrays."""
    return {name: tensor.numpy() for name, tensor in model.state_dict().items()}


def predict(
    model: UNet2DConditionModel,
    x_BHWC: np.ndarray,
    timestep_B: np.ndarray,
    text_BLD: np.ndarray,
    level_B: np.ndarray | None = None,
) -> np.ndarray:
    """Their forward pass in our layout; `timestep_B` and `level_B` are integers 0 ... 999."""
    with torch.no_grad():
        out = model(
            torch.tensor(x_BHWC.transpose(0, 3, 1, 2)),
            torch.tensor(timestep_B),
            torch.tensor(text_BLD),
            class_labels=None if level_B is None else torch.tensor(level_B),
        ).sample
    return out.numpy().transpose(0, 2, 3, 1)
