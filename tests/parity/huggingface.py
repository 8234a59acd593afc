"""T5 and CLIP as transformers builds them, at reduced width, every parameter drawn at random."""

from pathlib import Path
from typing import Any

import numpy as np
import torch


def randomise(model: torch.nn.Module, seed: int) -> torch.nn.Module:
    """Every parameter random: none is zero or one, so none can be forgotten unseen."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            if parameter.ndim > 1 and "embedding" not in name and "shared" not in name and "bias" not in name:
                parameter.copy_(noise / parameter[0].numel() ** 0.5)
            elif parameter.ndim > 1:
                parameter.copy_(noise)
            else:  # norms' scales stay near 1, biases near 0
                is_scale = "norm" in name and name.endswith("weight")
                parameter.copy_(0.2 * noise + (1.0 if is_scale else 0.0))
    return model.eval()


def hidden_states(model: torch.nn.Module, **inputs: np.ndarray) -> tuple[list[np.ndarray], Any]:
    """Their states after the embedding and after every block, and whatever else they return."""
    with torch.no_grad():
        out = model(**{name: torch.tensor(value) for name, value in inputs.items()}, output_hidden_states=True)
    return [state.numpy() for state in out.hidden_states], out


def save(model: torch.nn.Module, folder: Path, max_shard_size: str = "5GB") -> Path:
    """As published: `config.json` and safetensors, in several files when they are larger than `max_shard_size`."""
    model.save_pretrained(folder, max_shard_size=max_shard_size)
    return folder


def relative_error(ours: np.ndarray, theirs: np.ndarray) -> float:
    """|ours - theirs| / |theirs|, of arrays of one shape."""
    ours, theirs = np.asarray(ours, np.float64), np.asarray(theirs, np.float64)
    assert ours.shape == theirs.shape
    return float(np.linalg.norm(ours - theirs) / np.linalg.norm(theirs))
