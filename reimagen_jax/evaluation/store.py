"""What was drawn and rated, on disk: each thing under a checksum of all that it depends on, written as it is done.

So whoever was stopped goes on where it was, and what is asked anew beside what is there is all that is drawn.
"""

import hashlib
import json
import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from reimagen_jax.errors import UserError
from reimagen_jax.files import read_json, write_json


def checksum(settings: Any) -> str:
    """Of JSON types (hex)."""
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:16]


def save_image(image: UInt8[np.ndarray, "h w 3"], path: Path) -> None:
    """Writes a PNG file, whole or not at all."""
    partial = path.with_name(f".{path.name}.partial")
    Image.fromarray(image).save(partial, format="PNG")
    partial.replace(path)


def load_image(path: Path) -> UInt8[np.ndarray, "h w 3"]:
    """Reads it. Raises `UserError` where it is damaged."""
    try:
        with Image.open(path) as image:
            return np.asarray(image.convert("RGB"))
    except (OSError, SyntaxError, ValueError) as error:  # what Pillow raises of damaged PNG files
        raise UserError(f"{path} is damaged ({error}): delete it to draw it again") from error


@dataclass(frozen=True)
class Images:
    """Images by their checksums, and what is noted beside them: in a folder, or in memory where there is none."""

    folder: Path | None = None
    _held: dict[str, Any] = field(default_factory=dict, repr=False)

    def __contains__(self, key: str) -> bool:
        return key in self._held if self.folder is None else self._place(key).is_file()

    def __getitem__(self, key: str) -> UInt8[np.ndarray, "h w 3"]:
        return self._held[key] if self.folder is None else load_image(self._place(key))

    def __setitem__(self, key: str, image: UInt8[np.ndarray, "h w 3"]) -> None:
        if self.folder is None:
            self._held[key] = image
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        save_image(image, self._place(key))

    def clear(self) -> None:
        """Forgets all of it."""
        self._held.clear()
        if self.folder is not None:
            shutil.rmtree(self.folder, ignore_errors=True)

    def note(self, key: str, facts: Any) -> None:
        """Writes JSON types down."""
        if self.folder is None:
            self._held[key] = facts
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        write_json(self.folder / f"{key}.json", facts)

    def noted(self, key: str) -> Any:
        """What was written down; None where nothing was."""
        if self.folder is None:
            return self._held.get(key)
        path = self.folder / f"{key}.json"
        return read_json(path, "what was noted of images") if path.is_file() else None

    def _place(self, key: str) -> Path:
        return self.folder / f"{key}.png"
