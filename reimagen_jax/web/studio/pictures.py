"""Pictures that were sent to the page: kept for a while, and called by keys."""

import hashlib
import io
import re
from collections import OrderedDict
from typing import Any, NamedTuple

import numpy as np
import PIL.Image

from reimagen_jax.data import images
from reimagen_jax.errors import require

PICTURES = 64
"""Pictures that were sent here, and are kept."""
SHOWN = 256
"""Pixels at which a picture is shown at most."""


class Sent(NamedTuple):
    """A picture that was sent here."""

    data: bytes
    image: np.ndarray
    """uint8 [S, S, 3], its central square."""
    name: str
    """As the browser told it; no file is opened by it."""


class Pictures:
    """Those that were sent, the last so many."""

    def __init__(self) -> None:
        self._sent: OrderedDict[str, Sent] = OrderedDict()

    def __len__(self) -> int:
        return len(self._sent)

    def __getitem__(self, key: str) -> Sent:
        """Raises `UserError` where it is not kept any more."""
        require(key in self._sent, "a picture is not here any more: give it again")
        return self._sent[key]

    def take(self, data: bytes, image: np.ndarray, name: str) -> dict[str, Any]:
        """Keeps a picture, and tells what it is called here."""
        key = hashlib.sha256(data).hexdigest()[:24]
        name = re.sub(r"[^\w.-]+", "-", name)[-60:].strip(".-") or "picture"
        taken = {"mask.png", *(other.name for other_key, other in self._sent.items() if other_key != key)}
        if name in taken:
            name = f"{key[:6]}-{name}"
        self._sent[key] = Sent(data, image, name)
        self._sent.move_to_end(key)
        while len(self._sent) > PICTURES:
            self._sent.popitem(last=False)
        return {"picture": key, "url": f"/api/pictures/{key}", "side": len(image), "name": name}

    def shown(self, key: str) -> bytes:
        """One that was sent, as PNG, of at most `SHOWN` pixels."""
        square = PIL.Image.fromarray(self[key].image)
        return as_png(np.asarray(images.square(square, min(SHOWN, square.width))))


def as_png(image: np.ndarray) -> bytes:
    """The file of an image."""
    buffer = io.BytesIO()
    PIL.Image.fromarray(image).save(buffer, "PNG")
    return buffer.getvalue()
