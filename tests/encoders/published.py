"""Small T5s and CLIPs in folders as they are published, with random weights; neither PyTorch nor transformers."""

import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict
from safetensors.numpy import save_file

from reimagen_jax.encoders import clip, t5
from tests.encoders.texts import train_bpe, train_sentencepiece

T5 = {"model_type": "t5", "feed_forward_proj": "gated-gelu", "vocab_size": 1024}
T5 |= {"d_model": 24, "d_kv": 8, "num_heads": 4, "d_ff": 32, "num_layers": 2}

CLIP_TEXT = {"hidden_size": 16, "num_attention_heads": 2, "intermediate_size": 24, "num_hidden_layers": 2}
CLIP_TEXT |= {"vocab_size": 2048, "max_position_embeddings": 40}
CLIP_IMAGE = {"hidden_size": 24, "num_attention_heads": 3, "intermediate_size": 32, "num_hidden_layers": 2}
CLIP_IMAGE |= {"image_size": 16, "patch_size": 8}
CLIP = {"model_type": "clip", "projection_dim": 12, "text_config": CLIP_TEXT, "vision_config": CLIP_IMAGE}


def write_t5(folder: Path, seed: int = 0, dtype: type = np.float32, settings: dict = T5) -> Path:
    """Config, weights and tokenizer."""
    config = t5.t5_config(settings)
    _write(folder, settings, t5.abstract_params(config, "float32"), lambda path: t5.source(path, config), seed, dtype)
    train_sentencepiece(folder)
    return folder


def write_clip(folder: Path, seed: int = 0, dtype: type = np.float32, settings: dict = CLIP) -> Path:
    """Config, weights and tokenizer."""
    network = clip.Clip(clip.clip_config(settings))
    expected = jax.eval_shape(lambda key: network.init(key, method="everything"), jax.random.key(0))["params"]
    _write(folder, settings, expected, clip.source, seed, dtype)
    train_bpe(folder)
    return folder


def _write(folder, settings, expected, source_of, seed, dtype):
    folder.mkdir(parents=True, exist_ok=True)
    rng, tensors = np.random.default_rng(seed), {}
    for path, leaf in flatten_dict(expected, sep="/").items():
        source, array = source_of(path), rng.normal(size=leaf.shape)
        if path.endswith("kernel"):
            array /= np.prod(leaf.shape[:-1]) ** 0.5
        axes = source.axes or tuple(range(array.ndim))
        tensors[source.name] = np.ascontiguousarray(array.transpose(np.argsort(axes))).astype(jnp.dtype(dtype))
    save_file(tensors, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(settings), encoding="utf-8")
