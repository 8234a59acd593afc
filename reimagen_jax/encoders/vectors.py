"""Encoders of whole texts and images into vectors of one space: the one signature, and how their folders are opened."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, runtime_checkable

import numpy as np

from reimagen_jax.data.manifest import NAME
from reimagen_jax.errors import UserError
from reimagen_jax.files import read_json

if TYPE_CHECKING:
    from jax.sharding import Mesh  # which a search by words does without


@runtime_checkable
class VectorEncoder(Protocol):
    """Texts and images as vectors whose cosine tells how well they go together."""

    @property
    def width(self) -> int:
        """D: values of a vector."""
        ...

    @property
    def fingerprint(self) -> str:
        """Checksum of all that the vectors depend on: vectors of equal fingerprints may be compared."""
        ...

    @property
    def resolution(self) -> int | None:
        """Side of the images that it reads; None where it takes any, or none at all."""
        ...

    def texts(self, texts: Sequence[str]) -> np.ndarray:
        """Unit vectors float32 [N, D]."""
        ...

    def images(self, images: np.ndarray) -> np.ndarray:
        """Unit vectors float32 [N, D] of uint8 [N, R, R, 3]."""
        ...


def open_encoder(folder: str | Path, mesh: "Mesh | None" = None) -> VectorEncoder:
    """Opens an encoder: what `reimagen encode-train` wrote, or a CLIP as Hugging Face publishes it, which splits its
    batches over the devices of `mesh`.

    Raises `UserError` when the folder holds neither, or is damaged.
    """
    folder = Path(folder)
    if (folder / NAME).is_file():
        from reimagen_jax.encoders import dual

        return dual.open(folder)
    if (folder / "config.json").is_file():
        found = read_json(folder / "config.json", "the settings of a CLIP")
        kind = found.get("model_type", "") if isinstance(found, dict) else ""
        if str(kind).startswith("clip"):
            from reimagen_jax.encoders import clip

            return clip.open(folder, mesh=mesh)
        raise UserError(f"{folder} holds a {kind or 'model of no known kind'}, not an encoder of texts and images")
    raise UserError(
        f"{folder} holds no encoder of texts and images: give a folder written by `reimagen encode-train`, "
        "or one with CLIP's weights (config.json, model.safetensors, tokenizer.json)"
    )
