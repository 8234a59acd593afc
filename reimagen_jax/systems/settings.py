"""Settings that several systems have alike."""

from dataclasses import dataclass, field
from typing import Annotated, ClassVar, Literal

from annotated_types import Lt

from reimagen_jax.checked import Share
from reimagen_jax.config import FREE, LOCAL, DataConfig

HandedOn = Literal["bytes", "floats"]
"""Images as they would be written, or floats in [-1, 1] that were never rounded."""


@dataclass(frozen=True)
class RecordsConfig(DataConfig):
    """Records: pictures; whether captions are read, the system says."""

    common: ClassVar[tuple[str, ...]] = ("records", "validation_share")

    records: str = field(default="", metadata=FREE | LOCAL)
    """Folder written by `reimagen prepare`. It may move; its content may not change within a run."""
    enlarge: bool = field(default=False, metadata=FREE)
    """Records may be smaller than what is drawn, and are enlarged; else they are refused."""
    validation_share: Annotated[Share, Lt(1)] = 0.0
    """Share of the records that is held out, drawn by `seed`; the training is watched by it."""
