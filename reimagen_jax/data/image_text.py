"""What sources yield: an image with its caption, or the reason why there is none."""

from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class ImageText:
    """An image with its caption."""

    key: str
    """Names the record, uniquely within its source."""
    image: bytes
    """Encoded: PNG, JPEG or WebP."""
    text: str
    attributes: dict[str, Any] = field(default_factory=dict)
    """Whatever else the source tells (JSON types)."""
    digest: str = field(default="", compare=False)
    """Checksum of the pixels as they came (`images.digest`); `write_records` fills it in where it is empty."""
    mended: str = field(default="", compare=False)
    """What was amiss with the image as it came, though it is shown (`images.load`); not stored."""


@dataclass(frozen=True)
class Problem:
    """An item of a source that does not become a record."""

    name: str
    reason: str
    """One of a few fixed phrases, for counting."""
    detail: str

    def __str__(self) -> str:
        return f"{self.name}: {self.reason}: {self.detail}"
