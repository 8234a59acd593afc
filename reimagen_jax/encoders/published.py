"""The published text encoder that an experiment names: opened by what its folder holds, checked against the experiment.

T5 and CLIP's text towers have one signature (frozen.py). What happens to a text before it reaches them, and what of
their answer a network is told, is said in text_embeddings.py. They work in the host's memory, on its CPU, unless told
otherwise: T5-XXL alone would fill a graphics card, and a few prompts take a CPU seconds.
"""

from pathlib import Path
from typing import Literal

from reimagen_jax.encoders import clip, t5
from reimagen_jax.encoders.frozen import TextEncoder, read_settings
from reimagen_jax.encoders.settings import FrozenTextConfig
from reimagen_jax.errors import UserError, require
from reimagen_jax.nets.transformer import Dtype
from reimagen_jax.sharding import host_mesh

Device = Literal["host", "accelerator"]
"""On the host's CPU, or on the first device, whatever that is."""
OPENERS = {"t5": t5.open, "clip": clip.open_text, "clip_text_model": clip.open_text}
"""By the `model_type` that a folder's config.json states."""


def open_published(
    folder: str | Path, *, dtype: Dtype, max_tokens: int, batch_size: int = 32, device: Device = "host"
) -> TextEncoder:
    """The encoder in a folder, a T5 or a CLIP as Hugging Face stores them.

    Raises `UserError` when the folder is missing or holds another network.
    """
    folder = Path(folder)
    require(folder.is_dir(), f"text encoder {folder} not found: name the folder of a T5 or a CLIP (--text-encoder DIR)")
    kind = read_settings(folder).get("model_type")
    if not isinstance(kind, str) or kind not in OPENERS:
        raise UserError(f"{folder} holds a network of model_type {kind!r}: {', '.join(OPENERS)} are read")
    mesh = host_mesh() if device == "host" else None
    return OPENERS[kind](folder, dtype=dtype, max_tokens=max_tokens, batch_size=batch_size, mesh=mesh)


def open_text_encoder(settings: FrozenTextConfig, batch_size: int = 32, device: Device = "host") -> TextEncoder:
    """The encoder that a model was trained with, in the folder `settings.encoder`.

    Raises `UserError` when none is named or found there, and when it is another one.
    """
    require(
        bool(settings.encoder), "no text encoder is named: pass --text-encoder DIR, the one that the model goes with"
    )
    encoder = open_published(
        settings.encoder, dtype=settings.dtype, max_tokens=settings.max_tokens, batch_size=batch_size, device=device
    )
    require(
        encoder.width == settings.width,
        f"text encoder {settings.encoder} has width {encoder.width}, but text.frozen.width is {settings.width}",
    )
    require(
        settings.fingerprint in ("", encoder.fingerprint),
        f"{settings.encoder} is not the text encoder that the model was trained with (fingerprint "
        f"{encoder.fingerprint[:16]}, not {settings.fingerprint[:16]}): weights, tokenizer and dtype matter",
    )
    return encoder
